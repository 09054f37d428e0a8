"""What a file's numbers mean: by its own tags, by its item, by the sensor's row; a contradiction is lost."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rasterio.warp
from odc.geo.geobox import GeoBox

from cube.config.extra_sensors import sensor_rows
from cube.config.sensors import SENSORS, Sensor
from cube.errors import LostSceneError
from cube.pixels.access import Access
from cube.pixels.notes import ReadNotes
from cube.pixels.read import read_band
from cube.scenes.items import Scene, parse_item
from cube.testing import landsat_item, lulc_item, sentinel2_item, utm_geobox

GRID = utm_geobox(32633, (300_480, 5_544_000, 303_360, 5_546_880), 10)
WEST = utm_geobox(32632, (727_000, 5_542_000, 736_000, 5_551_000), 10)
"""Of the neighbouring zone, around the other: onto it, a file is warped."""
WHEN = datetime(2023, 5, 9, 10, tzinfo=UTC)
DN = np.random.default_rng(5).integers(1, 9000, GRID.shape).astype("uint16")
FLAG = "earthsearch:boa_offset_applied"


def write(path: Path, values: np.ndarray[Any, Any], grid: GeoBox = GRID, **tags: float | None) -> Path:
    shape = {"height": grid.shape[0], "width": grid.shape[1], "count": 1, "dtype": values.dtype}
    place = {"crs": str(grid.crs), "transform": grid.affine, "nodata": tags.get("nodata")}
    with rasterio.open(path, "w", driver="GTiff", **shape, **place) as file:
        file.write(values, 1)
        file.scales, file.offsets = (tags.get("scale") or 1.0,), (tags.get("offset") or 0.0,)
    return path


def read(scene: Scene, sensor: Sensor, band: str, grid: GeoBox = GRID, notes: ReadNotes | None = None) -> Any:
    method = sensor.resampling
    return read_band(
        (scene,), sensor, sensor.band(band), grid, Access(), resampling=method, harmonize=True, notes=notes
    )


@pytest.mark.parametrize(
    ("baseline", "applied", "tags", "lowered_by", "cause"),
    [
        ("05.09", None, {}, 1000, ""),
        ("05.09", None, {"scale": 1e-4, "offset": -0.1}, 1000, ""),
        ("05.09", True, {}, 0, ""),
        ("05.09", True, {"scale": 1e-4}, 0, ""),
        ("03.01", None, {"scale": 1e-4}, 0, ""),
        (
            "05.09", None, {"scale": 1e-4}, 0,
            "the file's offset is 0; expected -0.1 by its item (s2:processing_baseline 05.09)",
        ),
        (
            "05.09", True, {"scale": 1e-4, "offset": -0.1}, 0,
            f"the file's offset is -0.1; expected 0 by its item (s2:processing_baseline 05.09, {FLAG} true)",
        ),
        (
            "03.01", None, {"scale": 1e-4, "offset": -0.1}, 0,
            "the file's offset is -0.1; expected 0 by its item (s2:processing_baseline 03.01)",
        ),
        ("05.09", None, {"offset": -1000.0}, 0, "the file's scale is 1; expected 0.0001, or none"),
    ],
)  # fmt: skip
def test_sentinel_2_loses_its_offset_once_and_a_file_that_denies_its_item_is_lost(
    tmp_path: Path, baseline: str, applied: bool | None, tags: dict[str, float], lowered_by: int, cause: str
) -> None:
    path = write(tmp_path / "a.tif", DN, nodata=0, **tags)
    item = sentinel2_item(GRID, WHEN, assets=("B02",), hrefs={"B02": str(path)})
    item["properties"]["s2:processing_baseline"] = baseline
    if applied is not None:
        item["properties"][FLAG] = applied
    sensor = SENSORS["s2l2a"]
    scene = parse_item(item, sensor, ["B02"])
    if cause:
        with pytest.raises(LostSceneError) as lost:
            read(scene, sensor, "B02")
        assert lost.value.cause == cause
        return
    expected = np.maximum(DN.astype(int) - lowered_by, 1)
    np.testing.assert_array_equal(read(scene, sensor, "B02"), expected)


@pytest.mark.parametrize(
    ("tags", "cause"),
    [
        ({}, ""),
        ({"scale": 2.75e-5, "offset": -0.2}, ""),
        ({"scale": 2.75e-5}, "the file's offset is 0; expected -0.2"),
        ({"scale": 2.75e-5, "offset": 0.2}, "the file's offset is 0.2; expected -0.2"),
    ],
)
def test_a_file_of_another_offset_than_the_sensors_is_lost(
    tmp_path: Path, tags: dict[str, float], cause: str
) -> None:
    path, sensor = write(tmp_path / "a.tif", DN, nodata=0, **tags), SENSORS["lc2l2"]
    item = landsat_item(GRID, WHEN, hrefs={"red": str(path)})
    scene = parse_item(item, sensor, ["red"])
    if not cause:
        np.testing.assert_array_equal(read(scene, sensor, "red"), DN)
        return
    with pytest.raises(LostSceneError) as lost:
        read(scene, sensor, "red")
    assert lost.value.cause == cause


def codes_with_zeros() -> np.ndarray[Any, Any]:
    values = (DN % 12).astype("uint8")
    assert (values == 0).any()
    return values


@pytest.mark.parametrize(
    ("in_file", "in_item", "noted"),
    [(0, None, {}), (None, 0.0, {}), (None, None, {"lulc": 0}), (None, -999.0, {"lulc": 0})],
)
def test_a_nodata_that_neither_file_nor_item_names_is_the_tables_and_is_noted(
    tmp_path: Path, in_file: float | None, in_item: float | None, noted: dict[str, float]
) -> None:
    """-999 is none that a file of bytes can hold; a warp of it ended the area."""
    path, sensor = write(tmp_path / "a.tif", codes_with_zeros(), nodata=in_file), SENSORS["lulc"]
    scene = parse_item(lulc_item(GRID, tile="33U", hrefs={"data": str(path)}), sensor, ["lulc"])
    scene = replace(scene, assets={"lulc": replace(scene.assets["lulc"], nodata=in_item)})
    for grid in (GRID, WEST):
        notes = ReadNotes()
        found, expected = read(scene, sensor, "lulc", grid, notes), np.zeros(grid.shape, "uint8")
        with rasterio.open(path) as file:
            place = {"dst_crs": str(grid.crs), "dst_transform": grid.affine, "dst_nodata": 0}
            rasterio.warp.reproject(rasterio.band(file, 1), expected, src_nodata=0, **place)
        assert expected.any()
        np.testing.assert_array_equal(found, expected)
        assert notes.nodata_by_table == noted


@pytest.mark.parametrize(("stated", "expected_zeros"), [({}, True), ({"source_nodata": 0}, False)])
def test_the_sea_level_of_a_further_elevation_model_is_no_hole(
    tmp_path: Path, stated: dict[str, float], expected_zeros: bool
) -> None:
    """What no one calls nodata is none: of a row that says nothing, zeros were."""
    band = {"name": "height", "kind": "elevation", "dtype": "float32", "nodata": "nan"}
    row = {"title": "T", "collection": "c", "choice": "period", "resolution": 10, "bands": [band], **stated}
    [sensor] = sensor_rows({"model": row})
    heights = np.where(DN % 3 == 0, 0, DN).astype("float32")
    path, notes = write(tmp_path / "a.tif", heights), ReadNotes()
    item = lulc_item(GRID, tile="33U", hrefs={"data": str(path)})
    item["assets"] = {"height": {"href": str(path)}}
    found = read(parse_item(item, sensor, ["height"]), sensor, "height", notes=notes)
    holes = np.isnan(found)
    np.testing.assert_array_equal(holes, np.zeros_like(holes) if expected_zeros else heights == 0)
    np.testing.assert_array_equal(found[~holes], heights[~holes])
    assert notes.nodata_by_table == ({} if expected_zeros else {"height": 0})
