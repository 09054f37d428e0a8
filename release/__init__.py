"""From chips to a release, cleaned, balanced, described and zipped; and its check, for anyone.

Public is what ``__all__`` names; all else is private to the project. The rooms:

========================  ================================================================
:mod:`release.make`       all of it in a row: folder and zip
:mod:`release.select`     which chips a release holds: cleaned and balanced
:mod:`release.splits`     train, validation and test, by spatial block
:mod:`release.windows`    the windows that phase two has scored
:mod:`release.chosen`     the chosen chips' files in the working folder
:mod:`release.sharding`   how a large release is divided into folders of so many chips
:mod:`release.packing`    the release's folder and zips, in one piece or in shards
:mod:`release.tracker`    the table of chips, in GELOS's fields
:mod:`release.recipe`     ``config.json``: what a release was made from
:mod:`release.report`     ``report.html`` and ``browse.html``
:mod:`release.card`       the dataset card, ``README.md``
:mod:`release.templates`  the templates of both
:mod:`release.catalogs`   STAC and Croissant
:mod:`release.statistics` what each band's numbers are: means, ranges, histograms
:mod:`release.loading`    a release opened: its table, its chips as arrays, samples for training
:mod:`release.export`     a release in the forms that training frameworks read
:mod:`release.notebook`   what people have in a notebook: tables, pictures, maps
:mod:`release.opening`    the one door for files that may be anybody's
:mod:`release.verify`     the check of a release
:mod:`release.compare`    what differs between two releases
:mod:`release.status`     where a version stands, from its areas to its release
:mod:`release.commands`   the commands ``release``, ``verify`` and ``run``
:mod:`release.cli`        ``gelos-lc``, the one command over all
========================  ================================================================
"""

from importlib import import_module
from typing import TYPE_CHECKING

from cube.lazy_names import lazy_names

if TYPE_CHECKING:
    from .compare.releases import compare_releases
    from .export.request import ExportRequest
    from .export.run import export_release
    from .loading.caching import SampleCache
    from .loading.datamodule import datamodule
    from .loading.dataset import Release, open_release
    from .loading.geodataset import torchgeo_dataset
    from .loading.pictures import plot_batch
    from .loading.samples import batches, chip_arrays, torch_dataset
    from .make import ReleaseSummary, make_release
    from .notebook.cubes import open_cubes
    from .opening.faults import Fault, ReleaseError
    from .verify.release import verify

__all__ = [
    "ExportRequest",
    "Fault",
    "Release",
    "ReleaseError",
    "ReleaseSummary",
    "SampleCache",
    "batches",
    "chip_arrays",
    "compare_releases",
    "datamodule",
    "export_release",
    "make_release",
    "open_cubes",
    "open_release",
    "plot_batch",
    "torch_dataset",
    "torchgeo_dataset",
    "verify",
]

# The room `verify` takes the name once, when it is first imported: now. Then the function has it.
import_module(".verify", __name__)
del globals()["verify"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "ExportRequest": ".export.request",
        "Fault": ".opening.faults",
        "Release": ".loading.dataset",
        "ReleaseError": ".opening.faults",
        "ReleaseSummary": ".make",
        "SampleCache": ".loading.caching",
        "batches": ".loading.samples",
        "chip_arrays": ".loading.samples",
        "compare_releases": ".compare.releases",
        "datamodule": ".loading.datamodule",
        "export_release": ".export.run",
        "make_release": ".make",
        "open_cubes": ".notebook.cubes",
        "open_release": ".loading.dataset",
        "plot_batch": ".loading.pictures",
        "torch_dataset": ".loading.samples",
        "torchgeo_dataset": ".loading.geodataset",
        "verify": ".verify.release",
    },
)
