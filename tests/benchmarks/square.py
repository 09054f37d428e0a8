"""A square of any size, seen by all five sensors: what the benchmarks of phase one read.

Pixels are those of one 1024 px tile, repeated; it compresses as satellite images do. Every band of
every date has a file of its own by name, all being links to one file per kind, so that a 110 km
square takes little room and every read is cold."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from shapely.geometry import mapping

from cube.testing import (
    dem_item,
    footprint_4326,
    landsat_item,
    lulc_item,
    sentinel1_item,
    sentinel2_item,
    utm_geobox,
    write_cog,
)

EPSG = 32633
LEFT, BOTTOM = 960 * 320, 960 * 5720
SEASONS = [datetime(2023, month, 10, 10, tzinfo=UTC) for month in (2, 5, 8, 11)]
_TILE_PX = 1024
_COARSE = {"B01": 60, "B09": 60, "B02": 10, "B03": 10, "B04": 10, "B08": 10}
_MARGIN_M = 45
_APART_M = 960 * 100
_INSET_M = 120


def make_square(folder: Path, side_m: int, aoi_sides_m: Sequence[tuple[int, int, int]] | None = None) -> None:
    """Write ``items.json``, ``aois.geojson`` and ``blobs``, a folder that the stand-in serves and a config reads.

    Parameters
    ----------
    folder
        Where to; what is there already is removed.
    side_m
        Side of the square, metres; a multiple of 960.
    aoi_sides_m
        AOIs: offset to the east and to the north of the square's corner, and side, metres,
        multiples of 960 (default: the square itself).
    """
    shutil.rmtree(folder, ignore_errors=True)
    _write(folder, _square(folder, side_m), aoi_sides_m or [(0, 0, side_m)])


def make_squares(folder: Path, side_m: int, count: int) -> None:
    """Write an archive of squares far from each other, an AOI each: no item is seen by two of them."""
    shutil.rmtree(folder, ignore_errors=True)
    offsets = [(n % 4 * _APART_M, n // 4 * _APART_M) for n in range(count)]
    items = [item for n, offset in enumerate(offsets) for item in _square(folder, side_m, offset, f"{n}")]
    _write(folder, items, [(*offset, side_m) for offset in offsets])


def _write(folder: Path, items: list[dict[str, Any]], aois: Sequence[tuple[int, int, int]]) -> None:
    (folder / "items.json").write_text(json.dumps({"type": "FeatureCollection", "features": items}))
    outlines = {"type": "FeatureCollection", "features": [_aoi(*aoi) for aoi in aois]}
    (folder / "aois.geojson").write_text(json.dumps(outlines))


def _square(
    folder: Path, side_m: int, offset_m: tuple[int, int] = (0, 0), name: str = "0"
) -> list[dict[str, Any]]:
    """Write the files of one square, and return its items."""
    left, bottom = LEFT + offset_m[0], BOTTOM + offset_m[1]
    bounds = (left, bottom, left + side_m, bottom + side_m)
    grids = {resolution: utm_geobox(EPSG, bounds, resolution) for resolution in (10, 20, 60)}
    outer = tuple(b + s * _MARGIN_M for b, s in zip(bounds, (-1, -1, 1, 1), strict=True))
    grid_30 = utm_geobox(EPSG, outer, 30)
    to_lonlat = Transformer.from_crs(EPSG, 4326, always_xy=True)
    west, south, east, north = to_lonlat.transform_bounds(*bounds)
    degrees = (west - 0.01, south - 0.01, east + 0.01, north + 0.01)
    dem_grid = GeoBox.from_bbox(degrees, "EPSG:4326", resolution=1 / 3600)

    reflectance, backscatter = pixels("uint16"), pixels("float32")
    kinds = folder / "kinds" / name
    files = {
        **{
            resolution: _cog(kinds, str(resolution), grids[resolution], reflectance, 0)
            for resolution in grids
        },
        "SCL": _cog(kinds, "scl", grids[20], _flat(4, "uint8"), 0),
        "s1": _cog(kinds, "s1", grids[10], backscatter, -32768),
        "landsat": _cog(kinds, "landsat", grid_30, reflectance + np.uint16(8000), 0),
        "qa": _cog(kinds, "qa", grid_30, _flat(21824, "uint16"), 1),
        "lulc": _cog(kinds, "lulc", grids[10], _flat(2, "uint8"), 0),
        "dem": _cog(kinds, "dem", dem_grid, backscatter * 450, None),
    }
    blobs = f"./blobs/{name}"
    items = [
        *(sentinel2_item(grids[10], when, root=blobs) for when in SEASONS),
        *(sentinel1_item(grids[10], when, root=blobs) for when in SEASONS),
        *(landsat_item(grid_30, when, root=blobs) for when in SEASONS),
        dem_item(dem_grid, root=blobs),
        lulc_item(grids[10], root=blobs),
    ]
    for item in items:
        item["id"] += f"-{name}" * (name != "0")
        for asset_name, asset in item["assets"].items():
            kind = _kind_of(item["collection"], asset_name)
            if kind in files and asset["href"].startswith(blobs):
                path = folder / asset["href"]
                path.parent.mkdir(parents=True, exist_ok=True)
                os.link(files[kind], path)
    return items


def pixels(dtype: str) -> NDArray[Any]:
    """Return the tile in a band's dtype: uint16 reflectance, float32 backscatter, uint8 classes; 1024 x 1024."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:_TILE_PX, :_TILE_PX]
    ground = 2500 + 900 * np.sin(x / 90) * np.cos(y / 70) + rng.normal(0, 60, x.shape)
    if dtype == "uint16":
        return (np.round(ground / 8) * 8).astype("uint16")
    return (ground / 9000).astype("float32") if dtype == "float32" else _flat(2, dtype)


def _flat(value: int, dtype: str) -> NDArray[Any]:
    return np.full((_TILE_PX, _TILE_PX), value, dtype)


def _cog(folder: Path, name: str, grid: GeoBox, tile: NDArray[Any], nodata: float | None) -> Path:
    repeats = [-(-n // m) for n, m in zip(grid.shape, tile.shape, strict=True)]
    values = np.tile(tile, repeats)[: grid.shape[0], : grid.shape[1]]
    path = folder / f"{name}.tif"
    write_cog(path, values, grid, nodata=nodata, overviews=False)
    return path


def _kind_of(collection: str, asset: str) -> int | str:
    if collection == "sentinel-2-l2a":
        return "SCL" if asset == "SCL" else _COARSE.get(asset, 20)
    if collection == "landsat-c2-l2":
        return "qa" if asset == "qa_pixel" else "landsat"
    return {"sentinel-1-rtc": "s1", "cop-dem-glo-30": "dem", "io-lulc-annual-v02": "lulc"}[collection]


def _aoi(east_m: int, north_m: int, side_m: int) -> dict[str, Any]:
    """Return an AOI whose smallest box on the lattice is the square."""
    left, bottom = LEFT + east_m + _INSET_M, BOTTOM + north_m + _INSET_M
    inner = side_m - 2 * _INSET_M
    outline = footprint_4326(utm_geobox(EPSG, (left, bottom, left + inner, bottom + inner), 20))
    return {"type": "Feature", "properties": {}, "geometry": mapping(outline)}
