"""Phase one on the sample archive: cubes against GDAL, the AOIs' states, resuming, and what is never mixed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import rasterio
import rasterio.warp
import rasterio.windows
from shapely import box

from cube.build.block_queue import BlockQueue
from cube.build.plans import plan_cubes
from cube.build.run import build_cubes
from cube.config.aoi import Aoi
from cube.config.models import Config
from cube.config.sensors import SENSORS
from cube.errors import BusyError, ConfigError, StoreError
from cube.run.layout import Layout
from cube.run.lock import hold
from cube.run.status import AoiState, StatusBoard
from cube.run.storage import open_folder
from cube.run.tasks import Outcome, TaskSource
from cube.run.thread_engine import ThreadEngine
from cube.scenes.catalog import open_catalog
from cube.scenes.estimate import estimate_cost
from cube.scenes.explain import Skipped
from cube.scenes.plan import CubePlan
from cube.scenes.planner import plan_aoi
from cube.store.open import open_cube
from cube.store.write import seal
from cube.testing import Archive
from cube.windows.grid import aoi_bounds

ROOT = Path(__file__).parents[3]


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def pixel_files(folder: Path) -> dict[str, bytes]:
    """Return what chips show; their records name the cube, and say whether all of it was fetched."""
    return {name: data for name, data in files(folder).items() if not name.endswith(".json")}


def cubes_of(config: Config) -> Path:
    return Layout.of(config).cubes.path


def cube_of(config: Config, index: int = 5) -> Path:
    """Return the cube that a version has of an AOI, or is building."""
    return cubes_of(config) / f"{states(config)[index]['cube']}.zarr"


def record_of(config: Config, index: int) -> dict[str, Any]:
    """Return what is kept of an AOI's planning."""
    return dict(json.loads(Layout.of(config).plans.read(f"{states(config)[index]['plan']}.json")))


def plan_of(config: Config, index: int) -> CubePlan:
    return CubePlan.from_json(record_of(config, index)["plan"], SENSORS)


def raw(config: Config, index: int, band: str) -> Any:
    import zarr

    return zarr.open_array(cube_of(config, index), path=band, mode="r")


def states(config: Config) -> dict[int, dict[str, Any]]:
    document = json.loads(Layout.of(config).root.read("aoi_metadata.geojson"))
    return {f["properties"]["aoi_index"]: f["properties"] for f in document["features"]}


def href(archive: Archive, scene: Any, band: str) -> Path:
    return Path(archive.path) / scene.assets[band].href


class TestPixels:
    """Against rasterio, on what the demo built."""

    @pytest.mark.parametrize("band", ["B02", "B03", "B04", "B08"])
    def test_sentinel2_10_m_is_bit_equal_after_harmonising(
        self, demo: Config, sample_archive: Archive, band: str
    ) -> None:
        plan = plan_of(demo, 0)
        cube = raw(demo, 0, f"s2l2a/{band}")
        baselines = set()
        for index, date in enumerate(plan.sensor("s2l2a").dates):
            (scene,) = date.scenes
            baseline = scene.properties["s2:processing_baseline"]
            baselines.add(baseline)
            with rasterio.open(href(sample_archive, scene, band)) as source:
                b = plan.bounds
                window = rasterio.windows.from_bounds(b.left, b.bottom, b.right, b.top, source.transform)
                dn = source.read(1, window=window).astype(int)
            offset = 1000 if baseline >= "04.00" else 0
            expected = np.where(dn == 0, 0, np.maximum(dn - offset, 1))
            np.testing.assert_array_equal(cube[index], expected)
        assert min(baselines) < "04.00" <= max(baselines)

    @pytest.mark.parametrize(
        ("index", "key", "band"),
        [
            (0, "lc2l2", "red"),
            (0, "lc2l2", "qa_pixel"),
            (0, "dem", "elevation"),
            (4, "s1rtc", "vv"),
            (4, "lc2l2", "nir08"),
            (4, "dem", "elevation"),
        ],
    )
    def test_warped_blocks_are_gdals_own(
        self, demo: Config, sample_archive: Archive, index: int, key: str, band: str
    ) -> None:
        plan = plan_of(demo, index)
        sensor, spec = SENSORS[key], SENSORS[key].band(band)
        cube = raw(demo, index, f"{key}/{band}")
        for block in plan.blocks(key):
            geobox = plan.geobox(key)[block.roi]
            expected = np.full(geobox.shape, spec.nodata, spec.dtype)
            for scene in plan.sensor(key).dates[block.time].scenes:
                layer = np.full(geobox.shape, spec.nodata, spec.dtype)
                with rasterio.open(href(sample_archive, scene, band)) as source:
                    rasterio.warp.reproject(
                        rasterio.band(source, 1),
                        layer,
                        src_nodata=source.nodata if source.nodata is not None else np.nan,
                        dst_nodata=spec.nodata,
                        dst_crs=str(geobox.crs),
                        dst_transform=geobox.transform,
                        resampling=rasterio.warp.Resampling["nearest" if spec.is_mask else sensor.resampling],
                    )
                empty = np.isnan(expected) if spec.dtype == "float32" else expected == spec.nodata
                np.copyto(expected, layer, where=empty)
            got = cube[block.roi] if sensor.is_static else cube[(block.time, *block.roi)]
            np.testing.assert_array_equal(got, expected)
            assert (got != spec.nodata).any()

    def test_sentinel1_is_mosaicked_without_a_seam(self, demo: Config) -> None:
        vv = open_cube(cube_of(demo, 0))["s1rtc/vv"]
        assert any(len(date.scenes) > 1 for date in plan_of(demo, 0).sensor("s1rtc").dates)
        assert bool(vv.notnull().all())
        assert 0.001 < float(vv.compute().median()) < 1

    def test_the_dem_has_no_gap_where_tiles_meet(self, demo: Config) -> None:
        assert len(plan_of(demo, 0).sensor("dem").dates[0].scenes) >= 2
        elevation = open_cube(cube_of(demo, 0))["dem/elevation"]
        assert bool(elevation.notnull().all())
        steps = np.abs(np.diff(elevation.values, axis=0))
        assert steps.max() < 60

    def test_all_sensors_have_one_outline(self, demo: Config) -> None:
        for index in (0, 1, 2, 4, 5):
            plan = plan_of(demo, index)
            outlines = {tuple(plan.geobox(s.key).boundingbox.bbox) for s in plan.sensors}
            assert len(outlines) == 1


class TestChoice:
    """What the archive's traps are for."""

    def test_tiles_orbits_and_paths(self, demo: Config) -> None:
        def chosen(index: int, key: str, name: str) -> set[Any]:
            return {s.properties[name] for s in plan_of(demo, index).sensor(key).scenes}

        assert chosen(0, "s2l2a", "s2:mgrs_tile") == {"33UUR"}
        assert chosen(2, "s2l2a", "s2:mgrs_tile") == {"33UTR"}
        assert chosen(5, "s2l2a", "s2:mgrs_tile") == {"33UTR"}
        assert chosen(4, "s2l2a", "s2:mgrs_tile") == {"32UQA"}
        assert plan_of(demo, 4).epsg == 32632
        assert chosen(0, "s1rtc", "sat:relative_orbit") == {168}
        assert chosen(0, "lc2l2", "landsat:wrs_path") == {"193"}
        assert chosen(0, "lc2l2", "platform") <= {"landsat-8", "landsat-9"}
        assert [s.id for s in plan_of(demo, 0).sensor("lulc").scenes] == ["33U-2023"]

    def test_an_aoi_across_two_zones_has_one_grid_and_both_zones_land_cover(self, demo: Config) -> None:
        across = box(11.95, 49.98, 12.02, 50.02)
        plan = plan_aoi(Aoi(0, across), demo, open_catalog(demo))
        assert plan.epsg == 32632
        assert plan.bounds == aoi_bounds(across, 32632)
        assert [s.id for s in plan.sensor("lulc").scenes] == ["32U-2023", "33U-2023"]
        assert len(list(plan.sensor("dem").scenes)) == 4

    def test_latitude_first_is_suspected_aloud(self, demo: Config) -> None:
        def reason(area: Any) -> str:
            with pytest.raises(Skipped) as caught:
                plan_aoi(Aoi(0, area), demo, open_catalog(demo))
            return caught.value.reason

        swapped = reason(box(49.98, 12.35, 50.02, 12.42))
        assert (
            "nothing at all is found at longitude 50, latitude 12.38, but there is at longitude 12.38"
            in swapped
        )
        assert "are they swapped in map_sample.geojson? Longitude comes first" in swapped
        assert "swapped" not in reason(box(-60.1, -3.1, -60, -3))  # nor is anything there

    def test_losers_are_on_record_with_their_reason(self, demo: Config) -> None:
        lost = {c.id: c.reason for i in (0, 1, 2, 4, 5) for c in plan_of(demo, i).scenes_seen if not c.chosen}
        assert any("cloud_cover" in reason for reason in lost.values())
        assert any("is a newer processing of the same datatake" in reason for reason in lost.values())
        assert any("tile 33UTR covers as much (100 %)" in reason for reason in lost.values())
        assert any("was taken in VV; VV, VH is wanted" in reason for reason in lost.values())
        assert all(lost.values())

    def test_a_skipped_aoi_leaves_a_record_of_what_was_seen(self, demo: Config) -> None:
        record = record_of(demo, 3)
        assert record["skipped"].startswith("lc2l2: no scene for 2023-07-01/2023-09-30 (")
        reasons = {c["reason"] for c in record["candidates"]}
        assert any(reason.startswith("nodata_pixel_percentage 80") for reason in reasons)
        assert any(reason.startswith("cloud_cover 5") for reason in reasons)

    def test_states(self, demo: Config) -> None:
        rows = states(demo)
        assert [rows[i]["status"] for i in range(6)] == [
            "built",
            "built",
            "built",
            "skipped",
            "built",
            "built",
        ]
        assert rows[3]["reason"].startswith("lc2l2: no scene for 2023-07-01/2023-09-30 (")
        assert "over cloud_cover 50" in rows[3]["reason"]
        assert rows[0]["done"] == 1


class Interrupting(ThreadEngine):
    """An engine that stops after some blocks, as a kill would."""

    def __init__(self, after: int) -> None:
        super().__init__(1)
        self.after = after

    def run(
        self, function: Callable[[Any], Any], tasks: TaskSource[Any], scope: str
    ) -> Iterator[Outcome[Any, Any]]:
        del scope
        while some := tasks.take(1):
            if self.after == 0:
                raise KeyboardInterrupt
            self.after -= 1
            yield Outcome(some[0], function(some[0]))


class Counting(ThreadEngine):
    """Counts what it ran."""

    def __init__(self) -> None:
        super().__init__(2)
        self.ran: list[str] = []

    def run(
        self, function: Callable[[Any], Any], tasks: TaskSource[Any], scope: str
    ) -> Iterator[Outcome[Any, Any]]:
        for outcome in super().run(function, tasks, scope):
            self.ran.append(outcome.task.block.name)
            yield outcome


FEW = ("s2l2a.bands=[B02, B05]", "s2l2a.cloud_band=SCL", "lc2l2.bands=[red]", "s1rtc.bands=[vv]")


class TestResume:
    def test_an_interrupted_build_is_completed_with_the_same_bytes(
        self, demo_config: Callable[..., Config], tmp_path: Path
    ) -> None:
        whole, halted = demo_config(tmp_path / "a", *FEW), demo_config(tmp_path / "b", *FEW)
        build_cubes(whole, ThreadEngine(), only=[5])
        for after in (3, 5):
            with pytest.raises(KeyboardInterrupt):
                build_cubes(halted, Interrupting(after), only=[5])
            assert states(halted)[5]["status"] == "building"
            assert 0 < states(halted)[5]["done"] < 1
            assert not (cube_of(halted) / "zarr.json").exists()
        engine = Counting()
        summary = build_cubes(halted, engine, only=[5])
        assert summary.rows[5].status is AoiState.BUILT
        assert len(engine.ran) == 14 - 3 - 5
        assert files(cubes_of(halted)) == files(cubes_of(whole))
        assert build_cubes(halted, Counting(), only=[5]).fetched_blocks == 0

    def test_a_block_without_its_marker_is_made_again(
        self, demo_config: Callable[..., Config], tmp_path: Path
    ) -> None:
        config = demo_config(tmp_path, *FEW)
        with pytest.raises(KeyboardInterrupt):
            build_cubes(config, Interrupting(6), only=[5])
        markers = sorted(Layout.of(config).building.path.glob("*/*.json"))
        markers[0].unlink()
        stray = cube_of(config) / "s2l2a" / "B02" / "c" / "0" / "0" / "0.partial"
        stray.parent.mkdir(parents=True, exist_ok=True)
        stray.write_bytes(b"half")
        engine = Counting()
        build_cubes(config, engine, only=[5])
        assert len(engine.ran) == 14 - 5
        assert not stray.exists()

    def test_a_changed_config_rebuilds_only_what_changed(
        self, demo_config: Callable[..., Config], tmp_path: Path
    ) -> None:
        build_cubes(demo_config(tmp_path, *FEW), ThreadEngine(), only=[5])
        changed = demo_config(tmp_path, *FEW, "lc2l2.bands=[red, nir08]")
        engine = Counting()
        build_cubes(changed, engine, only=[5])
        assert {name.split("-")[0] for name in engine.ran} == {"lc2l2"}
        fresh = demo_config(tmp_path / "fresh", *FEW, "lc2l2.bands=[red, nir08]")
        build_cubes(fresh, ThreadEngine(), only=[5])
        assert files(cube_of(changed)) == files(cube_of(fresh))
        fewer = demo_config(tmp_path, *FEW, "lc2l2=")
        engine = Counting()
        build_cubes(fewer, engine, only=[5])
        assert engine.ran == []
        assert not (cube_of(fewer) / "lc2l2").exists()
        assert len(list(cubes_of(fewer).iterdir())) == 3

    def test_settings_of_later_phases_change_nothing(
        self, demo_config: Callable[..., Config], tmp_path: Path
    ) -> None:
        build_cubes(demo_config(tmp_path, *FEW), ThreadEngine(), only=[5])
        other = demo_config(tmp_path, *FEW, "chips.min_purity=0.5", "s2l2a.dtype=float32", "release.seed=9")
        engine = Counting()
        build_cubes(other, engine, only=[5])
        assert engine.ran == []

    def test_a_killed_client_is_survived(self, demo_config: Callable[..., Config], tmp_path: Path) -> None:
        config = demo_config(tmp_path, *FEW)
        reference = demo_config(tmp_path / "reference", *FEW)
        build_cubes(reference, ThreadEngine(), only=[5])
        code = (
            "import sys; from cube.config.reading import load_config; from cube.build.run import build_cubes;"
            "from cube.run.thread_engine import ThreadEngine;"
            "c = load_config(sys.argv[1], sys.argv[2:]); build_cubes(c, ThreadEngine(1), only=[5])"
        )
        overrides = [
            f"catalog.url={config.catalog.url}",
            f"aoi.path={config.aoi.path}",
            f"directory.working={config.directory.working}",
            f"directory.output={config.directory.output}",
            *FEW,
        ]
        markers = Layout.of(config).building.path
        for wanted in (2, 7):
            process = subprocess.Popen([sys.executable, "-c", code, str(config.path), *overrides], cwd=ROOT)
            deadline = time.monotonic() + 120
            while process.poll() is None and time.monotonic() < deadline:
                if len(list(markers.glob("*/*.json"))) >= wanted:
                    os.kill(process.pid, signal.SIGKILL)
                    break
                time.sleep(0.005)
            process.wait(timeout=60)
        build_cubes(config, ThreadEngine(), only=[5])
        assert files(cubes_of(config)) == files(cubes_of(reference))
        leftovers = [n for n in files(Path(config.directory.working)) if "partial" in n or ".staging" in n]
        assert leftovers == []

    def test_a_marker_half_written_for_a_plan_that_was_given_up_is_swept(
        self, demo_config: Callable[..., Config], tmp_path: Path
    ) -> None:
        config = demo_config(tmp_path, *FEW, "aoi.include_indices=[5]")
        given_up = Layout.of(config).markers("aoi_000005_0123456789ab").path
        given_up.mkdir(parents=True)
        (given_up / "s2l2a-0-0-0.json").write_text("{}")
        (given_up / ".staging-0123").write_text("{")
        build_cubes(config, ThreadEngine())
        assert [path.name for path in given_up.iterdir()] == ["s2l2a-0-0-0.json"]


class TestFailures:
    def test_a_layer_without_another_choice_fails_its_aoi_by_name_and_a_rerun_completes_it(
        self, demo_config: Callable[..., Config], tmp_path: Path, sample_archive: Archive
    ) -> None:
        archive = tmp_path / "archive"
        shutil.copytree(sample_archive.path, archive, copy_function=os.link)
        config = demo_config(tmp_path, *FEW, f"catalog.url={archive / Path(sample_archive.items).name}")
        plans = [plan for _, plan in plan_cubes(config, only=[5]) if isinstance(plan, CubePlan)]
        names = {scene.id for plan in plans for scene in plan.sensor("dem").scenes}
        scene = next(s for s in _items(sample_archive) if s["id"] in names)
        asset = archive / scene["assets"]["data"]["href"]
        asset.unlink()
        summary = build_cubes(config, ThreadEngine(), only=[4, 5])
        os.link(Path(sample_archive.path) / scene["assets"]["data"]["href"], asset)
        assert summary.exit_code == 3
        failed = [i for i, row in summary.rows.items() if row.status is AoiState.FAILED]
        assert failed
        for index in failed:
            reason = states(config)[index]["reason"]
            assert scene["id"] in reason
            assert "asset data: the file is missing (Copernicus DEM GLO-30 has no other choice)" in reason
            assert states(config)[index]["lost"] == []
            assert not (cube_of(config, index) / "zarr.json").exists()
        engine = Counting()
        again = build_cubes(config, engine, only=[4, 5], retry_failed=True)
        assert again.exit_code == 0
        assert len(engine.ran) == len(failed)

    def test_a_cube_that_cannot_be_sealed_costs_no_other(
        self, demo_config: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def sealed(cubes: Any, plan: CubePlan, *arguments: Any, **extra: Any) -> None:
            if plan.aoi_index == 4:
                raise ConnectionError("no answer from https://host/a?sig=c2VjcmV0")
            seal(cubes, plan, *arguments, **extra)

        monkeypatch.setattr("cube.store.resume.seal", sealed)
        config = demo_config(tmp_path, *FEW)
        rows = build_cubes(config, ThreadEngine(), only=[4, 5]).rows
        assert rows[5].status is AoiState.BUILT
        assert (rows[4].status, rows[4].reason) == (
            AoiState.FAILED,
            "ConnectionError: no answer from https://host/a",
        )

    def test_a_status_that_is_refused_in_passing_ends_no_run(
        self, demo_config: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        refused: list[str] = []

        def update(board: StatusBoard, index: int, **changes: Any) -> None:
            with monkeypatch.context() as patch:
                if not refused:
                    patch.setattr(StatusBoard, "write", refuse)
                plainly(board, index, **changes)

        def refuse(board: StatusBoard) -> None:
            refused.append(str(board))
            raise StoreError("refused")

        plainly = StatusBoard.update
        monkeypatch.setattr(StatusBoard, "update", update)
        monkeypatch.setattr("cube.run.status._MOST_SHARE", 0.0)  # a slow disk has fewer in passing
        config = demo_config(tmp_path, *FEW)
        assert build_cubes(config, ThreadEngine(), only=[5]).rows[5].status is AoiState.BUILT
        assert len(refused) == 1
        assert states(config)[5]["status"] == "built"

    def test_a_cube_that_would_not_fit_is_not_begun(
        self, demo_config: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        config = demo_config(tmp_path)
        plans = [plan for _, plan in plan_cubes(config, only=[4, 5]) if isinstance(plan, CubePlan)]
        room = max(estimate_cost(plan).store_bytes for plan in plans) * 1.5
        monkeypatch.setattr("cube.run.storage.disk.DiskFolder.free_bytes", lambda _: int(room))
        begun = set[int]()

        class Patient(ThreadEngine):
            """Does nothing before both AOIs have been begun."""

            def run(self, function: Any, tasks: TaskSource[Any], scope: str) -> Iterator[Outcome[Any, Any]]:
                del scope
                drawn = []
                while len(begun) < 2:
                    drawn += tasks.take(100)
                    time.sleep(0.01)
                while drawn := [*drawn, *tasks.take(1)]:
                    task = drawn.pop(0)
                    yield Outcome(task, function(task))

        summary = build_cubes(config, Patient(), only=[4, 5], progress=lambda index, _: begun.add(index))
        assert summary.exit_code == 3
        # One fits, and the other would take what the first has still to write.
        assert sorted(row.status for row in summary.rows.values()) == [AoiState.BUILT, AoiState.FAILED]
        [reason] = [row.reason for row in summary.rows.values() if row.reason]
        assert "GB are free" in reason
        assert "make room and run again" in reason

    def test_a_second_run_on_the_folder_is_refused(
        self, demo_config: Callable[..., Config], tmp_path: Path
    ) -> None:
        config = demo_config(tmp_path)
        root = Layout.of(config).root
        root.make()
        with hold(root), pytest.raises(BusyError, match="another run"):
            build_cubes(config, ThreadEngine(), only=[5])


def _items(archive: Archive) -> list[dict[str, Any]]:
    return list(json.loads(Path(archive.items).read_text())["features"])


def test_real_pixels(shared: Path, tmp_path: Path) -> None:
    """The real archive: a cube's pixels are the files' pixels, at their place."""
    from cube.config.reading import load_config

    text = {
        "dataset": {"version": "real"},
        "aoi": {"path": str(shared / "real-archive" / "map_real.geojson"), "extent": "aoi"},
        "directory": {"working": str(tmp_path / "w"), "output": str(tmp_path / "o")},
        "catalog": {"url": str(shared / "real-archive" / "items.json"), "sign": "none"},
        "s2l2a": {"time_ranges": ["2017-01-01/2023-12-31"], "bands": ["B04"], "cloud_cover": 100},
        "s1rtc": {"delta_days": 30},
        "dem": {"resolution": 10},
        "lulc": {"year": "2017-01-02/2023-12-31"},
        "chips": {"sample_size": 320, "chip_size": 320},
    }
    (tmp_path / "c.yaml").write_text(json.dumps(text))
    config = load_config(tmp_path / "c.yaml")
    summary = build_cubes(config, ThreadEngine())
    assert summary.count(AoiState.BUILT) == 5
    for index in range(5):
        cube = open_cube(cube_of(config, index))
        for key, band in (("s2l2a", "B04"), ("s1rtc", "vv"), ("dem", "elevation"), ("lulc", "lulc")):
            scene = next(plan_of(config, index).sensor(key).scenes)
            with rasterio.open(shared / "real-archive" / scene.assets[band].href) as source:
                pixels, b = source.read(1), source.bounds
            values = cube[key][band]
            values = values.isel(time=0) if "time" in values.dims else values
            part = values.sel(x=slice(b.left, b.right), y=slice(b.top, b.bottom)).values
            if key == "s2l2a":
                offset = 1000 if scene.properties["s2:processing_baseline"] >= "04.00" else 0
                expected = np.where(pixels == 0, np.nan, np.maximum(pixels.astype(int) - offset, 1) / 1e4)
                np.testing.assert_allclose(part, expected, rtol=1e-5)
            else:
                np.testing.assert_array_equal(part, pixels)


class TestCandidates:
    """``aoi.fetch: candidates`` leaves out imagery that no chip could be cut from."""

    SETTINGS = (
        *FEW,
        "aoi.include_indices=[0, 5]",  # one with a candidate, one with none
        "chips.sample_size=960",
        "chips.chip_size=960",
        "chips.classes=[8]",
    )

    def test_imagery_of_areas_without_a_candidate_is_left_out(
        self, demo_config: Callable[..., Config], tmp_path: Path
    ) -> None:
        from chipping.chip import chip

        everything = demo_config(tmp_path / "all", *self.SETTINGS)
        narrow = demo_config(tmp_path / "candidates", *self.SETTINGS, "aoi.fetch=candidates")
        build_cubes(everything, ThreadEngine())
        engine = Counting()
        summary = build_cubes(narrow, engine)
        assert summary.count(AoiState.BUILT) == 2
        assert 2 < len(engine.ran) < 28
        assert sum(name.startswith("lulc") for name in engine.ran) == 2
        wanted, got = chip(everything), chip(narrow)
        assert got.chips == wanted.chips > 0
        chips = Layout.of(everything).chips.path, Layout.of(narrow).chips.path
        assert pixel_files(chips[0]) == pixel_files(chips[1])
        # Looser settings fetch the rest, and only the rest.
        looser = demo_config(
            tmp_path / "candidates", *self.SETTINGS, "chips.classes=[1, 2, 5, 7, 8, 11]", "aoi.fetch=all"
        )
        rest = Counting()
        build_cubes(looser, rest)
        assert sorted(engine.ran + rest.ran) == sorted(
            block.name
            for i in (0, 5)
            for s in plan_of(looser, i).sensors
            for block in plan_of(looser, i).blocks(s.key)
        )
        assert files(cubes_of(looser)) == files(cubes_of(everything))
        assert build_cubes(narrow, Counting()).fetched_blocks == 0

    def test_candidates_agree_with_a_recount(self, demo: Config) -> None:
        from cube.build.plans import candidates_of
        from cube.config.sensors import CLASS_NAMES

        plan = plan_of(demo, 0)
        lulc = raw(demo, 0, "lulc/lulc")[...]
        side, margin, found = 48, 24, dict[str, int]()
        left, top = plan.bounds.left // 10, plan.bounds.top // 10
        for row in range(lulc.shape[0]):
            for col in range(lulc.shape[1]):
                if (top - row) % side or (left + col) % side:
                    continue
                if (
                    row < margin
                    or col < margin
                    or row + side + margin > lulc.shape[0]
                    or col + side + margin > lulc.shape[1]
                ):
                    continue
                codes = np.unique(lulc[row : row + side, col : col + side])
                if len(codes) == 1 and codes[0] in demo.chips.classes:
                    name = CLASS_NAMES[int(codes[0])]
                    found[name] = found.get(name, 0) + 1
        assert candidates_of(plan, demo) == found
        assert len(found) >= 3


class TestNothingStale:
    """What changed since the cube was built is seen."""

    def test_an_aoi_that_is_skipped_now_leaves_no_cube_of_before(
        self, demo_config: Callable[..., Config], tmp_path: Path
    ) -> None:
        from chipping.chip import chip
        from cube.errors import GelosError

        build_cubes(demo_config(tmp_path, *FEW), ThreadEngine(), only=[5])
        strict = demo_config(tmp_path, *FEW, "s2l2a.cloud_cover=0.1")
        assert build_cubes(strict, ThreadEngine(), only=[5]).rows[5].status is AoiState.SKIPPED
        with pytest.raises(GelosError):
            chip(strict)
        engine = Counting()
        build_cubes(demo_config(tmp_path, *FEW), engine, only=[5])
        assert engine.ran == []

    def test_changed_provenance_is_written_without_fetching(
        self, demo_config: Callable[..., Config], tmp_path: Path
    ) -> None:
        config = demo_config(tmp_path, *FEW)
        build_cubes(config, ThreadEngine(), only=[5])
        document = json.loads(Path(config.aoi.path).read_text())
        ring = document["features"][5]["geometry"]["coordinates"][0]
        document["features"][5]["geometry"]["coordinates"][0] = (
            [[x, y] for x, y in ring[:1]] + [[x + 1e-7, y] for x, y in ring[1:-1]] + [ring[-1]]
        )
        (tmp_path / "moved.geojson").write_text(json.dumps(document))
        moved = demo_config(tmp_path, *FEW, f"aoi.path={tmp_path / 'moved.geojson'}")
        engine = Counting()
        build_cubes(moved, engine, only=[5])
        assert engine.ran == []
        fresh = demo_config(tmp_path / "fresh", *FEW, f"aoi.path={tmp_path / 'moved.geojson'}")
        build_cubes(fresh, ThreadEngine(), only=[5])
        assert files(cubes_of(moved)) == files(cubes_of(fresh))

    def test_a_cube_that_was_deleted_is_built_again(
        self, demo_config: Callable[..., Config], tmp_path: Path
    ) -> None:
        config = demo_config(tmp_path, *FEW)
        build_cubes(config, ThreadEngine(), only=[5])
        whole = files(cubes_of(config))
        shutil.rmtree(cube_of(config))
        engine = Counting()
        build_cubes(config, engine, only=[5])
        assert len(engine.ran) == 14
        assert files(cubes_of(config)) == whole

    def test_rows_of_other_aois_stay(self, demo_config: Callable[..., Config], tmp_path: Path) -> None:
        config = demo_config(tmp_path, *FEW)
        build_cubes(config, ThreadEngine(), only=[3])
        summary = build_cubes(demo_config(tmp_path, *FEW, "aoi.include_indices=[5]"), ThreadEngine())
        assert list(summary.rows) == [5]
        assert states(config)[3]["status"] == "skipped"

    def test_a_dry_run_keeps_no_plan(self, demo_config: Callable[..., Config], tmp_path: Path) -> None:
        config = demo_config(tmp_path, *FEW)
        build_cubes(config, ThreadEngine(), only=[5])
        before = files(Layout.of(config).plans.path)
        strict = demo_config(tmp_path, *FEW, "s2l2a.cloud_cover=0.1")
        assert [type(outcome).__name__ for _, outcome in plan_cubes(strict, only=[5])] == ["Skipped"]
        assert files(Layout.of(config).plans.path) == before

    def test_an_aoi_that_is_not_there_is_named(
        self, demo_config: Callable[..., Config], tmp_path: Path
    ) -> None:
        with pytest.raises(ConfigError, match=r"--aoi 99: there is no such AOI .* from 0 to 5"):
            build_cubes(demo_config(tmp_path), ThreadEngine(), only=[99])

    def test_trouble_of_any_kind_stops_one_aoi_only(
        self, demo_config: Callable[..., Config], tmp_path: Path
    ) -> None:
        class Odd:
            def __init__(self, catalog: Any) -> None:
                self.catalog, self.calls = catalog, 0

            def search(self, query: Any) -> Any:
                self.calls += 1
                if self.calls == 1:
                    raise ZeroDivisionError("a bug")
                return self.catalog.search(query)

        config = demo_config(tmp_path, *FEW)
        summary = build_cubes(config, ThreadEngine(), only=[3, 5], catalog=Odd(open_catalog(config)))
        reasons = {row.status: row.reason for row in summary.rows.values()}
        assert reasons[AoiState.FAILED] == "ZeroDivisionError: a bug"
        assert summary.exit_code == 3


def test_blocks_that_are_ready_do_not_wait_for_further_plans() -> None:
    class Planner:
        """Would have no plan for a long time."""

        def take(self, **_: object) -> None:
            raise AssertionError("was asked")

    layout = Layout(open_folder("memory://none"), "v1")
    queue = BlockQueue(*(cast("Any", part) for part in (None, layout, Planner(), None, None)))
    queue._ready.extend(cast("list[Any]", ["one", "two"]))
    assert queue.take(5) == ["one", "two"]
    assert queue.take(0) == []
