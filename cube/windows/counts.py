"""Counting pixels once for all windows.

The edges of all windows, and of the blocks that a cube is read in, cut it into cells. Each pixel is
counted once, in its cell, when its block goes by; a running sum over the cells then gives every
window with four look-ups, however much windows overlap. Memory is a block's pixels and a number per
cell.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .grid import Block
from .lattice import Spans

Counts = NDArray[np.int32]
Edges = NDArray[np.int64]


class Cut(NamedTuple):
    """The cells of a grid within one block."""

    cells: tuple[slice, slice]
    row_edges: Edges
    """In the block's own pixels."""
    column_edges: Edges


class CellGrid:
    """The cells between all edges of windows and blocks on one pixel grid.

    Parameters
    ----------
    rows, columns
        Pixel intervals of the windows whose counts are wanted.
    block_rows, block_columns
        First pixels of the blocks that pixels come in.
    """

    def __init__(
        self,
        rows: Iterable[Spans],
        columns: Iterable[Spans],
        block_rows: Iterable[int] = (),
        block_columns: Iterable[int] = (),
    ) -> None:
        self.row_edges = _edges(rows, block_rows)
        self.column_edges = _edges(columns, block_columns)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of cells."""
        return len(self.row_edges) - 1, len(self.column_edges) - 1

    def cut(self, block: Block) -> Cut | None:
        """Return the cells that lie in a block, or None where no window reaches into it."""
        rows = _slice_between(self.row_edges, block.row, block.row + block.height)
        columns = _slice_between(self.column_edges, block.col, block.col + block.width)
        cells = slice(rows.start, rows.stop - 1), slice(columns.start, columns.stop - 1)
        if any(part.start >= part.stop for part in cells):
            return None
        return Cut(cells, self.row_edges[rows] - block.row, self.column_edges[columns] - block.col)


def _edges(spans: Iterable[Spans], blocks: Iterable[int]) -> Edges:
    windows = np.unique(np.concatenate([np.concatenate(span) for span in spans]))
    cuts = np.asarray(list(blocks), np.int64)
    return np.union1d(windows, cuts[(cuts > windows[0]) & (cuts < windows[-1])])


def _slice_between(edges: Edges, start: int, stop: int) -> slice:
    first, last = np.searchsorted(edges, (start, stop + 1))
    return slice(int(first), int(last))


class CellCounts:
    """A number of pixels per cell of a grid, to be asked for the number in each window."""

    def __init__(self, grid: CellGrid) -> None:
        self._grid = grid
        self._cells: Counts = np.zeros(grid.shape, np.int32)

    def put(self, cells: tuple[slice, slice], counts: Counts | int) -> None:
        """Set the cells of one block."""
        self._cells[cells] = counts

    def windows(self, rows: Spans, columns: Spans) -> NDArray[np.int64]:
        """Return ``(window rows, window columns)`` the number of pixels in each window."""
        sums = np.zeros((self._cells.shape[0] + 1, self._cells.shape[1] + 1), np.int64)
        np.cumsum(self._cells, axis=0, out=sums[1:, 1:])
        np.cumsum(sums[1:, 1:], axis=1, out=sums[1:, 1:])
        top, bottom = (np.searchsorted(self._grid.row_edges, edge) for edge in rows)
        left, right = (np.searchsorted(self._grid.column_edges, edge) for edge in columns)
        lower = sums[np.ix_(bottom, right)] - sums[np.ix_(bottom, left)]
        upper = sums[np.ix_(top, right)] - sums[np.ix_(top, left)]
        counts: NDArray[np.int64] = lower - upper
        return counts


def count_true(mask: NDArray[np.bool_], row_edges: Edges, column_edges: Edges) -> Counts:
    """Return ``(rows, columns)`` how many pixels of a block are True between each pair of edges."""
    out = np.empty((len(row_edges) - 1, len(column_edges) - 1), np.int32)
    pixels = mask[:, column_edges[0] : column_edges[-1]].view(np.uint8)
    starts = column_edges[:-1] - column_edges[0]
    for index, (top, bottom) in enumerate(itertools.pairwise(row_edges.tolist())):
        out[index] = np.add.reduceat(_column_sums(pixels[top:bottom]), starts, dtype=np.int32)
    return out


def count_codes(codes: NDArray[np.integer], row_edges: Edges, column_edges: Edges) -> dict[int, Counts]:
    """Count, by code, ``(rows, columns)`` a block's pixels between each pair of edges.

    A strip of cells at a time, so that the comparisons stay in the processor's cache; the codes of
    the strip before are tried first, and none more once every pixel is accounted for.
    """
    shape = (len(row_edges) - 1, len(column_edges) - 1)
    pixels = codes[:, column_edges[0] : column_edges[-1]]
    starts = column_edges[:-1] - column_edges[0]
    found: dict[int, Counts] = {}
    known: list[int] = []
    for index, (top, bottom) in enumerate(itertools.pairwise(row_edges.tolist())):
        strip = pixels[top:bottom]
        seen = _count_strip(strip, known)
        for code, columns in seen.items():
            counts = found.setdefault(code, np.zeros(shape, np.int32))
            counts[index] = np.add.reduceat(columns, starts, dtype=np.int32)
        known = sorted(found, key=lambda code: (code not in seen, code))
    return found


def _count_strip(
    strip: NDArray[np.integer], known: Collection[int]
) -> dict[int, NDArray[np.unsignedinteger]]:
    """Return, by code, the number of its pixels in each column of a strip."""
    hits = np.empty(strip.shape, np.bool_)
    left = strip.size
    seen: dict[int, NDArray[np.unsignedinteger]] = {}
    for code in _codes_to_try(strip, known):
        columns = _column_sums(np.equal(strip, code, out=hits).view(np.uint8))
        count = int(columns.sum(dtype=np.int64))
        if count:
            seen[code] = columns
            left -= count
        if not left:
            break
    return seen


def _codes_to_try(strip: NDArray[np.integer], known: Collection[int]) -> Iterator[int]:
    """Yield the known codes, then, if anybody still asks, the others that the strip holds."""
    yield from known
    yield from sorted(set(np.unique(strip).tolist()) - set(known))


def _column_sums(strip: NDArray[np.uint8]) -> NDArray[np.unsignedinteger]:
    """Add up zeros and ones down each column, in the narrowest type that holds the sum."""
    height = strip.shape[0]
    dtype = np.uint8 if height < 256 else np.uint16 if height < 65_536 else np.uint32
    sums: NDArray[np.unsignedinteger] = np.add.reduce(strip, axis=0, dtype=dtype)
    return sums
