"""The verb of phase two: score cubes, choose windows, write chips; without a network."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

from cube.config.aoi import load_aois
from cube.config.models import Config
from cube.errors import CubeNotSealedError
from cube.run.engine import open_engine
from cube.run.layout import EXPORTING, Layout
from cube.run.lock import hold, hold_part
from cube.run.logs import event
from cube.run.named_locks import stop_if_lost
from cube.run.shards import Share
from cube.run.status import record_chips
from cube.run.storage import Folder
from cube.run.tasks import Engine, Outcome, Result, Task, Tasks
from cube.scenes.plan import canonical_json
from cube.store.takeover import take_over
from cube.windows.lattice import WindowGeometry

from .areas import (
    Area,
    Candidates,
    ChipsTask,
    Settled,
    Turn,
    areas_of,
    find_candidates,
    score_area,
    settle,
    take_turns,
    write_chips,
)
from .choose import ScoreSet
from .export import CHIP_RECORD, ExportSettings, export_settings
from .finished import contents_of, finished_cubes
from .masks import mask_settings
from .records import (
    CHIP_METADATA,
    CHOICE,
    CSV_ROWS,
    Choice,
    chip_metadata_csv,
    read_choice,
    window_table_name,
)
from .rounds import PART, Round, ShareRecord, clear_rounds
from .scores import ScoreTable

_LOG = logging.getLogger(__name__)

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


def chip(
    config: Config,
    engine: Engine | None = None,
    progress: OnProgress | None = None,
    shard: Share | None = None,
) -> ChipSummary:
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
    shard
        The share of the areas that this run begins with, where several runs work in the version's
        folder: all chips are there once they have ended.

    Returns
    -------
    ChipSummary
        Counts per AOI and verdict, and per class.

    Raises
    ------
    CubeNotSealedError
        If no cube is finished.
    BusyError
        If another run works in the folder; with `shard`, one that is no run of such a share.
    ConfigError
        If a dtype cannot hold its sensor's nodata, or a cube was built with other settings.
    StoreError
        If a cube's pixels are not what was written.
    """
    settings = export_settings(config)
    layout = Layout.of(config)
    layout.root.make()
    with _held(layout, shard), engine_for(config, engine) as running:
        scope = f"{layout.root.url}{f'#{PART}{shard.name}' if shard else ''}"
        running.wait_for_earlier_tasks(scope)
        areas = areas_of(config, layout, finished_cubes(config), load_aois(config))
        work = _Work(config, areas, layout, settings, running, scope, progress or (lambda *_: None))
        return _in_shares(work, shard) if shard else _in_one(work)


@contextlib.contextmanager
def _held(layout: Layout, shard: Share | None) -> Iterator[None]:
    """Hold a version's folder, or a share of its areas; what killed runs left is cleared up."""

    def clear_up() -> None:
        layout.sweep()
        take_over(layout)

    if shard is not None:
        with hold_part(layout.root, f"{PART}{shard.name}", if_alone=clear_up):
            yield
        return
    with hold(layout.root):
        clear_up()
        clear_rounds(layout)
        yield


@dataclass(frozen=True)
class _Work:
    """What has to be done, and what does it."""

    config: Config
    areas: Sequence[Area]
    layout: Layout
    settings: ExportSettings
    engine: Engine
    scope: str
    report: OnProgress

    def key(self, contents: Mapping[int, str]) -> str:
        """Digest all that the chips follow from; what cubes hold is told by AOI index."""
        config = self.config
        record = {
            "chips": config.chips.model_dump(mode="json"),
            "export": self.settings.digest,
            "seed": config.release.seed,
            "clip": config.aoi.clip,
            "ranges": list(map(str, config.ranges)),
            "masks": [asdict(mask) for mask in mask_settings(config)],
            "areas": [
                (area.cube.aoi_index, area.cube.cube, contents.get(area.cube.aoi_index, ""))
                for area in self.areas
            ],
            "rows": [(area.called, _outline(area)) for area in self.areas],
        }
        return hashlib.sha256(canonical_json(record)).hexdigest()

    def score(self, areas: Sequence[Area]) -> list[Candidates]:
        """Score areas; return what could be a chip, by AOI index."""
        found = []
        for done, outcome in enumerate(self._run(find_candidates, areas), start=1):
            candidates = outcome.get()
            if candidates is None:
                outcome.task.cube.warn_of_loss()
            else:
                found.append(candidates)
            self.report("score", done, len(areas))
        return sorted(found, key=lambda one: one.aoi_index)

    def cut(self, areas: Sequence[Area], turns: Mapping[int, Turn], *, verify: bool) -> ShareRecord:
        """Give the windows of areas their verdicts, and see that their chips are there."""
        mine = [(area, turns[area.cube.aoi_index]) for area in areas if area.cube.aoi_index in turns]
        settled: list[tuple[Area, Settled]] = []
        for outcome in self._run(settle, mine):
            settled.append((outcome.task[0], outcome.get()))
            self.report("choose", len(settled), len(mine))
        settled.sort(key=lambda pair: pair[1].aoi_index)
        written, kept = self._write_chips(settled, verify=verify)
        verdicts = {one.aoi_index: one.verdicts for _, one in settled}
        classes = Counter(itertools.chain.from_iterable(one.lulc.tolist() for _, one in settled))
        cells = tuple(itertools.chain.from_iterable(one.cells for _, one in settled))
        return ShareRecord(verdicts, classes, cells, written, kept)

    def _write_chips(self, settled: Sequence[tuple[Area, Settled]], *, verify: bool) -> tuple[int, int]:
        """See that the chips are there; return how many were written and kept."""
        self.layout.chips.make()
        tasks = (
            ChipsTask(area, one.cube, self.settings, windows, verify)
            for area, one in settled
            for windows in one.groups()
        )
        written = kept = 0
        total = sum(len(one.lulc) for _, one in settled)
        for outcome in self._run(write_chips, tasks):
            result = outcome.get()
            written, kept = written + result.written, kept + result.kept
            self.report("export", written + kept, total)
        if written or verify:
            self.layout.chips.sync()
        return written, kept

    def _run(
        self, function: Callable[[Task], Result], tasks: Iterable[Task]
    ) -> Iterator[Outcome[Task, Result]]:
        return self.engine.run(function, Tasks(tasks), self.scope)

    def finish(self, key: str, records: Iterable[ShareRecord]) -> int:
        """Write what concerns all areas, once their chips are there; return how many went."""
        stop_if_lost()
        layout, verdicts, classes = self.layout, dict[int, Mapping[str, int]](), Counter[int]()
        cells: set[str] = set()
        for record in records:
            verdicts |= record.verdicts
            classes.update(record.classes)
            cells.update(record.cells)
        choice = Choice(key, verdicts, classes)
        removed = _remove_unchosen(layout.chips, cells)
        wanted = {CHOICE, *map(window_table_name, verdicts)}
        for name in layout.windows.names():
            if name not in wanted:
                layout.windows.remove(name)
        layout.windows.write(CHOICE, choice.to_json())
        _write_csv(layout, choice)
        record_chips(layout.root, verdicts)
        layout.root.remove(EXPORTING)
        return removed


def _outline(area: Area) -> str:
    return "" if area.polygon is None else area.polygon.wkt


def _in_one(work: _Work) -> ChipSummary:
    """Do all areas in one run."""
    found = work.score(work.areas)
    _check_found(work.layout, found)
    turns = take_turns(found, WindowGeometry.from_config(work.config.chips))
    # A power cut can leave empty files beside a good record: after one, read chips before
    # believing them.
    root = work.layout.root
    verify = root.exists(EXPORTING)
    root.write(EXPORTING, b"")
    record = work.cut(work.areas, turns, verify=verify)
    key = work.key({one.aoi_index: one.cube for one in found})
    removed = work.finish(key, [record])
    return _summary(work.layout, record.written, record.kept, removed)


def _in_shares(work: _Work, shard: Share) -> ChipSummary:
    """Do a share of the areas, and what is left of others; all chips are there afterwards."""
    _check_found(work.layout, work.areas)
    written = kept = removed = 0
    key = work.key(contents_of(work.layout, [area.cube for area in work.areas]))
    with contextlib.closing(Round(work.layout, key, shard)) as together:
        if together.begin():
            found = together.score(lambda share: work.score(share.of(work.areas)))
            if together.is_at_work():
                _check_found(work.layout, found)
            turns = take_turns(found, WindowGeometry.from_config(work.config.chips))
            written, kept = together.cut(
                lambda share, verify: work.cut(share.of(work.areas), turns, verify=verify)
            )
            removed = together.end(partial(work.finish, key))
    return _summary(work.layout, written, kept, removed)


def _write_csv(layout: Layout, choice: Choice) -> None:
    """Write the table of all windows for people, or say where it lies."""
    if choice.windows <= CSV_ROWS:
        with layout.root.stream(CHIP_METADATA) as file:
            file.writelines(chip_metadata_csv(layout.windows))
        return
    layout.root.remove(CHIP_METADATA)
    text = "%s: no %s of %d windows; their table is %s/*.parquet"
    event_of = event("message", windows=choice.windows)
    _LOG.info(text, layout.root, CHIP_METADATA, choice.windows, layout.windows, extra=event_of)


def _summary(layout: Layout, written: int, kept: int, removed: int) -> ChipSummary:
    choice = read_choice(layout.windows)
    chips = sum(choice.classes.values())
    return ChipSummary(choice.windows, chips, written, kept, removed, choice.verdicts, choice.classes)


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
    areas = areas_of(config, layout, finished_cubes(config), load_aois(config))
    found: list[tuple[ScoreTable, NDArray[np.bool_] | None]] = []
    for done, outcome in enumerate(engine.run(score_area, Tasks(areas), layout.root.url), start=1):
        scored = outcome.get()
        if scored is None:
            outcome.task.cube.warn_of_loss()
        else:
            found.append(scored)
        report("score", done, len(areas))
    _check_found(layout, found)
    found.sort(key=lambda pair: pair[0].cube.aoi_index)
    clipped = [outside for _, outside in found if outside is not None]
    return ScoreSet([table for table, _ in found], config.table, clipped)


def _check_found(layout: Layout, found: Sequence[object]) -> None:
    """Refuse to go on without a cube."""
    if not found:
        raise CubeNotSealedError(
            f"{layout.root}: no finished cube here; build some with gelos-lc build "
            "(it takes those that other versions have made)"
        )


def _remove_unchosen(chips: Folder, chosen: set[str]) -> int:
    unchosen = [name for name in chips.names() if name not in chosen]
    for name in unchosen:
        chips.remove_folder(name, CHIP_RECORD)
    return len(unchosen)
