"""Where the chips of a release lie."""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterator, Mapping
from importlib.resources import files
from typing import Any

import numpy as np
import pandas as pd
import shapely
from shapely.geometry import shape

from cube.config.sensors import CLASS_NAMES
from cube.html import svg
from release.recipe import Recipe
from release.tracker import Tracker

from .facts import Values, aoi_called, color_of
from .script import script_json

_DECIMALS = 5
"""Of a degree: a metre."""
_RASTERS = (0.5, 1.0, 2.0, 4.0)
"""Drawing units, finest first; a mark is four wide."""
_MOST_MARKS = 10_000
_AREA_TOLERANCE_DEG = 1e-4
"""Detail of an AOI's outline that is left out."""


def draw_map(tracker: Tracker, aois: Mapping[str, Any] | None, recipe: Recipe) -> Values:
    """Draw chips and AOIs on a graticule, and what its legend needs."""
    outlines = list(_aoi_outlines(aois))
    bounds = np.array([tracker.bounds, *(geometry.bounds for geometry, *_ in outlines)])
    west, south = (float(v) for v in bounds[:, :2].min(axis=0))
    east, north = (float(v) for v in bounds[:, 2:].max(axis=0))
    frame = svg.map_frame((west, south, east, north))
    drawing = [svg.graticule(frame)]
    drawing += [svg.outline(frame, geometry, css, title) for geometry, css, title, _ in outlines]
    drawing += [svg.square(*mark) for mark in _chip_marks(tracker.facts, frame)]
    present = set(tracker.facts["lulc"])
    return {
        "drawing": svg.picture(960, frame.height, "".join(drawing), "Map of chips and areas of interest"),
        "classes": [(color_of(code), name) for code, name in CLASS_NAMES.items() if str(code) in present],
        "has_areas": bool(outlines),
        "data": map_data(tracker.facts, aois, recipe),
    }


def _aoi_outlines(aois: Mapping[str, Any] | None) -> Iterator[tuple[shapely.Geometry, str, str, int]]:
    """Yield each AOI's outline, the CSS class of its line, its title and its index."""
    for feature in (aois or {}).get("features", []):
        if not feature.get("geometry"):
            continue
        facts = feature.get("properties") or {}
        css = "aoi" if facts.get("status") in ("built", "building", "pending", None) else "aoi bad"
        title = f"AOI {aoi_called(facts)}: {facts.get('status', '')}"
        yield shape(feature["geometry"]), css, title, int(facts.get("aoi_index", -1))


def _chip_marks(chips: pd.DataFrame, frame: svg.Frame) -> Iterator[tuple[float, float, str, str]]:
    """Yield place, colour and title of the squares that stand for chips.

    They lie on a raster of half a drawing unit, or a coarser one where there are very many: chips
    that would cover each other are one square, in the colour of most of them.
    """
    x, y = frame.point(chips["lon"].to_numpy(float), chips["lat"].to_numpy(float))
    looks = chips[["color", "category"]]
    for step in _RASTERS:
        places = looks.assign(x=np.round(x / step) * step, y=np.round(y / step) * step)
        if len(places[["x", "y"]].drop_duplicates()) <= _MOST_MARKS:
            break
    counts = places.groupby(["x", "y", "category", "color"], as_index=False).size()
    ordered = counts.sort_values(["x", "y", "size", "category"], ascending=[True, True, False, True])
    rows = ordered.itertuples(index=False, name=None)
    for (left, top), same in itertools.groupby(rows, key=operator.itemgetter(0, 1)):
        found = list(same)
        yield left, top, found[0][3] or "#888", ", ".join(f"{one[2]}: {one[4]}" for one in found)


def map_data(chips: pd.DataFrame, aois: Mapping[str, Any] | None, recipe: Recipe) -> str:
    """Return what the map's script draws, as JSON that may stand in a page.

    Chips by column, in the order of their ids: position of the centre, and the places of class,
    AOI and first picture's date in lists of their own; outlines of AOIs; land by ring, tenths of
    a degree, each position but the first as the step from the one before.
    """
    codes = sorted({int(code) for code in chips["lulc"].unique()})
    pictured = next((key for key in recipe.series if recipe.rasters[key].thumbnail_px), None)
    days = [text.split(",")[0] for text in chips[f"{pictured}_dates"]] if pictured else []
    known = {day: number for number, day in enumerate(sorted(set(days)))}
    areas = list(_aoi_outlines(aois))
    place = {index: number for number, (_, _, _, index) in enumerate(areas)}
    return script_json(
        {
            "chip_m": recipe.chips.chip_size,
            "classes": [[CLASS_NAMES[code], color_of(code)] for code in codes],
            "class": [codes.index(int(code)) for code in chips["lulc"]],
            "lon": chips["lon"].round(_DECIMALS).tolist(),
            "lat": chips["lat"].round(_DECIMALS).tolist(),
            "picture": pictured or "",
            "dates": list(known),
            "date": [known[day] for day in days],
            "areas": [
                {"title": title, "isBad": "bad" in css, "rings": _rings(geometry)}
                for geometry, css, title, _ in areas
            ],
            "area": [place.get(index, -1) for index in chips["aoi_index"]],
            "land": _land(),
        }
    )


def _rings(geometry: shapely.Geometry) -> list[list[list[float]]]:
    """Return the outer rings of polygons as positions."""
    parts = shapely.get_parts(shapely.simplify(geometry, _AREA_TOLERANCE_DEG))
    rings = [part.exterior for part in parts if isinstance(part, shapely.Polygon)]
    return [shapely.get_coordinates(ring).round(_DECIMALS).tolist() for ring in rings]


def _land() -> list[str]:
    """Return the outline of land: see NOTICE for where it is from."""
    return files(__package__).joinpath("land.txt").read_text("ascii").splitlines()
