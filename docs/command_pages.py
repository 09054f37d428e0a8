"""A page for each command, from its help: Sphinx calls this before it reads the pages."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import click

from release.cli import COMMANDS


def write_command_pages(folder: Path) -> None:
    """Write ``{command}.md`` for each command; what is there already is replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, place in COMMANDS.items():
        module, _, function = place.partition(":")
        page = "\n".join(command_page(name, getattr(import_module(module), function)))
        path = folder / f"{name}.md"
        if not path.exists() or path.read_text(encoding="utf-8") != page:  # Sphinx reads what is newer
            path.write_text(page, encoding="utf-8")


def command_page(name: str, command: click.Command) -> Iterator[str]:
    """Yield the lines of a command's page, in Markdown."""
    usage = " ".join(command.collect_usage_pieces(click.Context(command)))
    yield from (f"# gelos-lc {name}", "", *_text(command.help or ""), "")
    yield from ("```text", f"gelos-lc {name} {usage}", "```", "")
    options = [one for one in command.params if isinstance(one, click.Option)]
    rows = [record for one in options if (record := one.get_help_record(click.Context(command)))]
    if rows:
        yield from ("| option | what it does |", "| --- | --- |")
        yield from (f"| `{_in_table(option)}` | {_cell(meaning)} |" for option, meaning in rows)
        yield ""
    if examples := getattr(command, "examples", ()):
        yield from ("## Examples", "", "```bash", *examples, "```", "")


def _text(help_text: str) -> list[str]:
    """Return a help text without its indentation; files and options in it stay plain words."""
    return [line.strip().replace("<", "\\<").replace("*", "\\*") for line in help_text.splitlines()]


def _cell(text: str) -> str:
    return _in_table(" ".join(text.split())).replace("<", "\\<").replace("*", "\\*")


def _in_table(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    write_command_pages(Path(sys.argv[1]))
