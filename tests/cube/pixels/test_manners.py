"""Blobs as other services, proxies and other days serve them, over real sockets."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from planetary_computer.settings import Settings

from cube.config.models import CatalogConfig
from cube.config.sensors import SENSORS
from cube.errors import LostSceneError, ServiceError
from cube.pixels import access, signing
from cube.pixels.access import Access
from cube.pixels.notes import ReadNotes
from cube.pixels.read import read_scene
from cube.scenes.catalog import ApiCatalog
from cube.scenes.items import parse_item
from cube.scenes.query import Query
from cube.testing import sentinel2_item, utm_geobox, write_cog
from cube.testing.service import Manner, StandIn

GRID = utm_geobox(32633, (300_000, 5_490_240, 307_680, 5_497_920), 10)
SENSOR = SENSORS["s2l2a"]
HALVES = ((slice(0, 300), slice(0, 700)), (slice(400, 768), slice(0, 700)))
"""Windows that share no row of tiles."""
BLOBS = "/sentinel2l2a01/*"

Start = Callable[..., StandIn]


def pixels(number: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(number).integers(1, 4000, GRID.shape, dtype="uint16")


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    item = sentinel2_item(GRID, datetime(2023, 1, 1, 10, tzinfo=UTC), assets=("B04",), root="./blobs")
    write_cog(tmp_path / item["assets"]["B04"]["href"], pixels(0), GRID, nodata=0, blocksize=256)
    (tmp_path / "items.json").write_text(json.dumps({"type": "FeatureCollection", "features": [item]}))
    return tmp_path


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, archive: Path) -> Iterator[Start]:
    """Start a stand-in, and point the SDK and GDAL of this process to it."""
    running: list[StandIn] = []

    def begin(**options: Any) -> StandIn:
        service = StandIn(archive, **options).__enter__()
        running.append(service)
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.delenv(name, raising=False)
        for name, value in service.environment().items():
            monkeypatch.setenv(name, value)
        monkeypatch.setitem(access._GDAL_OPTIONS, "GDAL_HTTP_RETRY_DELAY", 0.05)
        Settings.get.cache_clear()
        monkeypatch.setattr(signing, "_TOKENS", signing._TokenCache())
        return service

    yield begin
    for service in running:
        service.__exit__(None, None, None)
    Settings.get.cache_clear()


def read(
    service: StandIn, half: int = 0, notes: ReadNotes | None = None, *, anew: bool = False
) -> np.ndarray[Any, Any]:
    [item] = ApiCatalog(CatalogConfig(url=service.url)).search(Query(("sentinel-2-l2a",)))
    scene = parse_item(item, SENSOR, ["B04"])
    how = Access(sign=True, wait_s=0.05)
    if anew:
        access.read_past_caches(scene.assets["B04"].href, how)
    grid, band = GRID[HALVES[half]], SENSOR.band("B04")
    return read_scene(scene, SENSOR, band, grid, how, resampling="nearest", notes=notes)


def test_redirects_are_followed(start: Start) -> None:
    service = start()
    service.serve(BLOBS, Manner.REDIRECTED)
    np.testing.assert_array_equal(read(service), pixels(0)[HALVES[0]])
    statuses = [request.status for request in service.requests if request.role == "blob"]
    assert {307, 206} <= set(statuses)


def test_a_service_that_ignores_range_stops_the_run_and_blames_no_item(start: Start) -> None:
    service = start()
    service.serve(BLOBS, Manner.WHOLE)
    with pytest.raises(
        ServiceError, match=r"sentinel2-l2: it sends whole files .*Range is ignored.* no item's"
    ):
        read(service)
    service.lift()
    np.testing.assert_array_equal(read(service), pixels(0)[HALVES[0]])


def test_a_blob_that_is_stored_gzipped_is_no_raster(start: Start) -> None:
    service = start()
    service.serve(BLOBS, Manner.GZIPPED)
    with pytest.raises(LostSceneError, match="the file is no raster"):
        read(service)
    assert sum(request.role == "blob" for request in service.requests) <= 6  # two tries


def test_a_file_that_changes_between_header_and_tile_is_read_anew(start: Start, archive: Path) -> None:
    service = start()
    np.testing.assert_array_equal(read(service), pixels(0)[HALVES[0]])
    [path] = archive.rglob("*_B04_10m.tif")
    newer = np.random.default_rng(9).integers(1, 12_000, GRID.shape, dtype="uint16")
    other = path.with_name("other.tif")
    write_cog(other, newer, GRID, nodata=0, blocksize=256)
    other.replace(path)
    np.testing.assert_array_equal(read(service, 1), newer[HALVES[1]])


def test_another_version_of_a_file_is_told_from_the_one_before(start: Start, archive: Path) -> None:
    service, first, second, third = start(), ReadNotes(), ReadNotes(), ReadNotes()
    read(service, 0, first)
    read(service, 1, second, anew=True)
    assert len(first.files) == 1
    assert first.files == second.files
    [path] = archive.rglob("*_B04_10m.tif")
    write_cog(path, pixels(1), GRID, nodata=0, blocksize=256)
    read(service, 0, third, anew=True)
    assert {file[:2] for file in third.files} == {file[:2] for file in first.files}
    assert third.files.isdisjoint(first.files)


def test_ipv6_is_spoken(start: Start) -> None:
    try:
        service = start(host="::1")
    except OSError:
        pytest.skip("this machine has no IPv6")
    assert "[::1]" in service.url
    np.testing.assert_array_equal(read(service), pixels(0)[HALVES[0]])


@pytest.mark.parametrize(("status", "tries"), [(404, 2), (410, 2)])
def test_a_missing_file_is_asked_for_twice(start: Start, status: int, tries: int) -> None:
    service = start()
    service.fail(BLOBS, status)
    with pytest.raises(LostSceneError, match=rf"the file is missing \(HTTP {status}\)"):
        read(service)
    assert len({request.query for request in service.requests if request.role == "blob"}) == tries


@pytest.mark.parametrize("status", [401, 403])
def test_a_container_that_refuses_fresh_tokens_stops_the_run(start: Start, status: int) -> None:
    service = start()
    service.fail(BLOBS, status)
    with pytest.raises(
        ServiceError, match=rf"windows\.net/sentinel2-l2 lets nobody read \(HTTP {status}, even"
    ):
        read(service)
    assert service.counts()["token"] == 3
    service.lift()
    np.testing.assert_array_equal(read(service), pixels(0)[HALVES[0]])


def test_smaller_pages_are_asked_for_after_a_504(start: Start) -> None:
    service = start(most_in_time=100)
    catalog = ApiCatalog(CatalogConfig(url=service.url, page_size=1000, retries=0))
    for _ in range(2):
        assert len(catalog.search(Query(("sentinel-2-l2a",)))) == 1
    limits = [json.loads(request.body)["limit"] for request in service.requests]
    assert limits == [1000, 500, 250, 125, 62, 62]
