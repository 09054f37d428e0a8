"""What is wrong with a release: faults that a check finds, errors, and their one line each."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import shapely
from pyproj.exceptions import ProjError

from cube.errors import GelosError

UNREADABLE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    OSError,
    RecursionError,
    TypeError,
    ValueError,
    pa.ArrowException,
    ProjError,
    shapely.errors.GEOSException,
)
"""What readers of JSON and Parquet raise at a file that is not what it should be."""


@dataclass(frozen=True, slots=True, order=True)
class Fault:
    """Something that is wrong with a release."""

    file: str
    """Name of the file that it is in."""
    message: str
    warning: bool = False
    """True for what deserves a look and may yet be right."""

    def __str__(self) -> str:
        """Return the fault as one line."""
        kind = "warning: " if self.warning else ""
        return f"{kind}{one_line(self.file) or '(no name)'}: {one_line(self.message)}"


def first_line(error: Exception) -> str:
    """Return what an error says, short; in words of our own where Python speaks of its types."""
    if isinstance(error, KeyError) and error.args:
        return f"it has no {str(error.args[0])[:200]!r}"
    if isinstance(error, (AssertionError, AttributeError, IndexError, RecursionError, TypeError)):
        return "a value is not of the kind that it should be"
    # Arrow passes on the first line of a traceback of its own.
    text = str(error).partition(" Detail: Python exception")[0]
    return (text.splitlines() or [type(error).__name__])[0][:200]


_MOST_CHARACTERS = 1000


def one_line(text: str) -> str:
    """Return a text as one short line, escaping what a terminal would not show, or would obey."""
    line = "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:_MOST_CHARACTERS]
    )
    return line if len(text) <= _MOST_CHARACTERS else f"{line}..."


class ReleaseError(GelosError):
    """A release cannot be made, opened or checked as it was asked for."""

    def __str__(self) -> str:
        """Return what is wrong, as one line."""
        return one_line(super().__str__())


class BadZipError(ReleaseError):
    """A zip is damaged so that not even its list of files can be read."""
