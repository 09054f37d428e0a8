"""Longitude and latitude to metres and back, also across the antimeridian."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from pyproj import Transformer
from shapely import LinearRing, Polygon, box, get_coordinates, get_parts, segmentize, transform, union_all
from shapely.affinity import translate
from shapely.geometry.base import BaseGeometry
from shapely.validation import make_valid

_SEGMENT_DEG = 0.01
"""Longest edge before a geometry is projected, degrees, so that its straight edges bend as they
should."""
_ALL_DEG = 359.9
"""Longitudes that a box spans which was put around the halves of a scene at the antimeridian."""
_REACH_DEG = 10.0
"""Farthest that a scene reaches over the antimeridian, degrees: 250 km at 77 degrees north."""
_OCEAN_DEG = (-30.01, -30.0)
"""Longitudes with hardly any land, so that few scenes are found there that are not asked for."""
_WORLD = box(-180, -90, 180, 90)


def project(geometry: BaseGeometry, epsg: int | str) -> BaseGeometry:
    """Project a lon/lat geometry, its edges bent as the projection bends them."""
    bent = segmentize(geometry, _SEGMENT_DEG)
    return transform(bent, from_lonlat(epsg).transform, interleaved=False)


@lru_cache(maxsize=256)
def from_lonlat(crs: int | str) -> Transformer:
    """Return what turns longitude and latitude into x and y of a CRS.

    `crs` is an EPSG code, or the PROJ text of a projection of the same ellipsoid's coordinates. The
    latter is one step, and spares each area the 20 ms in which PROJ looks for the best way.
    """
    if str(crs).startswith("+proj="):
        radians = "+proj=unitconvert +xy_in=deg +xy_out=rad"
        return Transformer.from_pipeline(f"+proj=pipeline +step {radians} +step {crs}")
    return Transformer.from_crs(4326, crs, always_xy=True)


@lru_cache(maxsize=256)
def to_lonlat(crs: int | str) -> Transformer:
    """Return what turns x and y of a CRS (EPSG code or PROJ text) into longitude and latitude."""
    return Transformer.from_crs(crs, 4326, always_xy=True)


def outline_to_lonlat(geometry: BaseGeometry, crs: int | str) -> BaseGeometry:
    """Return a geometry of a CRS in longitude and latitude, cut at the antimeridian."""
    return split_at_antimeridian(transform(geometry, to_lonlat(crs).transform, interleaved=False))


def split_at_antimeridian(geometry: BaseGeometry) -> BaseGeometry:
    """Return lon/lat polygons within -180 to 180: what crosses the antimeridian is cut there.

    Records write such a polygon in three ways: its ring jumps from one side to the other, goes on
    beyond 180 or -180, or goes round the world the other way, which no scene does: a ring that
    spans more than 180 degrees is taken to have been meant the shorter way. One that spans all 360
    says nothing of where it lies, and stays as it is (:func:`spans_all_longitudes`).
    """
    parts = [_within_180(part) for part in get_parts(geometry)]
    same = all(one is other for one, other in zip(parts, get_parts(geometry), strict=True))
    return geometry if same else union_all(parts)


def spans_all_longitudes(geometry: BaseGeometry) -> bool:
    """Tell whether a geometry goes from -180 to 180, as a box around two halves does."""
    return any(part.bounds[2] - part.bounds[0] >= _ALL_DEG for part in get_parts(geometry))


def _within_180(part: BaseGeometry) -> BaseGeometry:
    left, _, right, _ = part.bounds if not part.is_empty else (0, 0, 0, 0)
    is_inside = left >= -180 and right <= 180
    if not isinstance(part, Polygon) or (is_inside and not _spans_the_world(part)):
        return part
    whole = make_valid(_unrolled(part))
    if _spans_the_world(whole) or whole.area == 0:
        if right - left >= _ALL_DEG:
            return part
        whole = make_valid(eastward(part))
    first, last = (int(np.floor((x + 180) / 360)) for x in (whole.bounds[0], whole.bounds[2]))
    turns = (translate(whole, -360 * turn).intersection(_WORLD) for turn in range(first, last + 1))
    return union_all([one for turn in turns for one in get_parts(turn) if one.area > 0])


def _unrolled(polygon: Polygon) -> Polygon:
    """Count longitudes on where a ring jumps from one side of the antimeridian to the other."""
    outer, *holes = (_unrolled_ring(ring) for ring in (polygon.exterior, *polygon.interiors))
    middle = (outer[:, 0].min() + outer[:, 0].max()) / 2
    for hole in holes:
        hole[:, 0] -= 360 * np.round((hole[:, 0].mean() - middle) / 360)
    return Polygon(outer, holes)


def _unrolled_ring(ring: LinearRing) -> NDArray[np.float64]:
    points = get_coordinates(ring)
    jumps = np.diff(points[:, 0], prepend=points[0, 0])
    turns = np.where(np.abs(jumps) > 180, -np.sign(jumps), 0).cumsum()
    return np.column_stack([points[:, 0] + 360 * turns, points[:, 1]])


def _spans_the_world(geometry: BaseGeometry) -> bool:
    return bool(geometry.bounds[2] - geometry.bounds[0] > 180)


def beyond_antimeridian(geometry: BaseGeometry) -> BaseGeometry | None:
    """Return where a plain map has scenes at a lon/lat geometry that cross the antimeridian.

    That is beyond 180 and -180, where their rings go on so, and all over the world, where they
    jump: for these stands a strip of ocean. None where the geometry lies too far from the
    antimeridian for any scene to reach it.
    """
    beyond = [
        translate(part, -360 if side > 0 else 360)
        for part in get_parts(geometry)
        for side in (1, -1)
        if (part.bounds[2] > 180 - _REACH_DEG if side > 0 else part.bounds[0] < _REACH_DEG - 180)
    ]
    if not beyond:
        return None
    _, south, _, north = geometry.bounds
    return union_all([*beyond, box(_OCEAN_DEG[0], south, _OCEAN_DEG[1], north)])


def eastward(geometry: BaseGeometry) -> BaseGeometry:
    """Count the longitudes of a geometry, or of an array of them, on beyond 180."""
    return transform(
        geometry, lambda xy: np.column_stack([np.where(xy[:, 0] < 0, xy[:, 0] + 360, xy[:, 0]), xy[:, 1]])
    )


def local_equal_area(geometry: BaseGeometry) -> str:
    """Return an equal-area CRS (Lambert azimuthal) centred on a lon/lat geometry."""
    centre = geometry.representative_point()
    return f"+proj=laea +lat_0={centre.y:.4f} +lon_0={centre.x:.4f} +ellps=WGS84 +units=m"


def utm_epsg(geometry: BaseGeometry) -> int:
    """Return the EPSG code of the UTM zone in which a lon/lat geometry's centre lies.

    Examples
    --------
    >>> utm_epsg(box(12, 50, 13, 51)), utm_epsg(box(-70, -34, -69, -33))
    (32633, 32719)
    """
    centre = (eastward(geometry) if _spans_the_world(geometry) else geometry).centroid
    zone = int((centre.x + 180) // 6) % 60 + 1
    return (32600 if centre.y >= 0 else 32700) + zone
