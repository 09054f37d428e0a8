"""Sphinx: ``sphinx-build -W docs docs/_build``. Nothing is fetched."""

from importlib.metadata import version as version_of

project = "gelos-lc"
copyright = "the gelos-lc authors"  # noqa: A001  Sphinx's name
version = release = version_of("gelos-lc")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "numpydoc"]
exclude_patterns = ["_build"]
templates_path = ["_templates"]
html_theme = "furo"
html_title = f"gelos-lc {version}"

myst_heading_anchors = 3

autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autosummary_imported_members = False
numpydoc_show_class_members = False
