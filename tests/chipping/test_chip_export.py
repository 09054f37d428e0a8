"""Written chips, read back with rasterio and Pillow; reruns, interruptions, and what settings exclude."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import pickle
import runpy
import socket
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import rasterio
from chip_cubes import (
    TIMES,
    clean_arrays,
    contents,
    cube_path,
    cubes_folder,
    make_config,
    put_cube,
    write_aois,
)
from PIL import Image, ImageDraw, ImageFont
from shapely import wkt

from chipping import export
from chipping.chip import chip
from chipping.commands import sheet_command
from chipping.contact_sheet import contact_sheet
from cube.config.models import Config
from cube.config.reading import load_config
from cube.config.sensors import SENSORS
from cube.errors import ConfigError, CubeNotSealedError, StoreError
from cube.run.layout import Layout
from cube.run.storage import open_folder
from cube.run.tasks import Tasks
from cube.run.thread_engine import ThreadEngine
from cube.scenes.plan import SensorPlan
from cube.store.open import open_cube
from cube.testing.cubes import plan_from_times, record_cube, write_cube
from cube.windows.grid import Bounds
from release import ReleaseError, chip_arrays, make_release, open_release, verify

BOX = Bounds(480_000, 5_990_400, 481_920, 5_992_320)
SERIES = ("s2l2a", "s1rtc", "lc2l2")


def version_folder(config: Config) -> Path:
    return Path(config.directory.working) / config.dataset.version


def rows_of(config: Config) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((version_folder(config) / "chip_metadata.csv").read_text())))


def write_clean_cube(
    config: Config, lulc: int = 5, aoi_index: int = 0, box: Bounds = BOX, epsg: int = 32632
) -> Any:
    arrays = clean_arrays(config, box, np.random.default_rng(aoi_index), lulc)
    put_cube(config, box, arrays, aoi_index, epsg)
    return arrays


def test_files_hold_the_cubes_pixels_where_they_lie(tmp_path: Path) -> None:
    config = make_config(tmp_path, chip_size=600)
    arrays = write_clean_cube(config)
    summary = chip(config)
    assert (summary.chips, summary.windows) == (4, 4)  # the outer ones have no room for their margin
    for folder in sorted((version_folder(config) / "chips").iterdir()):
        record = json.loads((folder / "chip.json").read_text())
        left, bottom, right, top = record["bounds"]
        names = [f"{key}_{time:%Y%m%d}" for key in SERIES for time in TIMES]
        expected = {"dem.tif", "lulc.tif", "chip.json", *(f"{n}.{e}" for n in names for e in ("tif", "png"))}
        assert {path.name for path in folder.iterdir()} == expected
        for path in folder.glob("*.tif"):
            key, _, date = path.stem.partition("_")
            resolution = config.sensors[key].resolution
            with rasterio.open(path) as file:
                assert file.crs.to_epsg() == 32632
                assert tuple(file.bounds) == (left, bottom, right, top)
                bands = SENSORS[key].exported(config.bands(key))
                assert file.descriptions == bands
                assert file.tags()["AREA_OR_POINT"] == "Area"
                roi = np.s_[
                    ...,
                    (BOX.top - top) // resolution : (BOX.top - bottom) // resolution,
                    (left - BOX.left) // resolution : (right - BOX.left) // resolution,
                ]
                index = [f"{time:%Y%m%d}" for time in TIMES].index(date) if date else 0
                raw = np.stack(
                    [arrays[key][b][roi] if not date else arrays[key][b][index][roi] for b in bands]
                )
                values = file.read()
                if key == "s2l2a":
                    assert values.dtype == np.int16
                    assert (values == np.minimum(raw, 32_767)).all()
                    assert (file.scales, file.offsets) == ((1e-4,) * 3, (0.0,) * 3)
                elif key == "lc2l2":
                    assert (values == raw.astype("f4") * np.float32(2.75e-5) + np.float32(-0.2)).all()
                    assert np.isnan(file.nodata)
                else:
                    assert (values == raw).all()
                if date:
                    assert file.tags()["scene_ids"] == f"{key}_{TIMES[index]:%Y%m%dT%H%M%S}"
                    assert file.tags()["datetime"] == f"{TIMES[index]:%Y-%m-%dT%H:%M:%SZ}"
                    with Image.open(path.with_suffix(".png")) as picture:
                        assert picture.size == (file.width, file.height)


def test_float_files_hold_what_open_cube_shows(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    write_clean_cube(config)
    chip(config)
    tree = open_cube(cube_path(config))
    for path in (version_folder(config) / "chips").glob("*/lc2l2_20230203.tif"):
        with rasterio.open(path) as file:
            box = file.bounds
            shown = (
                tree["lc2l2"]["red"]
                .isel(time=0)
                .sel(x=slice(box.left, box.right), y=slice(box.top, box.bottom))
            )
            assert (file.read(3) == shown.to_numpy()).all()


@pytest.mark.parametrize("fill", [False, True])
@pytest.mark.parametrize(
    ("key", "dtype"),
    [("s2l2a", "int16"), ("s2l2a", "uint8"), ("s2l2a", "float32"), ("lc2l2", "uint16"), ("lc2l2", "float64"),
     ("s1rtc", "float32"), ("dem", "float32"), ("dem", "int16"), ("lulc", "int8"), ("lulc", "float32")],
)  # fmt: skip
def test_nodata_becomes_what_the_config_says(tmp_path: Path, key: str, dtype: str, fill: bool) -> None:
    make_config(tmp_path, min_valid=0.0, min_clear=0.0, min_purity=0.5, forbidden=[])
    na_value = 0 if dtype.startswith("u") else -77
    overrides = [f"{key}.dtype={dtype}", f"{key}.fill_na={str(fill).lower()}", f"{key}.na_value={na_value}"]
    config = load_config(tmp_path / "config.yaml", overrides)
    arrays = clean_arrays(config, BOX, np.random.default_rng(1))
    hole = np.s_[..., :5, :7]
    for name, values in arrays[key].items():
        if name not in ("SCL", "qa_pixel"):
            values[hole] = np.nan if values.dtype.kind == "f" else 0
    put_cube(config, BOX, arrays)
    if key == "dem" and dtype == "int16" and not fill:
        with pytest.raises(ConfigError, match=r"dem\.dtype int16 cannot hold"):
            chip(config)
        return
    chip(config)
    name = key if SENSORS[key].is_static else f"{key}_20230203"
    with rasterio.open(version_folder(config) / "chips" / "32632_480000_5992320" / f"{name}.tif") as file:
        assert file.dtypes[0] == dtype
        archive = np.nan if dtype.startswith("f") and key != "lulc" else 0
        nodata = na_value if fill else archive
        assert np.array_equal(file.nodata, nodata, equal_nan=True)
        values = file.read().astype("f8")
        assert np.array_equal(values[hole], np.full_like(values[hole], nodata), equal_nan=True)
        masks = file.read_masks()
        assert not masks[hole].any()
        assert masks[:, 5:, :].all()


def test_no_file_holds_what_its_settings_exclude(tmp_path: Path) -> None:
    """Checked on the written files against the cube's masks, not on the plan."""
    config = make_config(
        tmp_path, sample_size=240, chip_size=300, min_purity=0.8, min_clear={"s2l2a": 0.9, "lc2l2": [0.8, 1.0]},
        min_valid={"s1rtc": 0.9, "s2l2a": 1.0}, classes=[2, 5],
    )  # fmt: skip
    rng = np.random.default_rng(3)
    arrays = clean_arrays(config, BOX, rng)
    lulc = arrays["lulc"]["lulc"]
    lulc[:] = np.kron(rng.choice([2, 5, 5, 7, 1], (8, 8)), np.ones((24, 24)))
    lulc[rng.random(lulc.shape) < 0.0003] = 9
    lulc[rng.random(lulc.shape) < 0.1] = 11
    arrays["s2l2a"]["SCL"][rng.random(arrays["s2l2a"]["SCL"].shape) < 0.08] = 9
    arrays["lc2l2"]["qa_pixel"][rng.random(arrays["lc2l2"]["qa_pixel"].shape) < 0.002] = 8
    arrays["s1rtc"]["vv"][rng.random(arrays["s1rtc"]["vv"].shape) < 0.095] = np.nan
    arrays["s2l2a"]["B03"][0, 30:40, 30:40] = 0
    put_cube(config, BOX, arrays)
    summary = chip(config)
    assert 0 < summary.chips < summary.windows
    for folder in (version_folder(config) / "chips").iterdir():
        record = json.loads((folder / "chip.json").read_text())
        with rasterio.open(folder / "lulc.tif") as file:
            sample = file.read(1)[3:-3, 3:-3]
            assert not np.isin(sample, (0, 4, 9, 10)).any()
            assert np.bincount(sample.ravel()).argmax() == record["lulc"]
            assert record["lulc"] in (2, 5)
            assert (sample == record["lulc"]).mean() == record["purity"] >= 0.8
        for index, time in enumerate(TIMES):
            with rasterio.open(folder / f"s2l2a_{time:%Y%m%d}.tif") as file:
                assert (file.read() != 0).all()
            with rasterio.open(folder / f"s1rtc_{time:%Y%m%d}.tif") as file:
                assert (~np.isnan(file.read())).all(axis=0).mean() >= 0.9
            left, bottom, right, top = record["sample_bounds"]
            rows = slice((BOX.top - top) // 10, (BOX.top - bottom) // 10)
            columns = slice((left - BOX.left) // 10, (right - BOX.left) // 10)
            assert (arrays["s2l2a"]["SCL"][index, rows, columns] == 4).mean() >= 0.9
            rows, columns = (slice(s.start // 3, s.stop // 3) for s in (rows, columns))
            cloudless = arrays["lc2l2"]["qa_pixel"][index, rows, columns] == 64
            assert cloudless.mean() >= (0.8, 1.0)[index]


def test_every_window_has_a_row_in_order(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    write_clean_cube(config, lulc=4, aoi_index=7)
    write_clean_cube(config, aoi_index=3, box=Bounds(489_600, 5_990_400, 490_560, 5_991_360))
    chip(config)
    rows = rows_of(config)
    assert [row["chip_index"] for row in rows] == [str(n) for n in range(4 + 16)]
    assert [row["aoi_index"] for row in rows] == ["3"] * 4 + ["7"] * 16
    assert [row["status"] for row in rows] == ["success"] * 4 + ["forbidden_class"] * 16
    places = [(-int(row["top_m"]), int(row["left_m"])) for row in rows[4:]]
    assert places == sorted(places)
    assert rows[0]["s2l2a_dates"] == "20230203,20230809"
    assert rows[0]["dem_scene_ids"] == "dem_20230101T000000"
    outline = wkt.loads(rows[0]["chip_footprint"])
    assert outline.is_valid
    assert outline.exterior.is_ccw
    assert 8 < outline.centroid.x < 10
    assert {path.name for path in (version_folder(config) / "chips").iterdir()} == {
        row["cell"] for row in rows[:4]
    }


def _changed_settings() -> list[dict[str, Any]]:
    return [
        {"min_purity": 0.9},
        {"min_purity": 1.0},
        {"max_per_class": 2},
        {"classes": [5]},
        {"min_clear": 0.5},
    ]


def _mixed_cube(config: Config) -> None:
    rng = np.random.default_rng(5)
    arrays = clean_arrays(config, BOX, rng)
    lulc = arrays["lulc"]["lulc"]
    lulc[:] = np.kron(rng.choice([1, 2, 5], (4, 4)), np.ones((48, 48)))
    lulc[::9, ::9] = 11
    lulc[:60] = 5
    arrays["s2l2a"]["SCL"][0, 100:110, 100:140] = 9
    put_cube(config, BOX, arrays)


def test_a_rerun_ends_with_the_chips_of_a_fresh_run_and_rewrites_none_that_stays(tmp_path: Path) -> None:
    old = make_config(tmp_path / "old")
    _mixed_cube(old)
    for changes in _changed_settings():
        before = {p: p.stat().st_ino for p in (version_folder(old) / "chips").glob("*/*")}
        again = make_config(tmp_path / "old", **changes)
        summary = chip(again)
        after = {p: p.stat().st_ino for p in (version_folder(old) / "chips").glob("*/*")}
        assert all(after[path] == number for path, number in before.items() if path in after)
        assert summary.chips == summary.written + summary.kept == len({path.parent for path in after})
        fresh = make_config(tmp_path / "fresh", working=str(tmp_path / str(changes)), **changes)
        _mixed_cube(fresh)
        chip(fresh, ThreadEngine(1))
        assert contents(version_folder(again)) == contents(version_folder(fresh))


def test_other_export_settings_write_chips_again(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    write_clean_cube(config)
    assert chip(config).written == 16
    assert chip(config).kept == 16
    assert chip(make_config(tmp_path, compress="zstd")).written == 16
    assert chip(make_config(tmp_path, compress="zstd", stride=240)).kept == 16


def test_other_pixels_under_the_same_recipe_are_scored_and_written_again(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    arrays = write_clean_cube(config)
    chip(config)
    arrays["dem"]["elevation"] += 1
    arrays["lulc"]["lulc"][:48] = 4
    put_cube(config, BOX, arrays)
    summary = chip(config)
    assert (summary.written, summary.kept, summary.removed) == (12, 0, 4)
    fresh = make_config(tmp_path / "fresh")
    put_cube(fresh, BOX, arrays)
    chip(fresh)
    assert contents(version_folder(config)) == contents(version_folder(fresh))


@pytest.mark.parametrize("working", ["", "memory://damaged-chips"])
def test_a_chip_that_is_not_whole_is_made_again(tmp_path: Path, working: str) -> None:
    config = make_config(tmp_path, working=working)
    write_clean_cube(config)
    chip(config)
    chips = Layout.of(config).chips
    good = {name: chips.read(name) for name in chips.files()}
    one, two, three, four, five, *_ = (chips / cell for cell in chips.names())
    one.remove("dem.tif")
    two.write("dem.tif", two.read("dem.tif")[:-1])
    three.write("note.txt", b"what is this")
    four.write("chip.json", b"[1]")
    seal = json.loads(five.read("chip.json"))
    five.write("chip.json", json.dumps({**seal, "sizes": 3}).encode())
    summary = chip(config)
    assert (summary.kept, summary.written) == (11, 5)
    assert {name: chips.read(name) for name in chips.files()} == good
    assert chip(config).kept == 16


def test_phase_two_opens_no_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_config(tmp_path)
    write_clean_cube(config)

    def refuse(*args: object, **_: object) -> None:
        pytest.fail(f"a socket was opened: {args}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert chip(config).written == 16


class Killed(BaseException):
    """Ends a run as a signal does."""


def test_an_interrupted_run_leaves_whole_chips_and_is_completed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(tmp_path)
    write_clean_cube(config)
    encode, calls = export.encode_tiff, iter(range(1000))

    def fail_later(*args: Any, **options: Any) -> bytes:
        if next(calls) == 37:
            raise Killed
        return encode(*args, **options)

    monkeypatch.setattr(export, "encode_tiff", fail_later)
    with pytest.raises(Killed):
        chip(config, ThreadEngine(1))
    monkeypatch.undo()
    chips = version_folder(config) / "chips"
    whole = sorted(path.name for path in chips.iterdir())
    assert 0 < len(whole) < 16
    assert not (version_folder(config) / "chip_metadata.csv").exists()
    (chips / whole[0] / "dem.tif").write_bytes(b"")  # as a power cut might
    (chips / ".staging-old").mkdir()
    summary = chip(config)
    assert (summary.kept, summary.written) == (len(whole) - 1, 16 - len(whole) + 1)
    fresh = make_config(tmp_path / "fresh")
    write_clean_cube(fresh)
    chip(fresh)
    assert contents(version_folder(config)) == contents(version_folder(fresh))


def test_chips_without_their_table_are_not_released(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_config(tmp_path)
    write_clean_cube(config)
    chip(config)

    def fail(*_: object) -> bytes:
        raise Killed

    fewer = make_config(tmp_path, max_per_class=3)
    monkeypatch.setattr("chipping.chip.chip_metadata_csv", fail)
    with pytest.raises(Killed):
        chip(fewer)
    monkeypatch.undo()
    with pytest.raises(ReleaseError, match="its chips are unfinished"):
        make_release(fewer)
    assert chip(fewer).kept == 3
    assert make_release(load_config(fewer.path, ["release.allow_missing_classes=true"])).chips == 3


def test_object_stores_get_the_same_bytes(tmp_path: Path) -> None:
    config = make_config(tmp_path / "a", working="memory://chips-test")
    write_clean_cube(config)
    assert chip(config).written == 16
    assert chip(config).kept == 16
    assert chip(make_config(tmp_path / "a", working="memory://chips-test", max_per_class=3)).removed == 13
    local = make_config(tmp_path / "b", max_per_class=3)
    write_clean_cube(local)
    chip(local)
    remote = open_folder("memory://chips-test") / "v1" / "chips"
    assert {name: remote.read(name) for name in remote.files()} == contents(version_folder(local) / "chips")


@pytest.mark.parametrize(
    "sensors", [("lulc",), ("s2l2a", "lulc"), ("lc2l2", "lulc"), ("s1rtc", "dem", "lulc")]
)
def test_sensors_may_be_left_out(tmp_path: Path, sensors: tuple[str, ...]) -> None:
    config = make_config(tmp_path, sensors=sensors)
    write_clean_cube(config)
    assert chip(config).written == 16


def test_a_sensor_that_the_cube_lacks_is_missing(tmp_path: Path) -> None:
    write_clean_cube(make_config(tmp_path, sensors=("s2l2a", "lulc")))
    config = make_config(tmp_path)
    assert chip(config).totals() == {"s1rtc_missing": 16}


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("dem.resolution=60", "dem.resolution 30, and the config asks for 60"),
        ("s2l2a.harmonize=false", "s2l2a.harmonize True, and the config asks for False"),
        ("s1rtc.resampling=nearest", "s1rtc.resampling bilinear, and the config asks for nearest"),
        ("lulc.collection=other", "lulc.collection io-lulc-annual-v02, and the config asks for other"),
        (
            "s2l2a.time_ranges=['2023-01-01/2023-06-30', '2023-09-01/2023-12-31']",
            (
                "s2l2a.time_ranges 2023-02-03, 2023-08-09, and the config asks for "
                "2023-01-01/2023-06-30, 2023-09-01/2023-12-31"
            ),
        ),
        (
            "s2l2a.time_ranges=['2023-01-01/2023-06-30']",
            "s2l2a.time_ranges 2023-02-03, 2023-08-09, and the config asks for 2023-01-01/2023-06-30",
        ),
    ],
)
def test_a_cube_that_the_config_no_longer_stands_for_is_refused(
    tmp_path: Path, override: str, said: str
) -> None:
    write_clean_cube(make_config(tmp_path), aoi_index=3)
    with pytest.raises(ConfigError) as caught:
        chip(load_config(tmp_path / "config.yaml", [override]))
    assert str(caught.value).startswith(f"AOI 000003: its cube was built with {said}; build it again")
    assert not (version_folder(make_config(tmp_path)) / "scores").exists()


def test_fewer_bands_and_sensors_than_the_cube_holds_are_fine(tmp_path: Path) -> None:
    write_clean_cube(make_config(tmp_path))
    make_config(tmp_path, sensors=("s2l2a", "lulc"))
    assert chip(load_config(tmp_path / "config.yaml", ["s2l2a.bands=[B03]"])).written == 16


def test_only_cubes_of_aois_that_are_wanted_and_built_are_read(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    for index in (0, 1, 2):
        write_clean_cube(
            config, aoi_index=index, box=Bounds(480_000 + 960 * index, 0, 480_960 + 960 * index, 960)
        )
    assert chip(config).windows == 12
    write_aois(tmp_path / "aoi.geojson", 2)
    assert chip(config).windows == 8
    status = {0: "failed", 1: "built", 2: "built"}
    metadata = version_folder(config) / "aoi_metadata.geojson"
    rows = [feature["properties"] for feature in json.loads(metadata.read_text())["features"]]
    changed = [{"properties": {**row, "status": status[row["aoi_index"]]}} for row in rows]
    metadata.write_text(json.dumps({"features": changed}))
    chip(config)
    assert {row["aoi_index"] for row in rows_of(config)} == {"1"}
    metadata.write_text("[1]")
    with pytest.raises(
        StoreError, match=r"aoi_metadata.geojson: cannot be read .*; run gelos-lc build again"
    ):
        chip(config)
    (tmp_path / "aoi.geojson").unlink()
    with pytest.raises(ConfigError, match="the AOI file is nowhere"):
        chip(config)


@pytest.mark.parametrize(
    ("overrides", "code", "said"),
    [
        ([], 0, "16 chips of 16 windows; 16 written, 0 kept, 0 removed"),
        (["chips.min_purity=2"], 2, "chips.min_purity"),
        (["dataset.version=v9"], 2, "no finished cube here"),
    ],
)
def test_the_script_prints_a_summary_and_sets_the_exit_code(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    overrides: list[str],
    code: int,
    said: str,
) -> None:
    write_clean_cube(make_config(tmp_path))
    arguments = [word for override in overrides for word in ("--set", override)]
    monkeypatch.setattr(sys, "argv", ["chip.py", "-c", str(tmp_path / "config.yaml"), *arguments])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(Path(__file__).parents[2] / "scripts" / "chip.py"), run_name="__main__")
    assert ended.value.code == code
    printed = capsys.readouterr()
    assert said in (printed.err if code else printed.out)
    assert printed.err.count("\n") <= 1


def test_tasks_travel_to_other_processes(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    write_clean_cube(config)

    class Postal(ThreadEngine):
        def run(self, function: Any, tasks: Any, scope: str) -> Any:
            sent = pickle.loads(pickle.dumps((function, tasks.take(100))))
            for outcome in super().run(sent[0], Tasks(sent[1]), scope):
                yield pickle.loads(pickle.dumps(outcome))

    assert chip(config, Postal(2)).written == 16


def test_unfinished_cubes_are_not_read(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    write_clean_cube(config)
    (cube_path(config) / "zarr.json").unlink()
    with pytest.raises(CubeNotSealedError, match="no finished cube"):
        chip(config)


def test_chips_follow_the_row_of_their_sensor(tmp_path: Path) -> None:
    settings = export.export_settings(make_config(tmp_path))
    landsat = next(one for one in settings.rasters if one.sensor.key == "lc2l2")
    bands = tuple(replace(band, scale=2 * band.scale) for band in landsat.sensor.bands)
    changes = {"bands": bands, "true_color": ("green", "red", "blue"), "attribution": "x", "title": "x"}
    others = [
        replace(landsat, sensor=replace(landsat.sensor, **{name: value})) for name, value in changes.items()
    ]
    digests = {replace(settings, rasters=(one,)).digest for one in (landsat, *others)}
    assert len(digests) == 5


def check_sheet(path: Path, folder: Path) -> None:
    """Find the pictures of a chip, the dates below them, and its index and cell beside them."""
    with Image.open(path) as opened:
        sheet = np.asarray(opened.convert("RGB")).astype(int)

    def places(part: np.ndarray[Any, Any]) -> set[tuple[int, int]]:
        height, width = part.shape[:2]
        row, col = np.unravel_index(part.sum(axis=-1).argmin(), (height, width))  # the darkest pixel
        there = np.argwhere((sheet == part[row, col]).all(axis=-1)) - (row, col)
        return {
            (int(y), int(x))
            for y, x in there
            if y >= 0 and x >= 0 and np.array_equal(sheet[y : y + height, x : x + width], part)
        }

    def drawn(text: str) -> np.ndarray[Any, Any]:
        font = ImageFont.load_default(12)
        left, top, right, bottom = (int(edge) for edge in font.getbbox(text))
        image = Image.new("RGB", (right, bottom), "white")
        ImageDraw.Draw(image).text((0, 0), text, fill="#5d6878", font=font)
        return np.asarray(image).astype(int)[top:, left:]

    with (folder / "chip_metadata.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["status"] == "success"]
    shown = [row for row in rows if places(drawn(f"window {row['chip_index']}"))]
    assert shown
    for row in shown:
        assert places(drawn(row["cell"]))
        for sensor in ("s2l2a", "lc2l2"):
            for day in row[f"{sensor}_dates"].split(","):
                with Image.open(folder / "chips" / row["cell"] / f"{sensor}_{day}.png") as picture:
                    small = picture.convert("RGB").resize((72, 72), Image.Resampling.NEAREST)
                at = places(np.asarray(small).astype(int))
                below = places(drawn(f"{day[:4]}-{day[4:6]}-{day[6:]}"))
                assert any(y + 72 <= y2 < y + 86 and abs(x2 - x) < 4 for y, x in at for y2, x2 in below)


def test_a_contact_sheet_of_what_is_not_there_is_one_clear_line(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    write_clean_cube(config)
    with pytest.raises(StoreError, match=r"windows: no window is chosen; run gelos-lc chip first"):
        contact_sheet(config)
    chip(config)
    output = tmp_path / "new" / "sheet.png"
    arguments = ["-c", str(tmp_path / "config.yaml"), "-o", str(output)]
    assert sheet_command.main(arguments, standalone_mode=False) == 0
    assert output.read_bytes() == contact_sheet(config)
    check_sheet(output, version_folder(config))
    next((version_folder(config) / "chips").glob("*/s1rtc_20230203.png")).unlink()
    with pytest.raises(StoreError, match=r"s1rtc_20230203\.png: is missing; run gelos-lc chip again"):
        contact_sheet(config, per_class=99)


def test_masks_follow_the_bands_as_the_cube_has_them(tmp_path: Path) -> None:
    make_config(tmp_path, masks=True, min_purity=0.5, min_valid=0.0, min_clear=0.0)
    config = load_config(tmp_path / "config.yaml", ["s2l2a.fill_na=true", "s2l2a.na_value=-999"])
    rng = np.random.default_rng(5)
    arrays = clean_arrays(config, BOX, rng)
    arrays["s2l2a"]["SCL"][:] = rng.integers(0, 12, arrays["s2l2a"]["SCL"].shape)
    arrays["lc2l2"]["qa_pixel"][:] = rng.integers(0, 65_536, arrays["lc2l2"]["qa_pixel"].shape)
    arrays["lc2l2"]["red"][..., :3, :] = 0
    put_cube(config, BOX, arrays)
    assert chip(config).chips > 0
    with rasterio.open(
        version_folder(config) / "chips" / "32632_480000_5992320" / "s2l2a_20230809.tif"
    ) as file:
        assert file.descriptions == ("B02", "B03", "B04", "SCL")
        assert (file.read(4) == arrays["s2l2a"]["SCL"][1][:48, :48]).all()
        assert file.scales == (1e-4, 1e-4, 1e-4, 1.0)
        assert file.tags(4)["flag_meanings"].split()[4] == "vegetation"
    with rasterio.open(
        version_folder(config) / "chips" / "32632_480000_5992320" / "lc2l2_20230203.tif"
    ) as file:
        assert file.descriptions == ("blue", "green", "red", "qa_pixel")
        assert (file.read(4).astype("u2") == arrays["lc2l2"]["qa_pixel"][0][:16, :16]).all()
        assert np.isnan(file.read(3)[:3]).all()
        assert file.tags(4)["flag_masks"].split(",")[4] == "16"


def test_a_mask_that_its_dtype_cannot_hold_is_refused(tmp_path: Path) -> None:
    make_config(tmp_path, masks=True)
    with pytest.raises(
        ConfigError, match=r"lc2l2\.dtype: int16 cannot hold every number of qa_pixel \(uint16\)"
    ):
        load_config(tmp_path / "config.yaml", ["lc2l2.dtype=int16"])


# Of the sample archive's kinds: what the Planetary Computer's items say of each sensor.
VIEWS = {
    "s2l2a": {"s2:mean_solar_zenith": 62.5, "s2:mean_solar_azimuth": 161.25, "sat:orbit_state": "descending"},
    "s1rtc": {"sat:orbit_state": "ascending", "view:incidence_angle": "steep"},
    "lc2l2": {"view:sun_elevation": -3, "view:sun_azimuth": 400, "view:off_nadir": 0},
}


def put_seen_cube(config: Config, arrays: Any) -> None:
    """Write a cube whose items say how they were taken."""
    plan = plan_from_times(config, BOX, 32632, TIMES)

    def with_views(one: SensorPlan) -> SensorPlan:
        views = VIEWS.get(one.key, {})
        dates = [replace(d, scenes=tuple(replace(s, properties=views) for s in d.scenes)) for d in one.dates]
        return replace(one, dates=tuple(dates))

    seen = replace(plan, sensors=tuple(map(with_views, plan.sensors)))
    write_cube(cubes_folder(config), seen, arrays)
    record_cube(config, seen)


def test_the_table_says_how_scenes_were_taken(tmp_path: Path) -> None:
    config = make_config(tmp_path, min_clear=0.0)
    arrays = clean_arrays(config, BOX, np.random.default_rng(0))
    arrays["s2l2a"]["SCL"][1, :12, :48] = 9
    put_seen_cube(config, arrays)
    chip(config)
    row = rows_of(config)[0]
    assert row["cell"] == "32632_480000_5992320"
    assert row["s2l2a_orbit_states"] == "descending,descending"
    assert row["s2l2a_sun_elevations"] == "27.5,27.5"
    assert row["s2l2a_sun_azimuths"] == "161.25,161.25"
    assert row["s2l2a_view_off_nadirs"] == ""
    assert row["s2l2a_cloud_shares"] == "0,0.25"  # 12 of 48 rows
    assert row["s1rtc_orbit_states"] == "ascending,ascending"
    assert row["s1rtc_view_incidences"] == row["s1rtc_cloud_shares"] == ""
    assert row["lc2l2_sun_elevations"] == "-3,-3"
    assert row["lc2l2_sun_azimuths"] == ""  # 400 degrees is none
    assert row["lc2l2_view_off_nadirs"] == "0,0"


def test_a_release_with_masks_is_verified_and_opened(tmp_path: Path) -> None:
    make_config(tmp_path, masks=True, classes=[5], sample_size=480, chip_size=480)
    config = load_config(tmp_path / "config.yaml", ["chips.min_clear={s2l2a: 0.7, lc2l2: 0.7}"])
    arrays = clean_arrays(config, BOX, np.random.default_rng(0))
    arrays["s2l2a"]["SCL"][1, :12, :48] = 9
    arrays["lc2l2"]["qa_pixel"][0, 2, 2] = 8
    put_seen_cube(config, arrays)
    chip(config)
    folder = Path(make_release(config).folder)
    assert verify(folder) == []
    opened = open_release(folder)
    assert opened.chip(0)["s2l2a"].sel(band="SCL").to_numpy()[1, 0, 0] == 9
    assert opened.chip(0)["s2l2a"]["cloud_share"].to_numpy().tolist() == [0, 0.25]
    sample = chip_arrays(opened, 0, ["s2l2a", "lc2l2"])
    assert sample["image_s2l2a"].shape == (2, 3, 48, 48)
    assert (sample["mask_s2l2a"] == arrays["s2l2a"]["SCL"][:, :48, :48]).all()
    assert sample["mask_lc2l2"].dtype == np.uint16
    assert sample["mask_lc2l2"][0, 2, 2] == 8
    taken = opened.acquisitions(0).set_index(["sensor", "date"])
    assert taken.loc[("s2l2a", "2023-08-09"), "sun_elevation"] == 27.5
    assert taken.loc[("lc2l2", "2023-02-03"), "cloud_share"] == pytest.approx(9 / 256)  # and its neighbours
    assert np.isnan(taken.loc[("s1rtc", "2023-02-03"), "cloud_share"])
    assert taken.loc[("s1rtc", "2023-02-03"), "orbit_state"] == "ascending"


def test_verify_checks_how_scenes_were_taken(tmp_path: Path) -> None:
    config = make_config(tmp_path, masks=True, classes=[5], min_clear={"s2l2a": 0.5, "lc2l2": 0.95})
    put_seen_cube(config, clean_arrays(config, BOX, np.random.default_rng(0)))
    chip(config)
    file = version_folder(config) / "windows" / "aoi_000000.parquet"
    table = pd.read_parquet(file)
    wrong = [
        ("s2l2a_cloud_shares", "0.1,0", "its cloud share is 0.0000, the tracker says 0.1000"),
        ("s2l2a_cloud_shares", "0,0,0", "s2l2a_cloud_shares has 3 entries for 2 dates"),
        ("lc2l2_cloud_shares", "0,0.9", "lc2l2_cloud_shares 0.9 is more than min_clear 0.95 lets through"),
        ("s2l2a_sun_elevations", "27.5,127.5", "s2l2a_sun_elevations '127.5' is none"),
        ("s1rtc_orbit_states", "sideways,", "s1rtc_orbit_states 'sideways' is none"),
    ]
    for row, (column, value, _) in enumerate(wrong):
        table.loc[row, column] = value
    table.to_parquet(file, index=False)
    found = "\n".join(map(str, verify(make_release(config).folder)))
    for _, _, said in wrong:
        assert said in found


def test_verify_checks_the_codes_of_masks(tmp_path: Path) -> None:
    config = make_config(tmp_path, masks=True, classes=[5], min_clear=0.0)
    arrays = clean_arrays(config, BOX, np.random.default_rng(0))
    arrays["s2l2a"]["SCL"][0, 0, 0] = 77
    put_seen_cube(config, arrays)
    chip(config)
    [fault] = verify(make_release(config).folder)
    assert (fault.file, fault.message) == (
        "s2l2a_000000_20230203.tif",
        "SCL holds 77, which is no code of it",
    )


def test_verify_tells_of_a_cloud_rule_that_is_none(tmp_path: Path) -> None:
    config = make_config(tmp_path, masks=True, classes=[5], sample_size=960, chip_size=960)
    put_seen_cube(config, clean_arrays(config, BOX, np.random.default_rng(0)))
    chip(config)
    folder = Path(make_release(config).folder)
    recipe = (folder / "config.json").read_text()
    (folder / "config.json").write_text(recipe.replace('"clear": [\n', '"clear": ["é",\n', 1))
    names = sorted(path.name for path in folder.iterdir() if path.name != "SHA256SUMS")
    sums = (f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in names)
    (folder / "SHA256SUMS").write_text("".join(sums))
    found = [str(fault) for fault in verify(folder) if fault.file.endswith(".tif")]
    assert found
    assert all(
        "cannot be compared with its cloud rule: config.json has none for s2l2a" in one for one in found
    )
