"""Check what a release says of its bands' numbers, by counting some of its chips again."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from release.loading.rasters import decode_raster
from release.opening.faults import UNREADABLE, Fault, ReleaseError, first_line
from release.recipe import RasterSpec, Recipe
from release.statistics import STATISTICS_NAME, Tally
from release.tracker import image_names

from .chips import HEADER_BYTES, Findings
from .processes import WatchedFiles

_MOST_BYTES = 1 << 26
_CLOSE = 1e-6
"""Relative; the last digits of a sum depend on the processor."""
_ERRORS_APART = 8
"""How many standard errors the mean of the sample may lie from that of all."""


def check_statistics(
    files: WatchedFiles,
    sample: Sequence[Mapping[str, Any]],
    chips: int,
    split: str | None,
    recipe: Recipe,
) -> Findings:
    """Count a sample of chips, and compare.

    Parameters
    ----------
    files
        The release's.
    sample
        Rows of the tracker, of some of the chips that the statistics are of.
    chips
        How many chips those are.
    split
        That they are of; None: of all.
    recipe
        What the release was made with.
    """
    try:
        found = json.loads(files.read(STATISTICS_NAME, _MOST_BYTES))
        wrong = list(_problems(found, files, sample, chips, split, recipe))
    except ReleaseError:  # of a raster: the check of chips tells of it
        return Findings()
    except UNREADABLE as error:
        wrong = [f"cannot be read ({first_line(error)})"]
    return Findings([Fault(STATISTICS_NAME, text) for text in wrong[:1]])


def _problems(
    found: Mapping[str, Any],
    files: WatchedFiles,
    sample: Sequence[Mapping[str, Any]],
    chips: int,
    split: str | None,
    recipe: Recipe,
) -> Iterator[str]:
    tally, means = Tally(recipe, split), []
    for row in sample:
        rasters = _read_rasters(files, row, recipe)
        tally.add(tally.count(rasters))
        means.append({key: _means(dates, recipe.rasters[key]) for key, dates in rasters.items()})
    counted = tally.to_dict()
    if (found["split"], found["chips"]) != (split, chips):
        yield (
            f"is of {found['chips']} chips of {found['split'] or 'all splits'}, the tracker has {chips} "
            f"of {split or 'all splits'}"
        )
    elif len(sample) == chips:
        if place := _first_difference(found, counted, ""):
            yield f"is not what the chips give, at {place.lstrip('.')}"
    else:
        for key, index, name in _bands(recipe):
            claims, own = (one["sensors"][key]["bands"][name] for one in (found, counted))
            if claims["pixels"] * len(sample) != own["pixels"] * chips:
                yield f"counts {claims['pixels']} pixels of {key} {name}, not as many as there are"
            if "mean" not in own:
                continue
            if own["min"] < claims["min"] or own["max"] > claims["max"]:
                yield f"has {key} {name} lie between {claims['min']:g} and {claims['max']:g}; it does not"
            spread = np.std([one[key][index] for one in means], ddof=1) / math.sqrt(len(sample))
            if abs(claims["mean"] - own["mean"]) > _ERRORS_APART * float(spread) + _CLOSE:
                yield f"gives {key} {name} a mean of {claims['mean']:g}, {len(sample)} chips have {own['mean']:g}"


def _means(dates: Sequence[NDArray[Any]], spec: RasterSpec) -> NDArray[np.float64]:
    """Return the mean of each band of a chip; 0 for one without values."""
    values = np.stack(dates, axis=1).reshape(len(spec.bands), -1)
    valid = ~spec.is_nodata(values) & np.isfinite(values)
    sums = values.sum(axis=1, dtype=np.float64, where=valid)
    return np.asarray(sums / np.maximum(valid.sum(axis=1), 1))


def _read_rasters(
    files: WatchedFiles, row: Mapping[str, Any], recipe: Recipe
) -> dict[str, list[NDArray[Any]]]:
    """Read a chip; raise ReleaseError where a raster is not what it should be."""

    def read(name: str, spec: RasterSpec) -> NDArray[Any]:
        try:
            return decode_raster(name, files.read(name, 2 * spec.raster_bytes + HEADER_BYTES), spec)
        except OSError as error:
            raise ReleaseError(f"{name}: {error}") from None

    return {
        key: [read(name, spec) for name in image_names(row, key, recipe)]
        for key, spec in recipe.rasters.items()
    }


def _bands(recipe: Recipe) -> Iterator[tuple[str, int, str]]:
    for key, spec in recipe.rasters.items():
        for index, name in enumerate(spec.bands):
            yield key, index, name


def _first_difference(found: Any, counted: Any, place: str) -> str:
    """Return where two documents differ first, by more than a sum's last digits; or nothing."""
    if isinstance(counted, dict) and isinstance(found, dict):
        if list(found) != list(counted):
            return place or "its first level"
        parts = (_first_difference(found[name], own, f"{place}.{name}") for name, own in counted.items())
        return next(filter(None, parts), "")
    if isinstance(counted, float) and isinstance(found, (int, float)):
        return "" if math.isclose(found, counted, rel_tol=_CLOSE, abs_tol=1e-12) else place
    return "" if found == counted else place
