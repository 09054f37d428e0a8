"""Which windows land cover alone lets through, and which blocks of imagery they need."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cube.config.models import Config
from cube.config.sensors import CLASS_NAMES
from cube.scenes.plan import CubePlan
from cube.windows.footprints import footprints, outside
from cube.windows.grid import Block
from cube.windows.landcover import count_classes, land_cover_rules
from cube.windows.lattice import WindowGeometry, WindowLattice, windows_on


def candidate_classes(lulc: NDArray[np.uint8], plan: CubePlan, config: Config) -> NDArray[np.uint8]:
    """Return the majority class of every window that land cover lets through, and 0 for the others.

    Parameters
    ----------
    lulc
        ``(y, x)`` class codes on the plan's land-cover grid.
    config
        ``chips.classes``, ``chips.forbidden`` and ``aoi.candidate_purity`` (``chips.min_purity``
        where that is empty); with ``aoi.clip``, what lies beside the AOI's polygon is none, either.

    Returns
    -------
    numpy.ndarray
        ``(window rows, window columns)`` uint8.
    """
    lattice = WindowLattice(WindowGeometry.from_config(config.chips), plan.bounds, plan.epsg)
    resolution = plan.sensor("lulc").resolution
    whole = Block("lulc", 0, 0, 0, *lulc.shape)
    columns = count_classes([(whole, lulc)], lattice, resolution, max(lulc.shape))
    sample_px = lattice.geometry.window_px("sample", resolution)
    rules = land_cover_rules(columns, sample_px, config.chips, config.aoi.candidate_purity)
    broken = np.logical_or.reduce([found for _, found in rules])
    if config.aoi.clip != "none":
        outlines = footprints(lattice.geometry, plan.epsg, *lattice.corners())
        broken |= outside(plan.aoi, outlines, config.aoi.clip)
    return np.where(broken, 0, columns["lulc"]).astype(np.uint8).reshape(lattice.shape)


def count_candidates(classes: NDArray[np.uint8]) -> dict[str, int]:
    """Return the candidate windows of each class, by its name."""
    codes, numbers = np.unique(classes[classes > 0], return_counts=True)
    return {CLASS_NAMES[int(code)]: int(number) for code, number in zip(codes, numbers, strict=True)}


def needed_blocks(classes: NDArray[np.uint8], plan: CubePlan, config: Config) -> set[str]:
    """Return the names of the blocks, land cover's aside, that candidate windows need."""
    lattice = WindowLattice(WindowGeometry.from_config(config.chips), plan.bounds, plan.epsg)
    return {
        block.name
        for sensor_plan in plan.sensors
        if sensor_plan.key != "lulc"
        for block in plan.blocks(sensor_plan.key)
        if (classes > 0)[
            windows_on(block, lattice, sensor_plan.resolution, _cloud_buffer_px(config, sensor_plan.key))
        ].any()
    }


def _cloud_buffer_px(config: Config, sensor: str) -> int:
    rule = config.sensors[sensor].cloud_rule
    return rule.buffer_px if rule else 0
