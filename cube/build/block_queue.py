"""Which block is read next; a cube is begun once it has a plan, and sealed with its last block."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

from cube.config.aoi import Aoi
from cube.config.models import Config
from cube.errors import BusyError, DiskFullError, LostSceneError, ServiceError, UnusableError
from cube.pixels.access import check_access
from cube.run.layout import Layout
from cube.run.logs import event
from cube.run.named_locks import NamedLocks
from cube.run.status import AoiState
from cube.run.tasks import Outcome
from cube.scenes.estimate import estimate_cost
from cube.scenes.explain import Skipped
from cube.scenes.lost import LostScene
from cube.scenes.plan import CubePlan
from cube.store.borrow import borrow_blocks, cubes_by_aoi
from cube.store.open import read_array
from cube.store.resume import BlockRecords, Resumed, close_cube, drop_blocks, keep_blocks
from cube.store.sealed import describes, read_seal
from cube.store.write import write_template
from cube.windows.grid import Block

from .aoi_rows import AoiRows, error_in_one_line
from .block import BlockTask
from .losses import LossWatch
from .plans import AoiPlanner, access_of
from .prefilter import candidate_classes, needed_blocks
from .shortfalls import shortfalls_of
from .source_files import File, blocks_of_files, changed_files, unsaid_by_files

_LOG = logging.getLogger(__name__)
_LOOK_AGAIN_S = 1.0
"""Between two looks at a cube that another run is building."""

_STOPS = (BusyError, ServiceError)
"""What ends a run, whichever AOI it was at: another run has taken over, or a service is gone."""
_SHORTFALLS = "shortfalls"
"""Attribute of a cube: what it holds less of than was promised."""


@dataclass
class _OpenCube:
    """A cube that is being built."""

    aoi: Aoi
    plan: CubePlan
    resumed: Resumed
    """Its form and metadata, and the records that it began with."""
    records: BlockRecords
    """Records of the blocks on disk."""
    waiting: set[str] = field(default_factory=set)
    """Names of blocks that are being made."""
    left_out: tuple[str, ...] = ()
    """Names of blocks that hold no window that land cover lets through."""
    imagery_asked: bool = False
    """True once the blocks beside land cover have been lined up, too."""
    error: str = ""
    lost: list[LostScene] = field(default_factory=list)
    """Scenes whose files are missing or broken: the AOI is planned again without them."""
    changed: Collection[File] = ()
    """Files that changed while they were read, and are read again."""

    @property
    def share_done(self) -> float:
        """Share of the blocks wanted that are on disk."""
        return round(len(self.records) / (len(self.plan.all_blocks) - len(self.left_out)), 4)

    @property
    def bytes_to_come(self) -> float:
        """Bytes that the model expects of the blocks that are not on disk yet."""
        return estimate_cost(self.plan).store_bytes * (1 - self.share_done)


class BlockQueue:
    """The blocks of a run: the engine takes them, and is told back what became of each.

    Trouble with one AOI, whatever it is, fails that AOI and no other; trouble with a service stops
    the run.
    """

    def __init__(
        self, config: Config, layout: Layout, planner: AoiPlanner, rows: AoiRows, losses: LossWatch
    ) -> None:
        self._config, self._layout, self._planner, self._rows = config, layout, planner, rows
        self._losses = losses
        self._tries: dict[int, int] = {}
        self._cubes: dict[int, _OpenCube] = {}
        self._locks = NamedLocks(layout.locks)
        self._access = cache(partial(access_of, config))
        self._cubes_of = cubes_by_aoi(layout)
        self._elsewhere: deque[tuple[Aoi, Future[CubePlan]]] = deque()
        """AOIs whose cubes another run is building."""
        self._ready: deque[BlockTask] = deque()
        self._in_flight = 0
        self.fetched = 0
        """Blocks that were read and written."""

    def close(self) -> None:
        """Let go of the cubes that are not finished."""
        self._locks.release_all()

    def take(self, count: int) -> Sequence[BlockTask]:
        """Return up to `count` blocks; waits for a plan only where nothing is in flight."""
        taken: list[BlockTask] = []
        while len(taken) < count:
            if not self._ready:
                if taken:  # they need not wait for further plans
                    break
                if not self._begin_another():
                    break
                continue
            taken.append(self._ready.popleft())
            self._in_flight += 1
        return taken

    def finish(self, outcome: Outcome[BlockTask, dict[str, Any]]) -> None:
        """Note what became of a block; the last one of a cube seals it, or fails its AOI.

        Raises
        ------
        BusyError
            If another run has taken over.
        ServiceError
            If a service as a whole is to blame.
        """
        self._in_flight -= 1
        task, cube = outcome.task, self._cubes[outcome.task.aoi_index]
        cube.waiting.discard(task.block.name)
        if outcome.error is None:
            cube.records[task.block.name] = outcome.get()
            self.fetched += 1
            self._losses.read(task.scenes[0].collection, [scene.id for scene in task.scenes])
            self._rows.update(task.aoi_index, done=cube.share_done)
        else:
            self._note_error(cube, task, outcome.error)
        if cube.waiting:
            return
        try:
            if cube.imagery_asked or cube.error or cube.lost:
                self._close(task.aoi_index)
            else:
                self._ask_for_imagery(task.aoi_index)
        except _STOPS:
            raise
        except Exception as error:  # noqa: BLE001  as when it was begun
            self._give_up(task.aoi_index, error)

    def _note_error(self, cube: _OpenCube, task: BlockTask, error: BaseException) -> None:
        """Note why a block was not made: a scene is lost, or its AOI fails.

        Raises
        ------
        ServiceError
            If a service as a whole is to blame.
        """
        if isinstance(error, ServiceError):
            raise error
        reason = f"block {task.block.name}: {error_in_one_line(error)}"
        if isinstance(error, LostSceneError):
            collection = next(one.collection for one in task.scenes if one.id == error.item_id)
            scene = LostScene(task.sensor.key, collection, error.item_id, error.asset, error.cause)
            self._losses.lose(scene)
            if not task.sensor.is_static:
                cube.lost.append(scene)
                return
            reason += f" ({task.sensor.title} has no other choice)"
        facts = {"aoi": task.aoi_index, "block": task.block.name}
        _LOG.error("AOI %s: %s", self._rows.label(task.aoi_index), reason, extra=event("block", **facts))
        cube.error = cube.error or reason

    def _begin_another(self) -> bool:
        """Begin an AOI, or return False; waits only where nothing is in flight."""
        idle = self._in_flight == 0
        planned = self._planner.take(wait_for_it=idle and not self._elsewhere)
        if planned is not None:
            self._begin(*planned)
            return True
        waiting = len(self._elsewhere)
        for _ in range(waiting):
            self._begin(*self._elsewhere.popleft(), is_first_look=False)
        if waiting and idle and len(self._elsewhere) == waiting:
            time.sleep(_LOOK_AGAIN_S)
        return bool(waiting) and (idle or len(self._elsewhere) < waiting)

    def _begin(self, aoi: Aoi, planned: Future[CubePlan], *, is_first_look: bool = True) -> None:
        tries = self._tries.setdefault(aoi.index, self._rows[aoi.index].tries + 1)
        try:
            plan = self._plan_of(aoi, planned)
            if plan is None:
                return
            if other := self._locks.take(plan.cube):
                self._elsewhere.append((aoi, planned))
                if is_first_look:
                    text = "AOI %s: another run (%s) is at its cube, which is waited for"
                    _LOG.info(text, self._rows.label(aoi.index), other, extra=event("waiting", aoi=aoi.index))
                return
            try:
                self._take_up(aoi, plan, tries)
            except BaseException:
                self._locks.release(plan.cube)  # others that wait for the cube may try
                raise
        except _STOPS:
            raise
        except UnusableError as error:
            self._losses.find_unusable(error)
            self._give_up(aoi.index, error, tries=tries)
        except Exception as error:  # noqa: BLE001  whatever it is
            self._give_up(aoi.index, error, tries=tries)

    def _give_up(self, aoi_index: int, error: Exception, **changes: Any) -> None:
        """Fail an AOI that has no block in flight."""
        cube = self._cubes.pop(aoi_index, None)
        if cube is not None:
            self._locks.release(cube.plan.cube)
        self._rows.fail(aoi_index, error, **changes)

    def _plan_of(self, aoi: Aoi, planned: Future[CubePlan]) -> CubePlan | None:
        """Return an AOI's plan; one that is skipped has none, and uses no cube."""
        name = self._planner.question.plan_name(aoi)
        try:
            plan = planned.result()
        except Skipped as skipped:
            facts = {"reason": skipped.reason, "lost": self._planner.lost_scenes(aoi)}
            self._rows.update(aoi.index, status=AoiState.SKIPPED, done=0.0, cube="", plan=name, **facts)
            return None
        self._losses.planned()
        self._rows.note(aoi.index, cube=plan.cube, plan=name)
        return plan

    def _take_up(self, aoi: Aoi, plan: CubePlan, tries: int) -> None:
        """Find what is on disk already of a cube that is locked, and line the rest up."""
        aoi_index = plan.aoi_index
        facts: dict[str, Any] = {
            "epsg": plan.epsg,
            "width_m": plan.bounds.width,
            "height_m": plan.bounds.height,
            "lost": self._planner.lost_scenes(aoi),
        }
        if (seal := self._current_seal(plan)) is not None:
            self._layout.building.remove_folder(plan.cube)
            reason = "; ".join(seal["attributes"].get(_SHORTFALLS, ()))
            self._note_built(aoi, reason, **facts)
            self._locks.release(plan.cube)
            return
        self._check_access(plan)
        resumed = keep_blocks(self._layout, plan, sharded=self._config.store.shards == "block")
        write_template(self._layout.cubes, plan.cube, resumed.template)
        others = self._cubes_of[aoi_index]
        borrowed = borrow_blocks(self._layout, plan, resumed, others, self._locks)
        cube = _OpenCube(aoi, plan, resumed, resumed.records | borrowed)
        others.add(plan.cube)
        facts |= {"reason": "", "tries": tries, "done": cube.share_done}
        self._rows.update(aoi_index, status=AoiState.BUILDING, **facts)
        self._check_room(cube)
        self._cubes[aoi_index] = cube
        self._line_up(cube, plan.blocks("lulc"))
        if self._config.aoi.fetch == "all" or not cube.waiting:
            self._ask_for_imagery(aoi_index)

    def _check_access(self, plan: CubePlan) -> None:
        """Get all containers' tokens before the first block: a missing account shows at once."""
        for sensor_plan in plan.sensors:
            asset = next(iter(next(sensor_plan.scenes).assets.values()))
            check_access(asset.href, self._access(sensor_plan.key, sensor_plan.catalog))

    def _line_up(self, cube: _OpenCube, blocks: Iterable[Block]) -> None:
        """Let the blocks be made that are not on disk."""
        for block in blocks:
            if block.name not in cube.records:
                cube.waiting.add(block.name)
                self._ready.append(self._task(cube, block))

    def _ask_for_imagery(self, aoi_index: int) -> None:
        """Line up the blocks beside land cover: all, or those that hold a candidate window."""
        cube = self._cubes[aoi_index]
        wanted = self._wanted_blocks(cube.plan)
        imagery = [block for block in cube.plan.all_blocks if block.sensor != "lulc"]
        cube.imagery_asked = True
        cube.left_out = tuple(
            block.name for block in imagery if block.name not in wanted and block.name not in cube.records
        )
        self._line_up(cube, [block for block in imagery if block.name in wanted])
        if not cube.waiting:
            self._close(aoi_index)

    def _wanted_blocks(self, plan: CubePlan) -> Collection[str]:
        if self._config.aoi.fetch == "all":
            return {block.name for block in plan.all_blocks}
        lulc = read_array(self._layout.cubes, plan.cube, "lulc/lulc")
        return needed_blocks(candidate_classes(lulc, plan, self._config), plan, self._config)

    def _current_seal(self, plan: CubePlan) -> dict[str, Any] | None:
        """Return the root of a sealed cube if it is the plan's, and holds every block wanted."""
        sealed = read_seal(self._layout.cubes, plan.cube)
        if sealed is None or not describes(sealed, plan):
            return None
        left_out = set(sealed["attributes"].get("not_fetched", ()))
        return None if left_out and left_out & set(self._wanted_blocks(plan)) else sealed

    def _check_room(self, cube: _OpenCube) -> None:
        """See that a cube fits beside what those that are being built have still to write."""
        free, needed = self._layout.cubes.free_bytes(), cube.bytes_to_come
        promised = sum(other.bytes_to_come for other in self._cubes.values())
        if free is not None and free < needed + promised:
            raise DiskFullError(
                f"{self._layout.cubes}: {free / 1e9:.1f} GB are free, and this cube takes about "
                f"{needed / 1e9:.1f} GB beside {promised / 1e9:.1f} GB of others; make room and run again"
            )

    def _task(self, cube: _OpenCube, block: Block) -> BlockTask:
        plan = cube.plan
        sensor_plan = plan.sensor(block.sensor)
        return BlockTask(
            cubes=self._layout.cubes,
            cube=plan.cube,
            markers=self._layout.markers(plan.cube),
            aoi_index=plan.aoi_index,
            block=block,
            geobox=plan.geobox(block.sensor)[block.roi],
            sensor=sensor_plan.sensor,
            bands=sensor_plan.bands,
            scenes=sensor_plan.dates[block.time].scenes,
            resampling=sensor_plan.resampling,
            harmonize=sensor_plan.harmonize,
            access=self._access(block.sensor, sensor_plan.catalog),
            fingerprint=plan.block_fingerprint(block),
            changed=tuple(
                asset.href
                for scene in sensor_plan.dates[block.time].scenes
                for asset in scene.assets.values()
                if (scene.id, asset.key) in cube.changed
            ),
            is_sharded=cube.resumed.is_sharded,
        )

    def _close(self, aoi_index: int) -> None:
        """Seal a cube whose blocks are all on disk, plan it anew, or say why it cannot be made.

        All blocks of a plan have ended by then, so that which scenes are lost follows from the
        files alone, not from which was read first.
        """
        if self._read_again(self._cubes[aoi_index]):
            return
        cube = self._cubes.pop(aoi_index)
        try:
            if cube.lost and not cube.error:
                self._planner.plan_again(cube.aoi, cube.lost)
                return
            if cube.error:
                self._planner.record_lost(cube.aoi, cube.lost)
                lost = self._planner.lost_scenes(cube.aoi)
                self._rows.update(aoi_index, status=AoiState.FAILED, reason=cube.error, lost=lost)
                return
            shortfalls = shortfalls_of(cube.plan, cube.records)
            notes = {_SHORTFALLS: shortfalls, **unsaid_by_files(cube.plan, cube.records)}
            template = cube.resumed.template
            close_cube(self._layout, cube.plan, template, cube.records, cube.left_out, **notes)
            self._note_built(cube.aoi, "; ".join(shortfalls))
        finally:
            self._locks.release(cube.plan.cube)

    def _note_built(self, aoi: Aoi, reason: str, **facts: Any) -> None:
        lost = facts.get("lost", self._rows[aoi.index].lost)
        facts["seen"] = "" if lost else self._planner.question.seen(aoi)
        self._rows.update(aoi.index, status=AoiState.BUILT, reason=reason, done=1.0, **facts)

    def _read_again(self, cube: _OpenCube) -> bool:
        """Line up the blocks again that hold files which changed meanwhile; tell if there are any.

        A file that goes on changing fails its AOI.
        """
        if cube.error or cube.lost or not (changed := changed_files(cube.records)):
            return False
        blocks = blocks_of_files(cube.records, changed)
        drop_blocks(self._layout, cube.plan, blocks)
        for name in blocks:
            del cube.records[name]
        item, asset = changed[0]
        others = f", and {len(changed) - 1} other files" if len(changed) > 1 else ""
        reason = f"item {item}, asset {asset}{others}: changed while it was read"
        if cube.changed:
            cube.error = f"{reason}, and again when it was read anew; run again when it is whole"
            return False
        cube.changed = changed
        facts = event("changed", aoi=cube.plan.aoi_index, item=item, asset=asset)
        text = "AOI %s: %s; %d blocks are read again"
        _LOG.warning(text, self._rows.label(cube.plan.aoi_index), reason, len(blocks), extra=facts)
        self._line_up(cube, [block for block in cube.plan.all_blocks if block.name in blocks])
        return True
