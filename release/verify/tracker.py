"""What is wrong with a tracker: its fields, its rows, their places, splits and balance."""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray

from chipping.choose import drop_counts
from chipping.views import CLOUD_SHARE, VIEW_FIELDS, view_columns
from cube.config.sensors import CLASS_COLORS, CLASS_NAMES
from cube.windows.landcover import pixels_needed
from cube.windows.projection import to_lonlat
from release.recipe import Recipe
from release.select import dates_fit
from release.splits import split
from release.tracker import image_names, item_name, labels_of, series_name, static_name, tracker_fields

_INTEGER_FIELDS = ("original_id", "aoi_index", "epsg", "id", "left_m", "top_m", "label")
_NUMBER_FIELDS = ("lat", "lon", "purity")
_FOOTPRINT_TOLERANCE_DEG = 2e-5
_LARGEST_INTEGER = 1 << 53
_UTM_ZONES = {*range(32601, 32661), *range(32701, 32761)}
_DATE_IN_SCENE = re.compile(r"(?<!\d)((?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01]))(?!\d)")


def table_problems(table: gpd.GeoDataFrame, recipe: Recipe) -> Iterator[str]:
    """Yield what is wrong with a tracker's CRS, fields, types, numbering, classes and zones."""
    columns = [str(name) for name in table.columns]
    epsg = None if table.crs is None else table.crs.to_epsg()
    wrong = list(field_problems(columns, epsg, recipe))
    wrong = wrong or list(kind_problems(table, checked_fields(columns, recipe)))
    yield from wrong or number_problems(table, recipe)


def field_problems(columns: Sequence[str], epsg: int | None, recipe: Recipe) -> Iterator[str]:
    """Yield what is wrong with a tracker's CRS and the names of its fields."""
    expected = list(tracker_fields(recipe.table))
    if epsg != 4326:
        yield f"its CRS is {epsg}, expected 4326"
    elif list(columns[: len(expected)]) != expected or columns[-1] != "geometry":
        missing = [name for name in expected if name not in columns] or ["their order"]
        yield f"its fields are not those of a tracker: {missing[0]}"


def checked_fields(columns: Sequence[str], recipe: Recipe) -> list[str]:
    """Return the fields of a tracker that are checked."""
    views = set(view_columns(recipe.table))
    return [*tracker_fields(recipe.table), *(name for name in columns if name in views)]


def kind_problems(table: pd.DataFrame, fields: Sequence[str]) -> Iterator[str]:
    """Yield the first of some fields whose values are not all of their kind."""
    for name in fields:
        kind = "integer" if name in _INTEGER_FIELDS else "number" if name in _NUMBER_FIELDS else "text"
        if not _is_all(table[name], kind):
            yield f"field {name} is not all {kind}"
            return


def _is_all(column: pd.Series, kind: str) -> bool:
    """Tell whether values are all of a kind; by their dtype, where that says so."""
    if kind == "text" and isinstance(column.dtype, pd.StringDtype):
        return not column.isna().any()
    if kind != "text" and column.dtype == np.int64:
        return bool(column.between(-_LARGEST_INTEGER, _LARGEST_INTEGER, inclusive="neither").all())
    return all(_is_kind(value, kind) for value in column)


def number_problems(table: pd.DataFrame, recipe: Recipe) -> Iterator[str]:
    """Yield what is wrong with the numbering, classes and zones of all of a tracker."""
    if table["id"].tolist() != list(range(len(table))):
        yield "ids are not 0 to n-1 in order"
    if not table["original_id"].is_monotonic_increasing or not table["original_id"].is_unique:
        yield "original_id does not rise with id"
    if not table["cell"].is_unique:
        yield f"cell {table.loc[table['cell'].duplicated(), 'cell'].iloc[0]} is there twice"
    if unknown := sorted(set(table["lulc"]) - {str(code) for code in recipe.chips.classes}):
        yield f"class {unknown[0]} is not among those kept"
    elif table["label"].tolist() != labels_of(table["lulc"], recipe.chips.classes):
        yield "label is not the place of the class among those kept"
    if unknown_zones := sorted(set(table["epsg"]) - _UTM_ZONES):
        yield f"epsg {unknown_zones[0]} is no UTM zone"


def _is_kind(value: object, kind: str) -> bool:
    if kind == "text":
        return isinstance(value, str)
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        return abs(int(value)) < _LARGEST_INTEGER
    return bool(kind == "number" and isinstance(value, float) and math.isfinite(value))


def row_problems(table: gpd.GeoDataFrame, recipe: Recipe) -> Iterator[str]:
    """Yield what is wrong with rows of a table of which :func:`table_problems` says nothing."""
    places = _position_problems(table, recipe)
    for row, place in zip(checked_rows(table, recipe), places, strict=True):
        for text in itertools.chain(_field_problems(row, recipe), place):
            yield f"chip {row['id']}: {text}"


def checked_rows(table: gpd.GeoDataFrame, recipe: Recipe) -> list[dict[str, Any]]:
    """Return the fields that are checked of each row."""
    fields = checked_fields([str(name) for name in table.columns], recipe)
    rows: list[dict[str, Any]] = table[fields].to_dict("records")
    return rows


def _field_problems(row: Mapping[str, Any], recipe: Recipe) -> Iterator[str]:
    if row["status"] != "success":
        yield f"status is {row['status']!r}"
    if row["cell"] != f"{row['epsg']}_{row['left_m']}_{row['top_m']}":
        yield f"cell {row['cell']} is not its epsg, left_m and top_m"
    code = int(row["lulc"])
    if (row["category"], row["color"]) != (CLASS_NAMES[code], CLASS_COLORS.get(code, "")):
        yield f"category {row['category']!r} or color {row['color']!r} is not that of class {code}"
    for key in recipe.table:
        yield from _sensor_problems(row, key, recipe)


def _sensor_problems(row: Mapping[str, Any], key: str, recipe: Recipe) -> Iterator[str]:
    yield from _names_problem(row, f"{key}_paths", image_names(row, key, recipe))
    if recipe.table[key].is_static:
        return
    yield from _names_problem(row, f"{key}_thumbs", _picture_names(row, key, recipe))
    dates = row[f"{key}_dates"]
    if key not in recipe.rasters:
        if dates:
            yield f"{key}_dates is {dates!r}, but the release has no {key}"
        return
    if not dates_fit(dates, recipe.ranges):
        yield f"{key}_dates {dates!r} are not one per time range"
        return
    groups = row[f"{key}_scene_ids"].split(",")
    if len(groups) != len(recipe.ranges):
        yield f"{key}_scene_ids has {len(groups)} entries for {len(recipe.ranges)} dates"
        return
    for date, group in zip(dates.split(","), groups, strict=True):
        days = set(_DATE_IN_SCENE.findall(group.replace("T", "_").replace("t", "_")))
        if days and date not in days:
            yield f"{key}_dates {date} is not the day of its scene {group}"
    yield from _view_problems(row, key, recipe)


def _view_problems(row: Mapping[str, Any], key: str, recipe: Recipe) -> Iterator[str]:
    """Check how scenes were taken; a tracker of an older version does not say."""
    for field in VIEW_FIELDS:
        column = field.column(key)
        text = row.get(column, "")
        entries = text.split(",")
        if text and len(entries) != len(recipe.ranges):
            yield f"{column} has {len(entries)} entries for {len(recipe.ranges)} dates"
        elif wrong := [entry for entry in entries if not field.is_right(entry)]:
            yield f"{column} {wrong[0]!r} is none"
        elif field is CLOUD_SHARE and text:
            side_px = recipe.chips.sample_size // recipe.rasters[key].resolution
            yield from _cloud_problems(entries, side_px**2, key, recipe)


def _cloud_problems(entries: Sequence[str], pixels: int, key: str, recipe: Recipe) -> Iterator[str]:
    """Compare cloud shares with the clear shares that the settings ask for, in whole pixels."""
    for index, entry in enumerate(entries):
        asked = recipe.chips.threshold("min_clear", key, index)
        if entry and round((1 - float(entry)) * pixels) < pixels_needed(asked, pixels):
            yield f"{CLOUD_SHARE.column(key)} {entry} is more than min_clear {asked:g} lets through"


def _names_problem(row: Mapping[str, Any], field: str, expected: Sequence[str]) -> Iterator[str]:
    if row[field] != ",".join(expected):
        yield f"{field} is {row[field]!r}, expected {','.join(expected)!r}"


def _picture_names(row: Mapping[str, Any], key: str, recipe: Recipe) -> list[str]:
    if key not in recipe.rasters:
        return []
    prefix = recipe.release.thumbnail_url.rstrip("/")
    start = (f"{prefix}/" if prefix else "") + recipe.folder_of(row["id"])
    return [start + series_name(key, row["id"], date, "png") for date in row[f"{key}_dates"].split(",")]


def chip_names(row: Mapping[str, Any], recipe: Recipe) -> Iterator[str]:
    """Yield the names of the files that a row stands for, in the release or the chip's shard."""
    yield item_name(row["id"])
    for key in recipe.rasters:
        if recipe.table[key].is_static:
            yield static_name(key, row["id"])
            continue
        for date in filter(None, row[f"{key}_dates"].split(",")):
            yield from (series_name(key, row["id"], date, suffix) for suffix in ("tif", "png"))


def _position_problems(table: gpd.GeoDataFrame, recipe: Recipe) -> list[list[str]]:
    """Return, for each row, what is wrong with its position and footprint."""
    found: list[list[str]] = [[] for _ in range(len(table))]
    shapes = table.geometry.to_numpy()
    for epsg in sorted(set(table["epsg"])):
        places = np.flatnonzero(table["epsg"].to_numpy() == epsg)
        part = table.iloc[places]
        for place, row, (lons, lats) in zip(
            places, checked_rows(part, recipe), _corners(part, int(epsg), recipe), strict=True
        ):
            found[place] = list(_footprint_problems(row, shapes[place], lons, lats))
    return found


def _corners(
    part: gpd.GeoDataFrame, epsg: int, recipe: Recipe
) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Yield the longitudes and latitudes of each chip's centre and four corners."""
    side, margin = recipe.chips.chip_size, recipe.chips.margin_m
    left = part["left_m"].to_numpy(dtype=float)[:, None] - margin
    top = part["top_m"].to_numpy(dtype=float)[:, None] + margin
    east, south = np.array([0.5, 0, 0, 1, 1]) * side, np.array([0.5, 0, 1, 1, 0]) * side
    yield from zip(*to_lonlat(epsg).transform(left + east, top - south), strict=True)


def _footprint_problems(
    row: Mapping[str, Any], shape: Any, lons: NDArray[np.float64], lats: NDArray[np.float64]
) -> Iterator[str]:
    if max(abs(lons[0] - row["lon"]), abs(lats[0] - row["lat"])) > _FOOTPRINT_TOLERANCE_DEG:
        yield f"lat, lon {row['lat']}, {row['lon']} are not the chip's centre {lats[0]:.6f}, {lons[0]:.6f}"
    found = shapely.get_coordinates(shape)
    corners = np.column_stack([lons[1:], lats[1:]])
    apart = np.abs(corners[:, None, :] - found[None, :, :])
    # Beyond the antimeridian, too.
    apart[..., 0] = np.minimum(apart[..., 0], np.abs(apart[..., 0] - 360))
    distances = apart.max(axis=2)
    if (
        not len(found)
        or max(distances.min(axis=0).max(), distances.min(axis=1).max()) > _FOOTPRINT_TOLERANCE_DEG
    ):
        yield "its footprint is not the chip's square"


def split_problems(table: pd.DataFrame, recipe: Recipe) -> list[str]:
    """Return what is wrong with the splits of all chips, by their places, classes and splits."""
    settings = recipe.release
    if not settings.splits:
        return [f"chip {i}: has a split, but none were made" for i in table.loc[table["split"] != "", "id"]]
    boxes = pd.DataFrame(table[["epsg"]]).assign(
        left_m=table["left_m"] - recipe.chips.margin_m,
        top_m=table["top_m"] + recipe.chips.margin_m,
        lulc=table["lulc"].astype(int),
    )
    again = split(boxes, settings.splits, settings.block_m, recipe.chips.chip_size, settings.seed)
    return [
        f"chip {row_id}: split is {found!r}, its block's is {expected!r}"
        for row_id, found, expected in zip(table["id"], table["split"], again, strict=True)
        if found != expected
    ]


def balance_problems(table: pd.DataFrame, recipe: Recipe) -> Iterator[str]:
    """Yield what is wrong with the numbers of chips of each class."""
    found = Counter(int(code) for code in table["lulc"])
    factor = recipe.sampling_factor
    drops = drop_counts(recipe.before, factor) if factor else dict.fromkeys(recipe.before, 0)
    for code, count in recipe.before.items():
        if found[code] != count - drops[code]:
            yield f"class {code} has {found[code]} chips, expected {count - drops[code]}"
    if factor and found and max(found.values()) > factor * min(found.values()):
        counts = f"{max(found.values())} and {min(found.values())}"
        yield f"classes are not balanced: {counts} chips, sampling_factor {factor}"
