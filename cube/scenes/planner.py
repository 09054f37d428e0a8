"""From an AOI to its plan: which searches are made, in which order, over which area."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from shapely import box
from shapely.geometry.base import BaseGeometry

from cube.config.aoi import Aoi
from cube.config.fields import TimeRange
from cube.config.models import Config, Extent
from cube.config.profiles import PROFILES, SensorProfile
from cube.config.sensor_models import (
    LandsatConfig,
    PeriodConfig,
    Sentinel1Config,
    Sentinel2Config,
)
from cube.config.sensors import SENSORS, ChoiceRule
from cube.errors import CatalogError, GridError, ItemError, LostSceneError, UnusableError
from cube.windows.grid import Bounds, aoi_bounds, overlap_bounds
from cube.windows.projection import local_equal_area, outline_to_lonlat, project, utm_epsg

from .acquisition import Acquisition
from .choose import SceneSet, SensorChoice, choose_orbit, choose_path, choose_period, choose_tile
from .explain import SceneOutcome, Skipped, tell_unusable
from .facts import as_platform
from .items import Scene, parse_item, time_of, wanted_fields
from .lost import LostScene, LostWhilePlanning
from .plan import CubePlan, plan_cube
from .query import Catalog, Query
from .swapped import suspecting_swapped

_LOG = logging.getLogger(__name__)

ClearShare = Callable[[Acquisition, BaseGeometry], float]
"""Measures the clear share (0 to 1) of a Sentinel-2 acquisition over an AOI."""

_MARGIN_PX = 2
"""Layers without dates are searched this far beyond the extent, pixels: the tiles of the elevation
model end half a pixel before the whole degree, and what lies there belongs to the next one."""

_ALL_PERCENT = 100
_NOT_AT_TARGET = "its record seems to go round the world; the item lies elsewhere, at the antimeridian"

_SERIES_ORDER = (ChoiceRule.TILE, ChoiceRule.ORBIT, ChoiceRule.PATH)
"""Sentinel-2 first: the others are chosen near its dates, and over its footprint."""


def plan_aoi(
    aoi: Aoi,
    config: Config,
    catalog: Catalog,
    clear_share: ClearShare | None = None,
    lost: Iterable[LostScene] = (),
) -> CubePlan:
    """Search and choose one AOI's scenes, and plan its cube.

    No pixel is read, but by `clear_share` for ``s2l2a.rank: aoi``, which needs it.

    Parameters
    ----------
    lost
        Scenes that are no candidates, since their files are missing or broken for good.

    Raises
    ------
    LostWhilePlanning
        If scenes that `clear_share` looked at are lost: plan again without them.
    Skipped
        If the AOI cannot have one date per range and sensor; says what would have saved it.
    UnusableError
        If a search found items of a sensor, and none of them can be used.
    CatalogError
        If a search failed for good.
    """
    with suspecting_swapped(aoi, config, catalog):
        return _Planner(aoi, config, catalog, clear_share, {scene.item: scene for scene in lost}).plan()


@dataclass
class _Planner:
    aoi: Aoi
    config: Config
    catalog: Catalog
    clear_share: ClearShare | None
    lost: Mapping[str, LostScene]
    """By item id."""
    unusable: dict[str, list[ItemError]] = field(default_factory=dict)
    """Items that could not be used, by sensor."""

    def plan(self) -> CubePlan:
        choices: dict[str, SensorChoice] = {}
        lost: list[SceneOutcome] = []
        try:
            for key in self._series():
                choices[key] = self._choose_series(key, choices, lost)
            epsg = self._epsg(choices)
            bounds = self._bounds(choices, epsg)
            for key, settings in self.config.sensors.items():
                if isinstance(settings, PeriodConfig):
                    extent = _outline(bounds, epsg, _MARGIN_PX * settings.resolution)
                    scenes = self._find(key, extent, (TimeRange.parse(settings.year),), lost)
                    with self._telling_unusable(key):
                        choices[key] = choose_period(key, scenes, TimeRange.parse(settings.year))
        except Skipped as skipped:
            seen = [c for choice in choices.values() for c in choice.scenes_seen]
            reason = skipped.reason + self._losses_in_words({outcome.id for outcome in lost})
            raise Skipped(reason, (*seen, *skipped.scenes_seen, *lost)) from None
        scene_set = SceneSet(
            {key: tuple(a.scenes for a in choice.acquisitions) for key, choice in choices.items()},
            (*(c for choice in choices.values() for c in choice.scenes_seen), *lost),
        )
        self._tell_unknowns(choices)
        return plan_cube(self.aoi.index, self.aoi.geometry, epsg, bounds, scene_set, self.config)

    def _tell_unknowns(self, choices: Mapping[str, SensorChoice]) -> None:
        """Say what the items of chosen scenes do not, though the choice asks for it."""
        for key, choice in choices.items():
            for fact, is_known in self._asked_facts(key):
                scenes = [s for one in choice.acquisitions for s in one.scenes if not is_known(s)]
                if scenes:
                    names = ", ".join(scene.id for scene in scenes)
                    _LOG.warning("AOI %s: %s: %s is not known of %s", self.aoi.label, key, fact, names)

    def _asked_facts(self, key: str) -> Iterator[tuple[str, Callable[[Scene], bool]]]:
        settings, rule = self.config.sensors[key], self.config.table[key].choice
        if rule in (ChoiceRule.TILE, ChoiceRule.PATH):
            yield "how cloudy", lambda scene: scene.has_cloud_cover
        if isinstance(settings, Sentinel2Config) and settings.nodata_pixel_percentage < _ALL_PERCENT:
            yield "how much is without data", lambda scene: scene.has_nodata
        if rule is ChoiceRule.PATH and key in SENSORS:
            yield "which tier", lambda scene: scene.has_tier

    def _losses_in_words(self, seen: Container[str]) -> str:
        """Name the lost scenes among those that were seen, as the end of a reason."""
        lost = [str(scene) for item, scene in sorted(self.lost.items()) if item in seen]
        return f"; lost: {'; '.join(lost)}" if lost else ""

    def _series(self) -> list[str]:
        table = self.config.table
        return sorted(self.config.series, key=lambda key: _SERIES_ORDER.index(table[key].choice))

    def _choose_series(
        self, key: str, choices: dict[str, SensorChoice], lost: list[SceneOutcome]
    ) -> SensorChoice:
        settings = self.config.sensors[key]
        target = self._target(choices)
        ranges = self.config.ranges
        scenes = self._find(key, target, _merged(ranges), lost)
        with self._telling_unusable(key):
            if isinstance(settings, Sentinel2Config):
                return self._choose_tile(key, scenes, settings, target)
            anchors = self._anchors(choices)
            if isinstance(settings, Sentinel1Config):
                return choose_orbit(scenes, settings, ranges, target, anchors, key)
            assert isinstance(settings, LandsatConfig)
            return choose_path(scenes, settings, ranges, target, anchors, key)

    @contextlib.contextmanager
    def _telling_unusable(self, key: str) -> Iterator[None]:
        """Let the reason of a skip tell of items that could not be used, too."""
        try:
            yield
        except Skipped as skipped:
            if not self.unusable[key]:
                raise
            reason = f"{skipped.reason}; beside these {tell_unusable(self.unusable[key])}"
            raise Skipped(reason, skipped.scenes_seen) from None

    def _choose_tile(
        self, key: str, scenes: list[Scene], settings: Sentinel2Config, target: BaseGeometry
    ) -> SensorChoice:
        clear_share, found_lost = self.clear_share, list[LostScene]()

        def measure(acquisition: Acquisition) -> float:
            assert clear_share is not None
            try:
                return clear_share(acquisition, self.aoi.geometry)
            except LostSceneError as error:
                collection = acquisition.scenes[0].collection
                found_lost.append(LostScene(key, collection, error.item_id, error.asset, error.cause))
                return 0.0

        is_measured = settings.rank == "aoi" and clear_share is not None
        try:
            return choose_tile(scenes, settings, self.config.ranges, target, measure if is_measured else None)
        finally:
            if found_lost:
                raise LostWhilePlanning(found_lost) from None

    def _target(self, choices: dict[str, SensorChoice]) -> BaseGeometry:
        """Return what must be covered: the AOI, or the Sentinel-2 footprint capped around it."""
        sentinel2 = self._sentinel2(choices)
        if self.config.aoi.extent is Extent.AOI or sentinel2 is None:
            return self.aoi.geometry
        shared = _shared(sentinel2.acquisitions)
        side = self.config.aoi.max_side_m
        if side is not None:
            crs = local_equal_area(self.aoi.geometry)
            centre = project(self.aoi.geometry, crs).envelope.centroid
            square = centre.buffer(side / 2, cap_style="square")
            shared = shared.intersection(outline_to_lonlat(square, crs))
        return _require_area(shared)

    def _sentinel2(self, choices: dict[str, SensorChoice]) -> SensorChoice | None:
        table = self.config.table
        return next((c for key, c in choices.items() if table[key].choice is ChoiceRule.TILE), None)

    def _anchors(self, choices: dict[str, SensorChoice]) -> list[datetime]:
        sentinel2 = self._sentinel2(choices)
        if sentinel2 is None:
            return [span.middle for span in self.config.ranges]
        return [acquisition.time for acquisition in sentinel2.acquisitions]

    def _epsg(self, choices: dict[str, SensorChoice]) -> int:
        """Return the cube's zone: the Sentinel-2 tile's, or else that of the AOI's centre."""
        sentinel2 = self._sentinel2(choices)
        found = sentinel2.acquisitions[0].scenes[0].epsg if sentinel2 else None
        return found if found is not None else utm_epsg(self.aoi.geometry)

    def _bounds(self, choices: dict[str, SensorChoice], epsg: int) -> Bounds:
        if self.config.aoi.extent is Extent.AOI or not choices:
            return aoi_bounds(self.aoi.geometry, epsg)
        shared = self._target(choices)
        for choice in choices.values():
            shared = shared.intersection(_shared(choice.acquisitions))
        shared = _require_area(shared)
        try:
            return overlap_bounds(shared, self.aoi.geometry, epsg, self.config.aoi.max_side_m)
        except GridError as error:
            raise Skipped(str(error)) from None

    def _find(
        self, key: str, target: BaseGeometry, spans: Iterable[TimeRange], lost: list[SceneOutcome]
    ) -> list[Scene]:
        """Search one sensor; items that cannot be used are recorded in `lost` with the reason.

        Raises
        ------
        UnusableError
            If there are items, and not one of them can be used.
        """
        sensor, bands = self.config.table[key], self.config.bands(key)
        source = self.config.source(key).sensor
        scenes, unusable, usable = {}, list[ItemError](), 0
        spans = tuple(spans)
        for item in self._search(key, target, spans, wanted_fields(sensor, bands, source)):
            try:
                scene = parse_item(item, sensor, bands, source)
            except ItemError as error:
                platform, time = self._other_platform(key, item), time_of(item)
                reason = f"platform {platform}" if platform else str(error)
                lost.append(SceneOutcome(error.item_id, key, "", chosen=False, reason=reason, time=time))
                if not platform:
                    unusable.append(error)
                continue
            usable += 1
            if problem := self._why_no_candidate(scene, target):
                lost.append(SceneOutcome.lost(scene, key, "", problem))
            else:
                scenes[scene.id] = scene
        self.unusable[key] = unusable
        if unusable and not usable and not all(one.other_mode for one in unusable):
            items = frozenset(one.item_id for one in unusable)
            raise UnusableError(key, self._diagnosis(key, target, spans), items)
        return list(scenes.values())

    def _why_no_candidate(self, scene: Scene, target: BaseGeometry) -> str:
        if not scene.geometry.intersects(target):
            return _NOT_AT_TARGET
        if scene.id in self.config.catalog.exclude_items:
            return "in catalog.exclude_items"
        return self.lost[scene.id].reason if scene.id in self.lost else ""

    def _other_platform(self, key: str, item: Mapping[str, Any]) -> str:
        """Return an item's platform if it is none that is wanted: such a one may lack anything."""
        settings, properties = self.config.sensors[key], item.get("properties")
        if not isinstance(settings, LandsatConfig) or not isinstance(properties, Mapping):
            return ""
        platform = str(properties.get("platform") or "")
        return "" if as_platform(platform) in map(as_platform, settings.platforms) else platform

    def _diagnosis(self, key: str, target: BaseGeometry, spans: Iterable[TimeRange]) -> str:
        """Say why no item of a sensor can be used, after a look at all that they hold."""
        sensor, bands, source = self.config.table[key], self.config.bands(key), self.config.source(key)
        told, items = tell_unusable(self.unusable[key]), list[Mapping[str, Any]]()
        with contextlib.suppress(CatalogError):  # then the parts that were asked for must do
            items = [i for i in self._search(key, target, spans, ()) if not self._other_platform(key, i)]

        def errors(profile: SensorProfile) -> Iterator[ItemError]:
            for item in items:
                try:
                    parse_item(item, sensor, bands, profile)
                except ItemError as error:
                    yield error

        if found := tuple(errors(source.sensor)):
            told = tell_unusable(found)
            for name, other in PROFILES.items():
                if name != source.profile and other.offers(key) and not any(errors(other.sensor(key))):
                    told = f"{told}; they are as the profile {name} has them: set {key}.catalog"
                    break
        return f"{self.config.sensors[key].collection}: {told}"

    def _search(
        self, key: str, target: BaseGeometry, spans: Iterable[TimeRange], fields: tuple[str, ...]
    ) -> Iterator[dict[str, Any]]:
        collections = (self.config.sensors[key].collection,)
        for span in spans:
            yield from self.catalog.search(Query(collections, target, span, fields=fields, sensor=key))


def _merged(ranges: Iterable[TimeRange]) -> Iterator[TimeRange]:
    """Join ranges that follow each other within a day: a year's quarters are one search."""
    current: TimeRange | None = None
    for span in ranges:
        if current is not None and (span.start - current.end).total_seconds() <= 86_400:
            current = TimeRange(current.start, span.end)
            continue
        if current is not None:
            yield current
        current = span
    if current is not None:
        yield current


def _shared(acquisitions: Iterable[Acquisition]) -> BaseGeometry:
    """Return what every acquisition covers, EPSG:4326."""
    shared: BaseGeometry | None = None
    for acquisition in acquisitions:
        seen = acquisition.footprint
        shared = seen if shared is None else shared.intersection(seen)
    assert shared is not None
    return shared


def _require_area(shared: BaseGeometry) -> BaseGeometry:
    """Refuse scenes that miss each other or only touch; return what they share."""
    if shared.area == 0:
        raise Skipped("the chosen scenes share no ground; use aoi.extent: aoi")
    return shared


def _outline(bounds: Bounds, epsg: int, margin_m: float) -> BaseGeometry:
    """Return a lattice box with a margin, in EPSG:4326, its edges bent by the projection."""
    square = box(bounds.left, bounds.bottom, bounds.right, bounds.top).buffer(margin_m, join_style="mitre")
    return outline_to_lonlat(square.segmentize(bounds.width / 8), epsg)
