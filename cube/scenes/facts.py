"""The facts that the choice asks of an item, whatever year's form its record has.

Catalogs write the same fact under several names (``s2:mgrs_tile`` and ``grid:code``,
``s2:processing_baseline`` and ``processing:version``, ``raster:bands`` and STAC 1.1's ``bands``),
and numbers as text. Here they become one form; what is not there is named, with what may be meant.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from cube.config.sensors import ChoiceRule, Sensor
from cube.errors import ItemError

OFFSET_FLAG = "earthsearch:boa_offset_applied"
"""Says that the +1000 of processing baseline 04.00 is taken off the pixels already."""
KEPT_PROPERTIES = (
    "platform",
    "start_datetime",
    "end_datetime",
    "eo:cloud_cover",
    "s2:mgrs_tile",
    "s2:nodata_pixel_percentage",
    "s2:processing_baseline",
    "s2:datatake_id",
    "s2:generation_time",
    OFFSET_FLAG,
    "sat:relative_orbit",
    "sat:absolute_orbit",
    "sat:orbit_state",
    "sar:polarizations",
    "sar:instrument_mode",
    "landsat:wrs_path",
    "landsat:wrs_row",
    "landsat:collection_category",
    "landsat:correction",
    "view:sun_elevation",
    "view:sun_azimuth",
    "view:off_nadir",
    "view:incidence_angle",
    "view:azimuth",
    "s2:mean_solar_zenith",
    "s2:mean_solar_azimuth",
    "io:tile_id",
)
"""Properties that the choice of scenes is made on, or that a reader of the provenance asks for
first."""
_SENTINEL2_NAMES = {
    "s2:mgrs_tile": ("grid:code",),
    "s2:processing_baseline": ("processing:version",),
    "s2:nodata_pixel_percentage": ("statistics.nodata",),
    "s2:datatake_id": ("eopf:datatake_id",),
    "s2:generation_time": ("processing:datetime",),
}
"""Other names of Sentinel-2's properties, a member of one after a dot."""
_BASELINE = re.compile(r"[0-9]+\.[0-9]+")
_TILE = re.compile(r"(?:MGRS-|T)?([0-9]{1,2}[C-X][A-Z]{2})")
_NAME_CUTOFF = 0.6


def zone_of_tile(tile: str) -> int | None:
    """Return the EPSG code of the UTM zone that an MGRS tile lies in; None if it is no such name.

    Examples
    --------
    >>> zone_of_tile("33UUR"), zone_of_tile("01CCV"), zone_of_tile("here")
    (32633, 32701, None)
    """
    if _TILE.fullmatch(tile) is None:
        return None
    return (32600 if tile[2] >= "N" else 32700) + int(tile[:2])


def as_platform(name: str) -> str:
    """Return a platform as most catalogs write it: ``landsat-8``, also of ``LANDSAT_8``."""
    return name.lower().replace("_", "-")


def asked_properties(sensor: Sensor) -> tuple[str, ...]:
    """Return the names under which a catalog may hold what :func:`known_properties` reads."""
    others = _SENTINEL2_NAMES.values() if sensor.choice is ChoiceRule.TILE else ()
    return (*KEPT_PROPERTIES, *(name.partition(".")[0] for names in others for name in names))


def known_properties(properties: Mapping[str, Any], sensor: Sensor) -> dict[str, Any]:
    """Return those of an item's properties that are kept, each in its one form.

    A cloud cover that is no percentage (Landsat's -1, text, NaN) is left out: it is not known.

    Raises
    ------
    ItemError
        If one that the choice hangs on is missing, or says nothing; names it, and what is there.
    """
    found = {name: properties[name] for name in KEPT_PROPERTIES if properties.get(name) not in (None, "")}
    if sensor.choice is ChoiceRule.TILE:
        for name, others in _SENTINEL2_NAMES.items():
            for other in others:
                value = _member(properties, other)
                if name not in found and value not in (None, ""):
                    found[name] = value
    for name, read in _READERS.items():
        if name in found:
            value = read(found.pop(name))
            if value is not None:
                found[name] = value
    for name in sensor.required:
        if name not in found:
            raise ItemError(_missing(name, properties))
    return found


def _member(properties: Mapping[str, Any], name: str) -> Any:
    section, _, key = name.partition(".")
    value = properties.get(section)
    return value.get(key) if key and isinstance(value, Mapping) else None if key else value


def number_of(value: object) -> float | None:
    """Return a finite number, written as one or as text; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _percentage(value: object) -> object | None:
    number = number_of(value)
    if number is None or not 0 <= number <= 100:
        return None
    return number if isinstance(value, str) else value  # a number stays as it is written


def _refused(name: str, expected: str, read: Callable[[object], Any]) -> Callable[[object], Any]:
    """Return a reader that refuses what another cannot read."""

    def reader(value: object) -> Any:
        found = read(value)
        if found is None:
            raise ItemError(f"has no {name} ({value!r}; expected {expected})")
        return found

    return reader


def _whole_number(value: object) -> int | None:
    number = number_of(value)
    return int(number) if number is not None and number.is_integer() else None


def _path(value: object) -> str | None:
    number = _whole_number(value)
    return None if number is None else f"{number:03}"


def _baseline(value: object) -> str | None:
    text = f"{value:05.2f}" if isinstance(value, float) else str(value)
    return text if _BASELINE.fullmatch(text) else None


def _tile(value: object) -> str | None:
    """Return the tile's own name, without what marks it as one; a name of another kind as it is."""
    if not isinstance(value, str):
        return None
    found = _TILE.fullmatch(value)
    return found[1].zfill(5) if found else value


def _flag(value: object) -> bool | None:
    return {"true": True, "false": False}.get(str(value).lower())


_READERS: dict[str, Callable[[object], Any]] = {
    "eo:cloud_cover": _percentage,
    "s2:mgrs_tile": _refused("s2:mgrs_tile", "such as 33UUR", _tile),
    "s2:nodata_pixel_percentage": _refused("s2:nodata_pixel_percentage", "0 to 100", _percentage),
    "s2:processing_baseline": _refused("s2:processing_baseline", "such as 05.09", _baseline),
    OFFSET_FLAG: _refused(OFFSET_FLAG, "true or false", _flag),
    "sat:relative_orbit": _refused("sat:relative_orbit", "an integer", _whole_number),
    "landsat:wrs_path": _refused("landsat:wrs_path", "an integer", _path),
}


def _missing(name: str, there: Iterable[str]) -> str:
    return f"has no {name}{hint(name, there)}"


def hint(name: str, there: Iterable[str]) -> str:
    """Return which of the names that are there may be meant, in brackets; empty if none is like it.

    Examples
    --------
    >>> hint("s2:mgrs_tile", ["datetime", "s2:mgrs_tile_id"])
    ' (s2:mgrs_tile_id is there)'
    """
    word = name.rpartition(":")[2]
    names = sorted(str(one) for one in there if str(one) != name)
    alike = [one for one in names if one.rpartition(":")[2] == word]
    alike += difflib.get_close_matches(name, names, n=1, cutoff=_NAME_CUTOFF)
    return f" ({alike[0]} is there)" if alike else ""


def raster_facts(asset: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``nodata``, ``scale`` and ``offset`` of an asset's first band, as far as it says.

    They stand in ``raster:bands``, or in STAC 1.1's ``bands`` (``raster:scale`` there), or, the
    same for all bands, on the asset itself.
    """
    older, newer = (_first(asset.get(key)) for key in ("raster:bands", "bands"))
    facts = {}
    for name in ("nodata", "scale", "offset"):
        places = (
            older.get(name),
            newer.get(name),
            newer.get(f"raster:{name}"),
            asset.get(name),
            asset.get(f"raster:{name}"),
        )
        value = next((place for place in places if place is not None), None)
        if value is not None:
            facts[name] = value
    return facts


def _first(bands: Any) -> Mapping[str, Any]:
    band = bands[0] if isinstance(bands, list) and bands else {}
    return band if isinstance(band, Mapping) else {}
