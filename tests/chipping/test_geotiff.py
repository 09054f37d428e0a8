"""The GeoTIFFs that are written, beside those that GDAL writes of the same facts."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.crs import CRS

from chipping.geotiff import Compression, RasterSettings, encode_tiff, gdal_tags
from cube.config.sensors import SENSORS

PLACE = Affine(30, 0, 480_000, 0, -30, 5_990_400)
TAGS = {"scene_ids": "S2A_1+S2A_2", "datetime": "2023-02-10T10:30:00Z", "attribution": "é <&>"}
RASTERS = {
    "integers": RasterSettings(SENSORS["s2l2a"], ("B02", "B8A", "B12"), "int16", 0),
    "one band": RasterSettings(SENSORS["lulc"], ("lulc",), "int8", 0),
    "floats": RasterSettings(SENSORS["lc2l2"], ("red", "swir22"), "float32", math.nan),
    "metres": RasterSettings(SENSORS["dem"], ("elevation",), "float32", -999.0),
    "wide": RasterSettings(SENSORS["lc2l2"], ("red",), "uint16", 0),
}


def facts(path: Path) -> dict[str, Any]:
    """Return all that GDAL tells of a file, but for the size of its pixels on paper."""
    with rasterio.open(path) as file:
        tags = {k: v for k, v in file.tags().items() if not k.startswith("TIFFTAG_")}
        return {
            "profile": {**file.profile, "nodata": str(file.nodata)},
            "crs": file.crs.to_wkt(),
            "bounds": file.bounds,
            "tags": tags,
            "structure": file.tags(ns="IMAGE_STRUCTURE"),
            "bands": [file.tags(index) for index in file.indexes],
            "descriptions": file.descriptions,
            "scales": file.scales,
            "offsets": file.offsets,
            "units": file.units,
            "colours": file.colorinterp,
            "masks": file.mask_flag_enums,
            "blocks": file.block_shapes,
            "pixels": file.read().tobytes(),
        }


@pytest.mark.parametrize("compress", ["deflate", "zstd", "none"])
@pytest.mark.parametrize("name", list(RASTERS))
def test_files_are_as_gdal_writes_them(tmp_path: Path, name: str, compress: Compression) -> None:
    settings = RASTERS[name]
    random = np.random.default_rng(3)
    values = random.integers(-100, 100, (len(settings.bands), 32, 32)).astype(settings.dtype)
    values[:, 5, 5] = np.asarray(settings.nodata, settings.dtype)
    tags = gdal_tags(settings, 32632, tuple(TAGS.items()))
    (tmp_path / "ours.tif").write_bytes(encode_tiff(values, tags, PLACE, compress))
    options: dict[str, Any] = {} if compress == "none" else {"compress": compress}
    if options:
        options["predictor"] = 3 if settings.dtype == "float32" else 2
    with rasterio.open(
        tmp_path / "gdal.tif",
        "w",
        driver="GTiff",
        dtype=settings.dtype,
        count=len(values),
        height=32,
        width=32,
        crs=CRS.from_epsg(32632),
        transform=PLACE,
        nodata=settings.nodata,
        interleave="band",
        photometric="minisblack",
        blockysize=32,
        **options,
    ) as file:
        file.write(values)
        file.descriptions = settings.bands
        file.scales, file.offsets = settings.scales, settings.offsets
        file.units = [settings.sensor.band(band).units for band in settings.bands]
        file.update_tags(AREA_OR_POINT="Area", **TAGS)
    ours, theirs = facts(tmp_path / "ours.tif"), facts(tmp_path / "gdal.tif")
    if set(theirs["units"]) == {"1"}:
        theirs["units"] = (None,) * len(values)  # not told of numbers without a unit
    assert ours == theirs


def test_equal_arguments_give_equal_bytes() -> None:
    settings = RASTERS["floats"]
    values = np.ones((2, 8, 8), np.float32)
    tags = gdal_tags(settings, 32632, tuple(TAGS.items()))
    gdal_tags.cache_clear()
    again = gdal_tags(settings, 32632, tuple(TAGS.items()))
    assert encode_tiff(values, tags, PLACE, "zstd") == encode_tiff(values.copy(), again, PLACE, "zstd")
