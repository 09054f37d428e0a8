"""Tables of a release as GeoParquet, written and read; those that are read may be anybody's."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import shapely
from numpy.typing import NDArray
from pyproj import CRS

from .faults import UNREADABLE, first_line
from .limits import MOST_GEOMETRY_BYTES, MOST_TEXT_BYTES, check_rows

_COMPRESSION = "zstd"
_LEAST_ROW_BYTES = 8
"""What a row takes in the file at least: no other has its place, which does not compress."""

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


def to_parquet(parts: Iterable[gpd.GeoDataFrame], bounds: Sequence[float]) -> bytes:
    """Write a table as GeoParquet.

    Parameters
    ----------
    parts
        Its rows, of the same columns, types and kind of geometry, at least one in each; each
        becomes a row group.
    bounds
        West, south, east and north of all of them.
    """
    sink, writer = io.BytesIO(), None
    for part in parts:
        alone = io.BytesIO()
        part.to_parquet(alone, index=False, compression=_COMPRESSION)
        table = pq.read_table(alone)
        if writer is None:
            schema = _within(table.schema, bounds)
            writer = pq.ParquetWriter(sink, schema, compression=_COMPRESSION)
        writer.write_table(table.cast(schema), row_group_size=len(table))
    assert writer is not None
    writer.close()
    return sink.getvalue()


def _within(schema: pa.Schema, bounds: Sequence[float]) -> pa.Schema:
    """Return the schema of a GeoParquet file with other bounds."""
    facts = json.loads(schema.metadata[b"geo"])
    facts["columns"][facts["primary_column"]]["bbox"] = list(bounds)
    return schema.with_metadata({**schema.metadata, b"geo": json.dumps(facts).encode()})


class TableFile:
    """A table of flat fields and one geometry in GeoParquet, read in parts, whoever wrote it.

    Parameters
    ----------
    data
        The file.
    most_rows
        That it may have.

    Raises
    ------
    ValueError
        If it cannot be read, is no such table, or has more rows than it may; so do all methods.
    """

    def __init__(self, data: bytes, most_rows: int) -> None:
        with _one_line():
            with pq.ParquetFile(io.BytesIO(data)) as file:
                check_rows(file.metadata.num_rows, min(most_rows, len(data) // _LEAST_ROW_BYTES))
                _check_fields(file.schema_arrow)
                self.schema: pa.Schema = file.schema_arrow
                sizes = [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)]
            texts = [field.name for field in self.schema if _is_text(field.type)]
            # A text that many rows share is held once, and looked at before it is repeated.
            self._file = pq.ParquetFile(io.BytesIO(data), read_dictionary=texts)
            geometry = json.loads(self.schema.metadata[b"geo"])["columns"]["geometry"]
            self.crs = CRS.from_user_input(geometry.get("crs", "OGC:CRS84"))
        self._starts = np.cumsum([0, *sizes])

    def __len__(self) -> int:
        """Return how many rows there are."""
        return int(self._starts[-1])

    @property
    def columns(self) -> list[str]:
        """Names of the fields, the geometry among them."""
        return list(self.schema.names)

    @property
    def groups(self) -> list[tuple[int, int]]:
        """The first row of each row group, and the one after its last."""
        return list(itertools.pairwise(self._starts.tolist()))

    def group_of(self, row: int) -> int:
        """Return the number of the group that holds a row."""
        return int(np.searchsorted(self._starts, row, side="right")) - 1

    def read_group(self, number: int) -> pa.Table:
        """Return a row group; its texts are dictionary-encoded."""
        with _one_line():
            return _checked(self._file.read_row_group(number))

    def read_columns(self, names: Sequence[str]) -> pd.DataFrame:
        """Return some fields of all rows."""
        with _one_line():
            frame: pd.DataFrame = to_frame(_checked(self._file.read(list(names))), self.crs)
            return frame

    def read(self) -> gpd.GeoDataFrame:
        """Return all of it."""
        with _one_line():
            return to_frame(_checked(self._file.read()), self.crs)


def to_frame(table: pa.Table, crs: CRS) -> Any:
    """Return what :class:`TableFile` read as pandas has it; with the geometry, if it is there."""
    plain = table.drop_columns([name for name in table.column_names if name == "geometry"])
    for place, field in enumerate(plain.schema):
        if pa.types.is_dictionary(field.type):
            decoded = plain[field.name].cast(field.type.value_type)
            plain = plain.set_column(place, field.name, decoded)
    frame = plain.replace_schema_metadata(None).to_pandas()
    if "geometry" not in table.column_names:
        return frame
    return gpd.GeoDataFrame(frame, geometry=read_shapes(table["geometry"]), crs=crs)


def read_shapes(column: pa.ChunkedArray) -> NDArray[Any]:
    """Return geometries."""
    stored = [one.storage if isinstance(one, pa.ExtensionArray) else one for one in column.chunks]
    values = [one.to_numpy(zero_copy_only=False) for one in stored]
    shapes: NDArray[Any] = shapely.from_wkb(np.concatenate([*values, np.empty(0, object)]))
    return shapes


def read_parquet(data: bytes, most_rows: int) -> gpd.GeoDataFrame:
    """Read a table of flat fields and one geometry from GeoParquet, whoever wrote it.

    Raises
    ------
    ValueError
        If it cannot be read, is no such table, or has more rows than it may.
    """
    return TableFile(data, most_rows).read()


@contextlib.contextmanager
def _one_line() -> Iterator[None]:
    """Turn whatever a reader raises into one clear line."""
    try:
        yield
    except UNREADABLE as error:
        raise ValueError(first_line(error)) from None


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _checked(table: pa.Table) -> pa.Table:
    """Refuse texts that are none or endless, and geometries larger than any footprint."""
    table.validate(full=True)  # pandas would show texts that are none much later
    for name in table.column_names:
        if name == "geometry":
            _check_shapes(table[name])
        elif pa.types.is_dictionary(table[name].type):
            _check_texts(name, table[name])
    return table


def _check_texts(name: str, column: pa.ChunkedArray) -> None:
    for array in column.chunks:
        longest = pc.max(pc.binary_length(array.dictionary)).as_py() or 0
        if longest > MOST_TEXT_BYTES:
            raise ValueError(f"{name}: a text of {longest:,} bytes, where {MOST_TEXT_BYTES:,} are the most")


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
