"""STAC items as this program sees them: what is asked of a record, checked once, in a frozen value.

The recorded quirks of the Planetary Computer end here: ``proj:epsg`` or ``proj:code``, transforms
of 6 or 9 numbers, on the item or on the asset; end times written without a ``T``; items whose time
is a period.
"""

from __future__ import annotations

import datetime as dt
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from affine import Affine
from odc.geo.geobox import GeoBox
from shapely.errors import ShapelyError
from shapely.geometry import mapping, shape
from shapely.geometry.base import BaseGeometry
from shapely.validation import make_valid

from cube.config.sensors import Band, Sensor
from cube.errors import ItemError
from cube.redaction import unsigned_href
from cube.windows.projection import split_at_antimeridian

_KEPT_PROPERTIES = (
    "platform",
    "start_datetime",
    "end_datetime",
    "eo:cloud_cover",
    "s2:mgrs_tile",
    "s2:nodata_pixel_percentage",
    "s2:processing_baseline",
    "s2:datatake_id",
    "s2:generation_time",
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
_LIMITS = {"eo:cloud_cover": (0.0, 100.0), "s2:nodata_pixel_percentage": (0.0, 100.0)}
"""Numbers that the choice compares; one outside stands for "not known", as Landsat's cloud cover of
-1 does."""
_BASELINE = re.compile(r"[0-9]+\.[0-9]+")


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
        """CRS of the item's first asset by its record."""
        return next((asset.epsg for asset in self.assets.values()), None)

    @property
    def cloud_cover(self) -> float:
        """``eo:cloud_cover``, percent; 0 where the collection has none."""
        return float(self.properties.get("eo:cloud_cover", 0.0))

    def to_json(self) -> dict[str, Any]:
        """Return the scene as plain JSON, from which :meth:`from_json` makes it again."""
        return {
            "id": self.id,
            "collection": self.collection,
            "datetime": _isoformat(self.datetime),
            "start": _isoformat(self.start),
            "end": _isoformat(self.end),
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


def _isoformat(time: dt.datetime) -> str:
    return time.astimezone(dt.UTC).isoformat().replace("+00:00", "Z")


def _json_number(value: float | None) -> float | str | None:
    return "nan" if value is not None and math.isnan(value) else value


def parse_item(item: Mapping[str, Any], sensor: Sensor, bands: Iterable[str]) -> Scene:
    """Read a STAC item (as JSON) into a scene that holds the wanted bands.

    Parameters
    ----------
    item
        The record; tokens in its hrefs are left out, they are signed when they are read.

    Raises
    ------
    ItemError
        If the item lacks a band, a time, a footprint or a property that the choice is made on, or
        contradicts the sensor table; says which.
    """
    try:
        identity, properties = str(item["id"]), item["properties"]
        wanted = [sensor.band(name) for name in bands]
        _check_properties(identity, properties, sensor)
        start, end = _period(properties)
        geometry = _parse_footprint(item)
        return Scene(
            id=identity,
            collection=str(item.get("collection") or sensor.collection),
            datetime=parse_time(properties["datetime"]) if properties.get("datetime") else start,
            start=start,
            end=end,
            geometry=geometry,
            properties={k: properties[k] for k in _KEPT_PROPERTIES if properties.get(k) is not None},
            assets={band.name: _asset(item, band, sensor) for band in wanted},
            self_href=_self_link(item),
        )
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, ShapelyError) as error:
        raise ItemError(f"item {item.get('id')}: record cannot be read ({error!r})") from None


def _self_link(item: Mapping[str, Any]) -> str:
    """Return where the item's record lives, without a query: it may hold a token or a key."""
    href = next((link["href"] for link in item.get("links") or () if link.get("rel") == "self"), "")
    return str(href).partition("?")[0]


def wanted_fields(sensor: Sensor, bands: Iterable[str]) -> tuple[str, ...]:
    """Return the fields that :func:`parse_item` needs, as the STAC API's ``fields`` names them."""
    top = ("type", "stac_version", "id", "collection", "geometry", "bbox", "links")
    properties = ("datetime", *_KEPT_PROPERTIES, "proj:code", "proj:epsg", "proj:shape", "proj:transform")
    assets = (sensor.band(name).asset_key for name in bands)
    return (*top, *(f"properties.{name}" for name in properties), *(f"assets.{key}" for key in assets))


def _check_properties(identity: str, properties: Mapping[str, Any], sensor: Sensor) -> None:
    """Refuse an item that lacks a property, or has a number that is none, which a choice needs."""
    for name in sensor.required:
        if properties.get(name) in (None, ""):
            raise ItemError(f"item {identity}: has no {name}")
    for name, (least, most) in _LIMITS.items():
        value = properties.get(name)
        if value is not None and not (_is_number(value) and least <= value <= most):
            raise ItemError(f"item {identity}: has no {name} ({value!r}; expected {least:g} to {most:g})")
    orbit, baseline = properties.get("sat:relative_orbit"), properties.get("s2:processing_baseline")
    if orbit is not None and not (_is_number(orbit) and float(orbit).is_integer()):
        raise ItemError(f"item {identity}: has no sat:relative_orbit ({orbit!r}; expected an integer)")
    if baseline is not None and not _BASELINE.fullmatch(str(baseline)):
        raise ItemError(
            f"item {identity}: has no s2:processing_baseline ({baseline!r}; expected such as 05.09)"
        )


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _period(properties: Mapping[str, Any]) -> tuple[dt.datetime, dt.datetime]:
    if properties.get("start_datetime") and properties.get("end_datetime"):
        return parse_time(properties["start_datetime"]), parse_time(properties["end_datetime"])
    if not properties.get("datetime"):
        raise ItemError("has neither datetime nor start_datetime and end_datetime")
    time = parse_time(properties["datetime"])
    return time, time


def _parse_footprint(item: Mapping[str, Any]) -> BaseGeometry:
    if not item.get("geometry"):
        raise ItemError(f"item {item['id']}: has no geometry")
    geometry = split_at_antimeridian(shape(item["geometry"]))
    return geometry if geometry.is_valid else make_valid(geometry)


def _asset(item: Mapping[str, Any], band: Band, sensor: Sensor) -> AssetRef:
    asset = item.get("assets", {}).get(band.asset_key)
    if asset is None or not asset.get("href"):
        raise ItemError(f"item {item['id']}: has no asset {band.asset_key!r}")
    raster = (asset.get("raster:bands") or asset.get("bands") or [{}])[0]
    _check_scaling(str(item["id"]), band, sensor, raster)
    shape_yx = _either(asset, item, "proj:shape")
    nodata = raster.get("nodata")
    return AssetRef(
        key=band.asset_key,
        href=unsigned_href(asset["href"]),
        epsg=_epsg(asset, item),
        transform=_six(_either(asset, item, "proj:transform")),
        shape=None if shape_yx is None else (int(shape_yx[0]), int(shape_yx[1])),
        nodata=None if nodata is None else float(nodata),
    )


def _either(asset: Mapping[str, Any], item: Mapping[str, Any], key: str) -> Any:
    return asset.get(key, item["properties"].get(key))


def _epsg(asset: Mapping[str, Any], item: Mapping[str, Any]) -> int | None:
    code = _either(asset, item, "proj:code")
    if isinstance(code, str) and code.upper().startswith("EPSG:"):
        return int(code[5:])
    epsg = _either(asset, item, "proj:epsg")
    return None if epsg is None else int(epsg)


def _six(transform: Any) -> tuple[float, ...] | None:
    if transform is None:
        return None
    if len(transform) not in (6, 9):
        raise ItemError(f"proj:transform has {len(transform)} numbers; expected 6 or 9")
    return tuple(float(value) for value in transform[:6])


def _check_scaling(identity: str, band: Band, sensor: Sensor, raster: Mapping[str, Any]) -> None:
    """Refuse an item whose scaling is not the table's: its pixels would mean something else."""
    found = {"scale": raster.get("scale", band.scale), "offset": raster.get("offset", band.offset)}
    expected = {"scale": band.scale, "offset": band.offset}
    for name, value in found.items():
        harmonised = name == "offset" and sensor.baseline_offset
        if not harmonised and not math.isclose(float(value), expected[name], rel_tol=1e-6, abs_tol=1e-12):
            raise ItemError(
                f"item {identity}: asset {band.asset_key!r} has {name} {value}; expected {expected[name]}"
            )
