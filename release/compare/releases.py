"""Two releases compared: every chip by its cell, every file by its checksum."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np

from cube.config.sensors import CLASS_NAMES
from cube.run.storage import Folder
from release.loading.dataset import Release, open_release
from release.opening.checksums import SUMS_NAME, sha256
from release.opening.faults import UNREADABLE, ReleaseError, first_line
from release.recipe import Recipe
from release.sharding import SHARDS_FOLDER
from release.tracker import chip_id_of, is_item_name

from .comparison import (
    AoiChange,
    ChipChange,
    ChipMove,
    ClassShift,
    Comparison,
    FileChange,
    SceneChange,
    SettingChange,
    Side,
    flattened,
)
from .pixels import Opened, compare_files, raster_pairs
from .reasons import explain_absence, other_release

_AOIS_NAME = "aois.geojson"
_FOLLOWS = {"id", "original_id", "cell", "status", "category", "color", "lat", "lon", "geometry", "label"}
"""Fields that follow from a chip's cell and class, or number it."""
_ABSENT = object()

Rows = Mapping[str, dict[str, Any]]
"""Rows of a table by cell."""


def compare_releases(a: str | Path | Folder | Release, b: str | Path | Folder | Release) -> Comparison:
    """Tell what differs between two releases, folders or zips.

    What a file holds is taken from its release's ``SHA256SUMS`` (:func:`release.verify` tells
    whether it is so); rasters are read only where their checksums differ.

    Parameters
    ----------
    a, b
        The earlier and the later.

    Returns
    -------
    Comparison
        Chips are the same where their ``cell`` is, whatever they are numbered.

    Raises
    ------
    ReleaseError
        If there is no release at one of them, or its tables cannot be believed.
    """
    one, other = (Opened.of(open_one(release)) for release in (a, b))
    rows_a, rows_b = _rows(one.release), _rows(other.release)
    kept = tuple(sorted(rows_a.keys() & rows_b.keys()))
    rasters, files, same = compare_files(
        one, other, raster_pairs(one, other, ((rows_a[cell], rows_b[cell]) for cell in kept))
    )
    areas_a, areas_b = _areas(one), _areas(other)
    fields_a, fields_b = ([str(name) for name in side.release.table.columns] for side in (one, other))
    return Comparison(
        _side(one),
        _side(other),
        tuple(_settings(one.release.recipe, other.release.recipe)),
        tuple(name for name in fields_a if name not in fields_b),
        tuple(name for name in fields_b if name not in fields_a),
        tuple(_classes(one.release.table, other.release.table, set(kept))),
        kept,
        _moves(one.release, rows_a, rows_a.keys() - rows_b.keys(), other.release, areas_b),
        _moves(other.release, rows_b, rows_b.keys() - rows_a.keys(), one.release, areas_a),
        tuple(_changes(rows_a, rows_b, kept, [name for name in fields_a if name in fields_b])),
        tuple(_scene_changes(one.release, other.release, rows_a, rows_b, kept)),
        rasters,
        (*files, *_other_files(one, other)),
        tuple(_area_changes(areas_a, areas_b)),
        same,
    )


def open_one(release: str | Path | Folder | Release) -> Release:
    """Open a release that may be open already."""
    return release if isinstance(release, Release) else open_release(release)


def _side(opened: Opened) -> Side:
    release = opened.release
    fingerprint = sha256(release.read_file(SUMS_NAME))
    return Side(release.recipe.name, release.recipe.version, len(release), fingerprint)


def _rows(release: Release) -> Rows:
    return {row["cell"]: row for row in release.table.to_dict("records")}


def _settings(a: Recipe, b: Recipe) -> Iterator[SettingChange]:
    flat_a, flat_b = (
        flattened({**recipe.config, "dataset": {"name": recipe.name, "version": recipe.version}})
        for recipe in (a, b)
    )
    for key in sorted(flat_a.keys() | flat_b.keys()):
        one, other = flat_a.get(key, _ABSENT), flat_b.get(key, _ABSENT)
        if one is _ABSENT or other is _ABSENT or json.dumps(one) != json.dumps(other):
            sides = "b" if one is _ABSENT else "a" if other is _ABSENT else "ab"
            yield SettingChange(
                key, None if one is _ABSENT else one, None if other is _ABSENT else other, sides
            )


def _classes(a: gpd.GeoDataFrame, b: gpd.GeoDataFrame, kept: Collection[str]) -> Iterator[ClassShift]:
    counts_a, counts_b = (Counter(map(int, table["lulc"])) for table in (a, b))
    kept_a, kept_b = (Counter(map(int, t.loc[t["cell"].isin(kept), "lulc"])) for t in (a, b))
    for code in sorted(counts_a | counts_b):
        yield ClassShift(
            code,
            CLASS_NAMES[code],
            counts_a[code],
            counts_b[code],
            counts_a[code] / max(len(a), 1),
            counts_b[code] / max(len(b), 1),
            kept_a[code],
            counts_a[code] - kept_a[code],
            counts_b[code] - kept_b[code],
        )


def _moves(
    owner: Release,
    rows: Rows,
    cells: Collection[str],
    other: Release,
    other_areas: Mapping[int, Mapping[str, Any]],
) -> tuple[ChipMove, ...]:
    """Explain why `other` lacks some chips of `owner`."""
    lacking = other_release(other, other_areas)
    moves = []
    for cell in sorted(cells):
        row = rows[cell]

        def read_codes(chip_id: int = int(row["id"])) -> np.ndarray[Any, Any]:
            recipe = owner.recipe
            spec = recipe.rasters["lulc"]
            margin, side = (m // spec.resolution for m in (recipe.chips.margin_m, recipe.chips.sample_size))
            return owner.read(chip_id, "lulc")[0, 0, margin : margin + side, margin : margin + side]

        reason, detail = explain_absence(row, owner.recipe, lacking, read_codes)
        moves.append(ChipMove(cell, int(row["id"]), int(row["aoi_index"]), int(row["lulc"]), reason, detail))
    return tuple(moves)


def _changes(
    rows_a: Rows, rows_b: Rows, kept: Collection[str], fields: Collection[str]
) -> Iterator[ChipChange]:
    compared = [name for name in fields if _is_compared(name)]
    for cell in kept:
        one, other = rows_a[cell], rows_b[cell]
        for name in compared:
            value_a, value_b = _plain(one[name]), _plain(other[name])
            if value_a != value_b:
                yield ChipChange(cell, int(one["id"]), int(other["id"]), name, value_a, value_b)


def _is_compared(field: str) -> bool:
    """Tell whether a field says something of a chip beside its number, files and scenes."""
    return field not in _FOLLOWS and not field.endswith(("_paths", "_thumbs", "_dates", "_scene_ids"))


def _plain(value: Any) -> Any:
    """Return a value of a table as JSON has it; what is absent is None."""
    value = value.item() if isinstance(value, np.generic) else value
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    return value if isinstance(value, (int, float)) else str(value)


def _scene_changes(
    a: Release, b: Release, rows_a: Rows, rows_b: Rows, kept: Collection[str]
) -> Iterator[SceneChange]:
    """Yield the dates and scenes that differ, once for all chips of an AOI that share them."""
    counts: Counter[tuple[int, str, int, str, str, str, str]] = Counter()
    keys = [key for key in a.sensors if key in b.sensors]
    for cell in kept:
        one, other = rows_a[cell], rows_b[cell]
        for key in keys:
            is_static = a.recipe.table[key].is_static
            of_a, of_b = (_acquisitions(row, key, is_static=is_static) for row in (one, other))
            for number in range(max(len(of_a), len(of_b))):
                pair = [side[number] if number < len(side) else ("", "") for side in (of_a, of_b)]
                if pair[0] != pair[1]:
                    (date_a, scenes_a), (date_b, scenes_b) = pair
                    place = (int(one["aoi_index"]), key, number + (not is_static))
                    counts[(*place, date_a, date_b, scenes_a, scenes_b)] += 1
    for change, chips in sorted(counts.items()):
        yield SceneChange(*change, chips=chips)


def _acquisitions(row: Mapping[str, Any], key: str, *, is_static: bool) -> list[tuple[str, str]]:
    """Return date and scenes of each time range; without dates, all scenes are in one."""
    scenes = str(row[f"{key}_scene_ids"])
    if is_static:
        return [("", scenes)]
    dates, groups = str(row[f"{key}_dates"]).split(","), scenes.split(",")
    size = max(len(dates), len(groups))
    filled = [[*side, *[""] * (size - len(side))] for side in (dates, groups)]
    return list(zip(*filled, strict=True))


def _areas(opened: Opened) -> dict[int, dict[str, Any]]:
    """Return what a release says of its AOIs, by index; nothing where it has no such file."""
    if opened.digest(_AOIS_NAME) is None:
        return {}
    try:
        features = json.loads(opened.release.read_file(_AOIS_NAME))["features"]
        return {
            int(one["properties"]["aoi_index"]): {**one["properties"], "geometry": one["geometry"]}
            for one in features
        }
    except UNREADABLE as error:
        text = f"{opened.release.path}: {_AOIS_NAME} cannot be read ({first_line(error)}); verify the release"
        raise ReleaseError(text) from None


def _area_changes(
    a: Mapping[int, Mapping[str, Any]], b: Mapping[int, Mapping[str, Any]]
) -> Iterator[AoiChange]:
    for index in sorted(a.keys() | b.keys()):
        one, other = a.get(index), b.get(index)
        texts = ["" if facts is None else _state(facts) for facts in (one, other)]
        if (
            texts[0] == texts[1]
            and one is not None
            and other is not None
            and one["geometry"] != other["geometry"]
        ):
            texts[1] += " (another outline)"
        if texts[0] != texts[1]:
            yield AoiChange(index, *texts)


def _state(facts: Mapping[str, Any]) -> str:
    """Return state and reason of an AOI."""
    state, reason = str(facts.get("status") or "unknown"), facts.get("reason")
    return f"{state}: {reason}" if reason else state


def _other_files(a: Opened, b: Opened) -> Iterator[FileChange]:
    """Yield the files that are no chip's and are missing or differ."""
    names = a.sums.keys() | b.sums.keys()
    for name in sorted(filter(_is_document, names)):
        one, other = a.digest(name), b.digest(name)
        if one is None or other is None:
            yield FileChange(name, "a" if one is None else "b", "is missing")
        elif one != other:
            yield FileChange(name, "", "differs")


def _is_document(name: str) -> bool:
    """Tell whether a file is no chip's, and not of what follows from where chips lie."""
    return not (name.startswith(f"{SHARDS_FOLDER}/") or chip_id_of(name) is not None or is_item_name(name))
