"""The chosen chips' files in the working folder: which there are, and whether they are whole."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import pandas as pd
from numpy.typing import NDArray

from chipping.export import CHIP_RECORD
from cube.config.models import Config
from cube.run.storage import Folder
from cube.windows.lattice import WindowGeometry

from .opening.checksums import is_digest, sha256
from .opening.faults import ReleaseError
from .tracker import chip_files, chip_id_of


class ChipFile(NamedTuple):
    """A file of a chip in the working folder, and its name in the release."""

    cell: str
    name: str
    target: str


@dataclass(frozen=True)
class ChosenChips:
    """The files of chosen chips, of which only checksums are held: there are many."""

    folder: Folder
    table: pd.DataFrame
    """Such as :attr:`release.select.Selection.chips`, or some rows of one in a row."""
    config: Config
    sums: Mapping[str, str] = field(default_factory=dict)
    """By name in the release or its shard, as ``chip.json`` gives them; empty where they are not
    found yet."""

    def sources(self, row: int) -> list[ChipFile]:
        """Name the files of the chip in a row of the table."""
        chip = self.row(row)
        return [ChipFile(chip["cell"], *names) for names in chip_files(chip, self.config).items()]

    def only(self, row: int) -> ChosenChips:
        """Return the chip in a row of the table alone; the columns of others are not unpacked."""
        return replace(self, table=self.table.iloc[row : row + 1])

    def row(self, row: int) -> dict[str, Any]:
        """Return a row of the table."""
        return dict(zip(self.table.columns, (column[row] for column in self._columns), strict=True))

    @cached_property
    def _columns(self) -> list[NDArray[Any]]:
        return [self.table[name].to_numpy() for name in self.table.columns]

    def find_digests(self, row: int) -> list[tuple[str, str]]:
        """Check that the chip in a row of the table is whole; return names and checksums."""
        chip, sources = self.row(row), self.sources(row)
        cell = str(chip["cell"])
        own = self.folder / cell
        there = set(own.names())
        for name in (CHIP_RECORD, *(source.name for source in sources)):
            if name not in there:
                raise ReleaseError(f"chip {cell}: {own}/{name} is missing; run gelos-lc chip again")
        record = _read_record(own, cell)
        _check_record(record, chip, self.config)
        digests = {source.name: str(record["files"].get(source.name)) for source in sources}
        if unknown := [name for name, digest in digests.items() if not is_digest(digest)]:
            raise ReleaseError(
                f"chip {cell}: chip.json has no sha256 of {unknown[0]}; run gelos-lc chip again"
            )
        return [(source.target, digests[source.name]) for source in sources]

    def read(self, source: ChipFile) -> bytes:
        """Read a file, and check that it is what chip.json says."""
        folder = self.folder / source.cell
        try:
            data = folder.read(source.name)
        except FileNotFoundError:
            raise ReleaseError(
                f"chip {source.cell}: {source.name} is missing; run gelos-lc chip again"
            ) from None
        if sha256(data) != self._digest(source):
            raise ReleaseError(
                f"chip {source.cell}: {source.name} is not what its chip.json says; remove the folder "
                f"{folder} and run gelos-lc chip again"
            )
        return data

    def _digest(self, source: ChipFile) -> str:
        return (
            self.sums.get(source.target)
            or dict(self.find_digests(self._row_of(source.target)))[source.target]
        )

    def _row_of(self, target: str) -> int:
        chip_id = chip_id_of(target)
        assert chip_id is not None
        return chip_id - int(self.table["id"].iloc[0])

    def read_target(self, target: str) -> bytes:
        """Read a file by its name in the release."""
        chip, name = self.only(self._row_of(target)), target.rpartition("/")[2]
        return chip.read(next(source for source in chip.sources(0) if source.target == name))


def find_chips(folder: Folder, table: pd.DataFrame, config: Config) -> ChosenChips:
    """Find every file of chosen chips, with the checksum that its ``chip.json`` gives.

    Parameters
    ----------
    folder
        Holds a folder per chip, which is called by its cell.
    table
        Such as :attr:`release.select.Selection.chips`, or some rows of one in a row.
    config
        The dataset version.

    Raises
    ------
    ReleaseError
        If a file is missing, or a chip is not the one that the selection tells of.
    """
    chips = ChosenChips(folder, table, config)
    with ThreadPoolExecutor(folder.threads) as pool:
        digests = pool.map(chips.find_digests, range(len(table)))
        return replace(chips, sums=dict(itertools.chain.from_iterable(digests)))


def _read_record(folder: Folder, cell: str) -> dict[str, Any]:
    try:
        record = json.loads(folder.read(CHIP_RECORD))
        return {name: record[name] for name in ("cell", "bounds")} | {
            "files": dict(record["files"]),
            "dates": {key: ",".join(sensor["dates"]) for key, sensor in record["sensors"].items()},
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ReleaseError(
            f"chip {cell}: {folder}/chip.json cannot be read ({error}); run gelos-lc chip again"
        ) from None


def _check_record(record: Mapping[str, Any], chip: Mapping[str, Any], config: Config) -> None:
    """Check that a chip is the one that its row of the table tells of."""
    box = WindowGeometry.from_config(config.chips).bounds("chip", int(chip["left_m"]), int(chip["top_m"]))
    facts = [
        ("cell", record["cell"], chip["cell"]),
        ("bounds", record["bounds"], [box.left, box.bottom, box.right, box.top]),
        *((f"{key} dates", record["dates"].get(key), chip[f"{key}_dates"]) for key in config.series),
    ]
    for what, found, expected in facts:
        if found != expected:
            raise ReleaseError(
                f"chip {chip['cell']}: its chip.json has {what} {found}, and its window {expected}; "
                "run gelos-lc chip again"
            )
