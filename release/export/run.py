"""Make an export: shards side by side, each whole or not at all, checksums and card last."""

from __future__ import annotations

import contextlib
import hashlib
import json
import multiprocessing
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from cube.run.lock import hold
from cube.run.named_locks import stop_if_lost
from cube.run.storage import Folder, open_folder
from release.loading.dataset import Release
from release.opening.checksums import SUMS_NAME, format_sums, sha256
from release.opening.faults import ReleaseError
from release.opening.files import EXPORT_NAME
from release.statistics import STATISTICS_NAME

from .card import CARD_NAME, make_export_card
from .formats import FORMATS, Format, format_of
from .request import ExportPlan, ExportRequest, Layer, Shard, plan_export, split_of

_OWN = {".lock"}
_SCHEMA_VERSION = 1

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class ExportSummary:
    """What :func:`export_release` made or found."""

    folder: str
    written: bool
    """False where this very export was there, whole."""
    samples: Mapping[str, int]
    """By split."""
    shards: int
    resumed: int
    """Shards that an interrupted run had written."""
    fingerprint: str
    """SHA-256 of SHA256SUMS: equal for equal exports."""


def export_release(
    release: str | Path | Folder | Release,
    to: str,
    out: str | Path | Folder,
    request: ExportRequest | None = None,
    *,
    workers: int = 1,
    force: bool = False,
    progress: Progress | None = None,
) -> ExportSummary:
    """Write a release in the form that a training framework reads.

    Bytes follow from the release and the request alone. A run that was cut off goes on where it
    was.

    Parameters
    ----------
    release
        Its folder, its zip, or what :func:`release.open_release` returned.
    to
        One of :data:`FORMATS`.
    out
        The folder that the export is to be; new, empty, or an unfinished export of this kind.
    request
        Which sensors, bands, dates and splits, and as what dtype; all of them, as stored, if None.
    workers
        Processes that write shards at once.
    force
        Replace another export that is there.
    progress
        Called with what is being done, how many are done, and how many there are.

    Raises
    ------
    ReleaseError
        If there is no such release, or not what the request asks of it, or the format cannot hold
        it, or something else lies in `out`.
    """
    if to not in FORMATS:
        raise ReleaseError(f"format {to!r}: expected one of {', '.join(FORMATS)}")
    opened = release if isinstance(release, Release) else Release(release)
    asked = request or ExportRequest()
    plan = _plan(opened, to, asked)
    folder = open_folder(out)
    about = _about(plan, to, asked)
    statistics = opened.read_file(STATISTICS_NAME)
    _check_is_export(folder)  # before anything is put there
    folder.make()
    with hold(folder):
        folder.sweep()
        if _make_room(folder, about, force=force):
            written, resumed = False, len(plan.shards)
        else:
            written = True
            resumed = _write(plan, to, folder, about, statistics, workers, progress)
    samples = {split: sum(len(one.ids) for one in shards) for split, shards in plan.splits.items()}
    fingerprint = sha256(folder.read(SUMS_NAME))
    return ExportSummary(str(folder), written, samples, len(plan.shards), resumed, fingerprint)


def _plan(release: Release, to: str, request: ExportRequest) -> ExportPlan:
    adapt = getattr(format_of(to), "adapt", None)
    return plan_export(release, adapt(release, request) if adapt else request, by_split=to != "zarr")


def _about(plan: ExportPlan, to: str, request: ExportRequest) -> bytes:
    """Write what the export is made of: no clock, host or path."""
    recipe = plan.release.recipe
    data = {
        "schema_version": _SCHEMA_VERSION,
        "format": to,
        "name": recipe.name,
        "version": recipe.version,
        "release_sha256": sha256(plan.release.read_file(SUMS_NAME)),
        "request": asdict(request),
        "layers": [_layer(plan, layer) for layer in plan.layers],
        "shards": [_shard(plan, shard) for shard in plan.shards],
        "classes": {str(code): name for code, name in zip(plan.classes, plan.class_names, strict=True)},
    }
    return (json.dumps(data) + "\n").encode()


def _layer(plan: ExportPlan, layer: Layer) -> dict[str, Any]:
    """Say what a sensor gives, and which of its bands are masks."""
    recipe, nodata = plan.release.recipe, plan.release.nodata(layer.key)
    masks = [name for name in recipe.mask_bands(layer.key) if name in layer.bands]
    return {
        **asdict(layer),
        "nodata": "nan" if nodata is not None and np.isnan(nodata) else nodata,
        "masks": {name: recipe.table[layer.key].band(name).dtype for name in masks},
    }


def _shard(plan: ExportPlan, shard: Shard) -> dict[str, Any]:
    """Say which chips a shard has, and what samples tell of each beside its pixels."""
    rows = [plan.release.row(chip_id) for chip_id in shard.ids]
    boxes = [plan.release.bounds(chip_id) for chip_id in shard.ids]
    return {
        "split": shard.split,
        "number": shard.number,
        "ids": list(shard.ids),
        "splits": [split_of(row) for row in rows],
        "labels": plan.release.labels_of(shard.ids),
        "epsg": [int(row["epsg"]) for row in rows],
        "bounds": [[box.left, box.bottom, box.right, box.top] for box in boxes],
    }


def _check_is_export(folder: Folder) -> None:
    names = set(folder.files()) - _OWN
    if names and EXPORT_NAME not in names:
        raise ReleaseError(f"{folder}: holds files, and is no export; name an empty folder with --out")


def _make_room(folder: Folder, about: bytes, *, force: bool) -> bool:
    """Tell whether this very export is there, whole; refuse or remove another."""
    names = set(folder.files()) - _OWN
    if not names:
        return False
    _check_is_export(folder)
    if folder.read(EXPORT_NAME) == about:
        return SUMS_NAME in names
    if not force:
        raise ReleaseError(f"{folder}: another export is there; give --force to replace it")
    for name in [SUMS_NAME, *sorted(names - {EXPORT_NAME}), EXPORT_NAME]:
        folder.remove(name)
    folder.prune()
    return False


def _write(
    plan: ExportPlan,
    to: str,
    out: Folder,
    about: bytes,
    statistics: bytes,
    workers: int,
    progress: Progress | None,
) -> int:
    """Write all that is lacking; return how many shards were there."""
    form = format_of(to)
    out.write(EXPORT_NAME, about)
    _sweep(plan, form, out)
    form.prepare(plan, out)
    there = set(out.files())
    resumed = sum(there.issuperset(form.shard_files(plan, shard)) for shard in plan.shards)
    sums: dict[str, str] = {}
    for done, found in enumerate(_shard_sums(plan, to, out, workers), start=1):
        sums |= found
        if progress is not None:
            progress("shards", done, len(plan.shards))
    documents = form.documents(plan, out)
    documents |= {STATISTICS_NAME: statistics, CARD_NAME: make_export_card(plan, form)}
    for name, data in documents.items():
        out.write(name, data)
    others = set(out.files()) - sums.keys() - _OWN - {SUMS_NAME}
    sums |= {name: sha256(out.read(name)) for name in others}
    stop_if_lost()
    out.write(SUMS_NAME, format_sums(sums))
    return resumed


def _sweep(plan: ExportPlan, form: Format, out: Folder) -> None:
    """Remove what a killed run left half-written: of ours, and of zarr's."""
    for folder in {
        name.rpartition("/")[0] for shard in plan.shards for name in form.shard_files(plan, shard)
    }:
        (out / folder).sweep()
    for name in [name for name in out.files() if name.endswith(".partial")]:
        out.remove(name)


def _shard_sums(plan: ExportPlan, to: str, out: Folder, workers: int) -> Iterator[dict[str, str]]:
    """Write shards that are not there, in processes; yield checksums of each one's files."""
    if workers == 1 or len(plan.shards) == 1:
        for shard in plan.shards:
            stop_if_lost()
            yield _finish_shard(plan, to, shard, out)
        return
    with ProcessPoolExecutor(
        min(workers, len(plan.shards)), _context(out, plan.release), _start_process, (plan, to, out)
    ) as pool:
        others = set(multiprocessing.active_children())
        try:
            for future in as_completed(
                [pool.submit(_finish_own, number) for number in range(len(plan.shards))]
            ):
                stop_if_lost()
                yield future.result()
        except BaseException:  # Ctrl-C waits for no shard
            pool.shutdown(wait=False, cancel_futures=True)
            for worker in set(multiprocessing.active_children()) - others:
                worker.terminate()
            raise


def _context(out: Folder, release: Release) -> multiprocessing.context.BaseContext:
    # A fork must not be made beside running threads; but what lies in memory forks alone see.
    in_memory = any(str(place).startswith("memory://") for place in (out, release.path))
    return multiprocessing.get_context("fork" if in_memory or threading.active_count() == 1 else "spawn")


_task: tuple[ExportPlan, str, Folder]
"""What a process writes shards of."""


def _start_process(plan: ExportPlan, to: str, out: Folder) -> None:
    global _task  # noqa: PLW0603  a process's own
    _task = (plan, to, out)


def _finish_own(number: int) -> dict[str, str]:
    plan, to, out = _task
    return _finish_shard(plan, to, plan.shards[number], out)


def _finish_shard(plan: ExportPlan, to: str, shard: Shard, out: Folder) -> dict[str, str]:
    form = format_of(to)
    names = form.shard_files(plan, shard)
    if not all(out.exists(name) for name in names):
        form.write_shard(plan, shard, out)
    return {name: _digest(out, name) for name in names}


def _digest(out: Folder, name: str) -> str:
    with contextlib.closing(out.open(name)) as file:
        return hashlib.file_digest(cast("Any", file), "sha256").hexdigest()
