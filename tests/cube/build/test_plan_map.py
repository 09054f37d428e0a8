"""Plans for a GIS: read by geopandas, and held against the catalog's own items."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import geopandas as gpd
from click.testing import CliRunner

from cube.config.models import Config
from cube.testing import Archive
from release.cli import main

ROOT = Path(__file__).parents[3]
GROUPS = {"s2l2a": "s2:mgrs_tile", "s1rtc": "sat:relative_orbit", "lc2l2": "landsat:wrs_path"}


def test_a_gis_shows_extents_groups_and_scenes(
    demo_config: Callable[..., Config], sample_archive: Archive, tmp_path: Path
) -> None:
    config, file = demo_config(tmp_path), tmp_path / "maps" / "plan.geojson"
    given = {
        "catalog.url": config.catalog.url,
        "aoi.path": config.aoi.path,
        "directory.working": config.directory.working,
        "directory.output": config.directory.output,
    }
    settings = [part for key, value in given.items() for part in ("--set", f"{key}={value}")]
    command = ["plan", "-c", str(ROOT / "configs/demo.yaml"), *settings]
    done = CliRunner().invoke(main, [*command, "--aoi", "0", "3", "--geojson", str(file)])
    assert done.exit_code == 0, done.output
    assert str(file) in done.stdout
    assert not Path(config.directory.working).exists()

    planned, skipped = (row for _, row in gpd.read_file(file).iterrows())
    areas = gpd.read_file(sample_archive.aois)
    assert (skipped["aoi_index"], skipped["status"]) == (3, "skipped")
    assert "no scene for 2023-07-01/2023-09-30" in skipped["reason"]
    assert skipped.geometry.equals(areas.geometry[3])

    assert (planned["aoi_index"], planned["status"]) == (0, "planned")
    epsg = int(planned["epsg"])
    utm = gpd.GeoSeries([planned.geometry], crs=4326).to_crs(epsg).total_bounds
    assert all(abs(edge - 960 * round(edge / 960)) < 0.01 for edge in utm)
    assert abs(utm[2] - utm[0] - planned["width_m"]) < 0.01
    assert abs(utm[3] - utm[1] - planned["height_m"]) < 0.01
    assert planned.geometry.buffer(1e-4).contains(areas.geometry[0])

    items = {item["id"]: item for item in json.loads(Path(sample_archive.items).read_text())["features"]}
    for sensor, key in GROUPS.items():
        scenes = [items[name] for name in planned[f"{sensor}_scene_ids"].split(",")]
        assert {str(scene["properties"][key]).lstrip("0") for scene in scenes} == {planned[f"{sensor}_group"]}
        days = {scene["properties"]["datetime"][:10] for scene in scenes}
        assert days == set(planned[f"{sensor}_dates"].split(","))
    assert {items[name]["collection"] for name in planned["dem_scene_ids"].split(",")} == {"cop-dem-glo-30"}
