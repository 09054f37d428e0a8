"""The choice: from scores and thresholds to one verdict per window. Pure; no pixel is read.

Rules are tried in the order of :func:`verdict_names`; the first that a window breaks is its
verdict:

1.  ``nodata``: the sample window holds a land-cover pixel of class 0, which ``chips.forbidden``
    names.
2.  ``forbidden_class``: it holds a pixel of another forbidden class.
3.  ``impure``: its majority class has less than ``chips.min_purity`` of its pixels.
4.  ``class_excluded``: its majority class is not among ``chips.classes``.
5.  ``not_fetched``: imagery under its chip was left out when the cube was built. Land cover is
    always there, so the rules before this one still say why a window would not have been wanted.
6.  ``{sensor}_missing``: on some date less than ``chips.min_valid`` of the chip is valid, or the
    cube lacks the sensor or one of its dates.
7.  ``{sensor}_cloudy``: on some date less than ``chips.min_clear`` of the sample window is clear.
8.  ``outside_aoi``: ``aoi.clip`` asks that the chip's centre, or all of it, lies in the AOI's
    polygon, and it does not.
9.  ``duplicate``: a chip of an AOI with a lower index has the same cell or, in another UTM zone,
    overlaps by more than a tenth.
10. ``capped``: its class has ``chips.max_per_class`` chips in its AOI already. Who stays is decided
    by lot: by the SHA-256 of seed and cell, which does not depend on the order of anything.

All others are ``success``. Shares are compared as whole numbers of pixels: 0.95 of 1024 is 973.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cube.config.models import ChipsConfig
from cube.config.sensors import CLASS_NAMES, MaskRule, SensorTable
from cube.lots import lot
from cube.windows.duplicates import Places
from cube.windows.landcover import LandCoverRule, land_cover_rules, pixels_needed
from cube.windows.lattice import WindowGeometry

from .scores import ScoreTable, Which

Codes = NDArray[np.int8]
"""Verdicts as positions in :func:`verdict_names`."""


class Verdict(StrEnum):
    """The verdicts that name neither a sensor nor a rule of land cover."""

    SUCCESS = "success"
    NOT_FETCHED = "not_fetched"
    OUTSIDE_AOI = "outside_aoi"
    DUPLICATE = "duplicate"
    CAPPED = "capped"


def missing(sensor: str) -> str:
    """Return the verdict of a chip with too few valid pixels of a sensor."""
    return f"{sensor}_missing"


def cloudy(sensor: str) -> str:
    """Return the verdict of a window with too few clear pixels of a sensor."""
    return f"{sensor}_cloudy"


def verdict_names(sensors: SensorTable) -> tuple[str, ...]:
    """Return every verdict, in the order in which its rule is tried."""
    return (
        Verdict.SUCCESS,
        *LandCoverRule,
        Verdict.NOT_FETCHED,
        *(missing(key) for key in sensors),
        *(cloudy(key) for key, sensor in sensors.items() if sensor.mask is not MaskRule.NONE),
        Verdict.OUTSIDE_AOI,
        Verdict.DUPLICATE,
        Verdict.CAPPED,
    )


@dataclass(frozen=True)
class ScoreSet:
    """The score tables of all cubes, by AOI index; windows are numbered through in that order."""

    tables: Sequence[ScoreTable]
    sensors: SensorTable
    """Of the config."""
    outside: Sequence[NDArray[np.bool_]] = ()
    """Per table, the windows that ``aoi.clip`` rejects (none: it rejects none)."""

    def __len__(self) -> int:
        """Return the number of windows."""
        return sum(map(len, self.tables))

    def only(self, aoi_indices: Collection[int]) -> ScoreSet:
        """Return the tables of some AOIs."""
        mine = [number for number, one in enumerate(self.tables) if one.cube.aoi_index in aoi_indices]
        outside = [self.outside[number] for number in mine] if self.outside else []
        return ScoreSet([self.tables[number] for number in mine], self.sensors, outside)

    @cached_property
    def verdicts(self) -> tuple[str, ...]:
        """Verdicts that a window can get."""
        return verdict_names(self.sensors)

    @cached_property
    def starts(self) -> list[int]:
        """Number of each table's first window, and the number of all."""
        return [0, *itertools.accumulate(map(len, self.tables))]

    @cached_property
    def stacks(self) -> list[ScoreTable]:
        """The same windows in fewer tables: neighbours with the same sensors and dates as one.

        Only numbers of pixels and dates may be asked of them; names and places are the first
        cube's.
        """
        groups = (list(group) for _, group in itertools.groupby(self.tables, key=_judged_alike))
        return [_stacked(group) for group in groups]

    @cached_property
    def aoi(self) -> NDArray[np.int64]:
        """Position of each window's table."""
        return np.repeat(np.arange(len(self.tables)), [len(table) for table in self.tables])

    @cached_property
    def lulc(self) -> NDArray[Any]:
        """Majority class of each window."""
        return np.concatenate([table.columns["lulc"] for table in self.tables] or [np.zeros(0, np.int32)])

    @cached_property
    def cells(self) -> list[str]:
        """Name of each window."""
        return [cell for table in self.tables for cell in table.cells]

    @cached_property
    def places(self) -> Places:
        """Where the windows lie."""
        geometry = self.tables[0].geometry if self.tables else WindowGeometry(1, 1, 1)
        epsg = np.array([table.cube.epsg for table in self.tables], np.int32)
        edges = (
            np.concatenate([*(table.columns[name] for table in self.tables), np.zeros(0, np.int32)])
            for name in ("left_m", "top_m")
        )
        return Places(geometry, epsg, np.array(self.starts, np.int64), *edges)


def _judged_alike(table: ScoreTable) -> tuple[Any, ...]:
    """Return the key of tables that can be judged together: windows, masks, ranges, dates."""
    sensors = ((key, found.resolution, len(found.times)) for key, found in table.cube.sensors.items())
    return (table.geometry, table.masks, table.ranges, *sensors)


def _stacked(tables: Sequence[ScoreTable]) -> ScoreTable:
    columns = {name: np.concatenate([table.columns[name] for table in tables]) for name in tables[0].columns}
    return replace(tables[0], columns=columns)


def choose(scores: ScoreSet, chips: ChipsConfig, seed: int = 0) -> Codes:
    """Give every window its verdict: int8, positions in :attr:`ScoreSet.verdicts`.

    Window sizes of `chips` must be those that the scores were made with. `seed` decides by lot who
    stays under a cap.
    """
    assert all(table.geometry == WindowGeometry.from_config(chips) for table in scores.tables)
    names = scores.verdicts
    verdicts = np.concatenate(
        [*(judge(table, chips, names) for table in scores.stacks), np.zeros(0, np.int8)]
    )
    if scores.outside:
        reject_outside(verdicts, np.concatenate(scores.outside), names)
    verdicts[scores.places.duplicates(verdicts == 0)] = names.index(Verdict.DUPLICATE)
    if chips.max_per_class is not None:
        groups = scores.aoi * (max(CLASS_NAMES) + 1) + scores.lulc
        reject_over_cap(verdicts, groups, scores.cells, names, chips.max_per_class, seed)
    return verdicts


def judge(table: ScoreTable, chips: ChipsConfig, names: Sequence[str]) -> Codes:
    """Try the rules that concern one window alone, but for ``aoi.clip``."""
    verdicts = np.zeros(len(table), np.int8)
    land_cover = land_cover_rules(table.columns, table.sample_px, chips)
    for verdict, broken in itertools.chain(land_cover, _imagery_rules(table, chips)):
        verdicts[broken & (verdicts == 0)] = names.index(verdict)
    return verdicts


def reject_outside(verdicts: Codes, outside: NDArray[np.bool_], names: Sequence[str]) -> None:
    """Reject those of the windows left that ``aoi.clip`` does not let through."""
    verdicts[outside & (verdicts == 0)] = names.index(Verdict.OUTSIDE_AOI)


def _imagery_rules(table: ScoreTable, chips: ChipsConfig) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    sensors = [masks.sensor for masks in table.masks]
    for key in sensors:
        if key in table.cube.sensors:
            yield Verdict.NOT_FETCHED, table.columns[f"{key}_not_fetched"] > 0
    for key in sensors:
        if table.has(key):
            yield from ((missing(key), broken) for broken in _below_threshold(table, chips, key, "valid"))
        else:
            yield missing(key), np.ones(len(table), np.bool_)
    for masks in table.masks:
        if masks.cloud_rule and table.has(masks.sensor):
            yield from (
                (cloudy(masks.sensor), broken)
                for broken in _below_threshold(table, chips, masks.sensor, "clear")
            )


def _below_threshold(
    table: ScoreTable, chips: ChipsConfig, sensor: str, which: Which
) -> Iterator[NDArray[np.bool_]]:
    """Yield, per date, where a share lies under its threshold."""
    pixels = table.window_px(which, sensor)
    for date in range(len(table.cube.sensors[sensor].times)):
        share = chips.threshold("min_valid" if which == "valid" else "min_clear", sensor, date)
        yield table.columns[f"{sensor}_{date}_{which}_px"] < pixels_needed(share, pixels)


def reject_over_cap(
    verdicts: Codes,
    groups: NDArray[np.integer],
    cells: Sequence[str],
    names: Sequence[str],
    cap: int,
    seed: int,
) -> None:
    """Reject, per group (a class of an AOI), those of the windows left with the higher lots."""
    chosen = np.flatnonzero(verdicts == 0)
    group = groups[chosen]
    _, inverse, sizes = np.unique(group, return_inverse=True, return_counts=True)
    if not len(sizes) or sizes.max() <= cap:
        return
    crowded = sizes[inverse] > cap
    chosen, group = chosen[crowded], group[crowded]
    lots = [lot(seed, cells[window]) for window in chosen.tolist()]
    order = np.lexsort((np.array(lots, np.bytes_), group))
    group = group[order]
    rank = np.arange(len(group)) - np.searchsorted(group, group)
    verdicts[chosen[order[rank >= cap]]] = names.index(Verdict.CAPPED)


def drop_counts(counts: Mapping[int, int], factor: int) -> dict[int, int]:
    """Return how many chips each class gives up: GELOS's rule, in integers.

    A class gives up in proportion to its distance above the smallest one, so that afterwards the
    largest is at most `factor` times the smallest, which loses nothing. Classes without chips take
    no part.
    """
    present = [count for count in counts.values() if count]
    if not present:
        return dict.fromkeys(counts, 0)
    largest, smallest = max(present), min(present)
    excess = largest - factor * smallest
    if excess <= 0:
        return dict.fromkeys(counts, 0)
    return {code: excess * max(count - smallest, 0) // (largest - smallest) for code, count in counts.items()}
