"""From chips to a release: cleaned, balanced, split, numbered, described, zipped; and its check.

==========================  ===========================================================
:mod:`release.make`         the verb: all of it in a row
:mod:`release.select`       which chips a release holds: clean, balance, number
:mod:`release.splits`       splits by spatial block
:mod:`release.chosen`       the chosen chips' files in the working folder
:mod:`release.recipe`       ``config.json``: the settings, and what the rasters are
:mod:`release.tracker`      the table of chips, in its three files
:mod:`release.catalogs`     STAC, and (:mod:`release.croissant`) Croissant
:mod:`release.report`       ``report.html``, with the drawings of :mod:`release.svg`
:mod:`release.card`         ``README.md``
:mod:`release.templates`    the templates of both
:mod:`release.dataset`      a release opened, for those who train on it
:mod:`release.opening`      files that may be anybody's
:mod:`release.verify`       whether a release is what it says
==========================  ===========================================================

Public is what this page names; all else is the project's own.
"""

from .dataset import Release, chip_arrays, open_release, torch_dataset
from .make import ReleaseSummary, make_release
from .opening.faults import Fault, ReleaseError
from .verify.release import verify

__all__ = [
    "Fault",
    "Release",
    "ReleaseError",
    "ReleaseSummary",
    "chip_arrays",
    "make_release",
    "open_release",
    "torch_dataset",
    "verify",
]
