"""From chips to a release: cleaned, balanced, split, numbered, described and zipped; and its check, for anyone."""

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
