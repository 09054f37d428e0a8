"""The scenes that were seen of an area, on a time line: a lane per tile, orbit or path."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from cube.config.fields import TimeRange
from cube.scenes.explain import SceneOutcome

_KINDS = tuple(
    (re.compile(pattern), words)
    for pattern, words in (
        (r"^item \S+ (?=was taken)", ""),
        (r"^(\w+) [\d.]+ is (?=not below|more than)", r"\1 is "),
        (r"^(\w+) \S+ has nothing for \S+$", r"its \1 has nothing for one of the time ranges"),
        (r"^(\w+) \S+ covers \S+ % of the target, .*$", r"another \1 covers more of the target"),
        (r"^(\w+) \S+ covers as much \([^)]*\)", r"another \1 covers as much"),
        (r"^(?=platform \S+$)", "of "),
        (r"^\S*\d\S* is ", "another scene is "),
    )
)
"""What a reason says of one scene, and what stands for it in what is said of many."""
_NUMBERED = re.compile(r"[^\s(]*\d[^\s,;)]*")
"""Words of any other reason that differ from scene to scene: ids, dates, numbers."""


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
    'cloud_cover is not below 30'
    >>> kind_of_loss("S2A_T31UDQ is less cloudy")
    'another scene is less cloudy'
    >>> kind_of_loss("tile 33UTR covers 38 % of the target, 33UUR 34 %")
    'another tile covers more of the target'
    >>> kind_of_loss("item S2A_T31UDQ has no B04.tif")
    'item ... has no ...'
    """
    for pattern, words in _KINDS:
        kind, found = pattern.subn(words, reason)
        if found:
            return kind
    return _NUMBERED.sub("...", reason)
