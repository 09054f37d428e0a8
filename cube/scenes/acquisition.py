"""What one overpass saw of a target, and the rule by which a sensor prefers one to another."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any

from shapely import union_all
from shapely.geometry.base import BaseGeometry

from cube.windows.projection import local_equal_area, project

from .items import Scene

_SAME_PASS = timedelta(minutes=10)
"""Items of one platform and track that lie closer in time belong to one overpass (a slice takes
25 s, a row 24 s)."""
_TIERS = {"T1": 1.0, "T2": 2.0}
_OTHER_TIER = 1.5


@dataclass(frozen=True)
class Acquisition:
    """What one overpass saw of a target: one scene, or the slices or rows that are mosaicked."""

    group: str
    scenes: tuple[Scene, ...]
    coverage: float
    """Share of the target within the footprints, 0 to 1."""
    cloud_cover: float
    """Percent; weighted by area where there are several scenes."""
    nodata: float = 0.0
    """Percent of the tile without data; what is not known counts as 0."""
    tier: float = 1
    """The worst of its scenes: 1, 2, or between them where one has neither."""
    has_cloud_cover: bool = True
    has_nodata: bool = True
    """False where some scene does not say how cloudy it is, or how much is without data: the last
    choice."""

    @cached_property
    def time(self) -> datetime:
        """Time of the first scene."""
        return self.scenes[0].datetime

    @property
    def footprint(self) -> BaseGeometry:
        """What all its scenes see together, EPSG:4326."""
        return union_all([scene.geometry for scene in self.scenes])

    @property
    def name(self) -> str:
        """How the acquisition is called in reasons."""
        return self.scenes[0].id if len(self.scenes) == 1 else f"{self.time:%Y-%m-%d}"


@dataclass(frozen=True)
class Rejection:
    """A limit that an acquisition or scene breaks."""

    limit: str
    """The config key's last word, such as cloud_cover."""
    value: float
    allowed: float
    strict: bool = True

    @property
    def reason(self) -> str:
        """Which limit it breaks, and by how much."""
        relation = "not below" if self.strict else "more than"
        return f"{self.limit} {self.value:.4g} is {relation} {self.allowed:g}"

    @property
    def admits(self) -> float:
        """Return the smallest limit of one decimal that would have let it through."""
        step = math.floor(self.value * 10) / 10 + 0.1 if self.strict else math.ceil(self.value * 10) / 10
        return round(step, 1)


@dataclass(frozen=True)
class Rule:
    """How one sensor chooses among acquisitions; functions are told the index of the time range."""

    sensor: str
    noun: str
    """Word for a group: tile, orbit or path."""
    group_of: Callable[[Scene], str]
    """Name of a scene's group."""
    eligible: Callable[[Acquisition, int], Rejection | None]
    preference: Callable[[Acquisition, int], tuple[Any, ...]]
    """Sort key of an acquisition; the smallest wins."""
    preferred: str
    """What the preference is, for the reasons of those that lost."""
    tie: Callable[[Sequence[Acquisition]], float]
    """Tells groups apart that cover the target equally; smaller wins."""
    tie_words: str
    """What the tie is, for the reasons of groups that lost by it."""


def acquire(
    scenes: Iterable[Scene],
    target: BaseGeometry,
    group_of: Callable[[Scene], str],
    track_of: Callable[[Scene], str],
) -> list[Acquisition]:
    """Put the scenes of one overpass together; those that miss the target are left out."""
    crs = local_equal_area(target)
    area = project(target, crs)
    tracks: dict[tuple[str, str], list[tuple[Scene, BaseGeometry]]] = defaultdict(list)
    for scene in sorted(scenes, key=lambda s: s.order):
        seen = project(scene.geometry, crs).intersection(area)
        if not seen.is_empty:
            tracks[group_of(scene), track_of(scene)].append((scene, seen))
    found = []
    for (group, _), members in sorted(tracks.items(), key=lambda item: item[0]):
        overpass: list[tuple[Scene, BaseGeometry]] = []
        for member in members:
            if overpass and member[0].datetime - overpass[-1][0].datetime > _SAME_PASS:
                found.append(_acquisition(group, overpass, area))
                overpass = []
            overpass.append(member)
        found.append(_acquisition(group, overpass, area))
    return found


def _acquisition(
    group: str, members: Sequence[tuple[Scene, BaseGeometry]], target: BaseGeometry
) -> Acquisition:
    scenes = tuple(scene for scene, _ in members)
    weights = [max(seen.area, 1e-9) for _, seen in members]
    valid = [100.0 - float(s.properties.get("s2:nodata_pixel_percentage", 0.0)) for s in scenes]
    return Acquisition(
        group=group,
        scenes=scenes,
        coverage=min(union_all([seen for _, seen in members]).area / target.area, 1.0),
        cloud_cover=_weighted_mean([s.cloud_cover for s in scenes], weights),
        nodata=max(100.0 - sum(valid), 0.0),
        has_cloud_cover=all(scene.has_cloud_cover for scene in scenes),
        has_nodata=all(scene.has_nodata for scene in scenes),
        tier=max(
            _TIERS.get(s.properties.get("landsat:collection_category", ""), _OTHER_TIER) for s in scenes
        ),
    )


def _weighted_mean(values: Sequence[float], weights: Sequence[float]) -> float:
    """Return the mean; of equal values exactly that one, since a strict limit is asked of it."""
    least = min(values)
    return least + sum(w * (v - least) for v, w in zip(values, weights, strict=True)) / sum(weights)
