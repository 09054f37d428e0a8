"""Files of areas as people have them: GeoJSON and what geopandas reads, in any CRS."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shapely.errors import ShapelyError
from shapely.geometry import shape
from shapely.geometry.base import BaseGeometry

from cube.errors import AoiError

if TYPE_CHECKING:
    import geopandas as gpd

_FORMATS = "GeoJSON, GeoPackage, GeoParquet, Shapefile, FlatGeobuf or KML"
_LONLAT = ("CRS84", "4326")
_GEOMETRIES = ("Polygon", "MultiPolygon")
_SNIFFED = 4096


@dataclass(frozen=True)
class Feature:
    """A feature of a file of areas."""

    geometry: BaseGeometry | None
    """EPSG:4326; None where there is none, or none that can be read."""
    name: str = ""
    id: str = ""
    problem: str = ""
    """Why there is no geometry."""


def read_features(path: Path) -> list[Feature]:
    """Return the features of a file, in its order.

    Raises
    ------
    AoiError
        If it cannot be read, has no features, or does not say where they lie.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_SNIFFED)
    except OSError as error:
        raise AoiError(f"{path}: cannot be read ({error.strerror or error})") from None
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    is_json = text[:1] in (b"{", b"[") or path.suffix.lower() in (".json", ".geojson")
    features = list(_of_geojson(path) if is_json else _of_table(path, _read_table(path, head)))
    if not features:
        raise AoiError(f"{path}: found no features; expected polygons, one or more")
    return features


def _of_geojson(path: Path) -> Iterator[Feature]:
    """Yield the features of a FeatureCollection, or a bare Feature or polygon."""
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError) as error:
        raise AoiError(f"{path}: cannot be read as GeoJSON ({error})") from None
    kind = data.get("type") if isinstance(data, dict) else None
    records = data.get("features") if isinstance(data, dict) else None
    if kind == "Feature":
        records = [data]
    elif kind in _GEOMETRIES:
        records = [{"geometry": data}]
    if not isinstance(records, list) or not records:
        raise AoiError(f"{path}: found no features; expected a GeoJSON FeatureCollection of polygons")
    features = [_of_record(record) for record in records]
    yield from _in_lonlat(path, features, _crs_name(path, data.get("crs")))


def _of_record(record: Any) -> Feature:
    properties = record.get("properties") if isinstance(record, dict) else None
    names = _names(properties if isinstance(properties, dict) else {})
    identity = _text(record.get("id")) if isinstance(record, dict) else ""
    names["id"] = identity or names["id"]
    written = record.get("geometry") if isinstance(record, dict) else None
    if not written:
        return Feature(None, problem="has no geometry; expected a Polygon", **names)
    try:
        return Feature(shape(written), **names)
    except (ShapelyError, AttributeError, KeyError, IndexError, TypeError, ValueError):
        expected = "expected a Polygon of rings of [longitude, latitude]"
        return Feature(None, problem=f"its geometry cannot be read; {expected}", **names)


def _names(properties: Mapping[Any, Any]) -> dict[str, str]:
    """Return what a feature is called: its ``name`` and ``id``, in upper or lower case."""
    found = {str(key).lower(): value for key, value in properties.items()}
    return {key: _text(found.get(key)) for key in ("name", "id")}


def _text(value: Any) -> str:
    """Return a name or number as text; nothing for what is missing or no scalar."""
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:g}"
    if value is None or isinstance(value, (bool, dict, list)) or str(value) in ("<NA>", "NaT"):
        return ""
    return " ".join(str(value).split())


def _crs_name(path: Path, crs: Any) -> str:
    """Return the name in a ``crs`` member (GeoJSON of 2008, or bare), or else GeoJSON's own CRS."""
    if not crs:
        return "CRS84"
    properties = crs.get("properties") if isinstance(crs, dict) else {"name": crs}
    name = properties.get("name") if isinstance(properties, dict) else None
    if isinstance(name, str):
        return name
    raise AoiError(f"{path}: is in the unnamed crs {json.dumps(crs)}; expected a name such as EPSG:4326")


def _in_lonlat(path: Path, features: Iterable[Feature], crs: str) -> Iterator[Feature]:
    if crs.endswith(_LONLAT):
        yield from features
        return
    from pyproj import Transformer
    from pyproj.exceptions import ProjError
    from shapely import transform

    try:
        to_lonlat = Transformer.from_crs(crs, 4326, always_xy=True).transform
    except ProjError:
        raise AoiError(f"{path}: is in {crs}, which is no CRS that PROJ knows; expected EPSG:4326") from None
    for feature in features:
        if feature.geometry is None:
            yield feature
        else:
            moved = transform(feature.geometry, to_lonlat, interleaved=False)
            yield Feature(moved, feature.name, feature.id)


def _read_table(path: Path, head: bytes) -> gpd.GeoDataFrame:
    import geopandas as gpd
    import pandas as pd

    try:
        if head.startswith(b"PAR1"):
            return gpd.read_parquet(path)
        layers = _layers(path)
        tables = [gpd.read_file(path, layer=layer) for layer in layers]
        return gpd.GeoDataFrame(pd.concat(tables, ignore_index=True)) if len(tables) > 1 else tables[0]
    except AoiError:
        raise
    except Exception as error:  # noqa: BLE001  every reader has errors of its own
        why = " ".join(str(error).split()) or type(error).__name__
        raise AoiError(f"{path}: cannot be read ({why}); expected {_FORMATS}") from None


def _layers(path: Path) -> list[str]:
    """Return the layers of polygons; only KML may have several, which are its folders."""
    import geopandas as gpd

    found = [
        (str(name), str(kind))
        for name, kind in gpd.list_layers(path).itertuples(index=False)
        if kind is not None and ("Polygon" in kind or "Unknown" in kind or kind == "GeometryCollection")
    ]
    is_kml = path.suffix.lower() in (".kml", ".kmz")
    if not found:
        raise AoiError(f"{path}: has no layer of polygons")
    if len(found) > 1 and not is_kml:
        names = ", ".join(name for name, _ in found)
        raise AoiError(f"{path}: has several layers of polygons ({names}); put one into a file of its own")
    return [name for name, _ in found]


def _of_table(path: Path, table: gpd.GeoDataFrame) -> Iterator[Feature]:
    if len(table) and table.crs is None:
        raise AoiError(f"{path}: names no CRS, so nobody knows where it lies; add its .prj, or set its CRS")
    lonlat = table.to_crs(4326) if len(table) else table
    columns = lonlat.drop(columns=lonlat.geometry.name).to_dict("records") if len(table) else []
    for geometry, properties in zip(lonlat.geometry, columns, strict=True):
        names = _names(properties)
        if geometry is None:
            yield Feature(None, problem="has no geometry; expected a Polygon", **names)
        else:
            yield Feature(geometry, **names)
