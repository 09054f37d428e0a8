"""What is asked of a catalog, API or file, and which items meet it."""

from __future__ import annotations

import hashlib
import json
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, Protocol

from shapely.errors import ShapelyError
from shapely.geometry import mapping, shape
from shapely.geometry.base import BaseGeometry

from cube.config.fields import TimeRange
from cube.errors import CatalogError
from cube.windows.projection import split_at_antimeridian

from .items import parse_time

Item = dict[str, Any]
"""A STAC item, as JSON has it."""

_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "eq": operator.eq,
    "neq": operator.ne,
    "lt": operator.lt,
    "lte": operator.le,
    "gt": operator.gt,
    "gte": operator.ge,
    "in": lambda value, options: value in options,
    "startsWith": lambda value, prefix: str(value).startswith(prefix),
    "endsWith": lambda value, suffix: str(value).endswith(suffix),
    "contains": lambda value, part: part in value,
}


@dataclass(frozen=True)
class Query:
    """What is searched for in a STAC catalog."""

    collections: tuple[str, ...]
    intersects: BaseGeometry | None = None
    """EPSG:4326."""
    datetime: TimeRange | None = None
    properties: tuple[tuple[str, str, Any], ...] = ()
    """``(name, operator, value)``, all of which must hold, such as ``("eo:cloud_cover", "lt",
    30)``."""
    sortby: tuple[str, ...] = ("+datetime", "+id")
    """Property names after ``+`` (ascending) or ``-``; ``id`` and ``collection`` count as
    properties."""
    limit: int | None = None
    """Most items returned (None: all)."""
    sensor: str = ""
    """Key of the sensor that is searched for, where each may have a catalog of its own."""
    fields: tuple[str, ...] = ()
    """Parts of an item that are needed (none: all), such as ``properties.platform``; an API sends
    no others."""

    @property
    def body(self) -> dict[str, Any]:
        """The query as a STAC API's search takes it."""
        body: dict[str, Any] = {"collections": list(self.collections)}
        if self.intersects is not None:
            body["intersects"] = mapping(self.intersects)
        if self.datetime is not None:
            body["datetime"] = "/".join(f"{t.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}" for t in self.datetime)
        if self.properties:
            body["query"] = {}
            for name, comparison, value in self.properties:
                body["query"].setdefault(name, {})[comparison] = value
        if self.fields:
            body["fields"] = {"include": list(self.fields)}
        return body

    def key(self, url: str) -> str:
        """Return the name of the answer in a cache: the SHA-256 of the query and the API's URL."""
        text = json.dumps([url.rstrip("/"), self.body, self.sortby, self.limit], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def finish(self, items: list[Item]) -> list[Item]:
        """Sort and cut items as the query says."""
        for name in reversed(self.sortby):
            items.sort(key=partial(_sort_value, name=name[1:]), reverse=name[0] == "-")
        return items if self.limit is None else items[: self.limit]

    def matches(self, item: Item) -> bool:
        """Tell whether an item meets all that is asked but for the place."""
        if item.get("collection") not in self.collections:
            return False
        if self.datetime is not None and not _touches_span(_properties(item), self.datetime):
            return False
        return all(_meets_condition(item, *condition) for condition in self.properties)


class Catalog(Protocol):
    """Where scenes are found."""

    def search(self, query: Query) -> list[Item]:
        """Return all items that match, in the query's order, hrefs unsigned.

        Raises
        ------
        CatalogError
            If the search failed after its retries, or the answer cannot be used.
        """
        ...


def footprint_of(item: Item) -> BaseGeometry | None:
    """Return where an item lies, in EPSG:4326, cut at the antimeridian; None if nobody can tell."""
    try:
        return split_at_antimeridian(shape(item["geometry"])) if item.get("geometry") else None
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, ShapelyError):
        return None


def is_at(item: Item, place: BaseGeometry | None) -> bool:
    """Tell whether an item touches a place."""
    footprint = footprint_of(item)
    return place is not None and footprint is not None and bool(footprint.intersects(place))


def _touches_span(properties: Mapping[str, Any], span: TimeRange) -> bool:
    """Tell whether an item's time touches a span; unreadable times pass, to be refused later."""
    times = _item_span(properties)
    return times is None or (times[0] <= span.end and times[1] >= span.start)


def _item_span(properties: Mapping[str, Any]) -> tuple[datetime, datetime] | None:
    start = _time(properties.get("start_datetime") or properties.get("datetime"))
    end = _time(properties.get("end_datetime") or properties.get("datetime"))
    return None if start is None or end is None else (start, end)


def _time(text: object) -> datetime | None:
    try:
        return parse_time(text) if isinstance(text, str) else None
    except ValueError:
        return None


def _properties(item: Item) -> Mapping[str, Any]:
    properties = item.get("properties")
    return properties if isinstance(properties, Mapping) else {}


def _meets_condition(item: Item, name: str, comparison: str, value: Any) -> bool:
    found = _property(item, name)
    if comparison not in _OPERATORS:
        raise CatalogError(f"unknown comparison {comparison!r}; there are {', '.join(_OPERATORS)}")
    try:
        return found is not None and _OPERATORS[comparison](found, value)
    except TypeError:
        return False


def _property(item: Item, name: str) -> Any:
    return item.get(name) if name in ("id", "collection") else _properties(item).get(name)


def _sort_value(item: Item, name: str) -> tuple[bool, Any]:
    value = _property(item, name)
    if name == "datetime":
        span = _item_span(_properties(item))
        value = _time(value) or (span and span[0])
    elif name in ("id", "collection"):
        value = str(value)
    return (value is None, value)
