"""Areas of interest: polygons by index and name, read from a file and checked once."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from shapely import is_valid_reason
from shapely.geometry.base import BaseGeometry

from cube.errors import AoiError, ConfigError

from .aoi_files import Feature, read_features
from .models import Config


@dataclass(frozen=True)
class Aoi:
    """A polygon that is to be covered."""

    index: int
    """Position in the file, from 0; never changes with include or exclude lists."""
    geometry: BaseGeometry
    """Polygon or MultiPolygon, EPSG:4326."""
    name: str = ""
    """The feature's ``name``, if it has one."""
    id: str = ""
    """The feature's ``id``, if it has one."""

    @property
    def label(self) -> str:
        """What people are shown of it."""
        return aoi_label(self.index, self.name or self.id)


def aoi_label(index: int, name: str = "") -> str:
    """Return what people are shown of an AOI: its number and, if it has one, its name.

    Examples
    --------
    >>> aoi_label(3, "Paris"), aoi_label(4)
    ('000003 (Paris)', '000004')
    """
    return f"{index:06} ({name})" if name else f"{index:06}"


def load_aois(config: Config) -> list[Aoi]:
    """Read the config's AOI file, as ``aoi.include_indices`` and ``aoi.exclude_indices`` say.

    Raises
    ------
    AoiError
        If the file cannot be read, or a wanted feature has no valid polygon within longitude and
        latitude.
    ConfigError
        If the file is nowhere.
    """
    path = config.aoi_path
    features = read_features(path)
    return [_aoi(index, features[index], path) for index in _wanted(config, path, len(features))]


def read_aois(path: Path) -> list[Aoi]:
    """Read all areas of a file.

    Raises
    ------
    AoiError
        As :func:`load_aois`.
    """
    return [_aoi(index, feature, path) for index, feature in enumerate(read_features(path))]


def pick_aois(aois: Collection[Aoi], wanted: Iterable[int | str], path: Path) -> list[Aoi]:
    """Return the AOIs that are wanted by index, name or id (case does not count), in their order.

    Parameters
    ----------
    wanted
        An index, or a text that is one; else a name or an id, which several AOIs may share.
    path
        The file, for the message.

    Raises
    ------
    ConfigError
        If there is no such AOI; names the nearest, or the indices there are.
    """
    picked: set[int] = set()
    for one in wanted:
        found = _called(aois, str(one))
        if not found:
            raise ConfigError(
                f"--aoi {one}: there is no such AOI in {path} as the config cuts it; {_near(aois, one)}"
            )
        picked |= found
    return [aoi for aoi in aois if aoi.index in picked]


def _called(aois: Collection[Aoi], text: str) -> set[int]:
    by_index = {aoi.index for aoi in aois if text.isdecimal() and aoi.index == int(text)}
    folded = text.casefold()
    return by_index or {aoi.index for aoi in aois if folded in (aoi.name.casefold(), aoi.id.casefold())}


def _near(aois: Collection[Aoi], text: int | str) -> str:
    indices = [aoi.index for aoi in aois]
    names = [name for aoi in aois for name in (aoi.name, aoi.id) if name]
    near = difflib.get_close_matches(str(text), names, n=1, cutoff=0.5)
    span = f"indices go from {min(indices)} to {max(indices)}"
    return f"did you mean {near[0]}? ({span})" if near else span


def _aoi(index: int, feature: Feature, path: Path) -> Aoi:
    name = feature.name or feature.id
    where = f"{path}: AOI {index} ({name})" if name else f"{path}: AOI {index}"
    return Aoi(index, _geometry(feature, where), feature.name, feature.id)


def _wanted(config: Config, path: Path, count: int) -> list[int]:
    for key in ("include_indices", "exclude_indices"):
        outside = [index for index in getattr(config.aoi, key) if index >= count]
        if outside:
            raise AoiError(f"{config.path}: aoi.{key} names AOI {outside[0]}; {path} has 0..{count - 1}")
    included = set(config.aoi.include_indices or range(count)) - set(config.aoi.exclude_indices)
    if not included:
        raise AoiError(f"{path}: no AOI is left; look at aoi.include_indices and aoi.exclude_indices")
    return sorted(included)


def _geometry(feature: Feature, where: str) -> BaseGeometry:
    geometry = feature.geometry
    if geometry is None:
        raise AoiError(f"{where}: {feature.problem}")
    if geometry.geom_type not in ("Polygon", "MultiPolygon"):
        raise AoiError(f"{where}: is a {geometry.geom_type}; expected a Polygon")
    if not geometry.is_valid:
        raise AoiError(
            f"{where}: is not a valid polygon ({is_valid_reason(geometry)}); mend it, as geopandas' make_valid() "
            "and QGIS's Fix geometries do, or leave it out by aoi.exclude_indices"
        )
    if geometry.is_empty or geometry.area == 0:
        raise AoiError(f"{where}: is empty; expected a Polygon with an area")
    left, bottom, right, top = geometry.bounds
    if left < -180 or right > 180 or bottom < -90 or top > 90:
        is_swapped = left >= -90 and right <= 90 and bottom >= -180 and top <= 180
        hint = "; latitude seems to come first, where GeoJSON writes longitude first" if is_swapped else ""
        raise AoiError(
            f"{where}: lies outside longitude and latitude ({left:g}, {bottom:g}, {right:g}, {top:g}){hint}"
        )
    if geometry.geom_type == "Polygon" and right - left > 180:
        raise AoiError(
            f"{where}: spans {right - left:g} degrees; split it at the antimeridian into a MultiPolygon"
        )
    return geometry
