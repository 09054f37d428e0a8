"""The verb of phase two: score cubes, choose windows, write chips. Only configured storage is touched."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cube.config import Config
from cube.engine import Engine, ThreadEngine, open_engine
from cube.errors import ConfigError, CubeNotSealedError
from cube.storage import Folder

from .choose import ScoreSet, choose
from .cubes import CubeInfo, sealed_cubes
from .export import (
    CHIP_SEAL,
    ChipWindow,
    ExportSettings,
    ExportTask,
    export_chips,
    export_settings,
    group_windows,
)
from .records import CHIP_METADATA, chip_metadata_csv, count_verdicts
from .scores import ScoreTable, ScoreTask, load_or_make_scores, mask_settings
from .windows import WindowGeometry

__all__ = ["ChipSummary", "Places", "chip", "score_cubes"]

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many are done, and how many there are."""

_UNFINISHED = ".exporting"
"""There while chips are written that may not be on the disk yet."""


@dataclass(frozen=True)
class Places:
    """Where phase two reads and writes."""

    version: Folder

    @classmethod
    def of(cls, config: Config) -> Places:
        """Return the places of a config's dataset version."""
        directory = config.directory
        return cls(Folder(directory.working, directory.storage_options) / config.dataset.version)

    @property
    def cubes(self) -> Folder:
        """Cubes of phase one."""
        return self.version / "cubes"

    @property
    def scores(self) -> Folder:
        """Score tables."""
        return self.version / "scores"

    @property
    def chips(self) -> Folder:
        """A folder per chip."""
        return self.version / "chips"


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


def chip(config: Config, engine: Engine | None = None, progress: Progress | None = None) -> ChipSummary:
    """Make exactly the chips that a config asks for, from the cubes that are finished.

    Parameters
    ----------
    config
        The dataset version.
    engine
        What runs the work; by default a cluster if the config names one, or else the threads of this process.
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
    ConfigError
        If a dtype cannot hold its sensor's nodata.
    """
    settings = export_settings(config)
    report = progress or (lambda *_: None)
    with _engine_for(config, engine) as running:
        scores = score_cubes(config, running, report)
        verdicts = choose(scores, config.chips, config.release.seed)
        removed, written, kept = _export(config, scores, verdicts, settings, running, report)
    Places.of(config).version.write(CHIP_METADATA, chip_metadata_csv(scores, verdicts))
    codes, counts = np.unique(scores.lulc[verdicts == 0], return_counts=True)
    return ChipSummary(
        windows=len(scores),
        chips=written + kept,
        written=written,
        kept=kept,
        removed=removed,
        verdicts=count_verdicts(scores, verdicts),
        classes=dict(zip(codes.tolist(), counts.tolist(), strict=True)),
    )


@contextlib.contextmanager
def _engine_for(config: Config, engine: Engine | None) -> Iterator[Engine]:
    if engine is not None:
        yield engine
    elif config.compute.scheduler:
        with open_engine(config.compute) as opened:
            yield opened
    else:
        yield ThreadEngine(config.compute.workers or None)


def score_cubes(config: Config, engine: Engine, report: Progress = lambda *_: None) -> ScoreSet:
    """Return the scores of every finished cube; only those that are not on disk are counted anew.

    Raises
    ------
    CubeNotSealedError
        If no cube is finished.
    """
    places = Places.of(config)
    cubes = sealed_cubes(places.cubes, config.aoi)
    if not cubes:
        raise CubeNotSealedError(f"{places.cubes}: no finished cube here; build some with build_cubes.py")
    tasks = [_score_task(config, places, info) for info in cubes]
    tables: list[ScoreTable] = []
    for outcome in engine.run(load_or_make_scores, tasks):
        tables.append(outcome.get())
        report("score", len(tables), len(tasks))
    return ScoreSet(sorted(tables, key=lambda table: table.cube.aoi_index))


def _score_task(config: Config, places: Places, info: CubeInfo) -> ScoreTask:
    _check_resolutions(config, info)
    return ScoreTask(
        places.cubes,
        places.scores,
        info,
        WindowGeometry.from_config(config.chips),
        mask_settings(config),
        len(config.ranges),
    )


def _check_resolutions(config: Config, info: CubeInfo) -> None:
    for key, settings in config.sensors.items():
        if key in info.sensors and info.sensors[key].resolution != settings.resolution:
            raise ConfigError(
                f"{key}.resolution is {settings.resolution}, but AOI {info.aoi_index}'s cube has pixels of "
                f"{info.sensors[key].resolution} m; build it again, or set the resolution back"
            )


def _export(
    config: Config,
    scores: ScoreSet,
    verdicts: NDArray[np.int8],
    settings: ExportSettings,
    engine: Engine,
    report: Progress,
) -> tuple[int, int, int]:
    """Bring the chips' folder to what was chosen; return how many were removed, written and kept."""
    places = Places.of(config)
    chips = places.chips
    chips.make()
    chips.sweep()
    # A power cut can leave hollow files under a good seal: read such chips before believing them.
    verify = places.version.exists(_UNFINISHED)
    tasks = list(_export_tasks(places, scores, verdicts, settings, verify=verify))
    removed = _remove_unchosen(chips, {window.cell for task in tasks for window in task.windows})
    places.version.write(_UNFINISHED, b"")
    written = kept = 0
    total = sum(len(task.windows) for task in tasks)
    for outcome in engine.run(export_chips, tasks):
        result = outcome.get()
        written, kept = written + result.written, kept + result.kept
        report("export", written + kept, total)
    if written or verify:
        chips.sync()
    places.version.remove(_UNFINISHED)
    return removed, written, kept


def _export_tasks(
    places: Places, scores: ScoreSet, verdicts: NDArray[np.int8], settings: ExportSettings, *, verify: bool
) -> Iterator[ExportTask]:
    for number, table in enumerate(scores.tables):
        chosen = np.flatnonzero(verdicts[scores.starts[number] : scores.starts[number + 1]] == 0)
        for group in group_windows(table.cube, _chip_windows(table, chosen)):
            yield ExportTask(places.cubes, places.chips, table.cube, settings, group, verify)


def _chip_windows(table: ScoreTable, chosen: NDArray[np.intp]) -> Iterable[ChipWindow]:
    purity = table.purity()
    columns = [table.columns[name][chosen].tolist() for name in ("left_m", "top_m", "lulc")]
    cells = [table.cells[index] for index in chosen.tolist()]
    return map(ChipWindow, cells, *columns, purity[chosen].tolist())


def _remove_unchosen(chips: Folder, chosen: set[str]) -> int:
    unchosen = [name for name in chips.names() if name not in chosen]
    for name in unchosen:
        chips.remove_folder(name, CHIP_SEAL)
    return len(unchosen)
