"""Guards against names, sizes and dtypes that no honest release has."""

from __future__ import annotations

import re

MOST_BYTES = 1 << 32
"""No file of a release is larger."""
MOST_GEOMETRY_BYTES = 1 << 12
"""No footprint is larger. Collections may be nested as deep as there are bytes, and GEOS does not
come back from the depths."""
MOST_TEXT_BYTES = 1 << 16
"""No field of a table holds a longer text."""
RASTER_DTYPES = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "float32", "float64")


def check_is_inside(name: str) -> None:
    """Raise OSError at the name of a file that lies outside the release."""
    if name.startswith("/") or not {"..", ""}.isdisjoint(re.split(r"[/\\]", name)) or ":" in name:
        raise OSError("lies outside the release")


def check_size(size: int, most: int) -> None:
    """Raise OSError at a file of more bytes than it may have."""
    if size > most:
        raise OSError(f"holds {size:,} bytes, more than the {most:,} that it may")


def check_rows(rows: int, most: int) -> None:
    """Raise ValueError at a table of more rows than it may have."""
    if rows > most:
        raise ValueError(f"{rows:,} rows, where {most:,} are the most")


def check_dtype(dtype: object) -> None:
    """Raise ValueError at what is no dtype of a raster: numpy would parse it as an expression."""
    if dtype not in RASTER_DTYPES:
        raise ValueError(f"{dtype!r} is no dtype of a raster")
