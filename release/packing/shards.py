"""A release in shards, and its zips: each shard is one task, and whole or not there.

It is made in a folder that no reader looks at (on a disk; in an object store it is none until its
``SHA256SUMS`` is there), and a run that was stopped goes on with the shards that are whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version as program_version
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cube.config.models import Config
from cube.run.engine import open_engine
from cube.run.named_locks import stop_if_lost
from cube.run.shards import Share
from cube.run.storage import DiskFolder, Folder
from cube.run.tasks import Engine, Result, Task, Tasks
from release.catalogs.items import StacItems, View
from release.chosen import find_chips
from release.opening.checksums import SUMS_NAME, format_sums, parse_sums, sha256
from release.recipe import Recipe
from release.report.browser import is_layers_file
from release.report.layers import LayerPainter, layers_files
from release.sharding import SHARDS_FOLDER, ChipShard, shards_of
from release.statistics import STATISTICS_NAME, Tally, counted_rows, statistics_split
from release.tracker import Tracker

from .chips import write_chips
from .contents import Contents
from .zipping import write_zip

if TYPE_CHECKING:
    from chipping.chip import OnProgress

ROUND_NAME = "round.json"
"""Tells, while several runs make a release, which one they are at."""
_MADE, _TALLIES = "release", "tallies"


@dataclass(frozen=True)
class ShardTask:
    """The chips of one shard, and what is needed to write or check them. Travels to workers."""

    shard: ChipShard
    source: Folder
    """Holds a folder per chip, of phase two."""
    chips: pd.DataFrame
    """Their rows of :attr:`release.select.Selection.chips`."""
    is_counted: NDArray[np.bool_]
    """Whether the statistics are of each."""
    split: str | None
    """That the statistics are of."""
    views: frozenset[View]
    """What is known of every chip's images in the whole release."""
    config: Config
    recipe: Recipe
    place: Folder
    """The release, finished or not."""
    tallies: Folder
    """Where the shard's share of the statistics is kept until the release is finished."""

    @property
    def folder(self) -> Folder:
        """Where the shard's files lie."""
        return self.place / SHARDS_FOLDER / self.shard.name

    @cached_property
    def items(self) -> dict[str, bytes]:
        """The STAC items' files, by name."""
        tracker = Tracker.of_chips(self.chips, self.config, self.recipe.shard_chips)
        return dict(StacItems(tracker, self.recipe, self.views).files())

    def tally_name(self, sums: bytes) -> str:
        """Name the shard's tally by all that it follows from."""
        facts = (sums, self.recipe.to_json(), self.is_counted.tobytes(), program_version("gelos-lc").encode())
        return f"{self.shard.name}-{sha256(b''.join(facts))}.npz"


@dataclass(frozen=True)
class ShardDone:
    """A shard that is whole."""

    shard: ChipShard
    digest: str
    """SHA-256 of its SHA256SUMS."""
    tally: str
    """Name of its share of the statistics."""


def write_shard(task: ShardTask) -> ShardDone:
    """Write a shard, unless it is there, as a run that was stopped left it; in a worker."""
    chips = find_chips(task.source, task.chips, task.config)
    expected = {**chips.sums, **{name: sha256(data) for name, data in task.items.items()}}
    there = _sums_there(task, expected)
    if there is not None and task.tallies.exists(task.tally_name(there)):
        return ShardDone(task.shard, sha256(there), task.tally_name(there))
    tally = Tally(task.recipe, task.split)
    painter = LayerPainter(task.config, task.recipe)
    with (task.place / SHARDS_FOLDER).staged(task.shard.name, SUMS_NAME) as put:
        for name, data in task.items.items():
            put(name, data)
        layers = write_chips(chips, task.is_counted, tally, painter, task.recipe, put, task.shard)
        sums = format_sums({**expected, **layers})
        put(SUMS_NAME, sums)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **tally.state())
    task.tallies.write(task.tally_name(sums), buffer.getvalue())
    return ShardDone(task.shard, sha256(sums), task.tally_name(sums))


def find_shard(task: ShardTask) -> str | None:
    """Return the SHA-256 of a shard's SHA256SUMS if that is of this very shard; in a worker."""
    chips = find_chips(task.source, task.chips, task.config)
    expected = {**chips.sums, **{name: sha256(data) for name, data in task.items.items()}}
    there = _sums_there(task, expected)
    return None if there is None else sha256(there)


def check_shard(task: ShardTask) -> str | None:
    """Return the same if its files are what it says, too; in a worker."""
    digest = find_shard(task)
    if digest is None:
        return None
    sums, _ = parse_sums(task.folder.read(SUMS_NAME))
    is_whole = all(sha256(task.folder.read(name)) == of_file for name, of_file in sums.items())
    return digest if is_whole else None


def _sums_there(task: ShardTask, expected: Mapping[str, str]) -> bytes | None:
    """Return a shard's SHA256SUMS if it names what is expected, and layers, and all is there."""
    names = set(task.folder.files())
    if SUMS_NAME not in names:
        return None
    there = task.folder.read(SUMS_NAME)
    sums, _ = parse_sums(there)
    layers = {name: digest for name, digest in sums.items() if is_layers_file(name)}
    is_right = there == format_sums({**expected, **layers}) and names == {SUMS_NAME, *sums}
    return there if is_right and set(layers) == set(layers_files(len(task.chips))) else None


@dataclass(frozen=True)
class ZipTask:
    """The zip of a shard. Travels to workers."""

    shard: ChipShard
    output: Folder
    archive: str
    root: str
    """Folder in the zip that holds the files."""
    source: Folder
    force: bool

    @classmethod
    def of(cls, shard: ChipShard, output: Folder, version: str, stem: str, *, force: bool) -> ZipTask:
        """Return the task of a shard's zip."""
        folder = f"{SHARDS_FOLDER}/{shard.name}"
        return cls(shard, output, zip_name(stem, shard), f"{stem}/{folder}", output / version / folder, force)


def zip_shard(task: ZipTask) -> bool:
    """Zip a shard, unless the very same zip is there; tell whether it was written; in a worker."""
    names = list(parse_sums(task.source.read(SUMS_NAME))[0])
    return write_zip(task.output, task.archive, task.root, names, task.source, force=task.force)


@dataclass(frozen=True)
class ShardedRelease:
    """A release in shards: what is written, and whether it is there."""

    contents: Contents
    engine: Engine | None
    """Runs the shards; None: what ``compute`` names."""
    progress: OnProgress | None

    @property
    def config(self) -> Config:
        """The dataset version."""
        return self.contents.chips.config

    @cached_property
    def shards(self) -> list[ChipShard]:
        """All of them."""
        shard_chips = self.contents.recipe.shard_chips
        assert shard_chips is not None
        return list(shards_of(len(self.contents.tracker), shard_chips))

    def zip_names(self, stem: str) -> list[str]:
        """Name the zip of the whole, and those of its shards."""
        return [f"{stem}.zip", *(zip_name(stem, shard) for shard in self.shards)]

    def may_hold(self, name: str) -> bool:
        """Tell whether a file of this name is one of the release's."""
        first, _, rest = name.partition("/")
        return first == SHARDS_FOLDER if rest else True

    def is_there(self, release: Folder) -> bool | None:
        """Tell whether this very release is there: True; a different one: False; or none: None."""
        claimed = self._claimed(release)
        if not claimed:
            return claimed if claimed is None else False
        sums = {}
        tasks = (self.task_of(shard, release, release) for shard in self.shards)
        for task, digest in self._run(check_shard, tasks, release, "check"):
            if digest is None:
                return False
            sums[task.shard.sums_name] = digest
        for name, pieces in self.contents.documents(sums):
            sums[name] = _sha256_of(pieces)
        sums[STATISTICS_NAME] = claimed.get(STATISTICS_NAME, "")
        top = set(claimed) - {shard.sums_name for shard in self.shards}
        return claimed == sums and all(sha256(release.read(name)) == sums[name] for name in top)

    def seems_there(self, release: Folder, own: Share) -> bool | None:
        """Tell the same by checksums alone, of a share of the shards: no file of a chip is read."""
        claimed = self._claimed(release)
        if not claimed:
            return claimed if claimed is None else False
        if any(claimed[name] != digest for name, digest in self.contents.own_sums.items()):
            return False
        tasks = (self.task_of(shard, release, release) for shard in own.of(self.shards))
        found = self._run(find_shard, tasks, release, "check")
        return all(digest == claimed[task.shard.sums_name] for task, digest in found)

    def _claimed(self, release: Folder) -> dict[str, str] | None:
        """Return the checksums of a release with these files; empty: of another; None: of none."""
        top = set(release.files(but=SHARDS_FOLDER))
        folders = (release / SHARDS_FOLDER).names()
        if not top and not folders:
            return None
        if SUMS_NAME not in top:
            return {}
        claimed, _ = parse_sums(release.read(SUMS_NAME))
        shards = {shard.sums_name for shard in self.shards}
        is_like_this = set(folders) == {shard.name for shard in self.shards} and shards <= set(claimed)
        is_like_this &= set(self.contents.own_sums) <= set(claimed) - shards == top - {SUMS_NAME}
        return dict(claimed) if is_like_this else {}

    def places(self, output: Folder, version: str) -> tuple[Folder, Folder]:
        """Return where the release is made, and where what is counted in its shards."""
        making = output / making_name(version)
        place = making / _MADE if isinstance(output, DiskFolder) else output / version
        return place, making / _TALLIES

    def write(self, output: Folder, version: str) -> None:
        """Write all shards that are not there yet, and all else; the release appears whole."""
        self.make_room(output, version)
        place, tallies = self.places(output, version)
        tasks = (self.task_of(shard, place, tallies) for shard in self.shards)
        done = [value for _, value in self._run(write_shard, tasks, place, "shards")]
        self.write_top(output, version, done)
        self.show(output, version)

    def make_room(self, output: Folder, version: str) -> None:
        """Remove what a run that was stopped left half-written, and what is of another release."""
        place, tallies = self.places(output, version)
        (output / making_name(version)).remove(ROUND_NAME)  # runs that shared it have ended
        if not isinstance(output, DiskFolder) and place.exists(SUMS_NAME):
            output.remove_folder(version, SUMS_NAME)  # a finished one, which is to be replaced
        shards = place / SHARDS_FOLDER
        shards.make()
        tallies.make()
        for folder in (shards, place, tallies):
            folder.sweep()
        for stray in set(shards.names()) - {shard.name for shard in self.shards}:
            shards.remove_folder(stray, SUMS_NAME)

    def write_top(self, output: Folder, version: str, done: Sequence[ShardDone]) -> bytes:
        """Write what lies in no shard, once all shards are there; return the checksums."""
        place, tallies = self.places(output, version)
        done = sorted(done, key=lambda one: one.shard)
        sums = {one.shard.sums_name: one.digest for one in done}
        for name, pieces in self.contents.documents(sums):
            sums[name] = _write_pieces(place, name, pieces)
        statistics = self._add_up(tallies, [one.tally for one in done])
        place.write(STATISTICS_NAME, statistics)
        sums[STATISTICS_NAME] = sha256(statistics)
        for stray in set(place.files(but=SHARDS_FOLDER)) - set(sums):
            place.remove(stray)
        (place / SHARDS_FOLDER).sweep()  # of runs that shared this one and were killed
        stop_if_lost()
        data = format_sums(sums)
        place.write(SUMS_NAME, data)
        return data

    def show(self, output: Folder, version: str) -> None:
        """Let the release take its place, where it is not made in it."""
        if isinstance(output, DiskFolder):
            output.move(f"{making_name(version)}/{_MADE}", version, SUMS_NAME)

    def _add_up(self, tallies: Folder, names: Sequence[str]) -> bytes:
        total = Tally(self.contents.recipe, self._counted[1])
        for name in names:
            with np.load(io.BytesIO(tallies.read(name))) as state:
                total.merge(state)
        return total.to_json()

    @cached_property
    def _counted(self) -> tuple[NDArray[np.bool_], str | None]:
        """Whether the statistics are of each chip, and the split that they are of."""
        table = self.contents.chips.table
        return counted_rows(table), statistics_split(table["split"])

    def task_of(self, shard: ChipShard, place: Folder, tallies: Folder) -> ShardTask:
        """Return what is to be done for a shard in a place."""
        contents, rows = self.contents, slice(shard.first, shard.stop)
        counted, split = self._counted
        return ShardTask(
            shard,
            contents.chips.folder.absolute(),
            contents.chips.table.iloc[rows],
            counted[rows],
            split,
            contents.items.views,
            self.config,
            contents.recipe,
            place.absolute(),
            tallies.absolute(),
        )

    def open_engine(self) -> contextlib.AbstractContextManager[Engine]:
        """Give access to what runs the shards."""
        return nullcontext(self.engine) if self.engine is not None else open_engine(self.config.compute)

    def _run(
        self, function: Callable[[Task], Result], tasks: Iterator[Task], scope: Folder, doing: str
    ) -> Iterator[tuple[Task, Result]]:
        """Yield tasks of shards with what a worker made of them, as they come."""
        total, done = len(self.shards), 0
        with self.open_engine() as engine:
            engine.wait_for_earlier_tasks(scope.url)
            for outcome in engine.run(function, Tasks(tasks), scope.url):
                yield outcome.task, outcome.get()
                done += 1
                if self.progress is not None:
                    self.progress(doing, done, total)

    def write_zips(self, output: Folder, version: str, stem: str, *, force: bool) -> bool:
        """Zip each shard, and what lies at the top; tell whether a zip was written."""
        place = output.absolute()
        tasks = (ZipTask.of(shard, place, version, stem, force=force) for shard in self.shards)
        written = [wrote for _, wrote in self._run(zip_shard, tasks, output, "zips")]
        return any([*written, self.write_top_zip(output, version, stem, force=force)])

    def write_top_zip(self, output: Folder, version: str, stem: str, *, force: bool) -> bool:
        """Zip what lies in no shard; tell whether the zip was written."""
        release = output / version
        names = [name for name in release.files(but=SHARDS_FOLDER) if name != SUMS_NAME]
        return write_zip(output, f"{stem}.zip", stem, names, release, force=force, are_large=True)


def making_name(version: str) -> str:
    """Name the folder in which a release is made over several runs."""
    return f".making-{version}"


def zip_name(stem: str, shard: ChipShard) -> str:
    """Name a shard's zip."""
    return f"{stem}_{shard.name}.zip"


def zips_of(output: Folder, stem: str) -> list[str]:
    """Name the zips of a release that there are, of shards and of the whole."""
    form = re.compile(rf"{re.escape(stem)}(_[0-9]{{6,12}})?\.zip")
    return [name for name in output.names(".zip") if form.fullmatch(name)]


def _sha256_of(pieces: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


def _write_pieces(place: Folder, name: str, pieces: Iterable[bytes]) -> str:
    """Write a file piece by piece; return its SHA-256."""
    digest = hashlib.sha256()
    with place.stream(name) as file:
        for piece in pieces:
            digest.update(piece)
            file.write(piece)
    return digest.hexdigest()
