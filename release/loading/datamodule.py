"""A release as Lightning takes it: loaders of its splits, normalised, and weights of classes."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from cube.run.storage import Folder
from release.opening.faults import ReleaseError

from .caching import SampleCache
from .normalising import Sample, balanced_weights
from .samples import ChipDataset, Chips, SampleReader, open_reader

if TYPE_CHECKING:
    from torch.utils.data import DataLoader

TRAIN, VAL, TEST = "train", "val", "test"
_FRAMEWORKS = {"lightning": "lightning.pytorch", "pytorch_lightning": "pytorch_lightning"}
"""Where each package has its ``LightningDataModule``; each trainer wants its own."""
Transform = Callable[[Sample], Sample]


class ChipSplits:
    """What a data module of chips has, whichever Lightning it is made for.

    Parameters
    ----------
    read
        Reads the chips.
    batch_size
        Samples in a batch.
    num_workers
        Processes that read for each loader; 0: the training process does.
    transforms
        By split, what is called with every sample.
    """

    def __init__(
        self,
        read: SampleReader,
        batch_size: int,
        num_workers: int,
        transforms: Mapping[str, Transform | None],
    ) -> None:
        super().__init__()
        self.read, self.batch_size, self.num_workers = read, batch_size, num_workers
        self._transforms = transforms
        self.class_names: list[str] = read.chips.class_names
        """In the order of labels."""
        self.num_classes = len(self.class_names)

    def ids_of(self, split: str) -> list[int]:
        """Return the ids of a split's chips; without splits, all are train's."""
        return split_ids(self.read.chips, split)

    @property
    def class_weights(self) -> NDArray[np.float32]:
        """Weights with which all classes of ``train`` count the same, by label.

        ``(class,)`` float32, 1 on average over the chips; 0 for a class without a chip. A loss
        takes ``torch.from_numpy`` of it.
        """
        labels = self.read.chips.labels_of(self.ids_of(TRAIN))
        return balanced_weights(labels, self.num_classes)

    def dataset(self, split: str) -> ChipDataset:
        """Return the samples of a split."""
        return ChipDataset(self.read, self.ids_of(split), self._transforms.get(split))

    def train_dataloader(self) -> DataLoader[Sample]:
        """Return the chips of ``train``, in an order of torch's choice for each epoch."""
        return self._loader(self.dataset(TRAIN), shuffle=True)

    def val_dataloader(self) -> DataLoader[Sample] | list[DataLoader[Sample]]:
        """Return the chips of ``val``; nothing, where there are none."""
        return self._evaluated(VAL)

    def test_dataloader(self) -> DataLoader[Sample] | list[DataLoader[Sample]]:
        """Return the chips of ``test``; nothing, where there are none."""
        return self._evaluated(TEST)

    def predict_dataloader(self) -> DataLoader[Sample]:
        """Return all chips, by id."""
        ids = sorted(self.read.chips.ids_of(None))
        return self._loader(ChipDataset(self.read, ids, self._transforms.get(TEST)), shuffle=False)

    def _evaluated(self, split: str) -> DataLoader[Sample] | list[DataLoader[Sample]]:
        samples = self.dataset(split)
        return self._loader(samples, shuffle=False) if len(samples) else []

    def _loader(self, samples: ChipDataset, *, shuffle: bool) -> DataLoader[Sample]:
        from torch.utils.data import DataLoader, Dataset

        return DataLoader(
            cast("Dataset[Sample]", samples),  # which asks no more of one than this
            batch_size=self.batch_size,
            shuffle=shuffle,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            collate_fn=_collate,
        )


def split_ids(chips: Chips, split: str) -> list[int]:
    """Return the ids of a split's chips, if there are any; without splits, all are train's."""
    if split in chips.splits:
        return chips.ids_of(split)
    return chips.ids_of(None) if split == TRAIN and not chips.splits else []


def _collate(samples: list[Sample]) -> Sample:
    """Stack samples, without their ``crs``: Lightning takes a text for a batch of its own size."""
    from torch.utils.data import default_collate

    return dict(default_collate([{k: v for k, v in one.items() if k != "crs"} for one in samples]))


def datamodule(
    path: str | Path | Folder | Chips,
    sensors: Sequence[str] = ("s2l2a",),
    bands: Mapping[str, Sequence[str]] | None = None,
    *,
    batch_size: int = 32,
    num_workers: int = 0,
    normalise: bool = True,
    train_transform: Transform | None = None,
    val_transform: Transform | None = None,
    test_transform: Transform | None = None,
    cache: SampleCache | None = None,
) -> Any:
    """Return a ``LightningDataModule`` of a release or an export.

    It is of ``lightning`` or of ``pytorch_lightning``, whose classes are not each other's: of those
    that are imported, or else of the first that is installed.

    Parameters
    ----------
    path
        A release or an export, as :func:`torch_dataset` opens it.
    sensors
        Which images a sample holds.
    bands
        Names of the bands wanted, by sensor; all but masks where a sensor is not named.
    batch_size
        Samples in a batch; the last one may have fewer.
    num_workers
        Processes that read for each loader; 0: the training process does.
    normalise
        Images are float32, of mean 0 and standard deviation 1 by the release's statistics.
    train_transform, val_transform, test_transform
        Called with every sample of a split, after it was normalised.
    cache
        Where decoded samples of all splits are kept for later epochs, and how many bytes of them.

    Returns
    -------
    LightningDataModule
        Its loaders give ``train`` (shuffled), ``val``, ``test``, and all chips to predict. Where
        the release has no splits, all chips are ``train``'s. Batches hold what samples of
        :func:`torch_dataset` do, but for ``crs``. ``class_names``, ``num_classes``, and
        ``class_weights`` (of ``train``) are what a model and its loss ask for.

    Raises
    ------
    ReleaseError
        If a sensor or band is not there, or Lightning is not installed.
    """
    read = open_reader(path, sensors, bands, normalise=normalise)
    if cache is not None:
        read = read.caching(
            cache, [one for split in (TRAIN, VAL, TEST) for one in split_ids(read.chips, split)]
        )
    transforms = {TRAIN: train_transform, VAL: val_transform, TEST: test_transform}
    kind = type("ChipDataModule", (ChipSplits, *_lightning_classes()), {"__doc__": ChipSplits.__doc__})
    return kind(read, batch_size, num_workers, transforms)


def _lightning_classes() -> list[type]:
    """Return the classes of those that are imported, or of the first that is installed."""
    names = [name for name in _FRAMEWORKS if name in sys.modules]
    names = names or [name for name in _FRAMEWORKS if importlib.util.find_spec(name)][:1]
    if not names:
        raise ReleaseError("datamodule needs Lightning: pip install lightning (or pytorch-lightning)")
    return [import_module(_FRAMEWORKS[name]).LightningDataModule for name in names]
