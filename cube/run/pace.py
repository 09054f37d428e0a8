"""How fast work goes of late, and how long what is left will take."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from datetime import timedelta

from .status import AoiState, AoiStatus

_LATE_SHARE = 0.2
_LEAST_S, _MOST_S = 60.0, 1800.0
"""What counts as late: the last fifth of the run so far, but at least a minute, at most half an
hour. Workers that join, or a store that slows down, are in the figure soon after."""
_LEAST_MOVES = 20
"""Moves that are counted, however long ago: a few large blocks tell little."""
_WAIT_S, _WAIT_GAPS = 60.0, 10.0
"""Nothing for so long, and for so many usual gaps between two moves: the run waits. A network that
is gone for an hour makes the rest no slower."""
_KNOWN_MOVES = 5
"""Moves after which it is known what is usual."""


def duration_text(seconds: float) -> str:
    """Return a time as people read it.

    Examples
    --------
    >>> duration_text(4000.4)
    '1:06:40'
    """
    return str(timedelta(seconds=round(seconds)))


class Pace:
    """Work done over time, in any unit, waiting left out."""

    def __init__(self) -> None:
        self._began = self._moved_at = time.monotonic()
        self._done, self._moves = 0.0, 0
        self._waited = 0.0
        self._late = deque([0.0])
        """Seconds at work at each of the late moves and the one before them."""

    def move(self, work: float) -> None:
        """Note that so much more is done."""
        if work <= 0:
            return
        self._waited += self.waiting
        self._moved_at = time.monotonic()
        self._done, self._moves = self._done + work, self._moves + 1
        self._late.append(self._at_work)
        late = min(max(_LATE_SHARE * self._at_work, _LEAST_S), _MOST_S)
        while len(self._late) > _LEAST_MOVES + 1 and self._late[1] <= self._at_work - late:
            self._late.popleft()

    @property
    def waiting(self) -> float:
        """Seconds for which nothing has moved, if that is longer than usual; else 0."""
        still = time.monotonic() - self._moved_at
        if self._moves < _KNOWN_MOVES:
            return 0.0
        usual = (self._moved_at - self._began - self._waited) / self._moves
        return still if still > max(_WAIT_S, _WAIT_GAPS * usual) else 0.0

    @property
    def _at_work(self) -> float:
        return time.monotonic() - self._began - self._waited - self.waiting

    @property
    def per_second(self) -> float:
        """Work done a second; 0 until something has moved.

        How many moves there are a second is told by the late ones, and how much one is by all: of
        cubes of many sizes the late ones alone tell too little.
        """
        if not self._moves:
            return 0.0
        moves_per_second = (len(self._late) - 1) / max(self._at_work - self._late[0], 1e-9)
        return moves_per_second * self._done / self._moves

    def left(self, work: float) -> float | None:
        """Return the seconds that so much work will take, or None while there is no pace."""
        pace = self.per_second
        return max(work, 0.0) / pace if pace else None


@dataclass
class AoiPace:
    """The pace of a run over areas, most of which are built and some of which are not.

    Parameters
    ----------
    total
        Areas of the run.
    """

    total: int
    shares: dict[int, float] = field(default_factory=dict)
    """Share done of each area that is being built."""
    ended: dict[int, float] = field(default_factory=dict)
    """Work that each area that has ended took, of one cube: none where it was skipped."""
    pace: Pace = field(default_factory=Pace)
    trouble: str = ""
    """A service that is not reached, in words, until something moves again."""

    def note(self, index: int, row: AoiStatus) -> None:
        """Take the new row of an area.

        The first row of one that is being built tells what was on disk before, which is no speed.
        """
        if index in self.shares or row.status is not AoiState.BUILDING:
            self.trouble = ""
        if row.status is AoiState.BUILDING:
            self.pace.move(row.done - self.shares.get(index, row.done))
            self.shares[index] = row.done
            return
        begun = index in self.shares
        share = self.shares.pop(index, 0.0)
        if row.status is AoiState.BUILT:
            self.ended[index] = 1.0
            self.pace.move(1.0 - share if begun else 0.0)
        else:
            self.ended[index] = share

    @property
    def _work_each(self) -> float:
        """Work that an area takes on average: of a run's first one it is taken to be a cube."""
        known = 1 + len(self.ended) + len(self.shares)
        return (1.0 + sum(self.ended.values()) + len(self.shares)) / known

    @property
    def done(self) -> float:
        """Areas that have ended, and shares of those that are being built."""
        return len(self.ended) + sum(self.shares.values())

    @property
    def per_hour(self) -> float:
        """Areas an hour, those that are skipped included."""
        return 3600 * self.pace.per_second / self._work_each

    @property
    def left(self) -> float | None:
        """Seconds until all have ended; None while nothing is known."""
        unknown = self.total - len(self.ended) - len(self.shares)
        begun = len(self.shares) - sum(self.shares.values())
        return self.pace.left(unknown * self._work_each + begun)

    def __str__(self) -> str:
        """Tell of trouble, rate and time left, or how long nothing has come; of what is known."""
        return "; ".join(filter(None, (self.trouble, self._speed_text())))

    def _speed_text(self) -> str:
        left = self.left
        if left is None:
            return ""
        if waiting := self.pace.waiting:
            return (
                f"nothing has come for {duration_text(waiting)}; {duration_text(left)} left without waiting"
            )
        rate = f"{self.per_hour:,.0f}" if self.per_hour >= 10 else f"{self.per_hour:.1f}"
        return f"{rate} AOIs/h, {duration_text(left)} left"
