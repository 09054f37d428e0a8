"""STAC: the one module that searches. An API or a file, behind one small interface.

A query means the same to both: collections, ``intersects``, ``datetime`` (against
``start_datetime`` and ``end_datetime`` where an item has them, else ``datetime``; both ends
included), and comparisons of properties. Answers are plain JSON with unsigned hrefs.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

from shapely.geometry import mapping
from shapely.geometry.base import BaseGeometry

from cube.certificates import distrust, trust
from cube.config.aoi import Aoi
from cube.config.models import CatalogConfig, Config
from cube.config.profiles import PROFILES, Source
from cube.errors import CatalogError, ConfigError
from cube.redaction import unsigned_href, unsigned_record, without_signature
from cube.retry import TRANSIENT_STATUS, NoConnection, RetryPolicy, Transient, retry_after_s, why_unreachable
from cube.run.storage import Folder, open_folder
from cube.windows.projection import beyond_antimeridian

from .files.catalog import FileCatalog
from .neighbours import NeighbourCatalog
from .query import Catalog, Item, Query, is_at

if TYPE_CHECKING:
    from requests import Response


def open_catalog(config: Config, *, ask_again: bool = False, near: Sequence[Sequence[Aoi]] = ()) -> Catalog:
    """Return the config's catalog: APIs, behind a cache if one is set, or files.

    Where sensors come from several, each query goes to its sensor's.

    Parameters
    ----------
    ask_again
        Answers that were kept earlier are asked for anew.
    near
        Areas that will be asked for, those near each other together: an API is asked for them at
        once.

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
            opened[place] = _open(config, source, ask_again=ask_again, near=near)
        by_sensor[key] = opened[place]
    return SensorCatalogs(by_sensor) if len(opened) > 1 else next(iter(opened.values()))


def _open(config: Config, source: Source, *, ask_again: bool, near: Sequence[Sequence[Aoi]]) -> Catalog:
    if not source.is_api:
        return FileCatalog.open(catalog_path(config, source.url))
    settings = config.catalog
    page_size = min(settings.page_size, source.page_size or settings.page_size)
    catalog: Catalog = ApiCatalog(settings.model_copy(update={"url": source.url, "page_size": page_size}))
    if settings.cache:
        options = config.directory.storage_options if "://" in settings.cache else {}
        cache = open_folder(settings.cache, options)
        catalog = CachedCatalog(catalog, unsigned_href(source.url), cache, ask_again=ask_again)
    return NeighbourCatalog(catalog, near, config) if near else catalog


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
                found |= {key: item for key, item in others.items() if is_at(item, query.intersects)}
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
