"""The table of a release's STAC items: stac-geoparquet, written and read in parts."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
import stac_geoparquet.arrow
from fsspec.implementations.memory import MemoryFileSystem

ITEMS_NAME = "items.parquet"
_ITEMS_PER_CHUNK = 128
"""Items that are turned into Arrow at once; a row group, where there are no shards."""
_ITEMS_PER_BATCH = 16
"""Items that are turned back at once."""


def read_items_parquet(data: bytes, group: int | None = None) -> Iterator[dict[str, Any]]:
    """Yield the STAC items of a stac-geoparquet file, or of a row group of one."""
    with pq.ParquetFile(io.BytesIO(data)) as file:
        batches = file.iter_batches(_ITEMS_PER_BATCH, None if group is None else [group])
        yield from stac_geoparquet.arrow.stac_table_to_items(
            pa.RecordBatchReader.from_batches(file.schema_arrow, batches)
        )


class _Given(dict[str, Any]):
    """An item that its reader may change: where it would be copied, it is itself."""

    def __deepcopy__(self, memo: dict[int, Any]) -> _Given:
        return self


def write_items_parquet(
    items: Iterable[dict[str, Any]], collection: Mapping[str, Any], shard_chips: int | None
) -> bytes:
    """Write the table of items; those of a shard are a row group."""
    # All items have the first one's fields; the default looks for them in all of them.
    table = stac_geoparquet.arrow.parse_stac_items_to_arrow(
        map(_Given, items), chunk_size=_ITEMS_PER_CHUNK, schema="FirstBatch"
    )
    if shard_chips is not None:
        groups = _in_groups(table, shard_chips)
        table = pa.RecordBatchReader.from_batches(table.schema, groups)
    # stac-geoparquet writes to paths alone.
    memory, path = MemoryFileSystem(), f"/{uuid4()}.parquet"
    stac_geoparquet.arrow.to_parquet(
        table, path, collections={collection["id"]: collection}, filesystem=memory, compression="zstd"
    )
    data = bytes(memory.cat_file(path))
    memory.rm_file(path)
    return data


def _in_groups(batches: Iterable[pa.RecordBatch], rows: int) -> Iterator[pa.RecordBatch]:
    """Yield the rows of batches, so many to each but the last."""
    held: list[pa.RecordBatch] = []
    for batch in batches:
        held.append(batch)
        while sum(map(len, held)) >= rows:
            whole = pa.concat_batches(held)
            yield whole.slice(0, rows)
            held = [whole.slice(rows)] if len(whole) > rows else []
    if held:
        yield pa.concat_batches(held)
