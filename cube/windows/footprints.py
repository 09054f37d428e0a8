"""Chips on the globe: their outlines, and which of them overlap across UTM zones."""

from __future__ import annotations

from typing import Literal

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from .lattice import WindowGeometry
from .projection import eastward, to_lonlat

_MOST_SHARED = 0.1
"""Of two chips in different zones that share more of their area than this, one has to go."""
_ZONES = 60
_NEAR_ZONES = 2
"""Around Svalbard every other zone is left out."""
_FAR_EAST_DEG = 170


def footprints(
    geometry: WindowGeometry, epsg: int, left_m: NDArray[np.generic], top_m: NDArray[np.generic]
) -> NDArray[np.object_]:
    """Return the outlines of chips, shapely polygons in EPSG:4326, counter-clockwise.

    `left_m` and `top_m` are western and northern edges of sample windows in the UTM zone `epsg`. An
    outline that crosses the antimeridian goes on beyond 180 degrees instead of around the globe.
    """
    left = np.asarray(left_m, np.float64) - geometry.margin_m
    top = np.asarray(top_m, np.float64) + geometry.margin_m
    right, bottom = left + geometry.chip_m, top - geometry.chip_m
    x = np.stack([left, right, right, left, left], axis=-1)
    y = np.stack([bottom, bottom, top, top, bottom], axis=-1)
    lon, lat = to_lonlat(epsg).transform(x, y)
    crossing = np.ptp(lon, axis=-1, keepdims=True) > 180 if len(left) else False
    lon = np.where(crossing & (lon < 0), lon + 360, lon)
    return np.asarray(shapely.polygons(np.stack([lon, lat], axis=-1)), np.object_)


def outside(
    aoi: BaseGeometry, chips: NDArray[np.object_], clip: Literal["centre", "whole"]
) -> NDArray[np.bool_]:
    """Return which chips do not lie in an AOI's polygon (EPSG:4326) by their centre, or as a whole.

    What lies on its edge lies in it. `chips` are outlines such as :func:`footprints` returns.
    """
    if len(chips) and shapely.total_bounds(chips)[2] > 180:
        chips, aoi = eastward(chips), shapely.union_all([eastward(aoi)])
    shapely.prepare(aoi)
    if clip == "whole":
        return np.asarray(~shapely.covers(aoi, chips), np.bool_)
    return np.asarray(~shapely.covers(aoi, shapely.centroid(chips)), np.bool_)


def may_overlap(epsg: int, other: int) -> bool:
    """Tell whether cubes of two UTM zones can see the same ground: two that are near."""
    apart = abs(epsg % 100 - other % 100)
    return epsg != other and min(apart, _ZONES - apart) <= _NEAR_ZONES


def overlapping(first: NDArray[np.object_], second: NDArray[np.object_]) -> list[tuple[int, int]]:
    """Return pairs of outlines, one of each array, that share over a tenth of the smaller."""
    boxes = shapely.total_bounds(first), shapely.total_bounds(second)
    if all(np.abs(box[[0, 2]]).max() > _FAR_EAST_DEG for box in boxes):
        first, second = eastward(first), eastward(second)
    if not _boxes_meet(shapely.total_bounds(first), shapely.total_bounds(second)):
        return []
    theirs, ours = shapely.STRtree(first).query(second, predicate="intersects")
    shared = shapely.area(shapely.intersection(first[ours], second[theirs]))
    smaller = np.minimum(shapely.area(first[ours]), shapely.area(second[theirs]))
    many = shared > _MOST_SHARED * smaller
    return sorted(zip(ours[many].tolist(), theirs[many].tolist(), strict=True))


def _boxes_meet(one: NDArray[np.float64], two: NDArray[np.float64]) -> bool:
    return bool(one[0] < two[2] and two[0] < one[2] and one[1] < two[3] and two[1] < one[3])
