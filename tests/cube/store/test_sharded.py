"""Cubes in shards: one file a block and band, and nothing else that differs."""

from __future__ import annotations

import itertools
import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import rasterio
import xarray as xr
import zarr
from small_cubes import Arrays, made_up, small_config, small_plan

from cube.config.models import Config
from cube.errors import StoreError
from cube.run.storage import Folder, open_folder
from cube.scenes.plan import CubePlan
from cube.store.open import open_cube, read_array
from cube.store.sealed import read_cube_info, reading
from cube.store.template import make_template
from cube.store.write import write_block, write_template
from cube.testing.cubes import write_cube
from cube.windows.grid import Bounds

BOUNDS = Bounds(960 * 312, 960 * 5700, 960 * 352, 960 * 5710)
"""3840 x 960 pixels of 10 m: two blocks, of eight chunks and of four."""
TIMES = (datetime(2023, 2, 1, tzinfo=UTC), datetime(2023, 5, 1, tzinfo=UTC))


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return small_config(tmp_path_factory.mktemp("config"), without=["lc2l2"])


@pytest.fixture(scope="module")
def plan(config: Config) -> CubePlan:
    return small_plan(config, BOUNDS, TIMES)


@pytest.fixture(scope="module")
def arrays(plan: CubePlan) -> Arrays:
    """Return made-up pixels; on the second date a chunk of B02 is nodata, and a block of vv."""
    made = made_up(plan, 1, 200)
    made["s2l2a"]["B02"][1, :768, 768:1536] = 0
    made["s1rtc"]["vv"][1, :, 3072:] = np.nan
    return made


@pytest.fixture(scope="module")
def cubes(plan: CubePlan, arrays: Arrays, tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Folder]:
    """Return folders with the same cube, in shards and not."""
    folder = tmp_path_factory.mktemp("cubes")
    found = {form: open_folder(str(folder / str(form))) for form in (False, True)}
    for form, one in found.items():
        write_cube(one, plan, arrays, is_sharded=form)
    return found


@pytest.fixture
def root(cubes: dict[bool, Folder], plan: CubePlan) -> Path:
    return Path(cubes[True].url) / f"{plan.cube}.zarr"


def chunk_files(root: Path, sensors: tuple[str, ...]) -> set[str]:
    """Return the files of bands' pixels."""
    places = ("c/*/*", "c/*/*/*")
    found = [path for key in sensors for place in places for path in (root / key).rglob(place)]
    return {path.relative_to(root).as_posix() for path in found if path.is_file()}


def test_xarray_and_zarr_read_the_pixels_that_were_written(root: Path, arrays: Arrays) -> None:
    tree = xr.open_datatree(str(root), engine="zarr", chunks={}, mask_and_scale=False)
    for key, bands in arrays.items():
        for name, values in bands.items():
            array = zarr.open_array(str(root), path=f"{key}/{name}", mode="r")
            np.testing.assert_array_equal(array[...], values)
            np.testing.assert_array_equal(array[..., 700:800, 3000:3100], values[..., 700:800, 3000:3100])
            np.testing.assert_array_equal(tree[f"{key}/{name}"].values, values)
            assert tree[f"{key}/{name}"].chunks[-1][0] == array.chunks[-1] == (256 if key == "dem" else 768)


def test_a_cube_opens_as_the_same_one_in_another_form(
    cubes: dict[bool, Folder], plan: CubePlan, config: Config
) -> None:
    plain, sharded = (open_cube(cubes[form] / f"{plan.cube}.zarr").load() for form in (False, True))
    xr.testing.assert_identical(sharded, plain)
    infos = [read_cube_info(cubes[form], plan.cube, config.table) for form in (False, True)]
    assert infos[0] is not None
    assert infos[0] == infos[1]


def test_a_shard_is_a_block_and_one_without_pixels_leaves_no_file(root: Path) -> None:
    shards = {
        key: zarr.open_array(str(root), path=key, mode="r").shards for key in ("s2l2a/B02", "dem/elevation")
    }
    assert shards == {"s2l2a/B02": (1, 1536, 3072), "dem/elevation": (512, 1024)}
    expected = {
        f"s2l2a/{band}/c/{date}/0/{column}" for band in ("B02", "SCL") for date in (0, 1) for column in (0, 1)
    }
    expected |= {"s1rtc/vv/c/0/0/0", "s1rtc/vv/c/0/0/1", "s1rtc/vv/c/1/0/0"}
    expected |= {f"{band}/c/0/{column}" for band in ("dem/elevation", "lulc/lulc") for column in (0, 1)}
    assert chunk_files(root, ("s2l2a", "s1rtc", "dem", "lulc")) == expected


def test_the_chunks_in_a_shard_are_the_files_of_a_cube_without(
    cubes: dict[bool, Folder], plan: CubePlan, root: Path
) -> None:
    """As the specification has it: an index of offsets and lengths, here in front, all ones for none."""
    plain, seen, empty = Path(cubes[False].url) / f"{plan.cube}.zarr", 0, 0
    for name in chunk_files(root, ("s2l2a", "s1rtc")):
        sensor, band, _, *place = name.split("/")
        date, row, column = map(int, place)
        array = zarr.open_array(str(root), path=f"{sensor}/{band}", mode="r")
        rows, columns = (s // c for s, c in zip(array.shards[1:], array.chunks[1:], strict=True))
        data = (root / name).read_bytes()
        index = np.frombuffer(data[: rows * columns * 16], "<u8").reshape(rows, columns, 2)
        for (i, j), offset, length in zip(
            np.ndindex(rows, columns), index[..., 0].flat, index[..., 1].flat, strict=True
        ):
            file = plain / sensor / band / "c" / str(date) / str(row * rows + i) / str(column * columns + j)
            if offset == 2**64 - 1:
                assert not file.exists()
                empty += 1
            else:
                assert data[int(offset) : int(offset + length)] == file.read_bytes()
                seen += 1
    assert seen == len(chunk_files(plain, ("s2l2a", "s1rtc"))) > 30
    assert empty > 0


@pytest.mark.filterwarnings("ignore:Consolidated metadata is currently not part")
def test_the_seal_is_what_zarr_itself_consolidates(root: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(root, tmp_path / "copy.zarr")
    sealed = (copy / "zarr.json").read_bytes()
    bare = json.loads(sealed)
    del bare["consolidated_metadata"]
    (copy / "zarr.json").write_text(json.dumps(bare))
    zarr.consolidate_metadata(copy)
    assert (copy / "zarr.json").read_bytes() == sealed


@pytest.mark.skipif(rasterio.__gdal_version__ < "3.13", reason="GDAL before 3.13 cannot read shards")
@pytest.mark.parametrize("band", ["s2l2a/B02", "s1rtc/vv", "dem/elevation", "lulc/lulc"])
def test_gdal_reads_it(root: Path, arrays: Arrays, band: str) -> None:
    key, name = band.split("/")
    with rasterio.open(f'ZARR:"{root}":/{band}') as dataset:
        raw = arrays[key][name]
        np.testing.assert_array_equal(dataset.read(1), raw if raw.ndim == 2 else raw[0])


def test_what_lies_where_a_shard_is_written_is_not_looked_at(
    plan: CubePlan, arrays: Arrays, root: Path, tmp_path: Path
) -> None:
    """As a power cut leaves it: zarr's own way is to read a shard, and to lay what is new over it."""
    cubes = open_folder(str(tmp_path))
    write_template(cubes, plan.cube, make_template(plan, is_sharded=True))
    block = plan.blocks("s2l2a")[0]
    place = tmp_path / f"{plan.cube}.zarr" / "s2l2a" / "B02" / "c" / "0" / "0" / "0"
    place.parent.mkdir(parents=True)
    for left in (b"", b"garbage" * 100, (root / "s2l2a/B02/c/1/0/0").read_bytes()):
        place.write_bytes(left)
        values = np.ascontiguousarray(arrays["s2l2a"]["B02"][(0, *block.roi)])
        write_block(cubes, plan.cube, block, "B02", values, is_sharded=True)
        assert place.read_bytes() == (root / "s2l2a/B02/c/0/0/0").read_bytes()
    write_block(cubes, plan.cube, block, "B02", np.zeros_like(values), is_sharded=True)
    assert not place.exists()


@pytest.mark.parametrize("form", [False, True])
def test_a_block_is_not_written_into_a_cube_of_the_other_form(
    plan: CubePlan, tmp_path: Path, *, form: bool
) -> None:
    cubes, block = open_folder(str(tmp_path)), plan.blocks("lulc")[0]
    write_template(cubes, plan.cube, make_template(plan, is_sharded=form))
    values = np.ones((block.height, block.width), "uint8")
    with pytest.raises(StoreError, match=r"lulc/lulc: is being built in another form \(store.shards\)"):
        write_block(cubes, plan.cube, block, "lulc", values, is_sharded=not form)
    assert not (tmp_path / f"{plan.cube}.zarr" / "lulc" / "lulc" / "c").exists()


def test_a_damaged_shard_is_told_in_one_line(
    cubes: dict[bool, Folder], plan: CubePlan, tmp_path: Path
) -> None:
    """It is cut short, or a bit of its index is another; for its chunks there are digests."""
    copies = open_folder(str(tmp_path))
    shutil.copytree(f"{cubes[True]}/{plan.cube}.zarr", tmp_path / f"{plan.cube}.zarr")
    place = tmp_path / f"{plan.cube}.zarr" / "s2l2a" / "SCL" / "c" / "0" / "0" / "0"
    whole = place.read_bytes()
    flipped = (whole[:at] + bytes([whole[at] ^ 16]) + whole[at + 1 :] for at in range(0, 132, 7))
    cut = (whole[:size] for size in (3, 100, 131, 5000))
    windows = (0, slice(0, 900), slice(0, 3072)), (0, slice(600, 900), slice(0, 900))
    for data, roi in itertools.product((*flipped, *cut), windows):
        place.write_bytes(data)
        with (
            pytest.raises(StoreError, match=r"AOI 7: s2l2a/SCL: cannot be read .* build it again$") as caught,
            reading("7", "s2l2a/SCL"),
        ):
            read_array(copies, plan.cube, "s2l2a/SCL", roi)
        assert "\n" not in str(caught.value)
