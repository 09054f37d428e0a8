"""The stand-in for the Planetary Computer, asked by the clients that will use it, over real sockets."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from xml.etree import ElementTree as ET

import numpy as np
import pystac_client
import pytest
import rasterio
import requests
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from pystac_client.stac_api_io import StacApiIO
from rasterio import Affine
from rasterio.errors import RasterioIOError
from rasterio.windows import Window

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # the SDK's models are of an older pydantic
    import planetary_computer
    from planetary_computer import sas, settings

from cube.testing.service import Faults, Kind, Request, Role, StandIn
from cube.testing.service.__main__ import main
from cube.testing.service.blobs import RangeError, parse_range
from cube.testing.service.faults import FaultBook, can_befall
from cube.testing.service.messages import Call
from cube.testing.service.search import Entry, Search, SearchError, body_of_query, parse_interval, run, select
from cube.testing.service.stac import blob_url

BAND = "sentinel/scenes/{}/B04.tif"
WINDOW = Window(0, 0, 64, 64)
"""Within one tile."""
ALL_WELL: dict[str, str] = {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR", "GDAL_HTTP_TIMEOUT": "5"}


def make_item(number: int, collection: str = "sentinel", **properties: Any) -> dict[str, Any]:
    left, bottom = 15.0 + number, 45.0
    ring = [[left, bottom], [left + 1, bottom], [left + 1, bottom + 1], [left, bottom + 1], [left, bottom]]
    moment = datetime(2023, 1, 1, 10, tzinfo=UTC) + timedelta(days=10 * number)
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "stac_extensions": [],
        "id": f"{collection}-{number:02}",
        "collection": collection,
        "bbox": [left, bottom, left + 1, bottom + 1],
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {
            "datetime": moment.isoformat().replace("+00:00", "Z"),
            "eo:cloud_cover": 5.0 * number,
            "platform": f"sentinel-2{'ab'[number % 2]}",
            **properties,
        },
        "links": [{"rel": "via", "href": "https://example.org/via"}, {"rel": "self", "href": "./old.json"}],
        "assets": {"B04": {"href": f"./blobs/{collection}/scenes/{number}/B04.tif"}},
    }


def make_period(year: int) -> dict[str, Any]:
    start, end = f"{year}-01-01T00:00:00Z", f"{year + 1}-01-01T00:00:00Z"
    return make_item(
        year - 2020, "landcover", datetime=None, start_datetime=start, end_datetime=end, **{"io:tile": "33T"}
    )


ITEMS = [*(make_item(number) for number in range(8)), make_period(2022), make_period(2023)]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    (folder / "items.json").write_text(json.dumps({"type": "FeatureCollection", "features": ITEMS}))
    for name in (BAND.format(0), BAND.format(1), "landcover/scenes/2/B04.tif"):
        path = folder / "blobs" / name
        path.parent.mkdir(parents=True)
        pixels = np.random.default_rng(7).integers(0, 4000, (512, 512), dtype="uint16")
        profile = {"driver": "COG", "blocksize": 128, "compress": "deflate", "crs": "EPSG:32633"}
        shape = {"height": 512, "width": 512, "count": 1, "dtype": "uint16"}
        transform = Affine(10, 0, 500_000, 0, -10, 5_000_000)
        with rasterio.open(path, "w", **profile, **shape, transform=transform) as file:
            file.write(pixels, 1)
    return folder


Start = Callable[..., StandIn]


@pytest.fixture
def start(archive: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Start a stand-in, and point the SDK and GDAL of this process to it."""
    running: list[StandIn] = []

    def begin(**options: Any) -> StandIn:
        service = StandIn(archive, **options).__enter__()
        running.append(service)
        for name, value in {**ALL_WELL, **service.environment()}.items():
            monkeypatch.setenv(name, value)
        settings.Settings.get.cache_clear()
        return service

    yield begin
    for service in running:
        service.__exit__(None, None, None)
    settings.Settings.get.cache_clear()
    sas.TOKEN_CACHE.clear()


@pytest.fixture
def service(start: Start) -> StandIn:
    return start()


@pytest.fixture
def client(service: StandIn) -> Iterator[pystac_client.Client]:
    io = StacApiIO()
    yield pystac_client.Client.open(service.url, stac_io=io)
    io.session.close()


def sign(name: str = BAND.format(0), nonce: str = "") -> str:
    account, _, path = name.partition("/")
    signed: str = planetary_computer.sign(f"http://{account}.blob.core.windows.net/{path}")
    return f"{signed}&nonce={nonce}" if nonce else signed


def read(url: str) -> NDArray[Any]:
    with rasterio.open(url) as file:
        pixels: NDArray[Any] = file.read(1, window=WINDOW)
    return pixels


def fetch(service: StandIn, url: str, method: str = "GET", **headers: str) -> requests.Response:
    proxies = {"http": service.origin}
    with requests.Session() as session:
        session.trust_env = False
        return session.request(method, url, headers=headers, proxies=proxies, timeout=5)


def post(service: StandIn, **body: Any) -> requests.Response:
    with requests.Session() as session:
        return session.post(f"{service.url}/search", json=body, timeout=5)


def found(service: StandIn, **body: Any) -> list[str]:
    return [item["id"] for item in post(service, **body).json()["features"]]


def code_of(response: requests.Response) -> str | None:
    return ET.fromstring(response.content.decode("utf-8-sig")).findtext("Code")


# ---------------------------------------------------------------- search, over the wire


@pytest.mark.parametrize("method", ["POST", "GET"])
@pytest.mark.parametrize("limit", [1, 3, 4, 8, 250])
def test_pages_hold_every_item_once(client: pystac_client.Client, method: str, limit: int) -> None:
    items = list(client.search(collections=["sentinel"], limit=limit, method=method).items_as_dicts())
    assert [item["id"] for item in items] == [f"sentinel-{number:02}" for number in reversed(range(8))]


def test_next_link_of_a_post_repeats_the_whole_body(service: StandIn) -> None:
    body = {"collections": ["sentinel"], "limit": 2, "query": {"eo:cloud_cover": {"lt": 20}}}
    page = post(service, **body).json()
    links = {link["rel"]: link for link in page["links"]}
    assert links["next"]["method"] == "POST"
    assert links["next"]["href"] == f"{service.url}/search"
    assert links["next"]["body"] == {**body, "token": "next:sentinel:sentinel-02"}
    assert page["numberReturned"] == 2
    assert "numberMatched" not in page
    last = post(service, **links["next"]["body"]).json()
    assert [link["rel"] for link in last["links"]] == ["root", "self"]


def test_next_link_of_a_collections_items_has_the_token_in_its_query(service: StandIn) -> None:
    with requests.Session() as session:
        page = session.get(f"{service.url}/collections/sentinel/items?limit=5", timeout=5).json()
        link = page["links"][0]
        assert link["method"] == "GET"
        assert link["href"].endswith("/collections/sentinel/items?limit=5&token=next:sentinel:sentinel-03")
        rest = session.get(link["href"], timeout=5).json()
    assert len(page["features"] + rest["features"]) == 8


def test_page_cap_is_below_any_limit_asked_for(start: Start) -> None:
    service = start(page_cap=3)
    assert len(found(service, collections=["sentinel"], limit=100)) == 3
    search = pystac_client.Client.open(service.url).search(limit=100)
    assert len(list(search.items_as_dicts())) == len(ITEMS)
    assert service.counts()["search"] == 1 + 4


def test_items_come_with_the_links_and_hrefs_of_the_service(client: pystac_client.Client) -> None:
    (item,) = client.search(ids=["sentinel-00"]).items()
    root = client.self_href.rstrip("/")
    assert item.assets["B04"].href == "http://sentinel.blob.core.windows.net/scenes/0/B04.tif"
    assert item.get_self_href() == f"{root}/collections/sentinel/items/sentinel-00"
    links = [link["rel"] for link in item.to_dict(transform_hrefs=False)["links"]]
    assert links == ["collection", "parent", "root", "self", "via"]


def test_documents_can_be_walked(client: pystac_client.Client) -> None:
    collections = {collection.id: collection for collection in client.get_collections()}
    assert set(collections) == {"sentinel", "landcover"}
    landcover = collections["landcover"]
    assert landcover.extra_fields["msft:storage_account"] == "landcover"
    assert landcover.extra_fields["msft:container"] == "scenes"
    assert landcover.extent.temporal.to_dict()["interval"] == [
        ["2022-01-01T00:00:00Z", "2024-01-01T00:00:00Z"]
    ]
    item = landcover.get_item("landcover-03")
    assert item is not None
    assert item.properties["io:tile"] == "33T"


@pytest.mark.parametrize(
    "path", ["nowhere", "collections/x", "collections/x/items", "collections/sentinel/items/x"]
)
def test_missing_documents_are_404(service: StandIn, path: str) -> None:
    response = fetch(service, f"{service.url}/{path}")
    assert response.status_code == 404
    assert response.json()["code"] == "NotFoundError"


@pytest.mark.parametrize(
    "body",
    [
        {"limit": 0},
        {"limit": 1001},
        {"limit": "many"},
        {"token": "next:sentinel:none"},
        {"datetime": "soon"},
        {"datetime": "2023-02-01T00:00:00Z/2023-01-01T00:00:00Z"},
        {"bbox": [1, 2, 3]},
        {"bbox": [0, 0, 1, 1], "intersects": {"type": "Point", "coordinates": [0, 0]}},
        {"intersects": {"type": "Circle"}},
        {"collections": "sentinel"},
        {"query": {"eo:cloud_cover": {"below": 3}}},
        {"sortby": ["datetime"]},
        {"filter": {}},
    ],
)
def test_malformed_searches_are_400(service: StandIn, body: dict[str, Any]) -> None:
    response = post(service, **body)
    assert response.status_code == 400
    assert response.json()["code"] == "RequestValidationError"


def test_a_body_that_is_not_json_is_400(service: StandIn) -> None:
    with requests.Session() as session:
        for text in ("{", "[]"):
            assert session.post(f"{service.url}/search", data=text, timeout=5).status_code == 400


@pytest.mark.parametrize(
    ("parameters", "body"),
    [
        ({"collections": "a,b", "ids": "x"}, {"collections": ["a", "b"], "ids": ["x"]}),
        ({"bbox": "1,2,3.5,4", "limit": "5"}, {"bbox": [1.0, 2.0, 3.5, 4.0], "limit": 5}),
        ({"query": '{"a":{"lt":1}}', "token": "t"}, {"query": {"a": {"lt": 1}}, "token": "t"}),
        (
            {"sortby": "-datetime,+id,a"},
            {
                "sortby": [
                    {"field": "datetime", "direction": "desc"},
                    {"field": "id", "direction": "asc"},
                    {"field": "a", "direction": "asc"},
                ]
            },
        ),
        ({"fields": "id,+a,-b"}, {"fields": {"include": ["id", "a"], "exclude": ["b"]}}),
        ({"datetime": ""}, {}),
    ],
)
def test_a_get_search_means_the_same_as_a_post(parameters: dict[str, str], body: dict[str, Any]) -> None:
    assert body_of_query(parameters) == body


def test_an_unreadable_parameter_is_refused() -> None:
    with pytest.raises(SearchError, match="limit: cannot read 'x'"):
        body_of_query({"limit": "x"})


# ---------------------------------------------------------------- search, its meaning

ENTRIES = [Entry.of({**item, "links": []}) for item in ITEMS]


def ids(**body: Any) -> list[str]:
    return [item["id"] for item in run(ENTRIES, Search.of(body)).items]


@pytest.mark.parametrize(
    ("interval", "numbers"),
    [
        ("2023-01-11T10:00:00Z/2023-01-31T10:00:00Z", [3, 2, 1]),  # both ends count
        ("2023-01-11T10:00:01Z/2023-01-31T09:59:59Z", [2]),
        ("2023-01-11T11:00:00+01:00", [1]),
        ("2023-01-11T10:00:01Z", []),
        ("../2023-01-11T10:00:00Z", [1, 0]),
        ("/2023-01-11T10:00:00Z", [1, 0]),
        ("2023-03-02T10:00:00Z/..", [7, 6]),
        ("2023-03-02T10:00:00Z/", [7, 6]),
        ("2023-01-10/2023-01-11", []),  # a bare date is its midnight
        ("2023-01-11/2023-01-12", [1]),
    ],
)
def test_datetime_of_instants(interval: str, numbers: list[int]) -> None:
    expected = [f"sentinel-{number:02}" for number in numbers]
    assert ids(collections=["sentinel"], datetime=interval) == expected


@pytest.mark.parametrize(
    ("interval", "years"),
    [
        ("2023-01-02T00:00:00Z/2023-12-31T23:59:59Z", [2023]),
        ("2023-01-01T00:00:00Z/2023-12-31T23:59:59Z", [2023, 2022]),  # 2022 ends at that instant
        ("2023-01-01T00:00:00Z", [2023, 2022]),
        ("2024-01-01T00:00:00Z/..", [2023]),
        ("2024-01-01T00:00:01Z/..", []),
        ("2022-06-01T00:00:00Z/2022-06-02T00:00:00Z", [2022]),
    ],
)
def test_datetime_of_periods_is_overlap(interval: str, years: list[int]) -> None:
    expected = [f"landcover-{year - 2020:02}" for year in years]
    assert ids(collections=["landcover"], datetime=interval) == expected


@pytest.mark.parametrize(
    ("query", "numbers"),
    [
        ({"eo:cloud_cover": {"lt": 10}}, [1, 0]),
        ({"eo:cloud_cover": {"lte": 10}}, [2, 1, 0]),
        ({"eo:cloud_cover": {"gt": 30}}, [7]),
        ({"eo:cloud_cover": {"gte": 30, "lt": 35}}, [6]),
        ({"properties.eo:cloud_cover": {"eq": 15}}, [3]),
        ({"platform": {"neq": "sentinel-2a"}}, [7, 5, 3, 1]),
        ({"platform": {"in": ["sentinel-2a"]}, "eo:cloud_cover": {"lt": 11}}, [2, 0]),
        ({"platform": {"startsWith": "sentinel"}, "eo:cloud_cover": {"lt": 1}}, [0]),
        ({"platform": {"endsWith": "2b"}, "eo:cloud_cover": {"lt": 11}}, [1]),
        ({"platform": {"contains": "nel-2"}, "id": {"eq": "sentinel-04"}}, [4]),
        ({"datetime": {"gte": "2023-03-02T10:00:00Z"}, "collection": {"eq": "sentinel"}}, [7, 6]),
        ({"platform": {"lt": 3}}, []),  # text is not a number
        ({"eo:cloud_cover": {"startsWith": "1"}}, []),
        ({"nothing": {"neq": 1}}, []),  # a missing value is not unequal either
    ],
)
def test_query(query: dict[str, Any], numbers: list[int]) -> None:
    assert ids(collections=["sentinel"], query=query) == [f"sentinel-{number:02}" for number in numbers]


@pytest.mark.parametrize(
    ("where", "numbers"),
    [
        ({"bbox": [15.2, 45.2, 15.3, 45.3]}, [0]),
        ({"bbox": [15.2, 45.2, -9, 15.3, 45.3, 9]}, [0]),
        ({"bbox": [16, 46, 16.5, 47]}, [1, 0]),  # edges and corners touch
        ({"intersects": {"type": "Point", "coordinates": [17.5, 45.5]}}, [2]),
        ({"intersects": {"type": "LineString", "coordinates": [[17.5, 45.5], [18.5, 45.5]]}}, [3, 2]),
        ({"bbox": [0, 0, 1, 1]}, []),
    ],
)
def test_geometry(where: dict[str, Any], numbers: list[int]) -> None:
    assert ids(collections=["sentinel"], **where) == [f"sentinel-{number:02}" for number in numbers]


def test_missing_values_sort_last_and_first_when_descending() -> None:
    def sorted_ids(direction: str) -> list[str]:
        return ids(sortby=[{"field": "properties.io:tile", "direction": direction}])

    assert sorted_ids("asc")[:2] == ["landcover-03", "landcover-02"]  # then by id, descending
    assert sorted_ids("desc")[-2:] == ["landcover-03", "landcover-02"]


def test_sort_keys_work_together() -> None:
    keys = [{"field": "platform", "direction": "desc"}, {"field": "eo:cloud_cover", "direction": "asc"}]
    order = [int(name[-2:]) for name in ids(collections=["sentinel"], sortby=keys)]
    assert order == [1, 3, 5, 7, 0, 2, 4, 6]


@given(
    limit=st.integers(1, 12),
    cap=st.integers(1, 12),
    field=st.sampled_from(["datetime", "platform", "eo:cloud_cover", "io:tile", "id"]),
    direction=st.sampled_from(["asc", "desc"]),
)
def test_pages_joined_are_the_whole(limit: int, cap: int, field: str, direction: str) -> None:
    search = Search.of({"sortby": [{"field": field, "direction": direction}], "limit": limit})
    whole = run(ENTRIES, replace(search, limit=250)).items
    pages: list[Any] = []
    token: str | None = None
    while token is not None or not pages:
        page = run(ENTRIES, replace(search, token=token), cap)
        pages.extend(page.items)
        token = page.token
    assert tuple(pages) == whole
    assert len(whole) == len(ITEMS)


def test_fields() -> None:
    item = ITEMS[0]
    chosen = select(
        item, ["properties.platform", "properties.eo:cloud_cover", "bbox", "none", "properties.x"], []
    )
    assert set(chosen) == {"id", "collection", "links", "properties", "bbox"}
    assert chosen["properties"] == {"platform": "sentinel-2a", "eo:cloud_cover": 0.0}
    rest = select(item, [], ["properties.platform", "geometry", "none"])
    assert set(item) - set(rest) == {"geometry"}
    assert set(item["properties"]) - set(rest["properties"]) == {"platform"}


def test_fields_over_the_wire(client: pystac_client.Client) -> None:
    search = client.search(collections=["sentinel"], fields=["-geometry", "-assets"], max_items=1)
    assert {"geometry", "assets"}.isdisjoint(next(iter(search.items_as_dicts())))


def test_an_item_without_geometry_is_where_its_bbox_is() -> None:
    entry = Entry.of({**ITEMS[0], "geometry": None})
    assert entry.geometry.bounds == (15.0, 45.0, 16.0, 46.0)


def test_an_interval_that_is_open_on_both_sides_is_all_time() -> None:
    start, end = parse_interval("../..")
    assert start.year == 1
    assert end.year == 9999


# ---------------------------------------------------------------- tokens


def test_sdk_signs_and_reads_are_let_in(service: StandIn) -> None:
    query = parse_qs(urlsplit(sign()).query)
    assert list(query) == ["st", "se", "sp", "sv", "sr", "skoid", "sktid", "skt", "ske", "sks", "skv", "sig"]
    assert query["sr"] == ["c"]
    assert query["sp"] == ["rl"]
    assert fetch(service, sign()).status_code == 200
    assert service.counts()["token"] == 1  # the SDK keeps it


def test_sdk_signs_what_a_search_finds(service: StandIn) -> None:
    client = pystac_client.Client.open(service.url, modifier=planetary_computer.sign_inplace)
    items = list(client.search(collections=["sentinel"], limit=3).items())
    assert all("sig=" in item.assets["B04"].href for item in items)
    assert service.counts()["token"] == 1


def test_short_lived_tokens_are_asked_for_each_time(start: Start) -> None:
    service = start(token_lifetime_s=20)
    for _ in range(3):
        sign()
    assert service.counts()["token"] == 3


def test_collections_have_tokens_too(service: StandIn) -> None:
    answer = fetch(service, f"{service.sas_url}/landcover").json()
    assert set(answer) == {"msft:expiry", "token"}
    expiry = datetime.fromisoformat(answer["msft:expiry"])
    assert timedelta(minutes=59) < expiry - datetime.now(UTC) < timedelta(minutes=61)
    url = "http://landcover.blob.core.windows.net/scenes/2/B04.tif"
    assert fetch(service, f"{url}?{answer['token']}").status_code == 200


def test_containers_that_do_not_exist_have_no_token(service: StandIn) -> None:
    assert fetch(service, f"{service.sas_url}/sentinel/nothing").status_code == 404


def test_unsigned_reads_are_refused(service: StandIn) -> None:
    response = fetch(service, sign().partition("?")[0])
    assert response.status_code == 403
    assert response.headers["x-ms-error-code"] == code_of(response) == "AuthenticationFailed"


def test_tokens_of_another_container_are_refused(service: StandIn) -> None:
    _, _, token = sign("landcover/scenes/2/B04.tif").partition("?")
    response = fetch(service, f"{sign().partition('?')[0]}?{token}")
    assert response.status_code == 403
    assert "Signature did not match" in response.text


def test_tokens_of_another_service_are_refused(start: Start) -> None:
    url = sign() if start() else ""
    assert fetch(start(), url).status_code == 403


def test_tokens_run_out(start: Start) -> None:
    now = time.time()
    service = start(token_lifetime_s=100, clock=lambda: now)
    url = sign()
    now += 99
    assert fetch(service, url).status_code == 200
    now += 3
    response = fetch(service, url)
    assert response.status_code == 403
    assert "Signature not valid in the specified time frame: Start [" in response.text


def test_tokens_end_when_told(service: StandIn) -> None:
    url = sign()
    service.expire_tokens()
    refused = fetch(service, url)
    assert refused.status_code == 403
    assert "Signature not valid in the specified time frame" in refused.text
    sas.TOKEN_CACHE.clear()
    assert fetch(service, sign()).status_code == 200


def test_some_containers_need_a_key(start: Start) -> None:
    service = start(key_required=["sentinel/scenes"], subscription_key="right")
    address = f"{service.sas_url}/sentinel/scenes"
    assert fetch(service, address).status_code == 401
    assert fetch(service, address, **{"Ocp-Apim-Subscription-Key": "wrong"}).status_code == 401
    assert fetch(service, f"{service.sas_url}/landcover/scenes").status_code == 200
    planetary_computer.set_subscription_key("right")
    assert fetch(service, sign()).status_code == 200


def test_too_many_requests_for_tokens(service: StandIn) -> None:
    service.fail("/api/sas/*", 429)
    response = fetch(service, f"{service.sas_url}/sentinel/scenes")
    assert response.status_code == 429
    assert response.headers["Retry-After"] == "1"
    assert response.json() == {
        "statusCode": 429,
        "message": "Rate limit is exceeded. Try again in 1 seconds.",
    }


# ---------------------------------------------------------------- blobs


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, (0, 100)),
        ("bytes=0-9", (0, 10)),
        ("bytes=90-", (90, 100)),
        ("bytes=90-500", (90, 100)),
        ("bytes=-10", (90, 100)),
        ("bytes=-500", (0, 100)),
        ("bytes=99-99", (99, 100)),
        ("bytes=0-1,5-6", (0, 100)),
        ("bytes=-", (0, 100)),
        ("lines=1-2", (0, 100)),
    ],
)
def test_parse_range(header: str | None, expected: tuple[int, int]) -> None:
    assert parse_range(header, 100) == expected


@pytest.mark.parametrize("header", ["bytes=100-", "bytes=5-4", "bytes=-0"])
def test_parse_range_outside(header: str) -> None:
    with pytest.raises(RangeError):
        parse_range(header, 100)


def test_ranges_over_the_wire(service: StandIn, archive: Path) -> None:
    whole = (archive / "blobs" / BAND.format(0)).read_bytes()
    response = fetch(service, sign())
    assert (response.status_code, response.content) == (200, whole)
    assert response.headers["Accept-Ranges"] == "bytes"
    tag = response.headers["ETag"]
    response = fetch(service, sign(), Range="bytes=1000-1999")
    assert (response.status_code, response.content) == (206, whole[1000:2000])
    assert response.headers["Content-Range"] == f"bytes 1000-1999/{len(whole)}"
    assert response.headers["ETag"] == tag
    response = fetch(service, sign(), Range=f"bytes={len(whole)}-")
    assert (response.status_code, code_of(response)) == (416, "InvalidRange")
    assert response.headers["Content-Range"] == f"bytes */{len(whole)}"
    response = fetch(service, sign(), "HEAD")
    assert (response.status_code, response.content) == (200, b"")
    assert response.headers["Content-Length"] == str(len(whole))


@pytest.mark.parametrize(
    "name", ["sentinel/scenes/9/B04.tif", "sentinel/scenes/0", "sentinel/scenes/../../../items.json"]
)
def test_blobs_that_do_not_exist(service: StandIn, name: str) -> None:
    connection = http.client.HTTPConnection(service.proxy, timeout=5)
    token = urlsplit(sign()).query
    connection.request("GET", f"http://sentinel.blob.core.windows.net/{name.partition('/')[2]}?{token}")
    response = connection.getresponse()
    body = response.read()
    connection.close()
    assert response.status == 404
    assert b"BlobNotFound" in body


def test_blobs_are_read_only(service: StandIn) -> None:
    response = fetch(service, sign(), "PUT")
    assert (response.status_code, code_of(response)) == (405, "UnsupportedHttpVerb")


def test_blobs_answer_to_a_host_header_as_well(service: StandIn, archive: Path) -> None:
    parts = urlsplit(sign())
    connection = http.client.HTTPConnection(service.proxy, timeout=5)
    connection.request("GET", f"{parts.path}?{parts.query}", headers={"Host": parts.netloc})
    body = connection.getresponse().read()
    connection.close()
    assert body == (archive / "blobs" / BAND.format(0)).read_bytes()


def test_other_hosts_are_not_reached(service: StandIn) -> None:
    assert fetch(service, "http://example.org/page").status_code == 502
    with pytest.raises(RasterioIOError, match="CONNECT tunnel failed"):
        rasterio.open(sign().replace("http://", "https://"))
    page, *tunnels = [request.path for request in service.requests if request.role is Role.OTHER]
    assert page == "/page"
    assert set(tunnels) == {"sentinel.blob.core.windows.net:443"}  # newer GDAL asks twice


def test_rasterio_reads_the_pixels_of_the_file_by_ranges_alone(service: StandIn, archive: Path) -> None:
    remote = read(sign())
    with rasterio.open(archive / "blobs" / BAND.format(0)) as file:
        np.testing.assert_array_equal(remote, file.read(1, window=WINDOW))
    blobs = [request for request in service.requests if request.role is Role.BLOB]
    assert {request.path for request in blobs} == {f"/{BAND.format(0)}"}  # no sidecar, no folder
    assert [request.method for request in blobs] == ["HEAD", *["GET"] * (len(blobs) - 1)]
    assert all(request.range for request in blobs[1:])
    assert {request.status for request in blobs} == {200, 206}


def test_hrefs_of_elsewhere_are_left_alone() -> None:
    assert blob_url("https://example.org/blobs/a/b") == "https://example.org/blobs/a/b"
    assert blob_url("thumbnail.png") == "thumbnail.png"
    assert blob_url("blobs/a/b/c d.tif") == "http://a.blob.core.windows.net/b/c d.tif"


# ---------------------------------------------------------------- faults, as clients see them


@pytest.mark.parametrize(
    ("how", "status", "code"),
    [
        (404, 404, "BlobNotFound"),
        (403, 403, "AuthenticationFailed"),
        (Kind.EXPIRED, 403, "AuthenticationFailed"),
        (Kind.ERROR, 500, "InternalError"),
        (Kind.BUSY, 503, "ServerBusy"),
        (504, 504, "InternalError"),
    ],
)
def test_statuses_of_blobs(service: StandIn, how: Kind | int, status: int, code: str) -> None:
    url = sign()
    service.fail("/sentinel/*", how)
    response = fetch(service, url)
    assert (response.status_code, code_of(response)) == (status, code)
    assert service.requests[-1].fault == str(how)
    service.lift()
    assert fetch(service, url).status_code == 200


@pytest.mark.parametrize(("how", "status"), [(Kind.ERROR, 500), (Kind.BUSY, 503), (Kind.THROTTLED, 429)])
def test_statuses_of_searches(service: StandIn, how: Kind, status: int) -> None:
    service.fail("*/search", how)
    response = post(service)
    assert (response.status_code, response.json()["statusCode"]) == (status, status)


def test_late_and_slow_answers_are_right(start: Start, archive: Path) -> None:
    service = start(faults=Faults(late_s=0.3, slow_s=0.4))
    whole = (archive / "blobs" / BAND.format(0)).read_bytes()
    url = sign()
    for kind in (Kind.LATE, Kind.SLOW):
        service.fail("/sentinel/*", kind)
        began = time.monotonic()
        assert fetch(service, url).content == whole
        assert 0.29 < time.monotonic() - began < 2


def test_silence_is_met_with_a_timeout(service: StandIn) -> None:
    url = sign()
    service.fail("/sentinel/*", Kind.SILENT)
    with pytest.raises(requests.ReadTimeout), requests.Session() as session:
        session.get(url, proxies={"http": service.origin}, timeout=0.3)
    assert service.requests[-1].status == 0


def test_silence_ends_with_the_service(archive: Path) -> None:
    began = time.monotonic()
    with StandIn(archive, faults=Faults(silence_s=60)) as service:
        service.fail("*", Kind.SILENT)
        client = socket.create_connection(("127.0.0.1", int(service.proxy.rpartition(":")[2])))
        client.sendall(b"GET /api/stac/v1/ HTTP/1.1\r\nHost: x\r\n\r\n")
        while not service.requests:
            time.sleep(0.01)
    with client:
        assert client.recv(100) == b""
    assert time.monotonic() - began < 5


def test_resets_are_resets(service: StandIn) -> None:
    url = sign()
    service.fail("/sentinel/*", Kind.RESET)
    with pytest.raises(requests.ConnectionError, match="Connection reset by peer"):
        fetch(service, url)


def test_short_bodies_are_shorter_than_promised(service: StandIn) -> None:
    url = sign()
    service.fail("/sentinel/*", Kind.SHORT)
    with pytest.raises(requests.exceptions.ChunkedEncodingError, match="1000 bytes read, 1000 more expected"):
        fetch(service, url, Range="bytes=0-1999")
    assert service.requests[-1].sent == 1000


def test_corrupt_bodies_differ_in_one_byte_and_always_the_same(service: StandIn, archive: Path) -> None:
    whole = (archive / "blobs" / BAND.format(0)).read_bytes()
    url = sign()
    service.fail("/sentinel/*", Kind.CORRUPT)
    first, second = fetch(service, url).content, fetch(service, url).content
    assert first == second
    assert len(first) == len(whole)
    assert sum(a != b for a, b in zip(first, whole, strict=True)) == 1
    assert fetch(service, f"{url}x").status_code == 403  # refusals are not touched


def test_a_rule_is_for_what_it_names_until_it_is_lifted(service: StandIn) -> None:
    service.fail("*/0/B04.tif", 500)
    service.fail("*/1/B04.tif", 503)
    assert fetch(service, sign(BAND.format(0))).status_code == 500
    assert fetch(service, sign(BAND.format(1))).status_code == 503
    assert fetch(service, sign("landcover/scenes/2/B04.tif")).status_code == 200
    service.lift("*/0/B04.tif")
    assert fetch(service, sign(BAND.format(0))).status_code == 200
    assert fetch(service, sign(BAND.format(1))).status_code == 503


def test_connections_live_on_after_faults_that_leave_them_whole(service: StandIn) -> None:
    url = sign()
    with requests.Session() as session:
        session.trust_env = False
        session.proxies = {"http": service.origin}
        for how in (500, 403, Kind.CORRUPT):
            service.fail("/sentinel/*", how)
            session.get(url, timeout=5)
        service.lift()
        assert session.get(url, timeout=5).status_code == 200


# ---------------------------------------------------------------- faults, by chance


def call(number: int = 0, **changes: Any) -> Call:
    start = number * 100
    made = Call("GET", f"/{BAND.format(0)}", {}, {"range": f"bytes={start}-{start + 99}"}, b"", Role.BLOB)
    return replace(made, **changes)


def test_fates_repeat_with_the_seed_and_the_rate_is_kept() -> None:
    def fates(seed: int) -> list[Kind | int | None]:
        book = FaultBook(Faults(rate=0.2, seed=seed, kinds=dict.fromkeys(Kind, 1.0)))
        return [book.fate(call(number)) for number in range(2000)]

    assert fates(1) == fates(1) != fates(2)
    happened = [fate for fate in fates(1) if fate]
    assert 320 < len(happened) < 480
    assert {happened.count(kind) > 20 for kind in Kind} == {True}


def test_fates_do_not_hang_on_signatures_or_the_order_of_other_requests() -> None:
    one, other = FaultBook(Faults(rate=0.5, seed=3)), FaultBook(Faults(rate=0.5, seed=3))
    straight = {number: one.fate(call(number)) for number in range(50)}
    backward = {number: other.fate(call(number, query={"sig": "x"})) for number in reversed(range(50))}
    assert straight == backward


def test_services_repeat_their_faults(start: Start) -> None:
    def statuses() -> list[int]:
        kinds = {Kind.BUSY: 1.0, Kind.EXPIRED: 2.0}
        service = start(faults=Faults(rate=0.4, seed=5, kinds=kinds, roles=frozenset({Role.BLOB})))
        return [fetch(service, sign(nonce=str(n)), Range=f"bytes={n}-").status_code for n in range(40)]

    first = statuses()
    assert first == statuses()
    assert set(first) == {206, 403, 503}


def test_faults_are_not_more_in_a_row_than_allowed() -> None:
    book = FaultBook(Faults(rate=1.0, max_run=3))
    fates = [book.fate(call()) is None for _ in range(8)]
    assert fates == [False, False, False, True, False, False, False, True]


def test_a_path_has_no_more_faults_than_allowed() -> None:
    book = FaultBook(Faults(rate=1.0, max_run=None, max_per_path=2))
    assert [book.fate(call(number)) is None for number in range(5)] == [False, False, True, True, True]
    assert book.fate(call(path="/sentinel/scenes/1/B04.tif")) is not None


def test_kinds_befall_only_what_they_can() -> None:
    search = call(role=Role.SEARCH, method="POST")
    assert [kind for kind in Kind if not can_befall(kind, search)] == [Kind.CORRUPT, Kind.EXPIRED]
    assert [kind for kind in Kind if not can_befall(kind, call(method="HEAD"))] == [
        Kind.SLOW,
        Kind.SHORT,
        Kind.CORRUPT,
    ]
    assert {Faults(rate=1.0).draw(call(n), 1) for n in range(500)} == set(Kind) - {Kind.CORRUPT}
    only = Faults(rate=1.0, kinds={Kind.CORRUPT: 1.0})
    assert only.draw(search, 1) is None
    assert only.draw(call(), 1) is Kind.CORRUPT


@pytest.mark.parametrize("wrong", [{"rate": 1.5}, {"rate": -0.1}, {"kinds": {}}, {"kinds": {Kind.LATE: 0.0}}])
def test_faults_refuse_nonsense(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"rate is a share|kinds need weights"):
        Faults(**wrong)


def test_faults_can_be_changed_and_begun_anew(service: StandIn) -> None:
    url = sign()
    service.faults = Faults(rate=1.0, kinds={Kind.BUSY: 1.0}, max_run=1)
    statuses = [fetch(service, url).status_code for _ in range(2)]
    service.reset()
    assert [*statuses, fetch(service, url).status_code] == [503, 200, 503]


# ---------------------------------------------------------------- faults, as GDAL sees them

NEW_GDAL = tuple(int(part) for part in rasterio.__gdal_version__.split(".")[:2]) >= (3, 12)
"""It forgets a connection that was reset; GDAL of Python 3.11's rasterio remembers that, too."""


@pytest.mark.parametrize("how", [403, 404, 429, 500, 503, Kind.RESET])
def test_gdal_remembers_a_failed_url_until_the_url_changes(service: StandIn, how: Kind | int) -> None:
    url = sign(nonce=f"open-{how}")
    service.fail("/sentinel/*", how)
    with pytest.raises(RasterioIOError):
        rasterio.open(url)
    service.lift()
    service.reset()
    if not (NEW_GDAL and how is Kind.RESET):
        with pytest.raises(RasterioIOError):
            rasterio.open(url)
        assert not service.requests  # it did not even ask
    assert read(f"{url}-again").shape == (64, 64)


@pytest.mark.parametrize("how", [Kind.SHORT, Kind.CORRUPT])
def test_gdal_keeps_a_broken_body_until_the_url_changes(service: StandIn, how: Kind) -> None:
    url = sign(nonce=f"read-{how}")
    with rasterio.open(url) as file:
        service.fail("/sentinel/*", how)
        if NEW_GDAL and how is Kind.CORRUPT:
            pytest.skip("whether a corrupt body decodes is up to the decoder: this one takes it")
        with pytest.raises(RasterioIOError, match="Read failed"):
            file.read(1, window=WINDOW)
        service.lift()
        service.reset()
        with pytest.raises(RasterioIOError, match="Read failed"):
            file.read(1, window=WINDOW)
    with pytest.raises(RasterioIOError, match="Read failed"):
        read(url)
    assert not service.requests
    assert read(f"{url}-again").shape == (64, 64)


def test_gdal_notices_a_short_body_of_several_tiles_and_asks_again(service: StandIn) -> None:
    with rasterio.open(sign(nonce="tiles")) as file:
        service.fail("/sentinel/*", Kind.SHORT)
        with pytest.raises(RasterioIOError, match="Read failed"):
            file.read(1, window=Window(100, 100, 64, 64))
        service.lift()
        assert file.read(1, window=Window(100, 100, 64, 64)).shape == (64, 64)


def test_gdal_forgets_at_once_where_told_not_to_cache(service: StandIn) -> None:
    url = sign(nonce="non-cached")
    with rasterio.Env(CPL_VSIL_CURL_NON_CACHED="/vsicurl/http://sentinel.blob.core.windows.net"):
        service.fail("/sentinel/*", 503)
        with pytest.raises(RasterioIOError, match="HTTP response code: 503"):
            rasterio.open(url)
        service.lift()
        assert read(url).shape == (64, 64)


def test_gdal_retries_what_is_busy_if_told_so(start: Start) -> None:
    service = start(faults=Faults(rate=1.0, kinds={Kind.BUSY: 1.0}, max_run=1, roles=frozenset({Role.BLOB})))
    with rasterio.Env(GDAL_HTTP_MAX_RETRY="2", GDAL_HTTP_RETRY_DELAY="0.01"):
        assert read(sign()).shape == (64, 64)
    assert {request.status for request in service.requests if request.role is Role.BLOB} == {200, 206, 503}


def test_gdal_gives_up_on_silence_if_told_so(service: StandIn) -> None:
    url = sign()
    service.fail("/sentinel/*", Kind.SILENT)
    with rasterio.Env(GDAL_HTTP_TIMEOUT="1"), pytest.raises(RasterioIOError, match="timed out"):
        rasterio.open(url)


# ---------------------------------------------------------------- log


def test_every_request_is_on_record(service: StandIn) -> None:
    post(service, collections=["sentinel"])
    fetch(service, sign(nonce="7"), Range="bytes=0-99")
    search, token, blob = service.requests
    assert (search.role, search.method, search.path) == (Role.SEARCH, "POST", "/api/stac/v1/search")
    assert json.loads(search.body) == {"collections": ["sentinel"]}
    assert (token.role, token.path) == (Role.TOKEN, "/api/sas/v1/token/sentinel/scenes")
    assert (blob.path, blob.range, blob.status, blob.sent) == (f"/{BAND.format(0)}", "bytes=0-99", 206, 100)
    assert blob.query == "nonce=7"
    assert "sig" not in repr(service.requests)
    assert service.counts() == {"search": 1, "catalog": 0, "token": 1, "blob": 1, "other": 0}
    assert service.bytes_sent() == 100
    service.reset()
    assert service.requests == ()


def test_latency_is_adjustable(service: StandIn) -> None:
    url = sign()
    began = time.monotonic()
    fetch(service, url)
    service.latency_s = 0.3
    assert time.monotonic() - began < 0.3
    fetch(service, url)
    assert time.monotonic() - began > 0.3


def test_peak_is_the_most_at_once(start: Start) -> None:
    service = start(latency_s=0.2)
    url = sign()
    with ThreadPoolExecutor(5) as pool:
        list(pool.map(lambda _: fetch(service, url), range(10)))
    assert service.peak() == 5
    assert service.peak(Role.TOKEN) == 1
    service.reset()
    fetch(service, url)
    assert service.peak() == 1


def test_many_clients_get_what_they_asked_for(service: StandIn, archive: Path) -> None:
    whole = (archive / "blobs" / BAND.format(0)).read_bytes()
    parts = urlsplit(sign())

    def work(worker: int) -> bool:
        connection = http.client.HTTPConnection(service.proxy, timeout=5)
        right = True
        for number in range(50):
            first = (worker * 50 + number) * 97
            headers = {"Host": parts.netloc, "Range": f"bytes={first}-{first + 499}"}
            connection.request("GET", f"{parts.path}?{parts.query}", headers=headers)
            right &= connection.getresponse().read() == whole[first : first + 500]
        connection.close()
        return right

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(8)))
    assert service.counts()["blob"] == 400
    assert service.bytes_sent() == 400 * 500


def test_requests_under_way_at_a_reset_are_not_recorded_after_it(start: Start) -> None:
    service = start(latency_s=0.3)
    worker = threading.Thread(target=post, args=(service,))
    worker.start()
    while not service.requests:
        time.sleep(0.01)
    service.reset()
    assert service.peak(Role.SEARCH) == 1
    worker.join()
    assert service.requests == ()


# ---------------------------------------------------------------- as a process


def launch(archive: Path, *options: str) -> tuple[subprocess.Popen[str], dict[str, Any]]:
    command = [sys.executable, "-m", "cube.testing.service", str(archive), *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, json.loads(process.stdout.readline())


def test_process_serves_until_it_is_told_to_stop(archive: Path) -> None:
    process, addresses = launch(archive, "--page-cap", "2", "--lifetime", "60")
    with process, requests.Session() as session:
        origin = f"http://{addresses['proxy']}"
        assert addresses["pid"] == process.pid
        assert (
            addresses["environment"]["PC_SDK_SAS_URL"] == addresses["sas_url"] == f"{origin}/api/sas/v1/token"
        )
        page = session.post(f"{addresses['url']}/search", json={}, timeout=5).json()
        assert len(page["features"]) == 2
        summary = session.get(f"{origin}/stand-in/summary", timeout=5).json()
        assert summary["counts"]["search"] == summary["peak"]["search"] == 1
        assert summary["bytes_sent"]["search"] > 100
        (request,) = session.get(f"{origin}/stand-in/requests", timeout=5).json()
        assert Request(**request).path == "/api/stac/v1/search"
        assert session.post(f"{origin}/stand-in/reset", timeout=5).status_code == 200
        assert session.get(f"{origin}/stand-in/requests", timeout=5).json() == []
        assert session.get(f"{origin}/stand-in/nothing", timeout=5).status_code == 404
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


def test_process_stops_by_itself(archive: Path) -> None:
    process, _ = launch(archive, "--lifetime", "0.2", "--fault-rate", "0.5", "--fault-kinds", "busy", "short")
    with process:
        assert process.wait(10) == 0


def test_process_refuses_an_unknown_kind_of_fault(archive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([str(archive), "--fault-kinds", "gremlins"])
    assert "gremlins" in capsys.readouterr().err
