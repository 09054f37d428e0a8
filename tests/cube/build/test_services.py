"""The same places from other services: their forms of items and files, over real sockets."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
import zarr
from planetary_computer.settings import Settings

from cube.build.run import BuildSummary, build_cubes
from cube.config.models import Config
from cube.config.reading import load_config
from cube.errors import ServiceError
from cube.pixels import access, signing
from cube.run.layout import Layout
from cube.run.status import AoiState
from cube.run.thread_engine import ThreadEngine
from cube.testing import Archive
from cube.testing.other_services import COLLECTION_0, COLLECTION_1, write_cdse, write_earth_search
from cube.testing.service import StandIn

BANDS = ["B01", "B04", "B05", "SCL"]
QUARTERS = ("2023-01-01/2023-03-31", "2023-07-01/2023-09-30")
OTHERS: dict[str, Any] = {"lc2l2": {"bands": ["red"], "cloud_band": "qa_pixel"}, "dem": {}}
SECRET = "a-key-that-nobody-may-see"

Start = Callable[..., StandIn]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Start a stand-in over an archive; GDAL reads blobs of the first through it as a proxy."""
    running: list[StandIn] = []

    def begin(archive: Path, **options: Any) -> StandIn:
        service = StandIn(archive, **options).__enter__()
        if not running:
            for name, value in service.environment().items():
                monkeypatch.setenv(name, value)
        running.append(service)
        monkeypatch.setitem(access._GDAL_OPTIONS, "GDAL_HTTP_RETRY_DELAY", 0.05)
        Settings.get.cache_clear()
        monkeypatch.setattr(signing, "_TOKENS", signing._TokenCache())
        return service

    yield begin
    for service in running:
        service.__exit__(None, None, None)
    Settings.get.cache_clear()


def needed(item: dict[str, Any]) -> bool:
    """Tell whether an item can be of the two quarters; takes the assets away that no test reads."""
    wanted = {"sentinel-2-l2a": BANDS, "landsat-c2-l2": ["red", "qa_pixel"], "cop-dem-glo-30": ["data"]}
    names = wanted.get(item["collection"], [])
    item["assets"] = {name: asset for name, asset in item["assets"].items() if name in names}
    month = item["properties"].get("datetime") or ""
    return item["collection"] == "cop-dem-glo-30" or month[5:7] in ("01", "02", "03", "07", "08", "09")


def configured(folder: Path, archive: Archive, **sections: Any) -> Config:
    """Return a config of Sentinel-2 and land cover for the archive's first place."""
    settings: dict[str, Any] = {
        "dataset": {"version": "v"},
        "aoi": {"path": str(archive.aois), "extent": "aoi", "include_indices": [0]},
        "directory": {"working": str(folder / "interim"), "output": str(folder / "out")},
        "catalog": {"url": str(archive.items)},
        "s2l2a": {"time_ranges": list(QUARTERS), "bands": BANDS[:-1], "cloud_band": "SCL"},
        "lulc": {"year": "2023-01-02/2023-12-31", "catalog": str(archive.items)},
        "compute": {"workers": 0, "read_retries": 1},
    }
    for name, section in sections.items():
        settings[name] = settings.get(name, {}) | section
    folder.mkdir(exist_ok=True)
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(settings))
    return load_config(path)


def built(config: Config) -> Any:
    """Build the cube of the one place, and return its root group."""
    summary: BuildSummary = build_cubes(config, ThreadEngine(2))
    [row] = summary.rows.values()
    assert row.status is AoiState.BUILT, row.reason
    [path] = Path(Layout.of(config).cubes.path).glob("*.zarr")
    return zarr.open_group(path, mode="r")


@pytest.fixture(scope="module")
def reference(sample_archive: Archive, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return the cube that the Planetary Computer's items give, read from disk."""
    return built(configured(tmp_path_factory.mktemp("reference"), sample_archive, **OTHERS))


def assert_same(found: Any, expected: Any, key: str, bands: Sequence[str]) -> None:
    for band in bands:
        pixels = expected[f"{key}/{band}"][:]
        assert np.unique(pixels).size > 3
        np.testing.assert_array_equal(found[f"{key}/{band}"][:], pixels, err_msg=band)
    for name in ("x", "y"):
        np.testing.assert_array_equal(found[f"{key}/{name}"][:], expected[f"{key}/{name}"][:])


def assert_no_secret(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert b"Signature" not in content, path
            assert SECRET.encode() not in content, path


def test_a_plan_keeps_beside_which_file_its_hrefs_are_meant(
    sample_archive: Archive, reference: Any, tmp_path: Path
) -> None:
    """Though the config names another file by now, whose neighbours are not there."""
    folder = tmp_path / "run"
    config = configured(folder, sample_archive, s2l2a={"bands": ["B01"]})
    build_cubes(config, ThreadEngine(2))
    [path] = Path(Layout.of(config).cubes.path).glob("*.zarr")
    shutil.rmtree(path)
    shutil.rmtree(Layout.of(config).building.path)
    copy = tmp_path / "elsewhere" / "items.json"
    copy.parent.mkdir()
    shutil.copy(sample_archive.items, copy)
    moved = configured(
        folder,
        sample_archive,
        catalog={"url": str(copy)},
        s2l2a={"bands": ["B01"]},
        lulc={"catalog": str(copy)},
    )
    assert_same(built(moved), reference, "s2l2a", ["B01", "SCL"])


def test_no_login_of_a_catalog_shows(
    sample_archive: Archive, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    there = {"url": f"http://somebody:{SECRET}@127.0.0.1:9/stac", "retries": 0}
    config = configured(tmp_path / "run", sample_archive, catalog=there)
    [row] = build_cubes(config, ThreadEngine(2)).rows.values()
    assert "search of sentinel-2-l2a at http://127.0.0.1:9/stac failed" in row.reason
    assert SECRET not in row.reason + caplog.text
    assert_no_secret(Path(Layout.of(config).working.path))


def test_earth_search_gives_the_pixels_that_the_planetary_computer_gives(
    sample_archive: Archive, start: Start, tmp_path: Path
) -> None:
    planetary = start(sample_archive.path)
    there = {"url": planetary.url, "sign": "planetary-computer"}
    from_planetary = built(configured(tmp_path / "pc", sample_archive, catalog=there))
    service = start(write_earth_search(sample_archive.path, tmp_path / "es", keep=needed))
    config = configured(
        tmp_path / "run",
        sample_archive,
        profiles={"es": {"base": "earth-search", "url": service.url}},
        s2l2a={"catalog": "es"},
    )
    assert config.sensors["s2l2a"].collection == COLLECTION_1
    found = built(config)
    assert (planetary.counts()["token"], service.counts()["token"]) == (1, 0)
    assert service.counts()["blob"] > 0
    assert_same(found, from_planetary, "s2l2a", BANDS)


def test_pixels_that_a_service_has_mended_are_not_mended_again(
    sample_archive: Archive, reference: Any, start: Start, tmp_path: Path
) -> None:
    """As Earth Search's first collection of Sentinel-2 is, whose items say so."""
    folder = write_earth_search(sample_archive.path, tmp_path / "es", collection=COLLECTION_0, keep=needed)
    service = start(folder)
    config = configured(
        tmp_path / "run",
        sample_archive,
        profiles={"es": {"base": "earth-search", "url": service.url}},
        s2l2a={"catalog": "es", "collection": COLLECTION_0},
    )
    assert_same(built(config), reference, "s2l2a", BANDS)


def test_jpeg_2000_in_a_closed_store_gives_the_same_pixels(
    sample_archive: Archive, reference: Any, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_cdse(sample_archive.path, tmp_path / "cdse", keep=needed)
    service = start(folder, signed_buckets=["eodata"])
    closed = {"access": "signed", "endpoint": service.endpoint, "keys": "CDSE"}
    profile = {"base": "cdse", "url": service.url, "sensors": {"s2l2a": {"s3": closed}}}
    sections = {"profiles": {"space": profile}, "s2l2a": {"catalog": "space"}}
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))  # nor keys in a file there
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(ServiceError, match="no keys for s3://eodata: set CDSE_ACCESS_KEY_ID and CDSE_SECRET"):
        build_cubes(configured(tmp_path / "run", sample_archive, **sections), ThreadEngine(2))
    monkeypatch.setenv("CDSE_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("CDSE_SECRET_ACCESS_KEY", SECRET)
    found = built(configured(tmp_path / "run", sample_archive, **sections))
    assert_same(found, reference, "s2l2a", BANDS)
    assert_no_secret(tmp_path / "run")


def test_who_reads_landsat_pays_and_elevation_is_free(
    sample_archive: Archive, reference: Any, start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = start(
        write_earth_search(sample_archive.path, tmp_path / "es", keep=needed), paid_buckets=["usgs-landsat"]
    )
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    here = {"endpoint": service.endpoint}
    profile = {
        "base": "earth-search",
        "url": service.url,
        "sensors": {"lc2l2": {"s3": {"access": "requester-pays", **here}}, "dem": {"s3": here}},
    }
    config = configured(
        tmp_path / "run",
        sample_archive,
        profiles={"es": profile},
        lc2l2={**OTHERS["lc2l2"], "catalog": "es"},
        dem={"catalog": "es"},
    )
    found = built(config)
    assert_same(found, reference, "lc2l2", ["red", "qa_pixel"])
    assert_same(found, reference, "dem", ["elevation"])
    assert_no_secret(tmp_path / "run")
