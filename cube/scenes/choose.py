"""Which scenes make a cube: pure functions from scenes to a choice, with reasons for all that lost.

All three sensors with dates follow one scheme. Items become *acquisitions* (what one overpass saw
of the target), acquisitions belong to a *group* (an MGRS tile, a relative orbit, a WRS path), and
one group must give one acquisition for every time range. The group that covers the target best
wins; the next one is tried when it cannot fill all ranges. What differs between the sensors is
which acquisitions are eligible, and in which order they are preferred: that is each one's
:class:`cube.scenes.acquisition.Rule`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from shapely.geometry.base import BaseGeometry

from cube.config.fields import TimeRange
from cube.config.sensor_models import LandsatConfig, Sentinel1Config, Sentinel2Config

from .acquisition import Acquisition, Rejection, Rule, acquire
from .explain import Explanation, Found, SceneOutcome, Skipped, least_coverage
from .facts import as_platform
from .items import Scene

_TWIN_OVERLAP = 0.5
"""Two items of one datatake, tile and baseline that share more of the smaller one are copies, not
halves."""
_RANK_BEST_FEW = 4
"""How many of a range's least cloudy scenes are looked at when they are ranked over the AOI."""


@dataclass(frozen=True)
class SensorChoice:
    """What was chosen for one sensor."""

    group: str
    acquisitions: tuple[Acquisition, ...]
    """One per time range."""
    scenes_seen: tuple[SceneOutcome, ...]


@dataclass(frozen=True)
class SceneSet:
    """The items chosen for one AOI: by sensor, one tuple per time step, in mosaic order."""

    chosen: Mapping[str, tuple[tuple[Scene, ...], ...]]
    scenes_seen: tuple[SceneOutcome, ...]


def choose_tile(
    scenes: Iterable[Scene],
    settings: Sentinel2Config,
    ranges: Sequence[TimeRange],
    target: BaseGeometry,
    clear_share: Callable[[Acquisition], float] | None = None,
) -> SensorChoice:
    """Choose one Sentinel-2 scene per time range, all of one MGRS tile, least cloudy first.

    Parameters
    ----------
    settings
        ``cloud_cover`` and ``nodata_pixel_percentage`` are strict upper limits, percent.
    target
        What must be covered, EPSG:4326.
    clear_share
        For ``rank: aoi``: measures the clear share (0 to 1) of an acquisition over the AOI.

    Raises
    ------
    Skipped
        If no tile has a scene for every range.
    """

    def eligible(one: Acquisition, _: int) -> Rejection | None:
        if one.nodata >= settings.nodata_pixel_percentage:
            return Rejection("nodata_pixel_percentage", one.nodata, settings.nodata_pixel_percentage)
        if one.has_cloud_cover and one.cloud_cover >= settings.cloud_cover:
            return Rejection("cloud_cover", one.cloud_cover, settings.cloud_cover)
        return None

    kept, superseded = _newest_baselines(scenes)
    acquisitions = acquire(kept, target, _tile, _datatake)
    rule = Rule(
        "s2l2a",
        "tile",
        _tile,
        eligible,
        lambda one, _: (not (one.has_cloud_cover and one.has_nodata), one.cloud_cover, one.time, one.name),
        "less cloudy",
        _mean_cloud_cover,
        "is less cloudy on average",
    )
    if clear_share is not None:
        rule = _ranked_over_aoi(rule, acquisitions, ranges, clear_share)
    return _choose(rule, acquisitions, ranges, rejected=(), lost=superseded)


def _ranked_over_aoi(
    rule: Rule,
    acquisitions: Sequence[Acquisition],
    ranges: Sequence[TimeRange],
    clear_share: Callable[[Acquisition], float],
) -> Rule:
    """Prefer, of each range's least cloudy few, the clearest over the AOI; the rest come after."""
    shares: dict[tuple[str, str], float] = {}
    for index, span in enumerate(ranges):
        for group in sorted({one.group for one in acquisitions}):
            found = [a for a in acquisitions if a.group == group and span.start <= a.time <= span.end]
            found = [a for a in found if rule.eligible(a, index) is None]
            for one in sorted(found, key=lambda a: rule.preference(a, index))[:_RANK_BEST_FEW]:
                shares[one.group, one.name] = clear_share(one)

    def preference(one: Acquisition, index: int) -> tuple[Any, ...]:
        return (-shares.get((one.group, one.name), -1.0), *rule.preference(one, index))

    return replace(rule, preference=preference, preferred="clearer over the AOI")


def choose_orbit(
    scenes: Iterable[Scene],
    settings: Sentinel1Config,
    ranges: Sequence[TimeRange],
    target: BaseGeometry,
    anchors: Sequence[datetime],
    sensor: str = "s1rtc",
) -> SensorChoice:
    """Choose one Sentinel-1 pass per time range, of one relative orbit, nearest to the anchors.

    A pass that sees less of the target by a tenth or more comes after one that sees it whole (a
    slice may be missing).

    Parameters
    ----------
    settings
        ``delta_days`` is an upper limit that may be reached.
    target
        What must be covered, EPSG:4326.
    anchors
        Times to be near, one per range: those of the Sentinel-2 scenes.

    Raises
    ------
    Skipped
        If no orbit has a pass for every range.
    """

    def days(one: Acquisition, index: int) -> float:
        return abs((one.time - anchors[index]).total_seconds()) / 86_400

    def eligible(one: Acquisition, index: int) -> Rejection | None:
        distance = days(one, index)
        if distance > settings.delta_days:
            return Rejection("delta_days", distance, settings.delta_days, strict=False)
        return None

    rule = Rule(
        sensor,
        "orbit",
        _orbit,
        eligible,
        lambda one, index: (-round(one.coverage, 1), days(one, index), one.time, one.name),
        "nearer in time, or covers more",
        lambda picks: sum(days(one, index) for index, one in enumerate(picks)),
        "is nearer in time",
    )
    return _choose(rule, acquire(scenes, target, _orbit, _platform), ranges)


def choose_path(
    scenes: Iterable[Scene],
    settings: LandsatConfig,
    ranges: Sequence[TimeRange],
    target: BaseGeometry,
    anchors: Sequence[datetime],
    sensor: str = "lc2l2",
) -> SensorChoice:
    """Choose one Landsat date per time range, all of one WRS path, least cloudy first.

    Tier 1 comes before Tier 2, and a date that sees a tenth more of the target before one that sees
    less (a row may be missing, or be over the cloud limit).

    Parameters
    ----------
    settings
        ``delta_days`` is an upper limit that may be reached; ``cloud_cover`` is a strict one for
        each scene, percent.
    target
        What must be covered, EPSG:4326.
    anchors
        Times that ``delta_days`` counts from, one per range: those of the Sentinel-2 scenes.

    Raises
    ------
    Skipped
        If no path has a date for every range.
    """

    def eligible(one: Acquisition, index: int) -> Rejection | None:
        distance = abs((one.time - anchors[index]).total_seconds()) / 86_400
        if distance > settings.delta_days:
            return Rejection("delta_days", distance, settings.delta_days, strict=False)
        return None

    platforms = {as_platform(name) for name in settings.platforms}
    named: list[Scene] = []
    others: list[Scene] = []
    for scene in scenes:
        (named if _platform(scene) in platforms else others).append(scene)
    clear = [s for s in named if not s.has_cloud_cover or s.cloud_cover < settings.cloud_cover]
    cloudy = [
        (scene, Rejection("cloud_cover", scene.cloud_cover, settings.cloud_cover))
        for scene in named
        if scene.has_cloud_cover and scene.cloud_cover >= settings.cloud_cover
    ]
    rule = Rule(
        sensor,
        "path",
        _path,
        eligible,
        lambda one, _: (
            not one.has_cloud_cover,
            one.tier,
            -round(one.coverage, 1),
            one.cloud_cover,
            one.time,
            one.name,
        ),
        "of a better tier, covers more, or is less cloudy",
        _mean_cloud_cover,
        "is less cloudy on average",
    )
    other = [
        SceneOutcome.lost(s, sensor, _path(s), f"platform {s.properties.get('platform')}") for s in others
    ]
    return _choose(rule, acquire(clear, target, _path, _platform), ranges, rejected=cloudy, lost=other)


def choose_period(sensor: str, scenes: Iterable[Scene], period: TimeRange) -> SensorChoice:
    """Choose every item of a period that touches the extent, for a layer without dates.

    An item whose time is a span counts if it shares more than an instant with the period: the
    land-cover map of one year ends where the next begins.

    Parameters
    ----------
    scenes
        Those found, all touching the extent.
    period
        The config's ``year``.

    Raises
    ------
    Skipped
        If there is none.
    """
    chosen: list[Scene] = []
    lost: list[Scene] = []
    for scene in sorted(scenes, key=lambda s: s.order):
        (chosen if _shares_time(scene, period) else lost).append(scene)
    scenes_seen = [
        *(SceneOutcome(s.id, sensor, "", chosen=True, reason="", time=s.datetime) for s in chosen),
        *(SceneOutcome.lost(s, sensor, "", f"not within {period}") for s in lost),
    ]
    if not chosen:
        raise Skipped(f"{sensor}: no item for {period} touches the extent", tuple(scenes_seen))
    whole = Acquisition("", tuple(chosen), 1.0, 0.0)
    return SensorChoice("", (whole,), tuple(scenes_seen))


def _shares_time(scene: Scene, period: TimeRange) -> bool:
    if scene.start == scene.end:
        return period.start <= scene.start <= period.end
    return scene.start < period.end and scene.end > period.start


def _tile(scene: Scene) -> str:
    return str(scene.properties.get("s2:mgrs_tile", ""))


def _orbit(scene: Scene) -> str:
    return f"{int(scene.properties.get('sat:relative_orbit', 0)):03}"


def _path(scene: Scene) -> str:
    return str(scene.properties.get("landsat:wrs_path", "")).zfill(3)


def _platform(scene: Scene) -> str:
    return as_platform(str(scene.properties.get("platform", "")))


def _datatake(scene: Scene) -> str:
    """Return the datatake without its baseline: ``GS2B_20240419T095549_037185``."""
    identity = str(scene.properties.get("s2:datatake_id", ""))
    return identity.rpartition("_N")[0] or f"{_platform(scene)}_{scene.datetime:%Y%m%dT%H%M%S}"


def _newest_baselines(scenes: Iterable[Scene]) -> tuple[list[Scene], list[SceneOutcome]]:
    """Keep the newest processing of each Sentinel-2 datatake and tile; its halves stay."""
    twins: dict[tuple[str, str], list[Scene]] = defaultdict(list)
    for scene in scenes:
        twins[_tile(scene), _datatake(scene)].append(scene)
    kept, lost = [], []
    for group in twins.values():
        newest: list[Scene] = []
        for scene in sorted(group, key=_processing, reverse=True):
            if newest and (_baseline(scene) != _baseline(newest[0]) or _is_copy(scene, newest)):
                reason = f"{newest[0].id} is a newer processing of the same datatake"
                lost.append(SceneOutcome.lost(scene, "s2l2a", _tile(scene), reason))
            else:
                newest.append(scene)
        kept.extend(newest)
    return kept, lost


def _baseline(scene: Scene) -> str:
    return str(scene.properties.get("s2:processing_baseline", ""))


def _processing(scene: Scene) -> tuple[str, str, str]:
    return (_baseline(scene), str(scene.properties.get("s2:generation_time", "")), scene.id)


def _is_copy(scene: Scene, others: Sequence[Scene]) -> bool:
    def shared(other: Scene) -> float:
        smaller = min(scene.geometry.area, other.geometry.area)
        return scene.geometry.intersection(other.geometry).area / smaller if smaller else 1.0

    return any(shared(other) > _TWIN_OVERLAP for other in others)


def _choose(
    rule: Rule,
    acquisitions: Sequence[Acquisition],
    ranges: Sequence[TimeRange],
    rejected: Sequence[tuple[Scene, Rejection]] = (),
    lost: Sequence[SceneOutcome] = (),
) -> SensorChoice:
    """Fill every range from one group, the one that covers the target best."""
    picks: dict[str, dict[int, Acquisition]] = defaultdict(dict)
    reasons: dict[str, str] = {scene.id: rejection.reason for scene, rejection in rejected}
    found: list[Found] = [defaultdict(list) for _ in ranges]
    for index, span in enumerate(ranges):
        for scene, why in rejected:
            if span.start <= scene.datetime <= span.end:
                found[index][rule.group_of(scene)].append(why)
        for one in acquisitions:
            if not span.start <= one.time <= span.end:
                continue
            rejection = rule.eligible(one, index)
            found[index][one.group] += [rejection] * len(one.scenes)
            if rejection is not None:
                reasons |= {scene.id: rejection.reason for scene in one.scenes}
                continue
            best = picks[one.group].get(index)
            if best is None or rule.preference(one, index) < rule.preference(best, index):
                picks[one.group][index] = one
    complete = {
        group: tuple(by_range[index] for index in range(len(ranges)))
        for group, by_range in picks.items()
        if len(by_range) == len(ranges)
    }
    winner = min(complete, key=lambda group: _group_order(rule, group, complete[group]), default=None)
    explain = Explanation(rule, ranges, picks, complete, winner, reasons)
    scenes_seen = (*explain.outcomes(acquisitions), *_refused(rule, rejected), *lost)
    if winner is None:
        raise Skipped(f"{rule.sensor}: {explain.what_is_missing(found)}", scenes_seen)
    return SensorChoice(winner, complete[winner], scenes_seen)


def _group_order(rule: Rule, group: str, picks: Sequence[Acquisition]) -> tuple[Any, ...]:
    return (-round(100 * least_coverage(picks)), round(rule.tie(picks), 9), group)


def _refused(rule: Rule, rejected: Sequence[tuple[Scene, Rejection]]) -> list[SceneOutcome]:
    return [
        SceneOutcome.lost(scene, rule.sensor, rule.group_of(scene), why.reason) for scene, why in rejected
    ]


def _mean_cloud_cover(picks: Sequence[Acquisition]) -> float:
    """Return the mean, percent; one that is not known counts as all cloud."""
    return sum(one.cloud_cover if one.has_cloud_cover else 100.0 for one in picks) / len(picks)
