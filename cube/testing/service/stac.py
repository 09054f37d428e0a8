"""The STAC API: documents made from an archive's items, and pages of search results."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlencode

from cube.testing.service.messages import BLOB_DOMAIN, STAC_ROOT, Answer, Call, Role, api_error, json_answer
from cube.testing.service.search import Entry, Item, Page, Search, SearchError, body_of_query, run

_GEOJSON = "application/geo+json"
_BUCKET = re.compile(r"https://([^./]+)\.s3\.[^/]*amazonaws\.com/(.+)")
_STRUCTURAL = frozenset({"collection", "parent", "root", "self"})
_CONFORMS_TO = (
    "http://www.opengis.net/spec/ogcapi-features-1/1.0/conf/core",
    "http://www.opengis.net/spec/ogcapi-features-1/1.0/conf/geojson",
    "https://api.stacspec.org/v1.0.0/core",
    "https://api.stacspec.org/v1.0.0/collections",
    "https://api.stacspec.org/v1.0.0/ogcapi-features",
    "https://api.stacspec.org/v1.0.0/item-search",
    "https://api.stacspec.org/v1.0.0/item-search#fields",
    "https://api.stacspec.org/v1.0.0/item-search#query",
    "https://api.stacspec.org/v1.0.0/item-search#sort",
)


def read_items(path: Path, scheme: str = "http") -> list[Item]:
    """Read an ItemCollection, with hrefs as the real service gives them (but for the scheme)."""
    items: list[Item] = json.loads(path.read_text(encoding="utf-8"))["features"]
    for item in items:
        for asset in item["assets"].values():
            asset["href"] = blob_url(asset["href"], scheme)
    return items


def blob_url(href: str, scheme: str = "http") -> str:
    """Turn ``./blobs/account/container/path`` into a blob's address; leave any other href alone."""
    parts = PurePosixPath(href).parts
    if "://" in href or parts[0] != "blobs":
        return href
    return f"{scheme}://{parts[1]}{BLOB_DOMAIN}/{'/'.join(parts[2:])}"


def addressed(items: Iterable[Item], endpoint: str) -> list[Item]:
    """Return items whose files in Amazon's buckets are read from an endpoint instead."""
    return [
        {**item, "assets": {name: _at(asset, endpoint) for name, asset in item["assets"].items()}}
        for item in items
    ]


def _at(asset: Mapping[str, Any], endpoint: str) -> dict[str, Any]:
    found = _BUCKET.fullmatch(asset["href"])
    return {**asset, "href": f"{endpoint}/{found[1]}/{found[2]}"} if found else dict(asset)


def containers_of_collections(items: Iterable[Item]) -> dict[str, str]:
    """Find the ``account/container`` of each collection: that of its first item's first blob."""
    found: dict[str, str] = {}
    for item in items:
        for asset in item["assets"].values():
            host, _, path = asset["href"].partition("://")[2].partition("/")
            if host.endswith(BLOB_DOMAIN):
                container = f"{host.removesuffix(BLOB_DOMAIN)}/{path.partition('/')[0]}"
                found.setdefault(item["collection"], container)
    return found


class Stac:
    """A read-only STAC API.

    Parameters
    ----------
    items
        What it holds.
    origin
        Scheme, host and port, for links.
    page_cap
        Most items on a page, whatever limit a search asks for.
    most_in_time
        A search for larger pages takes too long.
    """

    def __init__(self, items: Iterable[Item], origin: str, page_cap: int, most_in_time: int) -> None:
        self.root = f"{origin}{STAC_ROOT}"
        self._page_cap, self._most_in_time = page_cap, most_in_time
        self._entries = [Entry.of({**item, "links": self._item_links(item)}) for item in items]
        self._collections = {
            name: self._collection([entry for entry in self._entries if entry.item["collection"] == name])
            for name in sorted({entry.item["collection"] for entry in self._entries})
        }

    def answer(self, call: Call) -> Answer:
        """Answer a request below the API's root."""
        path = call.path.removeprefix(STAC_ROOT).strip("/")
        try:
            return self._page(call, path) if call.role is Role.SEARCH else self._document(path)
        except SearchError as error:
            return api_error(400, "RequestValidationError", str(error))
        except KeyError as error:
            return api_error(404, "NotFoundError", f"{error.args[0]} does not exist")

    def _document(self, path: str) -> Answer:
        match path.split("/"):
            case [""]:
                return json_answer(self._landing())
            case ["conformance"]:
                return json_answer({"conformsTo": _CONFORMS_TO})
            case ["collections"]:
                links = [_link("root", f"{self.root}/"), _link("self", f"{self.root}/collections")]
                return json_answer({"collections": list(self._collections.values()), "links": links})
            case ["collections", name]:
                return json_answer(self._collections[name])
            case ["collections", name, "items", item_id]:
                return json_answer(self._item(name, item_id), content_type=_GEOJSON)
            case _:
                raise KeyError(path)

    def _page(self, call: Call, path: str) -> Answer:
        match path.split("/"):
            case ["search"]:
                fixed: dict[str, Any] = {}
            case ["collections", name, "items"] if name in self._collections:
                fixed = {"collections": [name]}
            case _:
                raise KeyError(path)
        body = _read_body(call.body) if call.method == "POST" else body_of_query(call.query)
        search = Search.of({**body, **fixed})
        if search.limit > self._most_in_time:
            return Answer(504, b"upstream request timeout", "text/plain")
        page = run(self._entries, search, self._page_cap)
        links = self._page_links(f"{self.root}/{path}", call, body, page)
        content = {"type": "FeatureCollection", "features": page.items, "links": links}
        return json_answer({**content, "numberReturned": len(page.items)}, content_type=_GEOJSON)

    def _page_links(
        self, address: str, call: Call, body: Mapping[str, Any], page: Page
    ) -> list[dict[str, Any]]:
        links = [_link("root", f"{self.root}/"), _link("self", address, _GEOJSON)]
        if page.token is None:
            return links
        if call.method == "POST":
            following = {**body, "token": page.token}
            return [{**_link("next", address, _GEOJSON), "method": "POST", "body": following}, *links]
        query = urlencode({**call.query, "token": page.token}, safe=":")
        return [{**_link("next", f"{address}?{query}", _GEOJSON), "method": "GET"}, *links]

    def _item(self, collection: str, item_id: str) -> Item:
        for entry in self._entries:
            if (entry.item["collection"], entry.item["id"]) == (collection, item_id):
                return entry.item
        raise KeyError(f"{collection}/{item_id}")

    def _landing(self) -> dict[str, Any]:
        search = f"{self.root}/search"
        return {
            "type": "Catalog",
            "id": "microsoft-pc",
            "title": "Stand-in for the Planetary Computer STAC API",
            "description": "An archive of a few items behind the interface of a large one",
            "stac_version": "1.0.0",
            "conformsTo": _CONFORMS_TO,
            "links": [
                _link("self", f"{self.root}/"),
                _link("root", f"{self.root}/"),
                _link("data", f"{self.root}/collections"),
                _link("conformance", f"{self.root}/conformance"),
                {**_link("search", search, _GEOJSON), "method": "GET"},
                {**_link("search", search, _GEOJSON), "method": "POST"},
                *(_link("child", f"{self.root}/collections/{name}") for name in self._collections),
            ],
        }

    def _item_links(self, item: Item) -> list[dict[str, Any]]:
        collection = f"{self.root}/collections/{item['collection']}"
        return [
            _link("collection", collection),
            _link("parent", collection),
            _link("root", f"{self.root}/"),
            _link("self", f"{collection}/items/{item['id']}", _GEOJSON),
            *(link for link in item.get("links", ()) if link["rel"] not in _STRUCTURAL),
        ]

    def _collection(self, entries: Sequence[Entry]) -> dict[str, Any]:
        name = entries[0].item["collection"]
        address = f"{self.root}/collections/{name}"
        blobs = containers_of_collections(entry.item for entry in entries)
        account, _, container = blobs.get(name, "").partition("/")
        storage = {"msft:storage_account": account, "msft:container": container} if account else {}
        return {
            "type": "Collection",
            "id": name,
            "stac_version": "1.0.0",
            "title": name,
            "description": f"{name} of the archive",
            "license": "other",
            "extent": _extent(entries),
            **storage,
            "links": [
                _link("items", f"{address}/items", _GEOJSON),
                _link("parent", f"{self.root}/"),
                _link("root", f"{self.root}/"),
                _link("self", address),
            ],
        }


def _read_body(body: bytes) -> dict[str, Any]:
    try:
        content = json.loads(body or b"{}")
    except ValueError as error:
        raise SearchError(f"body: not JSON: {error}") from error
    if not isinstance(content, dict):
        raise SearchError("body: expected an object")
    return content


def _extent(entries: Sequence[Entry]) -> dict[str, Any]:
    left, bottom, right, top = zip(*(entry.geometry.bounds for entry in entries), strict=True)
    interval = [
        moment.isoformat().replace("+00:00", "Z")
        for moment in (min(entry.start for entry in entries), max(entry.end for entry in entries))
    ]
    bbox = [min(left), min(bottom), max(right), max(top)]
    return {"spatial": {"bbox": [bbox]}, "temporal": {"interval": [interval]}}


def _link(rel: str, href: str, content_type: str = "application/json") -> dict[str, Any]:
    return {"rel": rel, "type": content_type, "href": href}
