"""What every command does alike: options, log, exit codes, tables.

Nothing heavy is imported before a command runs, so that its help is there at once.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import re
import shlex
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from cube.errors import CatalogError, ClusterError, DiskFullError, GelosError, ReadError, ServiceError
from cube.redaction import without_signature

from .shards import Share

if TYPE_CHECKING:
    from cube.config.models import Config

    from .status import AoiStatus

EXIT_FAULT = 1
EXIT_USAGE = 2
EXIT_FAILED = 3
EXIT_INTERRUPTED = 130

_LOG = logging.getLogger(__name__)
_SHOWN_ROWS = 40
_SECRET_KEY = re.compile(r"catalog\b|profiles\b|directory\.storage_options\b|.*\.catalog$")
"""Keys of a config whose values may let somebody in."""
_WORTH_ANOTHER_TRY = (CatalogError, ClusterError, ReadError, ServiceError, DiskFullError)
"""Errors that the same command may not meet the next time; the others want another command."""


@dataclass(frozen=True)
class CommonOptions:
    """What all commands on a config are told."""

    config: str
    """Path of the YAML file."""
    settings: tuple[str, ...] = ()
    """``key=value`` each, laid over the file."""
    json_logs: bool = False

    @property
    def bars(self) -> bool:
        """Whether progress bars may be drawn."""
        return not self.json_logs

    def typed(self, name: str) -> str:
        """Return another command on the same config, as one would type it.

        Of ``--set``, values that may be secret are left out: options of stores, and catalogs.
        """
        words = ["gelos-lc", name, "-c", self.config]
        for setting in self.settings:
            words += ["--set", f"{setting.partition('=')[0]}=..." if _may_be_secret(setting) else setting]
        return shlex.join(words)


def _may_be_secret(setting: str) -> bool:
    key, _, value = setting.partition("=")
    is_section = bool(value) and "." not in key
    return is_section or bool(_SECRET_KEY.match(key)) or without_signature(value) != value


def typed_on_release(name: str, release: str, options: Mapping[str, Any]) -> str:
    """Return a command on a release, as one would type it.

    It reads no config, so the address of an S3 service that is not AWS's own goes before it.

    Parameters
    ----------
    options
        ``directory.storage_options``, of which nothing else is shown.
    """
    command = shlex.join(["gelos-lc", name, release])
    if not release.startswith("s3://"):
        return command
    client = options.get("client_kwargs")
    further = client if isinstance(client, Mapping) else {}
    endpoint = options.get("endpoint_url") or further.get("endpoint_url")
    if not endpoint:
        return command
    return f"AWS_ENDPOINT_URL={shlex.quote(without_signature(str(endpoint)))} {command}"


class UserPath(click.Path):
    """A path of the command line; ``~`` and variables in it are expanded, as by a shell."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Expand a path, or refuse it."""
        from cube.config.paths import expand_path

        try:
            return super().convert(expand_path(str(value)), param, ctx)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Severals(click.Option):
    """A repeatable option that takes several values at once, too: ``--aoi 3 7 --aoi 9``."""


def _read_shard(ctx: click.Context, param: click.Parameter, text: str | None) -> Share | None:
    """Read the option's text as a share."""
    del ctx, param
    try:
        return Share.parse(text) if text is not None else None
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def shard_option(what: str) -> Callable[[Callable[..., int]], Callable[..., int]]:
    """Return a decorator that gives a command a share of its work, which is divided into `what`."""
    text = f"Every N-th {what}, from the K-th on: one of N runs that share the work, anywhere."
    return click.option("--shard", callback=_read_shard, metavar="K/N", help=text)


class Verb(click.Command):
    """A command whose function returns its exit code, and whose help ends with examples."""

    def __init__(self, *settings: Any, examples: Sequence[str] = (), **more: Any) -> None:
        super().__init__(*settings, **more)
        self.context_settings = {"help_option_names": ["-h", "--help"]}  # as the group's, however called
        self.examples = tuple(examples)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the arguments."""
        severals = {name for one in self.params if isinstance(one, Severals) for name in one.opts}
        return super().parse_args(ctx, list(_repeat_options(args, severals)))

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples as they would be typed."""
        super().format_epilog(ctx, formatter)
        with formatter.section("Examples"):
            for line in self.examples:
                formatter.write(f"{'':{formatter.current_indent}}{line}\n")

    def invoke(self, ctx: click.Context) -> None:
        """Do what the command is for, and end with its exit code, that of Ctrl-C too."""
        try:
            code = super().invoke(ctx)
        except KeyboardInterrupt:
            code = EXIT_INTERRUPTED
        ctx.exit(code)


def _repeat_options(arguments: Sequence[str], severals: set[str]) -> Iterator[str]:
    """Yield ``--aoi 3 7`` as ``--aoi 3 --aoi 7``, which is how click knows several values."""
    option, has_value = "", False
    for word in arguments:
        if word.startswith("-"):
            option, has_value = (word if word in severals else ""), False
        elif option and has_value:
            yield option
        else:
            has_value = True
        yield word


def verb(name: str, *examples: str) -> Callable[[Callable[..., int]], Verb]:
    """Return a decorator that makes a function a command; its docstring is the help."""
    return click.command(name, cls=Verb, examples=examples)


def config_options(function: Callable[..., int]) -> Callable[..., int]:
    """Give a command the options of all commands on a config; its first argument holds them."""

    @click.option("-c", "--config", required=True, type=UserPath(), help="The dataset version's YAML file.")
    @click.option(
        "--set",
        "settings",
        multiple=True,
        metavar="KEY=VALUE",
        help="Override a config key, such as chips.min_purity=0.9 (repeatable); "
        "KEY= stands for the default, and of a sensor for doing without it.",
    )
    @click.option("--json-logs", is_flag=True, help="A JSON object per line on stderr, and no progress bars.")
    @functools.wraps(function)
    def with_options(config: str, settings: tuple[str, ...], *, json_logs: bool, **others: Any) -> int:
        return function(CommonOptions(config, settings, json_logs), **others)

    return with_options


def run_verb(name: str, options: CommonOptions, do: Callable[[Config], int], *, keep_log: bool = True) -> int:
    """Load the config, do what a command is for, and turn errors into a line and an exit code.

    Parameters
    ----------
    name
        Of the command, in its log's lines and its log file's name.
    options
        Which config, and how to tell of progress.
    do
        What the command is for; returns its exit code.
    keep_log
        Whether the run has a log file, if the config wants them.

    Returns
    -------
    int
        0 done, 1 a fault of the program, 2 config or usage, 3 something failed and can be retried,
        130 interrupted (Ctrl-C, SIGTERM) and resumable.
    """
    from cube.config.reading import load_config
    from cube.environment import check_environment, missing_library

    from .layout import Layout
    from .logs import RunLog, event

    began = time.monotonic()
    with RunLog(as_json=options.json_logs) as log, terminated_as_interrupted():
        try:
            check_environment()
            config = load_config(options.config, options.settings)
            if config.log_errors and keep_log:
                log.keep_in(Layout.of(config).logs, name)
            _log_start(name, config, options)
            code = do(config)
        except GelosError as error:
            _LOG.error("%s", error, extra=event("error"))
            code = EXIT_FAILED if isinstance(error, _WORTH_ANOTHER_TRY) else EXIT_USAGE
        except KeyboardInterrupt:
            _LOG.info(
                "interrupted: what is done is kept; run the same command again to go on",
                extra=event("interrupted"),
            )
            code = EXIT_INTERRUPTED
        except ModuleNotFoundError as error:
            _LOG.error("%s", missing_library(error), extra=event("error"))
            code = EXIT_USAGE
        except Exception:  # noqa: BLE001  Python's own traceback would show tokens
            _LOG.critical("ended by a fault of the program", exc_info=True, extra=event("fault"))
            code = EXIT_FAULT
        _log_end(name, code, time.monotonic() - began)
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


def _log_start(name: str, config: Config, options: CommonOptions) -> None:
    """Note which program ran on what: a log file is read years later."""
    from importlib.metadata import version

    from .logs import event

    keys = [setting.partition("=")[0] for setting in options.settings]  # a value may be secret
    what = f"{name} of {config.dataset.name} {config.dataset.version} with {options.config}"
    text = what + (f", set: {', '.join(keys)}" if keys else "")
    program, python = version("gelos-lc"), sys.version.split()[0]
    extra = event("start", config=options.config, set=keys, program=program, python=python)
    _LOG.info("%s (gelos-lc %s, Python %s)", text, program, python, extra=extra)


def _log_end(name: str, code: int, seconds: float) -> None:
    from datetime import timedelta

    from .logs import event

    text = f"{name} ended with {code} after {timedelta(seconds=round(seconds))}"
    _LOG.info("%s", text, extra=event("end", exit=code, seconds=round(seconds, 1)))


def counted(count: int, noun: str) -> str:
    """Return a number with its noun, which has an s but for one."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def print_table(title: str, columns: list[str], rows: list[list[Any]]) -> None:
    """Print a table on stdout; wide cells are wrapped, long tables say what they leave out."""
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    folded = (Column(column, overflow="fold") for column in columns)  # ids are long, and shown whole
    table = Table(*folded, title=title, title_justify="left")
    for row in rows[:_SHOWN_ROWS]:
        table.add_row(*(Text(str(cell)) for cell in row))  # brackets in names are no markup
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(table)
    if len(rows) > _SHOWN_ROWS:
        console.print(f"and {len(rows) - _SHOWN_ROWS} more")


def summarize_states(rows: Mapping[int, AoiStatus]) -> str:
    """Return the count of AOIs by state, in one line."""
    from .status import AoiState

    counts = Counter(row.status for row in rows.values())
    return ", ".join(f"{counts[state]} {state}" for state in AoiState if counts[state])
