"""Which windows land cover alone lets through, and which blocks of imagery they need."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from .config import Config
from .counts import CellCounts, CellGrid, count_codes
from .grid import Block
from .plan import CubePlan
from .sensors import CLASS_NAMES
from .windows import WindowGeometry, WindowLattice

__all__ = ["candidate_classes", "count_candidates", "needed_blocks"]


def candidate_classes(lulc: NDArray[np.uint8], plan: CubePlan, config: Config) -> NDArray[np.uint8]:
    """Return the majority class of every window that land cover lets through, and 0 for the others.

    Parameters
    ----------
    lulc
        ``(y, x)`` class codes on the plan's land-cover grid.
    plan
        The cube.
    config
        ``chips.classes``, ``chips.forbidden`` and ``aoi.candidate_purity`` (``chips.min_purity`` where that is empty).

    Returns
    -------
    numpy.ndarray
        ``(window rows, window columns)`` uint8.
    """
    chips, purity = config.chips, config.aoi.candidate_purity
    lattice = WindowLattice(WindowGeometry.from_config(chips), plan.bounds, plan.epsg)
    if not len(lattice):
        return np.zeros(lattice.shape, "uint8")
    resolution = plan.sensor("lulc").resolution
    counts = _window_counts(lulc, lattice, resolution)
    pixels = lattice.geometry.window_px("sample", resolution)
    needed = np.ceil((chips.min_purity if purity is None else purity) * pixels - 1e-9)
    largest = np.max(list(counts.values()), axis=0)
    classes = np.zeros(lattice.shape, "uint8")
    for code in sorted(counts, reverse=True):  # the lowest code wins a tie, so it is written last
        if code in chips.classes:
            classes[(counts[code] == largest) & (largest >= needed)] = code
        else:
            classes[counts[code] == largest] = 0
    for code in chips.forbidden:
        if code in counts:
            classes[counts[code] > 0] = 0
    return classes


def _window_counts(
    lulc: NDArray[np.uint8], lattice: WindowLattice, resolution: int
) -> Mapping[int, NDArray[np.int64]]:
    rows, columns = lattice.rows("sample", resolution), lattice.columns("sample", resolution)
    grid = CellGrid([rows], [columns])
    cut = grid.cut(Block("lulc", 0, 0, 0, *lulc.shape))
    assert cut is not None
    counts = {}
    for code, cells in count_codes(lulc, cut.row_edges, cut.column_edges).items():
        tally = CellCounts(grid)
        tally.put(cut.cells, cells)
        counts[code] = tally.windows(rows, columns)
    return counts


def count_candidates(classes: NDArray[np.uint8]) -> dict[str, int]:
    """Return the candidate windows of each class, by its name."""
    codes, numbers = np.unique(classes[classes > 0], return_counts=True)
    return {CLASS_NAMES[int(code)]: int(number) for code, number in zip(codes, numbers, strict=True)}


def needed_blocks(classes: NDArray[np.uint8], plan: CubePlan, config: Config) -> set[str]:
    """Return the names of the blocks, land cover's aside, that the chip of a candidate window touches."""
    lattice = WindowLattice(WindowGeometry.from_config(config.chips), plan.bounds, plan.epsg)
    return {
        block.name
        for sensor_plan in plan.sensors
        if sensor_plan.key != "lulc"
        for block in _touched(plan.blocks(sensor_plan.key), lattice, sensor_plan.resolution, classes > 0)
    }


def _touched(
    blocks: list[Block], lattice: WindowLattice, resolution: int, wanted: NDArray[np.bool_]
) -> Iterator[Block]:
    rows, columns = lattice.rows("chip", resolution), lattice.columns("chip", resolution)
    for block in blocks:
        across = (rows.start < block.row + block.height) & (rows.stop > block.row)
        along = (columns.start < block.col + block.width) & (columns.stop > block.col)
        if wanted[np.ix_(across, along)].any():
            yield block
