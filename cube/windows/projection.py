"""Longitude and latitude to metres and back, also across the antimeridian."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from pyproj import Transformer
from shapely import box, get_parts, segmentize, transform, union_all
from shapely.affinity import translate
from shapely.geometry.base import BaseGeometry
from shapely.validation import make_valid

_SEGMENT_DEG = 0.01
"""Longest edge before a geometry is projected, degrees, so that its straight edges bend as they
should."""


def project(geometry: BaseGeometry, epsg: int | str) -> BaseGeometry:
    """Project a lon/lat geometry, its edges bent as the projection bends them."""
    bent = segmentize(geometry, _SEGMENT_DEG)
    return transform(bent, _from_lonlat(epsg).transform, interleaved=False)


@lru_cache(maxsize=256)
def _from_lonlat(crs: int | str) -> Transformer:
    return Transformer.from_crs(4326, crs, always_xy=True)


@lru_cache(maxsize=256)
def to_lonlat(crs: int | str) -> Transformer:
    """Return what turns x and y of a CRS (EPSG code or PROJ text) into longitude and latitude."""
    return Transformer.from_crs(crs, 4326, always_xy=True)


def split_at_antimeridian(geometry: BaseGeometry) -> BaseGeometry:
    """Cut lon/lat polygons that cross the antimeridian in two there.

    A ring that spans more than 180 degrees is taken to have gone round the other way: no scene is
    that large, but many records write one that crosses the antimeridian so.
    """
    parts = [_cut(part) if _spans_the_world(part) else part for part in get_parts(geometry)]
    return geometry if len(parts) == 1 and parts[0] is geometry else union_all(parts)


def _spans_the_world(geometry: BaseGeometry) -> bool:
    return bool(geometry.bounds[2] - geometry.bounds[0] > 180)


def _cut(polygon: BaseGeometry) -> BaseGeometry:
    whole = make_valid(eastward(polygon))
    east, west = whole.intersection(box(-180, -90, 180, 90)), whole.intersection(box(180, -90, 540, 90))
    return union_all([part for part in get_parts([east, translate(west, -360)]) if part.area > 0])


def eastward(geometry: BaseGeometry) -> BaseGeometry:
    """Count the longitudes of a geometry, or of an array of them, on beyond 180."""
    return transform(
        geometry, lambda xy: np.column_stack([np.where(xy[:, 0] < 0, xy[:, 0] + 360, xy[:, 0]), xy[:, 1]])
    )


def local_equal_area(geometry: BaseGeometry) -> str:
    """Return an equal-area CRS (Lambert azimuthal) centred on a lon/lat geometry."""
    centre = geometry.representative_point()
    return f"+proj=laea +lat_0={centre.y:.4f} +lon_0={centre.x:.4f} +datum=WGS84 +units=m"


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
