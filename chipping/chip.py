"""The verb of phase two: score cubes, choose windows, write chips; without a network."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cube.config.aoi import load_aois
from cube.config.models import Config
from cube.errors import CubeNotSealedError
from cube.run.engine import open_engine
from cube.run.layout import EXPORTING, Layout
from cube.run.lock import hold
from cube.run.status import record_chips
from cube.run.storage import Folder
from cube.run.tasks import Engine, Tasks
from cube.store.sealed import CubeInfo
from cube.store.takeover import take_over
from cube.windows.footprints import outside
from cube.windows.lattice import WindowGeometry

from .choose import ScoreSet, choose, table_footprints
from .export import (
    CHIP_RECORD,
    ChipWindow,
    ExportSettings,
    ExportTask,
    export_chips,
    export_settings,
    group_windows,
)
from .finished import check_cube, sealed_cubes
from .masks import mask_settings
from .records import CHIP_METADATA, chip_metadata_csv, count_verdicts
from .scores import ScoreTable, ScoreTask, load_or_make_scores

OnProgress = Callable[[str, int, int], None]
"""Called with what is being done, how many are done, and how many there are."""


@dataclass(frozen=True)
class ChipSummary:
    """What phase two found and did."""

    windows: int
    chips: int
    written: int
    kept: int
    removed: int
    verdicts: Mapping[int, Mapping[str, int]] = field(default_factory=dict)
    """Windows by AOI index and verdict."""
    classes: Mapping[int, int] = field(default_factory=dict)
    """Chips by land-cover class."""

    def totals(self) -> dict[str, int]:
        """Return the windows of each verdict over all AOIs, most first."""
        sums: dict[str, int] = {}
        for counts in self.verdicts.values():
            for verdict, count in counts.items():
                sums[verdict] = sums.get(verdict, 0) + count
        return dict(sorted(sums.items(), key=lambda pair: (-pair[1], pair[0])))


def chip(config: Config, engine: Engine | None = None, progress: OnProgress | None = None) -> ChipSummary:
    """Make exactly the chips that a config asks for, from the cubes that are finished.

    Parameters
    ----------
    config
        The dataset version.
    engine
        What runs the work; by default a cluster if ``compute.scheduler`` or
        ``DASK_SCHEDULER_ADDRESS`` names one, or else threads of this process: ``compute.workers``
        times ``compute.threads``, or one per core.
    progress
        Called as work gets done.

    Returns
    -------
    ChipSummary
        Counts per AOI and verdict, and per class.

    Raises
    ------
    CubeNotSealedError
        If no cube is finished.
    BusyError
        If another run works in the folder.
    ConfigError
        If a dtype cannot hold its sensor's nodata, or a cube was built with other settings.
    StoreError
        If a cube's pixels are not what was written.
    """
    settings = export_settings(config)
    report = progress or (lambda *_: None)
    layout = Layout.of(config)
    root = layout.root
    root.make()
    with hold(root), engine_for(config, engine) as running:
        running.wait_for_earlier_tasks(root.url)
        layout.sweep()
        take_over(layout)
        scores = score_cubes(config, running, report)
        verdicts = choose(scores, config.chips, config.release.seed)
        # A power cut can leave empty files beside a good record: after one, read chips before
        # believing them.
        verify = root.exists(EXPORTING)
        root.write(EXPORTING, b"")
        removed, written, kept = _export(config, scores, verdicts, settings, running, report, verify=verify)
        with root.stream(CHIP_METADATA) as file:
            file.writelines(chip_metadata_csv(scores, verdicts, load_aois(config)))
        by_aoi = count_verdicts(scores, verdicts)
        record_chips(root, by_aoi)
        root.remove(EXPORTING)
    codes, counts = np.unique(scores.lulc[verdicts == 0], return_counts=True)
    return ChipSummary(
        windows=len(scores),
        chips=written + kept,
        written=written,
        kept=kept,
        removed=removed,
        verdicts=by_aoi,
        classes=dict(zip(codes.tolist(), counts.tolist(), strict=True)),
    )


@contextlib.contextmanager
def engine_for(config: Config, engine: Engine | None) -> Iterator[Engine]:
    """Give access to an engine: the one given, or a cluster if one is named, or threads."""
    if engine is not None:
        yield engine
        return
    workers, threads = config.compute.workers, config.compute.threads
    count = (workers or 1) * (threads or 1) if workers or threads else os.cpu_count() or 1
    with open_engine(config.compute.model_copy(update={"workers": 0, "threads": count})) as opened:
        yield opened


def score_cubes(config: Config, engine: Engine, report: OnProgress = lambda *_: None) -> ScoreSet:
    """Return the scores of every finished cube; only those that are not on disk are counted anew.

    Raises
    ------
    CubeNotSealedError
        If no cube is finished.
    ConfigError
        If a cube was built with other settings.
    StoreError
        If a cube's pixels are not what was written.
    """
    layout = Layout.of(config)
    cubes = sealed_cubes(config)
    if not cubes:
        raise CubeNotSealedError(
            f"{layout.root}: no finished cube here; build some with gelos-lc build "
            "(it takes those that other versions have made)"
        )
    tasks = [_score_task(config, layout, info) for info in cubes]
    tables: list[ScoreTable] = []
    for outcome in engine.run(load_or_make_scores, Tasks(tasks), layout.root.url):
        tables.append(outcome.get())
        report("score", len(tables), len(tasks))
    tables.sort(key=lambda table: table.cube.aoi_index)
    return ScoreSet(tables, config.table, _clipped(config, tables))


def _clipped(config: Config, tables: Iterable[ScoreTable]) -> list[NDArray[np.bool_]]:
    """Return, per table, the windows that ``aoi.clip`` rejects; nothing if it rejects none."""
    clip = config.aoi.clip
    if clip == "none":
        return []
    polygons = {aoi.index: aoi.geometry for aoi in load_aois(config)}
    return [outside(polygons[table.cube.aoi_index], table_footprints(table), clip) for table in tables]


def _score_task(config: Config, layout: Layout, info: CubeInfo) -> ScoreTask:
    check_cube(config, info)
    return ScoreTask(
        layout.cubes,
        layout.blocks,
        layout.scores,
        info,
        WindowGeometry.from_config(config.chips),
        mask_settings(config),
        len(config.ranges),
    )


def _export(
    config: Config,
    scores: ScoreSet,
    verdicts: NDArray[np.int8],
    settings: ExportSettings,
    engine: Engine,
    report: OnProgress,
    *,
    verify: bool,
) -> tuple[int, int, int]:
    """Bring the chips' folder to what was chosen; count what was removed, written and kept."""
    layout = Layout.of(config)
    chips = layout.chips
    chips.make()
    tasks = list(_export_tasks(layout, scores, verdicts, settings, verify=verify))
    removed = _remove_unchosen(chips, {window.cell for task in tasks for window in task.windows})
    written = kept = 0
    total = sum(len(task.windows) for task in tasks)
    for outcome in engine.run(export_chips, Tasks(tasks), layout.root.url):
        result = outcome.get()
        written, kept = written + result.written, kept + result.kept
        report("export", written + kept, total)
    if written or verify:
        chips.sync()
    return removed, written, kept


def _export_tasks(
    layout: Layout, scores: ScoreSet, verdicts: NDArray[np.int8], settings: ExportSettings, *, verify: bool
) -> Iterator[ExportTask]:
    for number, table in enumerate(scores.tables):
        chosen = np.flatnonzero(verdicts[scores.starts[number] : scores.starts[number + 1]] == 0)
        for group in group_windows(table.cube, _chip_windows(table, chosen)):
            yield ExportTask(layout.cubes, layout.chips, table.cube, settings, group, verify)


def _chip_windows(table: ScoreTable, chosen: NDArray[np.intp]) -> Iterable[ChipWindow]:
    purity = table.purity()
    columns = [table.columns[name][chosen].tolist() for name in ("left_m", "top_m", "lulc")]
    cells = [table.cells[index] for index in chosen.tolist()]
    return map(ChipWindow, cells, *columns, purity[chosen].tolist())


def _remove_unchosen(chips: Folder, chosen: set[str]) -> int:
    unchosen = [name for name in chips.names() if name not in chosen]
    for name in unchosen:
        chips.remove_folder(name, CHIP_RECORD)
    return len(unchosen)
