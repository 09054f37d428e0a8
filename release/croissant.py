"""The Croissant description of a release."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import geopandas as gpd
import pandas as pd

from cube.config.sensors import Sensor

from .recipe import Recipe
from .tracker import CSV_NAME, GEOJSON_NAME, PARQUET_NAME

_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "equivalentProperty": "cr:equivalentProperty",
    "dct": "http://purl.org/dc/terms/",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
"""The JSON-LD context that the Croissant 1.0 specification recommends."""


def make_croissant(tracker: gpd.GeoDataFrame, recipe: Recipe, sums: Mapping[str, str]) -> dict[str, Any]:
    """Return the Croissant 1.0 description of a release's tables and rasters, as JSON-LD.

    `sums` are SHA-256 of the tracker's files, by name.
    """
    columns = [*tracker.columns.drop("geometry"), "geometry"]
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": recipe.name,
        "version": recipe.version.removeprefix("v"),
        "description": f"{len(tracker)} aligned, multi-sensor, multi-season chips of one land cover each.",
        "license": list(dict.fromkeys(recipe.table[key].licence for key in recipe.rasters)),
        **_date_published(recipe),
        "citeAs": f"{recipe.name}, version {recipe.version}",
        "isLiveDataset": False,
        "distribution": [
            _file_object(CSV_NAME, "text/csv", sums[CSV_NAME]),
            _file_object(GEOJSON_NAME, "application/geo+json", sums[GEOJSON_NAME]),
            _file_object(PARQUET_NAME, "application/x-parquet", sums[PARQUET_NAME]),
            *(_file_set(recipe.table[key]) for key in recipe.rasters),
            *(_picture_set(recipe.table[key]) for key in _pictured(recipe)),
        ],
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": "chips",
                "name": "chips",
                "description": "One record per chip; file names are comma-joined, one per date.",
                "key": {"@id": "chips/id"},
                "field": [_croissant_field(name, tracker) for name in columns],
            },
            *(_picture_records(recipe.table[key]) for key in _pictured(recipe)),
        ],
    }


def _date_published(recipe: Recipe) -> dict[str, str]:
    day = recipe.config.get("dataset", {}).get("published")
    return {"datePublished": str(day)} if day else {}


def _pictured(recipe: Recipe) -> list[str]:
    return [key for key, spec in recipe.rasters.items() if spec.thumbnail_px is not None]


def _picture_set(sensor: Sensor) -> dict[str, Any]:
    return {
        "@type": "cr:FileSet",
        "@id": f"{sensor.key}-pictures",
        "name": f"{sensor.key}-pictures",
        "description": f"{sensor.title} chips as pictures. {sensor.attribution}",
        "encodingFormat": "image/png",
        "includes": f"{sensor.key}_*.png",
    }


def _picture_records(sensor: Sensor) -> dict[str, Any]:
    """Return records of pictures, each with the name of its file, in which the chip's id stands."""
    name = f"{sensor.key}-images"
    source = {"fileSet": {"@id": f"{sensor.key}-pictures"}}
    kinds = {"filename": ("filename", "sc:Text"), "image": ("content", "sc:ImageObject")}
    return {
        "@type": "cr:RecordSet",
        "@id": name,
        "name": name,
        "description": f"One record per picture of {sensor.title}.",
        "field": [
            {
                "@type": "cr:Field",
                "@id": f"{name}/{field}",
                "name": f"{name}/{field}",
                "dataType": kind,
                "source": {**source, "extract": {"fileProperty": what}},
            }
            for field, (what, kind) in kinds.items()
        ],
    }


def _file_object(name: str, encoding: str, digest: str) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": name,
        "name": name,
        "contentUrl": name,
        "encodingFormat": encoding,
        "sha256": digest,
    }


def _file_set(sensor: Sensor) -> dict[str, Any]:
    return {
        "@type": "cr:FileSet",
        "@id": f"{sensor.key}-rasters",
        "name": f"{sensor.key}-rasters",
        "description": f"{sensor.title} chips, GeoTIFF. {sensor.attribution}",
        "encodingFormat": "image/tiff",
        "includes": f"{sensor.key}_*.tif",
    }


def _croissant_field(name: str, tracker: gpd.GeoDataFrame) -> dict[str, Any]:
    kind = "sc:Text"
    if name != "geometry" and pd.api.types.is_integer_dtype(tracker[name]):
        kind = "sc:Integer"
    elif name != "geometry" and pd.api.types.is_float_dtype(tracker[name]):
        kind = "sc:Float"
    return {
        "@type": "cr:Field",
        "@id": f"chips/{name}",
        "name": name,
        "dataType": kind,
        "source": {"fileObject": {"@id": CSV_NAME}, "extract": {"column": name}},
    }
