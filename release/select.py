"""Which chips a release holds: clean, balance, split and number. Pure functions over tables.

A table has a row per window, as phase two's has. Nothing here depends on the order of
rows: what goes by lot goes by the hash of the seed and the chip's cell.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date

import pandas as pd

from chipping.choose import drop_counts
from cube.config.fields import TimeRange
from cube.config.models import Config
from cube.lots import lot

from .opening.faults import ReleaseError
from .splits import NO_SPLIT, split

_MOST_LOST = 0.25
"""Share of chips that lie too near to another split; more are worth a warning."""


@dataclass(frozen=True)
class Selection:
    """The chips of a release, numbered, and what became of the other windows."""

    chips: pd.DataFrame
    """A row per chip, with ``id`` and ``split``, in the order of ``id``."""
    funnel: tuple[tuple[str, int], ...]
    """Windows by what ended their way (a status, a rule of cleaning, ``unbalanced``), most
    first."""
    before: dict[int, int]
    """Chips per class before balancing; every kept class has an entry."""
    after: dict[int, int]
    """Chips per class in the release."""
    warnings: tuple[str, ...]
    left_out: pd.Series = field(default_factory=lambda: pd.Series(dtype=object))
    """What ended the way of each window that is no chip, by its row in the table of windows."""

    @property
    def windows(self) -> int:
        """How many windows were scored."""
        return len(self.chips) + sum(count for _, count in self.funnel)


def select(windows: pd.DataFrame, config: Config, rejected: pd.Series | None = None) -> Selection:
    """Clean, balance, split and number the windows scored.

    Parameters
    ----------
    windows
        A row each; those that are no chips may be left out.
    rejected
        Verdicts of those that are, by the numbers of their rows.

    Raises
    ------
    ReleaseError
        If no chip is left, a cell is there twice, or a kept class has no chips although balance is
        asked for.
    """
    chips, reasons = clean(windows, config, rejected)
    before = _counts(chips, config.chips.classes)
    factor = config.land_cover.sampling_factor
    warnings = _missing_classes(before, factor, allowed=config.release.allow_missing_classes)
    balanced = balance(chips, factor, config.release.seed) if factor else chips
    given_up = pd.Series("unbalanced", index=chips.index.difference(balanced.index), dtype=object)
    left_out = pd.concat([reasons, given_up]).sort_index()
    numbered = number(balanced)
    numbered["split"] = _assign_splits(numbered, config)
    warnings += _split_warnings(numbered)
    funnel = tuple(sorted(Counter(left_out).items(), key=lambda item: (-item[1], item[0])))
    after = _counts(numbered, config.chips.classes)
    return Selection(numbered, funnel, before, after, warnings, left_out)


def clean(
    windows: pd.DataFrame, config: Config, rejected: pd.Series | None = None
) -> tuple[pd.DataFrame, pd.Series]:
    """Keep the successful windows of a kept class that have exactly one date per range and sensor.

    `rejected` has the verdicts of windows that are left out of the table.

    Returns
    -------
    DataFrame, Series
        The rows kept, and the reason of each row that was not.
    """
    status = windows["status"].astype(str)
    reason = status.where(status != "success", "")
    kept_class = windows["lulc"].isin(config.chips.classes)
    reason = reason.mask((reason == "") & ~kept_class, "class_excluded")
    for sensor in config.series:
        whole = windows[f"{sensor}_dates"].map(lambda text: dates_fit(text, config.ranges)).astype(bool)
        reason = reason.mask((reason == "") & ~whole, f"{sensor}_dates")
    chips = windows[reason == ""]
    for column in ("cell", "chip_index"):
        if not chips[column].is_unique:
            twice = chips.loc[chips[column].duplicated(), column].iloc[0]
            raise ReleaseError(f"windows: {column} {twice} is there twice; run gelos-lc chip again")
    if rejected is not None:
        reason = pd.concat([reason, rejected]).sort_index()
    if chips.empty:
        found = ", ".join(f"{count} {name}" for name, count in Counter(reason).most_common(4))
        raise ReleaseError(
            f"no chip is left to release ({found or 'no windows'}); run gelos-lc chip, or loosen chips.*"
        )
    return chips, reason[reason != ""]


def dates_fit(text: str, ranges: Sequence[TimeRange]) -> bool:
    """Tell whether comma-joined dates (YYYYMMDD) are one per range, in the ranges' order."""
    dates = text.split(",") if text else []
    return len(dates) == len(ranges) and all(map(_is_within, dates, ranges))


def _is_within(text: str, period: TimeRange) -> bool:
    try:
        day = date.fromisoformat(text if len(text) == 8 and text.isdecimal() else "")
    except ValueError:
        return False
    return period.start.date() <= day <= period.end.date()


def _counts(chips: pd.DataFrame, classes: Iterable[int]) -> dict[int, int]:
    found = chips["lulc"].value_counts()
    return {code: int(found.get(code, 0)) for code in sorted(classes)}


def _missing_classes(counts: Mapping[int, int], factor: int | None, *, allowed: bool) -> tuple[str, ...]:
    missing = [str(code) for code, count in counts.items() if not count]
    if not missing:
        return ()
    text = f"chips.classes: no chip of class {', '.join(missing)}"
    if factor and not allowed:
        raise ReleaseError(
            f"{text}, so lulc.sampling_factor cannot hold; drop it from chips.classes, "
            "or set release.allow_missing_classes"
        )
    return (text,)


def balance(chips: pd.DataFrame, factor: int, seed: int) -> pd.DataFrame:
    """Drop chips of large classes by lot, each from the AOI that has most of its class left.

    The largest class is at most `factor` times the smallest, afterwards.
    """
    drops = drop_counts(_counts(chips, chips["lulc"].unique()), factor)
    kept: list[object] = []
    for code, group in chips.groupby("lulc", sort=True):
        order = pd.DataFrame(
            {"lot": [lot(seed, cell) for cell in group["cell"]], "aoi": group["aoi_index"]}, index=group.index
        ).sort_values("lot")
        # AOIs take turns, each with its next chip by lot: the one that has the most gives up first.
        order["turn"] = order.groupby("aoi").cumcount()
        keep = len(group) - drops[int(str(code))]
        kept.extend(order.sort_values(["turn", "lot"]).index[:keep])
    return chips[chips.index.isin(kept)]


def number(chips: pd.DataFrame) -> pd.DataFrame:
    """Give ids 0..n-1 in the order of ``chip_index``."""
    ordered = chips.sort_values("chip_index").reset_index(drop=True)
    ordered["id"] = range(len(ordered))
    return ordered


def _assign_splits(chips: pd.DataFrame, config: Config) -> pd.Series:
    shares = config.release.splits
    if not shares:
        return pd.Series("", index=chips.index, dtype=object)
    margin = config.chips.margin_m
    boxes = chips.assign(left_m=chips["left_m"] - margin, top_m=chips["top_m"] + margin)
    return split(boxes, shares, config.release.block_m, config.chips.chip_size, config.release.seed)


def _split_warnings(chips: pd.DataFrame) -> tuple[str, ...]:
    lost = int((chips["split"] == NO_SPLIT).sum())
    if lost <= _MOST_LOST * len(chips):
        return ()
    text = f"release.splits: {lost} of {len(chips)} chips lie too near to another split and are in none"
    return (f"{text}; a larger release.block_m loses fewer",)
