"""Seeded noise as a function of place: a metre has one value, whatever grid asks for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from odc.geo.geobox import GeoBox

    Floats = NDArray[np.float32]

SPLINE_SPREAD = 3.6
"""Brings the cubic B-spline of uniform [-1, 1) lattice values to a standard deviation of about
one."""


def hash01(x: NDArray[np.int64], y: NDArray[np.int64], seed: int) -> NDArray[np.float64]:
    """Return a uniform number in [0, 1) for each pair of integers (the finaliser of splitmix64)."""
    with np.errstate(over="ignore"):
        h = x.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        h = h ^ (y.astype(np.uint64) * np.uint64(0xC2B2AE3D27D4EB4F))
        h = h + np.uint64((seed + 1) * 0x165667B19E3779F9 % 2**64)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            h = (h ^ (h >> np.uint64(shift))) * np.uint64(factor)
    return np.asarray((h ^ (h >> np.uint64(31))) >> np.uint64(11), dtype=np.float64) / 2.0**53


def axis_centres(geobox: GeoBox) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the coordinates of the pixel centres ``(x, y)``, in the units of the CRS."""
    t = geobox.transform
    columns, rows = np.arange(geobox.width, dtype=np.float64), np.arange(geobox.height, dtype=np.float64)
    return float(t.c) + float(t.a) * (columns + 0.5), float(t.f) + float(t.e) * (rows + 0.5)


def smooth_noise(geobox: GeoBox, scale_m: float, seed: int) -> Floats:
    """Return smooth noise with features of one size, ``(y, x)`` float32, mean 0, deviation about 1.

    Parameters
    ----------
    geobox
        North-up grid in metres.
    scale_m
        Spacing of the random lattice, which is anchored on the origin of the CRS.
    seed
        Another seed, another field.
    """
    xs, ys = axis_centres(geobox)
    columns, x_weights = _spline(xs / scale_m)
    rows, y_weights = _spline(ys / scale_m)
    first_x, first_y = int(columns.min()), int(rows.min())
    ix = np.arange(first_x, int(columns.max()) + 4)
    iy = np.arange(first_y, int(rows.max()) + 4)
    lattice = (hash01(ix[np.newaxis, :], iy[:, np.newaxis], seed) * 2 - 1).astype(np.float32)
    lines = sum(w[:, np.newaxis] * lattice[rows - first_y + n] for n, w in enumerate(y_weights))
    field = np.zeros(geobox.shape, dtype=np.float32)
    for n, w in enumerate(x_weights):
        field += w * np.take(lines, columns - first_x + n, axis=1)
    field *= np.float32(SPLINE_SPREAD)
    return field


def octaves(geobox: GeoBox, scales_m: tuple[float, ...], seed: int, *, decay: float = 0.5) -> Floats:
    """Return smooth noise of several sizes, each ``decay`` times as strong as the one before."""
    total = np.zeros(geobox.shape, dtype=np.float32)
    for n, scale in enumerate(scales_m):
        total += np.float32(decay**n) * smooth_noise(geobox, scale, seed * 31 + n)
    return total


def _spline(t: NDArray[np.float64]) -> tuple[NDArray[np.int64], tuple[Floats, ...]]:
    """Return the first of four lattice nodes around a point, and their cubic B-spline weights."""
    cell = np.floor(t).astype(np.int64)
    f = t - cell
    basis = ((1 - f) ** 3, 3 * f**3 - 6 * f**2 + 4, -3 * f**3 + 3 * f**2 + 3 * f + 1, f**3)
    return cell - 1, tuple((values / 6).astype(np.float32) for values in basis)
