"""STAC items as this program sees them: what is asked of a record, checked once, in a frozen value.

The recorded quirks of services end here: ``proj:epsg`` or ``proj:code``, transforms of 6 or 9
numbers, on the item or on the asset; end times written without a ``T``; items whose time is a
period. What a property is called, and how its value is written, is :mod:`cube.scenes.facts`'s.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from affine import Affine
from odc.geo.geobox import GeoBox
from shapely import box
from shapely.errors import ShapelyError
from shapely.geometry import mapping, shape
from shapely.geometry.base import BaseGeometry
from shapely.validation import make_valid

from cube.config.profiles import SensorProfile
from cube.config.sensors import Band, BandKind, ChoiceRule, Sensor
from cube.errors import ItemError
from cube.redaction import unsigned_href
from cube.windows.projection import outline_to_lonlat, spans_all_longitudes, split_at_antimeridian

from .facts import (
    OFFSET_FLAG,
    asked_properties,
    hint,
    known_properties,
    number_of,
    raster_facts,
    zone_of_tile,
)

_BASELINE_WITH_OFFSET = (4, 0)
"""ESA: since processing baseline 04.00 DN = reflectance * 10000 + 1000 (BOA_ADD_OFFSET -1000)."""
_POLARISATIONS = frozenset({"VV", "VH", "HH", "HV"})


@dataclass(frozen=True, slots=True)
class AssetRef:
    """One file of an item, and what its record says of it."""

    key: str
    href: str
    """Unsigned, as the catalog writes it (may be relative to the catalog's file)."""
    epsg: int | None = None
    transform: tuple[float, ...] | None = None
    """Six numbers, GDAL's order turned to affine's."""
    shape: tuple[int, int] | None = None
    """Height and width, pixels."""
    nodata: float | None = None

    @property
    def geobox(self) -> GeoBox | None:
        """The file's grid by its record, if that says; the file itself wins when it is read."""
        if self.epsg is None or self.transform is None or self.shape is None:
            return None
        return GeoBox(self.shape, Affine(*self.transform), self.epsg)


@dataclass(frozen=True)
class Scene:
    """A STAC item with every band that is wanted."""

    id: str
    collection: str
    datetime: dt.datetime
    """Nominal time (UTC); the start where the item's time is a period."""
    start: dt.datetime
    end: dt.datetime
    geometry: BaseGeometry
    """Footprint, EPSG:4326."""
    properties: Mapping[str, Any]
    assets: Mapping[str, AssetRef]
    """By band name."""
    self_href: str

    @property
    def order(self) -> tuple[dt.datetime, str]:
        """Sort key that breaks ties, and by which a mosaic is filled."""
        return (self.datetime, self.id)

    @cached_property
    def epsg(self) -> int | None:
        """CRS of the item's first asset by its record, or else the zone of its MGRS tile."""
        found = next((asset.epsg for asset in self.assets.values()), None)
        return found if found is not None else zone_of_tile(str(self.properties.get("s2:mgrs_tile", "")))

    @property
    def cloud_cover(self) -> float:
        """``eo:cloud_cover``, percent; 0 where the item has none."""
        return float(self.properties.get("eo:cloud_cover", 0.0))

    @property
    def has_cloud_cover(self) -> bool:
        """True if the item says how cloudy it is."""
        return "eo:cloud_cover" in self.properties

    @property
    def has_nodata(self) -> bool:
        """True if the item says how much of its tile is without data."""
        return "s2:nodata_pixel_percentage" in self.properties

    @property
    def has_tier(self) -> bool:
        """True if the item says how good its geometry is, as Landsat's do."""
        return "landsat:collection_category" in self.properties

    @property
    def carries_offset(self) -> bool:
        """True if DN are 1000 above reflectance * 10000, as the item says; never by its date."""
        baseline = str(self.properties.get("s2:processing_baseline", "00.00"))
        is_taken_off = self.properties.get(OFFSET_FLAG) is True
        return _has_offset(baseline) and not is_taken_off

    @property
    def offset_in_words(self) -> str:
        """What the item says of the +1000 offset."""
        taken_off = f", {OFFSET_FLAG} true" if self.properties.get(OFFSET_FLAG) is True else ""
        return f"s2:processing_baseline {self.properties.get('s2:processing_baseline')}{taken_off}"

    def to_json(self) -> dict[str, Any]:
        """Return the scene as plain JSON, from which :meth:`from_json` makes it again."""
        return {
            "id": self.id,
            "collection": self.collection,
            "datetime": isoformat(self.datetime),
            "start": isoformat(self.start),
            "end": isoformat(self.end),
            "geometry": mapping(self.geometry),
            "properties": dict(self.properties),
            "assets": {
                band: {
                    "key": a.key,
                    "href": a.href,
                    "epsg": a.epsg,
                    "transform": a.transform,
                    "shape": a.shape,
                    "nodata": _json_number(a.nodata),
                }
                for band, a in self.assets.items()
            },
            "self": self.self_href,
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Scene:
        """Read back what :meth:`to_json` wrote."""
        return cls(
            record["id"],
            record["collection"],
            parse_time(record["datetime"]),
            parse_time(record["start"]),
            parse_time(record["end"]),
            shape(record["geometry"]),
            record["properties"],
            {
                band: AssetRef(
                    a["key"],
                    a["href"],
                    a["epsg"],
                    tuple(a["transform"]) if a["transform"] else None,
                    tuple(a["shape"]) if a["shape"] else None,
                    None if a["nodata"] is None else float(a["nodata"]),
                )
                for band, a in record["assets"].items()
            },
            record["self"],
        )


def parse_time(text: str) -> dt.datetime:
    """Read an RFC 3339 time, or one with a space for the ``T``, as UTC."""
    time = dt.datetime.fromisoformat(text)
    return time.replace(tzinfo=dt.UTC) if time.tzinfo is None else time.astimezone(dt.UTC)


def time_of(item: Mapping[str, Any]) -> dt.datetime | None:
    """Return the time of an item that may be broken; None where it does not tell."""
    try:
        properties = item["properties"]
        return parse_time(properties.get("datetime") or properties["start_datetime"])
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError):
        return None


def isoformat(time: dt.datetime) -> str:
    """Write a time as :func:`parse_time` reads it, in UTC with a ``Z``."""
    return time.astimezone(dt.UTC).isoformat().replace("+00:00", "Z")


def _json_number(value: float | None) -> float | str | None:
    return "nan" if value is not None and math.isnan(value) else value


def parse_item(
    item: Mapping[str, Any], sensor: Sensor, bands: Iterable[str], source: SensorProfile | None = None
) -> Scene:
    """Read a STAC item (as JSON) into a scene that holds the wanted bands.

    Parameters
    ----------
    item
        The record; tokens in its hrefs are left out, they are signed when they are read.
    source
        What its catalog calls the assets (None: as the sensor table does).

    Raises
    ------
    ItemError
        If the item lacks a band, a time, a footprint or a property that the choice is made on, or
        contradicts itself or the sensor table; says which.
    """
    source = source or SensorProfile()
    identity = str(item.get("id"))
    try:
        wanted = [sensor.band(name) for name in bands]
        properties = known_properties(item["properties"], sensor)
        if sensor.choice is ChoiceRule.ORBIT:
            _check_polarisations(properties, wanted)
        assets = {band.name: _asset(item, band, sensor, source) for band in wanted}
        if sensor.baseline_offset:
            _check_offset(item, wanted, properties, source)
            if source.offset == "applied":
                properties[OFFSET_FLAG] = True
        return _scene(item, sensor, properties, assets)
    except ItemError as error:
        raise ItemError(error.cause, identity, other_mode=error.other_mode) from None
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, ShapelyError) as error:
        raise ItemError(f"record cannot be read ({_in_words(error)})", identity) from None


def _in_words(error: Exception) -> str:
    """Say what is wrong with a record that is not STAC's form, without a library's own names."""
    if isinstance(error, KeyError):
        return f"it has no {error.args[0]}"
    if isinstance(error, (ValueError, ShapelyError)):
        return " ".join(str(error).split())
    return "a part of it has another form than STAC gives it"


def _scene(
    item: Mapping[str, Any], sensor: Sensor, properties: Mapping[str, Any], assets: Mapping[str, AssetRef]
) -> Scene:
    start, end = _period(item["properties"])
    time = item["properties"].get("datetime")
    return Scene(
        id=str(item["id"]),
        collection=str(item.get("collection") or sensor.collection),
        datetime=parse_time(time) if time else start,
        start=start,
        end=end,
        geometry=_parse_footprint(item, assets.values()),
        properties=properties,
        assets=assets,
        self_href=_self_link(item),
    )


def _self_link(item: Mapping[str, Any]) -> str:
    """Return where the item's record lives, without a query: it may hold a token or a key."""
    href = next((link["href"] for link in item.get("links") or () if link.get("rel") == "self"), "")
    return unsigned_href(str(href).partition("?")[0])


def wanted_fields(
    sensor: Sensor, bands: Iterable[str], source: SensorProfile | None = None
) -> tuple[str, ...]:
    """Return the fields that :func:`parse_item` needs, as the STAC API's ``fields`` names them."""
    source = source or SensorProfile()
    top = ("type", "stac_version", "id", "collection", "geometry", "bbox", "links")
    properties = (
        "datetime",
        *asked_properties(sensor),
        "proj:code",
        "proj:epsg",
        "proj:shape",
        "proj:transform",
    )
    assets = (source.asset_key(sensor.band(name)) for name in bands)
    return (*top, *(f"properties.{name}" for name in properties), *(f"assets.{key}" for key in assets))


def _period(properties: Mapping[str, Any]) -> tuple[dt.datetime, dt.datetime]:
    if properties.get("start_datetime") and properties.get("end_datetime"):
        return parse_time(properties["start_datetime"]), parse_time(properties["end_datetime"])
    if not properties.get("datetime"):
        raise ItemError("has neither datetime nor start_datetime and end_datetime")
    time = parse_time(properties["datetime"])
    return time, time


def _parse_footprint(item: Mapping[str, Any], assets: Iterable[AssetRef]) -> BaseGeometry:
    """Return an item's footprint; a box around all longitudes is replaced by that of its files."""
    if not item.get("geometry"):
        raise ItemError("has no geometry")
    geometry = split_at_antimeridian(shape(item["geometry"]))
    if spans_all_longitudes(geometry):
        grid = next((asset.geobox for asset in assets if asset.geobox is not None), None)
        if grid is None:
            raise ItemError("has a geometry round the world, and no proj:transform to say where it lies")
        outline = box(*grid.boundingbox.bbox).segmentize(max(grid.boundingbox.span_x / 8, 1e-6))
        geometry = outline_to_lonlat(outline, str(grid.crs))
    return geometry if geometry.is_valid else make_valid(geometry)


def _check_polarisations(properties: Mapping[str, Any], bands: Iterable[Band]) -> None:
    """Refuse a scene of radar that was taken in other polarisations than those that are wanted."""
    taken = properties.get("sar:polarizations")
    wanted = [band.name.upper() for band in bands if band.name.upper() in _POLARISATIONS]
    if isinstance(taken, list) and not set(wanted) <= set(taken):
        modes, asked = ", ".join(map(str, taken)), ", ".join(wanted)
        raise ItemError(f"was taken in {modes}; {asked} is wanted", other_mode=True)


def _asset(item: Mapping[str, Any], band: Band, sensor: Sensor, source: SensorProfile) -> AssetRef:
    key = source.asset_key(band)
    asset = item.get("assets", {}).get(key)
    if asset is None or not asset.get("href"):
        others = set(item.get("assets", ())) - {source.asset_key(one) for one in sensor.bands}
        raise ItemError(f"has no asset {key!r}{hint(key, others)}")
    raster = raster_facts(asset)
    _check_scaling(key, band, sensor, raster)
    shape_yx = _either(asset, item, "proj:shape")
    nodata = raster.get("nodata")
    return AssetRef(
        key=key,
        href=unsigned_href(asset["href"]),
        epsg=_epsg(asset, item),
        transform=_six(_either(asset, item, "proj:transform")),
        shape=None if shape_yx is None else (int(shape_yx[0]), int(shape_yx[1])),
        nodata=None if nodata is None else float(nodata),
    )


def _either(asset: Mapping[str, Any], item: Mapping[str, Any], key: str) -> Any:
    found = asset.get(key)
    return item["properties"].get(key) if found is None else found


def _epsg(asset: Mapping[str, Any], item: Mapping[str, Any]) -> int | None:
    for key in ("proj:code", "proj:epsg"):
        code = str(_either(asset, item, key)).upper().removeprefix("EPSG:")
        if code.isdecimal():
            return int(code)
    return None


def _six(transform: Any) -> tuple[float, ...] | None:
    if transform is None:
        return None
    if len(transform) not in (6, 9):
        raise ItemError(f"proj:transform has {len(transform)} numbers; expected 6 or 9")
    return tuple(float(value) for value in transform[:6])


def _check_scaling(key: str, band: Band, sensor: Sensor, raster: Mapping[str, Any]) -> None:
    """Refuse an item whose scaling is not the table's: its pixels would mean something else."""
    expected = {"scale": band.scale, "offset": band.offset}
    for name, value in expected.items():
        found = raster.get(name, value)
        harmonised = name == "offset" and sensor.baseline_offset
        if not harmonised and not math.isclose(float(found), value, rel_tol=1e-6, abs_tol=1e-12):
            raise ItemError(f"asset {key!r} has {name} {found}; expected {value}")


def _check_offset(
    item: Mapping[str, Any], bands: Iterable[Band], properties: Mapping[str, Any], source: SensorProfile
) -> None:
    """Refuse an item that contradicts itself on whether its DN are 1000 too high.

    The baseline says whether they were when ESA made them, and a flag whether a service has taken
    that off since. An asset's offset is -0.1 if they were: services copy it from ESA's metadata,
    whatever they did to the pixels. 0 is right of pixels that never had it, or have it no more.
    """
    baseline, is_applied = str(properties["s2:processing_baseline"]), properties.get(OFFSET_FLAG)
    had_it = _has_offset(baseline)
    if is_applied and not had_it:
        raise ItemError(f"has {OFFSET_FLAG} true, but nothing to apply at baseline {baseline}")
    if is_applied is False and had_it and str(item.get("collection")) in source.doubtful_flags:
        raise ItemError(f"has {OFFSET_FLAG} false at baseline {baseline}, known to be wrong of some items")
    for band in bands:
        key = source.asset_key(band)
        offset = number_of(raster_facts(item["assets"][key]).get("offset"))
        if offset is None or band.kind is not BandKind.REFLECTANCE:
            continue
        is_lowered = bool(is_applied) or source.offset == "applied"
        if had_it != (offset != 0) and not (had_it and is_lowered):
            raise ItemError(f"asset {key!r} has offset {offset:g}, and s2:processing_baseline {baseline}")


def _has_offset(baseline: str) -> bool:
    return tuple(int(part) for part in baseline.split(".")) >= _BASELINE_WITH_OFFSET
