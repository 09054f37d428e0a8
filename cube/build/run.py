"""Phase one: from AOIs to sealed cubes.

The client plans AOIs a few ahead, and feeds their blocks to the engine as capacity frees up;
workers read and write; when the last block of a cube is on disk, the client seals it. What a killed
run leaves is completed by the next: a plan once made is kept, and a block whose marker lies on disk
is not read again.
"""

from __future__ import annotations

import json
import logging
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from cube.config.aoi import Aoi, load_aois
from cube.config.models import Config
from cube.errors import DiskFullError, GelosError, ReadError, StoreError
from cube.pixels.access import Access, check_access
from cube.redaction import without_signature
from cube.run.layout import Layout, aoi_stem
from cube.run.lock import hold
from cube.run.logs import event
from cube.run.status import AoiState, AoiStatus, StatusBoard
from cube.run.tasks import Engine, Outcome
from cube.scenes.catalog import Catalog, open_catalog
from cube.scenes.estimate import estimate_cost
from cube.scenes.explain import Skipped
from cube.scenes.plan import CubePlan, canonical_json
from cube.store.open import read_array
from cube.store.resume import sweep_cube, unseal
from cube.store.sealed import describes, read_seal
from cube.store.template import cube_name
from cube.store.write import seal, write_template
from cube.windows.grid import Block

from .block import BlockRecords, BlockTask, build_block
from .plans import PLAN_THREADS, PlannedAhead, access_of, plan_or_kept, wanted_aois
from .prefilter import candidate_classes, needed_blocks

__all__ = ["BuildSummary", "Progress", "build_cubes"]

_LOG = logging.getLogger(__name__)


Progress = Callable[[int, AoiStatus], None]
"""Told of every change of an AOI's row."""


@dataclass
class _Building:
    """A cube that is being built."""

    plan: CubePlan
    records: BlockRecords
    """Of the blocks on disk."""
    waiting: set[str] = field(default_factory=set)
    """Names of blocks that are being made."""
    left_out: tuple[str, ...] = ()
    """Names of blocks that hold no window that land cover lets through."""
    imagery_asked: bool = False
    """True once the blocks beside land cover have been lined up, too."""
    error: str = ""

    @property
    def share_done(self) -> float:
        """Share of the blocks wanted that are on disk."""
        total = sum(len(self.plan.blocks(s.key)) for s in self.plan.sensors) - len(self.left_out)
        return round(len(self.records) / total, 4)

    @property
    def bytes_to_come(self) -> float:
        """Bytes that the model expects of the blocks that are not on disk yet."""
        return estimate_cost(self.plan).store_bytes * (1 - self.share_done)


@dataclass(frozen=True)
class BuildSummary:
    """How a run ended."""

    rows: Mapping[int, AoiStatus]
    """Of the AOIs of this run."""
    fetched_blocks: int = 0

    def count(self, state: AoiState) -> int:
        """Return how many AOIs are in a state."""
        return sum(row.status is state for row in self.rows.values())

    @property
    def exit_code(self) -> int:
        """0 done, 3 some AOI failed and can be retried."""
        return 3 if self.count(AoiState.FAILED) else 0


def build_cubes(
    config: Config,
    engine: Engine,
    *,
    only: Collection[int] = (),
    retry_failed: bool = False,
    progress: Progress | None = None,
    catalog: Catalog | None = None,
) -> BuildSummary:
    """Build the cubes of all AOIs, or complete what an earlier run left.

    Parameters
    ----------
    config
        The dataset version.
    engine
        Where blocks are read and written.
    only
        Indices of the AOIs to build (empty: all).
    retry_failed
        Only those AOIs that failed in an earlier run.
    progress
        Told of every change of an AOI's row.
    catalog
        Where scenes are found (default: as the config says).

    Returns
    -------
    BuildSummary
        AOIs that were skipped or failed are in it with the reason; they raise nothing.

    Raises
    ------
    ConfigError, AoiError
        If nothing can be begun.
    BusyError
        If another run holds the working folder.
    """
    layout = Layout.of(config)
    layout.make(config)
    with hold(layout.root):
        engine.wait_for_stragglers(layout.root.url)
        layout.sweep()
        wanted = wanted_aois(config, only=only, retry_failed=retry_failed)
        board = StatusBoard(layout.root, load_aois(config))
        run = _Run(config, layout, board, catalog or open_catalog(config), access_of(config), progress)
        return run.build(wanted, engine)


@dataclass
class _Run:
    """One run over some AOIs."""

    config: Config
    layout: Layout
    board: StatusBoard
    catalog: Catalog
    access: Access
    progress: Progress | None
    building: dict[int, _Building] = field(default_factory=dict)
    ready: deque[BlockTask] = field(default_factory=deque)
    in_flight: int = 0
    fetched: int = 0

    def build(self, aois: Sequence[Aoi], engine: Engine) -> BuildSummary:
        self.board.write()
        with ThreadPoolExecutor(PLAN_THREADS) as pool:
            self._planner = PlannedAhead(pool, self._plan, deque(aois))
            try:
                for outcome in engine.run(build_block, self, self.layout.root.url):
                    self._finish_block(outcome)
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
                self.board.write()
        return BuildSummary({aoi.index: self.board[aoi.index] for aoi in aois}, self.fetched)

    # The engine draws tasks from here. An exhausted iterator may have more later, when a plan or a
    # block is done.

    def __iter__(self) -> _Run:
        return self

    def __next__(self) -> BlockTask:
        while not self.ready:
            planned = self._planner.next(block=self.in_flight == 0)
            if planned is None:
                raise StopIteration
            self._begin(*planned)
        self.in_flight += 1
        return self.ready.popleft()

    def _plan(self, aoi: Aoi) -> CubePlan:
        return plan_or_kept(aoi, self.config, self.layout, self.catalog, self.access)

    def _begin(self, aoi: Aoi, planned: Future[CubePlan]) -> None:
        """Take an AOI up; its trouble, whatever it is, must not stop the others."""
        tries = self.board[aoi.index].tries + 1
        try:
            self._take_up(aoi, planned, tries)
        except Exception as error:  # noqa: BLE001  whatever it is
            self._fail(aoi.index, error, tries=tries)

    def _take_up(self, aoi: Aoi, planned: Future[CubePlan], tries: int) -> None:
        """Find what is on disk already, and line the rest up."""
        try:
            plan = planned.result()
        except Skipped as skipped:
            self._take_seal_off(aoi.index)  # a cube of another config is not what this one asks for
            self._update(aoi.index, status=AoiState.SKIPPED, reason=skipped.reason, done=0.0)
            return
        if self._is_current(plan):
            self.layout.building.remove_folder(aoi_stem(aoi.index))
            self._update(aoi.index, status=AoiState.BUILT, reason="", done=1.0, **_size(plan))
            return
        self._check_access(plan)
        self._update(aoi.index, status=AoiState.BUILDING, reason="", tries=tries, done=0.0, **_size(plan))
        kept = self._keep_what_is_right(plan)
        self._check_room(_Building(plan, kept))
        write_template(self.layout.cubes, plan)
        building = self.building[aoi.index] = _Building(plan, kept)
        if kept:
            self._update(aoi.index, done=building.share_done)
        self._line_up(aoi.index, [block for block in plan.blocks("lulc") if block.name not in kept])
        if self.config.aoi.fetch == "all" or not building.waiting:
            self._ask_for_imagery(aoi.index)

    def _fail(self, aoi_index: int, error: Exception, **changes: Any) -> None:
        """Give an AOI up that has no block in flight."""
        reason = _one_line(error)
        if not isinstance(error, GelosError):
            facts = event("fault", aoi=aoi_index)
            _LOG.error("AOI %06d: %s", aoi_index, reason, exc_info=error, extra=facts)
        self.building.pop(aoi_index, None)
        self._update(aoi_index, status=AoiState.FAILED, reason=reason, **changes)

    def _line_up(self, aoi_index: int, blocks: Sequence[Block]) -> None:
        building = self.building[aoi_index]
        building.waiting |= {block.name for block in blocks}
        self.ready.extend(self._task(building.plan, block) for block in blocks)

    def _ask_for_imagery(self, aoi_index: int) -> None:
        """Line up the blocks beside land cover: all, or those that hold a window which land cover lets through."""
        building = self.building[aoi_index]
        plan = building.plan
        wanted = self._wanted_blocks(plan)
        blocks = [b for s in plan.sensors if s.key != "lulc" for b in plan.blocks(s.key)]
        building.imagery_asked = True
        building.left_out = tuple(
            b.name for b in blocks if b.name not in wanted and b.name not in building.records
        )
        self._line_up(aoi_index, [b for b in blocks if b.name in wanted and b.name not in building.records])
        if not building.waiting:
            self._seal(aoi_index)

    def _wanted_blocks(self, plan: CubePlan) -> set[str]:
        if self.config.aoi.fetch == "all":
            return {block.name for sensor in plan.sensors for block in plan.blocks(sensor.key)}
        lulc = read_array(self.layout.cubes, plan.aoi_index, "lulc/lulc")
        return needed_blocks(candidate_classes(lulc, plan, self.config), plan, self.config)

    def _check_access(self, plan: CubePlan) -> None:
        """Get the token of every container before the first block: a missing account must show now, not in hours."""
        for sensor_plan in plan.sensors:
            scene = next(sensor_plan.scenes)
            asset = next(iter(scene.assets.values()))
            if problem := check_access(asset.href, self.access):
                raise ReadError(scene.id, asset.key, problem)

    def _check_room(self, cube: _Building) -> None:
        """See that a cube fits beside what those that are being built have still to write."""
        free, needed = self.layout.cubes.free_bytes(), cube.bytes_to_come
        promised = sum(other.bytes_to_come for other in self.building.values())
        if free is not None and free < needed + promised:
            raise DiskFullError(
                f"{self.layout.cubes}: {free / 1e9:.1f} GB are free, and this cube takes about {needed / 1e9:.1f} GB "
                f"beside {promised / 1e9:.1f} GB of others; make room and run again"
            )

    def _is_current(self, plan: CubePlan) -> bool:
        """Tell whether a sealed cube is the plan's, down to its metadata, and holds every block that is wanted."""
        sealed = read_seal(self.layout.cubes, plan.aoi_index)
        if sealed is None or not describes(sealed, plan):
            return False
        left_out = set(sealed["attributes"].get("not_fetched", ()))
        return not left_out or not left_out & self._wanted_blocks(plan)

    def _keep_what_is_right(self, plan: CubePlan) -> BlockRecords:
        """Return the blocks on disk that this plan would make again, and clear everything else away."""
        markers = self.layout.markers(plan.aoi_index)
        self._take_seal_off(plan.aoi_index)
        expected = {
            block.name: plan.block_fingerprint(block)
            for sensor_plan in plan.sensors
            for block in plan.blocks(sensor_plan.key)
        }
        found = {n.removesuffix(".json"): json.loads(markers.read(n)) for n in markers.names(".json")}
        is_there = (self.layout.cubes / cube_name(plan.aoi_index)).names() != []
        kept = {name: r for name, r in found.items() if is_there and expected.get(name) == r["fingerprint"]}
        for name in found.keys() - kept.keys():
            markers.remove(f"{name}.json")
        sweep_cube(self.layout.cubes, plan, set(kept))
        return kept

    def _take_seal_off(self, aoi_index: int) -> None:
        """Make a sealed cube an unfinished one: the record of its blocks turns into markers first.

        A record of blocks without a sealed cube is no proof of anything.
        """
        markers, name = self.layout.markers(aoi_index), f"{aoi_stem(aoi_index)}.json"
        if read_seal(self.layout.cubes, aoi_index) is not None and self.layout.blocks.exists(name):
            for block, record in json.loads(self.layout.blocks.read(name)).items():
                markers.write(f"{block}.json", canonical_json(record))
        unseal(self.layout.cubes, aoi_index)
        self.layout.blocks.remove(name)

    def _task(self, plan: CubePlan, block: Block) -> BlockTask:
        sensor_plan = plan.sensor(block.sensor)
        return BlockTask(
            cubes=self.layout.cubes,
            markers=self.layout.markers(plan.aoi_index),
            aoi_index=plan.aoi_index,
            block=block,
            geobox=plan.geobox(block.sensor)[block.roi],
            sensor=sensor_plan.sensor,
            bands=sensor_plan.bands,
            scenes=sensor_plan.dates[block.time].scenes,
            resampling=sensor_plan.resampling,
            harmonize=sensor_plan.harmonize,
            access=self.access,
            fingerprint=plan.block_fingerprint(block),
        )

    def _finish_block(self, outcome: Outcome[BlockTask, dict[str, Any]]) -> None:
        self.in_flight -= 1
        task, building = outcome.task, self.building[outcome.task.aoi_index]
        building.waiting.discard(task.block.name)
        if outcome.error is None:
            building.records[task.block.name] = outcome.get()
            self.fetched += 1
            self._update(task.aoi_index, done=building.share_done)
        else:
            reason = f"block {task.block.name}: {_one_line(outcome.error)}"
            facts = {"aoi": task.aoi_index, "block": task.block.name}
            _LOG.error("AOI %06d: %s", task.aoi_index, reason, extra=event("block", **facts))
            building.error = building.error or reason
        if building.waiting:
            return
        try:
            if building.imagery_asked or building.error:
                self._seal(task.aoi_index)
            else:
                self._ask_for_imagery(task.aoi_index)
        except Exception as error:  # noqa: BLE001  as when it was begun
            self._fail(task.aoi_index, error)

    def _seal(self, aoi_index: int) -> None:
        """Seal a cube whose blocks are all on disk, or say why it cannot be."""
        building = self.building.pop(aoi_index)
        if building.error:
            self._update(aoi_index, status=AoiState.FAILED, reason=building.error)
            return
        digests = {name: record["digests"] for name, record in building.records.items()}
        self._check_markers(building)
        self.layout.blocks.write(f"{aoi_stem(aoi_index)}.json", canonical_json(building.records))
        seal(self.layout.cubes, building.plan, digests, not_fetched=sorted(building.left_out))
        self.layout.building.remove_folder(aoi_stem(aoi_index))
        self._update(aoi_index, status=AoiState.BUILT, reason="", done=1.0)

    def _check_markers(self, building: _Building) -> None:
        """See that no other run, such as the tasks of a client that was killed, has written over this one's blocks."""
        markers = self.layout.markers(building.plan.aoi_index)
        for name, record in building.records.items():
            if json.loads(markers.read(f"{name}.json")) != record:
                markers.remove(f"{name}.json")
                raise StoreError(f"block {name} was written by another run as well; run again")

    def _update(self, aoi_index: int, **changes: Any) -> None:
        try:
            self.board.update(aoi_index, **changes)
        except DiskFullError:
            raise
        except StoreError as error:  # a report that a store refuses in passing ends no run of days
            _LOG.warning("%s; the next change writes it again", error)
        if "status" in changes:
            _log_row(aoi_index, self.board[aoi_index])
        if self.progress is not None:
            self.progress(aoi_index, self.board[aoi_index])


def _log_row(aoi_index: int, row: AoiStatus) -> None:
    level = logging.ERROR if row.status is AoiState.FAILED else logging.INFO
    text = f"{row.status}: {row.reason}" if row.reason else str(row.status)
    facts = {"status": str(row.status), "reason": row.reason, "done": row.done, "tries": row.tries}
    _LOG.log(level, "AOI %06d: %s", aoi_index, text, extra=event("aoi", aoi=aoi_index, **facts))


def _size(plan: CubePlan) -> dict[str, int]:
    return {"epsg": plan.epsg, "width_m": plan.bounds.width, "height_m": plan.bounds.height}


def _one_line(error: BaseException) -> str:
    text = without_signature(" ".join(str(error).split()))
    return text if isinstance(error, GelosError) else f"{type(error).__name__}: {text}"
