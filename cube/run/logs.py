"""What a run says of itself: lines on stderr, for people or machines, and its log file."""

from __future__ import annotations

import io
import json
import logging
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self, TextIO, cast

from rich.console import Console

from cube.errors import StoreError
from cube.redaction import without_signature, without_signatures

from .storage import DiskFolder, Folder


class _Stderr:
    """Whatever is stderr at the moment; a terminal that is gone, or a full disk, ends no run."""

    @property
    def _stream(self) -> TextIO:
        return cast("TextIO", getattr(sys.stderr, "rich_proxied_file", sys.stderr))

    @property
    def encoding(self) -> str:
        return self._stream.encoding

    def isatty(self) -> bool:
        return self._stream.isatty()

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):  # ValueError: it is closed
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()


_STDERR = cast("IO[str]", _Stderr())
STDERR = Console(file=_STDERR)
"""Where lines and bars go alike, so that neither breaks the other."""

_PACKAGES = ("cube", "chipping", "release")
_ALWAYS_SHOWN = frozenset(
    {"aois", "dashboard", "interrupted", "replanned", "stopped", "taken_over", "waiting"}
)
"""Events that people see whatever their level."""
_SHOWN_BY_BARS = frozenset({"aoi", "block"})
"""Events that people see as progress bars."""
_SHOWN_WITHOUT_BARS = "progress"
"""Event that people see where no bars are drawn."""


def event(kind: str, **facts: Any) -> dict[str, Any]:
    """Return the ``extra`` of a log record that says what happened, for ``--json-logs``.

    Parameters
    ----------
    kind
        Such as ``aoi``, ``block``, ``progress``.
    facts
        JSON values.
    """
    return {"event": kind, "facts": facts}


class _FileFilter(logging.Filter):
    """Lets our own records into the log file, and the warnings of other libraries."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= logging.WARNING or _is_ours(record)


class _TerminalFilter(logging.Filter):
    """Lets our own warnings onto a terminal, and what a person waits for."""

    def filter(self, record: logging.LogRecord) -> bool:
        kind = getattr(record, "event", "")
        if not _is_ours(record) or kind in _SHOWN_BY_BARS:
            return False
        if kind == _SHOWN_WITHOUT_BARS:
            return not STDERR.is_terminal
        return record.levelno >= logging.WARNING or kind in _ALWAYS_SHOWN


class _JsonFilter(logging.Filter):
    """Lets our own records into ``--json-logs``."""

    def filter(self, record: logging.LogRecord) -> bool:
        return _is_ours(record)


def _is_ours(record: logging.LogRecord) -> bool:
    return record.name.split(".")[0] in _PACKAGES


class _LineFormatter(logging.Formatter):
    """Writes lines of a log file, in UTC, without the tokens that any library may have logged."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s", "%Y-%m-%dT%H:%M:%SZ")
        self.converter = time.gmtime

    def format(self, record: logging.LogRecord) -> str:
        return without_signature(super().format(record))


class _JsonFormatter(logging.Formatter):
    """Writes a record as one JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        at = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        line = {
            "time": at.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "event": getattr(record, "event", "message"),
            "message": record.getMessage(),
            **getattr(record, "facts", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(without_signatures(line), default=lambda value: without_signature(str(value)))


class _TerminalHandler(logging.Handler):
    """Prints lines above the progress bars."""

    def emit(self, record: logging.LogRecord) -> None:
        level = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        text = level + record.getMessage()
        if record.levelno >= logging.CRITICAL and record.exc_info:
            text += f"\n{logging.Formatter().formatException(record.exc_info)}"
        text = without_signature(text)
        STDERR.print(text, highlight=False, soft_wrap=True, markup=False, emoji=False)


class _LogFile(logging.FileHandler):
    """A log file that a full disk cuts short instead of ending the run."""

    def _open(self) -> io.TextIOWrapper:
        Path(self.baseFilename).parent.mkdir(parents=True, exist_ok=True)
        return super()._open()

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(OSError):  # the folder cannot be made, which the command will say
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  the library's name
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)

    def close(self) -> None:
        with suppress(OSError):
            super().close()


class _StoredLog(logging.StreamHandler[io.StringIO]):
    """A log that is put into an object store when the run ends: objects cannot be appended to."""

    def __init__(self, folder: Folder, name: str) -> None:
        super().__init__(io.StringIO())
        self._folder, self._name = folder, name

    def close(self) -> None:
        with suppress(StoreError, OSError):
            self._folder.write(self._name, self.stream.getvalue().encode())
        super().close()


class RunLog:
    """Where the log records of a run go while the ``with`` statement lasts.

    Parameters
    ----------
    as_json
        Whether stderr gets an object per line instead of lines for people.

    Notes
    -----
    Other libraries' records go into the file alone, from warnings upwards.
    """

    def __init__(self, *, as_json: bool = False) -> None:
        self._as_json = as_json
        self._handlers: list[logging.Handler] = []

    def __enter__(self) -> Self:
        """Begin with stderr alone."""
        root = logging.getLogger()
        self._level = root.level
        root.setLevel(logging.INFO)
        logging.captureWarnings(capture=True)
        handler: logging.Handler = logging.StreamHandler(_STDERR) if self._as_json else _TerminalHandler()
        handler.setFormatter(_JsonFormatter())
        handler.addFilter(_JsonFilter() if self._as_json else _TerminalFilter())
        self._add(handler)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file, and leave Python's logging as it was."""
        logging.captureWarnings(capture=False)
        for handler in self._handlers:
            logging.getLogger().removeHandler(handler)
            handler.close()
        logging.getLogger().setLevel(self._level)

    def keep_in(self, folder: Folder, verb: str) -> None:
        """Write everything into a file, too, named after the run's start in UTC and its verb."""
        name = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}_{verb}.log"
        handler: logging.Handler = _StoredLog(folder, name)
        if isinstance(folder, DiskFolder):
            handler = _LogFile(folder.path / name, encoding="utf-8", delay=True)
        handler.setFormatter(_LineFormatter())
        handler.addFilter(_FileFilter())
        self._add(handler)

    def _add(self, handler: logging.Handler) -> None:
        self._handlers.append(handler)
        logging.getLogger().addHandler(handler)
