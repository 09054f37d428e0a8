"""Areas at a glance: how many are in which state, why, and what they do without.

A run ends with this view, and ``gelos-lc status`` shows it at any moment.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cube.run.command import counted, print_table, summarize_states
from cube.run.status import AoiState, AoiStatus

_SHOWN = 6
"""Areas of a group that are named; the record of all is ``aoi_metadata.geojson``."""
_ORDER = (AoiState.FAILED, AoiState.SKIPPED, AoiState.BUILDING, AoiState.PENDING, AoiState.BUILT)
_OF_ONE_FILE = (
    (re.compile(r"^block \S+: "), ""),
    (re.compile(r"\bitem \S+?(?:, asset \S+?)?: "), ""),
    (re.compile(r" \((?:\d+ found|\S+ lacks)\b.*$|: \d+ found, .*$"), ""),
    (re.compile(r"\d+(?:\.\d+)? (GB|MB|km|m)\b"), r"... \1"),
)
"""What a reason says of one block, item, scene count or size, and what stands for it in a group."""


def kind_of(reason: str) -> str:
    """Return what is the same in the reasons of areas that fell away alike.

    Examples
    --------
    >>> kind_of("block s2l2a/0/1-0: item S2A_31UDQ, asset B02: the file cannot be decoded")
    'the file cannot be decoded'
    >>> kind_of("lc2l2: no scene for 2023-01-01/2023-03-31 (7 found, 7 over cloud_cover 50)")
    'lc2l2: no scene for 2023-01-01/2023-03-31'
    """
    for pattern, words in _OF_ONE_FILE:
        reason = pattern.sub(words, reason)
    return reason


@dataclass(frozen=True)
class AreaGroup:
    """Areas in one state for reasons of one kind."""

    state: AoiState
    kind: str
    rows: Mapping[int, AoiStatus]
    """By AOI index."""

    @property
    def reason(self) -> str:
        """What to tell: the reason itself, or the kind and what the first area has beside it."""
        first = next(iter(self.rows.values())).reason
        if len({row.reason for row in self.rows.values()}) == 1:
            return first
        return f"{self.kind}; such as: {first.removeprefix(self.kind).strip()}"

    @property
    def labels(self) -> str:
        """The first few areas by number and name, and how many more there are."""
        return _few([row.label(index) for index, row in self.rows.items()])

    def to_json(self) -> dict[str, Any]:
        """Return the group as plain JSON."""
        facts = {"state": str(self.state), "count": len(self.rows), "reason": self.kind}
        return {**facts, "aois": list(self.rows)}


def group_areas(rows: Mapping[int, AoiStatus]) -> list[AreaGroup]:
    """Group areas by state, then by kind of reason, the largest group of a state first."""
    found: dict[tuple[AoiState, str], dict[int, AoiStatus]] = defaultdict(dict)
    for index, row in sorted(rows.items()):
        kind = "" if row.status is AoiState.BUILT else kind_of(row.reason)
        found[row.status, kind][index] = row
    groups = [AreaGroup(state, kind, members) for (state, kind), members in found.items()]
    return sorted(groups, key=lambda one: (_ORDER.index(one.state), -len(one.rows), one.kind))


def lost_scenes(rows: Mapping[int, AoiStatus]) -> list[dict[str, Any]]:
    """Return the scenes that areas do without: item, asset, cause, and the areas' indices."""
    areas: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    for index, row in sorted(rows.items()):
        for scene in row.lost:
            areas[scene["item"], scene["asset"], scene["cause"]].append(index)
    return [
        {"item": item, "asset": asset, "cause": cause, "aois": indices}
        for (item, asset, cause), indices in sorted(areas.items())
    ]


def print_areas(rows: Mapping[int, AoiStatus], fetched_blocks: int | None = None) -> None:
    """Print areas by state and reason, the scenes that they do without, and a line of sums.

    Parameters
    ----------
    fetched_blocks
        What a run fetched, at its end.
    """
    groups = [
        [len(one.rows), _state_text(one), one.labels, one.reason if one.kind else ""]
        for one in group_areas(rows)
    ]
    print_table("Areas", ["count", "state", "AOI", "reason"], groups)
    if lost := lost_scenes(rows):
        named = [
            [one["item"], one["asset"], one["cause"], _few([f"{index:06}" for index in one["aois"]])]
            for one in lost
        ]
        print_table("Lost scenes", ["item", "asset", "cause", "AOI without it"], named)
    fetched = "" if fetched_blocks is None else f"; {counted(fetched_blocks, 'block')} fetched"
    print(f"{summarize_states(rows)}{fetched}")
    for line in _findings(rows, lost):
        print(line)


def areas_json(rows: Mapping[int, AoiStatus]) -> dict[str, Any]:
    """Return the same as plain JSON."""
    counts = Counter(row.status for row in rows.values())
    return {
        "areas": {"total": len(rows), **{str(state): counts[state] for state in AoiState}},
        "groups": [one.to_json() for one in group_areas(rows)],
        "lost": lost_scenes(rows),
    }


def _findings(rows: Mapping[int, AoiStatus], lost: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Say of cubes what their state does not: scenes that were lost, pixels that are not there."""
    if lost:
        verb = "is" if len(lost) == 1 else "are"
        yield (
            f"{counted(len(lost), 'scene')} {verb} lost, the files missing or broken; other scenes stand in, "
            "and --recheck-lost asks again"
        )
    for index, row in rows.items():
        if row.status is AoiState.BUILT and row.reason:
            yield f"warning: AOI {row.label(index)} holds fewer pixels than its scenes promise: {row.reason}"


def _state_text(group: AreaGroup) -> str:
    if group.state is AoiState.PENDING and (begun := sum(row.done > 0 for row in group.rows.values())):
        return f"{group.state}, {begun} of them begun"
    if group.state is not AoiState.BUILDING:
        return str(group.state)
    done = sum(row.done for row in group.rows.values()) / len(group.rows)
    return f"{group.state}, {100 * done:.0f} % done"


def _few(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
