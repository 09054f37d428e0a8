"""STAC items as JSON: ItemCollections in their usual forms."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from cube.errors import ConfigError
from cube.scenes.query import Item

_LOG = logging.getLogger(__name__)
EXPECTED = "expected a STAC ItemCollection (.json), or stac-geoparquet (.parquet)"
"""The end of what is said of a file that is no catalog."""
_WITHOUT_ITEMS = ("Catalog", "Collection")


def read_items(path: Path) -> Iterator[Item]:
    """Read the items of a file: an ItemCollection, a list of items, one item, or an item a line.

    A feature that is null is left out.

    Raises
    ------
    ConfigError
        If there are no items to be read; says what was found.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is neither Parquet nor text in UTF-8; {EXPECTED}") from None
    try:
        records = [json.loads(text)]
    except ValueError as error:
        records = list(_lines(text))
        if not records:
            raise ConfigError(f"{path}: is neither Parquet nor JSON ({error}); {EXPECTED}") from None
    for number, item in enumerate(_features(records)):
        if item is None:
            _LOG.warning("%s: feature %d is null, and is left out", path, number)
        elif isinstance(item, dict) and isinstance(item.get("assets"), dict) and "id" in item:
            yield item
        else:
            raise ConfigError(f"{path}: feature {number} is {_kind(item)}; {EXPECTED}")


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
