"""Why one release has a chip that the other has not, from what both say of themselves.

The first word that fits is given, in this order:

``other_lattice``
    Windows lie elsewhere, or have another size.
``class_excluded``, ``area_absent``, ``area_skipped``, ``area_failed``
    The other does not keep the class, or has no such AOI, or no cube of it.
``impure``, ``forbidden_class``, ``{sensor}_missing``, ``{sensor}_cloudy``
    What was measured is not what the other asks for, the scenes being the same.
``duplicate``
    A chip of another UTM zone covers more than a tenth of its place there.
``other_scenes``
    The AOI has other scenes there, of which only the other's own windows could tell.
``unbalanced``, ``capped``, ``unbalanced_or_capped``
    The other gave up chips of the class for balance, or capped windows in this AOI.
``unexplained``
    None of these.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import shapely

from cube.config.sensors import CLASS_NAMES
from cube.windows.landcover import pixels_needed
from cube.windows.lattice import WindowGeometry
from release.loading.dataset import Release
from release.recipe import Recipe

_MOST_OVERLAP = 0.1
"""Share of a chip that one of another zone may cover."""

Row = Mapping[str, Any]
Found = tuple[str, str]
"""A reason, and what was found."""


@dataclass(frozen=True)
class Other:
    """The release that lacks a chip."""

    recipe: Recipe
    areas: Mapping[int, Mapping[str, Any]]
    """What it says of its AOIs, by index; empty where it says nothing."""
    scenes: Mapping[int, Mapping[str, str]]
    """Scene ids by AOI and sensor, of the AOIs that have a chip in it."""
    chips_per_class: Mapping[int, int]
    tree: shapely.STRtree
    """Footprints of its chips, EPSG:4326."""
    zones: np.ndarray[Any, Any]
    """UTM zones of the same chips."""

    @cached_property
    def geometry(self) -> WindowGeometry:
        """Sizes of its windows."""
        return WindowGeometry.from_config(self.recipe.chips)


def other_release(opened: Release, areas: Mapping[int, Mapping[str, Any]]) -> Other:
    """Gather what a release says of the chips that it has not."""
    table, keys = opened.table, list(opened.recipe.rasters)
    first = table.drop_duplicates("aoi_index").set_index("aoi_index")
    scenes = {
        int(str(aoi)): {key: str(row[f"{key}_scene_ids"]) for key in keys} for aoi, row in first.iterrows()
    }
    places = shapely.STRtree(table.geometry.to_numpy()), table["epsg"].to_numpy()
    return Other(opened.recipe, areas, scenes, Counter(map(int, table["lulc"])), *places)


def explain_absence(
    row: Row, own: Recipe, other: Other, read_codes: Callable[[], np.ndarray[Any, Any]]
) -> Found:
    """Say why `other` has not the chip in a row of a release whose recipe is `own`.

    `read_codes` gives the classes of the chip's sample window, and is called only where the two
    forbid different ones.
    """
    for find in (_lattice, _class, _area):
        if found := find(row, own, other):
            return found
    if found := next(_thresholds(row, own, other, read_codes), None):
        return found
    if found := _overlap(row, other):
        return found
    changed = [key for key in own.rasters if _scenes_differ(row, key, other)]
    if changed:
        return "other_scenes", f"of {', '.join(changed)}"
    return _choice(row, other)


def _lattice(row: Row, own: Recipe, other: Other) -> Found | None:
    mine, theirs = WindowGeometry.from_config(own.chips), other.geometry
    if mine.sample_m != theirs.sample_m or mine.chip_m != theirs.chip_m:
        sizes = [f"{one.sample_m} m in chips of {one.chip_m} m" for one in (mine, theirs)]
        return "other_lattice", f"windows of {sizes[0]}, there {sizes[1]}"
    if int(row["left_m"]) % theirs.stride_m or int(row["top_m"]) % theirs.stride_m:
        return "other_lattice", f"no multiple of the stride of {theirs.stride_m} m"
    return None


def _class(row: Row, own: Recipe, other: Other) -> Found | None:
    del own
    code, kept = int(row["lulc"]), sorted(other.recipe.chips.classes)
    if code in kept:
        return None
    return "class_excluded", f"{code} {CLASS_NAMES[code]}; kept are {', '.join(map(str, kept))}"


def _area(row: Row, own: Recipe, other: Other) -> Found | None:
    del own
    if not other.areas:
        return None
    facts = other.areas.get(int(row["aoi_index"]))
    if facts is None:
        return "area_absent", f"AOI {row['aoi_index']} is not among its areas"
    if facts.get("status") in ("skipped", "failed"):
        return f"area_{facts['status']}", str(facts.get("reason") or "")
    return None


def _thresholds(
    row: Row, own: Recipe, other: Other, read_codes: Callable[[], np.ndarray[Any, Any]]
) -> Iterator[Found]:
    """Yield what was measured of the chip and is not enough for the other."""
    chips = other.recipe.chips
    if not _scenes_differ(row, "lulc", other):
        yield from _land_cover(row, own, other, read_codes)
    for key in own.rasters:
        if key not in other.recipe.rasters or _scenes_differ(row, key, other):
            continue
        dates = 1 if own.table[key].is_static else len(other.recipe.ranges)
        for which, word in (("min_valid", "missing"), ("min_clear", "cloudy")):
            share = row.get(f"{key}_{which}")
            if not isinstance(share, (int, float)) or math.isnan(share):
                continue
            # The worst date's share is known: it is too low where it is below the loosest asked.
            asked = min(chips.threshold(which, key, index) for index in range(dates))  # type: ignore[arg-type]
            part = "chip" if which == "min_valid" else "sample"
            size = other.geometry.window_px(part, other.recipe.rasters[key].resolution)  # type: ignore[arg-type]
            if round(share * size) < pixels_needed(asked, size):
                yield f"{key}_{word}", f"{share:.4g}, there at least {asked:g}"


def _land_cover(
    row: Row, own: Recipe, other: Other, read_codes: Callable[[], np.ndarray[Any, Any]]
) -> Iterator[Found]:
    chips = other.recipe.chips
    size = other.geometry.window_px("sample", other.recipe.rasters["lulc"].resolution)
    if round(row["purity"] * size) < pixels_needed(chips.min_purity, size):
        yield "impure", f"purity {row['purity']:.4g}, there at least {chips.min_purity:g}"
    if set(chips.forbidden) - set(own.chips.forbidden):
        there = set(np.unique(read_codes()).tolist()) & set(chips.forbidden)
        if there:
            yield "forbidden_class", ", ".join(f"{code} {CLASS_NAMES[code]}" for code in sorted(there))


def _overlap(row: Row, other: Other) -> Found | None:
    """Tell whether chips of another zone cover the place, of which a release has only one."""
    footprint = row["geometry"]
    for number in sorted(other.tree.query(footprint, predicate="intersects").tolist()):
        covered = footprint.intersection(other.tree.geometries[number]).area / footprint.area
        if other.zones[number] != row["epsg"] and covered > _MOST_OVERLAP:
            return "duplicate", f"a chip of EPSG:{other.zones[number]} covers {covered:.0%} of its place"
    return None


def _scenes_differ(row: Row, key: str, other: Other) -> bool:
    """Tell whether the AOI is known to have other scenes of a sensor there."""
    there = other.scenes.get(int(row["aoi_index"]))
    return there is not None and there.get(key, "") != row[f"{key}_scene_ids"]


def _choice(row: Row, other: Other) -> Found:
    """Say whether chips of the class were given up, where nothing speaks against this one."""
    code = int(row["lulc"])
    before, after = other.recipe.before.get(code, 0), other.chips_per_class.get(code, 0)
    counts = other.areas.get(int(row["aoi_index"]), {}).get("chips") or {}
    capped = int(counts.get("capped", 0)) if isinstance(counts, Mapping) else 0
    words, details = [], []
    if before > after:
        words.append("unbalanced")
        details.append(f"{before - after} of {before} chips of the class were given up for balance")
    if capped:
        words.append("capped")
        details.append(f"{capped} windows of the AOI are over max_per_class")
    if words:
        return "_or_".join(words), "; ".join(details)
    return "unexplained", ""
