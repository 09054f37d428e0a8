"""Check a whole release: every file, name, field, date, raster and count.

A release may come from anybody: what it says of itself is read as a claim, never as a path to
follow or a size to trust, and by processes of bounded memory and time.
"""

from __future__ import annotations

import contextlib
import functools
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cube.run.shards import Share
from cube.run.storage import Folder, open_folder
from release.opening.checksums import SUMS_NAME
from release.opening.faults import BadZipError, Fault, ReleaseError
from release.opening.files import EXPORT_NAME, FolderFiles, ZipFiles, open_files
from release.opening.zips import zip_chunks, zip_equals
from release.recipe import RECIPE_NAME, Recipe
from release.sharding import SHARDS_FOLDER, names_shards
from release.statistics import STATISTICS_NAME

from .alignment import Alignment
from .chips import Findings, check_chips
from .documents import check_documents, check_sums
from .images import SeenImages
from .processes import Check, CheckProcesses, DeadlyFileError, WatchedFiles, limit_memory
from .shards import check_top, shard_check
from .tasks import chip_tasks, statistics_check

_MISALIGNED_PX = 2
_CHIPS_PER_TASK = 16
_CHIPS_PER_WORKER = 100
"""Fewer are not worth starting a process for."""
SAMPLE_CHIPS = 64
"""Chips whose numbers are counted again."""
_BYTES_PER_FILE = 1 << 14
"""Memory that the check of the documents may take for each file of the release, several times what
it does."""
_COPIES = 12
"""How often a raster may be in memory while it is checked: as a file, and in several dtypes."""


def verify(path: str | Path | Folder, workers: int | None = None, shard: Share | None = None) -> list[Fault]:
    """Check a release folder or zip.

    Parameters
    ----------
    path
        The folder or the ``.zip``.
    workers
        Processes that read chips at once (None: one per core, fewer for a small release).
    shard
        The share of the release's shards that are checked, with their zips; the first share is told
        what is wrong with all else. What is equal in shards of two shares is not seen.

    Returns
    -------
    list of Fault
        In the order of file names; empty for a release as it was made.

    Raises
    ------
    ReleaseError
        If there is nothing at `path`, or a link leads out of it; with `shard`, if it has no shards.
    """
    release = open_folder(path)
    with contextlib.suppress(BadZipError):  # a fault, below
        if isinstance(opened := open_files(release), FolderFiles):
            _check_is_no_export(release)
            opened.check_links()
    processes = CheckProcesses(release, imported=__name__)
    faults: set[Fault] = set()
    try:
        (documents,) = processes.run(
            [functools.partial(_check_documents, sample_chips=SAMPLE_CHIPS, share=shard)], workers=1
        )
        faults.update(documents.faults)
        if documents.is_release:
            findings, images = Findings(), SeenImages()
            for part in _check_chips(processes, documents, workers):
                images.add(part.images)
                findings.merge(replace(part, images=[]))
            faults.update(findings.faults, images.faults())
            faults.update(_alignment_faults(findings.alignments, documents.recipe))
    except BadZipError:
        faults.add(Fault(Path(str(path)).name, "is not a zip that can be read"))
    except DeadlyFileError as error:
        faults.add(Fault(error.file, str(error)))
    except _NoShardsError:
        raise ReleaseError(
            f"{release}: its files lie in no shards, so that one run checks them; leave --shard out"
        ) from None
    return sorted(faults)


def _check_is_no_export(release: Folder) -> None:
    if release.exists(EXPORT_NAME) and not release.exists(RECIPE_NAME):
        raise ReleaseError(
            f"{release}: is an export of a release; verify the release itself, and the export's bytes by "
            f"sha256sum --check {SUMS_NAME} in its folder"
        )


class _NoShardsError(Exception):
    """A share of a release without shards is asked for."""


@dataclass(frozen=True)
class _Documents:
    """What was found in the files that are no chip's, and what they ask of those that are."""

    faults: list[Fault]
    is_release: bool = True
    """False where there is nothing to compare files with."""
    recipe: Recipe | None = None
    chips: int = 0
    checks: Sequence[Check[Findings]] = ()
    """Of the chips' files."""


def _check_documents(files: WatchedFiles, sample_chips: int, share: Share | None) -> _Documents:
    """Check the checksums and whatever is no chip's file."""
    names = files.top_names()
    limit_memory(len(names) * _BYTES_PER_FILE)
    if SUMS_NAME not in names:
        missing = Fault(SUMS_NAME, "is missing: this is no release, or not all of it")
        return _Documents([missing], is_release=False)
    try:
        data = files.read(SUMS_NAME)
    except OSError as error:
        return _Documents([Fault(SUMS_NAME, str(error))])
    if names_shards(data):
        return _of_shards(files, data, sample_chips, share or Share(1, 1))
    if share is not None:
        raise _NoShardsError
    return _of_chips(files, data, sample_chips)


def _of_shards(files: WatchedFiles, data: bytes, sample_chips: int, share: Share) -> _Documents:
    """Check the documents of a release in shards, of which a share is to be checked."""
    top = check_top(files, data, sample_chips, all_of_it=share.number == 1)
    recipe, shards = top.facts.recipe, share.of(top.shards)
    checks: list[Check[Findings]] = [shard_check(top, shard) for shard in shards]
    checks += [] if top.statistics is None else [top.statistics]
    checks += [functools.partial(_check_zip, recipe=recipe, shard=shard) for shard in shards]
    if share.number == 1:
        checks.insert(0, functools.partial(_check_zip, recipe=recipe))
    chips = top.facts.chips // share.count
    return _Documents(top.faults, recipe=recipe, chips=chips, checks=checks)


def _of_chips(files: WatchedFiles, data: bytes, sample_chips: int) -> _Documents:
    """Check the documents of a release whose files lie side by side."""
    names = files.names()
    limit_memory(len(names) * _BYTES_PER_FILE)
    faults, sums = check_sums(data, names)
    recipe, table, wrong = check_documents(files, sums, names)
    there = {name: sums[name] for name in sums.keys() & set(names)}
    tasks = chip_tasks(there, table, recipe)
    checks: list[Check[Findings]] = [functools.partial(_check_zip, recipe=recipe)]
    for start in range(0, len(tasks), _CHIPS_PER_TASK):
        batch = tasks[start : start + _CHIPS_PER_TASK]
        checks.append(functools.partial(check_chips, tasks=batch, recipe=recipe))
    if table is not None and recipe is not None and STATISTICS_NAME in there:
        statistics = statistics_check(table, recipe, sample_chips)
        checks += [] if statistics is None else [statistics]
    return _Documents(faults + wrong, recipe=recipe, chips=len(tasks), checks=checks)


def _check_chips(processes: CheckProcesses, documents: _Documents, workers: int | None) -> Iterator[Findings]:
    """Check all chips, and the zips."""
    recipe = documents.recipe
    if workers is None:
        workers = min(os.cpu_count() or 1, 1 + documents.chips // _CHIPS_PER_WORKER)
    layouts = [] if recipe is None else recipe.rasters.values()
    largest = max((layout.raster_bytes for layout in layouts), default=0)
    yield from processes.run(documents.checks, max(workers, 1), _COPIES * largest)


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


def _check_zip(files: WatchedFiles, recipe: Recipe | None, shard: str = "") -> Findings:
    """Compare a zip, byte for byte, with the one that its files, or the folder beside it, make.

    That of a shard, or else that of all, or of all that lies in no shard.
    """
    opened = files.files
    if isinstance(opened, ZipFiles):
        folder, name, root = opened.folder, opened.name, opened.root.rstrip("/")
    elif isinstance(opened, FolderFiles) and recipe is not None and (found := _zip_beside(opened, recipe)):
        folder, name = found
        root = name.removesuffix(".zip")
    else:
        return Findings()
    if shard:
        name, root = f"{name.removesuffix('.zip')}_{shard}.zip", f"{root}/{SHARDS_FOLDER}/{shard}"
        if not folder.exists(name):
            return Findings([Fault(name, "is missing, though there is a zip of the release")])
    what = "its own files" if isinstance(opened, ZipFiles) else "the folder's files"
    wrong = f"is not, byte for byte, the zip that {what} make"
    return Findings([] if _is_zip_of(folder, name, root, files, shard) else [Fault(name, wrong)])


def _is_zip_of(folder: Folder, name: str, root: str, files: WatchedFiles, shard: str) -> bool:
    # What files hold is not looked at here: those that may not be read are read, too.
    all_read = replace(files, deadly=frozenset())
    try:
        own = all_read.shard(shard) if shard else all_read
        with folder.open(name) as archive:
            return zip_equals(archive, zip_chunks(root, own.top_names(), own.read))
    except (OSError, ValueError, struct.error, BadZipError):  # the middle two: a name that no zip can hold
        return False


def _zip_beside(files: FolderFiles, recipe: Recipe) -> tuple[Folder, str] | None:
    """Return the folder and name of the zip beside a release folder, if there is one."""
    above = open_folder(files.folder.url.rstrip("/").rpartition("/")[0] or ".", files.folder.options)
    name = f"{recipe.name}_{recipe.version}.zip"
    return (above, name) if above.exists(name) else None
