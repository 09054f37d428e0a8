"""The cube on disk: layout, seal, and how others open it."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import warnings
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import odc.geo.xr  # noqa: F401  the .odc accessor
import pytest
import rasterio
import rioxarray  # noqa: F401  the .rio accessor
import xarray as xr
import zarr
from small_cubes import Arrays, made_up, small_config, small_plan

from cube.config.models import Config
from cube.config.sensors import SENSORS
from cube.errors import CubeNotSealedError, StoreError
from cube.run.layout import Layout
from cube.run.storage import Folder, open_folder
from cube.scenes.plan import CubePlan
from cube.store.open import open_cube
from cube.store.resume import keep_blocks
from cube.store.sealed import read_cube_info, read_seal
from cube.store.template import make_template
from cube.store.write import write_block, write_template
from cube.testing.cubes import write_cube
from cube.windows.grid import Block, Bounds

BOUNDS = Bounds(960 * 312, 960 * 5720, 960 * 322, 960 * 5729)
TIMES = (datetime(2023, 2, 1, 10, 11, 12, 24000, tzinfo=UTC), datetime(2023, 5, 1, 10, tzinfo=UTC))


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    return small_config(tmp_path_factory.mktemp("config"))


@pytest.fixture(scope="module")
def plan(config: Config) -> CubePlan:
    return small_plan(config, BOUNDS, TIMES)


@pytest.fixture(scope="module")
def arrays(plan: CubePlan) -> Arrays:
    made = made_up(plan, 0, 10_000)
    made["s1rtc"]["vv"][:, :40] = np.nan
    made["s2l2a"]["B02"][:, :40] = 0
    return made


@pytest.fixture(scope="module")
def cubes(
    plan: CubePlan,
    arrays: Arrays,
    tmp_path_factory: pytest.TempPathFactory,
) -> Folder:
    folder = open_folder(str(tmp_path_factory.mktemp("cubes")))
    write_cube(folder, plan, arrays)
    return folder


def test_open_cube_is_lazy_physical_and_placed(cubes: Folder, plan: CubePlan, arrays: Arrays) -> None:
    tree = open_cube(cubes / f"{plan.cube}.zarr")
    assert set(tree.children) == {"s2l2a", "s1rtc", "lc2l2", "dem", "lulc"}
    for sensor in plan.sensors:
        dataset = tree[sensor.key].to_dataset()
        assert dataset.odc.geobox == plan.geobox(sensor.key)
        assert dataset.rio.crs.to_epsg() == 32633
        for name in sensor.bands:
            band, array = sensor.sensor.band(name), dataset[name]
            assert array.chunks is not None
            raw = arrays[sensor.key][name]
            if band.is_mask:
                assert array.dtype == raw.dtype
                np.testing.assert_array_equal(array.values, raw)
                continue
            assert array.dtype == np.float32
            expected = raw.astype("float64") * band.scale + band.offset
            if raw.dtype.kind == "u":
                expected[raw == 0] = np.nan
            np.testing.assert_allclose(array.values, expected, rtol=1e-5, atol=1e-6)
            assert array.attrs["units"] == band.units
            assert np.isnan(array.rio.nodata)
            doubled = array * 2
            assert doubled.rio.crs.to_epsg() == 32633
            assert doubled.rio.transform() == plan.geobox(sensor.key).affine
    times = tree["s2l2a"]["time"].values.astype("datetime64[us]")
    assert list(times) == [np.datetime64(t.replace(tzinfo=None), "us") for t in TIMES]
    assert list(tree["lc2l2"]["scene_ids"].values) == [f"lc2l2_{t:%Y%m%dT%H%M%S}" for t in TIMES]


def test_plain_xarray_opens_it_in_physical_units_without_a_warning(
    plan: CubePlan, cubes: Folder, arrays: Arrays
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message="Use `@` matmul")
        tree = xr.open_datatree(f"{cubes}/{plan.cube}.zarr", engine="zarr", chunks={})
        red = tree["lc2l2/red"]
        assert red.odc.crs.epsg == 32633
        assert red.rio.transform().a == 30
    first = arrays["lc2l2"]["red"][0, 0, :5]
    expected = np.where(first == 0, np.nan, first * 2.75e-5 - 0.2)
    np.testing.assert_allclose(red[0, 0, :5], expected, rtol=1e-6)
    assert tree["s2l2a/SCL"].dtype == np.uint8


@pytest.mark.skipif(rasterio.__gdal_version__ < "3.12", reason="GDAL before 3.12 cannot read Zarr 3")
@pytest.mark.parametrize("band", ["s2l2a/B02", "s1rtc/vv", "lc2l2/qa_pixel", "dem/elevation", "lulc/lulc"])
def test_gdal_opens_it_in_the_right_place(cubes: Folder, plan: CubePlan, arrays: Arrays, band: str) -> None:
    key, name = band.split("/")
    with rasterio.open(f'ZARR:"{cubes}/{plan.cube}.zarr":/{band}') as dataset:
        assert dataset.crs.to_epsg() == 32633
        assert dataset.transform == plan.geobox(key).affine
        raw = arrays[key][name]
        np.testing.assert_array_equal(dataset.read(1), raw if raw.ndim == 2 else raw[0])


def test_chunks_are_those_of_the_design_and_empty_ones_leave_no_file(plan: CubePlan, cubes: Folder) -> None:
    root = cubes.path / f"{plan.cube}.zarr"
    chunks = {
        key: json.loads((root / key / "zarr.json").read_text())["chunk_grid"]
        for key in ("s2l2a/B02", "dem/elevation")
    }
    assert chunks["s2l2a/B02"]["configuration"]["chunk_shape"] == [1, 768, 768]
    assert chunks["dem/elevation"]["configuration"]["chunk_shape"] == [256, 256]
    assert json.loads((root / "zarr.json").read_text())["consolidated_metadata"]["kind"] == "inline"


@pytest.mark.filterwarnings("ignore:Consolidated metadata is currently not part")
def test_the_seal_is_what_zarr_itself_consolidates(plan: CubePlan, cubes: Folder, tmp_path: Path) -> None:
    copy = shutil.copytree(cubes.path / f"{plan.cube}.zarr", tmp_path / "copy.zarr")
    sealed = (copy / "zarr.json").read_bytes()
    root = json.loads(sealed)
    del root["consolidated_metadata"]
    (copy / "zarr.json").write_text(json.dumps(root))
    zarr.consolidate_metadata(copy)
    assert (copy / "zarr.json").read_bytes() == sealed


def test_provenance_is_complete_and_unsigned(cubes: Folder, plan: CubePlan) -> None:
    attrs = open_cube(cubes / f"{plan.cube}.zarr").attrs
    assert attrs["recipe_sha256"] == plan.fingerprint
    assert attrs["aoi_index"] == 7
    assert set(attrs["digests"]) == {f"{s.key}/{b}" for s in plan.sensors for b in s.bands}
    group = json.loads((cubes.path / f"{plan.cube}.zarr" / "s2l2a" / "zarr.json").read_text())["attributes"]
    item = group["items"][0][0]
    assert set(item) == {"id", "collection", "datetime", "platform", "self", "properties", "assets"}
    assert "?" not in json.dumps(group["items"])


def test_the_same_plan_gives_the_same_bytes(plan: CubePlan) -> None:
    again = CubePlan.from_json(json.loads(json.dumps(plan.to_json(), sort_keys=True)), SENSORS)
    assert make_template(again) == make_template(plan)
    assert again.fingerprint == plan.fingerprint


def test_an_unsealed_cube_cannot_be_opened(plan: CubePlan, tmp_path: Path) -> None:
    cubes = open_folder(str(tmp_path))
    write_template(cubes, plan.cube, make_template(plan))
    with pytest.raises(CubeNotSealedError, match=r"aoi_000007_.*zarr: no finished cube"):
        open_cube(cubes / f"{plan.cube}.zarr")
    with pytest.raises(Exception, match=r".+"):
        xr.open_datatree(str(tmp_path / f"{plan.cube}.zarr"), engine="zarr", consolidated=True)
    assert read_seal(cubes, plan.cube) is None


def test_a_seal_that_promises_blocks_without_a_record_is_broken(plan: CubePlan, arrays: Arrays) -> None:
    layout = Layout(open_folder("memory://unseal"), "v1")
    write_cube(layout.cubes, plan, arrays)
    seal = read_seal(layout.cubes, plan.cube)
    assert seal is not None
    assert keep_blocks(layout, plan).records == {}
    assert read_seal(layout.cubes, plan.cube) is None


def test_memory_storage_holds_the_same_bytes(cubes: Folder, plan: CubePlan, arrays: Arrays) -> None:
    there = open_folder("memory://cubes")
    write_cube(there, plan, arrays)
    names = list((cubes / f"{plan.cube}.zarr").files())
    assert names == list((there / f"{plan.cube}.zarr").files())
    for name in names:
        assert (cubes / f"{plan.cube}.zarr").read(name) == (there / f"{plan.cube}.zarr").read(name)
    assert (
        float(open_cube(there / f"{plan.cube}.zarr")["dem/elevation"][0, 0])
        == arrays["dem"]["elevation"][0, 0]
    )


def test_a_block_of_another_shape_or_dtype_is_refused(plan: CubePlan, tmp_path: Path) -> None:
    cubes = open_folder(str(tmp_path))
    write_template(cubes, plan.cube, make_template(plan))
    block = Block("s2l2a", 0, 0, 0, 10, 10)
    with pytest.raises(StoreError, match=r"got uint16 \(5, 5\); expected uint16 \(10, 10\)"):
        write_block(cubes, plan.cube, block, "B02", np.zeros((5, 5), "uint16"))
    with pytest.raises(StoreError, match="got float32"):
        write_block(cubes, plan.cube, block, "B02", np.zeros((10, 10), "float32"))


def test_sweeping_leaves_the_kept_blocks_alone(plan: CubePlan, arrays: Arrays, tmp_path: Path) -> None:
    layout = Layout(open_folder(str(tmp_path)), "v1")
    cube = layout.cubes / f"{plan.cube}.zarr"
    write_cube(layout.cubes, plan, arrays)
    before = set(cube.files()) - {"zarr.json"}
    cube.write("s2l2a/B02/c/x.partial", b"")
    kept = [block for block in plan.blocks("s2l2a") if block.time == 1]
    for block in kept:
        record = {"fingerprint": plan.block_fingerprint(block), "digests": {}}
        layout.markers(plan.cube).write(f"{block.name}.json", json.dumps(record).encode())
    layout.markers(plan.cube).write("s2l2a-0-0-0.json", b'{"fingerprint": "another", "digests": {}}')
    assert set(keep_blocks(layout, plan).records) == {block.name for block in kept}
    assert set(layout.markers(plan.cube).names()) == {f"{block.name}.json" for block in kept}
    left = set(cube.files())
    assert left == {
        n for n in before if "/c/" not in n or n.startswith(("s2l2a/B02/c/1", "s2l2a/SCL/c/1"))
    } | {n for n in before if "/c/" in n and n.split("/")[1] in ("x", "y", "time", "spatial_ref")}


def test_other_layouts_are_refused(plan: CubePlan, arrays: Arrays, tmp_path: Path) -> None:
    cubes = open_folder(str(tmp_path))
    write_cube(cubes, plan, arrays)
    path = tmp_path / f"{plan.cube}.zarr" / "zarr.json"
    path.write_text(path.read_text().replace('"schema_version": 1', '"schema_version": 99'))
    with pytest.raises(StoreError, match="has schema_version 99; this version reads 1"):
        open_cube(cubes / f"{plan.cube}.zarr")


@pytest.mark.parametrize("damage", ["cut", "no groups", "no grid", "no time"])
def test_damaged_metadata_are_told_in_one_line(
    cubes: Folder, config: Config, plan: CubePlan, tmp_path: Path, damage: str
) -> None:
    shutil.copytree(f"{cubes}/{plan.cube}.zarr", tmp_path / f"{plan.cube}.zarr")
    path = tmp_path / f"{plan.cube}.zarr" / "zarr.json"
    seal = json.loads(path.read_text())
    groups = seal["consolidated_metadata"]["metadata"]
    if damage == "no groups":
        del seal["consolidated_metadata"]["metadata"]
    elif damage == "no grid":
        groups["lulc/x"]["chunk_grid"] = {"name": "regular"}
    elif damage == "no time":
        del groups["s2l2a/time"]["data_type"]
    path.write_text(json.dumps(seal)[: 5000 if damage == "cut" else None])
    with pytest.raises(
        StoreError, match=r"aoi_000007_\w+\.zarr: its metadata cannot be understood; .* build it again$"
    ):
        open_cube(tmp_path / f"{plan.cube}.zarr")
    if damage in ("cut", "no groups"):
        with pytest.raises(StoreError, match="its metadata cannot be understood"):
            read_cube_info(open_folder(str(tmp_path)), plan.cube, config.table)


@pytest.mark.parametrize("scale", ["x", None, {"a": {}}])
def test_a_scale_that_is_no_number_is_told_in_one_line(
    cubes: Folder, config: Config, plan: CubePlan, tmp_path: Path, scale: object
) -> None:
    shutil.copytree(f"{cubes}/{plan.cube}.zarr", tmp_path / f"{plan.cube}.zarr")
    path = tmp_path / f"{plan.cube}.zarr" / "zarr.json"
    seal = json.loads(path.read_text())
    seal["consolidated_metadata"]["metadata"]["s2l2a/B02"]["attributes"]["scale_factor"] = scale
    path.write_text(json.dumps(seal))
    with pytest.raises(StoreError, match="its metadata cannot be understood"):
        read_cube_info(open_folder(str(tmp_path)), plan.cube, config.table)


def test_every_exported_band_has_a_row() -> None:
    for sensor in SENSORS.values():
        names = [band.name for band in sensor.bands]
        assert len(names) == len(set(names))
        assert sensor.exported(names)


@pytest.mark.parametrize("context", ["fork", "forkserver", "spawn"])
def test_cubes_are_read_in_workers_of_a_process_that_has_read_some(
    cubes: Folder, plan: CubePlan, arrays: Arrays, context: str
) -> None:
    array = open_cube(cubes / f"{plan.cube}.zarr")["s2l2a/SCL"]
    array.compute()  # dask's and zarr's threads are there now, and in no fork
    with multiprocessing.get_context(context).Pool(1) as pool:
        computed = pool.apply_async(xr.DataArray.to_numpy, [array]).get(60)
    np.testing.assert_array_equal(computed, arrays["s2l2a"]["SCL"])
