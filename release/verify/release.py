"""Check a whole release: every file, name, field, date, raster and count.

A release may come from anybody: what it says of itself is read as a claim, never as a path to
follow or a size to trust, and by processes of bounded memory and time.
"""

from __future__ import annotations

import contextlib
import functools
import os
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import geopandas as gpd

from chipping.views import CLOUD_SHARE
from cube.run.storage import Folder, open_folder
from release.opening.checksums import SUMS_NAME
from release.opening.faults import BadZipError, Fault
from release.opening.files import FolderFiles, ZipFiles, open_files
from release.opening.zips import zip_chunks, zip_equals
from release.recipe import Recipe
from release.select import dates_fit
from release.statistics import STATISTICS_NAME, counted_rows, statistics_split
from release.tracker import chip_id_of

from .alignment import Alignment
from .chips import ChipTask, Findings, check_chips
from .documents import check_documents, check_sums
from .processes import Check, CheckProcesses, DeadlyFileError, WatchedFiles, limit_memory
from .statistics import check_statistics

_MISALIGNED_PX = 2
_CHIPS_PER_TASK = 16
_CHIPS_PER_WORKER = 100
"""Fewer are not worth starting a process for."""
_ALIGNED_CHIPS = 500
SAMPLE_CHIPS = 64
"""Chips whose numbers are counted again."""
_BYTES_PER_FILE = 1 << 14
"""Memory that the check of the documents may take for each file of the release, several times what
it does."""
_COPIES = 12
"""How often a raster may be in memory while it is checked: as a file, and in several dtypes."""


def verify(path: str | Path | Folder, workers: int | None = None) -> list[Fault]:
    """Check a release folder or zip.

    Parameters
    ----------
    path
        The folder or the ``.zip``.
    workers
        Processes that read chips at once (None: one per core, fewer for a small release).

    Returns
    -------
    list of Fault
        In the order of file names; empty for a release as it was made.

    Raises
    ------
    ReleaseError
        If there is nothing at `path`, or a link leads out of it.
    """
    release = open_folder(path)
    with contextlib.suppress(BadZipError):  # a fault, below
        if isinstance(opened := open_files(release), FolderFiles):
            opened.check_links()
    processes = CheckProcesses(release, imported=__name__)
    faults: set[Fault] = set()
    try:
        (documents,) = processes.run([_check_documents], workers=1)
        faults.update(documents.faults)
        if documents.is_release:
            findings = _check_chips(processes, documents, workers)
            faults.update(findings.faults, _same_images(findings.images))
            faults.update(_alignment_faults(findings.alignments, documents.recipe))
    except BadZipError:
        faults.add(Fault(Path(str(path)).name, "is not a zip that can be read"))
    except DeadlyFileError as error:
        faults.add(Fault(error.file, str(error)))
    return sorted(faults)


@dataclass(frozen=True)
class _Documents:
    """What was found in the files that are no chip's, and what they ask of those that are."""

    faults: list[Fault]
    is_release: bool = True
    """False where there is nothing to compare files with."""
    recipe: Recipe | None = None
    tasks: list[ChipTask] | None = None
    statistics: Callable[..., Findings] | None = None
    """Counts some chips again, where there is something to compare them with."""


def _check_documents(files: WatchedFiles) -> _Documents:
    """Check the checksums and whatever is no chip's file."""
    names = files.names()
    limit_memory(len(names) * _BYTES_PER_FILE)
    if SUMS_NAME not in names:
        missing = Fault(SUMS_NAME, "is missing: this is no release, or not all of it")
        return _Documents([missing], is_release=False)
    try:
        faults, sums = check_sums(files.read(SUMS_NAME), names)
    except OSError as error:
        return _Documents([Fault(SUMS_NAME, str(error))])
    recipe, table, wrong = check_documents(files, sums, names)
    there = {name: sums[name] for name in sums.keys() & set(names)}
    statistics = _statistics_check(table, recipe) if STATISTICS_NAME in there else None
    tasks = _chip_tasks(there, table, recipe)
    return _Documents(faults + wrong, recipe=recipe, tasks=tasks, statistics=statistics)


def _statistics_check(
    table: gpd.GeoDataFrame | None, recipe: Recipe | None
) -> Callable[..., Findings] | None:
    """Return what counts some chips again, where tracker and recipe can be believed."""
    if table is None or recipe is None:
        return None
    columns = ["id", *(f"{key}_dates" for key in recipe.series)]
    rows = table.loc[counted_rows(table), columns].to_dict("records")
    if not all(dates_fit(row[name], recipe.ranges) for row in rows for name in columns[1:]):
        return None
    split = statistics_split(table["split"])
    return functools.partial(check_statistics, rows=rows, split=split, recipe=recipe)


def _chip_tasks(
    sums: Mapping[str, str], table: gpd.GeoDataFrame | None, recipe: Recipe | None
) -> list[ChipTask]:
    """Return a task per chip, by id, with its row where files can be compared with it."""
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
    """Yield ids and what rasters are compared with, of rows whose dates allow it."""
    dates = [f"{key}_dates" for key in recipe.series]
    clouds = table.columns.intersection([CLOUD_SHARE.column(key) for key in recipe.series])
    for row in table[[*_compared_fields(recipe), *clouds]].to_dict("records"):
        if all(dates_fit(row[name], recipe.ranges) for name in dates):
            yield int(row.pop("id")), row


def _compared_fields(recipe: Recipe) -> list[str]:
    dates = [f"{key}_dates" for key in recipe.series]
    scenes = [f"{key}_scene_ids" for key in recipe.rasters]
    return ["id", "epsg", "left_m", "top_m", "lulc", "purity", *dates, *scenes]


def _same_images(images: Iterable[tuple[bytes, str]]) -> Iterator[Fault]:
    """Yield a fault per image that another file holds, too: no two places or days look alike."""
    first: dict[bytes, str] = {}
    for digest, name in sorted(images, key=lambda one: one[1]):
        if (other := first.setdefault(digest, name)) != name:
            yield Fault(name, f"holds the same pixels as {other}")


def _check_chips(processes: CheckProcesses, documents: _Documents, workers: int | None) -> Findings:
    """Check all chips, and the zip."""
    tasks, recipe = documents.tasks or [], documents.recipe
    if workers is None:
        workers = min(os.cpu_count() or 1, 1 + len(tasks) // _CHIPS_PER_WORKER)
    workers = max(workers, 1)
    checks: list[Check[Findings]] = [functools.partial(_check_zip, recipe=recipe)]
    for start in range(0, len(tasks), _CHIPS_PER_TASK):
        batch = tasks[start : start + _CHIPS_PER_TASK]
        checks.append(functools.partial(check_chips, tasks=batch, recipe=recipe))
    if documents.statistics is not None:
        checks.append(functools.partial(documents.statistics, sample_chips=SAMPLE_CHIPS))
    layouts = [] if recipe is None else recipe.rasters.values()
    largest = max((layout.raster_bytes for layout in layouts), default=0)
    findings = Findings()
    for part in processes.run(checks, workers, _COPIES * largest):
        findings.merge(part)
    return findings


def _alignment_faults(alignments: Mapping[tuple[str, int], Alignment], recipe: Recipe | None) -> list[Fault]:
    """Return a warning per sensor and time range whose images lie beside those of Sentinel-2."""
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


def _check_zip(files: WatchedFiles, recipe: Recipe | None) -> Findings:
    """Compare a zip, byte for byte, with the one that its files, or the folder beside it, make."""
    opened = files.files
    if isinstance(opened, ZipFiles):
        folder, name, root = opened.folder, opened.name, opened.root.rstrip("/")
    elif recipe is not None and (beside := _zip_beside(opened, recipe)) is not None:
        folder, name = beside
        root = name.removesuffix(".zip")
    else:
        return Findings()
    # What files hold is not looked at here: those that may not be read are read, too.
    read = replace(files, deadly=frozenset()).read
    try:
        with folder.open(name) as archive:
            same = zip_equals(archive, zip_chunks(root, files.names(), read))
    except (OSError, ValueError, struct.error):  # the last two: a name that no zip can hold
        same = False
    what = "its own files" if isinstance(opened, ZipFiles) else "the folder's files"
    wrong = [] if same else [Fault(name, f"is not, byte for byte, the zip that {what} make")]
    return Findings(wrong)


def _zip_beside(files: FolderFiles, recipe: Recipe) -> tuple[Folder, str] | None:
    """Return the folder and name of the zip beside a release folder, if there is one."""
    above = open_folder(files.folder.url.rstrip("/").rpartition("/")[0] or ".", files.folder.options)
    name = f"{recipe.name}_{recipe.version}.zip"
    return (above, name) if above.exists(name) else None
