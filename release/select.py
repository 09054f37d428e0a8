"""Which chips a release holds: clean, balance, split and number. Pure functions over tables.

A table has a row per window, as ``chip_metadata.csv`` has. Nothing here depends on the order of rows: what
goes by lot goes by the hash of the seed and the chip's cell.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import NamedTuple

import pandas as pd
from pyproj import Transformer

from cube.config import Config, TimeRange

from .errors import ReleaseError

__all__ = [
    "NO_SPLIT",
    "Selection",
    "balance",
    "clean",
    "drop_counts",
    "lot",
    "number",
    "select",
    "split",
]

NO_SPLIT = "none"
"""Split of a chip that lies too near to another split's block."""
_CLUSTER_SHARE = 0.2
"""Most of the smallest split that blocks which go together may hold."""
_EARTH_RADIUS_M = 6_371_000


@dataclass(frozen=True)
class Selection:
    """The chips of a release, numbered, and what became of the other windows."""

    chips: pd.DataFrame
    """A row per chip, with ``id`` and ``split``, in the order of ``id``."""
    funnel: tuple[tuple[str, int], ...]
    """Windows by what ended their way (a status, a rule of cleaning, ``unbalanced``), most first."""
    before: dict[int, int]
    """Chips per class before balancing; every kept class has an entry."""
    after: dict[int, int]
    """Chips per class in the release."""
    warnings: tuple[str, ...]

    @property
    def windows(self) -> int:
        """How many windows were scored."""
        return len(self.chips) + sum(count for _, count in self.funnel)


def select(windows: pd.DataFrame, config: Config) -> Selection:
    """Clean, balance, split and number.

    Parameters
    ----------
    windows
        A row per window scored, such as :func:`release.tracker.read_metadata` returns.
    config
        ``chips.classes``, the time ranges, ``lulc.sampling_factor`` and ``release`` are used.

    Returns
    -------
    Selection
        With at least one chip.

    Raises
    ------
    ReleaseError
        If no chip is left, a cell is there twice, or a kept class has no chips although balance is asked for.
    """
    chips, reasons = clean(windows, config)
    before = _counts(chips, config.chips.classes)
    factor = getattr(config.sensors["lulc"], "sampling_factor", None)
    warnings = _missing_classes(before, factor, allowed=config.release.allow_missing_classes)
    balanced = balance(chips, factor, config.release.seed) if factor else chips
    dropped = Counter(reasons)
    if len(chips) > len(balanced):
        dropped["unbalanced"] = len(chips) - len(balanced)
    numbered = number(balanced)
    numbered["split"] = _splits(numbered, config)
    funnel = tuple(sorted(dropped.items(), key=lambda item: (-item[1], item[0])))
    return Selection(numbered, funnel, before, _counts(numbered, config.chips.classes), warnings)


def clean(windows: pd.DataFrame, config: Config) -> tuple[pd.DataFrame, pd.Series]:
    """Keep the successful windows of a kept class that have exactly one date per range and sensor.

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
            raise ReleaseError(f"chip_metadata.csv: {column} {twice} is there twice; run chip.py again")
    if chips.empty:
        found = ", ".join(f"{count} {name}" for name, count in Counter(reason).most_common(4))
        raise ReleaseError(
            f"no chip is left to release ({found or 'no windows'}); run chip.py, or loosen chips.*"
        )
    return chips, reason[reason != ""]


def dates_fit(text: str, ranges: Sequence[TimeRange]) -> bool:
    """Tell whether comma-joined dates (YYYYMMDD) are one per range, in the ranges' order."""
    dates = text.split(",") if text else []
    return len(dates) == len(ranges) and all(map(_within, dates, ranges))


def _within(text: str, period: TimeRange) -> bool:
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


def drop_counts(counts: Mapping[int, int], factor: int) -> dict[int, int]:
    """How many chips each class gives up: GELOS's rule, in integers.

    A class gives up in proportion to its distance above the smallest one, so that afterwards the largest is
    at most `factor` times the smallest, which loses nothing.

    Parameters
    ----------
    counts
        Chips per class; classes without chips take no part.
    factor
        At least 1.
    """
    present = [count for count in counts.values() if count]
    if not present:
        return dict.fromkeys(counts, 0)
    largest, smallest = max(present), min(present)
    excess = largest - factor * smallest
    if excess <= 0:
        return dict.fromkeys(counts, 0)
    return {code: excess * max(count - smallest, 0) // (largest - smallest) for code, count in counts.items()}


def balance(chips: pd.DataFrame, factor: int, seed: int) -> pd.DataFrame:
    """Drop chips of large classes: by lot, and always from the AOI that has the most of that class left.

    Parameters
    ----------
    chips
        Needs ``lulc``, ``aoi_index``, ``cell``.
    factor
        The largest class is at most this many times the smallest, afterwards.
    seed
        Another seed, another choice.
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


def lot(seed: int, *names: object) -> str:
    """Return a number drawn for `names`, as 64 hexadecimal digits: the same for the same seed, everywhere."""
    return hashlib.sha256(":".join(map(str, (seed, *names))).encode()).hexdigest()


def number(chips: pd.DataFrame) -> pd.DataFrame:
    """Give ids 0..n-1 in the order of ``chip_index``."""
    ordered = chips.sort_values("chip_index").reset_index(drop=True)
    ordered["id"] = range(len(ordered))
    return ordered


class _Block(NamedTuple):
    """A square of a UTM zone; the unit that is assigned to a split."""

    epsg: int
    column: int
    row: int


def _splits(chips: pd.DataFrame, config: Config) -> pd.Series:
    shares = config.release.splits
    if not shares:
        return pd.Series("", index=chips.index, dtype=object)
    margin = config.chips.margin_m
    boxes = chips.assign(left_m=chips["left_m"] - margin, top_m=chips["top_m"] + margin)
    return split(boxes, shares, config.release.block_m, config.chips.chip_size, config.release.seed)


def split(
    chips: pd.DataFrame, shares: Mapping[str, float], block_m: int, side_m: int, seed: int
) -> pd.Series:
    """Assign spatial blocks to splits, so that no two splits hold chips near to one another.

    Blocks that touch go together where that leaves every split room: chips at a border between splits are lost.

    Parameters
    ----------
    chips
        Needs ``epsg``, ``left_m`` and ``top_m`` (the chip's north-west corner), ``lulc``.
    shares
        Share of chips by split; of each class, as far as whole blocks allow.
    block_m
        Side of a block, metres; blocks lie on its multiples in each UTM zone.
    side_m
        Side of a chip. A chip nearer than this to a block of another split gets ``none``.
    seed
        Another seed, another assignment.
    """
    half = side_m / 2
    blocks = [
        _Block(int(epsg), math.floor((left + half) / block_m), math.floor((top - half) / block_m))
        for epsg, left, top in zip(chips["epsg"], chips["left_m"], chips["top_m"], strict=True)
    ]
    assigned = _assign(
        _clusters(blocks, shares, side_m, block_m), blocks, chips["lulc"].tolist(), shares, seed
    )
    names = []
    for block, left, top in zip(blocks, chips["left_m"], chips["top_m"], strict=True):
        near = {
            assigned[other]
            for other in _neighbours(block, side_m, block_m)
            if other in assigned and _gap(other, block_m, left, top, side_m) < side_m
        }
        names.append(assigned[block] if near <= {assigned[block]} else NO_SPLIT)
    result = pd.Series(names, index=chips.index, dtype=object)
    result[_near_across_zones(chips, result, side_m)] = NO_SPLIT
    return result


def _clusters(
    blocks: Sequence[_Block], shares: Mapping[str, float], side_m: int, block_m: int
) -> dict[_Block, _Block]:
    """Say of each block which cluster it goes with: that of all blocks it hangs together with, or itself.

    A cluster that holds more than a part of the smallest split's chips is taken apart, since one like it could
    fill, or miss, a split.
    """
    count = Counter(blocks)
    most = _CLUSTER_SHARE * min(share for share in shares.values() if share > 0) * len(blocks)
    found: dict[_Block, _Block] = {}
    for first in sorted(count):
        if first in found:
            continue
        cluster, ahead = {first}, [first]
        while ahead:
            near = {one for one in _neighbours(ahead.pop(), side_m, block_m) if one in count} - cluster
            cluster |= near
            ahead.extend(near)
        together = sum(count[block] for block in cluster) <= most
        found.update({block: first if together else block for block in cluster})
    return found


def _neighbours(block: _Block, side_m: int, block_m: int) -> Iterator[_Block]:
    reach = range(-math.ceil(1.5 * side_m / block_m), math.ceil(1.5 * side_m / block_m) + 1)
    for column, row in itertools.product(reach, reach):
        if column or row:
            yield _Block(block.epsg, block.column + column, block.row + row)


def _gap(block: _Block, block_m: int, left: float, top: float, side_m: int) -> float:
    """Distance between a chip and a block of the same zone, along the axis where it is larger, metres."""
    west, south = block.column * block_m, block.row * block_m
    across = max(west - (left + side_m), left - (west + block_m))
    along = max(south - top, (top - side_m) - (south + block_m))
    return max(across, along)


def _assign(
    clusters: Mapping[_Block, _Block],
    blocks: Sequence[_Block],
    classes: Sequence[int],
    shares: Mapping[str, float],
    seed: int,
) -> dict[_Block, str]:
    """Stratify: clusters that hold most of a class first, each to the split whose lack of classes it fits best."""
    total = Counter(classes)
    content: dict[_Block, Counter[int]] = defaultdict(Counter)
    for block, code in zip(blocks, classes, strict=True):
        content[clusters[block]][code] += 1
    lacking = {
        name: {code: shares[name] * count for code, count in total.items()}
        for name in sorted(shares)
        if shares[name] > 0
    }
    assigned: dict[_Block, str] = {}

    def misfit(name: str, cluster: _Block) -> float:
        """By how much the squares of what is lacking grow, each class and split by its own size."""
        held, lack = content[cluster], lacking[name]
        return (
            sum(n * (n - 2 * lack[code]) / total[code] ** 2 for code, n in sorted(held.items()))
            / shares[name]
        )

    for cluster in sorted(
        content, key=lambda one: (-max(n / total[code] for code, n in content[one].items()), lot(seed, *one))
    ):
        name = min(lacking, key=lambda n: (misfit(n, cluster), lot(seed, n, *cluster)))
        assigned[cluster] = name
        for code, count in content[cluster].items():
            lacking[name][code] -= count
    return {block: assigned[cluster] for block, cluster in clusters.items()}


def _near_across_zones(chips: pd.DataFrame, splits: pd.Series, side_m: int) -> list[bool]:
    """Chips of different splits and different UTM zones that are nearer than a chip's side."""
    limit = side_m * (1 + math.sqrt(2))  # between centres, whatever way the two squares are turned
    points = _centres_xyz(chips, side_m)
    cells: dict[tuple[int, ...], list[int]] = defaultdict(list)
    keys = [tuple(math.floor(value / limit) for value in point) for point in points]
    for index, key in enumerate(keys):
        cells[key].append(index)
    zones, names = chips["epsg"].tolist(), splits.tolist()

    def is_near(index: int) -> bool:
        around = itertools.product(*((k - 1, k, k + 1) for k in keys[index]))
        return any(
            zones[other] != zones[index]
            and NO_SPLIT not in (names[other], names[index])
            and names[other] != names[index]
            and math.dist(points[other], points[index]) < limit
            for cell in around
            for other in cells.get(cell, ())
        )

    return [is_near(index) for index in range(len(points))]


def _centres_xyz(chips: pd.DataFrame, side_m: int) -> list[tuple[float, float, float]]:
    """Centres of chips on a sphere, metres: distances hold over zone borders and the antimeridian."""
    points: dict[object, tuple[float, float, float]] = {}
    for epsg, group in chips.groupby("epsg", sort=True):
        to_lonlat = Transformer.from_crs(int(str(epsg)), 4326, always_xy=True)
        lons, lats = to_lonlat.transform(
            (group["left_m"] + side_m / 2).to_numpy(), (group["top_m"] - side_m / 2).to_numpy()
        )
        for index, lon, lat in zip(group.index, lons, lats, strict=True):
            x, y = math.radians(lon), math.radians(lat)
            unit = (math.cos(y) * math.cos(x), math.cos(y) * math.sin(x), math.sin(y))
            points[index] = tuple(_EARTH_RADIUS_M * value for value in unit)  # type: ignore[assignment]
    return [points[index] for index in chips.index]
