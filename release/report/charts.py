"""Charts of a release: dates by month, and histograms of purity, clear and valid shares."""

from __future__ import annotations

import calendar
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd

from cube.html import svg
from release.card import Row
from release.recipe import Recipe
from release.windows import PLACE_COLUMNS, Measures

from .facts import Values, asked_shares

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_BINS = 24
_HIDES = 10
"""One bar that is so many times the next hides the rest: heights are logarithms then."""
_TEXTS_AT_ONCE = 10_000
"""Texts of numbers that are read at once."""


def date_charts(chips: pd.DataFrame, recipe: Recipe) -> Values:
    """Count dates by month, and tell of each time range, for each sensor with dates."""
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
        days = _days_by_range(chips[f"{key}_dates"])
        counts = Counter[int]()
        for day, count in (one for found in days for one in found.items()):
            counts[_month(day) - _month(first)] += count
        by_month = [counts.get(month, 0) for month in range(months)]
        drawing = svg.strip(by_month, _month_names(first, months), edges, f"Dates of {key}")
        rows = list(_season_rows(days))
        sensors.append({"title": recipe.table[key].title, "drawing": drawing, "rows": rows})
    return {"ranges": [str(period).split("/") for period in recipe.ranges], "sensors": sensors}


def _month(day: date) -> int:
    """Return the months since the year 0."""
    return 12 * day.year + day.month


def _month_names(first: date, months: int) -> list[str]:
    """Return what months are called, from that of a day on; a January among several is its year."""
    return [
        str((_month(first) + n - 1) // 12)
        if n and (first.month + n) % 12 == 1
        else _MONTHS[(first.month + n - 1) % 12]
        for n in range(months)
    ]


def day_of(text: str) -> date:
    """Return the day of ``YYYYMMDD``."""
    return datetime.strptime(text, "%Y%m%d").replace(tzinfo=UTC).date()


def _days_by_range(joined: pd.Series) -> list[Counter[date]]:
    """Count the chips of each day, for each time range; many chips have the same days."""
    days: list[Counter[date]] = []
    for text, chips in joined.value_counts(sort=False).items():
        for number, one in enumerate(str(text).split(",")):
            days += [Counter()] if number == len(days) else []
            days[number][day_of(one)] += int(chips)
    return days


def _season_rows(days: Sequence[Counter[date]]) -> Iterator[Row]:
    """Yield number, count of dates, and earliest, median and latest date of each time range."""
    for number, found in enumerate(days, start=1):
        ordered = sorted(found)
        up_to = np.cumsum([found[day] for day in ordered])
        median = ordered[int(np.searchsorted(up_to, up_to[-1] // 2, side="right"))]
        yield number, len(ordered), ordered[0], median, ordered[-1]


def share_charts(chips: pd.DataFrame, windows: Measures, recipe: Recipe) -> Values:
    """Draw each measure of all windows and of the chips; name those that never differ."""
    measures = [name for name in windows.columns if name not in PLACE_COLUMNS]
    of_chips = {str(name): _numbers(chips[name]) for name in chips.columns.intersection(measures, sort=False)}
    spans = _spans(windows, [name for name, values in of_chips.items() if len(values)])
    ends = {name: (min(low, 0.0), max(high, 1.0)) for name, (low, high) in spans.items() if low != high}
    counts = _counts_of(windows, ends)
    figures = []
    for name, (low, high) in ends.items():
        asked = threshold_of(name, recipe)
        kept = np.histogram(of_chips[name], bins=_BINS, range=(low, high))[0]
        figures.append(
            {
                "name": name,
                "low": low,
                "high": high,
                "asked": "" if asked is None else f"{asked:g}",
                "windows": _histogram(counts[name].tolist(), (low, high), name, "bar pale", asked),
                "chips": _histogram(kept.tolist(), (low, high), name, "bar", asked),
            }
        )
    constant = [f"{name} ({low:g})" for name, (low, high) in spans.items() if low == high]
    return {"figures": figures, "constant": constant} if figures or constant else {}


def _spans(windows: Measures, names: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Return the least and the greatest value of measures."""
    spans = dict.fromkeys(names, (math.inf, -math.inf))
    for part in windows:
        for name, (low, high) in spans.items():
            values = _numbers(part[name])
            if len(values):
                spans[name] = min(low, float(values.min())), max(high, float(values.max()))
    return spans


def _counts_of(windows: Measures, ends: Mapping[str, tuple[float, float]]) -> dict[str, np.ndarray[Any, Any]]:
    """Count the values of measures in the bins of their histograms."""
    counts = {name: np.zeros(_BINS, np.int64) for name in ends}
    for part in windows:
        for name in counts:
            counts[name] += np.histogram(_numbers(part[name]), bins=_BINS, range=ends[name])[0]
    return counts


def threshold_of(name: str, recipe: Recipe) -> float | None:
    """Return the least value of a measure that chips were asked for; None where there is none."""
    if name == "purity":
        return recipe.chips.min_purity
    key, _, which = name.partition("_")
    if key not in recipe.rasters or which not in ("min_valid", "min_clear"):
        return None
    if which == "min_clear" and not recipe.config[key].get("cloud_band"):
        return None
    return min(asked_shares(recipe, "min_valid" if which == "min_valid" else "min_clear", key))


def _histogram(
    counts: list[int], ends: tuple[float, float], name: str, css: str, asked: float | None
) -> Values:
    """Draw a histogram; its heights are logarithms where one bar would hide the rest."""
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
    texts, found = column.dropna(), [np.array([])]
    for first in range(0, len(texts), _TEXTS_AT_ONCE):
        joined = ",".join(texts.iloc[first : first + _TEXTS_AT_ONCE].astype(str))
        values = pd.to_numeric(pd.Series([text for text in joined.split(",") if text]), errors="coerce")
        if values.isna().any():
            return np.array([])
        found.append(values.to_numpy(dtype=float))
    return np.concatenate(found)
