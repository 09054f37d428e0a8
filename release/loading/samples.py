"""A release's chips as samples of arrays and tensors."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cube.run.storage import Folder, open_folder
from release.opening.faults import ReleaseError

from .dataset import Release
from .exported import EXPORT_NAME, ExportedChips

Sample = dict[str, Any]
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
class ChipDataset:
    """Chips as samples of tensors: a map-style dataset, as torch's loaders take it."""

    release: Chips
    ids: Sequence[int]
    """Of the chips, in the order of samples."""
    sensors: tuple[str, ...]
    bands: Mapping[str, Sequence[str]] | None = None
    transform: Callable[[Sample], Sample] | None = None

    def __len__(self) -> int:
        """Return how many samples there are."""
        return len(self.ids)

    def __getitem__(self, index: int) -> Sample:
        """Return sample `index`."""
        import torch

        sample = chip_arrays(self.release, self.ids[index], self.sensors, self.bands)
        arrays = {name: value for name, value in sample.items() if isinstance(value, np.ndarray)}
        for name, pixels in arrays.items():
            wider = _WIDER_DTYPES.get(str(pixels.dtype), pixels.dtype)
            # Of its own and writable: what is read may lie in a file's bytes.
            sample[name] = torch.from_numpy(np.array(pixels, dtype=wider, order="C"))
        if len(self.sensors) == 1:
            for kind in ("image", "mask"):
                if f"{kind}_{self.sensors[0]}" in sample:
                    sample[kind] = sample[f"{kind}_{self.sensors[0]}"]
        sample["label"] = torch.tensor(sample["label"])
        sample["lulc"] = torch.tensor(sample["lulc"])
        sample["bounds"] = torch.tensor(sample["bounds"], dtype=torch.float64)
        return sample if self.transform is None else self.transform(sample)


def torch_dataset(
    path: str | Path | Folder | Chips,
    sensors: Sequence[str] = ("s2l2a",),
    bands: Mapping[str, Sequence[str]] | None = None,
    split: str | None = None,
    transform: Callable[[Sample], Sample] | None = None,
) -> ChipDataset:
    """Return a map-style torch dataset in the sample-dict form that torchgeo uses.

    Parameters
    ----------
    path
        A release's folder, its zip, what :func:`open_release` returned, or the folder of an export
        to webdataset or zarr, which is read ten times as fast.
    sensors
        Which images a sample holds.
    bands
        Names of the bands wanted, by sensor; all but masks where a sensor is not named.
    split
        Only chips of this split; None: all.
    transform
        Called with every sample.

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
    opened = open_chips(path)
    ids = opened.ids_of(split)
    for sensor in sensors:
        opened.band_indexes(sensor, (bands or {}).get(sensor, ()))
    if importlib.util.find_spec("torch") is None:
        raise ReleaseError("torch_dataset needs torch: install the extra gelos-lc[torch]")
    return ChipDataset(opened, ids, tuple(sensors), bands, transform)


def open_chips(path: str | Path | Folder | Chips) -> Chips:
    """Open a release's folder or zip, or an export; what is open already is returned."""
    if isinstance(path, (Release, ExportedChips)):
        return path
    return ExportedChips(path) if open_folder(path).exists(EXPORT_NAME) else Release(path)


def batches(
    path: str | Path | Folder | Chips,
    batch_size: int,
    sensors: Sequence[str] = ("s2l2a",),
    bands: Mapping[str, Sequence[str]] | None = None,
    split: str | None = None,
    seed: int | None = None,
) -> Iterator[dict[str, NDArray[Any]]]:
    """Yield batches of plain numpy arrays, for JAX or no framework at all.

    Parameters
    ----------
    path
        A release's folder or zip, an export to webdataset or zarr, or one that is open.
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
    opened = open_chips(path)
    ids = np.array(opened.ids_of(split))
    for sensor in sensors:
        opened.band_indexes(sensor, (bands or {}).get(sensor, ()))
    if seed is not None:
        np.random.default_rng(seed).shuffle(ids)
    for start in range(0, len(ids), batch_size):
        samples = [opened.sample(int(one), sensors, bands or {}) for one in ids[start : start + batch_size]]
        yield {name: np.stack([one[name] for one in samples]) for name in samples[0] if name != "crs"}
