"""What of a release is to be exported, decided before a pixel is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cube.config.sensors import BandKind
from release.loading.dataset import Release
from release.opening.faults import ReleaseError
from release.recipe import RasterSpec

ONLY_SPLIT = "train"
"""What the chips of a release without splits are called: loaders take it for all there is."""
DTYPES = ("int16", "uint16", "int32", "float16", "float32", "float64")
_FIRST = ("train", "val", "test")
"""Splits in the order in which they are used; others follow by name."""
_SHARD_BYTES = 1 << 27
"""What a shard holds where nobody says how many samples it is to have."""


@dataclass(frozen=True)
class ExportRequest:
    """What is asked for; empty is: all that there is."""

    sensors: tuple[str, ...] = ()
    bands: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Names of the bands wanted, by sensor."""
    dtype: str = ""
    """Of all pixels but class codes; empty: as stored."""
    splits: tuple[str, ...] = ()
    shard_samples: int | None = None
    dates: str = "all"
    """``all``, ``first``, or the number of a date, from 0."""


@dataclass(frozen=True)
class Layer:
    """What a sensor gives to each sample."""

    key: str
    bands: tuple[str, ...]
    dtype: str
    size_px: int
    dates: tuple[int, ...]
    """Numbers of the time ranges; one for a layer without dates."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """``(time, band, height, width)``."""
        return (len(self.dates), len(self.bands), self.size_px, self.size_px)

    @property
    def sample_bytes(self) -> int:
        """Memory that a sample of it takes."""
        return int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Shard:
    """Chips that go into one file, by id, in order."""

    split: str
    number: int
    of: int
    """How many shards the split has."""
    ids: tuple[int, ...]


@dataclass(frozen=True)
class ExportPlan:
    """Which chips, layers and shards an export has. Travels to worker processes."""

    release: Release
    layers: tuple[Layer, ...]
    shards: tuple[Shard, ...]
    classes: tuple[int, ...]
    """Class codes, in the order of labels."""

    @property
    def splits(self) -> dict[str, list[Shard]]:
        """Shards by split."""
        found: dict[str, list[Shard]] = {}
        for shard in self.shards:
            found.setdefault(shard.split, []).append(shard)
        return found

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, in the order of labels."""
        return self.release.class_names

    def layer(self, key: str) -> Layer:
        """Return the layer of a sensor."""
        return next(layer for layer in self.layers if layer.key == key)

    def pixels(self, chip_id: int) -> dict[str, NDArray[Any]]:
        """Read a chip: by sensor ``(time, band, height, width)``, nodata as stored."""
        return {layer.key: self.layer_pixels(chip_id, layer) for layer in self.layers}

    def layer_pixels(self, chip_id: int, layer: Layer) -> NDArray[Any]:
        """Read a sensor of a chip: ``(time, band, height, width)``."""
        found = self.release.read(chip_id, layer.key, layer.bands, layer.dates)
        return found.astype(layer.dtype, copy=False)

    def facts(self, chip_id: int) -> dict[str, Any]:
        """Say what a chip is and where: plain JSON."""
        row, box = self.release.row(chip_id), self.release.bounds(chip_id)
        code = int(row["lulc"])
        dates = {
            layer.key: [row[f"{layer.key}_dates"].split(",")[one] for one in layer.dates]
            for layer in self.layers
            if layer.key in self.release.recipe.series
        }
        return {
            "id": int(chip_id),
            "label": self.classes.index(code),
            "lulc_code": code,
            "category": row["category"],
            "split": row["split"],
            "aoi_index": int(row["aoi_index"]),
            "cell": row["cell"],
            "purity": float(row["purity"]),
            "epsg": int(row["epsg"]),
            "bounds": [box.left, box.bottom, box.right, box.top],
            "lat": float(row["lat"]),
            "lon": float(row["lon"]),
            "dates": dates,
        }


def plan_export(release: Release, request: ExportRequest, *, by_split: bool = True) -> ExportPlan:
    """Resolve what is asked for against a release.

    Without `by_split` a shard may hold chips of several splits, in the order of splits, and all but
    the last are of one size.

    Raises
    ------
    ReleaseError
        If a sensor, band, split or date is not there, or a dtype cannot hold the pixels.
    """
    classes = tuple(sorted(release.recipe.chips.classes))
    layers = tuple(_layer(release, key, request) for key in request.sensors or release.sensors)
    size = request.shard_samples or max(1, _SHARD_BYTES // sum(layer.sample_bytes for layer in layers))
    groups = _ids_by_split(release, request.splits)
    if not by_split:
        groups = {"": [chip_id for ids in groups.values() for chip_id in ids]}
    shards = [shard for split, ids in groups.items() for shard in _shards(split, ids, size)]
    return ExportPlan(release, layers, tuple(shards), classes)


def _layer(release: Release, key: str, request: ExportRequest) -> Layer:
    indexes = release.band_indexes(key, request.bands.get(key, ()))
    spec = release.recipe.rasters[key]
    bands = tuple(spec.bands[index - 1] for index in indexes)
    count = 1 if release.recipe.table[key].is_static else len(release.recipe.ranges)
    dtype = _dtype(release, key, spec, request.dtype)
    return Layer(key, bands, dtype, spec.size_px, _dates(request.dates, count))


def _dates(asked: str, count: int) -> tuple[int, ...]:
    if asked == "all" or count == 1:
        return tuple(range(count))
    index = 0 if asked == "first" else int(asked) if asked.isdecimal() else -1
    if not 0 <= index < count:
        raise ReleaseError(f"dates {asked!r}: expected all, first, or a number from 0 to {count - 1}")
    return (index,)


def _dtype(release: Release, key: str, spec: RasterSpec, asked: str) -> str:
    kinds = {release.recipe.table[key].band(name).kind for name in spec.bands}
    if not asked or kinds <= {BandKind.CLASSES, BandKind.FLAGS}:
        return spec.dtype
    if asked not in DTYPES:
        raise ReleaseError(f"dtype {asked!r}: expected one of {', '.join(DTYPES)}")
    if not np.can_cast(spec.dtype, asked, casting="same_kind"):
        raise ReleaseError(
            f"dtype {asked!r}: {key} is {spec.dtype}, whose numbers it cannot hold; name a float, or leave "
            f"{key} out by --sensors"
        )
    return asked


def split_of(row: Mapping[str, Any]) -> str:
    """Return the split that a chip is exported in."""
    return str(row["split"]) or ONLY_SPLIT


def _ids_by_split(release: Release, asked: Sequence[str]) -> dict[str, list[int]]:
    splits = release.chip_splits.replace("", ONLY_SPLIT)
    there = sorted(
        set(splits), key=lambda name: (_FIRST.index(name) if name in _FIRST else len(_FIRST), name)
    )
    if unknown := [name for name in asked if name not in there]:
        raise ReleaseError(f"no chip in split {unknown[0]!r}; the release has {', '.join(there)}")
    return {name: [int(one) for one in splits.index[splits == name]] for name in asked or there}


def _shards(split: str, ids: Sequence[int], size: int) -> list[Shard]:
    parts = [tuple(ids[start : start + size]) for start in range(0, len(ids), size)]
    return [Shard(split, number, len(parts), part) for number, part in enumerate(parts)]
