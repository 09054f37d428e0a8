"""store.shards: block from the build to the chips: fewer files, the same pixels, and nothing fetched for it."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import xarray as xr

from chipping.chip import chip
from cube.build import block_queue
from cube.build.plans import plan_cubes
from cube.build.prune import find_unused, remove_unused
from cube.build.run import build_cubes
from cube.config.models import Config
from cube.errors import StoreError
from cube.run.layout import Layout
from cube.run.storage import BucketFolder
from cube.run.thread_engine import ThreadEngine
from cube.scenes.plan import CubePlan
from cube.store.open import find_cube, open_cube
from cube.windows import grid
from release.make import make_release

FEW = ("s2l2a.bands=[B02, B05]", "s2l2a.cloud_band=SCL", "lc2l2=", "aoi.include_indices=[4, 5]")
BLOCK = "store.shards=block"


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def chunks(folder: Path) -> dict[str, bytes]:
    return {name: data for name, data in files(folder).items() if "/c/" in name}


def cubes_of(config: Config) -> Path:
    return Layout.of(config).cubes.path


@pytest.fixture(scope="module", autouse=True)
def small_chunks() -> Iterator[None]:
    """Let chunks be a quarter as wide, so that the archive's small cubes have a dozen of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(grid, "CHUNK_M", grid.CHUNK_M // 4)
        yield


@pytest.fixture(scope="module")
def built(demo_config: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Return the config of two small cubes in shards, made by one thread; not to be written to."""
    config = demo_config(tmp_path_factory.mktemp("sharded"), *FEW, BLOCK)
    assert build_cubes(config, ThreadEngine(1)).exit_code == 0
    return config


@pytest.fixture(scope="module")
def plain(demo_config: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Return the same without shards."""
    config = demo_config(tmp_path_factory.mktemp("plain"), *FEW)
    assert build_cubes(config, ThreadEngine(4)).exit_code == 0
    return config


@pytest.fixture
def copied(demo_config: Callable[..., Config], tmp_path: Path) -> Callable[..., Config]:
    """Return a function that gives a version in a copy of a working folder."""

    def load(source: Config, *overrides: str) -> Config:
        shutil.rmtree(tmp_path / "interim", ignore_errors=True)
        shutil.copytree(Layout.of(source).working.path, tmp_path / "interim")
        return demo_config(tmp_path, *FEW, *overrides)

    return load


def test_a_block_and_band_is_one_file_and_the_pixels_are_the_same(built: Config, plain: Config) -> None:
    plans = [plan for _, plan in plan_cubes(built)]
    for plan in plans:
        assert isinstance(plan, CubePlan)
        here, there = (cubes_of(config) / f"{plan.cube}.zarr" for config in (built, plain))
        bands = sum(len(plan.sensor(block.sensor).bands) for block in plan.all_blocks)
        coordinates = {"x", "y", "time", "spatial_ref"}
        shards = [name for name in chunks(here) if name.split("/")[1] not in coordinates]
        assert len(shards) <= bands < len(chunks(there)) / 10
        assert len(files(here)) < len(files(there)) / 4
        a, b = (xr.open_datatree(str(one), engine="zarr", chunks={}) for one in (here, there))
        xr.testing.assert_identical(a.load(), b.load())
        assert a.attrs["digests"] == b.attrs["digests"]


def test_threads_make_the_same_bytes_as_one(
    built: Config, demo_config: Callable[..., Config], tmp_path: Path
) -> None:
    config = demo_config(tmp_path, *FEW, BLOCK)
    assert build_cubes(config, ThreadEngine(4)).exit_code == 0
    assert files(cubes_of(config)) == files(cubes_of(built))
    assert build_cubes(config, ThreadEngine(4)).fetched_blocks == 0


def test_what_phase_two_and_the_release_make_is_the_same_byte_for_byte(
    built: Config, plain: Config, copied: Callable[..., Config], tmp_path: Path
) -> None:
    made = []
    for source, more in ((built, (BLOCK,)), (plain, ())):
        config = copied(source, *more, "lulc.sampling_factor=", "chips.max_per_class=3")
        assert chip(config).chips > 5
        make_release(config)
        root = Layout.of(config).root.path
        made.append({name: data for name, data in files(root).items() if not name.startswith("logs/")})
        made[-1] |= {f"release/{name}": data for name, data in files(tmp_path / "processed").items()}
        shutil.rmtree(tmp_path / "processed")
    assert made[0].keys() == made[1].keys()
    assert [name for name in made[0] if made[0][name] != made[1][name]] == []


def test_chips_of_a_cube_stay_where_another_form_takes_its_place(
    built: Config, plain: Config, copied: Callable[..., Config]
) -> None:
    """Nothing is scored or cut again: it is the same cube to all that is made of it."""
    config = copied(plain, "chips.max_per_class=3")
    made = chip(config)
    assert made.written > 0
    shutil.rmtree(cubes_of(config))
    shutil.copytree(cubes_of(built), cubes_of(config))
    again = chip(config)
    assert (again.written, again.kept) == (0, made.chips)


@pytest.mark.parametrize("to_shards", [True, False])
def test_a_finished_cube_keeps_its_form(
    built: Config, plain: Config, copied: Callable[..., Config], *, to_shards: bool
) -> None:
    source = plain if to_shards else built
    config = copied(source, *([BLOCK] if to_shards else []), "dataset.version=next")
    assert build_cubes(config, ThreadEngine()).fetched_blocks == 0
    assert files(cubes_of(config)) == files(cubes_of(source))


@pytest.mark.parametrize("to_shards", [True, False])
def test_an_unfinished_cube_goes_on_in_the_form_that_it_was_begun_in(
    built: Config, plain: Config, copied: Callable[..., Config], *, to_shards: bool
) -> None:
    source = plain if to_shards else built
    config = copied(source, *([BLOCK] if to_shards else []))
    layout = Layout.of(config)
    cube = Path(find_cube(layout.root, 5).url)
    (cube / "zarr.json").unlink()
    records = json.loads(layout.blocks.read(f"{cube.stem}.json"))
    layout.blocks.remove(f"{cube.stem}.json")
    done = sorted(records)[::2]
    for block in done:
        layout.markers(cube.stem).write(f"{block}.json", json.dumps(records[block]).encode())
    assert build_cubes(config, ThreadEngine()).fetched_blocks == len(records) - len(done)
    assert files(layout.cubes.path) == files(cubes_of(source))


def test_a_cube_of_which_no_block_is_there_takes_the_form_asked_for(
    plain: Config, built: Config, copied: Callable[..., Config]
) -> None:
    """Its metadata may be there, of a run that was cut off; and its files, whose records are not."""
    config = copied(plain, BLOCK)
    layout = Layout.of(config)
    for cube in layout.cubes.names(".zarr"):
        (layout.cubes / cube).remove("zarr.json")
        layout.blocks.remove(f"{cube.removesuffix('.zarr')}.json")
    assert build_cubes(config, ThreadEngine()).fetched_blocks > 0
    assert files(layout.cubes.path) == files(cubes_of(built))


@pytest.mark.parametrize("to_shards", [True, False])
def test_blocks_of_another_cube_are_taken_over_from_the_other_form(
    built: Config,
    plain: Config,
    copied: Callable[..., Config],
    demo_config: Callable[..., Config],
    tmp_path: Path,
    *,
    to_shards: bool,
) -> None:
    """A version without elevation: nothing is fetched, and its cube is that of a build of its own."""
    form = [BLOCK] if to_shards else []
    config = copied(plain if to_shards else built, *form, "dataset.version=next", "dem=")
    assert build_cubes(config, ThreadEngine(), only=[5]).fetched_blocks == 0
    alone = demo_config(tmp_path / "alone", *FEW, *form, "dem=")
    assert build_cubes(alone, ThreadEngine(), only=[5]).fetched_blocks > 0
    made, expected = (Path(find_cube(Layout.of(c).root, 5).url) for c in (config, alone))
    assert files(made) == files(expected)
    assert build_cubes(config, ThreadEngine(), only=[5]).fetched_blocks == 0


def test_a_damaged_block_of_the_other_form_is_fetched_anew(
    plain: Config, built: Config, copied: Callable[..., Config]
) -> None:
    config = copied(plain, BLOCK, "dataset.version=next", "s1rtc=")
    cube = next(path for path in cubes_of(config).iterdir() if path.name.startswith("aoi_000005"))
    broken, other = cube / "lulc/lulc/c/0/0", cube / "s2l2a/B05/c/0/0/0"
    broken.write_bytes(b"broken")
    other.write_bytes((cube / "s2l2a/B05/c/1/0/0").read_bytes())
    assert build_cubes(config, ThreadEngine(), only=[5]).fetched_blocks == 2
    made = Path(find_cube(Layout.of(config).root, 5).url)
    expected = Path(find_cube(Layout.of(built).root, 5).url)
    for name in ("lulc/lulc/c/0/0", "s2l2a/B05/c/0/0/0"):
        assert (made / name).read_bytes() == (expected / name).read_bytes()


def test_a_shard_that_is_not_what_was_written_makes_no_chip(
    built: Config, copied: Callable[..., Config]
) -> None:
    """Emptied, as some systems leave a file: to older readers an empty shard is one without pixels."""
    for content in (b"", b"other"):
        config = copied(built)
        shard = Path(find_cube(Layout.of(config).root, 5).url) / "s2l2a" / "B02" / "c" / "0" / "0" / "0"
        shard.write_bytes(content)
        with pytest.raises(StoreError, match=r"s2l2a/B02.* delete its cube, and build it again"):
            chip(config)


def test_a_marker_of_the_other_form_is_not_believed(
    built: Config, demo_config: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a worker leaves it that is cut off from an earlier run: the run says so, and the next one makes it."""
    config = demo_config(tmp_path, *FEW, BLOCK)
    build_block = block_queue.BlockQueue.finish
    spoilt: list[str] = []

    def finish(queue: Any, outcome: Any) -> None:
        if not spoilt and outcome.task.block.sensor == "s2l2a":
            spoilt.append(outcome.task.marker)
            record = json.loads(outcome.task.markers.read(outcome.task.marker))
            del record["sharded"]
            outcome.task.markers.write(outcome.task.marker, json.dumps(record).encode())
        build_block(queue, outcome)

    monkeypatch.setattr(block_queue.BlockQueue, "finish", finish)
    assert build_cubes(config, ThreadEngine()).exit_code == 3
    assert build_cubes(config, ThreadEngine()).fetched_blocks == 1
    assert files(cubes_of(config)) == files(cubes_of(built))


def test_prune_counts_and_removes_it(built: Config, copied: Callable[..., Config]) -> None:
    config = copied(built)
    shutil.rmtree(Layout.of(config).root.path)
    assert len(find_unused(config).cubes) == 2
    remove_unused(config)
    assert not list(cubes_of(config).iterdir())


def test_an_object_store_is_asked_once_for_each_shard(
    demo_config: Callable[..., Config],
    plain: Config,
    s3: BucketFolder,
    s3_calls: Counter[tuple[str, str]],
    tmp_path: Path,
) -> None:
    """Put once and not read before; and what comes out opens by its URL, and is the same."""
    config = demo_config(
        tmp_path,
        *FEW,
        BLOCK,
        f"directory.working={s3.url}/sharded",
        f"directory.storage_options={json.dumps(dict(s3.options))}",
    )
    assert build_cubes(config, ThreadEngine(4), only=[5]).exit_code == 0
    shards = {key: n for (method, key), n in s3_calls.items() if "/c/" in key and method == "put_object"}
    assert set(shards.values()) == {1}
    assert [key for method, key in s3_calls if "/c/" in key and method != "put_object"] == []
    there = open_cube(find_cube(Layout.of(config).root, 5)).load()
    xr.testing.assert_identical(there, open_cube(Layout.of(plain).root, 5).load())
