"""From an AOI to its plan: which searches are made, in which order, over which area."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from shapely import box, transform
from shapely.geometry.base import BaseGeometry

from cube.config.aoi import Aoi
from cube.config.fields import TimeRange
from cube.config.models import Config, Extent
from cube.config.sensor_models import (
    LandsatConfig,
    PeriodConfig,
    SensorConfig,
    Sentinel1Config,
    Sentinel2Config,
)
from cube.config.sensors import ChoiceRule
from cube.errors import GridError, ItemError
from cube.windows.grid import Bounds, aoi_bounds, overlap_bounds
from cube.windows.projection import local_equal_area, project, split_at_antimeridian, to_lonlat, utm_epsg

from .acquisition import Acquisition
from .catalog import Catalog, Query
from .choose import SceneSet, SensorChoice, choose_orbit, choose_path, choose_period, choose_tile
from .explain import SceneOutcome, Skipped
from .items import Scene, parse_item, wanted_fields
from .plan import CubePlan, plan_cube
from .swapped import suspecting_swapped

ClearShare = Callable[[Acquisition, BaseGeometry], float]
"""Measures the clear share (0 to 1) of a Sentinel-2 acquisition over an AOI."""

_MARGIN_PX = 2
"""Layers without dates are searched this far beyond the extent, pixels: the tiles of the elevation
model end half a pixel before the whole degree, and what lies there belongs to the next one."""

_NOT_AT_TARGET = "its record seems to go round the world; the item lies elsewhere, at the antimeridian"

_SERIES_ORDER = (ChoiceRule.TILE, ChoiceRule.ORBIT, ChoiceRule.PATH)
"""Sentinel-2 first: the others are chosen near its dates, and over its footprint."""


def plan_aoi(aoi: Aoi, config: Config, catalog: Catalog, clear_share: ClearShare | None = None) -> CubePlan:
    """Search and choose one AOI's scenes, and plan its cube.

    No pixel is read, but by `clear_share` for ``s2l2a.rank: aoi``, which needs it.

    Raises
    ------
    Skipped
        If the AOI cannot have one date per range and sensor; says what would have saved it.
    CatalogError
        If a search failed for good.
    """
    with suspecting_swapped(aoi, config, catalog):
        return _Planner(aoi, config, catalog, clear_share).plan()


@dataclass
class _Planner:
    aoi: Aoi
    config: Config
    catalog: Catalog
    clear_share: ClearShare | None

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
                    scenes = self._find(key, extent, (TimeRange.parse(settings.year),), (), lost)
                    choices[key] = choose_period(key, scenes, TimeRange.parse(settings.year))
        except Skipped as skipped:
            seen = [c for choice in choices.values() for c in choice.scenes_seen]
            raise Skipped(skipped.reason, (*seen, *skipped.scenes_seen, *lost)) from None
        scene_set = SceneSet(
            {key: tuple(a.scenes for a in choice.acquisitions) for key, choice in choices.items()},
            (*(c for choice in choices.values() for c in choice.scenes_seen), *lost),
        )
        return plan_cube(self.aoi.index, self.aoi.geometry, epsg, bounds, scene_set, self.config)

    def _series(self) -> list[str]:
        table = self.config.table
        return sorted(self.config.series, key=lambda key: _SERIES_ORDER.index(table[key].choice))

    def _choose_series(
        self, key: str, choices: dict[str, SensorChoice], lost: list[SceneOutcome]
    ) -> SensorChoice:
        settings = self.config.sensors[key]
        target = self._target(choices)
        ranges = self.config.ranges
        scenes = self._find(key, target, _merged(ranges), _conditions(settings), lost)
        if isinstance(settings, Sentinel2Config):
            return choose_tile(scenes, settings, ranges, target, self._measure(settings))
        anchors = self._anchors(choices)
        if isinstance(settings, Sentinel1Config):
            return choose_orbit(scenes, settings, ranges, target, anchors, key)
        assert isinstance(settings, LandsatConfig)
        return choose_path(scenes, settings, ranges, target, anchors, key)

    def _measure(self, settings: Sentinel2Config) -> Callable[[Acquisition], float] | None:
        if settings.rank != "aoi" or self.clear_share is None:
            return None
        measure = self.clear_share
        return lambda acquisition: measure(acquisition, self.aoi.geometry)

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
            shared = shared.intersection(_geometry_to_lonlat(square, crs))
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
        self,
        key: str,
        target: BaseGeometry,
        spans: Iterable[TimeRange],
        conditions: tuple[tuple[str, str, Any], ...],
        lost: list[SceneOutcome],
    ) -> list[Scene]:
        """Search one sensor; items that cannot be used are recorded in `lost` with the reason."""
        sensor, bands = self.config.table[key], self.config.bands(key)
        collection = self.config.sensors[key].collection
        scenes = {}
        for span in spans:
            query = Query((collection,), target, span, conditions, fields=wanted_fields(sensor, bands))
            for item in self.catalog.search(query):
                try:
                    scene = parse_item(item, sensor, bands)
                except ItemError as error:
                    lost.append(SceneOutcome(str(item.get("id")), key, "", chosen=False, reason=str(error)))
                    continue
                if scene.geometry.intersects(target):
                    scenes[scene.id] = scene
                else:
                    lost.append(SceneOutcome(scene.id, key, "", chosen=False, reason=_NOT_AT_TARGET))
        return list(scenes.values())


def _conditions(settings: SensorConfig) -> tuple[tuple[str, str, Any], ...]:
    """Narrow a search on the server where nothing that we want to report is lost by it."""
    if isinstance(settings, LandsatConfig):
        return (("platform", "in", list(settings.platforms)),)
    return ()


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
    return _geometry_to_lonlat(square.segmentize(bounds.width / 8), epsg)


def _geometry_to_lonlat(geometry: BaseGeometry, crs: int | str) -> BaseGeometry:
    return split_at_antimeridian(transform(geometry, to_lonlat(crs).transform, interleaved=False))
