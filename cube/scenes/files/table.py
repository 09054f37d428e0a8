"""stac-geoparquet: where and when its items are is known, and the rest is read of those asked for.

Held as JSON a hundred thousand items take gigabytes. In memory are their bounds, times and
collections, some 60 bytes each. The rest is read of the rows that a query may find, from the row
groups that hold them. Most files have few groups, sorted by time, and an area's items lie in all of
them: so a group is unpacked once, into a file that is mapped into memory and goes with the process.
"""

from __future__ import annotations

import json
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from shapely import bounds, from_wkb, get_parts
from shapely.errors import ShapelyError
from shapely.geometry.base import BaseGeometry

from cube.errors import CatalogError, ConfigError, GelosError
from cube.run.storage import disk_errors
from cube.scenes.query import Item, Query, footprint_of

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow.parquet import FileMetaData, ParquetFile

_COLUMNS = ("id", "geometry", "assets")
"""Columns of stac-geoparquet without which there are no items."""
_TIMES = ("datetime", "start_datetime", "end_datetime")
_BATCH = 4096
"""Rows that are unpacked at once, 30 MB of items of many assets."""
_KEPT_ITEMS = 2000
"""Items that are remembered, 50 kB each: those of ten tiles, for areas near each other."""
_EVER = np.iinfo(np.int64)
_SLACK = timedelta(seconds=1)
"""Times are compared so roughly; and exactly, once an item is read."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_Placed = tuple[Item, BaseGeometry | None]
"""An item, and where it lies."""


class ItemTable:
    """The items of a stac-geoparquet file, each read when a query may find it.

    Parameters
    ----------
    path
        The file, which must stay as it is.
    collection
        Of items that name none.

    Raises
    ------
    ConfigError
        If it cannot be read, or is no stac-geoparquet.
    """

    def __init__(self, path: Path, collection: str | None = None) -> None:
        from pyarrow.parquet import ParquetFile

        self._path, self._collection = path, collection
        self._lock = threading.Lock()
        self._unpacked: dict[int, list[pa.RecordBatch]] = {}
        self._kept: OrderedDict[int, _Placed] = OrderedDict()
        with _reading(path, ConfigError), ParquetFile(path) as file:
            missing = [name for name in _COLUMNS if name not in file.schema_arrow.names]
            if not missing:
                self._metadata = file.metadata
                groups = [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)]
                self._ends = np.cumsum(groups, dtype=np.intp)
                self._bounds = _read_bounds(file)
                self._names, self._codes = _read_collections(file, collection)
                self._starts, self._stops = _read_spans(file)
        if missing:
            raise ConfigError(
                f"{path}: has no column {' nor '.join(missing)}, so it is not stac-geoparquet "
                "(GeoDataFrame.from_features keeps properties alone); write the items with "
                "stac_geoparquet, or as an ItemCollection"
            )

    def near(self, query: Query) -> Iterator[Item]:
        """Yield the items that touch the query's place, or do not say where they lie.

        Raises
        ------
        CatalogError
            If they cannot be read.
        DiskFullError
            If there is no room for what is unpacked.
        """
        place = query.intersects
        for item, footprint in self._placed(self._rows(query).tolist()):
            if place is None or footprint is None or footprint.intersects(place):
                yield item

    def _rows(self, query: Query) -> NDArray[np.intp]:
        """Return the rows of whose items the little that is known does not say that they differ."""
        fits = np.isin(self._names, query.collections)[self._codes]
        if query.intersects is not None:
            fits &= np.any([_touches(self._bounds, part) for part in get_parts(query.intersects)], axis=0)
        if query.datetime is not None:
            fits &= self._starts <= _microseconds(query.datetime.end + _SLACK)
            fits &= self._stops >= _microseconds(query.datetime.start - _SLACK)
        return np.flatnonzero(fits)

    def _placed(self, rows: list[int]) -> list[_Placed]:
        """Return the items of rows, and where they lie: those that are remembered, and others."""
        with self._lock:
            found = {row: self._kept[row] for row in rows if row in self._kept}
        others = [row for row in rows if row not in found]
        found |= {
            row: (item, footprint_of(item)) for row, item in zip(others, self._read(others), strict=True)
        }
        with self._lock:
            self._kept |= found
            for row in rows:
                self._kept.move_to_end(row)
            while len(self._kept) > _KEPT_ITEMS:
                self._kept.popitem(last=False)
        return [found[row] for row in rows]

    def _read(self, rows: list[int]) -> Iterator[Item]:
        """Yield the items of rows, which are in order."""
        from stac_geoparquet.arrow import stac_table_to_items

        groups = np.searchsorted(self._ends, rows, side="right")
        for group in np.unique(groups):
            first = self._ends[group - 1] if group else 0
            with _reading(self._path, CatalogError):
                table = _taken(self._batches(int(group)), np.array(rows)[groups == group] - first)
                items = [json.loads(json.dumps(one)) for one in stac_table_to_items(_with_bbox(table))]
            for item in items:
                yield {**item, "collection": item.get("collection") or self._collection}

    def _batches(self, group: int) -> list[pa.RecordBatch]:
        """Return a row group in parts whose bytes lie on disk."""
        with self._lock:
            if group not in self._unpacked:
                self._unpacked[group] = _unpack(self._path, self._metadata, group)
            return self._unpacked[group]


@contextmanager
def _reading(path: Path, kind: type[GelosError]) -> Iterator[None]:
    """Turn what the libraries say of a table into one clear line."""
    import pyarrow as pa

    try:
        yield
    except (
        pa.ArrowException,
        ShapelyError,
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
    ) as error:
        cause = " ".join(str(error).split())
        raise kind(f"{path}: cannot be read as stac-geoparquet ({cause})") from None


def _read_bounds(file: ParquetFile) -> NDArray[np.float64]:
    """Return left, bottom, right and top of all items, degrees; NaN of those that are empty.

    What may cross the antimeridian is as wide as the world.
    """
    found = [np.empty((0, 4))]
    for batch in file.iter_batches(columns=["geometry"]):
        column = batch.column(0)
        if column.null_count:
            msg = "there is an item without a geometry"
            raise ValueError(msg)
        found.append(bounds(from_wkb(getattr(column, "storage", column).to_numpy(zero_copy_only=False))))
    left, bottom, right, top = np.concatenate(found).T
    is_wide = (left < -180) | (right > 180) | (right - left >= 180)
    return np.stack([np.where(is_wide, -np.inf, left), bottom, np.where(is_wide, np.inf, right), top])


def _touches(boxes: NDArray[np.float64], place: BaseGeometry) -> NDArray[np.bool_]:
    left, bottom, right, top = boxes
    west, south, east, north = place.bounds
    return np.asarray(~((left > east) | (right < west) | (bottom > north) | (top < south)))


def _read_collections(file: ParquetFile, collection: str | None) -> tuple[NDArray[Any], NDArray[np.int32]]:
    """Return the names of collections, and for each item the number of its own."""
    import pyarrow as pa

    if "collection" not in file.schema_arrow.names:
        return np.array([collection or ""]), np.zeros(file.metadata.num_rows, np.int32)
    column = file.read(columns=["collection"]).column(0).cast(pa.string())
    encoded = column.fill_null("").combine_chunks().dictionary_encode()
    names = [name or collection or "" for name in encoded.dictionary.to_pylist()]
    return np.array(names, dtype=str), encoded.indices.to_numpy()


def _read_spans(file: ParquetFile) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return when items begin and end, microseconds; of others, the ends of all time."""
    import pyarrow as pa
    from pyarrow import compute

    rows, schema = file.metadata.num_rows, file.schema_arrow
    there = [name for name in _TIMES if name in schema.names]
    if not all(pa.types.is_timestamp(t := schema.field(name).type) and t.tz for name in there):
        there = []
    table = file.read(columns=there)
    instants = {name: table[name].cast(pa.timestamp("us", "UTC"), safe=False).cast("int64") for name in there}
    moment, start, stop = (instants.get(name, pa.nulls(rows, "int64")) for name in _TIMES)
    starts, stops = compute.coalesce(start, moment), compute.coalesce(stop, moment)
    is_told = compute.and_(starts.is_valid(), stops.is_valid())
    starts, stops = (
        compute.if_else(is_told, starts, _EVER.min),
        compute.if_else(is_told, stops, _EVER.max),
    )
    return starts.to_numpy(), stops.to_numpy()


def _microseconds(time: datetime) -> int:
    return (time - _EPOCH) // timedelta(microseconds=1)


def _unpack(path: Path, metadata: FileMetaData, group: int) -> list[pa.RecordBatch]:
    """Write a row group into a file without a name, and return it as it lies there."""
    import pyarrow as pa

    batches = _batches_of(path, metadata, group)
    first = next(batches)
    with disk_errors(tempfile.gettempdir()), tempfile.NamedTemporaryFile() as target:
        with pa.OSFile(target.name, "wb") as sink, pa.ipc.new_stream(sink, first.schema) as writer:
            for batch in chain((first,), batches):
                writer.write_batch(batch)
        return list(pa.ipc.open_stream(pa.memory_map(target.name)))


def _batches_of(path: Path, metadata: FileMetaData, group: int) -> Iterator[pa.RecordBatch]:
    from pyarrow.parquet import ParquetFile

    with _reading(path, CatalogError), ParquetFile(path, metadata=metadata) as file:
        yield from file.iter_batches(_BATCH, row_groups=[group])


def _taken(batches: list[pa.RecordBatch], rows: NDArray[np.intp]) -> pa.Table:
    """Return some rows of batches."""
    import pyarrow as pa

    ends = np.cumsum([batch.num_rows for batch in batches])
    numbers = np.searchsorted(ends, rows, side="right")
    return pa.Table.from_batches(
        batches[n].take(pa.array(rows[numbers == n] - (ends[n] - batches[n].num_rows)))
        for n in np.unique(numbers)
    )


def _with_bbox(table: pa.Table) -> pa.Table:
    """Return a table of items with a column of bounds, which geopandas leaves out."""
    if "bbox" in table.column_names:
        return table
    import pyarrow as pa

    sides = bounds(from_wkb(table["geometry"].to_numpy()))
    names = ("xmin", "ymin", "xmax", "ymax")
    return table.append_column("bbox", pa.StructArray.from_arrays([*map(pa.array, sides.T)], names))
