"""Phase one against a service that behaves like the Planetary Computer on its bad days, over real sockets."""

from __future__ import annotations

import json
import logging
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from odc.geo.geobox import GeoBox
from planetary_computer.settings import Settings
from pyproj import Transformer
from rasterio import Affine
from shapely import box
from shapely.geometry import mapping, shape

from cube.build.plans import plan_cubes
from cube.build.run import Layout, build_cubes
from cube.config.aoi import Aoi
from cube.config.models import CatalogConfig, Config
from cube.config.sensors import SENSORS
from cube.errors import CatalogError, ReadError, ServiceError
from cube.pixels import access, signing
from cube.pixels.access import Access
from cube.pixels.read import read_band, read_scene
from cube.run.engine import open_engine
from cube.run.status import AoiState
from cube.run.thread_engine import ThreadEngine
from cube.scenes.catalog import ApiCatalog, open_catalog
from cube.scenes.explain import Skipped
from cube.scenes.items import Scene, parse_item
from cube.scenes.plan import CubePlan
from cube.scenes.planner import plan_aoi
from cube.scenes.query import Query
from cube.testing import Archive, dem_item, lulc_item, sentinel2_item, utm_geobox, write_cog
from cube.testing.archive import aoi_features
from cube.testing.service import Faults, Kind, Request, Role, StandIn
from cube.windows.grid import Bounds, geobox_for

GRID = utm_geobox(32633, (300_000, 5_490_240, 315_360, 5_505_600), 10)
QUICK = {"late_s": 0.05, "slow_s": 0.1, "silence_s": 0.3, "retry_after_s": 0}
FEW = ("s2l2a.bands=[B02, B05]", "s2l2a.cloud_band=SCL", "lc2l2.bands=[red]", "s1rtc.bands=[vv]")
SECRET = "sig="

Start = Callable[..., StandIn]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Start a stand-in over an archive, and point the SDK and GDAL of this process to it."""
    running: list[StandIn] = []

    def begin(archive: Path, **options: Any) -> StandIn:
        service = StandIn(archive, **options).__enter__()
        running.append(service)
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


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an archive of eight items of one band of 1536 px, tiles of 256."""
    folder = tmp_path_factory.mktemp("small")
    items = []
    for number in range(8):
        item = sentinel2_item(
            GRID, datetime(2023, 1, 1 + number, 10, tzinfo=UTC), assets=("B04",), root="./blobs"
        )
        pixels = np.random.default_rng(number).integers(1, 4000, GRID.shape, dtype="uint16")
        write_cog(folder / item["assets"]["B04"]["href"], pixels, GRID, nodata=0, blocksize=256)
        items.append(item)
    (folder / "items.json").write_text(json.dumps({"type": "FeatureCollection", "features": items}))
    return folder


@pytest.fixture
def aois(tmp_path: Path) -> Path:
    """Return a file of two AOIs, each 1.9 km wide."""
    features = []
    for feature, corner in zip(aoi_features()["features"][:3:2], (0.3, 0.4), strict=True):
        ring = feature["geometry"]["coordinates"][0]
        lons, lats = (np.array(ring)[:, axis] for axis in (0, 1))
        x = lons.min() + corner * np.ptp(lons)
        y = lats.min() + corner * np.ptp(lats)
        square = box(x, y, x + 0.013, y + 0.009)
        features.append({"type": "Feature", "properties": {}, "geometry": mapping(square)})
    path = tmp_path / "two.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


@pytest.fixture
def online(demo_config: Callable[..., Config], aois: Path, tmp_path: Path) -> Callable[..., Config]:
    """Return a function that gives the config of a build from a stand-in: ``online(service, "key=value", ...)``."""

    def load(service: StandIn | str, *overrides: str, folder: str = "run") -> Config:
        url = service if isinstance(service, str) else service.url
        return demo_config(
            tmp_path / folder,
            f"catalog.url={url}",
            "catalog.sign=planetary-computer",
            f"aoi.path={aois}",
            *FEW,
            *overrides,
        )

    return load


def scenes_of(service: StandIn) -> list[Scene]:
    items = ApiCatalog(CatalogConfig(url=service.url)).search(Query(("sentinel-2-l2a",)))
    return [parse_item(item, SENSORS["s2l2a"], ["B04"]) for item in items]


def read(scene: Scene, corner: int = 0, **settings: Any) -> np.ndarray[Any, Any]:
    """Read a window of 768 px, which touches four rows of tiles."""
    sensor = SENSORS["s2l2a"]
    access = Access(sign=True, **settings)
    return read_scene(scene, sensor, sensor.band("B04"), GRID[window(corner)], access, resampling="nearest")


def window(corner: int) -> tuple[slice, slice]:
    return slice(corner + 100, corner + 868), slice(100, 868)


def truth(number: int, corner: int = 0) -> np.ndarray[Any, Any]:
    pixels = np.random.default_rng(number).integers(1, 4000, GRID.shape, dtype="uint16")
    return pixels[window(corner)]


def of_blobs(service: StandIn) -> list[Request]:
    return [request for request in service.requests if request.role is Role.BLOB]


def assert_no_header(service: StandIn) -> None:
    """Assert that tiles were fetched, and nothing else."""
    asked = of_blobs(service)
    assert asked
    assert {request.method for request in asked} == {"GET"}
    assert not [request for request in asked if (request.range or "").startswith("bytes=0-")]


def bytes_of(config: Config) -> dict[str, bytes]:
    root = Layout.of(config).cubes.path
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def plans_of(config: Config) -> list[Any]:
    outcomes = [outcome for _, outcome in plan_cubes(config)]
    assert all(isinstance(outcome, CubePlan) for outcome in outcomes), outcomes
    return [outcome.to_json() for outcome in outcomes if isinstance(outcome, CubePlan)]


# ---------------------------------------------------------------- builds


def test_a_fifth_of_requests_failing_and_short_lived_tokens_change_no_byte(
    sample_archive: Archive,
    start: Start,
    online: Callable[..., Config],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    service = start(sample_archive.path, token_lifetime_s=20)
    calm = online(service, folder="calm")
    assert build_cubes(calm, ThreadEngine(2)).exit_code == 0
    service.expire_tokens()
    monkeypatch.setattr(
        signing, "_TOKENS", signing._TokenCache()
    )  # other URLs: nothing comes from GDAL's memory
    service.reset()
    service.faults = Faults(rate=0.2, seed=3, **QUICK)
    rough = online(service, folder="rough")
    summary = build_cubes(rough, ThreadEngine(4))
    assert {row.status for row in summary.rows.values()} == {AoiState.BUILT}, summary.rows
    assert summary.exit_code == 0
    met = Counter(request.fault for request in service.requests)
    assert {str(kind) for kind in Kind} - {"corrupt"} <= met.keys()
    assert sum(count for fault, count in met.items() if fault) > 0.1 * met.total()
    assert bytes_of(calm) == bytes_of(rough)


def test_an_asset_that_fails_for_good_fails_its_aoi_and_a_rerun_fetches_what_was_missing(
    sample_archive: Archive, start: Start, online: Callable[..., Config], caplog: pytest.LogCaptureFixture
) -> None:
    service = start(sample_archive.path)
    config = online(service, "compute.read_retries=1")
    scenes = next(
        date.scenes
        for aoi, plan in plan_cubes(config)
        if aoi.index == 0 and isinstance(plan, CubePlan)
        for date in plan.sensor("lc2l2").dates[1:2]
    )
    scene = scenes[0]
    path = "/" + scene.assets["red"].href.split("://")[1].replace(".blob.core.windows.net", "")
    with caplog.at_level(logging.DEBUG):
        service.fail(path, 503)
        summary = build_cubes(config, ThreadEngine(4), only=[0, 1])
    row = summary.rows[0]
    assert (summary.exit_code, row.status, summary.rows[1].status) == (3, AoiState.FAILED, AoiState.BUILT)
    assert scene.id in row.reason
    assert "asset red" in row.reason
    assert "HTTP 503" in row.reason
    assert SECRET not in caplog.text
    assert not list(Layout.of(config).cubes.path.glob("aoi_000000_*.zarr/zarr.json"))
    service.lift()
    service.reset()
    again = build_cubes(config, ThreadEngine(4))
    assert (again.exit_code, again.fetched_blocks) == (0, 1)
    of_the_block = {asset.href.rsplit("/", 1)[1] for one in scenes for asset in one.assets.values()}
    asked = {request.path.rsplit("/", 1)[1] for request in of_blobs(service)}
    assert path.rsplit("/", 1)[1] in asked
    assert asked <= of_the_block
    assert service.counts()["search"] == 0


def test_a_version_with_other_classes_and_sizes_asks_nobody_for_anything(
    sample_archive: Archive, start: Start, online: Callable[..., Config]
) -> None:
    service = start(sample_archive.path)
    first = online(service, "dataset.version=first")
    assert build_cubes(first, ThreadEngine(4)).fetched_blocks > 0
    asked, made = len(service.requests), bytes_of(first)
    other = ("chips.classes=[5]", "chips.min_purity=0.5", "chips.sample_size=480", "chips.chip_size=960")
    second = online(service, "dataset.version=second", *other)
    began = time.monotonic()
    summary = build_cubes(second, ThreadEngine(4))
    assert time.monotonic() - began < 10
    assert (summary.exit_code, summary.fetched_blocks) == (0, 0)
    assert len(service.requests) == asked
    assert bytes_of(second) == made
    # Another band of one sensor is another cube; what both hold is not asked for again.
    third = online(service, "dataset.version=third", "lc2l2.bands=[red, nir08]")
    assert build_cubes(third, ThreadEngine(4)).exit_code == 0
    blobs = {request.path for request in service.requests[asked:] if request.role is Role.BLOB}
    assert blobs
    assert all("landsat" in path or "_SR_" in path or "_QA_" in path for path in blobs), blobs


def test_processes_read_the_same(
    sample_archive: Archive, start: Start, online: Callable[..., Config]
) -> None:
    service = start(sample_archive.path, token_lifetime_s=20)
    config = online(
        service, "aoi.include_indices=[0]", "compute.workers=2", "compute.threads=2", folder="two"
    )
    with open_engine(config.compute) as engine:
        assert build_cubes(config, engine).exit_code == 0
    headers = Counter(r.path for r in of_blobs(service) if r.range and r.range.startswith("bytes=0-"))
    assert max(headers.values()) <= 2  # one a process
    one = online(service, "aoi.include_indices=[0]", folder="one")
    assert build_cubes(one, ThreadEngine(2)).exit_code == 0
    assert bytes_of(config) == bytes_of(one)


def test_a_cache_alone_makes_the_same_plan_elsewhere_and_nothing_on_disk_is_signed(
    sample_archive: Archive, start: Start, online: Callable[..., Config], tmp_path: Path
) -> None:
    service = start(sample_archive.path)
    first = plans_of(online(service, f"catalog.cache={tmp_path / 'cache'}"))
    searches = service.counts()["search"]
    assert 0 < searches <= 12 * len(first)
    assert plans_of(online(service, f"catalog.cache={tmp_path / 'cache'}", folder="again")) == first
    assert service.counts()["search"] == searches
    (tmp_path / "cache").rename(tmp_path / "moved")
    service.fail("*", Kind.RESET)
    assert plans_of(online(service, f"catalog.cache={tmp_path / 'moved'}", folder="else")) == first
    assert service.counts()["search"] == searches
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path


def test_a_cube_and_its_logs_hold_no_token(
    sample_archive: Archive, start: Start, online: Callable[..., Config], caplog: pytest.LogCaptureFixture
) -> None:
    service = start(sample_archive.path, faults=Faults(rate=0.1, roles=frozenset({Role.BLOB}), **QUICK))
    config = online(service, "aoi.include_indices=[1]")
    with caplog.at_level(logging.DEBUG), caplog.at_level(logging.DEBUG, "rasterio"):
        assert build_cubes(config, ThreadEngine(4)).exit_code == 0
    ours = [record for record in caplog.records if record.name.startswith(("rasterio", "cube"))]
    assert ours
    assert not [record for record in ours if SECRET in record.getMessage()]
    for path in Layout.of(config).working.path.rglob("*"):
        assert not path.is_file() or SECRET.encode() not in path.read_bytes(), path


# ---------------------------------------------------------------- searches


def test_pages_make_the_same_plan_as_one(
    sample_archive: Archive, start: Start, online: Callable[..., Config]
) -> None:
    whole = plans_of(online(start(sample_archive.path), folder="whole"))
    paged_service = start(sample_archive.path, page_cap=3)
    paged = plans_of(online(paged_service, folder="paged"))

    def chosen(plans: list[Any]) -> list[Any]:
        return [(plan["fingerprint"], plan["candidates"]) for plan in plans]

    assert chosen(paged) == chosen(whole)
    assert paged_service.counts()["search"] > 3 * 5


def test_a_search_that_fails_for_good_fails_its_aoi_by_name(
    sample_archive: Archive, start: Start, online: Callable[..., Config]
) -> None:
    service = start(sample_archive.path)
    service.fail("*/search", 503)
    config = online(service, "catalog.retries=1")
    summary = build_cubes(config, ThreadEngine(2))
    assert summary.exit_code == 3
    assert {row.status for row in summary.rows.values()} == {AoiState.FAILED}
    assert "search of sentinel-2-l2a" in summary.rows[0].reason
    assert "HTTP 503" in summary.rows[0].reason
    assert service.counts()["search"] == 4
    service.lift()
    assert build_cubes(config, ThreadEngine(2), retry_failed=True).exit_code == 0


@pytest.mark.parametrize("kind", [Kind.THROTTLED, Kind.ERROR, Kind.BUSY, Kind.RESET, Kind.SHORT, Kind.SILENT])
def test_what_passes_is_searched_again(small: Path, start: Start, kind: Kind) -> None:
    faults = Faults(rate=1.0, kinds={kind: 1.0}, max_run=2, roles=frozenset({Role.SEARCH}), **QUICK)
    service = start(small, faults=faults)
    found = ApiCatalog(CatalogConfig(url=service.url, timeout_s=2)).search(Query(("sentinel-2-l2a",)))
    assert len(found) == 8
    assert service.counts()["search"] == 3


def test_the_services_own_wish_is_heeded_and_time_is_bounded(small: Path, start: Start) -> None:
    throttled = {"rate": 1.0, "kinds": {Kind.THROTTLED: 1.0}, "roles": frozenset({Role.SEARCH})}
    service = start(small, faults=Faults(**throttled, max_run=1, retry_after_s=2))
    begun = time.monotonic()
    ApiCatalog(CatalogConfig(url=service.url)).search(Query(("sentinel-2-l2a",)))
    assert time.monotonic() - begun >= 2
    service.faults = Faults(**throttled, max_run=None, retry_after_s=3600)
    begun = time.monotonic()
    with pytest.raises(CatalogError, match="HTTP 429"):
        ApiCatalog(CatalogConfig(url=service.url, retry_budget_s=5)).search(Query(("sentinel-2-l2a",)))
    assert time.monotonic() - begun < 5


def test_a_refused_search_is_not_sent_again(small: Path, start: Start) -> None:
    service = start(small)
    service.fail("*/search", 400)
    with pytest.raises(CatalogError, match="HTTP 400"):
        ApiCatalog(CatalogConfig(url=service.url)).search(Query(("sentinel-2-l2a",)))
    assert service.counts()["search"] == 1


# ---------------------------------------------------------------- tokens


def test_threads_share_one_token_and_it_is_renewed_before_it_ends(small: Path, start: Start) -> None:
    service = start(small, token_lifetime_s=9)
    scenes = scenes_of(service)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(read, scenes))
    assert service.counts()["token"] == 1
    time.sleep(7)  # in the last third of its life, which may be a second longer
    read(scenes[0])
    assert service.counts()["token"] == 2
    assert 403 not in {request.status for request in service.requests}


def test_a_token_that_is_refused_is_renewed_wherever_it_shows(small: Path, start: Start) -> None:
    service = start(small)
    scenes = scenes_of(service)
    np.testing.assert_array_equal(read(scenes[0]), truth(0))  # header and token are known now
    service.expire_tokens()
    np.testing.assert_array_equal(read(scenes[0], 640), truth(0, 640))  # refused at a tile
    assert service.counts()["token"] == 2
    service.expire_tokens()
    np.testing.assert_array_equal(read(scenes[1]), truth(1))  # refused at the header
    assert service.counts()["token"] == 3


def test_an_account_that_is_missing_shows_before_the_first_block(
    sample_archive: Archive,
    start: Start,
    online: Callable[..., Config],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    service = start(sample_archive.path, key_required=["sentinel1euwestrtc/sentinel1-grd-rtc"])
    config = online(service, "aoi.include_indices=[0]")
    with pytest.raises(
        ServiceError, match="no token for sentinel1euwestrtc/sentinel1-grd-rtc: HTTP 401"
    ) as stop:
        build_cubes(config, ThreadEngine(2))
    assert "PC_SDK_SUBSCRIPTION_KEY" in str(stop.value)
    assert service.counts()["blob"] == 0
    monkeypatch.setenv("PC_SDK_SUBSCRIPTION_KEY", "stand-in-key")
    Settings.get.cache_clear()
    monkeypatch.setattr(signing, "_TOKENS", signing._TokenCache())
    plan = next(plan for _, plan in plan_cubes(config))
    assert isinstance(plan, CubePlan)
    vv = next(plan.sensor("s1rtc").scenes).assets["vv"]
    access.check_access(vv.href, Access(sign=True))


def test_a_token_endpoint_that_refuses_is_not_asked_by_every_read(small: Path, start: Start) -> None:
    service = start(small)
    scenes = scenes_of(service)
    service.fail("/api/sas/*", 404)
    with ThreadPoolExecutor(8) as pool:
        errors = [future.exception() for future in [pool.submit(read, scene) for scene in scenes]]
    assert all(isinstance(error, ServiceError) for error in errors)
    assert service.counts()["token"] == 1


# ---------------------------------------------------------------- reads


def test_connections_bound_what_is_asked_at_once(small: Path, start: Start) -> None:
    service = start(small, latency_s=0.02)
    scenes = scenes_of(service)
    with ThreadPoolExecutor(16) as pool:
        for number, values in enumerate(pool.map(lambda scene: read(scene, connections=3), scenes * 2)):
            np.testing.assert_array_equal(values, truth(number % 8))
    assert service.peak() == 3


def test_a_cold_window_is_a_head_a_header_and_its_rows_of_tiles(small: Path, start: Start) -> None:
    service = start(small)
    read(scenes_of(service)[7])
    requests = of_blobs(service)
    assert [request.method for request in requests] == ["HEAD"] + ["GET"] * 5
    assert len({request.path for request in requests}) == 1
    service.reset()
    np.testing.assert_array_equal(read(scenes_of(service)[7], 650), truth(7, 650))
    assert_no_header(service)


@pytest.mark.parametrize(
    "kind", [Kind.ERROR, Kind.BUSY, Kind.RESET, Kind.SHORT, Kind.EXPIRED, Kind.THROTTLED]
)
def test_every_kind_of_fault_is_overcome(small: Path, start: Start, kind: Kind) -> None:
    faults = Faults(rate=0.2, seed=1, kinds={kind: 1.0}, roles=frozenset({Role.BLOB}), max_run=2, **QUICK)
    service = start(small, faults=faults)
    with ThreadPoolExecutor(4) as pool:
        for number, values in enumerate(pool.map(read, scenes_of(service)[:4])):
            np.testing.assert_array_equal(values, truth(number))


@pytest.mark.parametrize("how", [403, 404, 503, Kind.RESET, Kind.SHORT])
def test_a_read_that_fails_for_good_says_what_and_why_and_holds_no_token(
    small: Path, start: Start, how: Kind | int, caplog: pytest.LogCaptureFixture
) -> None:
    service = start(small)
    scene = scenes_of(service)[5]
    read(scene)
    service.fail("/sentinel2l2a01/*", how)
    with caplog.at_level(logging.DEBUG), pytest.raises(ReadError) as caught:
        read(scene, 640, retries=int(how in {403, 404}))
    assert str(caught.value).startswith(f"item {scene.id}, asset B04: ")
    assert "\n" not in str(caught.value)
    if how in {403, 404}:  # told when the file is opened anew
        assert str(how) in caught.value.cause
    told = "".join(traceback.format_exception(caught.value)) + caplog.text + repr(caught.value)
    link: BaseException | None = caught.value
    while link is not None:
        told += str(link)
        link = link.__context__ or link.__cause__
    assert SECRET not in told.replace("sig=...", "")
    service.lift()
    np.testing.assert_array_equal(read(scene, 640), truth(5, 640))


def test_silence_does_not_hang(small: Path, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(access._GDAL_OPTIONS, "GDAL_HTTP_LOW_SPEED_TIME", 1)
    service = start(small)
    scenes = scenes_of(service)
    service.fail("/sentinel2l2a01/*", Kind.SILENT)
    begun = time.monotonic()
    with pytest.raises(ReadError, match="no data came for too long"):
        read(scenes[6], retries=0)
    assert time.monotonic() - begun < 15


def test_a_body_that_was_broken_once_costs_the_next_reader_nothing(small: Path, start: Start) -> None:
    service = start(small)
    scene = scenes_of(service)[4]
    service.faults = Faults(rate=1.0, kinds={Kind.SHORT: 1.0}, max_per_path=1, **QUICK)
    np.testing.assert_array_equal(read(scene), truth(4))
    service.faults = Faults()
    service.reset()
    np.testing.assert_array_equal(read(scene, 650), truth(4, 650))
    assert_no_header(service)


# ---------------------------------------------------------------- records and seams


def test_an_item_whose_record_goes_round_the_world_is_where_it_is(shared: Path) -> None:
    record = json.loads((shared / "reference/stac-items/io-lulc-annual-v02/60U-2023.json").read_text())
    scene = parse_item(record, SENSORS["lulc"], ["lulc"])
    assert scene.geometry.is_valid
    assert shape(record["geometry"]).buffer(0).intersects(box(12, 48.05, 12.2, 48.1))
    assert not scene.geometry.intersects(box(12, 48.05, 12.2, 48.1))
    assert scene.geometry.intersects(box(179.2, 50, 179.4, 50.2))
    assert scene.geometry.intersects(box(-179.99, 50, -179.98, 50.2))


ANTIMERIDIAN = box(179.97, 50, 180, 50.02).union(box(-180, 50, -179.97, 50.02))


def around_the_world(item: dict[str, Any]) -> dict[str, Any]:
    """Write a footprint that crosses the antimeridian as the service does: round the world, at the item's latitude."""
    ring = [[-179.9, 49.9], [-179.9, 50.1], [179.9, 50.1], [179.9, 49.9], [-179.9, 49.9]]
    return {**item, "geometry": {"type": "Polygon", "coordinates": [ring]}}


def period_config(demo_config: Callable[..., Config], folder: Path, items: list[dict[str, Any]]) -> Config:
    path = folder / "items.json"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": items}))
    sensors = ("s2l2a", "s1rtc", "lc2l2")
    return demo_config(folder, f"catalog.url={path}", *(f"{key}=null" for key in sensors))


def test_an_aoi_at_the_antimeridian_has_one_grid_and_both_sides_tiles(
    demo_config: Callable[..., Config], tmp_path: Path
) -> None:
    zone = utm_geobox(32660, (707_520, 5_538_240, 721_920, 5_550_720), 10)
    dem = [
        dem_item(GeoBox((720, 480), Affine(1.5 / 3600, 0, west, 0, -1 / 3600, 50.1), 4326), longitude=name)
        for west, name in ((179.8, 179), (-180 - 0.75 / 3600, -180))
    ]
    items = [around_the_world(lulc_item(zone, tile="60U")), *dem]
    config = period_config(demo_config, tmp_path, items)
    plan = plan_aoi(Aoi(0, ANTIMERIDIAN), config, open_catalog(config))
    assert plan.epsg in {32660, 32601}
    assert plan.bounds.width < 6_000
    assert {scene.id for scene in plan.sensor("dem").scenes} == {item["id"] for item in dem}
    assert [scene.id for scene in plan.sensor("lulc").scenes] == ["60U-2023"]
    elsewhere = Aoi(1, box(12.1, 50, 12.12, 50.02))
    with pytest.raises(Skipped, match="no item for"):
        plan_aoi(elsewhere, config, open_catalog(config))


@pytest.mark.parametrize("gap", [0, 1])
def test_a_pixel_that_two_tiles_leave_open_is_closed_and_the_sea_is_not(tmp_path: Path, gap: int) -> None:
    grid = geobox_for(Bounds(300_480, 5_544_000, 306_240, 5_547_840), 32633, 30)
    x, y = np.meshgrid(grid.coordinates["x"].values, grid.coordinates["y"].values)
    lon, lat = Transformer.from_crs(32633, 4326, always_xy=True).transform(x, y)
    second = 1 / 3600
    left, top = lon.min() - 10 * second, lat.max() + 10 * second
    scenes = []
    for name, first, columns in (("west", 0, 150), ("east", 150 + gap, 100)):
        tile = GeoBox((300, columns), Affine(second, 0, left + first * second, 0, -second, top), 4326)
        heights = (tile.coordinates["longitude"].values - 12) * 1e4
        write_cog(tmp_path / f"{name}.tif", np.tile(heights, (300, 1)).astype("float32"), tile)
        item = dem_item(tile, longitude=len(scenes), hrefs={"data": str(tmp_path / f"{name}.tif")})
        scenes.append(parse_item(item, SENSORS["dem"], ["elevation"]))
    values = read_band(
        tuple(scenes),
        SENSORS["dem"],
        SENSORS["dem"].band("elevation"),
        grid,
        Access(),
        resampling="bilinear",
        harmonize=False,
    )
    end = left + (150 + gap + 100) * second
    assert np.isfinite(values[(lon < end - second)]).all()
    assert np.isnan(values[lon > end + second]).all()
    inside = np.isfinite(values)
    assert np.abs(values - (lon - 12) * 1e4)[inside].max() < 2.5  # a pixel is 2.8 wide


def test_every_block_of_a_mosaic_leaves_out_what_it_does_not_need(small: Path, start: Start) -> None:
    """The second of two slices is not asked for anything where the first has all."""
    service = start(small)
    one, two = scenes_of(service)[:2]
    sensor = SENSORS["s2l2a"]
    read_band(
        (one, two),
        sensor,
        sensor.band("B04"),
        GRID[window(0)],
        Access(sign=True),
        resampling="nearest",
        harmonize=False,
    )
    assert len({request.path for request in of_blobs(service)}) == 1
