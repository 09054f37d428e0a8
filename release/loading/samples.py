"""A release's chips as samples of arrays and tensors."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cube.run.storage import Folder
from release.opening.faults import ReleaseError

from .dataset import Release

Sample = dict[str, Any]
_WIDER_DTYPES = {"uint16": "int32", "uint32": "int64"}
"""dtypes that torch can hardly compute with, and the next wider one."""


def chip_arrays(
    opened: Release, chip_id: int, sensors: Sequence[str], bands: Mapping[str, Sequence[str]] | None = None
) -> Sample:
    """Return a chip as a sample dict of plain arrays, which :func:`torch_dataset` makes tensors of.

    Parameters
    ----------
    opened
        The release.
    chip_id
        ``id`` of the chip.
    sensors
        Which images the sample holds.
    bands
        Names of the bands wanted, by sensor; all where a sensor is not named.

    Returns
    -------
    dict
        ``image_{sensor}`` ``(time, band, height, width)``; ``label``, the position of the class
        among the release's classes; ``lulc``, its code; ``id``; ``crs``, as text;
        ``bounds``, west, south, east, north in metres.
    """
    row = opened.row(chip_id)
    classes = sorted(opened.recipe.chips.classes)
    box = opened.bounds(chip_id)
    sample: Sample = {
        f"image_{sensor}": opened.read(chip_id, sensor, (bands or {}).get(sensor, ())) for sensor in sensors
    }
    code = int(row["lulc"])
    sample |= {"label": classes.index(code), "lulc": code, "id": int(chip_id)}
    return sample | {"crs": f"EPSG:{row['epsg']}", "bounds": (box.left, box.bottom, box.right, box.top)}


@dataclass(frozen=True)
class ChipDataset:
    """Chips as samples of tensors: a map-style dataset, as torch's loaders take it."""

    release: Release
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
        for name in (f"image_{sensor}" for sensor in self.sensors):
            pixels = sample[name]
            wider = _WIDER_DTYPES.get(str(pixels.dtype), pixels.dtype)
            sample[name] = torch.from_numpy(np.ascontiguousarray(pixels, dtype=wider))
        if len(self.sensors) == 1:
            sample["image"] = sample[f"image_{self.sensors[0]}"]
        sample["label"] = torch.tensor(sample["label"])
        sample["lulc"] = torch.tensor(sample["lulc"])
        sample["bounds"] = torch.tensor(sample["bounds"], dtype=torch.float64)
        return sample if self.transform is None else self.transform(sample)


def torch_dataset(
    path: str | Path | Folder | Release,
    sensors: Sequence[str] = ("s2l2a",),
    bands: Mapping[str, Sequence[str]] | None = None,
    split: str | None = None,
    transform: Callable[[Sample], Sample] | None = None,
) -> ChipDataset:
    """Return a map-style torch dataset in the sample-dict form that torchgeo uses.

    Parameters
    ----------
    path
        A release's folder, its zip, or what :func:`open_release` returned.
    sensors
        Which images a sample holds.
    bands
        Names of the bands wanted, by sensor; all where a sensor is not named.
    split
        Only chips of this split; None: all.
    transform
        Called with every sample.

    Returns
    -------
    ChipDataset
        For ``torch.utils.data.DataLoader``. Samples hold ``image_{sensor}`` tensors
        ``(time, band, height, width)`` (and ``image``, the same tensor, where one sensor is asked
        for), ``label`` (position among the release's classes, sorted by code), ``lulc``, ``id``,
        ``crs`` (text) and ``bounds`` (a tensor: west, south, east, north, metres).

    Raises
    ------
    ReleaseError
        If a sensor, band or split is not there, or torch is not installed.
    """
    opened = path if isinstance(path, Release) else Release(path)
    ids = _ids_of_split(opened, split)
    for sensor in sensors:
        opened.band_indexes(sensor, (bands or {}).get(sensor, ()))
    if importlib.util.find_spec("torch") is None:
        raise ReleaseError("torch_dataset needs torch: install the extra gelos-lc[torch]")
    return ChipDataset(opened, ids, tuple(sensors), bands, transform)


def _ids_of_split(opened: Release, split: str | None) -> list[int]:
    table = opened.table
    chosen = table if split is None else table[table["split"] == split]
    if chosen.empty:
        there = ", ".join(sorted(set(table["split"]) - {""})) or "no splits"
        raise ReleaseError(f"no chip in split {split!r}; the release has {there}")
    return [int(chip_id) for chip_id in chosen.index]
