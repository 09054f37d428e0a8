"""What a STAC search means, after pgstac: pure functions over items.

Independent of the project's own file catalog on purpose, so that each can be tested against the
other.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

from shapely.errors import ShapelyError
from shapely.geometry import box, shape
from shapely.geometry.base import BaseGeometry

Item = dict[str, Any]
"""A STAC item as JSON."""

DEFAULT_LIMIT = 250
MAX_LIMIT = 1000

_BEGINNING = datetime.min.replace(tzinfo=UTC)
_END = datetime.max.replace(tzinfo=UTC)
_ALWAYS_INCLUDED = ("id", "collection", "links")


class SearchError(ValueError):
    """A search that the service refuses with status 400."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An item with what a search compares, worked out once."""

    item: Item
    geometry: BaseGeometry
    start: datetime
    end: datetime

    @classmethod
    def of(cls, item: Item) -> Entry:
        """Read the geometry (else the bbox) and the time range (else the datetime) of an item."""
        properties = item["properties"]
        whole = properties.get("start_datetime") and properties.get("end_datetime")
        start, end = ("start_datetime", "end_datetime") if whole else ("datetime", "datetime")
        geometry = shape(item["geometry"]) if item.get("geometry") else _box(item["bbox"])
        return cls(item, geometry, parse_instant(properties[start]), parse_instant(properties[end]))

    def value(self, name: str) -> Any:
        """Give the value that queries and sorting mean by a name; None if the item has none."""
        name = name.removeprefix("properties.")
        if name == "datetime":
            return self.start
        return self.item[name] if name in {"id", "collection"} else self.item["properties"].get(name)


@dataclass(frozen=True, slots=True)
class Condition:
    """One comparison of the query extension."""

    name: str
    operator: str
    operand: Any

    def holds(self, entry: Entry) -> bool:
        """Compare as SQL does: nothing is equal, unequal or comparable to a missing value."""
        value = entry.value(self.name)
        if value is None:
            return False
        try:
            return bool(_OPERATORS[self.operator](value, self.operand))
        except (TypeError, AttributeError):  # text against a number
            return False


@dataclass(frozen=True, slots=True)
class Search:
    """A search request, checked."""

    collections: frozenset[str] | None = None
    ids: frozenset[str] | None = None
    geometry: BaseGeometry | None = None
    start: datetime = _BEGINNING
    end: datetime = _END
    conditions: tuple[Condition, ...] = ()
    sortby: tuple[tuple[str, bool], ...] = (("datetime", True), ("id", True))
    """Name and whether descending, most significant first; ends in a total order."""
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    limit: int = DEFAULT_LIMIT
    token: str | None = None

    @classmethod
    def of(cls, body: Mapping[str, Any]) -> Search:
        """Check the body of a POST search.

        Raises
        ------
        SearchError
            If a member has the wrong form, or asks for what the service does not do.
        """
        if "filter" in body:
            raise SearchError("filter: not supported here; use query")
        start, end = parse_interval(body["datetime"]) if body.get("datetime") else (_BEGINNING, _END)
        fields = body.get("fields") or {}
        return cls(
            collections=_names(body, "collections"),
            ids=_names(body, "ids"),
            geometry=_geometry(body),
            start=start,
            end=end,
            conditions=tuple(_conditions(body.get("query") or {})),
            sortby=_sortby(body.get("sortby") or ()),
            include=tuple(fields.get("include") or ()),
            exclude=tuple(fields.get("exclude") or ()),
            limit=_limit(body.get("limit")),
            token=body.get("token"),
        )

    def admits(self, entry: Entry) -> bool:
        """Whether an item answers the search; ends of intervals and edges of shapes are inside."""
        return (
            (self.collections is None or entry.item["collection"] in self.collections)
            and (self.ids is None or entry.item["id"] in self.ids)
            and entry.start <= self.end
            and entry.end >= self.start
            and all(condition.holds(entry) for condition in self.conditions)
            and (self.geometry is None or bool(entry.geometry.intersects(self.geometry)))
        )


@dataclass(frozen=True, slots=True)
class Page:
    """One page of answers; ``token`` is None on the last one."""

    items: tuple[Item, ...]
    token: str | None


def run(entries: Iterable[Entry], search: Search, page_cap: int = MAX_LIMIT) -> Page:
    """Answer a search with one page of items.

    Raises
    ------
    SearchError
        If the token names no item of the answer.
    """
    found = ordered([entry for entry in entries if search.admits(entry)], search.sortby)
    first = 0 if search.token is None else _position_after(found, search.token)
    last = first + min(search.limit, page_cap)
    items = tuple(select(entry.item, search.include, search.exclude) for entry in found[first:last])
    return Page(items, _token(found[last - 1]) if last < len(found) else None)


def ordered(entries: Sequence[Entry], sortby: Iterable[tuple[str, bool]]) -> list[Entry]:
    """Sort as PostgreSQL does: missing values come last, and first when descending."""
    entries = list(entries)
    for name, descending in reversed(tuple(sortby)):
        entries.sort(key=partial(_sort_key, name), reverse=descending)
    return entries


def select(item: Item, include: Sequence[str], exclude: Sequence[str]) -> Item:
    """Apply the fields extension: keep what is included (or all), then drop what is excluded."""
    chosen = item if not include else _keep(item, (*_ALWAYS_INCLUDED, *include))
    for name in exclude:
        chosen = _drop(chosen, name.split("."))
    return chosen


def body_of_query(parameters: Mapping[str, str]) -> dict[str, Any]:
    """Translate the parameters of a GET search into the body of the equal POST search."""
    body: dict[str, Any] = {name: value for name, value in parameters.items() if value}
    for name in ("collections", "ids"):
        if name in body:
            body[name] = body[name].split(",")
    for name, parse in _PARSERS.items():
        if name in body:
            body[name] = _parsed(name, body[name], parse)
    return body


def parse_instant(text: str) -> datetime:
    """Read an RFC 3339 time; a bare date is its midnight, UTC.

    Raises
    ------
    SearchError
        If the text is no time.
    """
    try:
        instant = datetime.fromisoformat(text)
    except (TypeError, ValueError) as error:
        raise SearchError(f"datetime: {text!r} is not an RFC 3339 time") from error
    return instant if instant.tzinfo else instant.replace(tzinfo=UTC)


def parse_interval(text: str) -> tuple[datetime, datetime]:
    """Read a time, or an interval whose ends may be open (``..`` or nothing).

    Raises
    ------
    SearchError
        If the text is neither, or ends before it starts.
    """
    first, slash, second = text.partition("/")
    if not slash:
        return parse_instant(first), parse_instant(first)
    start = _BEGINNING if first in {"", ".."} else parse_instant(first)
    end = _END if second in {"", ".."} else parse_instant(second)
    if start > end:
        raise SearchError(f"datetime: {text!r} ends before it starts")
    return start, end


def _names(body: Mapping[str, Any], member: str) -> frozenset[str] | None:
    names = body.get(member)
    if names is None:
        return None
    if not isinstance(names, list):
        raise SearchError(f"{member}: expected a list, got {names!r}")
    return frozenset(names) or None


def _geometry(body: Mapping[str, Any]) -> BaseGeometry | None:
    bbox, intersects = body.get("bbox"), body.get("intersects")
    if bbox and intersects:
        raise SearchError("intersects and bbox parameters are mutually exclusive")
    try:
        return _box(bbox) if bbox else shape(intersects) if intersects else None
    except (ShapelyError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise SearchError(f"not a bbox or GeoJSON geometry: {error}") from error


def _box(bbox: Sequence[float]) -> BaseGeometry:
    half = len(bbox) // 2  # two or three dimensions
    if len(bbox) not in {4, 6}:
        raise SearchError(f"bbox: expected 4 or 6 numbers, got {len(bbox)}")
    return box(bbox[0], bbox[1], bbox[half], bbox[half + 1])


def _conditions(query: Mapping[str, Mapping[str, Any]]) -> Iterable[Condition]:
    for name, comparisons in query.items():
        for operator, operand in comparisons.items():
            if operator not in _OPERATORS:
                raise SearchError(f"query: {operator!r} is not one of {', '.join(_OPERATORS)}")
            is_time = name.removeprefix("properties.") == "datetime"
            yield Condition(name, operator, parse_instant(operand) if is_time else operand)


def _sortby(keys: Iterable[Mapping[str, str]]) -> tuple[tuple[str, bool], ...]:
    try:
        named = tuple((key["field"], key.get("direction", "asc").lower() == "desc") for key in keys)
    except (TypeError, KeyError, AttributeError) as error:
        raise SearchError("sortby: expected a list of {field, direction}") from error
    named = named or (("datetime", True),)
    return named if any(name == "id" for name, _ in named) else (*named, ("id", True))


def _limit(limit: Any) -> int:
    if limit is None:
        return DEFAULT_LIMIT
    if not isinstance(limit, int) or not 1 <= limit <= MAX_LIMIT:
        raise SearchError(f"limit: expected 1 to {MAX_LIMIT}, got {limit!r}")
    return limit


def _token(entry: Entry) -> str:
    return f"next:{entry.item['collection']}:{entry.item['id']}"


def _position_after(found: Sequence[Entry], token: str) -> int:
    for position, entry in enumerate(found, start=1):
        if _token(entry) == token:
            return position
    raise SearchError(f"token: {token!r} is not of this search")


def _sort_key(name: str, entry: Entry) -> tuple[bool, bool, Any]:
    value = entry.value(name)
    return value is None, isinstance(value, str), 0 if value is None else value


def _keep(item: Item, names: Iterable[str]) -> Item:
    kept: Item = {}
    for name in names:
        head, _, rest = name.partition(".")
        if head not in item:
            continue
        if not rest:
            kept[head] = item[head]
        elif rest in item[head]:
            kept[head] = {**kept.get(head, {}), rest: item[head][rest]}
    return kept


def _drop(item: Item, path: Sequence[str]) -> Item:
    head = path[0]
    if head not in item:
        return item
    rest = {name: value for name, value in item.items() if name != head}
    return rest if len(path) == 1 else {**rest, head: _drop(item[head], path[1:])}


def _parsed(name: str, text: str, parse: Callable[[str], Any]) -> Any:
    try:
        return parse(text)
    except ValueError as error:
        raise SearchError(f"{name}: cannot read {text!r}") from error


def _sort_of_text(text: str) -> list[dict[str, str]]:
    return [
        {"field": name.lstrip("+-"), "direction": "desc" if name.startswith("-") else "asc"}
        for name in text.split(",")
    ]


def _fields_of_text(text: str) -> dict[str, list[str]]:
    names = text.split(",")
    return {
        "include": [name.lstrip("+") for name in names if not name.startswith("-")],
        "exclude": [name[1:] for name in names if name.startswith("-")],
    }


_PARSERS: dict[str, Callable[[str], Any]] = {
    "bbox": lambda text: [float(number) for number in text.split(",")],
    "intersects": json.loads,
    "query": json.loads,
    "limit": int,
    "sortby": _sort_of_text,
    "fields": _fields_of_text,
}

_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "eq": lambda value, operand: value == operand,
    "neq": lambda value, operand: value != operand,
    "lt": lambda value, operand: value < operand,
    "lte": lambda value, operand: value <= operand,
    "gt": lambda value, operand: value > operand,
    "gte": lambda value, operand: value >= operand,
    "in": lambda value, operand: value in operand,
    "startsWith": lambda value, operand: value.startswith(operand),
    "endsWith": lambda value, operand: value.endswith(operand),
    "contains": lambda value, operand: operand in value,
}
