"""Pages that need no network, from jinja2 templates: one shell, one style, one way to fill them.

A page's template extends ``page.html.j2``, which gives it a head, the style ``page.css`` (dark
where the reader's system is, print, phone width, a ring around what the keyboard is at) and links
to its sections; ``macros.html.j2`` has the tables, facts, bars and sections that pages share.
"""

from __future__ import annotations

from functools import cache

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined, select_autoescape


def fill_template(package: str, template: str, **values: object) -> bytes:
    """Fill in a template of a package's folder ``templates``; equal values, equal text, UTF-8.

    What goes into a ``.html.j2`` is escaped, but for drawings (:mod:`cube.html.svg`), which the
    template calls safe. A value that the template names must be there. Filters beside jinja2's:
    ``thousands``, ``percent`` and ``cell`` (of a Markdown table).
    """
    return _environment(package).get_template(template).render(values).encode()


@cache
def _environment(package: str) -> Environment:
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader("cube.html")]),
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
