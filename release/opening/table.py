"""Parquet files of a release, written and read: those that are read may be anybody's."""

from __future__ import annotations

import io
import json
from collections import Counter
from typing import Any

import geopandas as gpd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from .faults import UNREADABLE, first_line

__all__ = ["check_unpacked", "read_parquet", "to_parquet"]

_MOST_TEXT_BYTES = 1 << 16
"""Of one text. Some readers take texts for geometries, too."""
_MOST_GEOMETRY_BYTES = 1 << 12
"""Collections may be nested as deep as there are bytes, and GEOS does not come back from the
depths."""
_VALUE_BYTES = 8
_BYTES = "BYTE_ARRAY"


def to_parquet(table: gpd.GeoDataFrame) -> bytes:
    """Write GeoParquet."""
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False, compression="zstd")
    return buffer.getvalue()


def read_parquet(data: bytes, most_rows: int, row_bytes: int) -> gpd.GeoDataFrame:
    """Read a table of flat fields and one geometry from GeoParquet, whoever wrote it.

    Raises
    ------
    ValueError
        If it cannot be read, or :func:`check_unpacked` refuses it.
    """
    try:
        check_unpacked(data, most_rows, row_bytes)
        schema = pq.read_schema(io.BytesIO(data))
        nested = [field.name for field in schema if pa.types.is_nested(field.type)]
        if nested:
            raise ValueError(f"field {nested[0]} is nested")
        if b"geo" not in (schema.metadata or {}):
            raise ValueError("it is no GeoParquet: its metadata name no geometry")
        found = list(json.loads(schema.metadata[b"geo"])["columns"])
        if found != ["geometry"]:
            raise ValueError(f"its geometries are {', '.join(map(str, found))}, expected geometry")
        if _stored(schema.field("geometry").type) not in _BINARY:
            raise ValueError(f"field geometry is {schema.field('geometry').type}")
        return gpd.read_parquet(io.BytesIO(data))
    except UNREADABLE as error:
        raise ValueError(first_line(error)) from None


def check_unpacked(data: bytes, most_rows: int, row_bytes: int) -> None:
    """Refuse a Parquet file that unpacks to far more than its rows could hold: a value said once may count for all.

    Parameters
    ----------
    data
        The file.
    most_rows
        Rows that it may have.
    row_bytes
        What each may unpack to.

    Raises
    ------
    ValueError
        Says what is too large, named twice or of no plain type. Other errors where it is no Parquet
        file.
    """
    with pq.ParquetFile(io.BytesIO(data)) as file:
        found, schema = file.metadata, file.schema_arrow
        leaves = [file.schema.column(place) for place in range(len(file.schema))]
    if twice := [name for name, count in Counter(schema.names).items() if count > 1]:
        raise ValueError(f"field {twice[0]} is there twice")
    if odd := [field.name for field in schema if not _is_plain(field.type)]:
        raise ValueError(f"field {odd[0]} is {schema.field(odd[0]).type}")
    if found.num_rows > most_rows:
        raise ValueError(f"{found.num_rows:,} rows, where {most_rows:,} are the most")
    most = (found.num_rows + 1) * row_bytes
    groups = [found.row_group(number) for number in range(found.num_row_groups)]
    size = sum(group.total_byte_size for group in groups)
    # Lists may hold any number of values in a row. (Where there are none, Arrow is not asked: it
    # dies of some answers.)
    lists = [place for place, leaf in enumerate(leaves) if leaf.max_repetition_level]
    values = sum(group.column(place).num_values for group in groups for place in lists)
    values += found.num_rows * (len(leaves) - len(lists))
    size += values * _VALUE_BYTES
    if size <= most:
        size = _text_bytes(data, [leaf.path for leaf in leaves if leaf.physical_type == _BYTES], most)
    if size > most:
        raise ValueError(f"{size:,} bytes, in {found.num_rows:,} rows")


def _is_plain(kind: pa.DataType) -> bool:
    """Tell whether a type is one of those that the tables of a release have, or a list or struct of such.

    Other libraries may have given geometries a type of their own, for the whole process.
    """
    kind = _stored(kind)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _is_plain(kind.value_type)
    if pa.types.is_struct(kind):
        return all(_is_plain(kind.field(place).type) for place in range(kind.num_fields))
    return kind in _BINARY or any(is_kind(kind) for is_kind in _SCALARS)


def _stored(kind: pa.DataType) -> pa.DataType:
    return kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind


_BINARY = (pa.binary(), pa.large_binary())
_SCALARS = (
    pa.types.is_null,
    pa.types.is_boolean,
    pa.types.is_integer,
    pa.types.is_floating,
    pa.types.is_timestamp,
    pa.types.is_string,
    pa.types.is_large_string,
)


def _text_bytes(data: bytes, paths: list[str], most: int) -> int:
    """Return how many bytes the texts of a file have, each counted as often as it is there; no further than `most`.

    Raises
    ------
    ValueError
        If one is longer than any should be, or no UTF-8.
    """
    size = 0
    with pq.ParquetFile(io.BytesIO(data), read_dictionary=paths) as file:
        for number in range(file.metadata.num_row_groups):
            table = file.read_row_group(number, columns=paths)
            table.validate(full=True)
            for array in (chunk for column in table.columns for chunk in column.chunks):
                size += sum(map(_dictionary_bytes, _dictionaries(array)))
                if size > most:
                    return size
    return size


def _dictionaries(array: pa.Array) -> list[Any]:
    """Return the texts within an array, however nested."""
    if isinstance(array, pa.ExtensionArray):
        return _dictionaries(array.storage)
    if pa.types.is_dictionary(array.type):
        return [array]
    parts = array.flatten() if pa.types.is_struct(array.type) else [array.flatten()]
    return [one for part in parts for one in _dictionaries(part)]


def _dictionary_bytes(array: Any) -> int:
    lengths = pc.binary_length(array.dictionary).cast(pa.int64())
    longest = pc.max(lengths).as_py() or 0
    most = _MOST_GEOMETRY_BYTES if array.type.value_type in _BINARY else _MOST_TEXT_BYTES
    if longest > most:
        raise ValueError(f"a value of {longest:,} bytes, where {most:,} are the most")
    return int(pc.sum(lengths.take(array.indices)).as_py() or 0)
