"""Phase one: from AOIs to sealed cubes.

The client plans AOIs a few ahead, and feeds their blocks to the engine as capacity frees up; workers read and write; when
the last block of a cube is on disk, the client seals it. What a killed run leaves is completed by the next: a plan once
made is kept, and a block whose marker lies on disk is not read again.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from odc.geo.geobox import GeoBox

from .aoi import Aoi, load_aois
from .candidates import candidate_classes, count_candidates, needed_blocks
from .catalog import Catalog, catalog_file, open_catalog
from .config import Config, SensorConfig, Sentinel2Config
from .engine import Engine, Outcome, stop_if_given_up
from .errors import CatalogError, ConfigError, DiskFullError, GelosError, ReadError, StoreError
from .estimate import estimate_cost
from .grid import Block
from .items import Scene
from .layout import Layout, aoi_stem
from .loader import Access, check_access, clear_share, read_band, read_bands
from .lock import hold
from .logs import event
from .plan import SCHEMA_VERSION, CubePlan, canonical_json
from .retry import without_signature
from .scenes import Skipped
from .search import ClearShare, plan_aoi
from .sensors import Sensor
from .status import AoiState, AoiStatus, StatusBoard
from .storage import Folder
from .store import (
    cube_name,
    describes,
    read_array,
    read_seal,
    seal,
    sweep_cube,
    unseal,
    write_block,
    write_template,
)

__all__ = ["BuildSummary", "Progress", "build_cubes", "candidates_of", "plan_cubes"]

_LOG = logging.getLogger(__name__)

_PLAN_THREADS = 4
_PLAN_AHEAD = 4
"""AOIs planned before their blocks are asked for."""

Progress = Callable[[int, AoiStatus], None]
"""Told of every change of an AOI's row."""


BlockRecords = dict[str, dict[str, Any]]
"""By block name: the fingerprint of what made it, and SHA-256 by band."""


@dataclass(frozen=True)
class BlockTask:
    """One block, with all that a worker needs to read and write it."""

    cubes: Folder
    markers: Folder
    aoi_index: int
    block: Block
    geobox: GeoBox
    """Of the block."""
    sensor: Sensor
    bands: tuple[str, ...]
    scenes: tuple[Scene, ...]
    resampling: str
    harmonize: bool
    access: Access
    fingerprint: str

    @property
    def marker(self) -> str:
        """Name of the file that says that the block is on disk."""
        return f"{self.block.name}.json"


def build_block(task: BlockTask) -> dict[str, Any]:
    """Read a block band by band, write it, and leave its marker; runs in a worker.

    A block that has its marker already is not read again: its worker died after the marker and before it could tell.

    Returns
    -------
    dict
        The marker's record: ``fingerprint``, and ``digests`` (SHA-256 by band).

    Raises
    ------
    StoreError
        If the cube is sealed: the block was made, and is made again only because its worker died since.
    """
    if (record := _record_of(task)) is not None:
        return record
    if read_seal(task.cubes, task.aoi_index) is not None:
        raise StoreError(f"block {task.block.name}: its cube is sealed already")
    digests = {}
    bands = read_bands(
        task.scenes,
        task.sensor,
        task.bands,
        task.geobox,
        task.access,
        resampling=task.resampling,
        harmonize=task.harmonize,
    )
    for band, values in bands:
        stop_if_given_up()
        # A worker that was cut off from its scheduler may have made the same block meanwhile.
        if (record := _record_of(task)) is not None:
            return record
        digests[band] = write_block(task.cubes, task.aoi_index, task.block, band, values)
    record = {"fingerprint": task.fingerprint, "digests": digests}
    task.markers.write(task.marker, canonical_json(record))
    return record


def _record_of(task: BlockTask) -> dict[str, Any] | None:
    """Return the marker's record if the block is on disk as the task would make it."""
    try:
        record: dict[str, Any] = json.loads(task.markers.read(task.marker))
    except FileNotFoundError:
        return None
    return record if record["fingerprint"] == task.fingerprint else None


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


def access_of(config: Config) -> Access:
    """Return how this config's assets are read."""
    is_api = config.catalog.url.startswith(("http://", "https://"))
    return Access(
        base="" if is_api else str(catalog_file(config).parent.absolute()),
        sign=config.catalog.sign == "planetary-computer",
        connections=config.compute.max_connections,
        retries=config.compute.read_retries,
    )


def plan_cubes(
    config: Config, *, only: Collection[int] = (), catalog: Catalog | None = None
) -> Iterator[tuple[Aoi, CubePlan | Skipped | GelosError]]:
    """Plan AOIs without building or keeping anything: what a dry run shows."""
    catalog = catalog or open_catalog(config)
    layout, access = Layout.of(config), access_of(config)
    for aoi in wanted_aois(config, only=only):
        try:
            kept = _kept_plan(aoi, config, layout)
            yield aoi, kept or plan_aoi(aoi, config, catalog, _clear_share(config, access))
        except (Skipped, CatalogError, ReadError) as outcome:
            yield aoi, outcome


def wanted_aois(config: Config, *, only: Collection[int] = (), retry_failed: bool = False) -> list[Aoi]:
    """Return the AOIs that a run is to build.

    Parameters
    ----------
    config
        The dataset version.
    only
        Indices (empty: all).
    retry_failed
        Only those of them that failed in an earlier run.

    Raises
    ------
    ConfigError
        If there is no AOI of an index.
    """
    aois = load_aois(config)
    known = {aoi.index for aoi in aois}
    if unknown := sorted(set(only) - known):
        raise ConfigError(
            f"--aoi {unknown[0]}: there is no such AOI in {config.aoi_path} as the config cuts it; "
            f"indices go from {min(known)} to {max(known)}"
        )
    named = [aoi for aoi in aois if not only or aoi.index in only]
    if not retry_failed:
        return named
    board = StatusBoard(Layout.of(config).root, aois)
    return [aoi for aoi in named if board[aoi.index].status is AoiState.FAILED]


def candidates_of(plan: CubePlan, config: Config) -> dict[str, int]:
    """Return the windows of each class that land cover alone lets through; reads the land cover, and nothing else."""
    access, sensor_plan = access_of(config), plan.sensor("lulc")
    sensor, geobox = sensor_plan.sensor, plan.geobox("lulc")
    lulc = np.zeros(geobox.shape, "uint8")
    for block in plan.blocks("lulc"):
        lulc[block.roi] = read_band(
            sensor_plan.dates[0].scenes,
            sensor,
            sensor.band("lulc"),
            geobox[block.roi],
            access,
            resampling=sensor_plan.resampling,
            harmonize=False,
        )
    return count_candidates(candidate_classes(lulc, plan, config))


def _plan(aoi: Aoi, config: Config, layout: Layout, catalog: Catalog, access: Access) -> CubePlan:
    """Return the plan of an AOI: the one on disk if it answers the same question, else a new one, which is kept.

    So a run that is resumed keeps its scenes, whatever the catalog has gained meanwhile. An AOI that is skipped leaves a
    record of what was seen, and is asked about again.
    """
    kept = _kept_plan(aoi, config, layout)
    if kept is not None:
        return kept
    name = f"{aoi_stem(aoi.index)}.json"
    try:
        plan = plan_aoi(aoi, config, catalog, _clear_share(config, access))
    except Skipped as skipped:
        candidates = [candidate.to_json() for candidate in skipped.candidates]
        layout.plans.write(name, canonical_json({"skipped": skipped.reason, "candidates": candidates}))
        raise
    record = {"question": _planning_digest(aoi, config), "plan": plan.to_json()}
    layout.plans.write(name, canonical_json(record))
    return plan


def _kept_plan(aoi: Aoi, config: Config, layout: Layout) -> CubePlan | None:
    try:
        record = json.loads(layout.plans.read(f"{aoi_stem(aoi.index)}.json"))
        if record["question"] == _planning_digest(aoi, config):
            return CubePlan.from_json(record["plan"], config.table)
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        pass
    return None


def _clear_share(config: Config, access: Access) -> ClearShare | None:
    for settings in config.sensors.values():
        if isinstance(settings, Sentinel2Config) and settings.rank == "aoi":
            return partial(clear_share, clear=settings.clear, access=access)
    return None


_NOT_PLANNED = {"fill_na", "na_value", "dtype", "cloud_bits", "cloud_buffer_px", "sampling_factor"}
"""Sensor keys of phase two and of the release: they do not change a plan."""


def _not_planned(settings: SensorConfig) -> set[str]:
    ranked = isinstance(settings, Sentinel2Config) and settings.rank == "aoi"
    return _NOT_PLANNED | {"bands", "cloud_band"} | (set() if ranked else {"clear"})


def _planning_digest(aoi: Aoi, config: Config) -> str:
    """Return a digest of all that a plan follows from, but for what the catalog holds."""
    question = {
        "schema_version": SCHEMA_VERSION,
        "aoi": aoi.geometry.wkt,
        "extent": [str(config.aoi.extent), config.aoi.max_side_m],
        "sensors": {
            key: {
                "bands": config.bands(key),
                **settings.model_dump(mode="json", exclude=_not_planned(settings)),
            }
            for key, settings in config.sensors.items()
        },
        "ranges": [str(span) for span in config.ranges],
    }
    if config.extra_sensors:
        question["rows"] = {
            key: json.loads(row.model_dump_json(exclude={"title", "attribution", "licence"}))
            for key, row in config.extra_sensors.items()
            if key in config.sensors
        }
    return hashlib.sha256(canonical_json(question)).hexdigest()


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
        with ThreadPoolExecutor(_PLAN_THREADS) as pool:
            self._planner = _Ahead(pool, self._plan, deque(aois))
            try:
                for outcome in engine.run(build_block, self, self.layout.root.url):
                    self._finish_block(outcome)
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
                self.board.write()
        return BuildSummary({aoi.index: self.board[aoi.index] for aoi in aois}, self.fetched)

    # The engine draws tasks from here. An exhausted iterator may have more later, when a plan or a block is done.

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
        return _plan(aoi, self.config, self.layout, self.catalog, self.access)

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


@dataclass
class _Ahead:
    """Plans AOIs in threads, a few ahead of those that are asked for."""

    pool: ThreadPoolExecutor
    plan: Callable[[Aoi], CubePlan]
    aois: deque[Aoi]
    pending: dict[Future[CubePlan], Aoi] = field(default_factory=dict)

    def next(self, *, block: bool) -> tuple[Aoi, Future[CubePlan]] | None:
        """Return an AOI whose planning has ended; None if there is none (yet, where `block` is false)."""
        while self.aois and len(self.pending) < _PLAN_AHEAD:
            aoi = self.aois.popleft()
            self.pending[self.pool.submit(self.plan, aoi)] = aoi
        if not self.pending:
            return None
        done, _ = wait(self.pending, timeout=None if block else 0, return_when=FIRST_COMPLETED)
        if not done:
            return None
        future = min(done, key=lambda one: self.pending[one].index)
        return self.pending.pop(future), future
