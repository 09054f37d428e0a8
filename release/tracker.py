"""The tracker: a row per chip, GELOS's fields with their types and forms first, then ours."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray

from cube.config.models import Config
from cube.config.sensors import CLASS_COLORS, CLASS_NAMES, SENSORS, SensorTable
from cube.windows.projection import to_lonlat

from .recipe import Recipe
from .sharding import folder_of

GEOJSON_NAME = "gelos_chip_tracker.geojson"
CSV_NAME = "gelos_chip_tracker.csv"
PARQUET_NAME = "gelos_chip_tracker.parquet"

GELOS_FIELDS = (
    "original_id",
    "aoi_index",
    "s2l2a_dates",
    "s1rtc_dates",
    "lc2l2_dates",
    "lulc",
    "epsg",
    "status",
    "s2l2a_scene_ids",
    "s1rtc_scene_ids",
    "lc2l2_scene_ids",
    "dem_scene_ids",
    "lulc_scene_ids",
    "id",
    "lat",
    "lon",
    "category",
    "color",
    "s2l2a_thumbs",
    "s1rtc_thumbs",
    "lc2l2_thumbs",
    "s2l2a_paths",
    "s1rtc_paths",
    "lc2l2_paths",
    "dem_paths",
)
"""GELOS's fields in GELOS's order; ``geometry`` comes last in every file."""
OUR_FIELDS = ("lulc_paths", "cell", "left_m", "top_m", "purity", "split", "label")
"""Fields that follow GELOS's, before whatever further columns the chips came with."""
FOOTPRINT = "chip_footprint"
"""Column of chips that holds their footprints, WKT in EPSG:4326."""
NO_SPLITS = "all"
"""What the CSV says of the split of a chip of a release without splits."""
_CHIP_NAME = re.compile(r"_([0-9]{6,12})(_[0-9]{8})?\.(tif|png)$")
_ITEM_NAME = re.compile(r"item_[0-9]{6,12}\.json")
_ROWS_AT_ONCE = 1000
_GEOJSON_HEAD = '{\n"type": "FeatureCollection",\n"name": "gelos_chip_tracker",\n"features": [\n'


def tracker_fields(table: SensorTable) -> tuple[str, ...]:
    """Return the fields that every tracker begins with: GELOS's, ours, further sensors'."""
    further = []
    for sensor in (row for key, row in table.items() if key not in SENSORS):
        kinds = ("scene_ids", "paths") if sensor.is_static else ("dates", "scene_ids", "thumbs", "paths")
        further += [f"{sensor.key}_{kind}" for kind in kinds]
    return (*GELOS_FIELDS, *OUR_FIELDS, *further)


def chip_files(chip: Mapping[str, Any], config: Config) -> dict[str, str]:
    """Return every file's name in the release, or its shard, by its name in the working folder."""
    chip_id = int(chip["id"])
    files: dict[str, str] = {}
    for key in config.sensors:
        if config.table[key].is_static:
            files[f"{key}.tif"] = static_name(key, chip_id)
            continue
        for date in chip[f"{key}_dates"].split(","):
            for suffix in ("tif", "png"):
                files[f"{key}_{date}.{suffix}"] = series_name(key, chip_id, date, suffix)
    return files


def series_name(key: str, chip_id: int, date: str, suffix: str) -> str:
    """Name a file of one date, ``YYYYMMDD``; its suffix is ``tif`` or ``png``."""
    return f"{key}_{chip_id:06}_{date}.{suffix}"


def static_name(key: str, chip_id: int) -> str:
    """Name the raster of a sensor without dates."""
    return f"{key}_{chip_id:06}.tif"


def item_name(chip_id: int) -> str:
    """Name the file of a chip's STAC item."""
    return f"item_{chip_id:06}.json"


def is_item_name(name: str) -> bool:
    """Tell whether this names the file of a STAC item."""
    return _ITEM_NAME.fullmatch(name) is not None


def chip_id_of(name: str) -> int | None:
    """Return the id in the name of a chip's file; None where it is no such name."""
    match = _CHIP_NAME.search(name)
    return int(match[1]) if match else None


@dataclass(frozen=True)
class Tracker:
    """A tracker whose rows are made as they are asked for: that of many chips is a large table.

    Its fields are :func:`tracker_fields`, further columns of the chips, and ``geometry``
    (EPSG:4326) at last. ``lat`` and ``lon`` are of a chip's centre; a sensor that is not configured
    has empty strings.
    """

    facts: pd.DataFrame
    """All fields but the footprint, and but names of files where those can be made; a row per chip,
    in the order of ids."""
    rows: Callable[[int, int], gpd.GeoDataFrame]
    """Gives all fields of the chips from one place to before another."""
    outlines: Callable[[int, int], NDArray[np.object_]]
    """Gives their footprints."""

    @classmethod
    def of_chips(cls, chips: pd.DataFrame, config: Config, shard_chips: int | None = None) -> Tracker:
        """Return the tracker of numbered chips, which may be some of a release."""
        facts = _facts(chips, config)

        def outlines(first: int, stop: int) -> NDArray[np.object_]:
            return np.asarray(shapely.from_wkt(chips[FOOTPRINT].iloc[first:stop].to_numpy(object)))

        def rows(first: int, stop: int) -> gpd.GeoDataFrame:
            table = _with_files(facts.iloc[first:stop], config, shard_chips)
            return gpd.GeoDataFrame(table, geometry=outlines(first, stop), crs=4326)

        return cls(facts, rows, outlines)

    @classmethod
    def of_table(cls, table: gpd.GeoDataFrame) -> Tracker:
        """Return a tracker that is there."""
        facts, shapes = pd.DataFrame(table.drop(columns="geometry")), table.geometry.to_numpy()
        return cls(facts, lambda first, stop: table.iloc[first:stop], lambda first, stop: shapes[first:stop])

    def __len__(self) -> int:
        """Return how many chips there are."""
        return len(self.facts)

    def parts(self, rows: int = _ROWS_AT_ONCE) -> Iterator[gpd.GeoDataFrame]:
        """Yield all fields of so many chips after the other."""
        for first in range(0, len(self), rows):
            yield self.rows(first, first + rows)

    @cached_property
    def dtypes(self) -> pd.Series:
        """Types of all fields, by name."""
        types: pd.Series = self.rows(0, 1).dtypes
        return types

    @cached_property
    def bounds(self) -> tuple[float, float, float, float]:
        """West, south, east and north of all footprints, degrees."""
        starts = range(0, len(self), _ROWS_AT_ONCE)
        boxes = np.array([shapely.total_bounds(self.outlines(n, n + _ROWS_AT_ONCE)) for n in starts])
        west, south = boxes[:, :2].min(axis=0).tolist()
        east, north = boxes[:, 2:].max(axis=0).tolist()
        return west, south, east, north


def _with_files(facts: pd.DataFrame, config: Config, shard_chips: int | None) -> pd.DataFrame:
    """Return what a tracker tells of chips, with names of files; texts are texts."""
    table = facts.copy()
    texts = [name for name in map(str, table.columns) if table[name].dtype == object]
    table[texts] = table[texts].astype("str")
    for key in config.table.series:
        present = key in config.sensors
        prefix = config.release.thumbnail_url
        table[f"{key}_paths"] = _joined(table, key, "tif", shard_chips) if present else ""
        table[f"{key}_thumbs"] = _joined(table, key, "png", shard_chips, prefix) if present else ""
    for key in config.table.static:
        names = [folder_of(chip_id, shard_chips) + static_name(key, chip_id) for chip_id in table["id"]]
        table[f"{key}_paths"] = names if key in config.sensors else ""
    return table[_in_order(table, config)]


def _facts(chips: pd.DataFrame, config: Config) -> pd.DataFrame:
    """Return what a tracker tells of chips, but for footprints and names of files."""
    table = chips.drop(columns=FOOTPRINT).rename(columns={"chip_index": "original_id"})
    table["lat"], table["lon"] = _centres(table, config)
    table["category"] = table["lulc"].map(CLASS_NAMES)
    table["color"] = table["lulc"].map(CLASS_COLORS).fillna("")
    for key in config.table.series:
        if key not in config.sensors:
            table[f"{key}_dates"] = ""
    table["label"] = labels_of(table["lulc"], config.chips.classes)
    table["lulc"] = table["lulc"].astype(int).astype(str)
    return table[_in_order(table, config)]


def _in_order(table: pd.DataFrame, config: Config) -> list[str]:
    """Return the names of a table's columns in the order of a tracker's fields."""
    first, there = tracker_fields(config.table), list(map(str, table.columns))
    return [name for name in first if name in there] + [name for name in there if name not in first]


def labels_of(codes: pd.Series, classes: Collection[int]) -> list[int]:
    """Return the place of each class code among the classes that a release keeps."""
    order = {code: label for label, code in enumerate(sorted(classes))}
    return [order[int(code)] for code in codes]


def _joined(
    table: pd.DataFrame, key: str, suffix: str, shard_chips: int | None, prefix: str = ""
) -> list[str]:
    start = f"{prefix.rstrip('/')}/" if prefix else ""
    return [
        ",".join(
            start + folder_of(chip_id, shard_chips) + series_name(key, chip_id, date, suffix)
            for date in dates.split(",")
        )
        for chip_id, dates in zip(table["id"], table[f"{key}_dates"], strict=True)
    ]


def _centres(table: pd.DataFrame, config: Config) -> tuple[pd.Series, pd.Series]:
    half = config.chips.sample_size / 2
    lat = pd.Series(0.0, index=table.index)
    lon = pd.Series(0.0, index=table.index)
    for epsg, group in table.groupby("epsg", sort=True):
        x, y = to_lonlat(int(str(epsg))).transform(
            (group["left_m"] + half).to_numpy(dtype=float), (group["top_m"] - half).to_numpy(dtype=float)
        )
        lon[group.index], lat[group.index] = x.round(7), y.round(7)
    return lat, lon


def to_geojson(table: gpd.GeoDataFrame) -> bytes:
    """Write a GeoJSON FeatureCollection, a feature per line; an absent number is null."""
    return b"".join(geojson_pieces([table]))


def geojson_pieces(parts: Iterable[gpd.GeoDataFrame]) -> Iterator[bytes]:
    """Yield the GeoJSON of a table that comes in parts."""
    yield _GEOJSON_HEAD.encode()
    between = ""
    for part in parts:
        features = part.iterfeatures(na="null", drop_id=True)
        lines = ",\n".join(json.dumps(one, ensure_ascii=False, allow_nan=False) for one in features)
        yield f"{between}{lines}".encode()
        between = ",\n"
    yield b"\n]\n}\n"


def to_csv(table: gpd.GeoDataFrame) -> bytes:
    """Write CSV, the footprint as WKT in the last column.

    Without splits it says ``all``: an empty text is a missing number to most readers of CSV.
    """
    return b"".join(csv_pieces([table]))


def csv_pieces(parts: Iterable[gpd.GeoDataFrame]) -> Iterator[bytes]:
    """Yield the CSV of a table that comes in parts."""
    for number, part in enumerate(parts):
        plain = pd.DataFrame(part.drop(columns="geometry"))
        if "split" in plain:
            plain["split"] = plain["split"].replace("", NO_SPLITS)
        plain["geometry"] = shapely.to_wkt(part.geometry.to_numpy(), rounding_precision=-1)
        yield plain.to_csv(index=False, header=number == 0, lineterminator="\n").encode()


def read_tracker(data: bytes) -> gpd.GeoDataFrame:
    """Return the tracker from its GeoJSON, with the types it was written with."""
    collection = json.loads(data)
    if "crs" in collection:  # many readers would believe it
        raise ValueError("it names a CRS; GeoJSON is in EPSG:4326")
    features = collection["features"]
    table = pd.DataFrame([feature["properties"] for feature in features])
    shapes = shapely.from_geojson([json.dumps(feature["geometry"]) for feature in features])
    return gpd.GeoDataFrame(table, geometry=shapes, crs=4326)


def image_names(row: Mapping[str, Any], key: str, recipe: Recipe) -> list[str]:
    """Return the names of a sensor's rasters that a row's id and dates stand for."""
    if key not in recipe.rasters:
        return []
    folder = recipe.folder_of(row["id"])
    if recipe.table[key].is_static:
        return [folder + static_name(key, row["id"])]
    return [folder + series_name(key, row["id"], date, "tif") for date in row[f"{key}_dates"].split(",")]
