"""The chip browser: a page beside its data, in which a person filters, opens and compares chips.

Windows that are no chips are in it, too, with what ended their way: a curator asks "why not this
one?". The page opens from a folder without a server, so that its data are scripts.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from cube.config.sensors import CLASS_NAMES
from cube.windows.projection import to_lonlat
from release.recipe import Recipe
from release.select import Selection
from release.templates import fill_template
from release.tracker import Tracker
from release.windows import PLACE_COLUMNS, Measures

from .charts import threshold_of
from .facts import aoi_called, color_of, meaning_of
from .layers import CHIPS_PER_FILE
from .script import page_data

BROWSE_NAME = "browse.html"
_CHIPS_NAME = "browse_chips.js"
_DATA_NAMES = re.compile(r"browse_(chips|windows_[0-9]{4,}|layers_[0-9]{4,})\.js")
_LAYER_NAMES = re.compile(r"browse_layers_[0-9]{4,}\.js")
_WINDOWS_PER_FILE = 20_000
_DECIMALS = 5
_IN_RELEASE = "in the release"


def is_browser_file(name: str) -> bool:
    """Tell whether a file of a release is the browser, or its data."""
    return name == BROWSE_NAME or _DATA_NAMES.fullmatch(name) is not None


def is_layers_file(name: str) -> bool:
    """Tell whether a file of a shard holds layers."""
    return _LAYER_NAMES.fullmatch(name) is not None


def make_browser(
    selection: Selection,
    tracker: Tracker,
    windows: Measures,
    aois: Mapping[str, Any] | None,
    recipe: Recipe,
    overlaid: Collection[str],
) -> Iterator[tuple[str, bytes]]:
    """Yield the page and its data, but for the layers (:mod:`release.report.layers`), by name.

    Parameters
    ----------
    selection
        The chips, and what ended the way of other windows.
    tracker
        A row per chip, in the order of ids.
    windows
        Of every window scored.
    aois
        What ``aoi_metadata.geojson`` holds, if it is there.
    recipe
        What the release was made with.
    overlaid
        Sensors of whose chips the layers show what is not clear.
    """
    kinds, chips = next(iter(windows)).dtypes, tracker.facts
    measures = [
        name
        for name in windows.columns
        if name not in PLACE_COLUMNS and name in chips and pd.api.types.is_numeric_dtype(kinds[name])
    ]
    areas = _areas(windows, chips, aois)
    verdicts = [_IN_RELEASE, *(name for name, _ in selection.funnel)]
    codes, pieces = set(chips["lulc"].astype(int)), list[dict[str, Any]]()
    for part in _in_files(_lost(windows, selection)):
        codes.update(part["lulc"].astype(int))
        piece = _window_piece(part, measures, verdicts, list(areas))
        pieces.append({"name": f"browse_windows_{len(pieces):04}.js", "areas": piece["areas"]})
        yield pieces[-1]["name"], page_data(pieces[-1]["name"], piece)
    places, sets = _date_sets(chips, recipe)
    data = {
        "name": f"{recipe.name} {recipe.version}",
        "chip_m": recipe.chips.chip_size,
        "sample_m": recipe.chips.sample_size,
        "per_file": CHIPS_PER_FILE,
        **({} if recipe.shard_chips is None else {"per_shard": recipe.shard_chips}),
        "classes": [[code, CLASS_NAMES.get(code, "no data"), color_of(code)] for code in sorted(codes)],
        "verdicts": [
            [_IN_RELEASE, "", len(chips)],
            *([name, meaning_of(name), count] for name, count in selection.funnel),
        ],
        "areas": list(areas.values()),
        "sensors": [_sensor(key, recipe, overlaid) for key in recipe.rasters],
        "asked": {name: threshold_of(name, recipe) for name in measures},
        "chips": _chips(chips, measures, list(areas)),
        "date": places,
        "dates": sets,
        "pieces": pieces,
    }
    sharded = recipe.shard_chips is not None
    page = fill_template("browse.html.j2", name=f"{recipe.name} {recipe.version}", is_sharded=sharded)
    yield BROWSE_NAME, page
    yield _CHIPS_NAME, page_data(_CHIPS_NAME, data)


def _lost(windows: Measures, selection: Selection) -> Iterator[pd.DataFrame]:
    """Yield the windows that are no chips, as rows of the metadata lie.

    The order of those in the tables of windows is to change nothing.
    """
    for part in windows:
        verdicts = selection.left_out.loc[part.index[0] : part.index[-1]]
        lost = part.loc[verdicts.index].assign(verdict=verdicts)
        yield lost.sort_values(["aoi_index", "top_m", "left_m"], ascending=[True, False, True], kind="stable")


def _in_files(parts: Iterable[pd.DataFrame]) -> Iterator[pd.DataFrame]:
    """Yield the rows of tables, so many to a file."""
    held: list[pd.DataFrame] = []
    for part in parts:
        rows = pd.concat([*held, part])
        whole = len(rows) - len(rows) % _WINDOWS_PER_FILE
        for first in range(0, whole, _WINDOWS_PER_FILE):
            yield rows.iloc[first : first + _WINDOWS_PER_FILE]
        held = [rows.iloc[whole:]]
    yield from (rows for rows in held if len(rows))


def _sensor(key: str, recipe: Recipe, overlaid: Collection[str]) -> dict[str, Any]:
    return {
        "key": key,
        "title": recipe.table[key].title,
        "is_static": recipe.table[key].is_static,
        "is_overlaid": key in overlaid,
    }


def _areas(
    windows: Measures, chips: pd.DataFrame, aois: Mapping[str, Any] | None
) -> dict[int, dict[str, Any]]:
    """Return what each AOI is called, and where its windows lie, by index."""
    known = {int(one["aoi_index"]): one for one in _facts_of(aois)}
    named = {
        int(row["aoi_index"]): row.get("aoi_name") or row.get("aoi_id") or ""
        for row in chips.drop_duplicates("aoi_index").to_dict("records")
    }
    boxes = {int(str(index)): _box(own) for part in windows for index, own in part.groupby("aoi_index")}
    found = {}
    for index in sorted({*known, *boxes}):
        facts = known.get(index, {"aoi_index": index, "name": named.get(index, "")})
        area = {"name": aoi_called(facts), "status": facts.get("status", ""), "why": facts.get("reason", "")}
        found[index] = area | boxes.get(index, {})
    return found


def _facts_of(aois: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    facts = [feature.get("properties") or {} for feature in (aois or {}).get("features", [])]
    return [one for one in facts if isinstance(one.get("aoi_index"), int)]


def _box(windows: pd.DataFrame) -> dict[str, Any]:
    """Return the edges of windows' upper left corners, metres, and where those lie on Earth.

    ``corners`` are north-west, north-east, south-west, south-east: between them a place is near
    enough on the line, for people to look it up.
    """
    left, right = int(windows["left_m"].min()), int(windows["left_m"].max())
    bottom, top = int(windows["top_m"].min()), int(windows["top_m"].max())
    epsg = int(windows["epsg"].iloc[0])
    lon, lat = to_lonlat(epsg).transform([left, right, left, right], [top, top, bottom, bottom])
    corners = np.round(np.column_stack([lon, lat]), _DECIMALS).tolist()
    return {"epsg": epsg, "box": [left, bottom, right, top], "corners": corners}


def _chips(table: pd.DataFrame, measures: Sequence[str], areas: Sequence[int]) -> dict[str, Any]:
    return {
        **_columns(table, measures, areas),
        "split": _column(table["split"]),
        "lon": table["lon"].round(_DECIMALS).tolist(),
        "lat": table["lat"].round(_DECIMALS).tolist(),
        "count": len(table),
    }


def _date_sets(chips: pd.DataFrame, recipe: Recipe) -> tuple[list[int], list[dict[str, Any]]]:
    """Return each chip's place among the different sets of dates and scenes, and those sets."""
    fields = [f"{key}_dates" for key in recipe.series] + [f"{key}_scene_ids" for key in recipe.rasters]
    sets = chips[fields].drop_duplicates().to_dict("records")
    places = chips.groupby(fields, sort=False).ngroup().tolist()
    return places, [
        {str(name): text.split(",") if text else [] for name, text in one.items()} for one in sets
    ]


def _window_piece(
    part: pd.DataFrame, measures: Sequence[str], verdicts: Sequence[str], areas: Sequence[int]
) -> dict[str, Any]:
    """Return what a file tells of windows that are no chips, with the areas that are in it."""
    places = {index: number for number, index in enumerate(areas)}
    verdict = _column(part["verdict"].map({name: number for number, name in enumerate(verdicts)}))
    present = sorted(places[int(index)] for index in part["aoi_index"].unique())
    return {**_columns(part, measures, areas), "verdict": verdict, "count": len(part), "areas": present}


def _columns(table: pd.DataFrame, measures: Sequence[str], areas: Sequence[int]) -> dict[str, Any]:
    place = {index: number for number, index in enumerate(areas)}
    return {
        "class": _column(table["lulc"].astype(int)),
        "area": _column(table["aoi_index"].map(place)),
        "epsg": _column(table["epsg"]),
        "left": _column(table["left_m"]),
        "top": _column(table["top_m"]),
        "measures": {name: _column(_cut(table[name])) for name in measures},
    }


def _cut(shares: pd.Series) -> pd.Series:
    """Shorten numbers so that none grows: a share just below a threshold is not to reach it."""
    values = shares.to_numpy(dtype=float) * 10**_DECIMALS
    return pd.Series(np.floor(values + 1e-6) / 10**_DECIMALS, index=shares.index)


def _column(values: pd.Series) -> list[Any] | Any:
    """Return a column; the number alone where all are that one."""
    is_known = values.notna()
    if is_known.all():
        return values.iloc[0].item() if _is_one_number(values) else values.tolist()
    return [value if known else None for value, known in zip(values.tolist(), is_known, strict=True)]


def _is_one_number(values: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(values) and len(values) > 0 and values.min() == values.max()
