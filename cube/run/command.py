"""What every command does alike: arguments, log, summary, exit codes."""

from __future__ import annotations

import argparse
import contextlib
import logging
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from importlib.metadata import version
from typing import Any

from rich.console import Console
from rich.table import Table

from cube.config.models import Config
from cube.config.reading import load_config
from cube.errors import CatalogError, ClusterError, DiskFullError, GelosError, ReadError

from .layout import Layout
from .logs import RunLog, event
from .status import AoiState, AoiStatus

__all__ = [
    "EXIT_FAILED",
    "EXIT_FAULT",
    "EXIT_INTERRUPTED",
    "EXIT_USAGE",
    "config_parser",
    "print_table",
    "run_verb",
    "summarize_states",
    "terminated_as_interrupted",
]

EXIT_FAULT = 1
EXIT_USAGE = 2
EXIT_FAILED = 3
EXIT_INTERRUPTED = 130

_LOG = logging.getLogger(__name__)
_SHOWN_ROWS = 40
_WORTH_ANOTHER_TRY = (CatalogError, ClusterError, ReadError, DiskFullError)
"""Errors that the same command may not meet the next time; the others want another command."""


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
    parser.add_argument(
        "--json-logs", action="store_true", help="stderr has a JSON object per line, and no progress bars"
    )
    return parser


def run_verb(
    name: str,
    parser: argparse.ArgumentParser,
    verb: Callable[[Config, argparse.Namespace], int],
    argv: list[str] | None = None,
) -> int:
    """Parse, load the config, call the verb, and turn what it meets into one line and an exit code.

    Parameters
    ----------
    name
        Of the command; names its log file, too.
    parser
        Of its arguments.
    verb
        What it does.
    argv
        Arguments (default: the process's).

    Returns
    -------
    int
        0 done, 1 a fault of the program, 2 config or usage, 3 something failed and can be retried,
        130 interrupted (Ctrl-C, SIGTERM) and resumable.
    """
    arguments = parser.parse_args(argv)
    began = time.monotonic()
    with RunLog(as_json=arguments.json_logs) as log, terminated_as_interrupted():
        try:
            config = load_config(arguments.config, arguments.set)
            if config.log_errors and not getattr(arguments, "dry_run", False):
                log.keep_in(Layout.of(config).logs, name)
            _say_start(name, config, arguments)
            code = verb(config, arguments)
        except GelosError as error:
            _LOG.error("%s", error, extra=event("error"))
            code = EXIT_FAILED if isinstance(error, _WORTH_ANOTHER_TRY) else EXIT_USAGE
        except KeyboardInterrupt:
            _LOG.info(
                "interrupted: what is done is kept; run the same command again to go on",
                extra=event("interrupted"),
            )
            code = EXIT_INTERRUPTED
        except Exception:  # noqa: BLE001  Python's own traceback would show tokens
            _LOG.critical("ended by a fault of the program", exc_info=True, extra=event("fault"))
            code = EXIT_FAULT
        seconds = round(time.monotonic() - began, 1)
        text = f"{name} ended with {code} after {timedelta(seconds=round(seconds))}"
        _LOG.info("%s", text, extra=event("end", exit=code, seconds=seconds))
    return code


@contextlib.contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """Let SIGTERM, with which batch systems end a job, raise KeyboardInterrupt, as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():  # which cannot hear signals
        yield
        return

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _say_start(name: str, config: Config, arguments: argparse.Namespace) -> None:
    """Note which program ran on what: a log file is read years later."""
    keys = [setting.partition("=")[0] for setting in arguments.set]  # a value may be secret
    what = f"{name} of {config.dataset.name} {config.dataset.version} with {arguments.config}"
    text = what + (f", set: {', '.join(keys)}" if keys else "")
    program, python = version("gelos-lc"), sys.version.split()[0]
    extra = event("start", config=str(arguments.config), set=keys, program=program, python=python)
    _LOG.info("%s (gelos-lc %s, Python %s)", text, program, python, extra=extra)


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
