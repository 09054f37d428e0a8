"""STAC: the one module that searches. An API or a file, behind one small interface.

A query means the same to both: collections, ``intersects``, ``datetime`` (against
``start_datetime`` and ``end_datetime`` where an item has them, else ``datetime``; both ends
included), and comparisons of properties. Answers are plain JSON with unsigned hrefs.
"""

from __future__ import annotations

import hashlib
import json
import operator
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from shapely import STRtree
from shapely.errors import ShapelyError
from shapely.geometry import mapping, shape
from shapely.geometry.base import BaseGeometry

from cube.config.fields import TimeRange
from cube.config.models import CatalogConfig, Config
from cube.errors import CatalogError, ConfigError
from cube.redaction import unsigned_record, without_signature
from cube.retry import TRANSIENT_STATUS, RetryPolicy, Transient, retry_after_s
from cube.run.storage import Folder, open_folder
from cube.windows.projection import split_at_antimeridian

from .items import parse_time

if TYPE_CHECKING:
    from requests import Response

Item = dict[str, Any]

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


def open_catalog(config: Config) -> Catalog:
    """Return the config's catalog: an API, behind a cache if one is set, or a file.

    Raises
    ------
    ConfigError
        If the file is not there.
    """
    settings = config.catalog
    if not settings.url.startswith(("http://", "https://")):
        return FileCatalog.open(catalog_file(config))
    catalog = ApiCatalog(settings)
    if not settings.cache:
        return catalog
    options = config.directory.storage_options if "://" in settings.cache else {}
    return CachedCatalog(catalog, settings.url, open_folder(settings.cache, options))


def catalog_file(config: Config) -> Path:
    """Return the path of a file catalog, resolved against the config's folder."""
    path = config.path.parent / config.catalog.url
    if not path.is_file():
        raise ConfigError(
            f"{config.path}: catalog.url: no such file {path}; expected a STAC API, or an ItemCollection "
            "(.json) or stac-geoparquet (.parquet)"
        )
    return path


class FileCatalog:
    """Items of a file, searched in process."""

    def __init__(self, items: list[Item]) -> None:
        self._items = items
        self._tree = STRtree([_indexable_footprint(item) for item in items])

    @classmethod
    def open(cls, path: str | Path) -> FileCatalog:
        """Read a STAC ItemCollection (.json) or stac-geoparquet (.parquet).

        Raises
        ------
        CatalogError
            If the file is neither.
        """
        path = Path(path)
        try:
            items = _read_parquet(path) if path.suffix == ".parquet" else _read_collection(path)
            return cls(items)
        except CatalogError as error:
            raise CatalogError(f"{path}: {error}") from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CatalogError(f"{path}: not a STAC ItemCollection or stac-geoparquet ({error!r})") from None

    def search(self, query: Query) -> list[Item]:
        """Return all items that match, in the query's order."""
        if query.intersects is None:
            near = range(len(self._items))
        else:
            near = self._tree.query(query.intersects, predicate="intersects")
        found = [self._items[int(index)] for index in near]
        return query.finish([item for item in found if _matches(item, query)])


def _indexable_footprint(item: Item) -> BaseGeometry | None:
    try:
        return split_at_antimeridian(shape(item["geometry"])) if item.get("geometry") else None
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, ShapelyError):
        raise CatalogError(f"item {item.get('id')}: its geometry cannot be read as GeoJSON") from None


def _read_collection(path: Path) -> list[Item]:
    data = json.loads(path.read_text(encoding="utf-8"))
    if data.get("type") != "FeatureCollection":
        raise ValueError(f"type is {data.get('type')!r}, not FeatureCollection")
    return list(data["features"])


def _read_parquet(path: Path) -> list[Item]:
    import pyarrow.parquet
    from stac_geoparquet.arrow import stac_table_to_items

    items = stac_table_to_items(pyarrow.parquet.read_table(path))
    return [json.loads(json.dumps(item)) for item in items]


def _matches(item: Item, query: Query) -> bool:
    if item.get("collection") not in query.collections:
        return False
    if query.datetime is not None and not _touches_span(_properties(item), query.datetime):
        return False
    return all(_meets_condition(item, *condition) for condition in query.properties)


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


class ApiCatalog:
    """A STAC API, searched by POST with paging.

    Every page is tried again on timeouts, broken connections, cut bodies and the answers that may
    change (429, with its ``Retry-After``, and 5xx), within the config's bounds of number and time.
    """

    def __init__(self, settings: CatalogConfig) -> None:
        self._settings = settings
        self._io = threading.local()

    def search(self, query: Query) -> list[Item]:
        """Return all items that match, in the query's order."""
        from pystac_client.item_search import ItemSearch

        body = query.body
        search = ItemSearch(
            url=f"{self._settings.url.rstrip('/')}/search",
            method="POST",
            stac_io=self._client_io(),
            collections=body["collections"],
            intersects=body.get("intersects"),
            datetime=body.get("datetime"),
            query=body.get("query"),
            fields=body.get("fields"),
            limit=self._settings.page_size,
        )
        try:
            found = {(item["collection"], item["id"]): item for item in search.items_as_dicts()}
        except Transient as failure:
            raise self._error(query, failure.cause) from None
        except (ValueError, KeyError, TypeError) as failure:
            raise self._error(query, f"the answer is no ItemCollection ({failure!r})") from None
        return query.finish(list(found.values()))

    def _error(self, query: Query, cause: str) -> CatalogError:
        return CatalogError(
            f"search of {', '.join(query.collections)} at {self._settings.url} failed: {cause}"
        )

    def _client_io(self) -> Any:
        if not hasattr(self._io, "value"):
            self._io.value = _retrying_io(self._settings)
        return self._io.value


def _retrying_io(settings: CatalogConfig) -> Any:
    """Return pystac-client's I/O with our retries: its own checks neither bodies nor time."""
    from pystac_client.exceptions import APIError
    from pystac_client.stac_api_io import StacApiIO

    policy = RetryPolicy(settings.retries, settings.retry_budget_s)

    class RetryingIO(StacApiIO):
        """The HTTP session of one thread."""

        retry_after: str | None = None

        def request(self, *args: Any, **kwargs: Any) -> str:
            return policy.call(lambda _: self._attempt(*args, **kwargs))

        def _attempt(self, *args: Any, **kwargs: Any) -> str:
            self.retry_after = None
            try:
                text = str(super().request(*args, **kwargs))
            except APIError as error:
                status = getattr(error, "status_code", None)
                cause = without_signature(f"HTTP {status}" if status else str(error))
                if status is None or status in TRANSIENT_STATUS:
                    raise Transient(cause, retry_after_s(self.retry_after)) from None
                raise CatalogError(f"search at {settings.url} refused: {cause}") from None
            if not text.rstrip().endswith("}"):
                raise Transient("the answer was cut short")
            return text

    client_io = RetryingIO(timeout=settings.timeout_s, max_retries=0)

    def remember(response: Response, *_: Any, **__: Any) -> None:
        client_io.retry_after = response.headers.get("Retry-After")

    client_io.session.hooks["response"].append(remember)
    return client_io


@dataclass
class CachedCatalog:
    """Keeps every answer in a folder, by API and query; the folder alone can answer again."""

    catalog: Catalog
    url: str
    """URL of the API, so that one folder can serve several."""
    folder: Folder
    sent: int = field(default=0)
    """Searches that were sent on, because the cache had no answer."""

    def search(self, query: Query) -> list[Item]:
        """Return the kept answer, or ask once and keep it."""
        name = f"{query.key(self.url)}.json"
        try:
            return list(json.loads(self.folder.read(name))["features"])
        except FileNotFoundError:
            pass
        except (ValueError, KeyError, TypeError):
            self.folder.remove(name)
        items: list[Item] = unsigned_record(self.catalog.search(query))
        self.sent += 1
        answer = {"type": "FeatureCollection", "features": items, "query": query.body}
        self.folder.write(name, json.dumps(answer, sort_keys=True).encode())
        return items
