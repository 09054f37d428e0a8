"""``statistics.json``: what the numbers of each sensor and band are, for normalising and plotting.

Made chip by chip while a release is written. Sums are merged in the order of chips, and counts know
no order: the bytes do not depend on how many threads read the chips.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cube.config.sensors import BandKind

from .recipe import RasterSpec, Recipe

STATISTICS_NAME = "statistics.json"
TRAIN = "train"
PERCENTILES = (1, 2, 98, 99)
_SCHEMA_VERSION = 1
_BINS = 50
"""Of a histogram, between the first and the last but one percentile."""
_KEPT_BITS = 18
"""Of a float32: sign, exponent and 9 bits of the fraction, so that a bucket is 0.2 % wide."""
_DROPPED_BITS = 32 - _KEPT_BITS
_EXACT_BYTES = 2
"""Integers up to that size are counted one by one."""
_DIGITS = 9
"""Significant ones of means: the last ones of a sum depend on the processor."""
_COUNTED = {BandKind.CLASSES, BandKind.FLAGS}
"""Kinds whose numbers are names, of which no mean is taken."""

_GELOS_BANDS = {
    "s2l2a": {
        "B01": "COASTAL_AEROSOL",
        "B02": "BLUE",
        "B03": "GREEN",
        "B04": "RED",
        "B05": "RED_EDGE_1",
        "B06": "RED_EDGE_2",
        "B07": "RED_EDGE_3",
        "B08": "NIR_BROAD",
        "B8A": "NIR_NARROW",
        "B09": "WATER_VAPOR",
        "B11": "SWIR_1",
        "B12": "SWIR_2",
    },
    "s1rtc": {"vv": "VV", "vh": "VH"},
    "dem": {"elevation": "DEM"},
}
"""What GELOS calls bands that it calls by another name."""


def statistics_split(splits: Iterable[str]) -> str | None:
    """Return the split that statistics are taken of: train where there is one; None: of all."""
    return TRAIN if TRAIN in set(splits) else None


def counted_rows(table: pd.DataFrame) -> NDArray[np.bool_]:
    """Return which chips of a table, by their ``split``, statistics are taken of."""
    split = statistics_split(table["split"])
    return np.ones(len(table), bool) if split is None else (table["split"] == split).to_numpy(bool)


@dataclass(frozen=True, slots=True)
class Moments:
    """Number, mean, and sum of squared distances from it, of some values of each band."""

    count: NDArray[np.int64]
    mean: NDArray[np.float64]
    squares: NDArray[np.float64]

    @classmethod
    def of(cls, values: NDArray[Any], valid: NDArray[np.bool_]) -> Moments:
        """Measure ``(band, value)``."""
        count = valid.sum(axis=1, dtype=np.int64)
        known = np.zeros(values.shape)
        np.copyto(known, values, where=valid)
        mean = known.sum(axis=1) / np.maximum(count, 1)
        known -= mean[:, None]
        np.square(known, out=known, where=valid)
        known[~valid] = 0.0
        return cls(count, mean, known.sum(axis=1))

    def merged(self, other: Moments) -> Moments:
        """Return the moments of both together (Chan, Golub and LeVeque)."""
        count = self.count + other.count
        share = other.count / np.maximum(count, 1)
        apart = other.mean - self.mean
        squares = self.squares + other.squares + apart**2 * self.count * share
        return Moments(count, self.mean + apart * share, squares)


@dataclass(frozen=True, slots=True)
class ChipMoments:
    """A chip's share in what depends on the order of adding: moments by sensor of floats."""

    linear: Mapping[str, Moments]
    decibels: Mapping[str, Moments]
    """Of backscatter, 10 log10 of the positive values."""


class Tally:
    """Adds chips up: counts of values as they come, from any thread; moments in order.

    Parameters
    ----------
    recipe
        What the release was made with.
    split
        What the chips are of; None: of all.
    """

    def __init__(self, recipe: Recipe, split: str | None) -> None:
        self._recipe, self._split, self._chips = recipe, split, 0
        self._buckets = {key: _buckets_of(spec) for key, spec in recipe.rasters.items()}
        self._linear: dict[str, Moments] = {}
        self._decibels: dict[str, Moments] = {}

    def count(self, rasters: Mapping[str, list[NDArray[Any]]]) -> ChipMoments:
        """Count a chip's values; safe to be called from several threads.

        Parameters
        ----------
        rasters
            By sensor, a ``(band, height, width)`` per date.

        Returns
        -------
        ChipMoments
            For :meth:`add`, in the order of chips.
        """
        linear, decibels = {}, {}
        for key, dates in rasters.items():
            spec, buckets = self._recipe.rasters[key], self._buckets[key]
            values = np.stack(dates, axis=1).reshape(len(spec.bands), -1)
            if isinstance(buckets, _ExactBuckets):
                buckets.add(values)
                continue
            valid = ~spec.is_nodata(values) & np.isfinite(values)
            buckets.add(values, valid)
            linear[key] = Moments.of(values, valid)
            if BandKind.BACKSCATTER in {self._recipe.table[key].band(name).kind for name in spec.bands}:
                positive = valid & (values > 0)
                logarithm = 10 * np.log10(np.where(positive, values, 1).astype(np.float64))
                decibels[key] = Moments.of(logarithm, positive)
        return ChipMoments(linear, decibels)

    def add(self, chip: ChipMoments) -> None:
        """Add what :meth:`count` returned of the next chip."""
        self._chips += 1
        for total, part in ((self._linear, chip.linear), (self._decibels, chip.decibels)):
            for key, moments in part.items():
                total[key] = total[key].merged(moments) if key in total else moments

    def state(self) -> dict[str, NDArray[Any]]:
        """Return what was added so far as plain arrays by name, for :meth:`merge`."""
        found: dict[str, NDArray[Any]] = {"chips": np.array([self._chips])}
        for key, buckets in self._buckets.items():
            found |= {f"{key}/{name}": values for name, values in buckets.state().items()}
        for kind, totals in (("linear", self._linear), ("decibels", self._decibels)):
            for key, moments in totals.items():
                found |= {f"{key}/{kind}/{name}": getattr(moments, name) for name in Moments.__slots__}
        return found

    def merge(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Add the :meth:`state` of the tally of the chips that come next."""
        self._chips += int(state["chips"][0])
        for key, buckets in self._buckets.items():
            buckets.merge({name: state[f"{key}/{name}"] for name in buckets.STATE})
        for kind, totals in (("linear", self._linear), ("decibels", self._decibels)):
            for key in self._buckets:
                if f"{key}/{kind}/count" in state:
                    part = Moments(*(state[f"{key}/{kind}/{name}"] for name in Moments.__slots__))
                    totals[key] = totals[key].merged(part) if key in totals else part

    def to_dict(self) -> dict[str, Any]:
        """Return all statistics; numbers are in the units of the rasters as stored."""
        sensors = {key: {"bands": self._bands(key)} for key in self._recipe.rasters}
        return {
            "schema_version": _SCHEMA_VERSION,
            "split": self._split,
            "chips": self._chips,
            "sensors": sensors,
            "MEANS": _gelos_form(sensors, "mean"),
            "STDS": _gelos_form(sensors, "std"),
        }

    def to_json(self) -> bytes:
        """Write ``statistics.json``."""
        return (json.dumps(self.to_dict(), indent=1, allow_nan=False) + "\n").encode()

    def _bands(self, key: str) -> dict[str, Any]:
        spec = self._recipe.rasters[key]
        return {name: self._band(key, index, name) for index, name in enumerate(spec.bands)}

    def _band(self, key: str, index: int, name: str) -> dict[str, Any]:
        kind, buckets = self._recipe.table[key].band(name).kind, self._buckets[key]
        found = buckets.describe(index, counted=kind in _COUNTED)
        if kind in _COUNTED or not found["valid"]:
            return found
        if isinstance(buckets, _ExactBuckets):
            return found | buckets.mean_and_std(index)
        found |= _mean_and_std(self._linear[key], index)
        if kind is BandKind.BACKSCATTER:
            found["decibels"] = _mean_and_std(self._decibels[key], index)
        return found


def _mean_and_std(moments: Moments, index: int) -> dict[str, float]:
    count = max(int(moments.count[index]), 1)
    std = float(np.sqrt(moments.squares[index] / count))
    return {"mean": _rounded(float(moments.mean[index])), "std": _rounded(std)}


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")


def _gelos_form(sensors: Mapping[str, Any], what: str) -> dict[str, dict[str, float]]:
    """Return a number of each band as GELOS's scripts write and its data module reads them."""
    form = {}
    for key, sensor in sensors.items():
        names = _GELOS_BANDS.get(key, {})
        bands = {names.get(name, name): one[what] for name, one in sensor["bands"].items() if what in one}
        if bands:
            form[key.upper()] = bands
    return form


class _Buckets:
    """How often each value of each band of a sensor was met, or each of nearly equal ones."""

    STATE: ClassVar[tuple[str, ...]] = ("places", "counts", "total")
    """Names of the arrays of a state."""

    def __init__(self, bands: int, size: int) -> None:
        self._counts = np.zeros((bands, size), np.int64)
        self._total = 0
        self._lock = threading.Lock()

    def state(self) -> dict[str, NDArray[Any]]:
        """Return what was counted: of buckets those alone that hold something."""
        places = np.flatnonzero(self._counts)
        counts, total = self._counts.ravel()[places], np.array([self._total])
        return dict(zip(_Buckets.STATE, (places, counts, total), strict=True))

    def merge(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Add what others counted."""
        self._counts.reshape(-1)[state["places"]] += state["counts"]
        self._total += int(state["total"][0])

    def _add(self, index: int, buckets: NDArray[np.int64], but: int | None = None) -> None:
        """Count the buckets of a band's values, but one; as wide as what is seen, no wider."""
        first = int(buckets.min())
        counts = np.bincount(buckets - first)
        if but is not None and first <= but < first + len(counts):
            counts[but - first] = 0
        with self._lock:
            self._counts[index, first : first + len(counts)] += counts

    def _bucket(self, values: NDArray[Any]) -> NDArray[np.int64]:
        """Return the bucket of each value; larger values have larger ones."""
        raise NotImplementedError

    def _edge(self, bucket: int) -> float:
        """Return the least value of a bucket."""
        raise NotImplementedError

    def _middle(self, bucket: int) -> float:
        """Return the value that stands for all of a bucket."""
        raise NotImplementedError

    def _range(self, index: int) -> tuple[float, float]:
        """Return the least and the largest value of a band that has some."""
        raise NotImplementedError

    def describe(self, index: int, *, counted: bool) -> dict[str, Any]:
        """Return what is known of a band."""
        counts = self._counts[index]
        valid = int(counts.sum())
        found: dict[str, Any] = {
            "pixels": self._total,
            "valid": valid,
            "valid_share": _rounded(valid / max(self._total, 1)),
        }
        if counted:
            met = np.flatnonzero(counts)
            return found | {"counts": {f"{self._edge(int(one)):g}": int(counts[one]) for one in met}}
        if not valid:
            return found
        low, high = self._range(index)
        below = counts.cumsum()
        places = [int(np.searchsorted(below, share * valid / 100)) for share in PERCENTILES]
        found |= {"min": low, "max": high}
        found["percentiles"] = {
            str(share): float(np.clip(_rounded(self._middle(place)), low, high))
            for share, place in zip(PERCENTILES, places, strict=True)
        }
        return found | {"histogram": self._histogram(counts, below, places)}

    def _histogram(
        self, counts: NDArray[np.int64], below: NDArray[np.int64], places: list[int]
    ) -> dict[str, list[Any]]:
        """Return edges, which lie between buckets, and how many values each pair of them holds."""
        met = np.flatnonzero(counts)
        first, last = int(met[0]), int(met[-1])
        inner = np.linspace(self._edge(places[0]), self._edge(places[-1] + 1), _BINS + 1)
        cuts = {int(one) for one in self._bucket(inner) if first < one <= last}
        edges = [first, *sorted(cuts), last + 1]
        upto = [0, *(int(below[one - 1]) for one in edges[1:])]
        return {"edges": [self._edge(one) for one in edges], "counts": np.diff(upto).tolist()}


class _ExactBuckets(_Buckets):
    """Of integers of 16 bits at most: each value has a bucket of its own, and all else follows."""

    def __init__(self, spec: RasterSpec) -> None:
        dtype = np.dtype(spec.dtype)
        super().__init__(len(spec.bands), 1 << (8 * dtype.itemsize))
        self._lowest = int(np.iinfo(dtype).min)
        has_nodata = spec.nodata is not None and float(spec.nodata).is_integer()
        self._nodata = int(spec.nodata) - self._lowest if spec.nodata is not None and has_nodata else None

    def add(self, values: NDArray[Any]) -> None:
        """Count ``(band, value)``, nodata but for their number."""
        for index, own in enumerate(values):
            self._add(index, self._bucket(own), self._nodata)
        with self._lock:
            self._total += values.shape[1]

    def mean_and_std(self, index: int) -> dict[str, float]:
        """Return both of a band that has values."""
        met = np.flatnonzero(self._counts[index])
        values, counts = met + self._lowest, self._counts[index, met]
        number = int(counts.sum())
        mean = int(values @ counts) / number
        squares = counts * np.square(values - mean)  # summed in one order, unlike a product by BLAS
        std = float(np.sqrt(squares.sum() / number))
        return {"mean": _rounded(mean), "std": _rounded(std)}

    def _bucket(self, values: NDArray[Any]) -> NDArray[np.int64]:
        return values.astype(np.int64) - self._lowest

    def _edge(self, bucket: int) -> float:
        return bucket + self._lowest

    _middle = _edge

    def _range(self, index: int) -> tuple[float, float]:
        met = np.flatnonzero(self._counts[index])
        return float(self._edge(int(met[0]))), float(self._edge(int(met[-1])))


class _FloatBuckets(_Buckets):
    """Of floats: a bucket is a float32 without its last bits."""

    STATE = (*_Buckets.STATE, "low", "high")
    _HALF = 1 << (_KEPT_BITS - 1)
    """Buckets below zero."""

    def __init__(self, bands: int) -> None:
        super().__init__(bands, 2 * self._HALF)
        self._low, self._high = np.full(bands, np.inf), np.full(bands, -np.inf)

    def add(self, values: NDArray[Any], valid: NDArray[np.bool_]) -> None:
        """Count ``(band, value)``."""
        for index, (own, known) in enumerate(zip(values, valid, strict=True)):
            seen = own[known]
            if not seen.size:
                continue
            low, high = float(seen.min()), float(seen.max())
            self._add(index, self._bucket(seen))
            with self._lock:
                self._low[index] = min(self._low[index], low)
                self._high[index] = max(self._high[index], high)
        with self._lock:
            self._total += values.shape[1]

    def state(self) -> dict[str, NDArray[Any]]:
        """Return what was counted, and the least and largest values."""
        return super().state() | {"low": self._low, "high": self._high}

    def merge(self, state: Mapping[str, NDArray[Any]]) -> None:
        """Add what others counted."""
        super().merge(state)
        self._low = np.minimum(self._low, state["low"])
        self._high = np.maximum(self._high, state["high"])

    def _bucket(self, values: NDArray[Any]) -> NDArray[np.int64]:
        bits = (values.astype(np.float32) + np.float32(0)).view(np.int32)  # + 0: there is one zero
        ordered = bits ^ ((bits >> 31) & np.int32(0x7FFFFFFF))
        return (ordered >> _DROPPED_BITS).astype(np.int64) + self._HALF

    def _edge(self, bucket: int) -> float:
        ordered = np.int32((bucket - self._HALF) << _DROPPED_BITS)
        bits = ordered if ordered >= 0 else ordered ^ np.int32(0x7FFFFFFF)
        edge = float(np.asarray(bits, np.int32).view(np.float32))
        return edge if np.isfinite(edge) else float(np.finfo(np.float32).max)

    def _middle(self, bucket: int) -> float:
        return (self._edge(bucket) + self._edge(bucket + 1)) / 2

    def _range(self, index: int) -> tuple[float, float]:
        return float(self._low[index]), float(self._high[index])


def _buckets_of(spec: RasterSpec) -> _ExactBuckets | _FloatBuckets:
    dtype = np.dtype(spec.dtype)
    if dtype.kind in "iu" and dtype.itemsize <= _EXACT_BYTES:
        return _ExactBuckets(spec)
    return _FloatBuckets(len(spec.bands))
