"""Counts and settings of a release, as the report lays them out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

import pandas as pd

from cube.build.overview import lost_scenes
from cube.config.aoi import aoi_label
from cube.config.sensors import CLASS_COLORS, CLASS_NAMES
from cube.run.status import AoiStatus
from release.card import SPLIT_NOTE, Row
from release.recipe import Recipe
from release.select import Selection

_MAX_AOI_ROWS = 500
_OPEN_AOI_ROWS = 20
"""Longer tables are folded."""

Asked = Literal["min_valid", "min_clear"]
Values = dict[str, Any]
"""What the template lays out: plain values and drawings, by the names it knows them under."""


def overview_facts(
    selection: Selection, chips: pd.DataFrame, aois: Mapping[str, Any] | None, recipe: Recipe
) -> dict[str, str]:
    """Return the few numbers that a report begins with."""
    factor = recipe.sampling_factor
    areas = len((aois or {}).get("features", []))
    return {
        "chips": f"{len(chips):,}",
        "areas with chips": f"{chips['aoi_index'].nunique():,}" + (f" of {areas:,}" if areas else ""),
        "classes": str(sum(1 for count in selection.after.values() if count)),
        "windows scored": f"{selection.windows:,}",
        "chip side": f"{recipe.chips.chip_size} m",
        "time ranges": str(len(recipe.ranges)),
        "UTM zones": str(chips["epsg"].nunique()),
        "largest : smallest class": f"at most {factor} : 1" if factor else "not balanced",
    }


def thresholds(recipe: Recipe) -> Iterator[tuple[str, str]]:
    """Yield each threshold that chips were chosen by, and its value."""
    chips, config = recipe.chips, recipe.config
    yield "classes", ", ".join(f"{code} {CLASS_NAMES[code]}" for code in sorted(chips.classes))
    yield "forbidden", ", ".join(f"{code} {CLASS_NAMES[code]}" for code in sorted(chips.forbidden)) or "none"
    yield "least purity", f"{chips.min_purity:g}"
    kinds: tuple[tuple[Asked, str], ...] = (("min_valid", "valid"), ("min_clear", "clear"))
    for which, word in kinds:
        for key in recipe.rasters if which == "min_valid" else recipe.series:
            asked = asked_shares(recipe, which, key)
            if which == "min_valid" or (config[key].get("cloud_band") and any(asked)):
                yield f"least {word} share, {key}", ", ".join(f"{share:g}" for share in dict.fromkeys(asked))
    yield "most chips of a class and area", str(chips.max_per_class or "any number")
    for key in recipe.series:
        for name, sign in (("cloud_cover", "<"), ("nodata_pixel_percentage", "<"), ("delta_days", "≤")):
            if config[key].get(name) is not None:
                yield f"{key} {name.replace('_', ' ')}", f"{sign} {config[key][name]:g}"


def asked_shares(recipe: Recipe, which: Asked, key: str) -> list[float]:
    """Return the share asked of each date of a sensor."""
    dates = 1 if recipe.table[key].is_static else len(recipe.ranges)
    return [recipe.chips.threshold(which, key, index) for index in range(dates)]


def class_counts_by_area(chips: pd.DataFrame) -> Values:
    """Count the chips of each class in each area."""
    counts = pd.crosstab(chips["aoi_index"], chips["lulc"].astype(int))
    codes = sorted(counts.columns)
    one_each = chips.drop_duplicates("aoi_index").to_dict("records")
    names = {row["aoi_index"]: area_of({str(name): row[name] for name in row}) for row in one_each}
    rows = [
        (names[area], *(f"{counts.loc[area, code]:,}" for code in codes), f"{counts.loc[area].sum():,}")
        for area in sorted(counts.index)
    ]
    total = ("all", *(f"{counts[code].sum():,}" for code in codes), f"{len(chips):,}")
    return {
        "names": [CLASS_NAMES[int(code)] for code in codes],
        "rows": rows,
        "total": total,
        "is_open": len(rows) <= _OPEN_AOI_ROWS,
    }


def raster_rows(recipe: Recipe) -> list[Row]:
    """Return what each sensor's rasters are."""
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


def color_of(code: int) -> str:
    """Return a class's colour; grey for one without."""
    return CLASS_COLORS.get(code, "#888")


def aoi_called(facts: Mapping[str, Any]) -> str:
    """Return an AOI's number and, if its file gives it one, its name or id."""
    return aoi_label(int(facts.get("aoi_index", -1)), str(facts.get("name") or facts.get("id") or ""))


def area_of(row: Mapping[str, Any]) -> str:
    """Return what a chip's AOI is called."""
    return aoi_called({"aoi_index": row["aoi_index"], "name": row.get("aoi_name") or row.get("aoi_id")})


def class_bars(selection: Selection) -> list[Values]:
    """Count the chips of each class before balancing and after."""
    top = max(selection.before.values(), default=1) or 1
    total = sum(selection.after.values()) or 1
    return [
        {
            "code": code,
            "name": CLASS_NAMES[code],
            "color": color_of(code),
            "before": before,
            "before_width": before / top,
            "chips": selection.after[code],
            "width": selection.after[code] / top,
            "share": selection.after[code] / total,
        }
        for code, before in selection.before.items()
    ]


def split_counts(chips: pd.DataFrame) -> Values:
    """Count the chips of each class in each split; nothing where there are no splits."""
    names = sorted(set(chips["split"]) - {""})
    if not names:
        return {}
    counts = pd.crosstab(chips["lulc"], chips["split"])
    rows = [
        (CLASS_NAMES[int(code)], *(f"{counts.loc[code, name]:,}" for name in names))
        for code in sorted(counts.index, key=int)
    ]
    total = ("all", *(f"{counts[name].sum():,}" for name in names))
    return {"note": SPLIT_NOTE, "names": names, "rows": rows, "total": total}


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


def meaning_of(verdict: str) -> str:
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


def funnel_bars(selection: Selection) -> list[Values]:
    """Count windows by what ended their way, each with its meaning and its place in the browser."""
    steps: list[tuple[str, int, str, int | None]] = [("windows scored", selection.windows, "kept", None)]
    steps += [(name, count, "lost", place) for place, (name, count) in enumerate(selection.funnel, start=1)]
    steps.append(("chips in the release", len(selection.chips), "kept", 0))
    return [
        {
            "name": name,
            "meaning": meaning_of(name),
            "windows": count,
            "share": count / selection.windows,
            "kind": kind,
            "verdict": verdict,
        }
        for name, count, kind, verdict in steps
    ]


def area_outcomes(aois: Mapping[str, Any] | None, with_chips: int) -> Values:
    """Count areas by what became of them; name those that gave nothing, and the scenes lost."""
    facts = [feature.get("properties") or {} for feature in (aois or {}).get("features", [])]
    if not facts:
        return {}
    counts = Counter(str(one.get("status", "unknown")) for one in facts)
    lost = _lost_rows(facts)
    fallen = [one for one in facts if one.get("status") in ("skipped", "failed")]
    rows = [(aoi_called(one), one["status"], one.get("reason") or "") for one in fallen[:_MAX_AOI_ROWS]]
    return {
        "total": len(facts),
        "states": [f"{count} {status}" for status, count in sorted(counts.items())],
        "fallen": rows,
        "more": len(fallen) - len(rows),
        "is_open": len(rows) <= _OPEN_AOI_ROWS,
        "with_chips": with_chips,
        "lost": lost[:_MAX_AOI_ROWS],
        "more_lost": max(len(lost) - _MAX_AOI_ROWS, 0),
    }


def _lost_rows(facts: Iterable[Mapping[str, Any]]) -> list[Row]:
    """Return the scenes that areas do without: item, asset, cause, and the areas."""
    rows = {int(one.get("aoi_index", -1)): AoiStatus(lost=one.get("lost") or []) for one in facts}
    return [
        (one["item"], one["asset"], one["cause"], ", ".join(map(aoi_label, one["aois"])))
        for one in lost_scenes(rows)
    ]
