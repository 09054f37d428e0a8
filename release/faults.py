"""What is found when a release is checked."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import shapely
from pyproj.exceptions import ProjError

from .errors import one_line

__all__ = ["UNREADABLE", "Fault", "first_line"]

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
    """The file it is in."""
    message: str
    warning: bool = False
    """True for what deserves a look and may yet be right."""

    def __str__(self) -> str:
        """Return the fault as one line."""
        kind = "warning: " if self.warning else ""
        return f"{kind}{one_line(self.file) or '(no name)'}: {one_line(self.message)}"


def first_line(error: Exception) -> str:
    """Return what an error says, short."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
