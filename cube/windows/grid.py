"""The lattice, the grids that lie on it, and the blocks a grid is read and written in.

Everything is a pure function of coordinates in a UTM zone. The lattice of a zone has its knots at
the multiples of 960 m in easting and northing, so that grids of 10, 20, 30 and 60 m nest in it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from affine import Affine
from odc.geo.geobox import GeoBox, GeoboxTiles
from shapely.geometry.base import BaseGeometry

from cube.config.fields import LATTICE_M
from cube.errors import GridError

from .projection import project

CHUNK_M = 7680
"""Side of a chunk, metres: 768 px at 10 m, 256 px at 30 m."""
BLOCK_M = 4 * CHUNK_M
"""Side of a block, metres: the unit that is read and written, 3072 px at 10 m. A constant of the
lattice: a warp depends a little on the block it is done in, so blocks must never follow from cores
or memory."""
_KNOWN_GRIDS = 256
"""Grids that are remembered: a plan asks for each of its sensors' many times."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """A box in a UTM zone, metres."""

    left: int
    bottom: int
    right: int
    top: int

    def __post_init__(self) -> None:
        """Refuse a box without an area."""
        if self.left >= self.right or self.bottom >= self.top:
            raise GridError(f"an extent needs a width and a height, got {self}")

    @property
    def width(self) -> int:
        """West to east, metres."""
        return self.right - self.left

    @property
    def height(self) -> int:
        """South to north, metres."""
        return self.top - self.bottom


@dataclass(frozen=True, slots=True, order=True)
class Block:
    """Pixels ``[row, row + height) x [col, col + width)`` of a sensor and date, in whole chunks."""

    sensor: str
    time: int
    row: int
    col: int
    height: int
    width: int

    @property
    def roi(self) -> tuple[slice, slice]:
        """``(y, x)`` slices, as numpy and GeoBox index."""
        return slice(self.row, self.row + self.height), slice(self.col, self.col + self.width)

    @property
    def name(self) -> str:
        """A file name that no other block of the cube has."""
        return f"{self.sensor}-{self.time}-{self.row}-{self.col}"


def aoi_bounds(aoi: BaseGeometry, epsg: int) -> Bounds:
    """Return the smallest lattice box that holds an AOI's bounds in a zone.

    Parameters
    ----------
    aoi
        Geometry in EPSG:4326.
    epsg
        UTM zone of the cube.

    Examples
    --------
    >>> from shapely import box
    >>> aoi_bounds(box(15, 52, 15.1, 52.1), 32633)
    Bounds(left=499200, bottom=5760960, right=506880, top=5772480)
    """
    left, bottom, right, top = _rounded(project(aoi, epsg).bounds)
    return Bounds(
        math.floor(left / LATTICE_M) * LATTICE_M,
        math.floor(bottom / LATTICE_M) * LATTICE_M,
        math.ceil(right / LATTICE_M) * LATTICE_M,
        math.ceil(top / LATTICE_M) * LATTICE_M,
    )


def overlap_bounds(shared: BaseGeometry, aoi: BaseGeometry, epsg: int, max_side_m: int | None) -> Bounds:
    """Return the largest lattice box within the bounds of what all chosen scenes share.

    Parameters
    ----------
    shared
        What every chosen scene covers, EPSG:4326.
    aoi
        The AOI, EPSG:4326: a capped box is centred on it.
    epsg
        UTM zone of the cube.
    max_side_m
        Longest side, metres, or None.

    Raises
    ------
    GridError
        If not a single lattice cell fits.
    """
    left, bottom, right, top = _rounded(project(shared, epsg).bounds)
    inner = (
        math.ceil(left / LATTICE_M),
        math.ceil(bottom / LATTICE_M),
        math.floor(right / LATTICE_M),
        math.floor(top / LATTICE_M),
    )
    if inner[0] >= inner[2] or inner[1] >= inner[3]:
        raise GridError(
            f"what the chosen scenes share ({right - left:.0f} x {top - bottom:.0f} m) holds no whole "
            f"cell of {LATTICE_M} m; use aoi.extent: aoi"
        )
    centre = project(aoi, epsg).envelope.centroid
    west, east = _capped(inner[0], inner[2], centre.x, max_side_m)
    south, north = _capped(inner[1], inner[3], centre.y, max_side_m)
    return Bounds(west * LATTICE_M, south * LATTICE_M, east * LATTICE_M, north * LATTICE_M)


def _rounded(bounds: tuple[float, float, float, float]) -> tuple[float, ...]:
    """Round to a millimetre, so that an edge on the lattice does not fall a nanometre beside it."""
    return tuple(round(value, 3) for value in bounds)


def _capped(low: int, high: int, centre_m: float, max_side_m: int | None) -> tuple[int, int]:
    """Cut lattice range ``[low, high)`` to `max_side_m` around a centre, without leaving it."""
    cells = high - low if max_side_m is None else min(high - low, max_side_m // LATTICE_M)
    start = round(centre_m / LATTICE_M - cells / 2)
    start = min(max(start, low), high - cells)
    return start, start + cells


@lru_cache(_KNOWN_GRIDS)
def geobox_for(bounds: Bounds, epsg: int, resolution: int) -> GeoBox:
    """Return the grid of a box at a resolution; its outer edges are the box's.

    Examples
    --------
    >>> bounds = Bounds(480_000, 5_760_000, 484_800, 5_762_880)
    >>> [geobox_for(bounds, 32633, resolution).shape for resolution in (10, 30)]
    [Shape2d(x=480, y=288), Shape2d(x=160, y=96)]
    """
    shape = (bounds.height // resolution, bounds.width // resolution)
    return GeoBox(shape, Affine(resolution, 0, bounds.left, 0, -resolution, bounds.top), epsg)


def blocks_of(sensor: str, dates: int, geobox: GeoBox) -> Iterator[Block]:
    """Yield the blocks of a sensor, in order of date, row and column."""
    side = BLOCK_M // int(geobox.resolution.x)
    tiles = GeoboxTiles(geobox, (side, side))
    for time, *tile in np.ndindex(dates, *tiles.shape.yx):
        rows, columns = tiles.roi[tuple(tile)]
        height, width = rows.stop - rows.start, columns.stop - columns.start
        yield Block(sensor, time, rows.start, columns.start, height, width)


def chunk_px(resolution: int) -> int:
    """Return the side of a chunk, pixels."""
    return CHUNK_M // resolution


def stored_px(geobox: GeoBox, *, is_sharded: bool) -> tuple[int, int]:
    """Return height and width of what of a grid is one file on disk: a chunk, or a shard of them.

    A shard is what a block covers. Of a grid that is smaller it covers all, in whole chunks.

    Examples
    --------
    >>> small = geobox_for(Bounds(480_000, 5_760_000, 489_600, 5_762_880), 32633, 10)
    >>> stored_px(small, is_sharded=False), stored_px(small, is_sharded=True)
    ((768, 768), (768, 1536))
    """
    resolution = int(geobox.resolution.x)
    side, block = chunk_px(resolution), BLOCK_M // resolution
    if not is_sharded:
        return side, side
    height, width = (min(block, math.ceil(length / side) * side) for length in geobox.shape)
    return height, width
