"""Images in units of their bands' own spread, and classes by how rare they are."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from release.opening.faults import UNREADABLE, ReleaseError, first_line
from release.statistics import STATISTICS_NAME

Sample = dict[str, Any]


@dataclass(frozen=True)
class BandScale:
    """What the numbers of an image's bands are: ``(band, 1, 1)`` float32 each."""

    mean: NDArray[np.float32]
    std: NDArray[np.float32]
    nodata: float | None
    """Set aside for no data; NaN is no data of floats whatever it is."""

    def apply(self, image: NDArray[Any]) -> NDArray[np.float32]:
        """Return an image of mean 0 and standard deviation 1; 0, the mean, where there is no data.

        Parameters
        ----------
        image
            ``(..., band, height, width)``, as stored.
        """
        empty = ~np.isfinite(image) if image.dtype.kind == "f" else None
        if self.nodata is not None and np.isfinite(self.nodata):
            set_aside = image == self.nodata
            empty = set_aside if empty is None else empty | set_aside
        values = image.astype(np.float32)
        values -= self.mean
        values /= self.std
        if empty is not None:
            values[empty] = 0
        return values


@dataclass(frozen=True)
class Normaliser:
    """Normalises the images of sample dicts. Travels to worker processes."""

    scales: Mapping[str, BandScale]
    """By sensor. Images of others, which are codes of classes, are left as they are."""

    def __call__(self, sample: Sample) -> Sample:
        """Return the sample with its images as float32."""
        images = {f"image_{key}": scale for key, scale in self.scales.items()}
        return {
            name: images[name].apply(value) if name in images else value for name, value in sample.items()
        }


def make_normaliser(
    statistics: Mapping[str, Any], bands: Mapping[str, Sequence[str]], nodata: Mapping[str, float | None]
) -> Normaliser:
    """Take what normalising needs from statistics.

    Parameters
    ----------
    statistics
        ``statistics.json``, as :func:`read_statistics` returns it.
    bands
        Of each sensor's image, in its order.
    nodata
        What each sensor's rasters set aside for no data.

    Raises
    ------
    ReleaseError
        If a band has no statistics, or an image has both classes and numbers.
    """
    scales = {}
    for key, names in bands.items():
        own = statistics["sensors"].get(key, {}).get("bands", {})
        known = [name for name in names if "mean" in own.get(name, {})]
        if not known and all("counts" in own.get(name, {}) for name in names):
            continue  # classes
        if lacking := [name for name in names if name not in known]:
            raise ReleaseError(
                f"{key}: {STATISTICS_NAME} has no mean of {lacking[0]}, so it cannot be normalised; name other "
                "bands, or leave normalising out"
            )
        mean, std = ([own[name][what] for name in names] for what in ("mean", "std"))
        spread = [one or 1.0 for one in std]
        scales[key] = BandScale(_per_band(mean), _per_band(spread), nodata[key])
    return Normaliser(scales)


def _per_band(values: Sequence[float]) -> NDArray[np.float32]:
    return np.asarray(values, np.float32)[:, np.newaxis, np.newaxis]


def read_statistics(where: object, data: bytes) -> dict[str, Any]:
    """Parse ``statistics.json``, which may be anybody's.

    Raises
    ------
    ReleaseError
        If it is none.
    """
    try:
        found = json.loads(data)
        if not all(isinstance(one["bands"], dict) for one in found["sensors"].values()):
            raise ValueError("sensors without bands")
    except UNREADABLE as error:
        raise ReleaseError(f"{where}: {STATISTICS_NAME} cannot be read ({first_line(error)})") from None
    return dict(found)


def balanced_weights(labels: Iterable[int], classes: int) -> NDArray[np.float32]:
    """Return a weight per class with which all classes that are there count the same in a loss.

    The mean over the labels is 1. A class that no label names has weight 0.
    """
    counts = np.bincount(np.fromiter(labels, np.int64), minlength=classes)
    there = counts > 0
    weights = np.zeros(classes, np.float32)
    weights[there] = counts.sum() / (there.sum() * counts[there])
    return weights
