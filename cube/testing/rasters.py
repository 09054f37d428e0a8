"""Small true rasters: Cloud Optimized GeoTIFFs, pixel grids, footprints of what is in them."""

from __future__ import annotations

from itertools import pairwise
from math import ceil
from typing import TYPE_CHECKING, Literal

import numpy as np
import rasterio
import shapely
from odc.geo.geobox import GeoBox
from pyproj import Transformer

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

FOOTPRINT_STEP_M = 1000.0
"""A straight line in UTM of this length bends by less than 0.1 m in longitude and latitude."""

FAR_M = 1e6
"""Farther than any edge of a sample scene, so that a half plane of this size has no visible end."""


def utm_geobox(epsg: int, bounds_m: Sequence[float], resolution_m: float) -> GeoBox:
    """Return the north-up pixel grid with exactly these outer edges.

    Parameters
    ----------
    epsg
        Code of a projected CRS in metres.
    bounds_m
        ``(left, bottom, right, top)`` in metres; the sides are multiples of the resolution.
    resolution_m
        Pixel side in metres.

    Raises
    ------
    ValueError
        If a side is not a whole number of pixels.
    """
    left, bottom, right, top = bounds_m
    width, height = (right - left) / resolution_m, (top - bottom) / resolution_m
    if width != int(width) or height != int(height):
        msg = (
            f"bounds {tuple(bounds_m)} are not a whole number of {resolution_m} m pixels, {width} x {height}"
        )
        raise ValueError(msg)
    affine = rasterio.Affine(resolution_m, 0, left, 0, -resolution_m, top)
    return GeoBox((int(height), int(width)), affine, f"EPSG:{epsg}")


def coarser(geobox: GeoBox, resolution_m: float) -> GeoBox:
    """Return the grid from the same corner with larger pixels, as many as it takes to cover it."""
    t = geobox.transform
    factor = resolution_m / t.a
    shape = (ceil(geobox.height / factor), ceil(geobox.width / factor))
    return GeoBox(shape, rasterio.Affine(resolution_m, 0, t.c, 0, -resolution_m, t.f), geobox.crs)


def write_cog(
    path: Path,
    array: NDArray[np.generic],
    geobox: GeoBox,
    *,
    nodata: float | None = None,
    blocksize: int = 512,
    overviews: bool = True,
    resampling: Literal["nearest", "average", "mode"] = "nearest",
    scale: float | None = None,
    offset: float | None = None,
) -> None:
    """Write a Cloud Optimized GeoTIFF with GDAL's own COG driver.

    The same input gives the same bytes. Tiles are DEFLATE with the predictor of their dtype.

    Parameters
    ----------
    path
        File to write; its folder is made, a file already there is replaced.
    array
        ``(y, x)`` or ``(band, y, x)``, any dtype GeoTIFF has.
    geobox
        Grid of the array: CRS, transform, shape.
    nodata
        Value of the internal nodata tag; ``None`` writes none.
    blocksize
        Side of the internal tiles in pixels, a multiple of 16.
    overviews
        Whether rasters larger than a tile get overviews (GDAL halves until one tile is enough).
    resampling
        How overviews are made.
    scale, offset
        Tags for ``physical = scale * value + offset``, on all bands; ``None`` writes none.

    Raises
    ------
    ValueError
        If the array is not on the geobox.
    """
    bands = array[np.newaxis] if array.ndim == 2 else array
    if bands.ndim != 3 or bands.shape[1:] != geobox.shape:
        msg = f"array of shape {array.shape} is not on the {tuple(geobox.shape)} pixels of the geobox"
        raise ValueError(msg)
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        path,
        "w",
        driver="COG",
        width=bands.shape[2],
        height=bands.shape[1],
        count=bands.shape[0],
        dtype=bands.dtype,
        crs=str(geobox.crs),
        transform=geobox.transform,
        nodata=nodata,
        COMPRESS="DEFLATE",
        PREDICTOR="YES",
        LEVEL=4,
        BLOCKSIZE=blocksize,
        OVERVIEWS="AUTO" if overviews else "NONE",
        RESAMPLING=resampling.upper(),
    ) as file:
        file.write(bands)
        if scale is not None:
            file.scales = (scale,) * bands.shape[0]
        if offset is not None:
            file.offsets = (offset,) * bands.shape[0]


def half_plane(point_m: tuple[float, float], direction: tuple[float, float]) -> shapely.Polygon:
    """Return what lies left of a directed line, as a square of :data:`FAR_M`.

    Parameters
    ----------
    point_m
        ``(x, y)`` of a point of the line, metres.
    direction
        ``(dx, dy)`` along the line, of any length.
    """
    along = np.array(direction) / np.hypot(*direction) * FAR_M
    left = np.array([-along[1], along[0]])
    point = np.array(point_m)
    return shapely.Polygon([point - along, point + along, point + along + left, point - along + left])


def covered(geobox: GeoBox, swath: shapely.Polygon | None) -> NDArray[np.bool_]:
    """Return where the pixel centres lie within the swath, ``(y, x)``; everywhere without one.

    The swath is convex: a pixel is inside if it lies left of all edges.
    """
    if swath is None:
        return np.ones(geobox.shape, dtype=bool)
    t = geobox.transform
    x = (t.c + t.a * (np.arange(geobox.width) + 0.5))[np.newaxis, :]
    y = (t.f + t.e * (np.arange(geobox.height) + 0.5))[:, np.newaxis]
    corners = shapely.orient_polygons(swath).exterior.coords
    inside = np.ones(geobox.shape, dtype=bool)
    for (x0, y0), (x1, y1) in pairwise(corners):
        inside &= (x1 - x0) * (y - y0) >= (y1 - y0) * (x - x0)
    return inside


def footprint_4326(geobox: GeoBox, swath: shapely.Polygon | None = None) -> shapely.Polygon:
    """Return the outline of the valid data in longitude and latitude, degrees.

    Parameters
    ----------
    geobox
        Grid of the file, any CRS.
    swath
        What the sensor saw, in the CRS of the geobox; ``None`` means all of the grid.
    """
    box = shapely.box(*geobox.boundingbox.bbox)
    shape = box if swath is None else box.intersection(swath)
    if geobox.crs is not None and geobox.crs.projected:
        shape = shape.segmentize(FOOTPRINT_STEP_M)
    transformer = Transformer.from_crs(str(geobox.crs), "EPSG:4326", always_xy=True)
    lonlat = shapely.transform(shape, lambda xy: np.column_stack(transformer.transform(xy[:, 0], xy[:, 1])))
    return shapely.Polygon(np.round(lonlat.exterior.coords, 8)).normalize()
