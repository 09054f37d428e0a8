"""Values as small pieces of HTML, as notebooks show them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape


def html_table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table; every text in it is escaped."""
    columns = "".join(f"<th style='text-align:left'>{escape(text)}</th>" for text in head)
    lines = "".join(
        f"<tr>{''.join(f'<td style={_CELL!r}>{escape(str(cell))}</td>' for cell in row)}</tr>" for row in rows
    )
    return f"<table><thead><tr>{columns}</tr></thead><tbody>{lines}</tbody></table>"


def html_facts(title: str, facts: Mapping[str, object]) -> str:
    """Return a title and what is known under it, in one line."""
    line = " · ".join(f"{escape(str(value))} {escape(name)}" for name, value in facts.items())
    return f"<p><b>{escape(title)}</b><br>{line}</p>"


def html_sections(sections: Mapping[str, str], opened: int = 1) -> str:
    """Return pieces of HTML that can be folded, the first `opened` of them open."""
    return "".join(
        f"<details{' open' if number < opened else ''}><summary>{escape(name)}</summary>{body}</details>"
        for number, (name, body) in enumerate(sections.items())
    )


_CELL = "text-align:left;vertical-align:top;white-space:normal"
