"""STAC items in files: ItemCollections in their usual forms, and stac-geoparquet."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from shapely.errors import ShapelyError

from cube.errors import ConfigError

Item = dict[str, Any]

_LOG = logging.getLogger(__name__)
_EXPECTED = "expected a STAC ItemCollection (.json), or stac-geoparquet (.parquet)"
_COLUMNS = ("id", "geometry", "assets")
"""Columns of stac-geoparquet without which there are no items."""
_WITHOUT_ITEMS = ("Catalog", "Collection")


def read_items(path: Path) -> list[Item]:
    """Read the items of a file, or of a folder of Parquet files.

    JSON may be an ItemCollection, a list of items, one item, or an item a line; Parquet is told by
    its first bytes. A feature that is null is left out.

    Raises
    ------
    ConfigError
        If there are no items to be read; says what was found.
    """
    try:
        if path.is_dir():
            return list(_items_of_folder(path))
        if _is_parquet(path):
            return _parquet_items(path)
        return list(_json_items(path))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror or error}); {_EXPECTED}") from None


def _is_parquet(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PAR1"


def _items_of_folder(folder: Path) -> Iterator[Item]:
    """Yield the items of a dataset's files; a folder ``collection=...`` names their collection."""
    files = sorted(path for path in folder.rglob("*.parquet") if path.is_file())
    if not files:
        raise ConfigError(f"{folder}: a folder without .parquet files; {_EXPECTED}")
    for path in files:
        named = dict(part.split("=", 1) for part in path.relative_to(folder).parts[:-1] if "=" in part)
        for item in _parquet_items(path):
            yield {**item, "collection": item.get("collection") or named.get("collection")}


def _parquet_items(path: Path) -> list[Item]:
    import pyarrow as pa
    from pyarrow import parquet
    from stac_geoparquet.arrow import stac_table_to_items

    try:
        table = parquet.ParquetFile(path).read()
        missing = [name for name in _COLUMNS if name not in table.column_names]
        records = () if missing else stac_table_to_items(_with_bbox(table))
        items = [json.loads(json.dumps(item)) for item in records]
    except (pa.ArrowException, ShapelyError, ValueError, KeyError, TypeError, AttributeError) as error:
        cause = " ".join(str(error).split())
        raise ConfigError(f"{path}: cannot be read as stac-geoparquet ({cause})") from None
    if missing:
        raise ConfigError(
            f"{path}: has no column {' nor '.join(missing)}, so it is not stac-geoparquet "
            "(GeoDataFrame.from_features keeps properties alone); write the items with "
            "stac_geoparquet, or as an ItemCollection"
        )
    return items


def _with_bbox(table: Any) -> Any:
    """Return an Arrow table of items with a column of bounds, which geopandas leaves out."""
    if "bbox" in table.column_names:
        return table
    import pyarrow as pa
    from shapely import bounds, from_wkb

    sides = bounds(from_wkb(table["geometry"].to_numpy()))
    names = ("xmin", "ymin", "xmax", "ymax")
    return table.append_column("bbox", pa.StructArray.from_arrays([*map(pa.array, sides.T)], names))


def _json_items(path: Path) -> Iterator[Item]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is neither Parquet nor text in UTF-8; {_EXPECTED}") from None
    try:
        records = [json.loads(text)]
    except ValueError as error:
        records = list(_lines(text))
        if not records:
            raise ConfigError(f"{path}: is neither Parquet nor JSON ({error}); {_EXPECTED}") from None
    for number, item in enumerate(_features(records)):
        if item is None:
            _LOG.warning("%s: feature %d is null, and is left out", path, number)
        elif isinstance(item, dict) and isinstance(item.get("assets"), dict) and "id" in item:
            yield item
        else:
            raise ConfigError(f"{path}: feature {number} is {_kind(item)}; {_EXPECTED}")


def _lines(text: str) -> Iterator[Any]:
    """Yield what each line holds, if each is JSON of its own."""
    try:
        found = [json.loads(line) for line in text.splitlines() if line.strip()]
    except ValueError:
        return
    yield from found


def _features(records: Iterable[Any]) -> Iterator[Any]:
    """Yield items out of lists and collections of them."""
    for record in records:
        if isinstance(record, list):
            yield from _features(record)
        elif isinstance(record, dict) and isinstance(record.get("features"), list):
            yield from _features(record["features"])
        else:
            yield record


def _kind(record: object) -> str:
    """Say what a record is that is no item."""
    if not isinstance(record, dict):
        return f"no object ({json.dumps(record)[:40]})"
    kind = record.get("type")
    if kind in _WITHOUT_ITEMS:
        return f"a STAC {kind}, whose items lie elsewhere"
    lacks = next((name for name in ("id", "assets") if name not in record), "assets that are an object")
    return f"no STAC item: type {kind!r}, without {lacks}"
