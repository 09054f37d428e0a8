"""Scenes whose files are missing or broken: each costs itself, and what a service does wrong costs no scene."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import rasterio

from cube.build.losses import LossWatch
from cube.build.plans import AoiPlanner, plan_cubes
from cube.build.prune import remove_unused
from cube.build.run import BuildSummary, build_cubes
from cube.config.models import Config
from cube.errors import ServiceError
from cube.run.engine import open_engine
from cube.run.layout import Layout
from cube.run.status import AoiState
from cube.run.thread_engine import ThreadEngine
from cube.scenes.explain import Skipped
from cube.scenes.lost import LostScene
from cube.scenes.plan import CubePlan
from cube.testing import Archive
from release.packing.contents import _read_aois

AOI = 5
SMALL = (
    f"aoi.include_indices=[{AOI}]",
    's2l2a.time_ranges=["2023-01-01/2023-03-31","2023-04-01/2023-06-30"]',
    "s2l2a.bands=[B05]",
    "s2l2a.cloud_band=SCL",
    "s1rtc=",
    "lc2l2=",
    "dem=",
    "compute.retry_wait_s=0.01",
)
"""Two dates of two bands, and land cover: three blocks."""


@dataclass
class Copy:
    """An archive that may be damaged, and configs that read it."""

    path: Path
    folder: Path
    load: Callable[..., Config]
    name: str

    def config(self, where: str, *overrides: str) -> Config:
        """Return the config of a build in a folder of its own."""
        return self.load(self.folder / where, f"catalog.url={self.path / self.name}", *SMALL, *overrides)

    def file(self, scene: Any, band: str) -> Path:
        """Return a scene's file, which is no link to another archive's any more."""
        path = self.path / scene.assets[band].href
        data = path.read_bytes()
        path.unlink()
        path.write_bytes(data)
        return path


@pytest.fixture
def copy(sample_archive: Archive, demo_config: Callable[..., Config], tmp_path: Path) -> Copy:
    shutil.copytree(sample_archive.path, tmp_path / "archive", copy_function=shutil.os.link)
    return Copy(tmp_path / "archive", tmp_path, demo_config, Path(sample_archive.items).name)


def plan_of(config: Config) -> CubePlan:
    [(_, plan)] = plan_cubes(config)
    assert isinstance(plan, CubePlan), plan
    return plan


def build(config: Config, **how: Any) -> BuildSummary:
    return build_cubes(config, ThreadEngine(2), **how)


def kept(config: Config) -> dict[str, bytes]:
    """Return all that a build leaves of the AOI: cube, plan, and the records beside them."""
    working, row = Layout.of(config).working.path, row_of(config)
    cube, plan = row["cube"], row["plan"]
    there = [
        *(working / "cubes" / f"{cube}.zarr").rglob("*"),
        *(
            working / folder / f"{name}.json"
            for folder, name in (("plans", plan), ("lost", plan), ("blocks", cube))
        ),
    ]
    return {str(path.relative_to(working)): path.read_bytes() for path in there if path.is_file()}


def row_of(config: Config) -> dict[str, Any]:
    document = json.loads(Layout.of(config).root.read("aoi_metadata.geojson"))
    return next(f["properties"] for f in document["features"] if f["properties"]["aoi_index"] == AOI)


def remove(path: Path) -> None:
    path.unlink()


def replace_by_a_page(path: Path) -> None:
    path.write_text("<!DOCTYPE html><html><body>This content has moved.</body></html>" * 40)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])


def garble(path: Path) -> None:
    """Overwrite every tile of the file itself; its header stays."""
    with rasterio.open(path) as source:
        tags = source.tags(ns="TIFF", bidx=1)
        tags |= {
            key: source.get_tag_item(key, "TIFF", bidx=1)
            for row in range(-(-source.height // source.block_shapes[0][0]))
            for column in range(-(-source.width // source.block_shapes[0][1]))
            for key in (f"BLOCK_OFFSET_{column}_{row}", f"BLOCK_SIZE_{column}_{row}")
        }
    data = bytearray(path.read_bytes())
    for key, offset in tags.items():
        if key.startswith("BLOCK_OFFSET") and offset is not None:
            size = int(tags[key.replace("OFFSET", "SIZE")])
            data[int(offset) : int(offset) + size] = b"\xa5" * size
    path.write_bytes(data)


DAMAGES = {
    remove: "the file is missing",
    replace_by_a_page: "the file is no raster",
    cut: "the file is cut short",
    garble: "the file cannot be decoded",
}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_broken_file_costs_its_scene_and_a_rerun_is_the_same_until_it_is_asked_again(
    copy: Copy, damage: Callable[[Path], None]
) -> None:
    whole = copy.config("whole")
    assert build(whole).exit_code == 0
    scene = next(plan_of(whole).sensor("s2l2a").scenes)
    path = copy.file(scene, "B05")
    right = path.read_bytes()
    damage(path)

    first, second = copy.config("first"), copy.config("second")
    summary = build(first)
    assert (summary.exit_code, summary.rows[AOI].status) == (0, AoiState.BUILT)
    assert summary.fetched_blocks == 3  # the other date and land cover are not read again
    lost = {"item": scene.id, "asset": "B05", "cause": DAMAGES[damage]}
    assert row_of(first)["lost"] == [lost]
    released = _read_aois(Layout.of(first).root)["features"]
    assert [one["properties"]["lost"] for one in released if one["properties"]["lost"]] == [[lost]]
    plan = plan_of(first)
    assert scene.id not in {one.id for one in plan.sensor("s2l2a").scenes}
    assert {c.reason for c in plan.scenes_seen if c.id == scene.id} == {f"lost: asset B05: {DAMAGES[damage]}"}
    build_cubes(second, ThreadEngine(1))
    assert kept(first) == kept(second)

    before = kept(first)
    path.write_bytes(right)
    assert build(first).fetched_blocks == 0
    assert kept(first) == before
    again = build(first, recheck_lost=True)
    assert (again.exit_code, again.rows[AOI].lost) == (0, [])
    assert kept(first) == kept(whole)


def test_versions_that_ask_the_same_share_the_record_and_the_plan(copy: Copy) -> None:
    first, second = copy.config("run"), copy.config("run", "dataset.version=second", "chips.min_purity=0.9")
    other = copy.config("run", "dataset.version=other", "s2l2a.cloud_cover=29")
    scene = next(plan_of(first).sensor("s2l2a").scenes)
    remove(copy.file(scene, "B05"))
    build(first)
    again = build(second)
    assert (again.fetched_blocks, again.rows[AOI].status) == (0, AoiState.BUILT)
    assert [one["item"] for one in row_of(second)["lost"]] == [scene.id]
    assert kept(second) == kept(first)
    # Another question finds by itself what is lost: its plan hangs on no other version's.
    assert plan_of(other).fingerprint != plan_of(first).fingerprint
    assert build(other).fetched_blocks == 0  # the same scenes in the end, and the same cube
    assert row_of(other)["cube"] == row_of(first)["cube"]
    assert row_of(other)["plan"] != row_of(first)["plan"]
    remove_unused(first)
    assert kept(second) == kept(first)
    assert len(Layout.of(first).lost.names()) == 2


def test_a_scene_that_is_lost_still_is_found_so_when_it_is_asked_again(copy: Copy) -> None:
    config = copy.config("run")
    remove(copy.file(next(plan_of(config).sensor("s2l2a").scenes), "SCL"))
    build(config)
    before = kept(config)
    assert before
    build(config, recheck_lost=True)
    assert kept(config) == before


def test_workers_in_processes_tell_of_lost_scenes(copy: Copy) -> None:
    threads, processes = copy.config("threads"), copy.config("processes", "compute.workers=1")
    remove(copy.file(next(plan_of(threads).sensor("s2l2a").scenes), "B05"))
    build(threads)
    with open_engine(processes.compute) as engine:
        assert build_cubes(processes, engine).exit_code == 0
    assert kept(processes) == kept(threads)
    assert row_of(processes)["lost"]


def test_a_run_that_dies_between_the_record_and_the_new_plan_is_completed(
    copy: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, halted = copy.config("whole"), copy.config("halted")
    remove(copy.file(next(plan_of(whole).sensor("s2l2a").scenes), "B05"))
    build(whole)

    def die(planner: AoiPlanner, aoi: Any, lost: Any) -> None:
        planner.record_lost(aoi, lost)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(AoiPlanner, "plan_again", die)
        with pytest.raises(KeyboardInterrupt):
            build(halted)
    assert build(halted).fetched_blocks == 1
    assert kept(halted) == kept(whole)


def test_an_aoi_without_a_scene_left_is_skipped_and_the_reason_names_the_lost_ones(copy: Copy) -> None:
    config = copy.config("run", "catalog.exclude_items=[none]")
    first, second = plan_of(config).sensor("s2l2a").scenes
    others = [
        c.id for c in plan_of(config).scenes_seen if c.sensor == "s2l2a" and c.id not in {first.id, second.id}
    ]
    config = copy.config("run", f"catalog.exclude_items={json.dumps(others)}")
    remove(copy.file(second, "B05"))
    row = build(config).rows[AOI]
    assert row.status is AoiState.SKIPPED
    assert row.reason.endswith(f"; lost: item {second.id}, asset B05: the file is missing")
    assert [one["item"] for one in row.lost] == [second.id]


def test_excluded_items_are_no_candidates(copy: Copy) -> None:
    config = copy.config("run")
    scene = next(plan_of(config).sensor("s2l2a").scenes)
    without = plan_of(copy.config("run", f"catalog.exclude_items={scene.id}"))
    assert scene.id not in {one.id for one in without.sensor("s2l2a").scenes}
    assert {c.reason for c in without.scenes_seen if c.id == scene.id} == {"in catalog.exclude_items"}


def test_five_losses_in_a_row_are_the_services_and_leave_no_record(copy: Copy) -> None:
    config = copy.config("run", "s2l2a.cloud_cover=100")
    items = json.loads((copy.path / copy.name).read_text())["features"]
    gone = [copy.path / i["assets"]["B05"]["href"] for i in items if i["collection"] == "sentinel-2-l2a"]
    kept_apart = {path: path.read_bytes() for path in gone}
    for path in gone:
        path.unlink()
    with pytest.raises(ServiceError, match=r"sentinel-2-l2a: 5 scenes in a row .* catalog\.exclude_items"):
        build(config)
    assert Layout.of(config).lost.names() == []
    for path, data in kept_apart.items():
        path.write_bytes(data)
    assert build(config).rows[AOI].lost == []
    whole = copy.config("whole", "s2l2a.cloud_cover=100")
    build(whole)
    assert kept(config) == kept(whole)


@pytest.fixture
def ranked(copy: Copy) -> tuple[Copy, CubePlan]:
    """Return an archive, and the plan that ranking over the AOI makes of it whole."""
    return copy, plan_of(copy.config("whole", "s2l2a.rank=aoi", "s2l2a.cloud_cover=100"))


@pytest.mark.parametrize("damage", [remove, garble])
def test_a_candidate_that_cannot_be_ranked_is_lost_and_the_others_are_ranked(
    ranked: tuple[Copy, CubePlan], damage: Callable[[Path], None]
) -> None:
    copy, plan = ranked
    best = next(plan.sensor("s2l2a").scenes)
    damage(copy.file(best, "SCL"))
    first, second = (copy.config(name, "s2l2a.rank=aoi", "s2l2a.cloud_cover=100") for name in ("a", "b"))
    summary = build(first)
    assert summary.rows[AOI].status is AoiState.BUILT
    assert [(one["item"], one["asset"]) for one in summary.rows[AOI].lost] == [(best.id, "SCL")]
    build(second)
    assert kept(first) == kept(second)
    # An excluded scene is ranked as a lost one: the others' order is their own.
    without = plan_of(
        copy.config("c", "s2l2a.rank=aoi", "s2l2a.cloud_cover=100", f"catalog.exclude_items={best.id}")
    )
    assert plan_of(first).fingerprint == without.fingerprint


def test_a_failed_aoi_is_planned_from_what_the_catalog_says_now(
    copy: Copy, capsys: pytest.CaptureFixture[str]
) -> None:
    config = copy.config("run", "catalog.exclude_items=[none]")
    scene = next(plan_of(config).sensor("s2l2a").scenes)
    [lulc] = plan_of(config).sensor("lulc").scenes
    remove(copy.file(lulc, "lulc"))
    assert build(config).rows[AOI].status is AoiState.FAILED
    catalog = copy.path / copy.name
    document = json.loads(catalog.read_text())
    for item in document["features"]:
        if item["id"] == lulc.id:
            item["id"] = f"{lulc.id}-mended"
            source = copy.path / item["assets"]["data"]["href"]
            shutil.copy(
                Path(copy.load(copy.folder).catalog.url).parent / item["assets"]["data"]["href"], source
            )
    catalog.unlink()  # a link to the archive of all tests
    catalog.write_text(json.dumps(document))
    from cube.run.logs import RunLog

    with RunLog():
        summary = build(config, retry_failed=True)
    assert summary.rows[AOI].status is AoiState.BUILT
    said = capsys.readouterr().err
    assert f"planned anew: lulc: {lulc.id}-mended in place of {lulc.id}" in said
    assert [one.id for one in plan_of(config).sensor("lulc").scenes] == [f"{lulc.id}-mended"]
    assert scene.id in {one.id for one in plan_of(config).sensor("s2l2a").scenes}


def scene(number: int, collection: str = "sentinel-2-l2a") -> LostScene:
    return LostScene("s2l2a", collection, f"item-{number}", "B05", "the file is missing")


def test_scenes_read_between_them_break_a_row_of_losses() -> None:
    watch = LossWatch()
    for number in range(100):
        watch.read("sentinel-2-l2a", [f"read-{number}"])
    for number in range(9):  # and nine of a hundred are no tenth
        watch.lose(scene(number))
        if number % 4 == 3:
            watch.read("sentinel-2-l2a", ["read-0"])


def test_a_tenth_of_a_collection_lost_is_the_services() -> None:
    watch = LossWatch()
    watch.read("sentinel-2-l2a", [f"read-{number}" for number in range(50)])
    for number in range(5):
        watch.lose(scene(number))
        watch.read("sentinel-2-l2a", ["read-0"])
    with pytest.raises(ServiceError, match=r"sentinel-2-l2a: 6 of 56 scenes cannot be read"):
        watch.lose(scene(5))
    assert watch.blamed == {f"item-{number}" for number in range(6)}


def test_an_item_that_several_aois_lose_counts_once_and_collections_apart() -> None:
    watch = LossWatch()
    for _ in range(9):
        watch.lose(scene(0))
    for number in range(8):
        watch.lose(scene(number, f"collection-{number % 2}"))


def test_a_dry_run_records_nothing(copy: Copy) -> None:
    config = copy.config("run", "s2l2a.rank=aoi")
    remove(copy.file(next(plan_of(config).sensor("s2l2a").scenes), "SCL"))
    assert not isinstance(plan_of(config), Skipped)
    assert not Layout.of(config).lost.names()
