"""The report: one HTML page that needs no network and shows what is in a release, and why."""

from __future__ import annotations

import base64
import calendar
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from importlib.metadata import version as program_version
from typing import Any, Literal

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from shapely.geometry import shape

from chipping.thumbnails import layer_png
from cube.config.sensors import CLASS_COLORS, CLASS_NAMES
from cube.lots import lot

from . import svg
from .card import SPLIT_NOTE, Row
from .recipe import Recipe
from .select import Selection
from .templates import fill_template

REPORT_NAME = "report.html"
_GALLERY = 3
"""Chips per class that are shown."""
_BINS = 24
_HIDES = 10
"""One bar that is so many times the next hides the rest: heights are logarithms then."""
_MAX_AOI_ROWS = 500
_OPEN_AOI_ROWS = 20
"""Longer tables are folded."""

_Asked = Literal["min_valid", "min_clear"]
Values = dict[str, Any]
"""What the template lays out: plain values and drawings, by the names it knows them under."""


@dataclass(frozen=True)
class Thumbnails:
    """Pictures of a release's files, for a page that holds them."""

    read: Callable[[str], bytes]
    """Gives a file of the release by name."""

    def png(self, name: str) -> bytes:
        """Return a PNG: the file itself, or a raster drawn (classes coloured, heights grey)."""
        data = self.read(name)
        return data if name.endswith(".png") else layer_png(data, is_classes=name.startswith("lulc_"))


def make_report(
    selection: Selection,
    tracker: gpd.GeoDataFrame,
    measures: pd.DataFrame,
    aois: Mapping[str, Any] | None,
    recipe: Recipe,
    thumbnails: Thumbnails,
    files: Sequence[str],
) -> bytes:
    """Write the page.

    `measures` are of every window scored, `aois` what ``aoi_metadata.geojson`` holds, if it is
    there, and `files` the names of all files of the release.
    """
    sections = {
        "overview": {
            "facts": _overview_facts(selection, tracker, recipe),
            "program": f"Made by gelos-lc {program_version('gelos-lc')}",
            "warnings": selection.warnings,
            "thresholds": list(_thresholds(recipe)),
            "sensors": _raster_rows(recipe),
        },
        "where": _map(tracker, aois),
        "classes": _classes(selection),
        "by_area": _by_area(tracker),
        "splits": _split_counts(tracker),
        "dates": _dates(tracker, recipe),
        "shares": _shares(tracker, measures, recipe),
        "funnel": _funnel(selection),
        "areas": _areas(aois),
        "gallery": _gallery(tracker, recipe, thumbnails),
        "files": files,
    }
    return fill_template("report.html.j2", name=f"{recipe.name} {recipe.version}", sections=sections)


def _overview_facts(selection: Selection, tracker: gpd.GeoDataFrame, recipe: Recipe) -> dict[str, str]:
    factor = recipe.sampling_factor
    return {
        "chips": f"{len(tracker):,}",
        "areas with chips": f"{tracker['aoi_index'].nunique():,}",
        "classes": str(sum(1 for count in selection.after.values() if count)),
        "windows scored": f"{selection.windows:,}",
        "chip side": f"{recipe.chips.chip_size} m",
        "time ranges": str(len(recipe.ranges)),
        "UTM zones": str(tracker["epsg"].nunique()),
        "largest : smallest class": f"at most {factor} : 1" if factor else "not balanced",
    }


def _thresholds(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Yield each threshold that chips were chosen by, and its value."""
    chips, config = recipe.chips, recipe.config
    yield "classes", ", ".join(f"{code} {CLASS_NAMES[code]}" for code in sorted(chips.classes))
    yield "forbidden", ", ".join(f"{code} {CLASS_NAMES[code]}" for code in sorted(chips.forbidden)) or "none"
    yield "least purity", f"{chips.min_purity:g}"
    kinds: tuple[tuple[_Asked, str], ...] = (("min_valid", "valid"), ("min_clear", "clear"))
    for which, word in kinds:
        for key in recipe.rasters if which == "min_valid" else recipe.series:
            asked = _asked(recipe, which, key)
            if which == "min_valid" or (config[key].get("cloud_band") and any(asked)):
                yield f"least {word} share, {key}", ", ".join(f"{share:g}" for share in dict.fromkeys(asked))
    yield "most chips of a class and area", str(chips.max_per_class or "any number")
    for key in recipe.series:
        for name, sign in (("cloud_cover", "<"), ("nodata_pixel_percentage", "<"), ("delta_days", "≤")):
            if config[key].get(name) is not None:
                yield f"{key} {name.replace('_', ' ')}", f"{sign} {config[key][name]:g}"


def _asked(recipe: Recipe, which: _Asked, key: str) -> list[float]:
    """Return the share asked of each date of a sensor."""
    dates = 1 if recipe.table[key].is_static else len(recipe.ranges)
    return [recipe.chips.threshold(which, key, index) for index in range(dates)]


def _by_area(tracker: gpd.GeoDataFrame) -> Values:
    """Count the chips of each class in each area."""
    counts = pd.crosstab(tracker["aoi_index"], tracker["lulc"].astype(int))
    codes = sorted(counts.columns)
    one_each = tracker.drop_duplicates("aoi_index").drop(columns="geometry").to_dict("records")
    names = {row["aoi_index"]: _chip_area(row) for row in one_each}
    rows = [
        (names[area], *(f"{counts.loc[area, code]:,}" for code in codes), f"{counts.loc[area].sum():,}")
        for area in sorted(counts.index)
    ]
    total = ("all", *(f"{counts[code].sum():,}" for code in codes), f"{len(tracker):,}")
    return {
        "names": [CLASS_NAMES[int(code)] for code in codes],
        "rows": rows,
        "total": total,
        "is_open": len(rows) <= _OPEN_AOI_ROWS,
    }


def _raster_rows(recipe: Recipe) -> list[Row]:
    return [
        (
            f"{recipe.table[key].title} ({key})",
            ", ".join(spec.bands),
            f"{spec.resolution}\N{NO-BREAK SPACE}m",
            f"{spec.size_px}\N{NO-BREAK SPACE}x\N{NO-BREAK SPACE}{spec.size_px}",
            spec.dtype,
        )
        for key, spec in recipe.rasters.items()
    ]


def _map(tracker: gpd.GeoDataFrame, aois: Mapping[str, Any] | None) -> Values:
    outlines = list(_aoi_outlines(aois))
    bounds = np.array([tracker.total_bounds, *(geometry.bounds for geometry, _, _ in outlines)])
    west, south = (float(v) for v in bounds[:, :2].min(axis=0))
    east, north = (float(v) for v in bounds[:, 2:].max(axis=0))
    frame = svg.map_frame((west, south, east, north))
    drawing = [svg.graticule(frame)]
    drawing += [svg.outline(frame, geometry, css, title) for geometry, css, title in outlines]
    drawing += [svg.square(*mark) for mark in _chip_marks(tracker, frame)]
    present = set(tracker["lulc"])
    return {
        "drawing": svg.picture(960, frame.height, "".join(drawing), "Map of chips and areas of interest"),
        "classes": [(_color(code), name) for code, name in CLASS_NAMES.items() if str(code) in present],
        "has_areas": bool(outlines),
    }


def _color(code: int) -> str:
    return CLASS_COLORS.get(code, "#888")


def _aoi_outlines(aois: Mapping[str, Any] | None) -> Iterator[tuple[shapely.Geometry, str, str]]:
    """Yield each AOI's outline, the CSS class of its line, and what a reader is told of it."""
    for feature in (aois or {}).get("features", []):
        if not feature.get("geometry"):
            continue
        facts = feature.get("properties") or {}
        css = "aoi" if facts.get("status") in ("built", "building", "pending", None) else "aoi bad"
        yield shape(feature["geometry"]), css, f"AOI {_aoi_called(facts)}: {facts.get('status', '')}"


def _aoi_called(facts: Mapping[str, Any]) -> str:
    """Return an AOI's number and, if its file gives it one, its name or id."""
    name = facts.get("name") or facts.get("id")
    index = facts.get("aoi_index", "?")
    return f"{index} ({name})" if name else str(index)


def _chip_area(row: Mapping[str, Any]) -> str:
    """Return what a chip's AOI is called."""
    return _aoi_called({"aoi_index": row["aoi_index"], "name": row.get("aoi_name") or row.get("aoi_id")})


def _chip_marks(tracker: gpd.GeoDataFrame, frame: svg.Frame) -> Iterator[tuple[float, float, str, str]]:
    """Yield place, colour and title of the squares that stand for chips.

    They lie on a raster of half a drawing unit: chips of one class that would cover each other are
    drawn once.
    """
    seen: Counter[tuple[float, float, str, str]] = Counter()
    for lon, lat, color, name in zip(
        tracker["lon"], tracker["lat"], tracker["color"], tracker["category"], strict=True
    ):
        x, y = frame.point(lon, lat)
        seen[round(x * 2) / 2, round(y * 2) / 2, color or "#888", name] += 1
    for (x, y, color, name), count in sorted(seen.items()):
        yield x, y, color, f"{name}: {count}"


def _classes(selection: Selection) -> list[Values]:
    top = max(selection.before.values(), default=1) or 1
    total = sum(selection.after.values()) or 1
    return [
        {
            "code": code,
            "name": CLASS_NAMES[code],
            "color": _color(code),
            "before": before,
            "before_width": before / top,
            "chips": selection.after[code],
            "width": selection.after[code] / top,
            "share": selection.after[code] / total,
        }
        for code, before in selection.before.items()
    ]


def _split_counts(tracker: gpd.GeoDataFrame) -> Values:
    names = sorted(set(tracker["split"]) - {""})
    if not names:
        return {}
    counts = pd.crosstab(tracker["lulc"], tracker["split"])
    rows = [
        (CLASS_NAMES[int(code)], *(f"{counts.loc[code, name]:,}" for name in names))
        for code in sorted(counts.index, key=int)
    ]
    total = ("all", *(f"{counts[name].sum():,}" for name in names))
    return {"note": SPLIT_NOTE, "names": names, "rows": rows, "total": total}


def _dates(tracker: gpd.GeoDataFrame, recipe: Recipe) -> Values:
    if not recipe.ranges:
        return {}
    first, last = recipe.ranges[0].start.date(), recipe.ranges[-1].end.date()
    months = _month(last) - _month(first) + 1

    def place(day: date) -> float:
        """Return where a day lies among the months, 0 to 1."""
        whole = calendar.monthrange(day.year, day.month)[1]
        return (_month(day) - _month(first) + (day.day - 1) / whole) / months

    edges = [
        (place(r.start.date()), place(r.end.date() + timedelta(days=1)), str(number))
        for number, r in enumerate(recipe.ranges, start=1)
    ]
    sensors = []
    for key in recipe.series:
        found = [_day(text) for joined in tracker[f"{key}_dates"] for text in joined.split(",")]
        counts = Counter(_month(day) - _month(first) for day in found)
        drawing = svg.strip([counts.get(month, 0) for month in range(months)], edges, f"Dates of {key}")
        rows = list(_season_rows(tracker, key))
        sensors.append({"title": recipe.table[key].title, "drawing": drawing, "rows": rows})
    return {"ranges": [str(period).split("/") for period in recipe.ranges], "sensors": sensors}


def _month(day: date) -> int:
    """Return the months since the year 0."""
    return 12 * day.year + day.month


def _day(text: str) -> date:
    return datetime.strptime(text, "%Y%m%d").replace(tzinfo=UTC).date()


def _season_rows(tracker: gpd.GeoDataFrame, key: str) -> Iterator[Row]:
    """Yield number, count of dates, and earliest, median and latest date of each time range."""
    columns = zip(*(text.split(",") for text in tracker[f"{key}_dates"]), strict=True)
    for number, dates in enumerate(columns, start=1):
        ordered = sorted(map(_day, dates))
        yield number, len(set(dates)), ordered[0], ordered[len(dates) // 2], ordered[-1]


def _shares(tracker: gpd.GeoDataFrame, measures: pd.DataFrame, recipe: Recipe) -> Values:
    """Draw each measure of all windows and of the chips; name those that never differ."""
    figures, constant = [], []
    for name in tracker.columns.intersection(measures.columns, sort=False):
        values, everything = _numbers(tracker[name]), _numbers(measures[name])
        if not len(values):
            continue
        if everything.min() == everything.max():
            constant.append(f"{name} ({everything[0]:g})")
            continue
        ends = float(min(everything.min(), 0)), float(max(everything.max(), 1))
        asked = _threshold_of(str(name), recipe)
        figures.append(
            {
                "name": name,
                "low": ends[0],
                "high": ends[1],
                "asked": "" if asked is None else f"{asked:g}",
                "windows": _histogram(everything, ends, name, "bar pale", asked),
                "chips": _histogram(values, ends, name, "bar", asked),
            }
        )
    return {"figures": figures, "constant": constant} if figures or constant else {}


def _threshold_of(name: str, recipe: Recipe) -> float | None:
    """Return the least value of a measure that chips were asked for; None where there is none."""
    if name == "purity":
        return recipe.chips.min_purity
    key, _, which = name.partition("_")
    if key not in recipe.rasters or which not in ("min_valid", "min_clear"):
        return None
    if which == "min_clear" and not recipe.config[key].get("cloud_band"):
        return None
    return min(_asked(recipe, "min_valid" if which == "min_valid" else "min_clear", key))


def _histogram(
    values: np.ndarray[Any, Any], ends: tuple[float, float], name: str, css: str, asked: float | None
) -> Values:
    """Draw a histogram; its heights are logarithms where one bar would hide the rest."""
    counts = np.histogram(values, bins=_BINS, range=ends)[0].tolist()
    others = sorted(count for count in counts if count)[:-1]
    is_log = bool(others) and max(counts) > _HIDES * max(others)
    mark = None if asked is None else (asked - ends[0]) / (ends[1] - ends[0])
    return {
        "top": max(counts),
        "is_log": is_log,
        "drawing": svg.histogram(counts, name, css, mark=mark, is_log=is_log),
    }


def _numbers(column: pd.Series) -> np.ndarray[Any, Any]:
    """Return the values of a column of numbers, or of comma-joined numbers; none for other text."""
    if pd.api.types.is_numeric_dtype(column):
        return column.dropna().to_numpy(dtype=float)
    joined = ",".join(column.dropna().astype(str))
    values = pd.to_numeric(pd.Series([text for text in joined.split(",") if text]), errors="coerce")
    return values.to_numpy(dtype=float) if len(values) and values.notna().all() else np.array([])


_MEANINGS = {
    "windows scored": "every square of the cubes",
    "nodata": "land cover without data in the sample window",
    "forbidden_class": "a pixel of a class that is forbidden",
    "impure": "the majority class has too small a share",
    "class_excluded": "the majority class is not one of those kept",
    "not_fetched": "imagery was left out, since land cover ruled the window out",
    "duplicate": "another chip shows the same place",
    "capped": "its class had enough chips in its area; which go is drawn by lot",
    "unbalanced": "its class gave up chips, so that no class is too large",
    "chips in the release": "what is left",
}


def _meaning(verdict: str) -> str:
    """Return what a verdict, or a step of the funnel, says of its windows."""
    if verdict in _MEANINGS:
        return _MEANINGS[verdict]
    sensor, _, what = verdict.rpartition("_")
    kinds = {
        "missing": f"too few pixels of {sensor} have data on some date",
        "cloudy": f"too few pixels of {sensor} are clear on some date",
        "dates": f"not one date of {sensor} in each time range",
    }
    return kinds.get(what, "")


def _funnel(selection: Selection) -> list[Values]:
    steps = [("windows scored", selection.windows, "kept")]
    steps += [(name, count, "lost") for name, count in selection.funnel]
    steps.append(("chips in the release", len(selection.chips), "kept"))
    return [
        {
            "name": name,
            "meaning": _meaning(name),
            "windows": count,
            "share": count / selection.windows,
            "kind": kind,
        }
        for name, count, kind in steps
    ]


def _areas(aois: Mapping[str, Any] | None) -> Values:
    facts = [feature.get("properties") or {} for feature in (aois or {}).get("features", [])]
    if not facts:
        return {}
    counts = Counter(str(one.get("status", "unknown")) for one in facts)
    fallen = [one for one in facts if one.get("status") in ("skipped", "failed")]
    rows = [(_aoi_called(one), one["status"], one.get("reason") or "") for one in fallen[:_MAX_AOI_ROWS]]
    return {
        "total": len(facts),
        "states": [f"{count} {status}" for status, count in sorted(counts.items())],
        "fallen": rows,
        "more": len(fallen) - len(rows),
        "is_open": len(rows) <= _OPEN_AOI_ROWS,
    }


def _gallery(tracker: gpd.GeoDataFrame, recipe: Recipe, thumbnails: Thumbnails) -> list[Values]:
    """Draw some chips of every class by lot."""
    classes = []
    for code in sorted(set(tracker["lulc"]), key=int):
        group = tracker[tracker["lulc"] == code]
        lots = group["cell"].map(lambda cell: lot(recipe.release.seed, "gallery", cell))
        drawn = group.loc[lots.sort_values(kind="stable").index[:_GALLERY]].sort_values("id")
        chips = [
            {
                "id": row["id"],
                "aoi": _chip_area(row),
                "lat": row["lat"],
                "lon": row["lon"],
                "rows": list(_picture_rows(row, recipe, thumbnails)),
            }
            for row in drawn.to_dict("records")
        ]
        classes.append({"name": CLASS_NAMES[int(code)], "chips": chips})
    return classes


def _picture_rows(row: Mapping[str, Any], recipe: Recipe, thumbnails: Thumbnails) -> Iterator[list[Values]]:
    """Yield the pictures of each sensor's dates, and then those of all layers without dates."""
    for key in recipe.series:
        names = [path.removesuffix("tif") + "png" for path in row[f"{key}_paths"].split(",")]
        days = [str(_day(text)) for text in row[f"{key}_dates"].split(",")]
        yield [_picture(name, key, day, thumbnails) for name, day in zip(names, days, strict=True)]
    layers = [key for key in recipe.rasters if key not in recipe.series]
    yield [_picture(row[f"{key}_paths"], key, "", thumbnails) for key in layers]


def _picture(file: str, sensor: str, day: str, thumbnails: Thumbnails) -> Values:
    data = base64.b64encode(thumbnails.png(file)).decode()
    return {"file": file, "sensor": sensor, "day": day, "base64": data}
