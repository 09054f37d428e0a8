"""The writer makes true COGs, and the item builders the Planetary Computer's form."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pystac
import pytest
import rasterio
import shapely
from rasterio.errors import RasterioIOError

from cube.testing import (
    dem_item,
    landsat_item,
    lulc_item,
    sentinel1_item,
    sentinel2_item,
    utm_geobox,
    write_cog,
)
from cube.testing.rasters import covered, footprint_4326, half_plane

if TYPE_CHECKING:
    from pathlib import Path

WHEN = datetime(2023, 5, 9, 10, 10, 31, 24000, tzinfo=UTC)
BOX = utm_geobox(32633, (300000, 5540040, 306000, 5546040), 10)


def core_only(item: dict[str, Any]) -> dict[str, Any]:
    """Return the item without what would be fetched from the network: extension schemas, the API's root."""
    links = [link for link in item["links"] if link["rel"] == "collection"]
    return {**item, "stac_extensions": [], "links": links}


def test_a_cog_holds_what_was_written(tmp_path: Path) -> None:
    values = np.random.default_rng(1).integers(0, 9000, (2, 600, 600), dtype=np.uint16)
    write_cog(tmp_path / "a" / "one.tif", values, BOX, nodata=0, scale=0.1, offset=-2)
    write_cog(tmp_path / "two.tif", values, BOX, nodata=0, scale=0.1, offset=-2)
    with rasterio.open(tmp_path / "a" / "one.tif") as file:
        assert (file.read() == values).all()
        assert file.transform == BOX.transform
        assert file.crs.to_epsg() == 32633
        assert file.nodata == 0
        assert file.scales == (0.1, 0.1)
        assert file.offsets == (-2, -2)
        assert file.block_shapes == [(512, 512)] * 2
        assert file.overviews(1) == [2]
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
    assert (tmp_path / "two.tif").read_bytes() == (tmp_path / "a" / "one.tif").read_bytes()


def test_an_array_off_its_grid_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not on the"):
        write_cog(tmp_path / "no.tif", np.zeros((3, 3), np.uint8), BOX)
    with pytest.raises(ValueError, match="whole number"):
        utm_geobox(32633, (0, 0, 95, 100), 10)


def test_a_flipped_byte_in_a_tile_raises(tmp_path: Path) -> None:
    path = tmp_path / "cut.tif"
    write_cog(path, np.random.default_rng(1).random((600, 600)).astype(np.float32), BOX, overviews=False)
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 0xFF
    path.write_bytes(damaged)
    with rasterio.open(path) as file, pytest.raises(RasterioIOError):
        file.read()


def test_a_footprint_is_what_a_swath_covers() -> None:
    swath = half_plane((303000, 5543040), (0.2, 1))
    inside = covered(BOX, swath)
    assert inside.mean() == pytest.approx(0.5, abs=0.001)
    assert inside[0, 0]
    assert not inside[0, -1]
    ratio = footprint_4326(BOX, swath).area / footprint_4326(BOX).area
    assert ratio == pytest.approx(0.5, abs=0.002)


def test_items_of_all_collections_are_valid_without_an_archive() -> None:
    tiny = utm_geobox(32633, (300000, 5540040, 300640, 5540680), 10)
    items = [
        sentinel2_item(tiny, WHEN),
        sentinel1_item(tiny, WHEN),
        landsat_item(tiny, WHEN),
        landsat_item(tiny, WHEN, platform="landsat-7"),
        dem_item(tiny),
        lulc_item(tiny, footprint=shapely.box(12, 50, 13, 51)),
    ]
    for item in items:
        pystac.Item.from_dict(core_only(item)).validate()
        assert item["properties"]["proj:epsg"] == (4326 if item["collection"] == "cop-dem-glo-30" else 32633)
    assert "raster:bands" not in items[0]["assets"]["B02"]
    assert items[0]["assets"]["SCL"]["title"] == "Scene classfication map (SCL)"
    assert items[1]["properties"]["proj:transform"][-3:] == [0.0, 0.0, 1.0]
    assert items[2]["assets"]["red"]["raster:bands"][0]["scale"] == 2.75e-05
    assert "coastal" not in items[3]["assets"]
    assert (items[5]["properties"]["start_datetime"], items[5]["properties"]["end_datetime"]) == (
        "2023-01-01T00:00:00Z",
        "2024-01-01T00:00:00Z",
    )


def test_hrefs_are_the_planetary_computers_or_ones_own() -> None:
    item = sentinel2_item(BOX, WHEN, hrefs={"B02": "/data/blue.tif"})
    assert item["assets"]["B02"]["href"] == "/data/blue.tif"
    address = item["assets"]["B03"]["href"]
    assert address.startswith(
        "https://sentinel2l2a01.blob.core.windows.net/sentinel2-l2/33/U/UR/2023/05/09/S2A_"
    )
    assert sentinel1_item(BOX, WHEN, root="./blobs")["assets"]["vv"]["href"].startswith(
        "./blobs/sentinel1euwestrtc/sentinel1-grd-rtc/GRD/2023/5/9/IW/DV/"
    )
