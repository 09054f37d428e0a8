"""Plans: made ahead of the blocks, kept, and taken up again."""

from __future__ import annotations

import json
import logging
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from functools import partial
from typing import Self

import numpy as np
from shapely.geometry.base import BaseGeometry

from cube.config.aoi import Aoi, load_aois, pick_aois
from cube.config.models import Config
from cube.config.sensor_models import Sentinel2Config
from cube.errors import CatalogError, GelosError, LostSceneError, ReadError, UnusableError
from cube.pixels.access import Access
from cube.pixels.read import read_band
from cube.retry import heed
from cube.run.layout import Layout
from cube.run.logs import event
from cube.run.status import AoiState, StatusBoard
from cube.scenes.acquisition import Acquisition
from cube.scenes.catalog import folder_of_items, open_catalog
from cube.scenes.explain import Skipped
from cube.scenes.lost import LostRecord, LostScene, LostWhilePlanning
from cube.scenes.neighbours import neighbourhoods
from cube.scenes.plan import CubePlan, canonical_json
from cube.scenes.planner import ClearShare, plan_aoi
from cube.scenes.query import Catalog
from cube.scenes.question import Question

from .losses import LossWatch
from .prefilter import candidate_classes, count_candidates

_LOG = logging.getLogger(__name__)


def access_of(config: Config, key: str, catalog: str = "") -> Access:
    """Return how a sensor's assets are read.

    Parameters
    ----------
    catalog
        The file that its items were found in, where a plan says so: relative hrefs are meant beside
        that one, whatever the config says by now.
    """
    source = config.source(key)
    file = config.path.parent / (catalog or source.url)
    return Access(
        base="" if source.is_api and not catalog else str(folder_of_items(file)),
        sign=source.sign == "planetary-computer",
        s3=source.sensor.s3,
        connections=config.compute.max_connections,
        retries=config.compute.read_retries,
        wait_s=config.compute.retry_wait_s,
        longest_wait_s=config.compute.retry_longest_wait_s,
    )


def plan_cubes(
    config: Config, *, only: Collection[int | str] = (), catalog: Catalog | None = None
) -> Iterator[tuple[Aoi, CubePlan | Skipped | GelosError]]:
    """Plan AOIs without building or keeping anything: what a dry run shows."""
    wanted = wanted_aois(config, only=only)
    catalog = catalog or open_catalog(config, near=neighbourhoods(wanted))
    layout = Layout.of(config)
    losses, question = LossWatch(), Question(config)
    clear_share = _clear_share(config, losses)
    for aoi in wanted:
        try:
            lost = LostRecord(layout.lost, question.plan_name(aoi)).read()
            kept = _kept_plan(aoi, config, question, layout, lost)
            yield aoi, kept or _plan_without(lost, aoi, config, catalog, clear_share, lambda _: None)[0]
            losses.planned()
        except UnusableError as error:
            losses.find_unusable(error)
            yield aoi, error
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
    sensor_plan = plan.sensor("lulc")
    access = access_of(config, "lulc", sensor_plan.catalog)
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


def _plan_without(
    lost: tuple[LostScene, ...],
    aoi: Aoi,
    config: Config,
    catalog: Catalog,
    clear_share: ClearShare | None,
    record: Callable[[tuple[LostScene, ...]], None],
) -> tuple[CubePlan, tuple[LostScene, ...]]:
    """Plan an AOI, again for as long as scenes are found lost while they are ranked.

    Returns
    -------
    CubePlan, tuple of LostScene
        The plan, and the scenes that it does without: `lost`, and those found, of which `record`
        was told.
    """
    while True:
        try:
            return plan_aoi(aoi, config, catalog, clear_share, lost), lost
        except LostWhilePlanning as found:
            record(found.scenes)
            lost = (*lost, *found.scenes)


def _kept_plan(
    aoi: Aoi, config: Config, question: Question, layout: Layout, lost: tuple[LostScene, ...]
) -> CubePlan | None:
    try:
        record = json.loads(layout.plans.read(f"{question.plan_name(aoi)}.json"))
        if record["question"] == question.digest(aoi, lost):
            return CubePlan.from_json(record["plan"], config.table)
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        pass
    return None


def _clear_share(config: Config, losses: LossWatch) -> ClearShare | None:
    """Return what measures scenes over an AOI, if the config ranks by it."""
    for key, settings in config.sensors.items():
        if isinstance(settings, Sentinel2Config) and settings.rank == "aoi":
            access = access_of(config, key)
            return partial(_measure, sensor=key, clear=settings.clear, access=access, losses=losses)
    return None


def _measure(
    acquisition: Acquisition,
    aoi: BaseGeometry,
    *,
    sensor: str,
    clear: Collection[int],
    access: Access,
    losses: LossWatch,
) -> float:
    """Measure the clear share of an acquisition, and note whether its files were there."""
    from cube.pixels.preview import clear_share

    collection = acquisition.scenes[0].collection
    try:
        share = clear_share(acquisition, aoi, clear=clear, access=access)
    except LostSceneError as error:
        losses.lose(LostScene(sensor, collection, error.item_id, error.asset, error.cause))
        raise
    losses.read(collection, [scene.id for scene in acquisition.scenes])
    return share


class AoiPlanner:
    """Plans AOIs in order, in threads, as many ahead of those taken as there are searches at once.

    Parameters
    ----------
    question
        The config's.
    losses
        Hears of scenes that are lost while they are ranked.
    ask_again
        Plans of earlier runs do not count; what changed is said.
    recheck_lost
        Nor do records of lost scenes: their files are read again.
    """

    def __init__(
        self,
        config: Config,
        question: Question,
        layout: Layout,
        catalog: Catalog,
        aois: Iterable[Aoi],
        losses: LossWatch,
        *,
        ask_again: bool = False,
        recheck_lost: bool = False,
    ) -> None:
        self._config, self._layout, self._catalog = config, layout, catalog
        self.question = question
        self._losses, self._ask_again, self._recheck_lost = losses, ask_again, recheck_lost
        self._aois = deque(aois)
        self._pending: dict[Future[CubePlan], Aoi] = {}
        self._recorded: dict[int, Aoi] = {}
        self._given_up = threading.Event()
        self._pool = ThreadPoolExecutor(
            config.catalog.searches, initializer=heed, initargs=(self._given_up.is_set,)
        )
        self._clear_share = _clear_share(config, losses)

    def __enter__(self) -> Self:
        """Return the planner."""
        return self

    def __exit__(self, *_: object) -> None:
        """Give up what is not planned yet; what a service is to blame for leaves the records."""
        self._given_up.set()
        self._pool.shutdown(wait=False, cancel_futures=True)
        if self._losses.blamed:
            for aoi in self._recorded.values():
                self._record(aoi).withdraw(self._losses.blamed)

    def take(self, *, wait_for_it: bool) -> tuple[Aoi, Future[CubePlan]] | None:
        """Return an AOI whose planning has ended; None if there is none, or none yet."""
        while self._aois and len(self._pending) < self._config.catalog.searches:
            aoi = self._aois.popleft()
            self._pending[self._pool.submit(self._plan_first, aoi)] = aoi
        if not self._pending:
            return None
        done, _ = wait(self._pending, timeout=None if wait_for_it else 0, return_when=FIRST_COMPLETED)
        if not done:
            return None
        future = min(done, key=lambda one: self._pending[one].index)
        return self._pending.pop(future), future

    def plan_again(self, aoi: Aoi, lost: Iterable[LostScene]) -> None:
        """Put lost scenes on record; the AOI is planned without them, and taken once more."""
        self.record_lost(aoi, lost)
        self._pending[self._pool.submit(self._plan, aoi)] = aoi

    def record_lost(self, aoi: Aoi, lost: Iterable[LostScene]) -> None:
        """Put lost scenes on record, and say so."""
        for scene in sorted(set(lost)):
            facts = {"item": scene.item, "asset": scene.asset, "cause": scene.cause}
            _LOG.warning(
                "AOI %s: lost: %s",
                aoi.label,
                scene,
                extra=event("lost", aoi=aoi.index, **facts),
            )
        self._recorded[aoi.index] = aoi
        self._record(aoi).add(lost)

    def lost_scenes(self, aoi: Aoi) -> list[dict[str, str]]:
        """Return what an AOI's row says of its lost scenes."""
        return [
            {"item": scene.item, "asset": scene.asset, "cause": scene.cause}
            for scene in self._record(aoi).read()
        ]

    def _record(self, aoi: Aoi) -> LostRecord:
        return LostRecord(self._layout.lost, self.question.plan_name(aoi))

    def _plan_first(self, aoi: Aoi) -> CubePlan:
        """Plan an AOI for the first time in this run."""
        if self._recheck_lost:
            record = self._record(aoi)
            lost = record.read()
            record.withdraw(scene.item for scene in lost)
            for scene in lost:
                _LOG.info(
                    "AOI %s: asked again: %s",
                    aoi.label,
                    scene,
                    extra=event("replanned", aoi=aoi.index),
                )
        return self._plan(aoi, ask_again=self._ask_again)

    def _plan(self, aoi: Aoi, *, ask_again: bool = False) -> CubePlan:
        """Return an AOI's plan: the one on disk if its question is the same, else a new one.

        A new plan is kept, so a run that is resumed keeps its scenes, whatever the catalog has
        gained meanwhile. An AOI that is skipped leaves a record of what was seen, and is asked
        about again.
        """
        config, plans = self._config, self._layout.plans
        name = f"{self.question.plan_name(aoi)}.json"
        lost = self._record(aoi).read()
        kept = _kept_plan(aoi, config, self.question, self._layout, lost)
        if kept is not None and not ask_again:
            return kept
        try:
            plan, lost = _plan_without(
                lost, aoi, config, self._catalog, self._clear_share, partial(self.record_lost, aoi)
            )
        except Skipped as skipped:
            scenes_seen = [scene.to_json() for scene in skipped.scenes_seen]
            record = {"skipped": skipped.reason, "candidates": scenes_seen}
            plans.write(name, canonical_json(record))
            raise
        asked = self.question.digest(aoi, lost)
        plans.write(name, canonical_json({"question": asked, "plan": plan.to_json()}))
        if ask_again:
            text = what_changed(kept, plan)
            _LOG.info(
                "AOI %s: %s",
                aoi.label,
                text,
                extra=event("replanned", aoi=aoi.index),
            )
        return plan


def what_changed(before: CubePlan | None, after: CubePlan) -> str:
    """Say in one line which scenes a new plan has that the one before had not, and the reverse."""
    if before is None:
        return "planned anew"
    changes = []
    for plan in after.sensors:
        old = {scene.id for one in before.sensors if one.key == plan.key for scene in one.scenes}
        new = {scene.id for scene in plan.scenes}
        if old != new:
            gone, come = ", ".join(sorted(old - new)), ", ".join(sorted(new - old))
            changes.append(f"{plan.key}: {come or 'nothing'} in place of {gone or 'nothing'}")
    return (
        f"planned anew: {'; '.join(changes)}" if changes else "asked again: the catalog gives the same scenes"
    )
