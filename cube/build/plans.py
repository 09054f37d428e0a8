"""Plans: made ahead of the blocks, kept, and taken up again."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import partial
from typing import Self

import numpy as np

from cube.config.aoi import Aoi, load_aois, pick_aois
from cube.config.models import Config
from cube.config.sensor_models import SensorConfig, Sentinel2Config
from cube.errors import CatalogError, GelosError, ReadError
from cube.pixels.access import Access
from cube.pixels.read import read_band
from cube.run.layout import Layout, recipe_stem
from cube.run.status import AoiState, StatusBoard
from cube.scenes.catalog import Catalog, catalog_file, open_catalog
from cube.scenes.explain import Skipped
from cube.scenes.plan import SCHEMA_VERSION, CubePlan, canonical_json
from cube.scenes.planner import ClearShare, plan_aoi

from .prefilter import candidate_classes, count_candidates

_PLAN_THREADS = 4
_PLAN_AHEAD = 4
"""AOIs planned before their blocks are asked for."""


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
    config: Config, *, only: Collection[int | str] = (), catalog: Catalog | None = None
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


def wanted_aois(config: Config, *, only: Collection[int | str] = (), retry_failed: bool = False) -> list[Aoi]:
    """Return the AOIs that a run is to build: those in `only`, or all if it is empty.

    Raises
    ------
    ConfigError
        If there is no AOI of an index, name or id.
    """
    aois = load_aois(config)
    named = pick_aois(aois, only, config.aoi_path) if only else aois
    if not retry_failed:
        return named
    board = StatusBoard(Layout.of(config).root, aois)
    return [aoi for aoi in named if board[aoi.index].status is AoiState.FAILED]


def candidates_of(plan: CubePlan, config: Config) -> dict[str, int]:
    """Read an AOI's land cover, and return how many candidate windows each class has."""
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


def _kept_or_new_plan(aoi: Aoi, config: Config, layout: Layout, catalog: Catalog, access: Access) -> CubePlan:
    """Return an AOI's plan: the one on disk if its question is the same, else a new one.

    A new plan is kept, so a run that is resumed keeps its scenes, whatever the catalog has gained
    meanwhile. An AOI that is skipped leaves a record of what was seen, and is asked about again.
    """
    kept = _kept_plan(aoi, config, layout)
    if kept is not None:
        return kept
    name = f"{plan_name(aoi, config)}.json"
    try:
        plan = plan_aoi(aoi, config, catalog, _clear_share(config, access))
    except Skipped as skipped:
        scenes_seen = [scene.to_json() for scene in skipped.scenes_seen]
        layout.plans.write(name, canonical_json({"skipped": skipped.reason, "candidates": scenes_seen}))
        raise
    record = {"question": _planning_digest(aoi, config), "plan": plan.to_json()}
    layout.plans.write(name, canonical_json(record))
    return plan


def _kept_plan(aoi: Aoi, config: Config, layout: Layout) -> CubePlan | None:
    try:
        record = json.loads(layout.plans.read(f"{plan_name(aoi, config)}.json"))
        if record["question"] == _planning_digest(aoi, config):
            return CubePlan.from_json(record["plan"], config.table)
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        pass
    return None


def plan_name(aoi: Aoi, config: Config) -> str:
    """Return what an AOI's plan is called, which belongs to its question, not to a version."""
    return recipe_stem(aoi.index, _planning_digest(aoi, config))


def _clear_share(config: Config, access: Access) -> ClearShare | None:
    for settings in config.sensors.values():
        if isinstance(settings, Sentinel2Config) and settings.rank == "aoi":
            from cube.pixels.preview import clear_share

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


class AoiPlanner:
    """Plans AOIs in order, in threads, a few ahead of those that are taken."""

    def __init__(self, config: Config, layout: Layout, catalog: Catalog, aois: Iterable[Aoi]) -> None:
        self._config, self._layout, self._catalog = config, layout, catalog
        self._aois = deque(aois)
        self._pending: dict[Future[CubePlan], Aoi] = {}
        self._pool = ThreadPoolExecutor(_PLAN_THREADS)
        self.access = access_of(config)
        """How the config's assets are read."""

    def __enter__(self) -> Self:
        """Return the planner."""
        return self

    def __exit__(self, *_: object) -> None:
        """Give up what is not planned yet."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def take(self, *, wait_for_it: bool) -> tuple[Aoi, Future[CubePlan]] | None:
        """Return an AOI whose planning has ended; None if there is none, or none yet."""
        while self._aois and len(self._pending) < _PLAN_AHEAD:
            aoi = self._aois.popleft()
            self._pending[self._pool.submit(self._plan, aoi)] = aoi
        if not self._pending:
            return None
        done, _ = wait(self._pending, timeout=None if wait_for_it else 0, return_when=FIRST_COMPLETED)
        if not done:
            return None
        future = min(done, key=lambda one: self._pending[one].index)
        return self._pending.pop(future), future

    def _plan(self, aoi: Aoi) -> CubePlan:
        return _kept_or_new_plan(aoi, self._config, self._layout, self._catalog, self.access)
