"""A made-up landscape that all sensors of the archive look at: land cover first."""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import IntEnum
from functools import lru_cache
from threading import Lock
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from rasterio.warp import Resampling, reproject

from cube.testing.noise import axis_centres, hash01, octaves, smooth_noise
from cube.testing.rasters import utm_geobox

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray
    from odc.geo.geobox import GeoBox

    from cube.testing.noise import Floats

EPSG = 32633
AREA_M = (277440.0, 5538240.0, 328320.0, 5546880.0)
"""Sample area, ``(left, bottom, right, top)`` in EPSG:32633: 51 km by 8.6 km around 50 N, 12.3
E."""

MASTER_M = (AREA_M[0] - 960, AREA_M[1] - 960, AREA_M[2] + 960, AREA_M[3] + 960)
TERRAIN_M = (MASTER_M[0] - 3600, MASTER_M[1] - 3600, MASTER_M[2] + 3600, MASTER_M[3] + 3600)
BASE_YEAR = 2023

_ONE_WARP = Lock()
"""rasterio catches a warning of its own during a warp, which two threads must not do at once."""


class Cover(IntEnum):
    """Class codes of the Impact Observatory land cover (collection ``io-lulc-annual-v02``)."""

    WATER = 1
    TREES = 2
    FLOODED = 4
    CROPS = 5
    BUILT = 7
    BARE = 8
    SNOW = 9
    CLOUDS = 10
    RANGELAND = 11


class Patch(NamedTuple):
    """A feature of the map: a class within a warped ellipse, its centre in km."""

    cover: Cover
    x_km: float
    y_km: float
    rx_km: float
    ry_km: float


PATCHES = (
    Patch(Cover.TREES, 4.6, 4.4, 2.0, 1.1),
    Patch(Cover.TREES, 20.9, 4.0, 1.4, 1.2),
    Patch(Cover.TREES, 26.2, 5.0, 1.7, 1.1),
    Patch(Cover.TREES, 33.5, 4.9, 1.7, 1.0),
    Patch(Cover.TREES, 40.2, 4.8, 1.6, 1.6),
    Patch(Cover.TREES, 44.6, 4.3, 1.2, 1.4),
    Patch(Cover.RANGELAND, 1.9, 6.4, 1.5, 1.3),
    Patch(Cover.RANGELAND, 28.3, 6.7, 2.2, 1.5),
    Patch(Cover.RANGELAND, 35.3, 2.6, 1.8, 1.6),
    Patch(Cover.RANGELAND, 45.6, 2.2, 1.4, 1.0),
    Patch(Cover.WATER, 3.1, 2.6, 1.8, 1.3),
    Patch(Cover.WATER, 12.6, 4.6, 1.6, 1.0),
    Patch(Cover.WATER, 22.5, 6.1, 2.0, 1.4),
    Patch(Cover.WATER, 32.0, 2.8, 2.0, 1.5),
    Patch(Cover.WATER, 38.4, 6.5, 1.6, 1.3),
    Patch(Cover.WATER, 46.6, 5.9, 1.8, 1.3),
    Patch(Cover.BARE, 23.6, 2.5, 1.9, 1.4),
    Patch(Cover.BARE, 31.4, 6.7, 1.5, 1.1),
    Patch(Cover.BARE, 39.0, 2.7, 1.8, 1.5),
    Patch(Cover.BUILT, 5.4, 6.1, 1.5, 1.3),
    Patch(Cover.BUILT, 27.9, 3.0, 2.0, 1.6),
    Patch(Cover.BUILT, 35.3, 6.5, 1.8, 1.4),
    Patch(Cover.BUILT, 48.4, 2.6, 1.4, 1.2),
)


@dataclass(frozen=True)
class Landscape:
    """What is on the ground, on one 10 m grid; every array is ``(y, x)``."""

    geobox: GeoBox
    cover: NDArray[np.uint8]
    """Class codes of :class:`Cover`; 0 outside of what was made."""
    kind: Floats
    """0 to 1, which sort within the class: the crop, the share of deciduous trees, the wetness of
    grass."""
    tone: Floats
    """Brightness relative to the class, around 1: parcels, canopy, streets, benches."""
    slope_x: Floats
    """Rise to the east, metres per metre."""
    slope_y: Floats
    """Rise to the north, metres per metre."""

    def on(self, geobox: GeoBox) -> Landscape:
        """Return the landscape on another 10 m grid: cut out, or warped to another CRS."""
        if geobox.crs == self.geobox.crs:
            x0 = round((geobox.transform.c - self.geobox.transform.c) / 10)
            y0 = round((self.geobox.transform.f - geobox.transform.f) / 10)
            roi = slice(y0, y0 + geobox.height), slice(x0, x0 + geobox.width)
            return Landscape(geobox, **{name: array[roi] for name, array in self._arrays()})
        return Landscape(geobox, **{name: warp(array, self.geobox, geobox) for name, array in self._arrays()})

    def _arrays(self) -> Iterator[tuple[str, NDArray[Any]]]:
        return ((field.name, getattr(self, field.name)) for field in fields(self)[1:])


def warp(array: NDArray[Any], source: GeoBox, target: GeoBox) -> NDArray[Any]:
    """Return the array on another grid, by GDAL: codes (integers) nearest, quantities bilinear."""
    out = np.zeros(target.shape, dtype=array.dtype)
    method = Resampling.nearest if np.issubdtype(array.dtype, np.integer) else Resampling.bilinear
    with _ONE_WARP:
        reproject(
            array,
            out,
            src_transform=source.transform,
            src_crs=str(source.crs),
            dst_transform=target.transform,
            dst_crs=str(target.crs),
            resampling=method,
            num_threads=1,
        )
    return out


@lru_cache(maxsize=1)
def make_landscape(seed: int, year: int = BASE_YEAR) -> Landscape:
    """Return the landscape of the sample area in one year, 10 m, EPSG:32633. Takes a few seconds.

    Years differ a little in land cover (shores, clearings, the edge of the towns), and in nothing
    else.
    """
    geobox = utm_geobox(EPSG, MASTER_M, 10)
    cover = make_cover(seed, year)
    heights, terrain = make_terrain(seed)
    rise_y, rise_x = (np.asarray(rise, dtype=np.float32) for rise in np.gradient(heights, 30.0))
    kind, parcel_tone = _parcels(geobox, seed)
    forest = np.clip(0.5 + 0.35 * smooth_noise(geobox, 700, seed + 11), 0, 1).astype(np.float32)
    kind = np.where(cover == Cover.CROPS, kind, forest).astype(np.float32)
    return Landscape(
        geobox,
        cover,
        kind,
        _tone(geobox, cover, parcel_tone, seed),
        warp(rise_x, terrain, geobox),
        warp(-rise_y, terrain, geobox),
    )


@lru_cache(maxsize=4)
def make_cover(seed: int, year: int = BASE_YEAR) -> NDArray[np.uint8]:
    """Return the land cover of one year on the landscape's grid, ``(y, x)`` uint8."""
    geobox = utm_geobox(EPSG, MASTER_M, 10)
    drift = 0.02 * (year - BASE_YEAR)
    edges = _raggedness(geobox, seed)
    forest = octaves(geobox, (1900, 600, 160), seed + 2, decay=0.3)
    cover = np.where(forest > 0.1 + 2 * drift, Cover.TREES, Cover.CROPS).astype(np.uint8)
    for patch in PATCHES:
        roi = patch_roi(geobox, patch)
        distance = patch_distance(geobox, patch, roi) + edges[roi] - drift
        here = cover[roi]
        here[distance < 1] = patch.cover
        if patch.cover is Cover.WATER:
            here[(distance >= 1) & (distance < 1.1) & (edges[roi] > 0.06)] = Cover.FLOODED
    return _strew(_mixed(cover, geobox, seed), seed)


@lru_cache(maxsize=1)
def make_terrain(seed: int) -> tuple[Floats, GeoBox]:
    """Return heights, metres, on 30 m, well beyond the landscape: hills, flat lakes, open pits."""
    geobox = utm_geobox(EPSG, TERRAIN_M, 30)
    heights = 520 + 60 * smooth_noise(geobox, 5200, seed + 21)
    heights += octaves(geobox, (1900, 700, 250), seed + 22, decay=0.35) * 22
    edges = _raggedness(geobox, seed)
    for patch in PATCHES:
        if patch.cover in {Cover.WATER, Cover.BARE}:
            distance = patch_distance(geobox, patch) + edges
            inside = np.clip((1.5 - distance) / 0.45, 0, 1)
            weight = inside * inside * (3 - 2 * inside)
            flatness = 1.0 if patch.cover is Cover.WATER else 0.7
            level = float(np.percentile(heights[distance < 1], 15)) - 40 * (1 - flatness)
            heights = heights + flatness * weight * (level - heights)
    return heights.astype(np.float32), geobox


def forget_landscapes() -> None:
    """Give back the memory, some 150 MB, in which the last landscape is kept for the next scene."""
    for made in (make_landscape, make_cover, make_terrain):
        made.cache_clear()


def _raggedness(geobox: GeoBox, seed: int) -> Floats:
    """Return how far the outlines of patches stray from their ellipses, in radii."""
    return np.float32(0.18) * octaves(geobox, (1300, 420, 130), seed + 1, decay=0.45) - np.float32(0.05)


def patch_roi(geobox: GeoBox, patch: Patch, reach: float = 2.0) -> tuple[slice, slice]:
    """Return where the grid is within ``reach`` radii of a patch's centre, ``(y, x)``."""
    t = geobox.transform
    column, row = (AREA_M[0] + patch.x_km * 1000 - t.c) / t.a, (AREA_M[1] + patch.y_km * 1000 - t.f) / t.e
    wide, high = patch.rx_km * 1000 * reach / t.a, patch.ry_km * 1000 * reach / t.a
    return (
        slice(max(int(row - high), 0), min(int(row + high), geobox.height)),
        slice(max(int(column - wide), 0), min(int(column + wide), geobox.width)),
    )


def patch_distance(
    geobox: GeoBox, patch: Patch, roi: tuple[slice, slice] = (slice(None), slice(None))
) -> Floats:
    """Return the distance from a patch's centre, 1 on its ellipse, on part of the grid."""
    xs, ys = axis_centres(geobox)
    xs, ys = xs[roi[1]], ys[roi[0]]
    dx = ((xs - AREA_M[0] - patch.x_km * 1000) / (patch.rx_km * 1000)).astype(np.float32)
    dy = ((ys - AREA_M[1] - patch.y_km * 1000) / (patch.ry_km * 1000)).astype(np.float32)
    distance: Floats = np.sqrt(dx[np.newaxis, :] ** 2 + dy[:, np.newaxis] ** 2)
    return distance


def _mixed(cover: NDArray[np.uint8], geobox: GeoBox, seed: int) -> NDArray[np.uint8]:
    """Ravel the borders of classes in some places: the map there is a mixture of its neighbours."""
    ravel = np.clip(smooth_noise(geobox, 1200, seed + 3) - 0.5, 0, 1) * 14
    rows = np.arange(geobox.height)[:, np.newaxis] + ravel * smooth_noise(geobox, 60, seed + 4)
    columns = np.arange(geobox.width)[np.newaxis, :] + ravel * smooth_noise(geobox, 60, seed + 5)
    rows = np.clip(rows, 0, geobox.height - 1).astype(np.intp)
    columns = np.clip(columns, 0, geobox.width - 1).astype(np.intp)
    ravelled: NDArray[np.uint8] = cover[rows, columns]
    return ravelled


def _strew(cover: NDArray[np.uint8], seed: int, count: int = 30) -> NDArray[np.uint8]:
    """Put down small specks of the classes that a release forbids: mistaken for snow or cloud."""
    rng = np.random.default_rng([seed, 6])
    for n in range(count):
        row, column = rng.integers(20, cover.shape[0] - 20), rng.integers(20, cover.shape[1] - 20)
        height, width = rng.integers(3, 9, 2)
        cover[row : row + height, column : column + width] = Cover.SNOW if n % 2 else Cover.CLOUDS
    return cover


def _parcels(geobox: GeoBox, seed: int, angle_deg: float = 24.0) -> tuple[Floats, Floats]:
    """Return fields as strips within blocks: a random number (which crop) and a brightness each."""
    xs, ys = axis_centres(geobox)
    angle = np.deg2rad(angle_deg)
    bend = 70 * smooth_noise(geobox, 1500, seed + 7)
    x, y = (xs - AREA_M[0])[np.newaxis, :], (ys - AREA_M[1])[:, np.newaxis]
    u = (x * np.cos(angle) + y * np.sin(angle) + bend) / 640
    block_u = np.floor(u).astype(np.int64)
    v = (y * np.cos(angle) - x * np.sin(angle) + bend) / 900 + hash01(block_u, block_u * 0, seed + 8)
    block_v = np.floor(v).astype(np.int64)
    strips = 3 + np.floor(5 * hash01(block_u, block_v, seed + 9))
    strip = np.floor((v - block_v) * strips).astype(np.int64) + 100 * block_v
    kind = hash01(block_u, strip, seed + 10)
    tone = 0.84 + 0.32 * hash01(block_u, strip, seed + 12)
    return kind.astype(np.float32), tone.astype(np.float32)


def _tone(geobox: GeoBox, cover: NDArray[np.uint8], parcel_tone: Floats, seed: int) -> Floats:
    """Return the brightness within the classes."""
    xs, ys = axis_centres(geobox)
    broad = octaves(geobox, (1400, 400), seed + 13)
    fine = smooth_noise(geobox, 24, seed + 14)
    # Houses of 36 m by 27 m between streets that run a little askew.
    x, y = (xs - AREA_M[0])[np.newaxis, :], (ys - AREA_M[1])[:, np.newaxis]
    u, v = 0.966 * x + 0.259 * y, 0.966 * y - 0.259 * x
    block = hash01((u // 36).astype(np.int64), (v // 27).astype(np.int64), seed + 15)
    street = (u % 144 // 12 == 0) | (v % 216 // 12 == 0)
    houses = np.where(street, -0.28, 0.4 * block - 0.2 + 0.12 * smooth_noise(geobox, 60, seed + 17))
    benches = np.sin(5 * octaves(geobox, (1100, 500), seed + 16, decay=0.3))
    tone = np.ones(geobox.shape, dtype=np.float32)
    for code, texture in (
        (Cover.WATER, 0.05 * broad),
        (Cover.TREES, 0.05 * broad + 0.08 * fine),
        (Cover.CROPS, parcel_tone - 1 + 0.03 * broad + 0.015 * fine),
        (Cover.BUILT, houses + 0.06 * broad),
        (Cover.BARE, 0.12 * benches + 0.05 * broad + 0.02 * fine),
        (Cover.RANGELAND, 0.10 * broad + 0.06 * fine),
    ):
        tone = np.where(cover == code, 1 + texture, tone)
    return np.clip(tone, 0.4, 1.8).astype(np.float32)
