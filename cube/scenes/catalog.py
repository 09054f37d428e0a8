"""STAC: the one module that searches. An API or a file, behind one small interface.

A query means the same to both: collections, ``intersects``, ``datetime`` (against
``start_datetime`` and ``end_datetime`` where an item has them, else ``datetime``; both ends
included), and comparisons of properties. Answers are plain JSON with unsigned hrefs.
"""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import json
import operator
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlparse

from shapely import STRtree
from shapely.errors import ShapelyError
from shapely.geometry import mapping, shape
from shapely.geometry.base import BaseGeometry

from cube.certificates import distrust, trust
from cube.config.fields import TimeRange
from cube.config.models import CatalogConfig, Config
from cube.config.profiles import PROFILES, Source
from cube.errors import CatalogError, ConfigError
from cube.redaction import unsigned_href, unsigned_record, without_signature
from cube.retry import TRANSIENT_STATUS, NoConnection, RetryPolicy, Transient, retry_after_s, why_unreachable
from cube.run.storage import Folder, open_folder
from cube.windows.projection import beyond_antimeridian, split_at_antimeridian

from .item_files import Item, read_items
from .items import parse_time

if TYPE_CHECKING:
    from requests import Response

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


def open_catalog(config: Config, *, ask_again: bool = False) -> Catalog:
    """Return the config's catalog: APIs, behind a cache if one is set, or files.

    Where sensors come from several, each query goes to its sensor's.

    Parameters
    ----------
    ask_again
        Answers that were kept earlier are asked for anew.

    Raises
    ------
    ConfigError
        If a file is not there, or cannot be read.
    """
    opened: dict[tuple[str, int | None], Catalog] = {}
    by_sensor = {}
    for key in config.sensors:
        source = config.source(key)
        place = source.url, source.page_size
        if place not in opened:
            opened[place] = _open(config, source, ask_again=ask_again)
        by_sensor[key] = opened[place]
    return SensorCatalogs(by_sensor) if len(opened) > 1 else next(iter(opened.values()))


def _open(config: Config, source: Source, *, ask_again: bool) -> Catalog:
    if not source.is_api:
        return FileCatalog.open(catalog_path(config, source.url))
    settings = config.catalog
    page_size = min(settings.page_size, source.page_size or settings.page_size)
    catalog = ApiCatalog(settings.model_copy(update={"url": source.url, "page_size": page_size}))
    if not settings.cache:
        return catalog
    options = config.directory.storage_options if "://" in settings.cache else {}
    cache = open_folder(settings.cache, options)
    return CachedCatalog(catalog, unsigned_href(source.url), cache, ask_again=ask_again)


def catalog_path(config: Config, url: str) -> Path:
    """Return the path of a file catalog, resolved against the config's folder."""
    path = config.path.parent / url
    if "://" in url:
        raise ConfigError(
            f"{config.path}: catalog.url: found {without_signature(url)}; expected http:// or https://, or "
            "the path of a file"
        )
    if not path.exists():
        near = difflib.get_close_matches(url, [*PROFILES, *config.profiles], n=1)
        meant = f" (or did you mean the profile {near[0]}?)" if near else ""
        raise ConfigError(
            f"{config.path}: catalog.url: no such file {path}{meant}; expected a STAC API, or an "
            "ItemCollection (.json) or stac-geoparquet (.parquet)"
        )
    return path


def folder_of_items(path: Path) -> Path:
    """Return the folder that relative hrefs of a file's items are meant in."""
    return (path if path.is_dir() else path.parent).absolute()


@dataclass(frozen=True)
class SensorCatalogs:
    """Several catalogs, each for some of the sensors."""

    by_sensor: Mapping[str, Catalog]

    def search(self, query: Query) -> list[Item]:
        """Ask the catalog of the query's sensor."""
        return self.by_sensor[query.sensor].search(query)


def _is_at(item: Item, place: BaseGeometry | None) -> bool:
    footprint = _indexable_footprint(item)
    return place is not None and footprint is not None and bool(footprint.intersects(place))


class FileCatalog:
    """Items of a file, searched in process."""

    def __init__(self, items: list[Item]) -> None:
        self._items = items
        footprints = [_indexable_footprint(item) for item in items]
        self._tree = STRtree(footprints)
        self._nowhere = [index for index, footprint in enumerate(footprints) if footprint is None]

    @classmethod
    def open(cls, path: str | Path) -> FileCatalog:
        """Read a STAC ItemCollection (.json) or stac-geoparquet (.parquet).

        Raises
        ------
        ConfigError
            If the file is neither.
        """
        return cls(read_items(Path(path)))

    def search(self, query: Query) -> list[Item]:
        """Return all items that match, in the query's order."""
        if query.intersects is None:
            near: Iterable[int] = range(len(self._items))
        else:  # and those that do not say where they lie, to be refused by whoever reads them
            near = (*map(int, self._tree.query(query.intersects, predicate="intersects")), *self._nowhere)
        found = [self._items[index] for index in near]
        return query.finish([item for item in found if _matches(item, query)])


def _indexable_footprint(item: Item) -> BaseGeometry | None:
    try:
        return split_at_antimeridian(shape(item["geometry"])) if item.get("geometry") else None
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, ShapelyError):
        return None


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


class _RefusedSearch(CatalogError):  # noqa: N818  an answer of an API
    """An API will not answer a search, however often it is asked."""


class ApiCatalog:
    """A STAC API, searched by POST with paging.

    Every page is tried again on timeouts, broken connections, cut bodies and the answers that may
    change (429, with its ``Retry-After``, and 5xx), within the config's bounds of number and time.
    A page that takes the service too long (504) is asked for with fewer items.
    """

    def __init__(self, settings: CatalogConfig) -> None:
        self._settings = settings
        self._page_size = settings.page_size
        self._io = threading.local()

    def search(self, query: Query) -> list[Item]:
        """Return all items that match, in the query's order."""
        while True:
            size = self._page_size
            try:
                return self._search(query, size)
            except _SlowPage:
                self._page_size = min(self._page_size, max(size // 2, _SMALLEST_PAGE))

    def _search(self, query: Query, page_size: int) -> list[Item]:
        found = self._found(query, query.intersects, page_size)
        beyond = None if query.intersects is None else beyond_antimeridian(query.intersects)
        if beyond is not None:
            with contextlib.suppress(_RefusedSearch):  # by an API that has nothing beyond 180 degrees
                others = self._found(query, beyond, page_size)
                found |= {key: item for key, item in others.items() if _is_at(item, query.intersects)}
        return query.finish(list(found.values()))

    def _found(
        self, query: Query, intersects: BaseGeometry | None, page_size: int
    ) -> dict[tuple[str, str], Item]:
        from pystac_client.item_search import ItemSearch

        body = query.body
        client_io = self._client_io()
        client_io.has_large_pages = page_size > _SMALLEST_PAGE
        search = ItemSearch(
            url=f"{self._settings.url.rstrip('/')}/search",
            method="POST",
            stac_io=client_io,
            collections=body["collections"],
            intersects=None if intersects is None else mapping(intersects),
            datetime=body.get("datetime"),
            query=body.get("query"),
            fields=body.get("fields"),
            limit=page_size,
        )
        try:
            return {(item["collection"], item["id"]): item for item in search.items_as_dicts()}
        except Transient as failure:
            raise self._error(query, failure.cause) from None
        except (ValueError, KeyError, TypeError) as failure:
            raise self._error(query, f"the answer is no ItemCollection ({failure!r})") from None

    def _error(self, query: Query, cause: str) -> CatalogError:
        return CatalogError(
            f"search of {', '.join(query.collections)} at {without_signature(self._settings.url)} "
            f"failed: {cause}"
        )

    def _client_io(self) -> Any:
        if not hasattr(self._io, "value"):
            self._io.value = _retrying_io(self._settings)
        return self._io.value


_SMALLEST_PAGE = 10
_GATEWAY_TIMEOUT = 504


class _SlowPage(Exception):  # noqa: N818  a signal, never seen by users
    """A page took the service too long; one of fewer items may not."""


def _retrying_io(settings: CatalogConfig) -> Any:
    """Return pystac-client's I/O with our retries: its own checks neither bodies nor time."""
    from pystac_client.exceptions import APIError
    from pystac_client.stac_api_io import StacApiIO

    policy = RetryPolicy(
        settings.retries, settings.retry_budget_s, settings.retry_wait_s, settings.retry_longest_wait_s
    )
    service = urlparse(settings.url).netloc.rpartition("@")[2]

    class RetryingIO(StacApiIO):
        """The HTTP session of one thread."""

        retry_after: str | None = None
        has_large_pages = False

        def request(self, *args: Any, **kwargs: Any) -> str:
            return policy.call(lambda _: self._attempt(*args, **kwargs), service)

        def _attempt(self, *args: Any, **kwargs: Any) -> str:
            self.retry_after = None
            try:
                text = str(super().request(*args, **kwargs))
            except APIError as error:
                status = getattr(error, "status_code", None)
                if status is None:
                    text = without_signature(str(error))
                    if mend := distrust(text):
                        raise CatalogError(
                            f"search at {without_signature(settings.url)} failed: {mend}"
                        ) from None
                    raise _broken_connection(text) from None
                if status == _GATEWAY_TIMEOUT and self.has_large_pages:
                    raise _SlowPage from None
                if status in TRANSIENT_STATUS:
                    raise Transient(f"HTTP {status}", retry_after_s(self.retry_after)) from None
                raise _RefusedSearch(
                    f"search at {without_signature(settings.url)} refused: HTTP {status}"
                ) from None
            if not text.rstrip().endswith("}"):
                raise Transient("the answer was cut short")
            return text

    client_io = RetryingIO(timeout=settings.timeout_s, max_retries=0)
    trust(client_io.session)

    def remember(response: Response, *_: Any, **__: Any) -> None:
        client_io.retry_after = response.headers.get("Retry-After")

    client_io.session.hooks["response"].append(remember)
    return client_io


def _broken_connection(text: str) -> Transient:
    """Return the signal for a request that got no answer, by what the client says of it."""
    if words := why_unreachable(text):
        return NoConnection(words)
    return Transient("no answer came in time" if "timed out" in text else "the connection broke off")


@dataclass
class CachedCatalog:
    """Keeps every answer in a folder, by API and query; the folder alone can answer again."""

    catalog: Catalog
    url: str
    """URL of the API, so that one folder can serve several."""
    folder: Folder
    sent: int = field(default=0)
    """Searches that were sent on, because the cache had no answer."""
    ask_again: bool = False
    """True where answers of earlier runs do not count."""
    _asked: set[str] = field(default_factory=set)

    def search(self, query: Query) -> list[Item]:
        """Return the kept answer, or ask once and keep it."""
        name = f"{query.key(self.url)}.json"
        if not self.ask_again or name in self._asked:
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
        self._asked.add(name)
        return items
