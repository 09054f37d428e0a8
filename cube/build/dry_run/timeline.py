"""The scenes that were seen of an area, on a time line: a lane per tile, orbit or path."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from cube.config.fields import TimeRange
from cube.scenes.explain import SceneOutcome

_NUMBERED = re.compile(r"[^\s(]*\d[^\s,;)]*")
"""Words of a reason that differ from scene to scene: ids, dates, numbers."""


@dataclass(frozen=True)
class Mark:
    """A scene on a lane."""

    place: float
    """Along the time line, percent."""
    chosen: bool
    text: str
    """What a reader is told of it."""


@dataclass(frozen=True)
class Lane:
    """The scenes of one tile, orbit or path; those whose group is not known have one, too."""

    group: str
    chosen: bool
    marks: tuple[Mark, ...]
    """Those that were chosen last, so that they are drawn over the others."""


@dataclass(frozen=True)
class TimeLine:
    """From the start of the first time range to the end of the last."""

    ranges: Sequence[TimeRange]

    def place(self, time: datetime) -> float:
        """Return where a time lies, percent; what lies beyond is put at the end."""
        start, end = self.ranges[0].start, self.ranges[-1].end
        return round(100 * min(max((time - start) / (end - start), 0.0), 1.0), 2)

    @property
    def shades(self) -> list[tuple[float, float, str]]:
        """Start and width of each range, percent, and what it is called."""
        places = ((self.place(span.start), self.place(span.end), str(span)) for span in self.ranges)
        return [(start, round(end - start, 2), text) for start, end, text in places]

    def lanes(self, seen: Iterable[SceneOutcome]) -> list[Lane]:
        """Put the scenes of one sensor on lanes, that of the chosen group first."""
        groups: dict[str, list[SceneOutcome]] = defaultdict(list)
        for one in seen:
            if one.time is not None:
                groups[one.group].append(one)
        lanes = [
            Lane(
                group,
                any(one.chosen for one in members),
                tuple(
                    Mark(self.place(one.time), one.chosen, mark_text(one))
                    for one in sorted(members, key=lambda one: (one.chosen, one.time, one.id))
                    if one.time is not None
                ),
            )
            for group, members in groups.items()
        ]
        return sorted(lanes, key=lambda lane: (not lane.chosen, not lane.group, -len(lane.marks), lane.group))


def mark_text(outcome: SceneOutcome) -> str:
    """Say of a scene when it was taken, its id, and what became of it."""
    day = f"{outcome.time:%Y-%m-%d} " if outcome.time else ""
    return f"{day}{outcome.id}: {'chosen' if outcome.chosen else outcome.reason}"


def kind_of_loss(reason: str) -> str:
    """Return what is the same in the reasons of scenes that lost alike.

    Examples
    --------
    >>> kind_of_loss("cloud_cover 45.2 is not below 30")
    'cloud_cover ... is not below ...'
    >>> kind_of_loss("S2A_T31UDQ is less cloudy")
    '... is less cloudy'
    >>> kind_of_loss("orbit 44 covers as much (98 %) and is nearer in time")
    'orbit ... covers as much (... %) and is nearer in time'
    """
    return _NUMBERED.sub("...", reason)
