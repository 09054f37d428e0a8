"""The pages of a release as jinja2 templates."""

from __future__ import annotations

from cube.html import pages


def fill_template(template: str, **values: object) -> bytes:
    """Fill in a template beside this file, see :func:`cube.html.pages.fill_template`."""
    return pages.fill_template("release", template, **values)
