"""The lattice of windows: which squares of a cube are judged, and where their pixels lie.

A sample window is the square whose land cover is judged; the chip is that square grown by a margin.
Windows lie on absolute multiples of the stride in the cube's UTM zone, so that a place on Earth has
one window whatever AOI it came from. Everything here is integer arithmetic in metres.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from cube.config.models import ChipsConfig

from .grid import Block, Bounds

Metres = NDArray[np.int64]
Part = Literal["sample", "chip"]
"""The square whose land cover is judged, or the chip around it."""


class Spans(NamedTuple):
    """Half-open pixel intervals along one axis, one per row or column of windows."""

    start: Metres
    stop: Metres


@dataclass(frozen=True, slots=True)
class WindowGeometry:
    """Sizes of windows, metres."""

    sample_m: int
    chip_m: int
    stride_m: int

    @classmethod
    def from_config(cls, chips: ChipsConfig) -> WindowGeometry:
        """Return the sizes that a config asks for."""
        return cls(chips.sample_size, chips.chip_size, chips.stride_m)

    @property
    def margin_m(self) -> int:
        """Width of the chip's rim around its sample window."""
        return (self.chip_m - self.sample_m) // 2

    def window_px(self, part: Part, resolution: int) -> int:
        """Pixels in a sample window or chip."""
        side = (self.sample_m if part == "sample" else self.chip_m) // resolution
        return side * side

    def bounds(self, part: Part, left_m: int, top_m: int) -> Bounds:
        """Return the square of the window whose sample has this left and top edge."""
        side, margin = (self.sample_m, 0) if part == "sample" else (self.chip_m, self.margin_m)
        left, top = left_m - margin, top_m + margin
        return Bounds(left, top - side, left + side, top)


@dataclass(frozen=True)
class WindowLattice:
    """Every window whose chip lies inside a cube, from north to south and west to east.

    Examples
    --------
    >>> lattice = WindowLattice(WindowGeometry(960, 1920, 960), Bounds(0, 0, 3840, 2880), 32632)
    >>> lattice.shape
    (1, 2)
    >>> lattice.cells()
    ['32632_960_1920', '32632_1920_1920']
    """

    geometry: WindowGeometry
    bounds: Bounds
    epsg: int

    @cached_property
    def lefts_m(self) -> Metres:
        """Left edges of the sample windows, ascending."""
        margin, side = self.geometry.margin_m, self.geometry.sample_m
        return self._multiples(self.bounds.left + margin, self.bounds.right - margin - side)

    @cached_property
    def tops_m(self) -> Metres:
        """Top edges of the sample windows, descending."""
        margin, side = self.geometry.margin_m, self.geometry.sample_m
        return self._multiples(self.bounds.bottom + margin + side, self.bounds.top - margin)[::-1]

    def _multiples(self, low: int, high: int) -> Metres:
        """Return the multiples of the stride within ``[low, high]``."""
        stride = self.geometry.stride_m
        return np.arange(-(-low // stride), high // stride + 1, dtype=np.int64) * stride

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of windows; either is 0 where no chip fits."""
        return len(self.tops_m), len(self.lefts_m)

    def __len__(self) -> int:
        """Return the number of windows."""
        return len(self.tops_m) * len(self.lefts_m)

    def corners(self) -> tuple[Metres, Metres]:
        """Return ``(left, top)`` edges of every sample window, row by row."""
        tops, lefts = np.meshgrid(self.tops_m, self.lefts_m, indexing="ij")
        return lefts.ravel(), tops.ravel()

    def cells(self) -> list[str]:
        """Return the name of every window, row by row."""
        return [
            f"{self.epsg}_{left}_{top}"
            for left, top in zip(*map(np.ndarray.tolist, self.corners()), strict=True)
        ]

    def rows(self, part: Part, resolution: int) -> Spans:
        """Return each window row's pixel rows, on the cube's grid of a resolution."""
        margin, side = self._reach(part)
        start = (self.bounds.top - self.tops_m - margin) // resolution
        return Spans(start, start + side // resolution)

    def columns(self, part: Part, resolution: int) -> Spans:
        """Return each window column's pixel columns, on the cube's grid of a resolution."""
        margin, side = self._reach(part)
        start = (self.lefts_m - margin - self.bounds.left) // resolution
        return Spans(start, start + side // resolution)

    def _reach(self, part: Part) -> tuple[int, int]:
        return (
            (0, self.geometry.sample_m)
            if part == "sample"
            else (self.geometry.margin_m, self.geometry.chip_m)
        )


def windows_on(
    block: Block, lattice: WindowLattice, resolution: int, buffer_px: int = 0
) -> tuple[NDArray[np.intp], ...]:
    """Return which windows have a chip, or a cloud buffer around it, that reaches into a block.

    Parameters
    ----------
    block
        Pixels of one sensor.
    lattice
        The windows.
    resolution
        Pixel size of the sensor, metres.
    buffer_px
        How far around a pixel its cloud rule looks.

    Returns
    -------
    tuple of numpy.ndarray
        What indexes an array of the lattice's shape.
    """
    rows, columns = lattice.rows("chip", resolution), lattice.columns("chip", resolution)
    top, left = block.row - buffer_px, block.col - buffer_px
    bottom, right = block.row + block.height + buffer_px, block.col + block.width + buffer_px
    across = (rows.start < bottom) & (rows.stop > top)
    along = (columns.start < right) & (columns.stop > left)
    return np.ix_(np.flatnonzero(across), np.flatnonzero(along))
