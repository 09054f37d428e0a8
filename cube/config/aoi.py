"""Areas of interest: polygons by index, read from a plain GeoJSON file and checked once."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shapely import is_valid_reason
from shapely.errors import ShapelyError
from shapely.geometry import shape
from shapely.geometry.base import BaseGeometry

from cube.errors import AoiError

from .models import Config


@dataclass(frozen=True)
class Aoi:
    """A polygon that is to be covered."""

    index: int
    """Position in the file, from 0; never changes with include or exclude lists."""
    geometry: BaseGeometry
    """Polygon or MultiPolygon, EPSG:4326."""


def load_aois(config: Config) -> list[Aoi]:
    """Read the config's AOI file, as ``aoi.include_indices`` and ``aoi.exclude_indices`` say.

    Raises
    ------
    AoiError
        If the file is not GeoJSON, or a wanted feature has no valid polygon within longitude and
        latitude.
    ConfigError
        If the file is nowhere.
    """
    path = config.aoi_path
    features = _read_features(path)
    wanted = _wanted(config, path, len(features))
    return [Aoi(index, _geometry(features[index], f"{path}: AOI {index}")) for index in wanted]


def _wanted(config: Config, path: Path, count: int) -> list[int]:
    for key in ("include_indices", "exclude_indices"):
        outside = [index for index in getattr(config.aoi, key) if index >= count]
        if outside:
            raise AoiError(f"{config.path}: aoi.{key} names AOI {outside[0]}; {path} has 0..{count - 1}")
    included = set(config.aoi.include_indices or range(count)) - set(config.aoi.exclude_indices)
    if not included:
        raise AoiError(f"{path}: no AOI is left; look at aoi.include_indices and aoi.exclude_indices")
    return sorted(included)


def _read_features(path: Path) -> list[Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AoiError(f"{path}: cannot be read as GeoJSON ({error})") from None
    features = data.get("features") if isinstance(data, dict) else None
    if not isinstance(features, list) or not features:
        raise AoiError(f"{path}: found no features; expected a GeoJSON FeatureCollection of polygons")
    crs = _crs_name(data.get("crs"))
    if not crs.endswith(("CRS84", "4326")):
        raise AoiError(f"{path}: is in {crs}; expected longitude and latitude (EPSG:4326)")
    return features


def _crs_name(crs: Any) -> str:
    """Return the name in a ``crs`` member (GeoJSON of 2008, or bare), or else GeoJSON's own CRS."""
    if not crs:
        return "CRS84"
    properties = crs.get("properties") if isinstance(crs, dict) else {"name": crs}
    name = properties.get("name") if isinstance(properties, dict) else None
    return name if isinstance(name, str) else f"the unnamed crs {json.dumps(crs)}"


def _geometry(feature: Any, where: str) -> BaseGeometry:
    record = feature.get("geometry") if isinstance(feature, dict) else None
    if not record:
        raise AoiError(f"{where}: has no geometry; expected a Polygon")
    try:
        geometry = shape(record)
    except (ShapelyError, AttributeError, KeyError, IndexError, TypeError, ValueError):
        raise AoiError(
            f"{where}: its geometry cannot be read; expected a Polygon of rings of [longitude, latitude]"
        ) from None
    if geometry.geom_type not in ("Polygon", "MultiPolygon"):
        raise AoiError(f"{where}: is a {geometry.geom_type}; expected a Polygon")
    if not geometry.is_valid:
        raise AoiError(f"{where}: is not a valid polygon ({is_valid_reason(geometry)}); mend or exclude it")
    if geometry.is_empty or geometry.area == 0:
        raise AoiError(f"{where}: is empty; expected a Polygon with an area")
    left, bottom, right, top = geometry.bounds
    if left < -180 or right > 180 or bottom < -90 or top > 90:
        raise AoiError(
            f"{where}: lies outside longitude and latitude ({left:g}, {bottom:g}, {right:g}, {top:g})"
        )
    if geometry.geom_type == "Polygon" and right - left > 180:
        raise AoiError(
            f"{where}: spans {right - left:g} degrees; split it at the antimeridian into a MultiPolygon"
        )
    return geometry
