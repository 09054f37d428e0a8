"""One file onto a grid: pixels are copied where grids nest, and warped by GDAL elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import rasterio
import rasterio.warp
import rasterio.windows
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from odc.geo.warp import resampling_s2rio

from cube.config.sensors import Band

__all__ = ["apply_affine", "fits", "nested_pixels", "onto_grid", "read_window", "zero_filled"]

_SNAP = 1e-4
"""Grids that agree to this part of a pixel are one grid (records round their coordinates)."""
_WARP_MARGIN_PX = 4
"""Pixels of the file that a warp wants around its grid; cubic takes two."""
_REQUEST_PX = 512
"""Rows that a request is made for at least, where the file's own tiles are lower."""


def fits(there: np.dtype[Any], here: np.dtype[Any]) -> bool:
    """Tell whether numbers of a file keep their meaning in a band: no integer may wrap or be cut off."""
    return there.kind in "iuf" if here.kind == "f" else np.can_cast(there, here)


def onto_grid(
    source: rasterio.DatasetReader, band: Band, geobox: GeoBox, nodata: float, method: str
) -> NDArray[Any]:
    """Copy pixels where the grid nests in the file's, else warp onto the whole grid."""
    values = np.full(geobox.shape, band.nodata, band.np_dtype)
    nested = nested_pixels(source, geobox, method)
    if nested is not None:
        _copy_nested(source, band, nodata, nested, values)
        return values
    _fill_cache(source, geobox)
    rasterio.warp.reproject(
        rasterio.band(source, 1),
        values,
        src_nodata=nodata,
        dst_crs=str(geobox.crs),
        dst_transform=geobox.transform,
        dst_nodata=band.nodata,
        resampling=resampling_s2rio(method),
    )
    return values


def nested_pixels(
    source: rasterio.DatasetReader, geobox: GeoBox, method: str
) -> tuple[NDArray[np.intp], NDArray[np.intp]] | None:
    """Return the file's row of every grid row, and its column of every grid column, if each grid pixel lies in one.

    That is so where both have one CRS and no rotation, the file's pixels are 1, 2, ... grid pixels
    wide, and its edges are edges of the grid. A wider pixel then fills its block, which is what
    nearest means; other methods warp. The file's own georeferencing counts, not the item's: they
    are known to disagree for Sentinel-1 RTC.
    """
    here, there = geobox.affine, source.transform
    if geobox.crs != source.crs or not (here.is_rectilinear and there.is_rectilinear):
        return None
    ratio = np.array([there.a / here.a, there.e / here.e])
    start = np.array([(here.c - there.c) / here.a, (here.f - there.f) / here.e])
    whole = np.round(ratio), np.round(start)
    if (
        (np.abs(ratio - whole[0]) > _SNAP).any()
        or (np.abs(start - whole[1]) > _SNAP).any()
        or whole[0].min() < 1
    ):
        return None
    if whole[0].max() > 1 and method != "nearest":
        return None
    columns, rows = (
        (np.arange(count) + int(first)) // int(step)
        for count, first, step in zip(geobox.shape[::-1], whole[1], whole[0], strict=True)
    )
    return rows, columns


def _copy_nested(
    source: rasterio.DatasetReader,
    band: Band,
    nodata: float,
    pixels: tuple[NDArray[np.intp], NDArray[np.intp]],
    values: NDArray[Any],
) -> None:
    inside = [_within(index, size) for index, size in zip(pixels, source.shape, strict=True)]
    rows, columns = (index[keep] for index, keep in zip(pixels, inside, strict=True))
    if not (rows.size and columns.size):
        return
    window = rasterio.windows.Window(
        int(columns[0]), int(rows[0]), int(columns[-1] - columns[0]) + 1, int(rows[-1] - rows[0]) + 1
    )
    found = read_window(source, window)
    if not _same(nodata, band.nodata):
        empty = _is_nodata(found, nodata)
        found = found.astype(band.np_dtype, copy=False)
        found[empty] = band.nodata
    if found.shape != (rows.size, columns.size):
        found = found[np.ix_(rows - rows[0], columns - columns[0])]
    values[tuple(inside)] = found


def _within(index: NDArray[np.intp], size: int) -> slice:
    """Return which of ascending pixel numbers are those of a file of a size."""
    first, stop = np.searchsorted(index, [0, size])
    return slice(int(first), int(stop))


def read_window(source: rasterio.DatasetReader, window: rasterio.windows.Window) -> NDArray[Any]:
    """Read pixels by rows of tiles, which lie together in the file: GDAL then sends one request after the other."""
    values = np.empty((window.height, window.width), source.dtypes[0])
    for strip in _strips(source, window):
        part = values[strip.row_off - window.row_off :][: strip.height]
        source.read(1, window=strip, out=part)
    return values


def _strips(
    source: rasterio.DatasetReader, window: rasterio.windows.Window
) -> Iterator[rasterio.windows.Window]:
    tile_height, tile_width = source.block_shapes[0]
    first, last = window.col_off // tile_width, (window.col_off + window.width - 1) // tile_width
    if (
        first == 0 and last == (source.width - 1) // tile_width
    ):  # whole rows of tiles: all of it lies together
        yield window
        return
    step = max(_REQUEST_PX // tile_height, 1) * tile_height if tile_width >= source.width else tile_height
    stop = window.row_off + window.height
    for row in range(window.row_off // step * step, stop, step):
        top = max(row, window.row_off)
        yield rasterio.windows.Window(window.col_off, top, window.width, min(row + step, stop) - top)


def _fill_cache(source: rasterio.DatasetReader, geobox: GeoBox) -> None:
    """Read what a warp will ask for, so that it finds the tiles in GDAL's cache: it would ask for all of them at once."""
    window = _window_of(source, geobox)
    if window is not None:
        for strip in _strips(source, window):
            source.read(1, window=strip)


def _window_of(source: rasterio.DatasetReader, geobox: GeoBox) -> rasterio.windows.Window | None:
    """Return the file's pixels around a grid, or None where the grid is beyond the file or what its CRS can tell."""
    if source.crs is None or not source.transform.is_rectilinear:
        return None
    box: Any = geobox.boundingbox
    left, bottom, right, top = rasterio.warp.transform_bounds(str(geobox.crs), source.crs, *box.bbox)
    if not np.isfinite([left, bottom, right, top]).all() or left >= right:
        return None
    columns, rows = apply_affine(~source.transform, np.array([left, right]), np.array([top, bottom]))
    (west, east), (north, south) = (
        np.clip([np.floor(c.min()) - _WARP_MARGIN_PX, np.ceil(c.max()) + _WARP_MARGIN_PX], 0, size).astype(
            int
        )
        for c, size in ((columns, source.width), (rows, source.height))
    )
    if west >= east or north >= south:
        return None
    return rasterio.windows.Window(west, north, east - west, south - north)


def zero_filled(
    source: rasterio.DatasetReader,
    band: Band,
    geobox: GeoBox,
    nodata: float,
    method: str,
    values: NDArray[Any],
) -> NDArray[np.bool_]:
    """Where zeros stand for nothing; after a warp a pixel around, too, since the warp has mixed them in."""
    if nested_pixels(source, geobox, method) is not None:
        return cast("NDArray[np.bool_]", values == 0)
    zero: NDArray[np.bool_] = onto_grid(source, band, geobox, nodata, "nearest") == 0
    for axis in (0, 1):
        padded = np.pad(zero, [(1, 1) if axis == a else (0, 0) for a in (0, 1)])
        zero = np.any([np.take(padded, range(k, k + zero.shape[axis]), axis) for k in range(3)], axis=0)
    return zero


def apply_affine(affine: Affine, x: NDArray[Any], y: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return points ``(x, y)`` where an affine maps them."""
    return affine.a * x + affine.b * y + affine.c, affine.d * x + affine.e * y + affine.f


def _is_nodata(values: NDArray[Any], nodata: float) -> NDArray[np.bool_]:
    return np.isnan(values) if np.isnan(nodata) else cast("NDArray[np.bool_]", values == nodata)


def _same(one: float, other: float) -> bool:
    return one == other or (np.isnan(one) and np.isnan(other))
