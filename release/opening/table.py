"""Tables of a release as GeoParquet, written and read; those that are read may be anybody's."""

from __future__ import annotations

import io
import json
from collections import Counter

import geopandas as gpd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from .faults import UNREADABLE, first_line
from .limits import MOST_GEOMETRY_BYTES, check_rows

_FLAT = (
    pa.types.is_null,
    pa.types.is_boolean,
    pa.types.is_integer,
    pa.types.is_floating,
    pa.types.is_timestamp,
    pa.types.is_string,
    pa.types.is_large_string,
)
"""Kinds of fields that a tracker has beside its geometry."""


def to_parquet(table: gpd.GeoDataFrame) -> bytes:
    """Write GeoParquet."""
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False, compression="zstd")
    return buffer.getvalue()


def read_parquet(data: bytes, most_rows: int) -> gpd.GeoDataFrame:
    """Read a table of flat fields and one geometry from GeoParquet, whoever wrote it.

    Raises
    ------
    ValueError
        If it cannot be read, is no such table, or has more rows than it may.
    """
    try:
        with pq.ParquetFile(io.BytesIO(data)) as file:
            check_rows(file.metadata.num_rows, most_rows)
            _check_fields(file.schema_arrow)
            table = file.read()
        table.validate(full=True)  # pandas would show texts that are none much later
        _check_shapes(table["geometry"])
        return gpd.read_parquet(io.BytesIO(data))
    except UNREADABLE as error:
        raise ValueError(first_line(error)) from None


def _check_fields(schema: pa.Schema) -> None:
    """Refuse a table that is none of flat fields and one geometry."""
    if twice := [name for name, count in Counter(schema.names).items() if count > 1]:
        raise ValueError(f"field {twice[0]} is there twice")
    kinds = {field.name: field.type for field in schema}
    shapes = kinds.pop("geometry", pa.null())
    if odd := [name for name, kind in kinds.items() if not any(is_kind(kind) for is_kind in _FLAT)]:
        raise ValueError(f"field {odd[0]} is {kinds[odd[0]]}")
    if b"geo" not in (schema.metadata or {}):
        raise ValueError("it is no GeoParquet: its metadata name no geometry")
    found = list(json.loads(schema.metadata[b"geo"])["columns"])
    if found != ["geometry"]:
        raise ValueError(f"its geometries are {', '.join(map(str, found))}, expected geometry")
    # Libraries for GeoArrow give geometries a type of their own, for the whole process.
    stored = shapes.storage_type if isinstance(shapes, pa.BaseExtensionType) else shapes
    if stored not in (pa.binary(), pa.large_binary()):
        raise ValueError(f"field geometry is {shapes}")


def _check_shapes(column: pa.ChunkedArray) -> None:
    """Refuse geometries that are larger than any footprint."""
    for array in column.chunks:
        stored = array.storage if isinstance(array, pa.ExtensionArray) else array
        longest = pc.max(pc.binary_length(stored)).as_py() or 0
        if longest > MOST_GEOMETRY_BYTES:
            raise ValueError(f"a value of {longest:,} bytes, where {MOST_GEOMETRY_BYTES:,} are the most")
