"""Somebody who has read docs/add-a-sensor.md, and nothing else, gets what it says."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.windows
import yaml
from shapely.geometry import mapping

from cube.build import plan_cubes
from cube.config import load_config
from cube.errors import ConfigError
from cube.layout import Layout
from cube.plan import CubePlan
from cube.sensors import SENSORS
from cube.store import open_cube
from cube.testing import Archive, footprint_4326, utm_geobox, write_cog

ROOT = Path(__file__).parents[1]
GUIDE = ROOT / "docs" / "add-a-sensor.md"
BOUNDS = (297_600, 5_534_400, 321_600, 5_548_800)
AOI = 5


def guide_config(archive: Path, folder: Path) -> Path:
    """Return the demo's config with the guide's YAML blocks put in, as a person would."""
    config = yaml.safe_load((ROOT / "configs" / "demo.yaml").read_text())
    for block in re.findall(r"```yaml\n(.*?)```", GUIDE.read_text(), re.DOTALL):
        config |= yaml.safe_load(block)
    config["aoi"] |= {"path": str(archive / "map_sample.geojson"), "include_indices": [AOI]}
    config["catalog"]["url"] = str(archive / "items.json")
    config["directory"] |= {"working": str(folder / "interim"), "output": str(folder / "processed")}
    config["s2l2a"]["bands"] = ["B02", "B03", "B04"]
    config["release"] = {**config.get("release", {}), "allow_missing_classes": True}
    path = folder / "worldcover.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def add_worldcover(archive: Path) -> Path:
    """Put a map and its item into an archive."""
    grid = utm_geobox(32633, BOUNDS, 10)
    rng = np.random.default_rng(3)
    codes = rng.choice(np.array([10, 30, 40, 50, 80], "uint8"), (grid.height // 20, grid.width // 20))
    file = archive / "blobs" / "worldcover.tif"
    write_cog(file, np.kron(codes, np.ones((20, 20), "uint8")), grid, nodata=0)
    items = json.loads((archive / "items.json").read_text())
    model = next(item for item in items["features"] if item["collection"] == "io-lulc-annual-v02")
    footprint = footprint_4326(grid)
    item = {
        **model,
        "id": "ESA_WorldCover_10m_2021_v200_N48E012",
        "collection": "esa-worldcover",
        "geometry": mapping(footprint),
        "bbox": list(footprint.bounds),
        "properties": {
            "datetime": None,
            "start_datetime": "2021-01-01T00:00:00Z",
            "end_datetime": "2021-12-31T23:59:59Z",
            "proj:epsg": 32633,
        },
        "assets": {"map": {"href": "./blobs/worldcover.tif", "type": "image/tiff; application=geotiff"}},
    }
    items["features"].append(item)
    (archive / "items.json").write_text(json.dumps(items))
    return file


def test_a_sixth_sensor_by_the_guide_alone(sample_archive: Archive, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    shutil.copytree(sample_archive.path, archive, copy_function=shutil.copy)
    source = add_worldcover(archive)
    path = guide_config(archive, tmp_path)
    # A worker of its own: what the row says has to get there.
    command = [sys.executable, "scripts/run.py", "-c", path, "--set", "compute.workers=1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr

    config = load_config(path)
    cube = open_cube(Layout.of(config).cubes / f"aoi_{AOI:06}.zarr")
    group = cube["worldcover"]
    assert group["map"].attrs["flag_values"][0] == 10
    assert group.attrs["scene_ids"] == ["ESA_WorldCover_10m_2021_v200_N48E012"]
    left, bottom = float(group["x"][0]) - 5, float(group["y"][-1]) - 5
    right, top = float(group["x"][-1]) + 5, float(group["y"][0]) + 5
    with rasterio.open(source) as file:
        window = rasterio.windows.from_bounds(left, bottom, right, top, file.transform)
        np.testing.assert_array_equal(group["map"].values, file.read(1, window=window))
        assert group["map"].dtype == np.uint8

    release = tmp_path / "processed" / "demo"
    tracker = json.loads((release / "gelos_chip_tracker.geojson").read_text())
    chips = [feature["properties"] for feature in tracker["features"]]
    assert len(chips) >= 8
    names = list(chips[0])
    assert names.index("dem_paths") < names.index("worldcover_paths")
    for chip in chips:
        assert chip["worldcover_scene_ids"] == "ESA_WorldCover_10m_2021_v200_N48E012"
        with rasterio.open(release / chip["worldcover_paths"]) as made, rasterio.open(source) as file:
            assert (made.dtypes[0], made.crs.to_epsg(), made.shape) == ("uint8", 32633, (96, 96))
            window = rasterio.windows.from_bounds(*made.bounds, file.transform)
            np.testing.assert_array_equal(made.read(1), file.read(1, window=window))
    card = (release / "README.md").read_text()
    assert "ESA WorldCover project" in card
    checked = [sys.executable, "scripts/verify.py", release]
    assert subprocess.run(checked, cwd=ROOT, capture_output=True, check=False).returncode == 0
    (release / chips[0]["worldcover_paths"]).unlink()
    found = subprocess.run(checked, cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 1
    assert chips[0]["worldcover_paths"] in found.stdout + found.stderr


def test_no_other_sensor_changes(sample_archive: Archive, tmp_path: Path) -> None:
    """The five built-in rows have the same recipes beside a sixth."""
    archive = tmp_path / "archive"
    shutil.copytree(sample_archive.path, archive, copy_function=shutil.copy)
    add_worldcover(archive)
    path = guide_config(archive, tmp_path)
    recipes = []
    for overrides in ([], ["worldcover=", "extra_sensors="]):
        [(_, plan)] = plan_cubes(load_config(path, overrides))
        assert isinstance(plan, CubePlan)
        recipes.append(plan.recipe["sensors"])
    assert recipes[0].pop("worldcover")["bands"] == {"map": {"dtype": "uint8", "asset": "map"}}
    assert recipes[0] == recipes[1]
    assert set(recipes[1]) == set(SENSORS)


ROW = {
    "title": "A map",
    "collection": "a-map",
    "choice": "period",
    "resolution": 10,
    "bands": [{"name": "map", "kind": "classes", "dtype": "uint8", "nodata": 0}],
}


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
        ("map", {"bands": [{**ROW["bands"][0], "dtype": "float32"}]}, "nodata 0 does not fit dtype float32"),
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
