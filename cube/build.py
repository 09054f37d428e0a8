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

from odc.geo.geobox import GeoBox

from .aoi import Aoi, load_aois
from .catalog import Catalog, catalog_file, open_catalog
from .config import Config, Sentinel2Config
from .engine import Engine, Outcome
from .errors import CatalogError, GelosError, ReadError, StoreError
from .grid import Block
from .items import Scene
from .loader import Access, check_access, clear_share, read_bands
from .lock import hold
from .plan import SCHEMA_VERSION, CubePlan, canonical_json
from .scenes import Skipped
from .search import ClearShare, plan_aoi
from .sensors import SENSORS
from .status import AoiState, AoiStatus, StatusBoard
from .storage import Folder
from .store import read_seal, seal, sweep_cube, unseal, write_block, write_template

__all__ = ["BuildSummary", "Layout", "Progress", "build_cubes", "plan_cubes"]

_LOG = logging.getLogger(__name__)

_PLAN_THREADS = 4
_PLAN_AHEAD = 4
"""AOIs planned before their blocks are asked for."""

Progress = Callable[[int, AoiStatus], None]
"""Told of every change of an AOI's row."""


@dataclass(frozen=True)
class Layout:
    """Where things are in the working folder of a dataset version."""

    root: Folder

    @classmethod
    def of(cls, config: Config) -> Layout:
        """Return the layout of a config's working folder."""
        working = Folder(config.directory.working, config.directory.storage_options)
        return cls(working / config.dataset.version)

    @property
    def cubes(self) -> Folder:
        """Cubes, ``aoi_000003.zarr``."""
        return self.root / "cubes"

    @property
    def plans(self) -> Folder:
        """Plans, ``aoi_000003.json``."""
        return self.root / "plans"

    @property
    def blocks(self) -> Folder:
        """Records of sealed cubes' blocks, ``aoi_000003.json``: fingerprint and digests by block."""
        return self.root / "blocks"

    @property
    def building(self) -> Folder:
        """Folders of markers, one per unsealed cube and one marker per finished block."""
        return self.root / "building"

    def markers(self, aoi_index: int) -> Folder:
        """Return the folder of an unsealed cube's markers."""
        return self.building / _stem(aoi_index)


def _stem(aoi_index: int) -> str:
    return f"aoi_{aoi_index:06}"


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
    bands: tuple[str, ...]
    scenes: tuple[Scene, ...]
    resampling: str
    harmonize: bool
    access: Access
    fingerprint: str


def build_block(task: BlockTask) -> dict[str, Any]:
    """Read a block band by band, write it, and leave its marker; runs in a worker.

    Returns
    -------
    dict
        The marker's record: ``fingerprint``, and ``digests`` (SHA-256 by band).
    """
    sensor = SENSORS[task.block.sensor]
    digests = {}
    bands = read_bands(
        task.scenes,
        sensor,
        task.bands,
        task.geobox,
        task.access,
        resampling=task.resampling,
        harmonize=task.harmonize,
    )
    for name, values in bands:
        digests[name] = write_block(task.cubes, task.aoi_index, task.block, name, values)
    record = {"fingerprint": task.fingerprint, "digests": digests}
    task.markers.write(f"{task.block.name}.json", canonical_json(record))
    return record


@dataclass
class _Building:
    """A cube that is being built."""

    plan: CubePlan
    records: BlockRecords
    """Of the blocks on disk."""
    waiting: set[str]
    """Names of blocks that are not on disk yet."""
    total: int
    error: str = ""


@dataclass(frozen=True)
class BuildSummary:
    """How a run ended."""

    rows: Mapping[int, AoiStatus]
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
    aois = load_aois(config)
    layout = Layout.of(config)
    layout.root.make()
    with hold(layout.root):
        layout.cubes.sweep()
        board = StatusBoard(layout.root, aois)
        wanted = [
            aoi
            for aoi in aois
            if (not only or aoi.index in only)
            and (not retry_failed or board[aoi.index].status is AoiState.FAILED)
        ]
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
    """Plan AOIs without building anything: what a dry run shows."""
    catalog = catalog or open_catalog(config)
    layout, access = Layout.of(config), access_of(config)
    for aoi in load_aois(config):
        if not only or aoi.index in only:
            try:
                yield aoi, _plan(aoi, config, layout, catalog, access)
            except (Skipped, CatalogError, ReadError) as outcome:
                yield aoi, outcome


def _plan(aoi: Aoi, config: Config, layout: Layout, catalog: Catalog, access: Access) -> CubePlan:
    """Return the plan of an AOI: the one on disk if it answers the same question, else a new one.

    So a run that is resumed keeps its scenes, whatever the catalog has gained meanwhile.
    """
    name, question = f"{_stem(aoi.index)}.json", _planning_digest(aoi, config)
    try:
        record = json.loads(layout.plans.read(name))
        if record["question"] == question:
            return CubePlan.from_json(record["plan"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        pass
    plan = plan_aoi(aoi, config, catalog, _clear_share(config, access))
    layout.plans.write(name, canonical_json({"question": question, "plan": plan.to_json()}))
    return plan


def _clear_share(config: Config, access: Access) -> ClearShare | None:
    for settings in config.sensors.values():
        if isinstance(settings, Sentinel2Config) and settings.rank == "aoi":
            return partial(clear_share, clear=settings.clear, access=access)
    return None


_NOT_PLANNED = {"fill_na", "na_value", "dtype", "clear", "cloud_bits", "cloud_buffer_px", "sampling_factor"}
"""Sensor keys of phase two and of the release: they do not change a plan."""


def _planning_digest(aoi: Aoi, config: Config) -> str:
    """Return a digest of all that a plan follows from, but for what the catalog holds."""
    question = {
        "schema_version": SCHEMA_VERSION,
        "aoi": aoi.geometry.wkt,
        "extent": [str(config.aoi.extent), config.aoi.max_side_m],
        "sensors": {
            key: {
                "bands": config.bands(key),
                **settings.model_dump(mode="json", exclude=_NOT_PLANNED | {"bands", "cloud_band"}),
            }
            for key, settings in config.sensors.items()
        },
        "ranges": [str(span) for span in config.ranges],
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
                for outcome in engine.run(build_block, self):
                    self._finish_block(outcome)
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
                self.board.write()
        return BuildSummary(self.board.rows, self.fetched)

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
        """Take an AOI up: find what is on disk already, and line the rest up."""
        tries = self.board[aoi.index].tries + 1
        try:
            plan = planned.result()
            self._check_access(plan)
            if self._is_current(plan):
                self._update(aoi.index, status=AoiState.BUILT, reason="", done=1.0, **_size(plan))
                return
            self._update(
                aoi.index, status=AoiState.BUILDING, reason="", tries=tries, done=0.0, **_size(plan)
            )
            kept = self._keep_what_is_right(plan)
            write_template(self.layout.cubes, plan)
        except Skipped as skipped:
            _LOG.info("AOI %06d: skipped: %s", aoi.index, skipped.reason)
            self._update(aoi.index, status=AoiState.SKIPPED, reason=skipped.reason, done=0.0)
            return
        except GelosError as error:
            _LOG.error("AOI %06d: failed: %s", aoi.index, error)
            self._update(aoi.index, status=AoiState.FAILED, reason=str(error), tries=tries)
            return
        blocks = [block for sensor in _lulc_first(plan) for block in plan.blocks(sensor)]
        missing = [block for block in blocks if block.name not in kept]
        self.building[aoi.index] = _Building(plan, kept, {b.name for b in missing}, len(blocks))
        self.ready.extend(self._task(plan, block) for block in missing)
        if not missing:
            self._seal(aoi.index)

    def _check_access(self, plan: CubePlan) -> None:
        """Get the token of every container before the first block: a missing account must show now, not in hours."""
        for sensor_plan in plan.sensors:
            scene = next(sensor_plan.scenes)
            asset = next(iter(scene.assets.values()))
            if problem := check_access(asset.href, self.access):
                raise ReadError(scene.id, asset.key, problem)

    def _is_current(self, plan: CubePlan) -> bool:
        sealed = read_seal(self.layout.cubes, plan.aoi_index)
        return sealed is not None and sealed.get("recipe_sha256") == plan.fingerprint

    def _keep_what_is_right(self, plan: CubePlan) -> BlockRecords:
        """Return the blocks on disk that this plan would make again, and clear everything else away."""
        unseal(self.layout.cubes, plan.aoi_index)
        markers, stem = self.layout.markers(plan.aoi_index), _stem(plan.aoi_index)
        expected = {
            block.name: plan.block_fingerprint(block)
            for sensor_plan in plan.sensors
            for block in plan.blocks(sensor_plan.key)
        }
        found = {n.removesuffix(".json"): json.loads(markers.read(n)) for n in markers.names(".json")}
        kept = {name: r for name, r in found.items() if expected.get(name) == r["fingerprint"]}
        for name in found.keys() - kept.keys():
            markers.remove(f"{name}.json")
        if self.layout.blocks.exists(f"{stem}.json"):  # it was sealed: its blocks get their markers back
            sealed = json.loads(self.layout.blocks.read(f"{stem}.json"))
            for name, record in sealed.items():
                if expected.get(name) == record["fingerprint"] and name not in kept:
                    markers.write(f"{name}.json", canonical_json(record))
                    kept[name] = record
            self.layout.blocks.remove(f"{stem}.json")
        sweep_cube(self.layout.cubes, plan, set(kept))
        return kept

    def _task(self, plan: CubePlan, block: Block) -> BlockTask:
        sensor_plan = plan.sensor(block.sensor)
        return BlockTask(
            cubes=self.layout.cubes,
            markers=self.layout.markers(plan.aoi_index),
            aoi_index=plan.aoi_index,
            block=block,
            geobox=plan.geobox(block.sensor)[block.roi],
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
            self._update(task.aoi_index, done=round(len(building.records) / building.total, 4))
        else:
            reason = f"block {task.block.name}: {_one_line(outcome.error)}"
            _LOG.error("AOI %06d: %s", task.aoi_index, reason)
            building.error = building.error or reason
        if not building.waiting:
            self._seal(task.aoi_index)

    def _seal(self, aoi_index: int) -> None:
        """Seal a cube whose blocks are all on disk, or say why it cannot be."""
        building = self.building.pop(aoi_index)
        if building.error:
            self._update(aoi_index, status=AoiState.FAILED, reason=building.error)
            return
        digests = {name: record["digests"] for name, record in building.records.items()}
        try:
            self.layout.blocks.write(f"{_stem(aoi_index)}.json", canonical_json(building.records))
            seal(self.layout.cubes, building.plan, digests)
        except StoreError as error:
            self._update(aoi_index, status=AoiState.FAILED, reason=str(error))
            return
        self.layout.building.remove_folder(_stem(aoi_index))
        self._update(aoi_index, status=AoiState.BUILT, reason="", done=1.0)

    def _update(self, aoi_index: int, **changes: Any) -> None:
        self.board.update(aoi_index, **changes)
        if self.progress is not None:
            self.progress(aoi_index, self.board[aoi_index])


def _lulc_first(plan: CubePlan) -> list[str]:
    return sorted((sensor.key for sensor in plan.sensors), key=lambda key: key != "lulc")


def _size(plan: CubePlan) -> dict[str, int]:
    return {"epsg": plan.epsg, "width_m": plan.bounds.width, "height_m": plan.bounds.height}


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
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
