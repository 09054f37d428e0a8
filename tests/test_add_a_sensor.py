"""Somebody who has read docs/add-a-sensor.md, and nothing else, gets what it says."""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import rasterio
import rasterio.warp
import yaml
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from PIL import Image
from shapely.geometry import mapping

from chipping.chip import chip as make_chips
from cube.build.plans import plan_cubes
from cube.build.run import build_cubes
from cube.config.aoi import load_aois
from cube.config.models import Config
from cube.config.reading import load_config
from cube.config.sensors import SENSORS, BandKind, ChoiceRule
from cube.errors import ConfigError
from cube.run.layout import Layout
from cube.run.thread_engine import ThreadEngine
from cube.scenes.plan import CubePlan, row_recipe
from cube.scenes.question import Question
from cube.store.open import open_cube
from cube.testing import Archive, footprint_4326, write_cog
from release import open_release

pytestmark = pytest.mark.slow  # cubes, chips and a release of their own

ROOT = Path(__file__).parents[1]
GUIDE = ROOT / "docs" / "add-a-sensor.md"
AOI = 5
MAP_ID = "ESA_WorldCover_10m_2021_v200_N48E012"

ROW = {
    "title": "A map",
    "collection": "a-map",
    "choice": "period",
    "resolution": 10,
    "bands": [{"name": "map", "kind": "classes", "dtype": "uint8", "nodata": 0}],
}


class Made(NamedTuple):
    """What the guide's config made."""

    config: Config
    archive: Path
    release: Path
    chips: list[dict[str, Any]]


def merged(one: dict[str, Any], two: dict[str, Any]) -> dict[str, Any]:
    """Lay a mapping over another, key by key."""
    both = {key: merged(one[key], two[key]) for key in one.keys() & two.keys() if isinstance(two[key], dict)}
    return {**one, **two, **both}


def guide_config(archive: Path, folder: Path, blocks: slice = slice(None)) -> Path:
    """Return the demo's config with the guide's YAML blocks put in, as a person would."""
    config = yaml.safe_load((ROOT / "configs" / "demo.yaml").read_text())
    for block in re.findall(r"```yaml\n(.*?)```", GUIDE.read_text(), re.DOTALL)[blocks]:
        config = merged(config, yaml.safe_load(block))
    here = {
        "aoi": {"path": str(archive / "map_sample.geojson"), "include_indices": [AOI]},
        "catalog": {"url": str(archive / "items.json")},
        "directory": {"working": str(folder / "interim"), "output": str(folder / "processed")},
        "s2l2a": {"bands": ["B02", "B03", "B04"]},
        "release": {"allow_missing_classes": True},
    }
    path = folder / "guide.yaml"
    path.write_text(yaml.safe_dump(merged(config, here), sort_keys=False))
    return path


def map_grid() -> GeoBox:
    """Return a piece of WorldCover's grid, which is in degrees: 12000 pixels to one."""
    affine = rasterio.Affine(1 / 12_000, 0, 12.15, 0, -1 / 12_000, 50.10)
    return GeoBox((2_400, 3_600), affine, "EPSG:4326")


def add_items(archive: Path) -> None:
    """Put a map of WorldCover, and Landsat 8's and 9's scenes as Landsat 7's, into an archive."""
    grid = map_grid()
    # Forest in the west, all of many chips; small fields in the east.
    rng = np.random.default_rng(3)
    fields = np.kron(
        rng.choice(np.array([10, 30, 40, 50, 80], "uint8"), (120, 180)), np.ones((20, 20), "uint8")
    )
    fields[:, :1_600] = 10
    write_cog(archive / "blobs" / "worldcover.tif", fields, grid, nodata=0)
    items = json.loads((archive / "items.json").read_text())
    landsat = [f for f in items["features"] if f["properties"].get("platform") in ("landsat-8", "landsat-9")]
    for item in copy.deepcopy(landsat):
        item["id"] = "LE07" + item["id"][4:]
        item["properties"]["platform"] = "landsat-7"
        items["features"].append(item)
    model = next(item for item in items["features"] if item["collection"] == "io-lulc-annual-v02")
    footprint = footprint_4326(grid)
    for year in (2020, 2021):
        items["features"].append(
            {
                **model,
                "id": MAP_ID.replace("2021", str(year)),
                "collection": "esa-worldcover",
                "geometry": mapping(footprint),
                "bbox": list(footprint.bounds),
                "properties": {
                    "datetime": None,
                    "start_datetime": f"{year}-01-01T00:00:00Z",
                    "end_datetime": f"{year}-12-31T23:59:59Z",
                    "proj:epsg": 4326,
                },
                "assets": {"map": {"href": "./blobs/worldcover.tif", "type": "image/tiff"}},
            }
        )
    (archive / "items.json").write_text(json.dumps(items))


@pytest.fixture(scope="module")
def archive(sample_archive: Archive, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the sample archive with what the guide's sensors need."""
    folder = tmp_path_factory.mktemp("guide") / "archive"
    shutil.copytree(sample_archive.path, folder, copy_function=shutil.copy)
    add_items(folder)
    return folder


@pytest.fixture(scope="module")
def made(archive: Path) -> Made:
    """Return what the guide's two sensors come to, by the command that it names."""
    path = guide_config(archive, archive.parent)
    # A worker of its own: what the rows say has to get there.
    command = [sys.executable, "scripts/run.py", "-c", path, "--set", "compute.workers=1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    release = archive.parent / "processed" / "demo"
    tracker = json.loads((release / "gelos_chip_tracker.geojson").read_text())
    chips = [feature["properties"] for feature in tracker["features"]]
    assert len(chips) >= 8
    return Made(load_config(path), archive, release, chips)


def warped(paths: list[Path], grid: GeoBox, dtype: str, resampling: str) -> NDArray[Any]:
    """Return GDAL's own warp of files that hold 0 where there is nothing, the first on top."""
    found = np.zeros(grid.shape, dtype)
    for path in paths:
        layer = np.zeros(grid.shape, dtype)
        with rasterio.open(path) as source:
            rasterio.warp.reproject(
                rasterio.band(source, 1),
                layer,
                src_nodata=0,
                dst_nodata=0,
                dst_crs=str(grid.crs),
                dst_transform=grid.transform,
                resampling=rasterio.warp.Resampling[resampling],
            )
        np.copyto(found, layer, where=found == 0)
    return found


def grid_of(group: Any, resolution: int) -> GeoBox:
    left, top = float(group["x"][0]) - resolution / 2, float(group["y"][0]) + resolution / 2
    affine = rasterio.Affine(resolution, 0, left, 0, -resolution, top)
    return GeoBox((group.sizes["y"], group.sizes["x"]), affine, "EPSG:32633")


def test_the_map_is_in_the_cube(made: Made) -> None:
    group = open_cube(Layout.of(made.config).root, AOI)["worldcover"]
    assert group["map"].dtype == np.uint8
    assert group["map"].attrs["flag_values"][:2] == [10, 20]
    assert group["map"].attrs["flag_meanings"].split()[:2] == ["tree_cover", "shrubland"]
    assert group.attrs["scene_ids"] == [MAP_ID]  # and not the map of 2020
    expected = warped([made.archive / "blobs" / "worldcover.tif"], grid_of(group, 10), "uint8", "nearest")
    np.testing.assert_array_equal(group["map"].values, expected)
    assert set(np.unique(expected)) == {10, 30, 40, 50, 80}


def test_the_series_is_in_the_cube(made: Made) -> None:
    group = open_cube(Layout.of(made.config).root, AOI)["landsat7"]
    assert set(group.data_vars) >= {"blue", "green", "red", "nir08", "qa_pixel"}
    assert group.sizes["time"] == 4
    items = {item["id"]: item for item in json.loads((made.archive / "items.json").read_text())["features"]}
    for date, ids in enumerate(group.attrs["scene_ids"]):
        scenes = [items[name] for name in ids.split(",")]
        assert {scene["properties"]["platform"] for scene in scenes} == {"landsat-7"}
        files = [made.archive / scene["assets"]["red"]["href"] for scene in scenes]
        numbers = warped(files, grid_of(group, 30), "uint16", "cubic")
        expected = np.where(
            numbers == 0, np.nan, numbers.astype("float32") * np.float32(2.75e-5) - np.float32(0.2)
        )
        np.testing.assert_allclose(group["red"][date].values, expected, rtol=0, atol=1e-7)


def test_chips_hold_both(made: Made) -> None:
    metadata = pd.read_csv(Layout.of(made.config).root.path / "chip_metadata.csv")
    assert {"worldcover_scene_ids", "worldcover_min_valid", "landsat7_dates", "landsat7_min_clear"} <= set(
        metadata
    )
    best = metadata[metadata["status"] == "success"].iloc[0]
    names = {path.name for path in (Layout.of(made.config).chips.path / best["cell"]).iterdir()}
    days = best["landsat7_dates"].split(",")
    assert len(days) == 4
    assert {"worldcover.tif", *(f"landsat7_{day}.{end}" for day in days for end in ("tif", "png"))} <= names


def test_the_release_holds_both(made: Made) -> None:
    fields = list(made.chips[0])
    further = ["worldcover_scene_ids", "worldcover_paths"]
    further += [f"landsat7_{kind}" for kind in ("dates", "scene_ids", "thumbs", "paths")]
    start = fields.index(further[0])
    assert fields[start : start + 6] == further
    assert start > fields.index("lulc_paths") > fields.index("dem_paths")
    flat = 0
    for number, chip in enumerate(made.chips):
        assert chip["worldcover_scene_ids"] == MAP_ID
        assert chip["worldcover_paths"] == f"worldcover_{number:06}.tif"
        with rasterio.open(made.release / chip["worldcover_paths"]) as file:
            codes = file.read(1)
            assert (file.dtypes[0], file.crs.to_epsg(), file.nodata) == ("uint8", 32633, 0)
            assert file.tags()["attribution"].startswith("ESA WorldCover project")
            grid = GeoBox(file.shape, file.transform, "EPSG:32633")
        expected = warped([made.archive / "blobs" / "worldcover.tif"], grid, "uint8", "nearest")
        # GDAL's warp of a chip and that of the cube's block differ where a pixel's centre lies on
        # an edge.
        assert (codes != expected).mean() < 0.01
        flat += len(np.unique(codes)) == 1
        for name in chip["landsat7_paths"].split(","):
            with rasterio.open(made.release / name) as file:
                assert file.descriptions == ("blue", "green", "red", "nir08")
                assert file.dtypes[0] == "float32"
    assert flat  # a chip of forest alone is no fault


def test_pictures_are_in_true_colour(made: Made) -> None:
    name = made.chips[0]["landsat7_paths"].split(",")[0]
    picture = np.asarray(Image.open(made.release / name.replace(".tif", ".png")).convert("RGB")).astype(int)
    with rasterio.open(made.release / name) as file:
        bands = {band: file.read(index) for index, band in enumerate(file.descriptions, start=1)}
    for layer, band in enumerate(("red", "green", "blue")):
        order = np.argsort(bands[band], axis=None)
        assert (np.diff(picture[..., layer].ravel()[order]) >= 0).all()  # brighter where more is reflected
    assert (picture[..., 0] != picture[..., 2]).any()


def test_catalogs_card_and_report_name_both(made: Made) -> None:
    item = (
        pq.read_table(made.release / "items.parquet", columns=["assets"]).slice(0, 1).to_pylist()[0]["assets"]
    )
    legend = [(one["value"], one["name"]) for one in item["worldcover"]["classification:classes"]]
    assert len(legend) == 11
    assert legend[0] == (10, "tree_cover")
    assert (1, "water") in [(one["value"], one["name"]) for one in item["lulc"]["classification:classes"]]
    assert item["landsat7_4"]["href"].startswith("./landsat7_")
    providers = json.loads((made.release / "collection.json").read_text())["providers"]
    assert any(one["name"] == "ESA WorldCover" for one in providers)
    croissant = json.loads((made.release / "croissant.json").read_text())
    assert {"worldcover-rasters", "landsat7-rasters"} <= {one["@id"] for one in croissant["distribution"]}
    card = (made.release / "README.md").read_text()
    assert "| ESA WorldCover | esa-worldcover | CC BY 4.0 | ESA WorldCover project" in card
    assert "`worldcover_{id:06}.tif`" in card
    assert "ESA WorldCover (worldcover)" in (made.release / "report.html").read_text()


def test_verify_checks_both(made: Made, tmp_path: Path) -> None:
    verify = [sys.executable, "scripts/verify.py"]
    done = subprocess.run([*verify, made.release], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, "0 faults" in done.stdout) == (0, True), done.stdout + done.stderr
    broken = tmp_path / "broken"
    shutil.copytree(made.release, broken)
    lost, swapped = made.chips[0]["worldcover_paths"], made.chips[1]["landsat7_paths"].split(",")[0]
    (broken / lost).unlink()
    shutil.copy(made.release / made.chips[2]["landsat7_paths"].split(",")[0], broken / swapped)
    found = subprocess.run([*verify, broken], cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 1
    for name in (lost, swapped):
        assert name in found.stdout + found.stderr


def test_a_config_of_other_sensors_is_open_beside_it(made: Made) -> None:
    """A release's rows are its own: loading a config without them takes nothing away."""
    opened = open_release(made.release)
    other = load_config(ROOT / "configs" / "demo.yaml")
    chip = opened.chip(0)
    with rasterio.open(made.release / made.chips[0]["worldcover_paths"]) as file:
        np.testing.assert_array_equal(chip["worldcover"].compute()[0], file.read(1))
    assert chip["landsat7"].dims == ("time", "band", "y", "x")
    assert made.config.bands("worldcover") == ("map",)
    assert set(other.table) == set(SENSORS)


def test_two_configs_build_at_once_in_one_process(archive: Path, tmp_path: Path) -> None:
    """Rows of one name and different meaning do not meet, though both builds run at the same time."""
    configs = []
    for collection in ("esa-worldcover", "io-lulc-annual-v02"):
        folder = tmp_path / collection
        folder.mkdir()
        settings = yaml.safe_load(guide_config(archive, folder, slice(0, 1)).read_text())
        for key in ("s1rtc", "lc2l2", "dem"):
            settings.pop(key)
        asset = "map" if collection == "esa-worldcover" else "data"
        bands = [{**ROW["bands"][0], "asset": asset}]
        settings["extra_sensors"] = {"worldcover": {**ROW, "collection": collection, "bands": bands}}
        settings["worldcover"]["year"] = (
            "2021-01-01/2021-12-31" if asset == "map" else "2023-01-02/2023-12-31"
        )
        path = folder / "config.yaml"
        path.write_text(yaml.safe_dump(settings))
        configs.append(load_config(path))

    def build(config: Config) -> int:
        return build_cubes(config, ThreadEngine(1)).exit_code

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(build, configs)) == [0, 0]
    one, two = (open_cube(Layout.of(config).root, AOI) for config in configs)
    assert set(np.unique(one["worldcover/map"])) == {10, 30, 40, 50, 80}
    np.testing.assert_array_equal(two["worldcover/map"], two["lulc/lulc"])


def test_no_other_sensor_changes(archive: Path, tmp_path: Path) -> None:
    """The five built-in rows have the same recipes beside a sixth."""
    path = guide_config(archive, tmp_path, slice(0, 1))
    recipes = []
    for overrides in ([], ["worldcover=", "extra_sensors="]):
        [(_, plan)] = plan_cubes(load_config(path, overrides))
        assert isinstance(plan, CubePlan)
        recipes.append(plan.recipe["sensors"])
    assert recipes[0].pop("worldcover")["bands"] == {
        "map": {"dtype": "uint8", "asset": "map", "compressor": "zstd"}
    }
    assert recipes[0] == recipes[1]
    assert set(recipes[1]) == set(SENSORS)


@pytest.mark.parametrize(
    ("key", "change", "words"),
    [
        (
            "map",
            {"choise": "period"},
            "unknown key extra_sensors.map.choise; did you mean extra_sensors.map.choice?",
        ),
        ("lulc", {}, "extra_sensors.lulc is the name of a sensor already"),
        ("chips", {}, "extra_sensors.chips is the name of a section already"),
        ("World_Cover", {}, "cannot be a sensor's name; use small letters and digits"),
        ("map", {"choice": "tile"}, "extra_sensors.map.choice: found 'tile'"),
        ("map", {"bands": []}, "extra_sensors.map.bands"),
        ("map", {"bands": ROW["bands"] * 2}, "band map is named twice"),
        ("map", {"bands": [{**ROW["bands"][0], "nodata": 300}]}, "nodata 300 does not fit dtype uint8"),
        (
            "map",
            {"bands": [{**ROW["bands"][0], "dtype": "float32"}]},
            "kind classes cannot be dtype float32; use uint8 or int16",
        ),
        (
            "map",
            {"bands": [{**ROW["bands"][0], "kind": "flags"}]},
            "nodata 0 is no single bit; of flags it is the mask of the bit that says fill, such as 1",
        ),
        ("map", {"bands": [{**ROW["bands"][0], "name": "x"}]}, "name x is that of a coordinate of the cube"),
        ("map", {"mask": "bits"}, "mask bits needs a band of kind flags"),
    ],
)
def test_a_wrong_row_is_one_line(tmp_path: Path, key: str, change: dict[str, object], words: str) -> None:
    config = yaml.safe_load((ROOT / "configs" / "demo.yaml").read_text())
    path = tmp_path / "wrong.yaml"
    path.write_text(yaml.safe_dump({**config, "extra_sensors": {key: {**ROW, **change}}}))
    with pytest.raises(ConfigError) as raised:
        load_config(path)
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("section", [[ROW], 5, "map"])
def test_rows_without_keys_are_one_line(tmp_path: Path, section: object) -> None:
    config = yaml.safe_load((ROOT / "configs" / "demo.yaml").read_text())
    path = tmp_path / "wrong.yaml"
    path.write_text(yaml.safe_dump({**config, "extra_sensors": section}))
    with pytest.raises(ConfigError, match=r"extra_sensors: found .*; expected a section of sensors by key"):
        load_config(path)


def test_a_bit_that_the_cloud_band_lacks_is_refused(archive: Path, tmp_path: Path) -> None:
    path = guide_config(archive, tmp_path)
    band = "extra_sensors.landsat7.bands"
    bands = yaml.safe_load(path.read_text())["extra_sensors"]["landsat7"]["bands"]
    bands[-1] |= {"dtype": "uint8"}
    overrides = [f"{band}={json.dumps(bands)}", "landsat7.cloud_bits=[3, 12]"]
    with pytest.raises(ConfigError, match=r"landsat7.cloud_bits: qa_pixel has bits 0 to 7, found 12"):
        load_config(path, overrides)


@pytest.mark.parametrize(
    "change",
    [
        {"choice": ChoiceRule.PATH},  # its chunks would lie elsewhere
        {"source_nodata": 1.0},
        {"bands": (replace(SENSORS["dem"].bands[0], name="nodata", kind=BandKind.BACKSCATTER),)},
    ],
)
def test_what_makes_pixels_of_a_row_is_part_of_the_recipe(change: dict[str, Any]) -> None:
    row = replace(SENSORS["dem"], key="height", bands=(replace(SENSORS["dem"].bands[0], name="nodata"),))
    assert row_recipe(row, ["nodata"]) != row_recipe(replace(row, **change), ["nodata"])


def test_chips_of_a_cube_of_another_row_are_refused(made: Made) -> None:
    changed = load_config(made.config.path, ["extra_sensors.worldcover.zero_is_nodata=true"])
    with pytest.raises(
        ConfigError, match=r"AOI 000005: .* another row extra_sensors.worldcover; build it again"
    ):
        make_chips(changed)


def test_chips_of_a_cube_with_another_scale_are_refused(made: Made) -> None:
    bands = yaml.safe_load(made.config.path.read_text())["extra_sensors"]["landsat7"]["bands"]
    bands[0]["offset"] = -0.1
    changed = load_config(made.config.path, [f"extra_sensors.landsat7.bands={json.dumps(bands)}"])
    with pytest.raises(
        ConfigError, match=r"AOI 000005: .* offset -0\.2 of landsat7's band blue, .* and -0\.1; build"
    ):
        make_chips(changed)


def test_a_row_of_floats_has_nan_for_nodata(tmp_path: Path) -> None:
    raw = yaml.safe_load((ROOT / "configs" / "quickstart.yaml").read_text())
    raw["aoi"]["path"] = str(ROOT / "configs" / raw["aoi"]["path"])
    band = {"name": "a", "kind": "elevation", "dtype": "float32", "nodata": np.nan}
    raw |= {"extra_sensors": {"height": ROW | {"bands": [band]}}, "height": {"year": "2021-01-01/2021-12-31"}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(raw))
    config = load_config(tmp_path / "config.yaml")
    assert len(Question(config).digest(load_aois(config)[0])) == 64
