"""How far a run has come: bars on a terminal, or a line a minute, with rate and time left."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from cube.config.aoi import aoi_label

from .logs import STDERR, event
from .status import AoiState, AoiStatus

_LOG = logging.getLogger(__name__)
_LOG_EVERY_S = 60.0


def _clock() -> float:
    return time.monotonic()


@dataclass
class _Pace:
    """How fast work goes, counted in shares, without what was done before the run began."""

    before: dict[int | str, float] = field(default_factory=dict)
    now: dict[int | str, float] = field(default_factory=dict)
    began: float = field(default_factory=_clock)

    def move(self, what: int | str, done: float) -> None:
        """Note how much of a thing is done; its first note is where it began."""
        self.before.setdefault(what, done)
        self.now[what] = done

    @property
    def per_second(self) -> float:
        """Things per second, fractions of them included; 0 until something has moved."""
        moved = sum(self.now.values()) - sum(self.before.values())
        return max(moved, 0) / max(_clock() - self.began, 1e-9)

    def left(self, total: float) -> float | None:
        """Return the seconds until `total` will be done at this pace, or None while it has none."""
        pace = self.per_second
        return max(total - sum(self.now.values()), 0) / pace if pace else None


def _duration(seconds: float | None) -> str:
    return "" if seconds is None else f", {timedelta(seconds=round(seconds))} left"


def _title(index: int, row: AoiStatus) -> str:
    return f"AOI {aoi_label(index, row.name or row.id)}"


def _per_hour(pace: float) -> str:
    """Return a pace per second as one per hour, in three digits or whole."""
    hourly = 3600 * pace
    return f"{hourly:,.0f}" if hourly >= 100 else f"{hourly:.3g}"


@dataclass
class _AoiBars:
    """A bar for all AOIs and one for each that is being built."""

    bars: Progress
    total: int
    title: str
    tasks: dict[int, TaskID] = field(default_factory=dict)
    begun: dict[int, AoiStatus] = field(default_factory=dict)
    """Rows of the AOIs that are being built."""
    ended: set[int] = field(default_factory=set)
    pace: _Pace = field(default_factory=_Pace)
    logged_at: float = field(default_factory=_clock)

    def __call__(self, index: int, row: AoiStatus) -> None:
        """Take the new row of an AOI."""
        building = row.status is AoiState.BUILDING
        if row.done or not building:  # the first share that is not 0 is what was on disk
            self.pace.move(index, row.done if building else 1.0)
        if building:
            self.begun[index] = row
            self._draw(index, row)
        else:
            self.begun.pop(index, None)
            if index in self.tasks:
                self.bars.remove_task(self.tasks.pop(index))
            self.ended.add(index)
        self._draw_total()
        if not building:
            reason = f": {row.reason}" if row.reason else ""
            text = f"[{len(self.ended)}/{self.total}] {_title(index, row)} {row.status}{reason}"
            self._log_progress("aois", text + self._pace_text())
        elif _clock() - self.logged_at > _LOG_EVERY_S:
            rows = sorted(self.begun.items())
            shares = ", ".join(f"{_title(aoi, row)} {100 * row.done:.0f} %" for aoi, row in rows)
            self._log_progress(
                "progress", f"{len(self.ended)} of {self.total} AOIs, and {shares}{self._pace_text()}"
            )

    def _draw(self, index: int, row: AoiStatus) -> None:
        if index not in self.tasks:
            self.tasks[index] = self.bars.add_task(escape(_title(index, row)), total=1.0, done="", pace="")
        self.bars.update(self.tasks[index], completed=row.done, done=f"{100 * row.done:.0f} %")

    def _draw_total(self) -> None:
        self.bars.update(
            TaskID(0),
            completed=sum(self.pace.now.values()),
            done=f"{len(self.ended)}/{self.total}",
            pace=self._pace_text().removeprefix("; "),
        )

    def _pace_text(self) -> str:
        pace = self.pace.per_second
        return f"; {_per_hour(pace)} AOIs/h{_duration(self.pace.left(self.total))}" if pace else ""

    def _log_progress(self, kind: str, text: str) -> None:
        self.logged_at = _clock()
        left = self.pace.left(self.total)
        facts = {
            "done": round(sum(self.pace.now.values()), 4),
            "total": self.total,
            "per_hour": round(3600 * self.pace.per_second, 3),
            "left_s": None if left is None else round(left),
        }
        _LOG.info("%s", text, extra=event(kind, what=self.title, **facts))


@contextmanager
def _open_bars(*, bars: bool) -> Iterator[Progress]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[done]}"),
        TimeElapsedColumn(),
        TextColumn("{task.fields[pace]}"),
    )
    with Progress(*columns, console=STDERR, disable=not (bars and STDERR.is_terminal)) as progress:
        yield progress


@contextmanager
def draw_aois(total: int, title: str, *, bars: bool = True) -> Iterator[Callable[[int, AoiStatus], None]]:
    """Say on stderr how far AOIs are while the ``with`` statement runs."""
    with _open_bars(bars=bars) as progress:
        progress.add_task(title, total=total, done=f"0/{total}", pace="")
        yield _AoiBars(progress, total, title)


@dataclass
class _StepBars:
    """A bar for each named step."""

    bars: Progress
    tasks: dict[str, TaskID] = field(default_factory=dict)
    paces: dict[str, _Pace] = field(default_factory=dict)
    logged_at: float = field(default_factory=_clock)

    def __call__(self, what: str, done: int, total: int) -> None:
        """Take how many of a step's things are done."""
        if what not in self.tasks:
            self.tasks[what] = self.bars.add_task(what, total=total, done="", pace="")
            self.paces[what] = _Pace()
        pace = self.paces[what]
        pace.move(what, done)
        left = pace.left(total)
        text = f"{done}/{total}"
        self.bars.update(
            self.tasks[what],
            completed=done,
            total=total,
            done=text,
            pace=_duration(left).removeprefix(", ") if done < total else "",
        )
        if _clock() - self.logged_at > _LOG_EVERY_S:
            self.logged_at = _clock()
            facts = {"done": done, "total": total, "left_s": None if left is None else round(left)}
            _LOG.info("%s: %s%s", what, text, _duration(left), extra=event("progress", what=what, **facts))


@contextmanager
def draw_steps(*, bars: bool = True) -> Iterator[Callable[[str, int, int], None]]:
    """Say on stderr how far named steps are while the ``with`` statement runs."""
    with _open_bars(bars=bars) as progress:
        yield _StepBars(progress)
