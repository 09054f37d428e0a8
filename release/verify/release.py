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
import struct
import threading
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import geopandas as gpd

from cube.run.storage import Folder
from release.opening.checksums import SUMS_NAME
from release.opening.faults import BadZipError, Fault
from release.opening.files import Files, FolderFiles, ZipFiles, open_files
from release.opening.zips import zip_chunks, zip_equals
from release.recipe import Recipe
from release.select import dates_fit
from release.tracker import chip_id_of, rows_of

from .alignment import Alignment
from .chips import ChipTask, Findings, check_chips
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
    tasks = _chip_tasks({name: sums[name] for name in sums.keys() & set(names)}, table, recipe)
    findings = _check_chips(files, tasks, recipe, workers)
    faults += findings.faults
    return sorted({*faults, *_same_images(findings.images), *_check_alignment(findings.alignments, recipe)})


def _chip_tasks(
    sums: Mapping[str, str], table: gpd.GeoDataFrame | None, recipe: Recipe | None
) -> list[ChipTask]:
    """Return a task per chip, in the order of ids: its files, and its row where it can be compared with them."""
    files: dict[int, list[tuple[str, str]]] = {}
    for name, digest in sorted(sums.items()):
        chip_id = chip_id_of(name)
        if chip_id is not None:
            files.setdefault(chip_id, []).append((name, digest))
    rows = {} if table is None or recipe is None else dict(_compared_rows(table, recipe))
    # Correlation is over the release: chips beyond some hundreds tell nothing new.
    aligned_every = max(1, len(files) // _ALIGNED_CHIPS)
    return [
        ChipTask(tuple(own), rows.get(chip_id), number % aligned_every == 0)
        for number, (chip_id, own) in enumerate(sorted(files.items()))
    ]


def _compared_rows(table: gpd.GeoDataFrame, recipe: Recipe) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield ids and what rasters are compared with; only rows whose dates are such that they can be."""
    dates = [f"{key}_dates" for key in recipe.series]
    for row in rows_of(table, _compared_fields(recipe)):
        if all(dates_fit(row[name], recipe.ranges) for name in dates):
            yield int(row.pop("id")), row


def _compared_fields(recipe: Recipe) -> list[str]:
    dates = [f"{key}_dates" for key in recipe.series]
    scenes = [f"{key}_scene_ids" for key in recipe.layout]
    return ["id", "epsg", "left_m", "top_m", "lulc", "purity", *dates, *scenes]


def _same_images(images: Iterable[tuple[bytes, str]]) -> Iterator[Fault]:
    """Yield a fault per image that another file holds, too: no two places or days look alike to the last bit."""
    first: dict[bytes, str] = {}
    for digest, name in sorted(images, key=lambda one: one[1]):
        if (other := first.setdefault(digest, name)) != name:
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
    files: Files, tasks: Sequence[ChipTask], recipe: Recipe | None, workers: int | None
) -> Findings:
    """Check all chips, and the zip."""
    if workers is None:
        workers = min(os.cpu_count() or 1, 1 + len(tasks) // _CHIPS_PER_WORKER)
    batches = [tasks[start : start + _CHIPS_PER_TASK] for start in range(0, len(tasks), _CHIPS_PER_TASK)]
    if workers > 1:
        try:
            return _merged(_check_parallel(files, batches, recipe, workers))
        except BrokenProcessPool:  # a worker was killed, or could not start: slower, but it gets done
            pass
    here = (check_chips(batch, files, recipe) for batch in batches)
    return _merged(itertools.chain([Findings(_check_zip(files, recipe))], here))


def _merged(parts: Iterable[Findings]) -> Findings:
    merged = Findings()
    for part in parts:
        merged.merge(part)
    return merged


def _check_parallel(
    files: Files, batches: Sequence[Sequence[ChipTask]], recipe: Recipe | None, workers: int
) -> Iterator[Findings]:
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
            for batch in batches:
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
        reference = recipe.layout["s2l2a"].resolution
        offset = alignment.offset(_MISALIGNED_PX * recipe.layout[key].resolution // reference)
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
        folder, root = Folder(url, files.folder.options), f"{recipe.name}_{recipe.version}"
        name = f"{root}.zip"
        if not folder.exists(name):
            return []
    else:
        return []
    try:
        with folder.open(name) as archive:
            same = zip_equals(archive, zip_chunks(root, files.names(), files.read))
    except (OSError, ValueError, struct.error):  # the last two: a name that no zip can hold
        same = False
    what = "its own files" if isinstance(files, ZipFiles) else "the folder's files"
    return [] if same else [Fault(name, f"is not, byte for byte, the zip that {what} make")]
