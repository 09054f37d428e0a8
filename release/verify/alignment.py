"""How far one image lies from another: correlation of edges, summed over many chips."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MAX_LAG_PX = 12
_MIN_CHIPS = 4
_MIN_CORRELATION = 0.03
_SIGMAS = 4.0

Image = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class Offset:
    """Where one image's content lies, seen from another's, pixels of the reference grid."""

    south: int
    east: int


@dataclass(frozen=True, slots=True)
class Edges:
    """Strength of an image's edges, ready to be correlated."""

    spectrum: NDArray[np.complexfloating[Any, Any]]
    """Fourier transform of a square image; the half that a real image needs."""
    size: int
    energy: float
    """Sum of the squares of the strength."""


def edges(image: NDArray[Any], size: int) -> Edges:
    """Return the strength of an image's edges, ``(band, y, x)``, tapered to nought at its rim.

    `size` is the side of the grid that it is brought onto, pixels; a multiple of the image's.
    Coarser images are repeated onto the grid first; values that are not finite count as the mean.
    """
    layer: NDArray[Any] = image.mean(axis=0, dtype=np.float32)
    finite = np.isfinite(layer)
    if not finite.all():
        layer = np.where(finite, layer, layer[finite].mean() if finite.any() else np.float32(0))
    times = size // layer.shape[0]
    if times > 1:
        layer = layer.repeat(times, axis=0).repeat(times, axis=1)
    smooth = _sum_of_3_by_3(layer)
    strength = np.hypot(*np.gradient(smooth))
    strength -= strength.mean()
    strength *= _taper(size)
    return Edges(np.fft.rfft2(strength), size, float(np.vdot(strength, strength)))


@lru_cache(maxsize=8)
def _taper(size: int) -> Image:
    window = np.hanning(size).astype(np.float32)
    return window[:, None] * window[None, :]


def _sum_of_3_by_3(layer: Image) -> Image:
    """Return the sum over 3 x 3 pixels, the rim's repeated beyond it."""
    padded = np.pad(layer, 1, mode="edge")
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    return np.asarray(rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:])


def surface(reference: Edges, other: Edges) -> Image | None:
    """Correlate two images' edges at every lag up to a few pixels.

    Returns
    -------
    ndarray or None
        ``(2 n + 1, 2 n + 1)``, no lag in the middle; positive lags: `other` lies further south,
        east. None where one of them has no edges.
    """
    norm = math.sqrt(reference.energy * other.energy)
    if norm < 1e-12:  # nothing but rounding
        return None
    size = reference.size
    product = np.conj(reference.spectrum) * other.spectrum
    whole = np.fft.irfft2(product, s=(size, size))
    lags = np.arange(-_largest_lag(size), _largest_lag(size) + 1)
    return whole[np.ix_(lags, lags)].astype(np.float64) / norm


def _largest_lag(size: int) -> int:
    return min(_MAX_LAG_PX, size // 4)


@dataclass
class Alignment:
    """Surfaces of one sensor and time range, summed over chips; sums of parts may be added."""

    count: int = 0
    total: Image | None = field(default=None)
    squares: Image | None = field(default=None)

    def add(self, one: Image) -> None:
        """Add a chip's surface."""
        self.merge(Alignment(1, one, one**2))

    def merge(self, other: Alignment) -> None:
        """Add the sums of other chips."""
        if other.total is None or other.squares is None:
            return
        self.count += other.count
        self.total = other.total if self.total is None else self.total + other.total
        self.squares = other.squares if self.squares is None else self.squares + other.squares

    def offset(self, tolerance_px: int) -> Offset | None:
        """Return where the content lies if it is surely `tolerance_px` off or more, else None."""
        if self.total is None or self.squares is None or self.count < _MIN_CHIPS:
            return None
        mean = self.total / self.count
        error = np.sqrt(np.maximum(self.squares / self.count - mean**2, 0) / (self.count - 1))
        reach = mean.shape[0] // 2
        peak = np.unravel_index(int(mean.argmax()), mean.shape)
        south, east = int(peak[0]) - reach, int(peak[1]) - reach
        if max(abs(south), abs(east)) < tolerance_px:
            return None
        near = mean[reach - 1 : reach + 2, reach - 1 : reach + 2]
        doubt = _SIGMAS * math.hypot(float(error[peak]), float(error[reach, reach]))
        if mean[peak] < _MIN_CORRELATION or mean[peak] - near.max() <= doubt:
            return None
        return Offset(south, east)
