"""Why a scene was chosen or lost, and what would have saved an AOI, in words."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

from shapely import union_all
from shapely.geometry.base import BaseGeometry

from cube.config.fields import TimeRange

from .items import Scene


@dataclass(frozen=True)
class Candidate:
    """One scene that was seen, and what became of it."""

    id: str
    sensor: str
    group: str
    """MGRS tile, relative orbit or WRS path."""
    chosen: bool
    reason: str

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON."""
        return {
            "id": self.id,
            "sensor": self.sensor,
            "group": self.group,
            "chosen": self.chosen,
            "reason": self.reason,
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Candidate:
        """Read back what :meth:`to_json` wrote."""
        return cls(**record)


class Skipped(Exception):  # noqa: N818  an outcome of choosing, not a failure of the program
    """An AOI cannot have one date per range and sensor; says what would have saved it."""

    def __init__(self, reason: str, candidates: tuple[Candidate, ...] = ()) -> None:
        super().__init__(reason)
        self.reason, self.candidates = reason, candidates


@dataclass(frozen=True)
class Acquisition:
    """What one overpass saw of the target: one scene, or the slices or rows that are mosaicked."""

    group: str
    scenes: tuple[Scene, ...]
    coverage: float
    """Share of the target within the footprints, 0 to 1."""
    cloud_cover: float
    """Percent; weighted by area where there are several scenes."""
    nodata: float = 0.0
    """Percent of the tile without data."""
    tier: int = 1

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


Found = Mapping[str, list[Rejection | None]]
"""What was found for one time range, by group: what each scene breaks, None for those that were
eligible."""


@dataclass(frozen=True)
class Rule:
    """How one sensor chooses; `index` is that of a time range."""

    sensor: str
    noun: str
    """What a group is called."""
    group_of: Callable[[Scene], str]
    """Name of a scene's group."""
    eligible: Callable[[Acquisition, int], Rejection | None]
    preference: Callable[[Acquisition, int], tuple[Any, ...]]
    """Smallest wins."""
    preferred: str
    """What the preference is, for the reasons of those that lost."""
    tie: Callable[[Sequence[Acquisition]], float]
    """Tells groups apart that cover the target equally; smaller wins."""
    tie_words: str
    """What the tie is, for the reasons of groups that lost by it."""


def least_coverage(picks: Iterable[Acquisition]) -> float:
    """Return the smallest share of the target that any of a group's picks covers."""
    return min(one.coverage for one in picks)


@dataclass(frozen=True)
class Explanation:
    """Puts an outcome into words."""

    rule: Rule
    ranges: Sequence[TimeRange]
    picks: Mapping[str, Mapping[int, Acquisition]]
    complete: Mapping[str, Sequence[Acquisition]]
    winner: str | None
    reasons: Mapping[str, str]

    def candidates(self, acquisitions: Sequence[Acquisition]) -> list[Candidate]:
        """Return a record of every scene that reached the choice."""
        chosen = {id(one) for one in self.complete.get(self.winner or "", ())}
        return [
            Candidate(
                scene.id,
                self.rule.sensor,
                one.group,
                chosen=id(one) in chosen,
                reason="" if id(one) in chosen else self.reasons.get(scene.id) or self._lost(one),
            )
            for one in acquisitions
            for scene in one.scenes
        ]

    def _lost(self, one: Acquisition) -> str:
        index = next((i for i, r in enumerate(self.ranges) if r.start <= one.time <= r.end), None)
        if index is None:
            return "outside every time range"
        best = self.picks[one.group][index]
        if best is not one:
            return f"{best.name} is {self.rule.preferred}"
        noun = self.rule.noun
        if one.group not in self.complete:
            missing = next(r for i, r in enumerate(self.ranges) if i not in self.picks[one.group])
            return f"{noun} {one.group} has nothing for {missing}"
        assert self.winner is not None
        best_of, of_mine = (
            f"{100 * least_coverage(self.complete[g]):.0f} %" for g in (self.winner, one.group)
        )
        if best_of == of_mine:
            return f"{noun} {self.winner} covers as much ({best_of}) and {self.rule.tie_words}"
        return f"{noun} {self.winner} covers {best_of} of the target, {one.group} {of_mine}"

    def what_is_missing(self, found: Sequence[Found]) -> str:
        """Say for which range nothing is left, what was found there, and what would admit one."""
        for index, span in enumerate(self.ranges):
            if any(index in by_range for by_range in self.picks.values()):
                continue
            return f"no scene for {span} ({_tally(itertools.chain(*found[index].values()))})"
        noun = self.rule.noun
        lacks = [f"{group} lacks {self.ranges[self._missing(group)[0]]}" for group in sorted(self.picks)]
        nearest = min(self.picks, key=lambda group: self._distance(group, found))
        saves = [
            f"{nearest}, {self.ranges[index]}: {_tally(found[index].get(nearest, ()))}"
            for index in self._missing(nearest)
        ]
        return f"no {noun} has a scene for every range ({', '.join(lacks)}); {'; '.join(saves)}"

    def _missing(self, group: str) -> list[int]:
        return [index for index in range(len(self.ranges)) if index not in self.picks[group]]

    def _distance(self, group: str, found: Sequence[Found]) -> tuple[Any, ...]:
        """Order groups by how little would have saved them: a wider limit, for few ranges."""
        missing = self._missing(group)
        hopeless = sum(not found[index].get(group) for index in missing)
        return (hopeless, len(missing), -least_coverage(self.picks[group].values()), group)


def _tally(found: Iterable[Rejection | None]) -> str:
    rejections = list(found)
    parts = [f"{len(rejections)} found"]
    by_limit: dict[str, list[Rejection]] = defaultdict(list)
    for rejection in rejections:
        if rejection is not None:
            by_limit[rejection.limit].append(rejection)
    for limit, broken in by_limit.items():
        admits = min(rejection.admits for rejection in broken)
        parts.append(f"{len(broken)} over {limit} {broken[0].allowed:g}; {admits:g} would admit one")
    return ", ".join(parts)
