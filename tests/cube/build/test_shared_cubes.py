"""Cubes belong to their recipe: versions share them, the first layout's are taken over, prune takes the rest."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chipping.chip import chip
from cube.build import block_queue
from cube.build.prune import find_unused, remove_unused
from cube.build.run import build_cubes
from cube.config.models import Config
from cube.errors import BusyError, ConfigError, StoreError
from cube.run.layout import Layout
from cube.run.lock import share
from cube.run.named_locks import NamedLocks
from cube.run.status import AoiState
from cube.run.storage import Folder, open_folder
from cube.run.storage.disk import DiskFolder
from cube.run.thread_engine import ThreadEngine
from cube.store import takeover
from cube.store.open import find_cube, open_cube
from release.cli import main

FEW = ("s2l2a.bands=[B02, B05]", "s2l2a.cloud_band=SCL", "lc2l2=", "s1rtc=", "aoi.include_indices=[4, 5]")


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def rows(config: Config) -> dict[int, dict[str, Any]]:
    document = json.loads(Layout.of(config).root.read("aoi_metadata.geojson"))
    return {feature["properties"]["aoi_index"]: feature["properties"] for feature in document["features"]}


@pytest.fixture(scope="module")
def built(demo_config: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Return the config of two small cubes; not to be written to."""
    config = demo_config(tmp_path_factory.mktemp("built"), *FEW)
    assert build_cubes(config, ThreadEngine()).count(AoiState.BUILT) == 2
    return config


@pytest.fixture
def version(built: Config, demo_config: Callable[..., Config], tmp_path: Path) -> Callable[..., Config]:
    """Return a function that gives further versions in a copy of the working folder with both cubes."""
    shutil.copytree(Layout.of(built).working.path, tmp_path / "interim")

    def load(name: str, *overrides: str) -> Config:
        return demo_config(tmp_path, *FEW, f"dataset.version={name}", *overrides)

    return load


def test_a_cube_that_lost_its_root_is_built_again_though_its_row_calls_it_built(
    built: Config, version: Callable[..., Config]
) -> None:
    """As where a copy of the working folder was cut off."""
    config, again = Layout.of(built), version("demo")
    root = f"{rows(again)[4]['cube']}.zarr/zarr.json"
    Layout.of(again).cubes.remove(root)
    summary = build_cubes(again, ThreadEngine())
    assert summary.count(AoiState.BUILT) == 2
    assert Layout.of(again).cubes.read(root) == config.cubes.read(root)
    assert build_cubes(again, ThreadEngine()).fetched_blocks == 0


class TestTwoRunsAtOnce:
    def test_the_second_waits_for_a_cube_that_the_first_is_building(
        self, demo_config: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(block_queue, "_LOOK_AGAIN_S", 0.05)
        begun, go_on = threading.Event(), threading.Event()

        class Slow(ThreadEngine):
            def run(self, function: Any, tasks: Any, scope: str) -> Any:
                def work(task: Any) -> Any:
                    begun.set()
                    assert go_on.wait(60)
                    return function(task)

                yield from super().run(work, tasks, scope)

        one, two = (demo_config(tmp_path, *FEW, f"dataset.version={name}") for name in ("one", "two"))
        found: dict[str, int] = {}

        def build(name: str, config: Config, engine: ThreadEngine) -> None:
            found[name] = build_cubes(config, engine, only=[5]).fetched_blocks

        first = threading.Thread(target=build, args=("one", one, Slow(1)))
        first.start()
        assert begun.wait(60)
        second = threading.Thread(target=build, args=("two", two, ThreadEngine(1)))
        second.start()
        second.join(1)
        assert second.is_alive()
        go_on.set()
        first.join(60)
        second.join(60)
        assert found["two"] == 0 < found["one"]
        assert rows(one)[5]["cube"] == rows(two)[5]["cube"]
        assert rows(two)[5]["status"] == "built"
        assert not list((tmp_path / "interim" / "locks").iterdir())

    def test_blocks_are_taken_from_no_cube_that_another_run_is_at(
        self, version: Callable[..., Config], built: Config
    ) -> None:
        other = version("other", "s2l2a.bands=[B02]")
        locks = NamedLocks(Layout.of(other).locks)
        assert not locks.take(rows(built)[5]["cube"])
        alone = build_cubes(other, ThreadEngine(), only=[5]).fetched_blocks
        locks.release_all()
        beside = build_cubes(version("more", "dem="), ThreadEngine(), only=[5]).fetched_blocks
        assert alone > 0 == beside


class TestPrune:
    def test_what_no_version_uses_is_listed_and_removed_and_nothing_else(
        self, version: Callable[..., Config], capsys: pytest.CaptureFixture[str]
    ) -> None:
        demo, other = version("demo"), version("other", "s2l2a.bands=[B02]")
        build_cubes(other, ThreadEngine(), only=[5])
        assert find_unused(demo).cubes == find_unused(demo).plans == ()
        theirs, kept = rows(other)[5], files(Layout.of(demo).working.path / "cubes")
        shutil.rmtree(Layout.of(other).root.path)
        assert find_unused(other).cubes == (theirs["cube"],)
        assert find_unused(other).plans == (theirs["plan"],)
        command = ["prune", "-c", "configs/demo.yaml", "--set", f"directory.working={demo.directory.working}"]
        command += ["--set", f"directory.output={demo.directory.output}"]
        assert main(command, standalone_mode=False) == 0
        assert "1 cubes" in capsys.readouterr().out
        assert files(Layout.of(demo).working.path / "cubes") == kept
        assert main([*command, "--yes"], standalone_mode=False) == 0
        assert "removed 1 cubes" in capsys.readouterr().out
        left = files(Layout.of(demo).working.path / "cubes")
        assert left == {name: data for name, data in kept.items() if not name.startswith(theirs["cube"])}
        assert len(list(Layout.of(demo).plans.path.iterdir())) == 2
        assert build_cubes(demo, ThreadEngine()).fetched_blocks == 0

    def test_it_waits_for_no_build_and_believes_no_broken_rows(self, version: Callable[..., Config]) -> None:
        demo = version("demo")
        layout = Layout.of(demo)
        before = files(layout.cubes.path)
        with share(layout.working, lambda: None), pytest.raises(BusyError, match="another run"):
            remove_unused(demo)
        (layout.root.path / "aoi_metadata.geojson").write_text("[1]")
        with pytest.raises(StoreError, match="so nobody knows what this version uses"):
            remove_unused(demo)
        assert files(layout.cubes.path) == before


def to_first_layout(config: Config, *, unseal: int | None = None) -> None:
    """Put the cubes of a version where the first layout had them."""
    layout = Layout.of(config)
    for index, row in rows(config).items():
        cube, plan, name = row.pop("cube"), row.pop("plan"), f"aoi_{index:06}"
        records = json.loads(layout.blocks.read(f"{cube}.json"))
        if index == unseal:
            (layout.cubes / f"{cube}.zarr").remove("zarr.json")
            layout.blocks.remove(f"{cube}.json")
            for block, record in records.items():
                (layout.root / "building" / name).write(f"{block}.json", json.dumps(record).encode())
        for kind, old, new in (
            ("plans", f"{plan}.json", f"{name}.json"),
            ("blocks", f"{cube}.json", f"{name}.json"),
            ("cubes", f"{cube}.zarr", f"{name}.zarr"),
        ):
            layout.working.move(f"{kind}/{old}", f"{layout.version}/{kind}/{new}")
    text = layout.root.read("aoi_metadata.geojson")
    document = json.loads(text)
    for feature in document["features"]:
        del feature["properties"]["cube"], feature["properties"]["plan"]
    layout.root.write("aoi_metadata.geojson", json.dumps(document).encode())
    for kind in ("plans", "blocks", "cubes", "building", "locks"):
        shutil.rmtree(layout.working.path / kind, ignore_errors=True)


class TestTheFirstLayout:
    def test_a_build_takes_its_cubes_over_and_fetches_nothing(
        self, version: Callable[..., Config], built: Config
    ) -> None:
        demo = version("demo")
        to_first_layout(demo, unseal=4)
        skipped = Layout.of(demo).root.path / "plans" / "aoi_000003.json"
        skipped.write_text('{"skipped": "why", "candidates": []}')
        assert build_cubes(demo, ThreadEngine()).fetched_blocks == 0
        assert files(Layout.of(demo).cubes.path) == files(Layout.of(built).cubes.path)
        assert files(Layout.of(demo).plans.path) == files(Layout.of(built).plans.path)
        left = {path.name for path in Layout.of(demo).root.path.iterdir()}
        assert not left & {"cubes", "plans", "blocks", "building"}

    def test_chips_are_cut_from_them_without_a_build(self, version: Callable[..., Config]) -> None:
        expected = chip(version("demo", "chips.min_purity=0.5")).chips
        demo = version("demo", "chips.min_purity=0.5")
        to_first_layout(demo)
        assert chip(demo).chips == expected > 0
        assert open_cube(Layout.of(demo).root, 5).attrs["aoi_index"] == 5

    @pytest.mark.parametrize("stride", [6, pytest.param(1, marks=pytest.mark.slow)])
    def test_a_kill_at_any_move_costs_nothing(
        self,
        version: Callable[..., Config],
        built: Config,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
        stride: int,
    ) -> None:
        demo = version("demo")
        to_first_layout(demo, unseal=4)
        shutil.copytree(tmp_path / "interim", tmp_path / "old")
        plainly, deaths = DiskFolder.move, 0
        steps: list[int] = []

        def move(folder: DiskFolder, *names: str) -> None:
            steps[0] -= 1
            if steps[0] == 0:
                raise KeyboardInterrupt
            plainly(folder, *names)
            steps[0] -= 1
            if steps[0] == 0:
                raise KeyboardInterrupt

        for fatal in range(1, 100, stride):
            shutil.rmtree(tmp_path / "interim")
            shutil.copytree(tmp_path / "old", tmp_path / "interim")
            steps[:] = [fatal]
            monkeypatch.setattr(DiskFolder, "move", move)
            try:
                takeover.take_over(Layout.of(demo))
            except KeyboardInterrupt:
                deaths += 1
            else:
                break
            monkeypatch.setattr(DiskFolder, "move", plainly)
            assert build_cubes(demo, ThreadEngine()).fetched_blocks == 0
            assert files(Layout.of(demo).cubes.path) == files(Layout.of(built).cubes.path)
        assert deaths >= 10 / stride

    def test_two_versions_of_it_end_with_one_cube(self, version: Callable[..., Config]) -> None:
        demo = version("demo")
        to_first_layout(demo)
        working = Layout.of(demo).working.path
        shutil.copytree(working / "demo", working / "twin")
        twin = version("twin")
        assert [build_cubes(one, ThreadEngine()).fetched_blocks for one in (demo, twin)] == [0, 0]
        assert len(list((working / "cubes").iterdir())) == 2
        assert not (working / "twin" / "cubes").exists()

    def test_in_an_object_store_objects_are_copied_and_removed(
        self, version: Callable[..., Config], built: Config
    ) -> None:
        demo = version("demo")
        to_first_layout(demo)
        store = open_folder("memory://first-layout")
        for name, data in files(Layout.of(demo).working.path).items():
            store.write(name, data)
        layout = Layout(store, "demo")
        assert takeover.take_over(layout) == 2
        assert takeover.take_over(layout) == 0
        assert _contents(layout.cubes) == files(Layout.of(built).cubes.path)
        assert not (layout.root / "cubes").names()
        assert find_cube(layout.root, 5).url.startswith("memory://first-layout/cubes/aoi_000005_")


def _contents(folder: Folder) -> dict[str, bytes]:
    return {name: folder.read(name) for name in folder.files()}


@pytest.mark.parametrize("name", ["cubes", "plans", "blocks", "building", "locks"])
def test_no_version_is_called_like_a_shared_folder(version: Callable[..., Config], name: str) -> None:
    with pytest.raises(
        ConfigError, match=f"dataset.version: '{name}' is the name of a folder that versions share"
    ):
        version(name)
