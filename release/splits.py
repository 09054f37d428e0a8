"""Splits by spatial block."""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import pandas as pd

from cube.lots import lot
from cube.windows.projection import to_lonlat

NO_SPLIT = "none"
"""Split of a chip that lies too near to another split's block."""
_CLUSTER_SHARE = 0.2
"""Most of the smallest split that blocks which go together may hold."""
_EARTH_RADIUS_M = 6_371_000


class _SplitBlock(NamedTuple):
    """A square of a UTM zone; the unit that is assigned to a split."""

    epsg: int
    column: int
    row: int


def split(
    chips: pd.DataFrame, shares: Mapping[str, float], block_m: int, side_m: int, seed: int
) -> pd.Series:
    """Assign spatial blocks to splits, so that no two splits hold chips near to one another.

    Blocks that touch go together where that leaves every split room: chips at a border between
    splits are lost.

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
        _SplitBlock(int(epsg), math.floor((left + half) / block_m), math.floor((top - half) / block_m))
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
    blocks: Sequence[_SplitBlock], shares: Mapping[str, float], side_m: int, block_m: int
) -> dict[_SplitBlock, _SplitBlock]:
    """Return each block's cluster, named by one of its blocks: all that hang together, or itself.

    A cluster that holds more than a part of the smallest split's chips is taken apart, since one
    like it could fill, or miss, a split.
    """
    count = Counter(blocks)
    most = _CLUSTER_SHARE * min(share for share in shares.values() if share > 0) * len(blocks)
    found: dict[_SplitBlock, _SplitBlock] = {}
    for first in sorted(count):
        if first in found:
            continue
        cluster, frontier = {first}, [first]
        while frontier:
            near = {one for one in _neighbours(frontier.pop(), side_m, block_m) if one in count} - cluster
            cluster |= near
            frontier.extend(near)
        together = sum(count[block] for block in cluster) <= most
        found.update({block: first if together else block for block in cluster})
    return found


def _neighbours(block: _SplitBlock, side_m: int, block_m: int) -> Iterator[_SplitBlock]:
    reach = range(-math.ceil(1.5 * side_m / block_m), math.ceil(1.5 * side_m / block_m) + 1)
    for column, row in itertools.product(reach, reach):
        if column or row:
            yield _SplitBlock(block.epsg, block.column + column, block.row + row)


def _gap(block: _SplitBlock, block_m: int, left: float, top: float, side_m: int) -> float:
    """Return the distance of a chip and a block, metres, along the axis where it is larger."""
    west, south = block.column * block_m, block.row * block_m
    across = max(west - (left + side_m), left - (west + block_m))
    along = max(south - top, (top - side_m) - (south + block_m))
    return max(across, along)


def _assign(
    clusters: Mapping[_SplitBlock, _SplitBlock],
    blocks: Sequence[_SplitBlock],
    classes: Sequence[int],
    shares: Mapping[str, float],
    seed: int,
) -> dict[_SplitBlock, str]:
    """Give each cluster to the split whose lack of classes it fits best.

    Those that hold most of a class come first.
    """
    total = Counter(classes)
    content: dict[_SplitBlock, Counter[int]] = defaultdict(Counter)
    for block, code in zip(blocks, classes, strict=True):
        content[clusters[block]][code] += 1
    lacking = {
        name: {code: shares[name] * count for code, count in total.items()}
        for name in sorted(shares)
        if shares[name] > 0
    }
    assigned: dict[_SplitBlock, str] = {}

    def misfit(name: str, cluster: _SplitBlock) -> float:
        """Return by how much the squares of what is lacking grow, each by its own size."""
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
    """Tell which chips are nearer than a chip's side to one of another split and UTM zone."""
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
    """Return centres of chips on a sphere, metres: so distances hold across zones."""
    points: dict[object, tuple[float, float, float]] = {}
    for epsg, group in chips.groupby("epsg", sort=True):
        lons, lats = to_lonlat(int(str(epsg))).transform(
            (group["left_m"] + side_m / 2).to_numpy(), (group["top_m"] - side_m / 2).to_numpy()
        )
        for index, lon, lat in zip(group.index, lons, lats, strict=True):
            x, y = math.radians(lon), math.radians(lat)
            unit = (math.cos(y) * math.cos(x), math.cos(y) * math.sin(x), math.sin(y))
            points[index] = tuple(_EARTH_RADIUS_M * value for value in unit)  # type: ignore[assignment]
    return [points[index] for index in chips.index]
