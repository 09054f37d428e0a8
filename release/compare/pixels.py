"""Files of chips that both releases have: by checksum, and by pixel where it differs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cube.config.sensors import BandKind
from release.loading.dataset import Release
from release.opening.faults import ReleaseError

from .comparison import FileChange, RasterChange

_THREADS = 4
"""Read and compare rasters."""


@dataclass(frozen=True)
class Opened:
    """A release, and what it says of its files."""

    release: Release
    sums: Mapping[str, str]
    """SHA-256 by name."""
    there: frozenset[str]
    """Names of the files there are."""

    @classmethod
    def of(cls, release: Release) -> Opened:
        """Read the checksums and list the files of a release."""
        return cls(release, release.sums(), frozenset(release.file_names()))

    def digest(self, name: str) -> str | None:
        """Return a file's checksum; None where the release lacks it."""
        return self.sums.get(name) if name in self.there else None


@dataclass(frozen=True)
class Pair:
    """A raster of a chip in both releases."""

    cell: str
    sensor: str
    number: int
    file_a: str
    file_b: str


def raster_pairs(
    a: Opened, b: Opened, rows: Iterator[tuple[dict[str, Any], dict[str, Any]]]
) -> Iterator[Pair]:
    """Yield the rasters of chips that both have, date by date, as far as both have dates."""
    keys = [key for key in a.release.sensors if key in b.release.sensors]
    for row_a, row_b in rows:
        for key in keys:
            first = 0 if a.release.recipe.table[key].is_static else 1
            names = zip(a.release.row_paths(row_a, key), b.release.row_paths(row_b, key), strict=False)
            for number, (name_a, name_b) in enumerate(names, start=first):
                yield Pair(row_a["cell"], key, number, name_a, name_b)


def compare_files(
    a: Opened, b: Opened, pairs: Iterator[Pair]
) -> tuple[tuple[RasterChange, ...], tuple[FileChange, ...], int]:
    """Compare the files of chips that both have.

    Returns
    -------
    rasters, files, int
        Rasters whose bytes differ, with what differs in their pixels; files that are missing, and
        pictures that differ although their raster does not; how many rasters are the same.
    """
    to_read: list[Pair] = []
    files: list[FileChange] = []
    same = 0
    for pair in pairs:
        one, other = a.digest(pair.file_a), b.digest(pair.file_b)
        if one is None or other is None:
            files += [
                FileChange(name, side, "is missing")
                for name, digest, side in ((pair.file_a, one, "a"), (pair.file_b, other, "b"))
                if digest is None
            ]
        elif one != other:
            to_read.append(pair)
        else:
            same += 1
            files += _picture_changes(a, b, pair)
    with ThreadPoolExecutor(_THREADS) as pool:
        rasters = tuple(pool.map(lambda pair: compare_rasters(a.release, b.release, pair), to_read))
    return rasters, tuple(files), same


def _picture_changes(a: Opened, b: Opened, pair: Pair) -> Iterator[FileChange]:
    names = [name.removesuffix("tif") + "png" for name in (pair.file_a, pair.file_b)]
    one, other = a.digest(names[0]), b.digest(names[1])
    if one == other:
        return
    for name, digest, side in ((names[0], one, "a"), (names[1], other, "b")):
        if digest is None:
            yield FileChange(name, side, "is missing")
            return
    yield FileChange(names[1], "", "picture differs, its raster does not")


def compare_rasters(a: Release, b: Release, pair: Pair) -> RasterChange:
    """Say what differs between two rasters of a chip."""
    spec_a, spec_b = a.recipe.rasters[pair.sensor], b.recipe.rasters[pair.sensor]
    place = (pair.cell, pair.sensor, pair.number, pair.file_a, pair.file_b)
    if (spec_a.size_px, spec_a.resolution) != (spec_b.size_px, spec_b.resolution):
        sizes = [f"{spec.size_px} px of {spec.resolution} m" for spec in (spec_a, spec_b)]
        return RasterChange(*place, 0, 0, 0, (), None, None, note=f"{sizes[0]}, {sizes[1]}")
    bands = [name for name in spec_a.bands if name in spec_b.bands]
    try:
        one, other = read_both(a, b, pair, bands)
    except ReleaseError as error:
        return RasterChange(*place, 0, spec_a.size_px**2, 0, (), None, None, note=str(error))
    unlike = differing(one, other)
    per_band = [bool(layer.any()) for layer in unlike]
    if not unlike.any():
        note = "same pixels" if spec_a.bands == spec_b.bands else "same pixels in the bands that both have"
        return RasterChange(*place, 0, spec_a.size_px**2, 0, (), None, None, note=note)
    empty_a, empty_b = spec_a.is_nodata(one), spec_b.is_nodata(other)
    largest, mean = _sizes(one, other, ~empty_a & ~empty_b & np.isfinite(one) & np.isfinite(other))
    if all(a.recipe.table[pair.sensor].band(name).kind is BandKind.CLASSES for name in bands):
        largest = mean = None  # codes have no distance
    return RasterChange(
        *place,
        int(unlike.any(axis=0).sum()),
        spec_a.size_px**2,
        int((empty_a != empty_b).any(axis=0).sum()),
        tuple(name for name, found in zip(bands, per_band, strict=True) if found),
        largest,
        mean,
    )


def read_both(
    a: Release, b: Release, pair: Pair, bands: list[str]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Read the bands that both have of two rasters, ``(band, y, x)``, as stored."""
    one = a.read_raster(pair.file_a, pair.sensor, bands)
    other = b.read_raster(pair.file_b, pair.sensor, bands)
    return one.astype(np.float64), other.astype(np.float64)


def differing(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return where values differ; NaN is NaN's equal."""
    return np.asarray((one != other) & ~(np.isnan(one) & np.isnan(other)))


def _sizes(
    one: NDArray[np.float64], other: NDArray[np.float64], seen: NDArray[np.bool_]
) -> tuple[float | None, float | None]:
    """Return the largest and the mean absolute difference of what both see."""
    if not seen.any():
        return None, None
    apart = np.abs(one[seen] - other[seen])
    return float(apart.max()), float(apart.mean())
