"""What every command does alike: arguments, logs, progress, exit codes."""

from __future__ import annotations

import argparse
import logging
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from .config import Config, load_config
from .errors import CatalogError, ClusterError, DiskFullError, GelosError, ReadError
from .layout import Layout
from .retry import without_signature
from .status import AoiState, AoiStatus

__all__ = [
    "EXIT_FAILED",
    "EXIT_INTERRUPTED",
    "EXIT_USAGE",
    "config_parser",
    "draw_aois",
    "print_table",
    "run_verb",
]

EXIT_USAGE = 2
EXIT_FAILED = 3
EXIT_INTERRUPTED = 130

_LOG_FORMAT = "%(asctime)s %(levelname)-7s %(message)s"
_SHOWN_ROWS = 40
_WORTH_ANOTHER_TRY = (CatalogError, ClusterError, ReadError, DiskFullError)
"""Errors that the same command may not meet the next time; the others want another command."""
_PACKAGES = ("cube", "chipping", "release")


def config_parser(description: str) -> argparse.ArgumentParser:
    """Return a parser with the arguments that all commands on a config share."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("-c", "--config", required=True, help="the dataset version's YAML file")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a config key, such as chips.min_purity=0.9 (repeatable); "
        "KEY= stands for the default, and of a sensor for doing without it",
    )
    return parser


def run_verb(
    parser: argparse.ArgumentParser,
    verb: Callable[[Config, argparse.Namespace], int],
    argv: list[str] | None = None,
) -> int:
    """Parse, load the config, call the verb, and turn what it meets into one line and an exit code.

    Returns
    -------
    int
        0 done, 2 config or usage, 3 something failed and can be retried, 130 interrupted and resumable.
    """
    arguments = parser.parse_args(argv)
    try:
        config = load_config(arguments.config, arguments.set)
        with _logging(config):
            return verb(config, arguments)
    except GelosError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_FAILED if isinstance(error, _WORTH_ANOTHER_TRY) else EXIT_USAGE
    except KeyboardInterrupt:
        print("interrupted: what is done is kept; run the same command again to go on", file=sys.stderr)
        return EXIT_INTERRUPTED


class _OurLines(logging.Filter):
    """Our own lines, and other libraries' warnings; no token in any of them, whoever wrote it."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = without_signature(record.getMessage()), ()
        return record.levelno >= logging.WARNING or record.name.split(".")[0] in _PACKAGES


class _LogFile(logging.FileHandler):
    """A log file that a full disk cuts short: what is worse is said elsewhere, and no log may end a run."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  the library's name
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)

    def close(self) -> None:
        with suppress(OSError):
            super().close()


@contextmanager
def _logging(config: Config) -> Iterator[None]:
    """Log warnings to stderr, and everything to the working folder's run.log if ``log_errors`` is set."""
    root = logging.getLogger()
    root.setLevel(logging.INFO)
    console = logging.StreamHandler()
    console.setLevel(logging.ERROR)
    handlers: list[logging.Handler] = [console]
    layout = Layout.of(config)
    if config.log_errors and layout.root.is_local:
        layout.make(config)
        file = _LogFile(layout.root.path / "run.log", encoding="utf-8")
        file.setFormatter(logging.Formatter(_LOG_FORMAT))
        handlers.append(file)
    for handler in handlers:
        handler.addFilter(_OurLines())
        root.addHandler(handler)
    try:
        yield
    finally:
        for handler in handlers:
            root.removeHandler(handler)
            handler.close()


@dataclass
class _AoiBars:
    """A bar for all AOIs and one for each that is being built; plain lines where there is no terminal."""

    console: Console
    bars: Progress
    total: int
    tasks: dict[int, TaskID] = field(default_factory=dict)
    ended: set[int] = field(default_factory=set)

    def __call__(self, index: int, row: AoiStatus) -> None:
        if row.status is AoiState.BUILDING:
            if index not in self.tasks and self.console.is_terminal:
                self.tasks[index] = self.bars.add_task(f"AOI {index:06}", total=1.0)
            if index in self.tasks:
                self.bars.update(self.tasks[index], completed=row.done)
            return
        if index in self.tasks:
            self.bars.remove_task(self.tasks.pop(index))
        self.ended.add(index)
        self.bars.update(TaskID(0), completed=len(self.ended))
        text = f"[{len(self.ended)}/{self.total}] AOI {index:06} {row.status}" + (
            f": {row.reason}" if row.reason else ""
        )
        self.console.print(text, highlight=False, soft_wrap=True, markup=False)


@contextmanager
def draw_aois(total: int, title: str) -> Iterator[Callable[[int, AoiStatus], None]]:
    """Draw the progress of AOIs on stderr while the block runs."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.2f}/{task.total:.0f}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        bars.add_task(title, total=total)
        yield _AoiBars(console, bars, total)


@contextmanager
def draw_steps() -> Iterator[Callable[[str, int, int], None]]:
    """Draw the progress of named steps on stderr while the block runs; nothing where there is no terminal."""
    console = Console(stderr=True)
    tasks: dict[str, TaskID] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:

        def report(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what, total=total)
            bars.update(tasks[what], completed=done, total=total)

        yield report


def print_table(title: str, columns: list[str], rows: list[list[Any]]) -> None:
    """Print a table on stdout; wide cells are wrapped, long tables say what they leave out."""
    table = Table(*columns, title=title, title_justify="left")
    for row in rows[:_SHOWN_ROWS]:
        table.add_row(*(str(cell) for cell in row))
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table)
    if len(rows) > _SHOWN_ROWS:
        console.print(f"and {len(rows) - _SHOWN_ROWS} more")


def summarize_states(rows: Mapping[int, AoiStatus]) -> str:
    """Return the count of AOIs by state, in one line."""
    counts = Counter(row.status for row in rows.values())
    return ", ".join(f"{counts[state]} {state}" for state in AoiState if counts[state])
