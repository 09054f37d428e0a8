"""What became of every scene that was seen, and what would have saved a skipped AOI, in words."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cube.config.fields import TimeRange
from cube.errors import ItemError

from .acquisition import Acquisition, Rejection, Rule
from .items import Scene, isoformat, parse_time

_TOLD = 3
"""Causes that are told of items that cannot be used; the record of scenes seen has all."""


@dataclass(frozen=True)
class SceneOutcome:
    """What became of one scene that was seen: chosen, or lost for a reason."""

    id: str
    sensor: str
    group: str
    """MGRS tile, relative orbit or WRS path."""
    chosen: bool
    reason: str
    time: datetime | None = None
    """When it was taken, UTC; None where its item does not tell, and in plans kept before this was
    recorded."""

    @classmethod
    def lost(cls, scene: Scene, sensor: str, group: str, reason: str) -> SceneOutcome:
        """Return the outcome of a scene that was passed over."""
        return cls(scene.id, sensor, group, chosen=False, reason=reason, time=scene.datetime)

    def to_json(self) -> dict[str, Any]:
        """Return the record as plain JSON."""
        return {
            "id": self.id,
            "sensor": self.sensor,
            "group": self.group,
            "chosen": self.chosen,
            "reason": self.reason,
            **({"time": isoformat(self.time)} if self.time else {}),
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> SceneOutcome:
        """Read back what :meth:`to_json` wrote."""
        time = record.get("time")
        return cls(**{**record, "time": parse_time(time) if time else None})


class Skipped(Exception):  # noqa: N818  an outcome of choosing, not a failure of the program
    """An AOI cannot have one date per range and sensor; says what would have saved it."""

    def __init__(self, reason: str, scenes_seen: tuple[SceneOutcome, ...] = ()) -> None:
        super().__init__(reason)
        self.reason, self.scenes_seen = reason, scenes_seen


Found = Mapping[str, list[Rejection | None]]
"""What was found for one time range, by group: what each scene breaks, None for those that were
eligible."""


def least_coverage(picks: Iterable[Acquisition]) -> float:
    """Return the smallest share of the target that any of a group's picks covers."""
    return min(one.coverage for one in picks)


@dataclass(frozen=True)
class Explanation:
    """Says why scenes lost, and what a sensor without a full set of dates lacks."""

    rule: Rule
    ranges: Sequence[TimeRange]
    picks: Mapping[str, Mapping[int, Acquisition]]
    complete: Mapping[str, Sequence[Acquisition]]
    winner: str | None
    reasons: Mapping[str, str]

    def outcomes(self, acquisitions: Sequence[Acquisition]) -> list[SceneOutcome]:
        """Return what became of every scene that reached the choice."""
        chosen = {id(one) for one in self.complete.get(self.winner or "", ())}
        return [
            SceneOutcome(
                scene.id,
                self.rule.sensor,
                one.group,
                chosen=id(one) in chosen,
                reason="" if id(one) in chosen else self.reasons.get(scene.id) or self._lost(one),
                time=scene.datetime,
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


def tell_unusable(errors: Sequence[ItemError]) -> str:
    """Say how many items cannot be used, and why.

    Examples
    --------
    >>> tell_unusable([ItemError("has no s2:mgrs_tile", str(n)) for n in range(3)])
    '3 found, 3 unusable: no s2:mgrs_tile'
    >>> tell_unusable([ItemError("was taken in HH", "a"), ItemError("has no orbit", "b")])
    '2 found, 2 unusable: 1 taken in HH; 1 no orbit'
    """
    causes = Counter(error.cause.removeprefix("has ").removeprefix("was ") for error in errors)
    told = [f"{count} {cause}" if len(causes) > 1 else cause for cause, count in causes.most_common(_TOLD)]
    further = f"; {len(causes) - _TOLD} other causes" if len(causes) > _TOLD else ""
    return f"{len(errors)} found, {len(errors)} unusable: {'; '.join(told)}{further}"
