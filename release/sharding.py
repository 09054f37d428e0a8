"""How a large release is divided: folders of so many chips, each whole with checksums of its own.

A release of few chips has none, and all its files lie side by side.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from .opening.checksums import SUMS_NAME

SHARDS_FOLDER = "chips"
"""Holds the shards."""
MOST_UNSHARDED = 10_000
"""Chips of a release whose files lie side by side, where the config does not say otherwise."""
SHARD_CHIPS = 1_000
MOST_TEXT_ROWS = 100_000
"""Chips up to which there are the tracker's GeoJSON and CSV, too; a person opens no longer ones."""
_SHARD_SUMS = re.compile(rf"{SHARDS_FOLDER}/([0-9]{{6,12}})/{SUMS_NAME}")


@dataclass(frozen=True, order=True)
class ChipShard:
    """The chips of one folder: ``first`` to ``stop - 1``."""

    first: int
    stop: int

    @property
    def name(self) -> str:
        """Name of its folder within :data:`SHARDS_FOLDER`, and the end of its zip's."""
        return f"{self.first:06}"

    @property
    def folder(self) -> str:
        """Where its files lie in the release; with a slash at the end."""
        return f"{SHARDS_FOLDER}/{self.name}/"

    @property
    def sums_name(self) -> str:
        """Name of its checksums in the release."""
        return self.folder + SUMS_NAME


def resolve_shard_chips(asked: int | None, chips: int) -> int | None:
    """Return how many chips a shard has; None for a release without shards.

    Examples
    --------
    >>> [resolve_shard_chips(*one) for one in ((None, 10_000), (None, 10_001), (50, 3))]
    [None, 1000, 50]
    """
    return asked or (SHARD_CHIPS if chips > MOST_UNSHARDED else None)


def shards_of(chips: int, shard_chips: int) -> Iterator[ChipShard]:
    """Yield the shards of so many chips."""
    for first in range(0, chips, shard_chips):
        yield ChipShard(first, min(first + shard_chips, chips))


def folder_of(chip_id: int, shard_chips: int | None) -> str:
    """Return where a chip's files lie in a release: a folder with a slash, or nothing.

    Examples
    --------
    >>> folder_of(1234, 1000), folder_of(1234, None)
    ('chips/001000/', '')
    """
    if shard_chips is None:
        return ""
    return ChipShard(chip_id - chip_id % shard_chips, 0).folder


def is_shard_sums(name: str) -> bool:
    """Tell whether this names the checksums of a shard."""
    return _SHARD_SUMS.fullmatch(name) is not None


def names_shards(sums: bytes) -> bool:
    """Tell whether a release's ``SHA256SUMS`` names shards."""
    return (
        re.search(rb"^[0-9a-f]{64}  " + _SHARD_SUMS.pattern.encode() + rb"$", sums, re.MULTILINE) is not None
    )
