"""Chips on the globe: their outlines, and which of them overlap across UTM zones."""

from __future__ import annotations

from collections.abc import Sequence
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
_BOX_PAD_DEG = 0.1
"""More than an edge of an area bends between its corners."""


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


def near_pairs(epsgs: Sequence[int], bounds: NDArray[np.float64]) -> list[tuple[int, int]]:
    """Return the pairs of areas in different UTM zones that may hold the same ground, sorted.

    By boxes of longitude and latitude around them, a little larger than they are: of a hundred
    thousand areas few pairs are left to be looked at. `bounds` are ``(n, 4)``: left, bottom, right
    and top of each in its zone, metres.
    """
    zones = np.array(epsgs, np.int64)
    boxes = np.zeros((len(zones), 4))
    for epsg in np.unique(zones).tolist():
        boxes[zones == epsg] = _lonlat_boxes(epsg, bounds[zones == epsg])
    far_west = np.flatnonzero(boxes[:, 0] < -_FAR_EAST_DEG)  # seen from the other side, too
    numbers = np.concatenate([np.arange(len(zones)), far_west])
    shapes = shapely.box(*np.concatenate([boxes, boxes[far_west] + [360, 0, 360, 0]]).T)
    one, two = numbers[shapely.STRtree(shapes).query(shapes, predicate="intersects")]
    apart = np.abs(zones[one] % 100 - zones[two] % 100)
    near = (zones[one] != zones[two]) & (np.minimum(apart, _ZONES - apart) <= _NEAR_ZONES) & (one < two)
    return sorted(set(zip(one[near].tolist(), two[near].tolist(), strict=True)))


def _lonlat_boxes(epsg: int, bounds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return west, south, east and north of areas; beyond 180 degrees at the antimeridian."""
    steps = np.array([0, 0.5, 1])
    x = bounds[:, :1] + (bounds[:, 2:3] - bounds[:, :1]) * steps
    y = bounds[:, 1:2] + (bounds[:, 3:] - bounds[:, 1:2]) * steps
    lon, lat = to_lonlat(epsg).transform(np.tile(x, 3), np.repeat(y, 3, axis=1))
    crossing = np.ptp(lon, axis=1, keepdims=True) > 180
    lon = np.where(crossing & (lon < 0), lon + 360, lon)
    pad = _BOX_PAD_DEG
    return np.stack([lon.min(1) - pad, lat.min(1) - pad, lon.max(1) + pad, lat.max(1) + pad], axis=1)


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
