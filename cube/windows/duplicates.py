"""Windows of different areas that show the same ground, found on narrow columns."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from .footprints import footprints, near_pairs, overlapping
from .lattice import WindowGeometry

_PLACE_BITS = 28
"""Of an edge in a zone: up to 134,000 km either way."""
_KEPT_OUTLINES = 64
"""Areas whose outlines are held at once: an outline takes a hundred times what a place does."""


@dataclass(frozen=True, eq=False)
class Places:
    """Where windows lie, area after area; windows are numbered through in that order."""

    geometry: WindowGeometry
    epsg: NDArray[np.int32]
    """Zone of each area."""
    starts: NDArray[np.int64]
    """Number of each area's first window, and the number of all."""
    left_m: NDArray[np.int32]
    """Western edge of each sample window, metres in its area's zone."""
    top_m: NDArray[np.int32]

    def __len__(self) -> int:
        """Return the number of windows."""
        return len(self.left_m)

    def duplicates(self, wanted: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return which of the windows that are wanted have to go.

        Areas have their turn one after the other: a window goes if one of an earlier area that
        stays has the same cell or, in another zone, a chip that shares over a tenth of its ground.

        Parameters
        ----------
        wanted
            ``(windows,)``; the others neither go nor make any go.
        """
        gone = self._not_first(wanted)
        pairs = self.overlaps[wanted[self.overlaps].all(axis=1)]
        if len(pairs):
            self._go_one_by_one(gone, np.flatnonzero(wanted & self._shares_cell_with(pairs)), pairs)
        return gone

    @cached_property
    def overlaps(self) -> NDArray[np.int64]:
        """Pairs of windows of different zones that share ground: ``(n, 2)``, lower number first."""
        found = list(self._overlapping_pairs())
        return np.concatenate(found) if found else np.zeros((0, 2), np.int64)

    @cached_property
    def _cells(self) -> NDArray[np.int64]:
        """Each window's cell as a number."""
        _, zones = np.unique(self.epsg, return_inverse=True)
        middle = np.int64(1 << (_PLACE_BITS - 1))
        cells = np.repeat(zones.astype(np.int64), np.diff(self.starts))
        for edges in (self.left_m, self.top_m):
            cells <<= _PLACE_BITS
            cells |= edges + middle
        return cells

    @cached_property
    def _by_cell(self) -> NDArray[np.intp]:
        """Windows in the order of their cells, those of one cell in the order of areas."""
        return np.argsort(self._cells, kind="stable")

    def _not_first(self, wanted: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return which windows have an earlier one in their cell, zones left aside."""
        order = self._by_cell if wanted.all() else self._by_cell[wanted[self._by_cell]]
        cells = self._cells[order]
        gone = np.zeros(len(self), np.bool_)
        gone[order[1:][cells[1:] == cells[:-1]]] = True
        return gone

    def _shares_cell_with(self, pairs: NDArray[np.int64]) -> NDArray[np.bool_]:
        return np.isin(self._cells, self._cells[pairs.ravel()])

    def _go_one_by_one(
        self, gone: NDArray[np.bool_], windows: NDArray[np.intp], pairs: NDArray[np.int64]
    ) -> None:
        """Decide anew for the windows of cells in which some share ground across zones."""
        earlier: dict[int, list[int]] = defaultdict(list)
        for one, two in pairs.tolist():
            earlier[two].append(one)
        taken: set[int] = set()
        for window, cell in zip(windows.tolist(), self._cells[windows].tolist(), strict=True):
            gone[window] = cell in taken or any(not gone[one] for one in earlier[window])
            if not gone[window]:
                taken.add(cell)

    def _overlapping_pairs(self) -> Iterator[NDArray[np.int64]]:
        filled = np.flatnonzero(np.diff(self.starts))
        bounds = np.array([self._bounds(area) for area in filled.tolist()], np.float64).reshape(-1, 4)
        outlines = lru_cache(_KEPT_OUTLINES)(self._outlines)
        for one, two in near_pairs(self.epsg[filled].tolist(), bounds):
            areas = int(filled[one]), int(filled[two])
            if pairs := overlapping(*map(outlines, areas)):
                yield np.array(pairs, np.int64) + self.starts[[*areas]]

    def _of(self, area: int) -> slice:
        return slice(*self.starts[area : area + 2].tolist())

    def _outlines(self, area: int) -> NDArray[np.object_]:
        """Return the outlines of an area's chips, EPSG:4326."""
        own = self._of(area)
        return footprints(self.geometry, int(self.epsg[area]), self.left_m[own], self.top_m[own])

    def _bounds(self, area: int) -> tuple[int, int, int, int]:
        """Return left, bottom, right and top of all of an area's chips, metres in its zone."""
        left, top, geometry = self.left_m[self._of(area)], self.top_m[self._of(area)], self.geometry
        beyond = geometry.chip_m - geometry.margin_m
        west, north = left.min() - geometry.margin_m, top.max() + geometry.margin_m
        return int(west), int(top.min()) - beyond, int(left.max()) + beyond, int(north)
