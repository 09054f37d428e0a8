"""A release's chips as samples of arrays and tensors."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cube.run.storage import Folder, open_folder
from release.opening.checksums import SUMS_NAME, sha256
from release.opening.faults import ReleaseError
from release.opening.files import EXPORT_NAME

from .caching import CachedSamples, SampleCache
from .dataset import Release
from .exported import ExportedChips
from .normalising import Normaliser, Sample, make_normaliser

Chips = Release | ExportedChips
"""What samples are read from."""
_WIDER_DTYPES = {"uint16": "int32", "uint32": "int64"}
"""dtypes that torch can hardly compute with, and the next wider one."""


def chip_arrays(
    opened: Chips, chip_id: int, sensors: Sequence[str], bands: Mapping[str, Sequence[str]] | None = None
) -> Sample:
    """Return a chip as a sample dict of plain arrays, which :func:`torch_dataset` makes tensors of.

    Parameters
    ----------
    opened
        The release, or an export.
    chip_id
        ``id`` of the chip.
    sensors
        Which images the sample holds.
    bands
        Names of the bands wanted, by sensor; all but masks where a sensor is not named.

    Returns
    -------
    dict
        ``image_{sensor}`` ``(time, band, height, width)``; where the release has masks,
        ``mask_{sensor}`` ``(time, height, width)``, codes or bits as the archive has them;
        ``label``, the position of the class among the release's classes; ``lulc``, its code;
        ``id``; ``crs``, as text; ``bounds``, west, south, east, north in metres.
    """
    return opened.sample(chip_id, sensors, bands or {})


@dataclass(frozen=True)
class SampleReader:
    """Reads chips as sample dicts of plain arrays. Travels to worker processes."""

    chips: Chips
    sensors: tuple[str, ...]
    bands: Mapping[str, Sequence[str]]
    normaliser: Normaliser | None = None
    cached: CachedSamples | None = None

    def __call__(self, chip_id: int) -> Sample:
        """Read a chip; see :func:`chip_arrays`. Its arrays may be a cache's: not to be changed."""
        sample = None if self.cached is None else self.cached.get(chip_id)
        if sample is None:
            sample = self.chips.sample(chip_id, self.sensors, self.bands)
            if self.cached is not None:
                self.cached.put(chip_id, sample)
        return sample if self.normaliser is None else self.normaliser(sample)

    def caching(self, cache: SampleCache | None, ids: Sequence[int]) -> SampleReader:
        """Return a reader that keeps what it decodes of these chips, the first ones first."""
        if cache is None or not ids:
            return self
        key = [sha256(self.chips.read_file(SUMS_NAME)), self.sensors, sorted(self.bands.items())]
        model = self.chips.sample(ids[0], self.sensors, self.bands)
        return replace(self, cached=CachedSamples(cache, ids, model, key))


def open_reader(
    path: str | Path | Folder | Chips,
    sensors: Sequence[str],
    bands: Mapping[str, Sequence[str]] | None,
    *,
    normalise: bool,
) -> SampleReader:
    """Open what samples are read from.

    Raises
    ------
    ReleaseError
        If there is no release or export, or a sensor or band is not there.
    """
    opened, wanted = open_chips(path), dict(bands or {})
    there = {sensor: opened.image_bands(sensor, wanted.get(sensor, ())) for sensor in sensors}
    normaliser = None
    if normalise:
        nodata = {key: opened.nodata(key) for key in there}
        normaliser = make_normaliser(opened.statistics(), there, nodata)
    return SampleReader(opened, tuple(sensors), wanted, normaliser)


@dataclass(frozen=True)
class ChipDataset:
    """Chips as samples of tensors: a map-style dataset, as torch's loaders take it."""

    read: SampleReader
    ids: Sequence[int]
    """Of the chips, in the order of samples."""
    transform: Callable[[Sample], Sample] | None = None

    def __len__(self) -> int:
        """Return how many samples there are."""
        return len(self.ids)

    def __getitem__(self, index: int) -> Sample:
        """Return sample `index`."""
        sample = to_tensors(self.read(self.ids[index]), self.read.sensors)
        return sample if self.transform is None else self.transform(sample)


def to_tensors(sample: Sample, sensors: Sequence[str]) -> Sample:
    """Return a sample with tensors in place of arrays; ``image`` is that of the one sensor."""
    import torch

    found = dict(sample)
    for name, value in sample.items():
        if isinstance(value, np.ndarray):
            wider = _WIDER_DTYPES.get(str(value.dtype), value.dtype)
            # Of its own and writable: what is read may lie in a file's bytes.
            found[name] = torch.from_numpy(np.array(value, dtype=wider, order="C"))
    if len(sensors) == 1:
        for kind in ("image", "mask"):
            if f"{kind}_{sensors[0]}" in found:
                found[kind] = found[f"{kind}_{sensors[0]}"]
    found["label"] = torch.tensor(sample["label"])
    found["lulc"] = torch.tensor(sample["lulc"])
    found["bounds"] = torch.tensor(sample["bounds"], dtype=torch.float64)
    return found


def torch_dataset(
    path: str | Path | Folder | Chips,
    sensors: Sequence[str] = ("s2l2a",),
    bands: Mapping[str, Sequence[str]] | None = None,
    split: str | None = None,
    transform: Callable[[Sample], Sample] | None = None,
    *,
    normalise: bool = False,
    cache: SampleCache | None = None,
) -> ChipDataset:
    """Return a map-style torch dataset in the sample-dict form that torchgeo uses.

    Parameters
    ----------
    path
        A release's folder, its zip, what :func:`open_release` returned, the folder of an export, or
        one tar of webdataset's. Exports to webdataset and zarr are read ten times as fast; those to
        terratorch are GeoTIFFs again, and those to terramesh have TerraMesh's units, classes and
        pixel. Parquet, of huggingface, is not read at random.
    sensors
        Which images a sample holds.
    bands
        Names of the bands wanted, by sensor; all but masks where a sensor is not named.
    split
        Only chips of this split; None: all.
    transform
        Called with every sample.
    normalise
        Images are float32, of mean 0 and standard deviation 1 by the release's statistics (of
        ``train`` where there are splits), and 0 where there is no data; images of class codes stay
        as they are.
    cache
        Where decoded samples are kept for later epochs, and how many bytes of them.

    Returns
    -------
    ChipDataset
        For ``torch.utils.data.DataLoader``. Samples hold ``image_{sensor}`` tensors
        ``(time, band, height, width)`` (and ``image``, the same tensor, where one sensor is asked
        for; ``mask_{sensor}`` and ``mask`` where the release has masks), ``label`` (position among
        the release's classes, sorted by code), ``lulc``, ``id``, ``crs`` (text) and ``bounds`` (a
        tensor: west, south, east, north, metres).

    Raises
    ------
    ReleaseError
        If a sensor, band or split is not there, or torch is not installed.
    """
    read = open_reader(path, sensors, bands, normalise=normalise)
    ids = read.chips.ids_of(split)
    if importlib.util.find_spec("torch") is None:
        raise ReleaseError("torch_dataset needs torch: install the extra gelos-lc[torch]")
    return ChipDataset(read.caching(cache, ids), ids, transform)


def open_chips(path: str | Path | Folder | Chips) -> Chips:
    """Open a release's folder or zip, an export, or a tar of one; what is open is returned."""
    if isinstance(path, (Release, ExportedChips)):
        return path
    is_export = str(path).endswith(".tar") or open_folder(path).exists(EXPORT_NAME)
    return ExportedChips(path) if is_export else Release(path)


def batches(
    path: str | Path | Folder | Chips,
    batch_size: int,
    sensors: Sequence[str] = ("s2l2a",),
    bands: Mapping[str, Sequence[str]] | None = None,
    split: str | None = None,
    seed: int | None = None,
    *,
    normalise: bool = False,
    cache: SampleCache | None = None,
) -> Iterator[dict[str, NDArray[Any]]]:
    """Yield batches of plain numpy arrays, for JAX or no framework at all.

    Parameters
    ----------
    path
        A release or an export, as :func:`torch_dataset` opens it.
    batch_size
        Samples in a batch; the last one may have fewer.
    sensors
        Which images a batch holds.
    bands
        Names of the bands wanted, by sensor; all where a sensor is not named.
    split
        Only chips of this split; None: all.
    seed
        Of the order; None: by id. Another seed for each epoch.
    normalise
        Images as :func:`torch_dataset` normalises them.
    cache
        Where decoded samples are kept for later epochs, and how many bytes of them: a folder, as
        memory would be gone with the iterator.

    Yields
    ------
    dict
        ``image_{sensor}`` ``(sample, time, band, height, width)``, ``label``, ``lulc``, ``id`` and
        ``bounds``.

    Raises
    ------
    ReleaseError
        If a sensor, band or split is not there.
    """
    read = open_reader(path, sensors, bands, normalise=normalise)
    chosen = read.chips.ids_of(split)
    read, ids = read.caching(cache, chosen), np.array(chosen)
    if seed is not None:
        np.random.default_rng(seed).shuffle(ids)
    for start in range(0, len(ids), batch_size):
        samples = [read(int(one)) for one in ids[start : start + batch_size]]
        yield {name: np.stack([one[name] for one in samples]) for name in samples[0] if name != "crs"}
