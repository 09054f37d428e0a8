"""The Croissant description of a release."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import pandas as pd

from cube.config.sensors import Sensor
from release.opening.checksums import SUMS_NAME, format_sums, sha256
from release.recipe import Recipe
from release.sharding import SHARDS_FOLDER, is_shard_sums
from release.tracker import CSV_NAME, GEOJSON_NAME, PARQUET_NAME, Tracker

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
_TABLES = {
    CSV_NAME: "text/csv",
    GEOJSON_NAME: "application/geo+json",
    PARQUET_NAME: "application/x-parquet",
}
"""The tracker's files with their media types; a long tracker is Parquet alone."""
_SEMANTIC_VERSION = re.compile(r"(0|[1-9]\d*)(\.(0|[1-9]\d*)){0,2}")
_NUMBER = "(?:[^_]+_)?([0-9]+)"
"""The six digits of a chip in a file's name, or alone: mlcroissant looks for them a second time."""


def make_croissant(tracker: Tracker, recipe: Recipe, sums: Mapping[str, str]) -> dict[str, Any]:
    """Return the Croissant 1.0 description of a release's tables and rasters, as JSON-LD.

    `sums` are SHA-256 of the tracker's files and of the chips', or of their shards' sums, by name.
    """
    columns = [*tracker.dtypes.index.drop("geometry"), "geometry"]
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": recipe.name,
        "version": _semantic_version(recipe.version),
        "description": f"{len(tracker)} aligned, multi-sensor, multi-season chips of one land cover each.",
        "license": list(dict.fromkeys(recipe.table[key].licence for key in recipe.rasters)),
        **_date_published(recipe),
        "citeAs": f"{recipe.name}, version {recipe.version}",
        "isLiveDataset": False,
        "distribution": [
            *(_file_object(name, kind, sums[name]) for name, kind in _TABLES.items() if name in sums),
            *(_folder(key, digest, recipe) for key, digest in folder_sums(recipe, sums).items()),
            *(_file_set(recipe.table[key], recipe) for key in recipe.rasters),
            *(_picture_set(recipe.table[key], recipe) for key in _pictured(recipe)),
        ],
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": "chips",
                "name": "chips",
                "description": "One record per chip; file names are comma-joined, one per date.",
                "key": {"@id": "chips/id"},
                "field": [
                    *(_croissant_field(name, tracker, recipe) for name in columns),
                    _chip_number(recipe),
                ],
            },
            *(_raster_records(recipe.table[key]) for key in recipe.rasters),
            *(_picture_records(recipe.table[key]) for key in _pictured(recipe)),
        ],
    }


def _date_published(recipe: Recipe) -> dict[str, str]:
    day = recipe.config.get("dataset", {}).get("published")
    return {"datePublished": str(day)} if day else {}


def _pictured(recipe: Recipe) -> list[str]:
    return [key for key, spec in recipe.rasters.items() if spec.thumbnail_px is not None]


def _tracker_column(name: str, recipe: Recipe) -> dict[str, Any]:
    """Return where a field of the tracker is read from."""
    table = CSV_NAME if recipe.shard_chips is None else PARQUET_NAME
    return {"fileObject": {"@id": table}, "extract": {"column": name}}


def _pattern(ending: str, recipe: Recipe) -> str:
    """Return the glob of files whose names end so."""
    return ending if recipe.shard_chips is None else f"{SHARDS_FOLDER}/*/{ending}"


def _picture_set(sensor: Sensor, recipe: Recipe) -> dict[str, Any]:
    return {
        "@type": "cr:FileSet",
        "@id": f"{sensor.key}-pictures",
        "name": f"{sensor.key}-pictures",
        "description": f"{sensor.title} chips as pictures. {sensor.attribution}",
        "encodingFormat": "image/png",
        "includes": _pattern(f"{sensor.key}_*.png", recipe),
    }


def _picture_records(sensor: Sensor) -> dict[str, Any]:
    """Return records of decoded pictures, each with the label of its chip."""
    records, files = f"{sensor.key}-images", {"fileSet": {"@id": f"{sensor.key}-pictures"}}
    number = {**_number_in(files), "references": {"field": {"@id": "chips/number"}}}
    return {
        "@type": "cr:RecordSet",
        "@id": records,
        "name": records,
        "description": f"One record per picture of {sensor.title}, with what the tracker says of its chip.",
        "field": [
            _field(f"{records}/number", "sc:Text", number),
            _field(f"{records}/filename", "sc:Text", _property_of(files, "fullpath")),
            _field(f"{records}/image", "sc:ImageObject", _property_of(files, "content")),
            *(
                _field(f"{records}/{name}", kind, {"source": {"field": {"@id": f"chips/{name}"}}})
                for name, kind in (("label", "sc:Integer"), ("category", "sc:Text"), ("split", "sc:Text"))
            ),
        ],
    }


def _raster_records(sensor: Sensor) -> dict[str, Any]:
    """Return records of GeoTIFFs, byte for byte, each with its chip's id.

    They are joined to nothing: mlcroissant 1.1 cannot join files that lie in a FileObject, and of
    files that lie in none it decodes every TIFF as a picture of 8 bits.
    """
    records, files = f"{sensor.key}-geotiffs", {"fileSet": {"@id": f"{sensor.key}-rasters"}}
    return {
        "@type": "cr:RecordSet",
        "@id": records,
        "name": records,
        "description": f"One record per GeoTIFF of {sensor.title}; chip is chips/id.",
        "field": [
            _field(f"{records}/chip", "sc:Integer", _number_in(files)),
            _field(f"{records}/filename", "sc:Text", _property_of(files, "filename")),
            _field(f"{records}/geotiff", "sc:Text", _property_of(files, "content")),
        ],
    }


def _field(name: str, kind: str, facts: Mapping[str, Any]) -> dict[str, Any]:
    return {"@type": "cr:Field", "@id": name, "name": name, "dataType": kind, **facts}


def _property_of(files: Mapping[str, Any], what: str) -> dict[str, Any]:
    return {"source": {**files, "extract": {"fileProperty": what}}}


def _number_in(files: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "source": {**files, "extract": {"fileProperty": "filename"}, "transform": {"regex": _NUMBER}},
    }


def _chip_number(recipe: Recipe) -> dict[str, Any]:
    """Return what records of files are joined by: the chip's id as their names have it."""
    column = _tracker_column("lulc_paths", recipe)
    return _field("chips/number", "sc:Text", {"source": {**column, "transform": {"regex": _NUMBER}}})


def _semantic_version(version: str) -> str:
    """Return a version as Croissant asks for one: MAJOR.MINOR.PATCH, and text as build metadata."""
    number = version.removeprefix("v")
    if _SEMANTIC_VERSION.fullmatch(number):
        return ".".join([*number.split("."), "0", "0"][:3])
    return f"0.0.0+{re.sub('[^0-9A-Za-z]+', '-', version)}"


def folder_sums(recipe: Recipe, sums: Mapping[str, str]) -> dict[str, str]:
    """Return SHA-256 of a sensor's rasters together: of the lines that SHA256SUMS has of them.

    By the id that Croissant gives to the release's folder, so far as it holds these. Of a release
    in shards the lines are those of the shards' sums.
    """
    if recipe.shard_chips is not None:
        shards = [name for name in sums if is_shard_sums(name)]
        names = dict.fromkeys(recipe.rasters, shards)
    else:
        names = {key: [name for name in sums if _is_raster_of(key, name)] for key in recipe.rasters}
    return {
        f"{key}-folder": sha256(format_sums({name: sums[name] for name in own})) for key, own in names.items()
    }


def _is_raster_of(key: str, name: str) -> bool:
    return name.startswith(f"{key}_") and name.endswith(".tif")


def _folder(name: str, digest: str, recipe: Recipe) -> dict[str, Any]:
    """Return the release's folder as a FileObject: mlcroissant reads one FileSet out of each."""
    lines = "the FileSet in it" if recipe.shard_chips is None else f"the shards' own {SUMS_NAME}"
    return {
        "@type": "cr:FileObject",
        "@id": name,
        "name": name,
        "description": f"The folder of this file. sha256 is that of the lines of {SUMS_NAME} of {lines}.",
        "contentUrl": ".",
        "encodingFormat": "inode/directory",
        "sha256": digest,
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


def _file_set(sensor: Sensor, recipe: Recipe) -> dict[str, Any]:
    return {
        "@type": "cr:FileSet",
        "@id": f"{sensor.key}-rasters",
        "name": f"{sensor.key}-rasters",
        "description": f"{sensor.title} chips, GeoTIFF. {sensor.attribution}",
        "containedIn": {"@id": f"{sensor.key}-folder"},
        "encodingFormat": "image/tiff",
        "includes": _pattern(f"{sensor.key}_*.tif", recipe),
    }


def _croissant_field(name: str, tracker: Tracker, recipe: Recipe) -> dict[str, Any]:
    kind = "sc:Text"
    if name != "geometry" and pd.api.types.is_integer_dtype(tracker.dtypes[name]):
        kind = "sc:Integer"
    elif name != "geometry" and pd.api.types.is_float_dtype(tracker.dtypes[name]):
        kind = "sc:Float"
    column = _tracker_column(name, recipe)
    return {**_field(f"chips/{name}", kind, {"source": column}), "name": name}
