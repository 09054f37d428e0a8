"""A release as torchgeo takes it: a ``NonGeoDataset`` that plots its samples."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cube.run.storage import Folder
from release.opening.faults import ReleaseError

from .caching import SampleCache
from .normalising import Sample
from .pictures import plot_sample
from .samples import ChipDataset, Chips, SampleReader, open_reader

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class PlottedChips(ChipDataset):
    """Chips as samples of tensors, and as pictures."""

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in the order of labels."""
        return self.read.chips.class_names

    def plot(self, sample: Sample, show_titles: bool = True, suptitle: str | None = None) -> Figure:  # noqa: FBT001, FBT002  torchgeo's signature
        """Draw a sample: a row per sensor, a column per date.

        Parameters
        ----------
        sample
            Of this dataset, not yet in a batch. A ``prediction`` in it is told beside the label.
        show_titles
            Tell sensors, dates' numbers, and the class.
        suptitle
            Above all.

        Returns
        -------
        Figure
            Colours are stretched over each sensor's dates together, and do not compare between
            samples.
        """
        bands = {
            key: self.read.chips.image_bands(key, self.read.bands.get(key, ())) for key in self.read.sensors
        }
        return plot_sample(sample, bands, self.classes, show_titles=show_titles, suptitle=suptitle)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """Travel by what it is made of: the class is made where torchgeo is."""
        return _make, (self.read, self.ids, self.transform)


@functools.cache
def _torchgeo_class() -> type[PlottedChips]:
    parent = import_module("torchgeo.datasets").NonGeoDataset

    return type("ChipsOfTorchgeo", (PlottedChips, parent), {"__doc__": PlottedChips.__doc__})


def _make(
    read: SampleReader, ids: Sequence[int], transform: Callable[[Sample], Sample] | None
) -> PlottedChips:
    return _torchgeo_class()(read, ids, transform)


def torchgeo_dataset(
    path: str | Path | Folder | Chips,
    sensors: Sequence[str] = ("s2l2a",),
    bands: Mapping[str, Sequence[str]] | None = None,
    split: str | None = None,
    transforms: Callable[[Sample], Sample] | None = None,
    *,
    normalise: bool = False,
    cache: SampleCache | None = None,
) -> Any:
    """Return a torchgeo ``NonGeoDataset`` of a release or an export.

    Parameters
    ----------
    path
        A release or an export, as :func:`torch_dataset` opens it.
    sensors
        Which images a sample holds.
    bands
        Names of the bands wanted, by sensor; all but masks where a sensor is not named.
    split
        Only chips of this split; None: all.
    transforms
        Called with every sample, torchgeo's name for it.
    normalise
        Images as :func:`torch_dataset` normalises them.
    cache
        Where decoded samples are kept for later epochs, and how many bytes of them.

    Returns
    -------
    NonGeoDataset
        Samples are those of :func:`torch_dataset`; ``plot(sample)`` draws one, ``classes`` names
        the labels.

    Raises
    ------
    ReleaseError
        If a sensor, band or split is not there, or torchgeo is not installed.
    """
    read = open_reader(path, sensors, bands, normalise=normalise)
    ids = read.chips.ids_of(split)
    if importlib.util.find_spec("torchgeo") is None:
        raise ReleaseError("torchgeo_dataset needs torchgeo: pip install torchgeo")
    return _make(read.caching(cache, ids), ids, transforms)
