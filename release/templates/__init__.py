"""The pages of a release as jinja2 templates, and the one way to fill them in."""

from __future__ import annotations

from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape


def fill_template(template: str, **values: object) -> bytes:
    """Fill in a template beside this file; equal values give an equal page, UTF-8.

    What goes into a ``.html.j2`` is escaped, but for drawings (:mod:`release.svg`), which the
    template calls safe. A value that the template names must be there.
    """
    return _environment().get_template(template).render(values).encode()


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("release"),
        autoescape=select_autoescape(["html.j2"]),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"cell": _cell, "thousands": "{:,}".format, "percent": "{:.1%}".format}
    return environment


def _cell(value: object) -> str:
    """Write a value so that it stays within its cell of a Markdown table."""
    return " ".join(str(value).split()).replace("|", "\\|")
