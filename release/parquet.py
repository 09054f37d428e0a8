"""Parquet files of a release, written and read: those that are read may be anybody's."""

from __future__ import annotations

import io
from collections import Counter
from typing import Any

import geopandas as gpd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

__all__ = ["check_unpacked", "read_parquet", "to_parquet"]

_MOST_ROW_BYTES = 1 << 16
"""Of a row of the tracker or of the items: ten times what they take."""


def to_parquet(table: gpd.GeoDataFrame) -> bytes:
    """Write GeoParquet."""
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False, compression="zstd")
    return buffer.getvalue()


def read_parquet(data: bytes, most_rows: int) -> gpd.GeoDataFrame:
    """Read GeoParquet, whoever wrote it.

    Raises
    ------
    ValueError
        If it holds more than `most_rows` rows, or unpacks to far more than they could hold.
    """
    check_unpacked(data, most_rows)
    return gpd.read_parquet(io.BytesIO(data))


def check_unpacked(data: bytes, most_rows: int) -> None:
    """Refuse a Parquet file that unpacks to far more than its rows could hold: a value said once may count for all.

    Raises
    ------
    ValueError
        Says what is too large, or named twice.
    """
    with pq.ParquetFile(io.BytesIO(data)) as file:
        found, schema = file.metadata, file.schema_arrow
    if twice := [name for name, count in Counter(schema.names).items() if count > 1]:
        raise ValueError(f"field {twice[0]} is there twice")
    if found.num_rows > most_rows:
        raise ValueError(f"{found.num_rows:,} rows, where {most_rows:,} are the most")
    most = found.num_rows * _MOST_ROW_BYTES + _MOST_ROW_BYTES
    groups = (found.row_group(number) for number in range(found.num_row_groups))
    parts = (group.column(place) for group in groups for place in range(group.num_columns))
    size = sum(part.total_uncompressed_size for part in parts)
    if size <= most:
        texts = [one.name for one in schema if any(is_kind(one.type) for is_kind in _TEXTS)]
        table = pq.read_table(io.BytesIO(data), columns=texts, read_dictionary=texts)
        size = sum(_unpacked_bytes(chunk) for column in table.columns for chunk in column.chunks)
    if size > most:
        raise ValueError(f"{size:,} bytes, in {found.num_rows:,} rows")


_TEXTS = (
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_binary,
    pa.types.is_large_binary,
    pa.types.is_dictionary,
)


def _unpacked_bytes(chunk: Any) -> int:
    """Return how many bytes the texts of a column have, each counted as often as it is there."""
    if not pa.types.is_dictionary(chunk.type):
        return int(chunk.nbytes)
    lengths = pc.binary_length(chunk.dictionary).cast(pa.int64())
    return int(pc.sum(lengths.take(chunk.indices)).as_py() or 0)
