"""One file onto a grid: pixels are copied where grids nest, and warped by GDAL elsewhere."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import rasterio
import rasterio.warp
import rasterio.windows
from affine import Affine
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from odc.geo.math import stack_xy, unstack_xy
from odc.geo.overlap import native_pix_transform
from odc.geo.warp import resampling_s2rio
from rasterio.dtypes import in_dtype_range
from rasterio.enums import MaskFlags

from cube.config.sensors import Band

from .placement import Placement

_SNAP = 1e-4
"""Grids that agree to this part of a pixel are one grid (records round their coordinates)."""
_WARP_MARGIN_PX = 4
"""Pixels of the file, or of the grid if those are larger, that a warp wants around its grid; cubic
takes two."""
_EDGE_POINTS = 17
"""Points along each side of a grid that tell which pixels of a file lie under it."""
_REQUEST_PX = 512
"""Rows that a request is made for at least, where the file's own tiles are lower."""


def fits(there: np.dtype[Any], here: np.dtype[Any]) -> bool:
    """Tell whether a band's dtype holds all numbers of a file: none may wrap or be cut off."""
    return there.kind in "iuf" if here.kind == "f" else np.can_cast(there, here)


def read_onto_grid(
    source: rasterio.DatasetReader,
    placement: Placement,
    band: Band,
    geobox: GeoBox,
    nodata: float,
    method: str,
    *,
    zero_is_nodata: bool,
) -> NDArray[Any]:
    """Read a file's pixels under a grid, and copy or warp them onto it.

    Parameters
    ----------
    source
        The opened file; its first band is read.
    placement
        Where its pixels lie.
    band
        Says dtype and nodata of the result.
    nodata
        What the file has where it has nothing.
    method
        GDAL resampling where the grid does not nest in the file's.
    zero_is_nodata
        True where the file has unmarked zeros, too, where it has nothing.

    Returns
    -------
    numpy.ndarray
        ``(y, x)``; ``band.nodata`` where the file has nothing, and beyond it.
    """
    values = np.full(geobox.shape, band.nodata, band.np_dtype)
    nested = _nested_pixels(placement, geobox, method)
    if nested is not None:
        _copy(source, band, nodata, nested, values)
        zero = values == 0
    elif (patch := _read_around(source, placement, geobox, nodata)) is None:
        return values
    else:
        _warp(patch, geobox, nodata, method, band, values)
        zero = np.zeros(values.shape, np.bool_)
        if zero_is_nodata and (values == 0).any():
            nearest = np.full(geobox.shape, band.nodata, band.np_dtype)
            _warp(patch, geobox, nodata, "nearest", band, nearest)
            zero = _spread_to_neighbours(nearest == 0)  # the warp has mixed them in
    if zero_is_nodata:
        values[zero] = band.nodata
    return values


@dataclass(frozen=True)
class _WarpSource:
    """Pixels of a file, and where they lie: a transform, or ground control points."""

    pixels: NDArray[Any]
    crs: Any
    transform: Affine | None = None
    gcps: Sequence[Any] | None = None


def _read_around(
    source: rasterio.DatasetReader, placement: Placement, geobox: GeoBox, nodata: float
) -> _WarpSource | None:
    """Read what a warp onto a grid looks at; None where the grid lies beside the file."""
    whole = rasterio.windows.Window(0, 0, source.width, source.height)
    if placement.gcps:
        return _WarpSource(_read_masked(source, whole, nodata), placement.crs, gcps=placement.gcps)
    there = GeoBox(source.shape, placement.transform, str(placement.crs))
    to_pixels = native_pix_transform(geobox, there)
    edge = stack_xy(to_pixels(unstack_xy(geobox.boundary(_EDGE_POINTS))))
    edge = edge[np.isfinite(edge).all(axis=1)]
    if not edge.size:
        return None
    if placement.crs.is_geographic:  # a meridian has two names; what counts is the one near the file
        around, middle = 360 / abs(placement.transform.a), source.width / 2
        edge[:, 0] = (edge[:, 0] - middle + around / 2) % around + middle - around / 2
    sides = zip(edge.min(axis=0), edge.max(axis=0), there.shape.xy, geobox.shape.xy, strict=True)
    columns, rows = (_looked_at(*side) for side in sides)
    if columns.start >= columns.stop or rows.start >= rows.stop:
        return None
    window = rasterio.windows.Window.from_slices(rows, columns)
    transform = placement.transform @ Affine.translation(window.col_off, window.row_off)
    return _WarpSource(_read_masked(source, window, nodata), placement.crs, transform)


def _looked_at(low: float, high: float, size: int, grid_px: int) -> slice:
    """Return which pixels along a side of a file a warp looks at that wants `low` to `high`.

    Where the file ends before, as many more at the other end: GDAL takes the pixels it finds for
    all that the grid covers, and derives from their number how wide a pixel's surroundings are.
    """
    margin = _WARP_MARGIN_PX * max(1, math.ceil((high - low) / grid_px))
    first, stop = math.floor(low) - margin, math.ceil(high) + margin
    before, behind = max(-first, 0), max(stop - size, 0)
    return slice(max(first - behind, 0), min(stop + before, size))


def _warp(
    patch: _WarpSource, geobox: GeoBox, nodata: float, method: str, band: Band, values: NDArray[Any]
) -> None:
    rasterio.warp.reproject(
        patch.pixels,
        values,
        src_crs=patch.crs,
        src_transform=patch.transform,
        gcps=patch.gcps,
        # One that the file's numbers cannot be marks none of them.
        src_nodata=nodata if in_dtype_range(nodata, str(patch.pixels.dtype)) else None,
        dst_crs=str(geobox.crs),
        dst_transform=geobox.transform,
        dst_nodata=band.nodata,
        resampling=resampling_s2rio(method),
    )


def _spread_to_neighbours(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Spread True to the eight pixels around it."""
    padded = np.pad(mask, 1)
    around = sliding_window_view(padded, (3, 3))
    return np.asarray(around.any(axis=(2, 3)))


def _nested_pixels(
    placement: Placement, geobox: GeoBox, method: str
) -> tuple[NDArray[np.intp], NDArray[np.intp]] | None:
    """Return the file's rows and columns under the grid's, if each grid pixel lies in one of its.

    That is so where both have one CRS and no rotation, the file's pixels are 1, 2, ... grid pixels
    wide, and its edges are edges of the grid. A wider pixel then fills several, which is what
    nearest means; other methods warp. The file's own georeferencing counts, not the item's: they
    are known to disagree for Sentinel-1 RTC.
    """
    here, there = geobox.affine, placement.transform
    if placement.gcps or geobox.crs != placement.crs or not (here.is_rectilinear and there.is_rectilinear):
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


def _copy(
    source: rasterio.DatasetReader,
    band: Band,
    nodata: float,
    pixels: tuple[NDArray[np.intp], NDArray[np.intp]],
    values: NDArray[Any],
) -> None:
    inside = [_part_inside(index, size) for index, size in zip(pixels, source.shape, strict=True)]
    rows, columns = (index[keep] for index, keep in zip(pixels, inside, strict=True))
    if not (rows.size and columns.size):
        return
    window = rasterio.windows.Window(
        int(columns[0]), int(rows[0]), int(columns[-1] - columns[0]) + 1, int(rows[-1] - rows[0]) + 1
    )
    found = _read_masked(source, window, nodata)
    if not np.array_equal(nodata, band.nodata, equal_nan=True):
        empty = np.isnan(found) if np.isnan(nodata) else found == nodata
        found = found.astype(band.np_dtype, copy=False)
        found[empty] = band.nodata
    if found.shape != (rows.size, columns.size):
        found = found.take(rows - rows[0], axis=0).take(columns - columns[0], axis=1)
    values[tuple(inside)] = found


def _part_inside(index: NDArray[np.intp], size: int) -> slice:
    """Return which of ascending pixel numbers are those of a file of a size."""
    first, stop = np.searchsorted(index, [0, size])
    return slice(int(first), int(stop))


def _read_masked(
    source: rasterio.DatasetReader, window: rasterio.windows.Window, nodata: float
) -> NDArray[Any]:
    """Read pixels; those that a mask or an alpha band of the file hides are nodata."""
    values = read_window(source, window)
    if MaskFlags.per_dataset in source.mask_flag_enums[0]:
        hidden = source.dataset_mask(window=window) == 0
        values = values.astype(np.result_type(values, np.min_scalar_type(nodata)), copy=False)
        values[hidden] = nodata
    return values


def read_window(source: rasterio.DatasetReader, window: rasterio.windows.Window) -> NDArray[Any]:
    """Read pixels by rows of tiles, which lie together: GDAL then requests one after the other."""
    values = np.empty((window.height, window.width), source.dtypes[0])
    for strip in _tile_rows(source, window):
        part = values[strip.row_off - window.row_off :][: strip.height]
        source.read(1, window=strip, out=part)
    return values


def _tile_rows(
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
