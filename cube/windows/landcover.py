"""What land cover says of windows: their pixels of each class, and the rules that they break.

Asked before imagery is fetched, when windows are scored, and when chips are chosen: one answer for
all three.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum
from fractions import Fraction
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cube.config.models import ChipsConfig
from cube.config.sensors import CLASS_NAMES

from .counts import CellCounts, CellGrid, count_codes
from .grid import Block
from .lattice import WindowLattice

Column = NDArray[np.int32]
Codes = NDArray[np.integer]


class LandCoverRule(StrEnum):
    """What a window breaks, in the order in which the rules are tried."""

    NODATA = "nodata"
    FORBIDDEN_CLASS = "forbidden_class"
    IMPURE = "impure"
    CLASS_EXCLUDED = "class_excluded"


@lru_cache(maxsize=1024)
def pixels_needed(share: float, pixels: int) -> int:
    """Return the fewest pixels that are at least `share` of all, `share` being taken as a decimal.

    Examples
    --------
    >>> pixels_needed(0.95, 1024), pixels_needed(0.1, 10), pixels_needed(1.0, 9216)
    (973, 1, 9216)
    """
    return math.ceil(Fraction(repr(share)) * pixels)


def count_classes(
    blocks: Iterable[tuple[Block, Codes]], lattice: WindowLattice, resolution: int, side: int
) -> dict[str, Column]:
    """Count the classes of every sample window.

    Parameters
    ----------
    blocks
        Land cover in pieces, each with its place.
    resolution
        Pixel size of the land cover, metres.
    side
        Side of the blocks, pixels.

    Returns
    -------
    dict
        Columns of a score table (see :func:`land_cover_columns`), windows row by row.
    """
    if not len(lattice):
        return land_cover_columns({}, 0)
    rows, columns = lattice.rows("sample", resolution), lattice.columns("sample", resolution)
    height, width = int(rows.stop.max()), int(columns.stop.max())
    grid = CellGrid([rows], [columns], range(0, height, side), range(0, width, side))
    counts: dict[int, CellCounts] = {}
    for block, pixels in blocks:
        cut = grid.cut(block)
        if cut is None:
            continue
        for code, values in count_codes(pixels, cut.row_edges, cut.column_edges).items():
            counts.setdefault(code, CellCounts(grid)).put(cut.cells, values)
    windows = {code: count.windows(rows, columns).ravel() for code, count in counts.items()}
    return land_cover_columns(windows, len(lattice))


def land_cover_columns(counts: Mapping[int, Codes], windows: int) -> dict[str, Column]:
    """Return the land-cover columns of a score table.

    Parameters
    ----------
    counts
        Pixels per window, by class code; codes that are nowhere may be left out.
    """
    nothing = np.zeros(windows, np.int32)
    codes = sorted({*counts, *CLASS_NAMES})
    stack = np.stack([counts.get(code, nothing) for code in codes]).astype(np.int32)
    majority = stack.argmax(axis=0)
    other = [index for index, code in enumerate(codes) if code not in CLASS_NAMES]
    return {
        "lulc": np.asarray(codes, np.int32)[majority],
        "majority_px": stack.max(axis=0),
        **{f"class_{code}_px": stack[codes.index(code)] for code in CLASS_NAMES},
        "class_other_px": stack[other].sum(axis=0, dtype=np.int32),
    }


def land_cover_rules(
    columns: Mapping[str, NDArray[Any]], sample_px: int, chips: ChipsConfig, min_purity: float | None = None
) -> Iterator[tuple[LandCoverRule, NDArray[np.bool_]]]:
    """Yield each rule of land cover, and which windows break it.

    Parameters
    ----------
    columns
        Land-cover columns of a score table.
    sample_px
        Pixels in a sample window.
    chips
        ``forbidden``, ``min_purity`` and ``classes``.
    min_purity
        Asked instead of ``chips.min_purity``, where given.
    """
    for code in sorted(chips.forbidden):
        rule = LandCoverRule.FORBIDDEN_CLASS if code else LandCoverRule.NODATA
        yield rule, columns[f"class_{code}_px"] > 0
    purity = chips.min_purity if min_purity is None else min_purity
    yield LandCoverRule.IMPURE, columns["majority_px"] < pixels_needed(purity, sample_px)
    yield LandCoverRule.CLASS_EXCLUDED, ~np.isin(columns["lulc"], chips.classes)
