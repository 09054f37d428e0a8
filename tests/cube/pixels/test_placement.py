"""Files that do not say where they lie: their items do, or their scenes are lost."""

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
from rasterio import Affine
from shapely import box

from cube.config.sensors import SENSORS
from cube.errors import LostSceneError
from cube.pixels.access import Access
from cube.pixels.notes import ReadNotes
from cube.pixels.preview import clear_share
from cube.pixels.read import read_scene
from cube.scenes.acquisition import Acquisition
from cube.scenes.items import Scene, parse_item
from cube.testing import lulc_item, sentinel2_item, utm_geobox

GRID = utm_geobox(32633, (300_480, 5_544_000, 303_360, 5_546_880), 10)
LULC = SENSORS["lulc"]
BAND = LULC.band("lulc")
NEIGHBOUR = 32632
QUICK = Access(wait_s=0.01)


def codes(grid: GeoBox) -> np.ndarray[Any, Any]:
    return np.random.default_rng(1).choice([1, 2, 5, 11], grid.shape).astype("uint8")


def grid_of_neighbour() -> GeoBox:
    """Return a grid of the neighbouring zone that covers the block."""
    left, bottom, right, top = rasterio.warp.transform_bounds(32633, NEIGHBOUR, *GRID.boundingbox.bbox)
    return utm_geobox(
        NEIGHBOUR, tuple(10 * round(v / 10) for v in (left - 500, bottom - 500, right + 500, top + 500)), 10
    )


def scene_of(path: Path, grid: GeoBox, *, says: tuple[str, ...] = ("CRS", "transform")) -> Scene:
    """Write a file that says the given facts of its place; its item says all of them."""
    crs = {"crs": str(grid.crs)} if "CRS" in says else {}
    place = {"transform": grid.affine} if "transform" in says else {}
    shape = {"height": grid.shape[0], "width": grid.shape[1], "count": 1, "dtype": "uint8", "nodata": 0}
    with rasterio.open(path, "w", driver="GTiff", **shape, **crs, **place) as file:
        file.write(codes(grid), 1)
    return parse_item(lulc_item(grid, tile="33U", hrefs={"data": str(path)}), LULC, ["lulc"])


def read(scene: Scene, notes: ReadNotes | None = None) -> np.ndarray[Any, Any]:
    return read_scene(scene, LULC, BAND, GRID, QUICK, resampling="nearest", notes=notes)


def changed(scene: Scene, **facts: Any) -> Scene:
    return replace(scene, assets={"lulc": replace(scene.assets["lulc"], **facts)})


@pytest.mark.parametrize("says", [("transform",), ("CRS",), ()])
def test_what_a_file_does_not_say_its_item_does_and_it_is_told(tmp_path: Path, says: tuple[str, ...]) -> None:
    grid = grid_of_neighbour()
    expected = np.zeros(GRID.shape, "uint8")
    rasterio.warp.reproject(
        codes(grid),
        expected,
        src_crs=str(grid.crs),
        src_transform=grid.affine,
        src_nodata=0,
        dst_crs=str(GRID.crs),
        dst_transform=GRID.affine,
        dst_nodata=0,
    )
    assert (expected > 0).all()
    notes = ReadNotes()
    scene = scene_of(tmp_path / "a.tif", grid, says=says)
    np.testing.assert_array_equal(read(scene, notes), expected)
    silent = ",".join(fact for fact in ("CRS", "transform") if fact not in says)
    assert notes.placed_by_item == {(scene.id, "data", silent)}


def test_the_files_own_word_counts_where_it_has_one(tmp_path: Path) -> None:
    """An item whose transform is another's moves nothing: known of Sentinel-1 RTC."""
    scene, notes = scene_of(tmp_path / "a.tif", GRID), ReadNotes()
    elsewhere = changed(scene, epsg=NEIGHBOUR, transform=(10.0, 0.0, 0.0, 0.0, -10.0, 0.0))
    np.testing.assert_array_equal(read(elsewhere, notes), codes(GRID))
    assert notes.placed_by_item == set()


@pytest.mark.parametrize(
    ("says", "facts", "cause"),
    [
        (("transform",), {"epsg": None}, "the file names no CRS, and neither does its item"),
        (("CRS",), {"transform": None}, "the file has no geotransform, and neither has its item"),
        (
            ("CRS",),
            {"shape": (10980, 10980)},
            "the file has no geotransform, and its item's is of 10980 x 10980 pixels; the file has 288 x 288 pixels",
        ),
    ],
)
def test_a_scene_that_nobody_can_place_is_lost(
    tmp_path: Path, says: tuple[str, ...], facts: dict[str, Any], cause: str
) -> None:
    scene = changed(scene_of(tmp_path / "a.tif", GRID, says=says), **facts)
    with pytest.raises(LostSceneError) as lost:
        read(scene)
    assert (lost.value.asset, lost.value.cause) == ("data", cause)


@pytest.mark.parametrize("place", ["another zone", "another origin", "no extent"])
def test_a_file_that_lies_elsewhere_than_its_item_is_lost(tmp_path: Path, place: str) -> None:
    """A damaged header, or another scene's file under the name: nothing of it is the item's."""
    facts: dict[str, Any] = {
        "another zone": {"crs": f"EPSG:{NEIGHBOUR}"},
        "another origin": {"transform": Affine.translation(30_000, 0) @ GRID.affine},
        "no extent": {"transform": Affine(0, 0, 300_480, 0, 0, 5_546_880)},
    }[place]
    scene = scene_of(tmp_path / "a.tif", GRID)
    with rasterio.open(tmp_path / "a.tif") as file:
        values, profile = file.read(1), file.profile
    (tmp_path / "a.tif").unlink()
    with rasterio.open(tmp_path / "a.tif", "w", **profile | facts) as file:
        file.write(values, 1)
    with pytest.raises(LostSceneError) as lost:
        read(scene)
    assert lost.value.cause == "its CRS and geotransform put the file elsewhere than its item's footprint"


def test_a_footprint_that_neither_file_nor_transform_agrees_with_is_not_believed(tmp_path: Path) -> None:
    scene = scene_of(tmp_path / "a.tif", GRID)
    away = replace(scene, geometry=box(100, 10, 101, 11))
    np.testing.assert_array_equal(read(away), codes(GRID))
    with pytest.raises(LostSceneError, match="elsewhere than its item's footprint"):
        read(changed(away, transform=None))


def test_a_rotated_file_is_warped_as_gdal_does(tmp_path: Path) -> None:
    centre = Affine.translation(*GRID.affine @ (144, 144))
    turned = centre @ Affine.rotation(20) @ Affine.scale(10, -10) @ Affine.translation(-300, -300)
    source = np.random.default_rng(3).integers(1, 12, (600, 600), dtype="uint8")
    path = tmp_path / "turned.tif"
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        height=600,
        width=600,
        count=1,
        dtype="uint8",
        nodata=0,
        crs=str(GRID.crs),
        transform=turned,
    ) as file:
        file.write(source, 1)
    item = lulc_item(GRID, tile="33U", hrefs={"data": str(path)})
    expected = np.zeros(GRID.shape, "uint8")
    with rasterio.open(path) as there:
        rasterio.warp.reproject(
            rasterio.band(there, 1),
            expected,
            dst_crs=str(GRID.crs),
            dst_transform=GRID.affine,
            src_nodata=0,
            dst_nodata=0,
        )
    assert (expected > 0).all()
    np.testing.assert_array_equal(read(parse_item(item, LULC, ["lulc"])), expected)


def test_a_classification_without_a_crs_is_ranked_by_its_items(tmp_path: Path) -> None:
    path = tmp_path / "scl.tif"
    grid = utm_geobox(32633, (300_480, 5_544_000, 303_360, 5_546_880), 20)
    values = np.full(grid.shape, 4, "uint8")
    values[:, : grid.shape[1] // 2] = 9
    shape = {"height": grid.shape[0], "width": grid.shape[1], "count": 1, "dtype": "uint8"}
    with rasterio.open(path, "w", driver="GTiff", transform=grid.affine, **shape) as file:
        file.write(values, 1)
    item = sentinel2_item(
        grid, datetime(2023, 1, 1, 10, tzinfo=UTC), assets=("SCL",), hrefs={"SCL": str(path)}
    )
    scene = parse_item(item, SENSORS["s2l2a"], ["SCL"])
    inside = box(*grid.boundingbox.bbox).buffer(-200)
    aoi = box(*rasterio.warp.transform_bounds(32633, 4326, *inside.bounds))
    share = clear_share(Acquisition("33UUR", (scene,), 1.0, 0.0), aoi, clear=(4,), access=QUICK)
    assert share == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(
    ("bands", "scale", "cause"),
    [
        (3, 1.0, "the file has 3 bands where one is expected"),
        (1, 0.01, "the file's scale is 0.01; expected 1, or none"),
        (1, 1.0, ""),
        (2, 1.0, ""),  # the other hides pixels
    ],
)
def test_a_file_whose_numbers_mean_something_else_is_lost(
    tmp_path: Path, bands: int, scale: float, cause: str
) -> None:
    scene = scene_of(tmp_path / "a.tif", GRID)
    meaning = {1: {}, 2: {"photometric": "minisblack", "alpha": "yes"}, 3: {"photometric": "rgb"}}[bands]
    shape = {"height": GRID.shape[0], "width": GRID.shape[1], "count": bands, "dtype": "uint8"}
    place = {"crs": str(GRID.crs), "transform": GRID.affine}
    (tmp_path / "a.tif").unlink()
    with rasterio.open(tmp_path / "a.tif", "w", driver="GTiff", **shape, **place, **meaning) as file:
        for index in range(1, bands + 1):
            file.write(codes(GRID) if index == 1 else np.full(GRID.shape, 255, "uint8"), index)
        file.scales = (scale,) * bands
    if not cause:
        np.testing.assert_array_equal(read(scene), codes(GRID))
        return
    with pytest.raises(LostSceneError) as lost:
        read(scene)
    assert lost.value.cause == cause
