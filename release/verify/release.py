"""Check a release, whole: every file, name, field, date, raster and count. For anyone who holds one.

A release may come from anybody: what it says of itself is read as a claim, never as a path to
follow or a size to trust.
"""

from __future__ import annotations

import itertools
import logging
import multiprocessing
import os
import signal
import threading
import warnings
from array import array
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np

from cube.run.storage import Folder, open_folder
from release.memory import give_back
from release.opening.checksums import SUMS_NAME, Checksums, Names
from release.opening.faults import BadZipError, Fault
from release.opening.files import Files, FolderFiles, ZipFiles, open_files
from release.opening.zips import zip_chunks, zip_equals
from release.recipe import Recipe
from release.select import dates_fit
from release.tracker import chip_id_of, rows_of

from .alignment import Alignment
from .chips import LOOK_BYTES, ChipTask, Findings, check_chips
from .documents import check_documents, check_sums

__all__ = ["verify"]

_MISALIGNED_PX = 2
_CHIPS_PER_TASK = 16
_CHIPS_PER_WORKER = 100
"""Fewer are not worth starting a process for."""
_TASKS_AHEAD = 4
"""Per worker."""
_ALIGNED_CHIPS = 500


def verify(path: str | Path | Folder, workers: int | None = None) -> list[Fault]:
    """Check a release folder or zip.

    Parameters
    ----------
    path
        The folder or the ``.zip``.
    workers
        Processes that read chips (None: one per core, fewer for a small release; 1: this process).

    Returns
    -------
    list of Fault
        In the order of file names; empty for a release as it was made.

    Raises
    ------
    ReleaseError
        If there is nothing at `path`.
    """
    try:
        files = open_files(path)
    except BadZipError:
        return [Fault(Path(str(path)).name, "is not a zip that can be read")]
    names = files.names()
    if SUMS_NAME not in names:
        return [Fault(SUMS_NAME, "is missing: this is no release, or not all of it")]
    try:
        faults, sums = check_sums(files.read(SUMS_NAME), names)
    except OSError as error:
        return sorted({Fault(SUMS_NAME, str(error)), *_check_zip(files, None)})
    recipe, table, wrong = check_documents(files, sums, names)
    faults += wrong
    tasks = _Tasks(sums, names, table, recipe)
    del names, table
    give_back()  # before workers share it
    looks = _Looks(sums.names)
    findings = _check_chips(files, tasks, recipe, looks, workers)
    faults += findings.faults
    return sorted({*faults, *looks.faults(), *_check_alignment(findings.alignments, recipe)})


class _Tasks:
    """Chips to check, a task at a time: all of them at once would take more memory than the release's table."""

    def __init__(
        self, sums: Checksums, names: Names, table: gpd.GeoDataFrame | None, recipe: Recipe | None
    ) -> None:
        missing = set(sums.names.beside(names))
        ids = [None if name in missing else chip_id_of(name) for name in sums]
        own = np.array([-1 if one is None else one for one in ids], dtype=np.int64)
        # Places among the names, chip by chip.
        self._places = np.argsort(own, kind="stable")[np.count_nonzero(own < 0) :]
        self._ids, self._starts = np.unique(own[self._places], return_index=True)
        self._sums, self._recipe = sums, recipe
        self._table = None if table is None or recipe is None else table[_compared_fields(recipe)].copy()
        # Correlation is over the release: chips beyond some hundreds tell nothing new.
        self._aligned_every = max(1, len(self) // _ALIGNED_CHIPS)

    def __len__(self) -> int:
        """Return how many chips there are."""
        return len(self._ids)

    def __iter__(self) -> Iterator[ChipTask]:
        """Yield a task per chip, in the order of ids."""
        names, rows = self._sums.names, self._rows()
        bounds = itertools.pairwise([*self._starts.tolist(), len(self._places)])
        ahead = next(rows, None)
        for number, (chip_id, (start, end)) in enumerate(zip(self._ids.tolist(), bounds, strict=True)):
            places = self._places[start:end].tolist()
            files = tuple((names.at(place), self._sums.at(place)) for place in places)
            while ahead is not None and ahead[0] < chip_id:
                ahead = next(rows, None)
            row = ahead[1] if ahead is not None and ahead[0] == chip_id else None
            yield ChipTask(files, row, number % self._aligned_every == 0)

    def _rows(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield ids and what rasters are compared with; only rows whose dates are such that they can be."""
        if self._table is None or self._recipe is None:
            return
        dates = [f"{key}_dates" for key in self._recipe.series]
        for row in rows_of(self._table, list(self._table.columns)):
            if all(dates_fit(row[name], self._recipe.ranges) for name in dates):
                yield int(row.pop("id")), row

    def batches(self) -> Iterator[list[ChipTask]]:
        """Yield some tasks at a time."""
        tasks = iter(self)
        while batch := list(itertools.islice(tasks, _CHIPS_PER_TASK)):
            yield batch


def _compared_fields(recipe: Recipe) -> list[str]:
    dates = [f"{key}_dates" for key in recipe.series]
    scenes = [f"{key}_scene_ids" for key in recipe.rasters]
    return ["id", "epsg", "left_m", "top_m", "lulc", "purity", *dates, *scenes]


class _Looks:
    """Which files hold which images; 24 bytes of each, since there are a dozen to a chip.

    Parameters
    ----------
    names
        Of the files.
    """

    def __init__(self, names: Names) -> None:
        self._names, self._digests, self._places = names, bytearray(), array("q")

    def add(self, images: Iterable[tuple[bytes, str]]) -> None:
        """Note the digests of images and the files that hold them."""
        for digest, name in images:
            place = self._names.place(name)
            assert place is not None, name
            self._digests += digest
            self._places.append(place)

    def clear(self) -> None:
        """Forget all."""
        self._digests.clear()
        del self._places[:]

    def faults(self) -> Iterator[Fault]:
        """Yield a fault per image that another file holds, too: no two places or days look alike to the last bit."""
        digests = np.frombuffer(self._digests, dtype=np.uint64).reshape(-1, LOOK_BYTES // 8)
        order = np.lexsort((self._places, *digests.T))
        sorted_digests = digests[order]
        is_same = (sorted_digests[1:] == sorted_digests[:-1]).all(axis=1)
        first = 0
        for number in np.flatnonzero(is_same).tolist():
            first = first if number and is_same[number - 1] else number
            name, other = (self._names.at(self._places[order[one]]) for one in (number + 1, first))
            yield Fault(name, f"holds the same pixels as {other}")


_worker: tuple[Files, Recipe | None]
"""What a worker process reads from."""


def _start_worker(files: Files, recipe: Recipe | None) -> None:
    global _worker  # noqa: PLW0603  a worker's own
    logging.getLogger("rasterio").setLevel(logging.CRITICAL)  # what GDAL finds, the faults say
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a fork has its parent's, which would take it for Ctrl-C
    _worker = files, recipe


def _check_batch(batch: Sequence[ChipTask]) -> Findings:
    return check_chips(batch, *_worker)


def _check_zip_there() -> Findings:
    return Findings(_check_zip(*_worker))


def _check_chips(
    files: Files, tasks: _Tasks, recipe: Recipe | None, looks: _Looks, workers: int | None
) -> Findings:
    """Check all chips, and the zip."""
    if workers is None:
        workers = min(os.cpu_count() or 1, 1 + len(tasks) // _CHIPS_PER_WORKER)
    if workers > 1:
        try:
            return _merged(_check_parallel(files, tasks, recipe, workers), looks)
        except BrokenProcessPool:  # a worker was killed, or could not start: slower, but it gets done
            looks.clear()
    here = (check_chips(batch, files, recipe) for batch in tasks.batches())
    return _merged(itertools.chain([Findings(_check_zip(files, recipe))], here), looks)


def _merged(parts: Iterable[Findings], looks: _Looks) -> Findings:
    merged = Findings()
    for part in parts:
        looks.add(part.images)
        part.images.clear()
        merged.merge(part)
    return merged


def _check_parallel(files: Files, tasks: _Tasks, recipe: Recipe | None, workers: int) -> Iterator[Findings]:
    # A fork needs no guard in the caller's script and starts at once, but must not be made beside
    # running threads.
    may_fork = threading.active_count() == 1 and "fork" in multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("fork" if may_fork else "spawn")
    others = set(multiprocessing.active_children())
    with (
        warnings.catch_warnings(),
        ProcessPoolExecutor(workers, context, _start_worker, (files, recipe)) as pool,
    ):
        # Idle threads of numerical libraries, which they take care of themselves.
        warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
        try:
            ahead: deque[Future[Findings]] = deque([pool.submit(_check_zip_there)])
            for batch in tasks.batches():
                ahead.append(pool.submit(_check_batch, batch))
                if len(ahead) > _TASKS_AHEAD * workers:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        except BaseException:  # Ctrl-C waits for nothing, least of all for the zip
            pool.shutdown(wait=False, cancel_futures=True)
            for worker in set(multiprocessing.active_children()) - others:
                worker.terminate()
            raise


def _check_alignment(alignments: Mapping[tuple[str, int], Alignment], recipe: Recipe | None) -> list[Fault]:
    faults = []
    for (key, index), alignment in sorted(alignments.items()):
        assert recipe is not None
        reference = recipe.rasters["s2l2a"].resolution
        offset = alignment.offset(_MISALIGNED_PX * recipe.rasters[key].resolution // reference)
        if offset is not None:
            when = f" in {recipe.ranges[index]}" if key in recipe.series else ""
            faults.append(
                Fault(
                    f"{key}_*.tif",
                    f"lies {offset.south * reference} m south and {offset.east * reference} m east of "
                    f"Sentinel-2{when}, by correlation over {alignment.count} chips",
                    warning=True,
                )
            )
    return faults


def _check_zip(files: Files, recipe: Recipe | None) -> list[Fault]:
    """Compare a zip, byte for byte, with the one that its files, or the folder beside it, make."""
    if isinstance(files, ZipFiles):
        folder, name, root = files.folder, files.name, files.root.rstrip("/")
    elif isinstance(files, FolderFiles) and recipe is not None:
        url = files.folder.url.rstrip("/").rpartition("/")[0] or "."
        folder, root = open_folder(url, files.folder.options), f"{recipe.name}_{recipe.version}"
        name = f"{root}.zip"
        if not folder.exists(name):
            return []
    else:
        return []
    try:
        with folder.open(name) as archive:
            same = zip_equals(archive, zip_chunks(root, files.names(), files.read))
    except (OSError, ValueError):  # a name that a zip cannot hold is a ValueError
        same = False
    what = "its own files" if isinstance(files, ZipFiles) else "the folder's files"
    return [] if same else [Fault(name, f"is not, byte for byte, the zip that {what} make")]
