"""The one module that imports torch; only :func:`release.dataset.torch_dataset` imports it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch.utils.data import Dataset

from .dataset import Release, Sample, chip_arrays

__all__ = ["ChipDataset"]

_WIDER = {"uint16": "int32", "uint32": "int64"}
"""dtypes that torch can hardly compute with, and the next wider one."""


class ChipDataset(Dataset[Sample]):  # type: ignore[misc,unused-ignore]  # torch may be absent
    """Chips as samples of tensors; see :func:`release.dataset.torch_dataset`."""

    def __init__(
        self,
        opened: Release,
        ids: Sequence[int],
        sensors: tuple[str, ...],
        bands: Mapping[str, Sequence[str]] | None,
        transform: Callable[[Sample], Sample] | None,
    ) -> None:
        self.release, self.ids, self.sensors, self.bands = opened, list(ids), sensors, bands
        self.transform = transform

    def __len__(self) -> int:
        """Return how many samples there are."""
        return len(self.ids)

    def __getitem__(self, index: int) -> Sample:
        """Return sample `index`."""
        sample = chip_arrays(self.release, self.ids[index], self.sensors, self.bands)
        for sensor in self.sensors:
            pixels = sample[f"image_{sensor}"]
            pixels = pixels.astype(_WIDER.get(str(pixels.dtype), pixels.dtype), copy=False)
            sample[f"image_{sensor}"] = torch.from_numpy(np.ascontiguousarray(pixels))
        if len(self.sensors) == 1:
            sample["image"] = sample[f"image_{self.sensors[0]}"]
        sample["label"] = torch.tensor(sample["label"])
        sample["lulc"] = torch.tensor(sample["lulc"])
        sample["bounds"] = torch.tensor(sample["bounds"], dtype=torch.float64)
        return sample if self.transform is None else self.transform(sample)
