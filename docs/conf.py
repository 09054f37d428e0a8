"""Sphinx: ``sphinx-build -W docs docs/_build``. Nothing is fetched."""

import sys
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from command_pages import write_command_pages

project = "gelos-lc"
copyright = "the gelos-lc authors"  # noqa: A001  Sphinx's name
version = release = version_of("gelos-lc")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "numpydoc"]
exclude_patterns = ["_build", "command_pages.py"]
templates_path = ["_templates"]
html_theme = "furo"
html_title = f"gelos-lc {version}"

myst_heading_anchors = 3

autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autosummary_imported_members = False
numpydoc_show_class_members = False


def _skip(*event: Any) -> bool | None:
    """Leave out aliases such as ``dict[str, bytes]``, and classes of other libraries.

    Autodoc cannot write the signatures of the first, and takes some of the second for ours.
    """
    _, _, _, member, _, _ = event
    if isinstance(member, type):
        return None if member.__module__.split(".")[0] in {"cube", "chipping", "release"} else True
    return True if hasattr(member, "__origin__") else None


def _write_commands(app: Any) -> None:
    """Make the pages of the commands from their help."""
    write_command_pages(Path(app.srcdir) / "_generated" / "commands")


def setup(app: Any) -> None:
    """Register what Sphinx asks."""
    app.connect("builder-inited", _write_commands)
    app.connect("autodoc-skip-member", _skip)
