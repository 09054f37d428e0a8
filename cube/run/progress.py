"""How far a run has come: bars on a terminal, or a line a minute, with rate and time left."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from cube.retry.services import UNREACHABLE

from .logs import STDERR, event
from .pace import AoiPace, Pace, duration_text
from .status import AoiState, AoiStatus

_LOG = logging.getLogger(__name__)
_LOG_EVERY_S = 60.0
_ROOT = __name__.partition(".")[0]
"""Logger above those of services."""


def _clock() -> float:
    return time.monotonic()


class _TroubleHandler(logging.Handler):
    """Puts onto a run's bar what the log says of a service that is not reached."""

    def __init__(self, pace: AoiPace) -> None:
        super().__init__(logging.WARNING)
        self._pace = pace

    def emit(self, record: logging.LogRecord) -> None:
        """Take a record."""
        if getattr(record, "event", "") == UNREACHABLE:
            self._pace.trouble = f"{record.facts['service']} is not reached"  # type: ignore[attr-defined]


@contextmanager
def heard(pace: AoiPace) -> Iterator[None]:
    """Hear of trouble while the ``with`` statement runs."""
    handler, log = _TroubleHandler(pace), logging.getLogger(_ROOT)
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)


class _PaceColumn(ProgressColumn):
    """What a bar says of its pace, asked for anew each second: a run that waits says so itself."""

    max_refresh = 1.0

    def render(self, task: Task) -> Text:
        """Return the words."""
        return Text(str(task.fields["pace"]))


def _title(index: int, row: AoiStatus) -> str:
    return f"AOI {row.label(index)}"


@dataclass
class _AoiBars:
    """A bar for all AOIs and one for each that is being built."""

    bars: Progress
    title: str
    pace: AoiPace
    tasks: dict[int, TaskID] = field(default_factory=dict)
    begun: dict[int, AoiStatus] = field(default_factory=dict)
    """Rows of the AOIs that are being built."""
    logged_at: float = field(default_factory=_clock)

    def __call__(self, index: int, row: AoiStatus) -> None:
        """Take the new row of an AOI."""
        self.pace.note(index, row)
        building = row.status is AoiState.BUILDING
        if building:
            self.begun[index] = row
            self._draw(index, row)
        else:
            self.begun.pop(index, None)
            if index in self.tasks:
                self.bars.remove_task(self.tasks.pop(index))
        ended, total = len(self.pace.ended), self.pace.total
        self.bars.update(TaskID(0), completed=self.pace.done, done=f"{ended}/{total}")
        if not building:
            reason = f": {row.reason}" if row.reason else ""
            self._log_progress("aois", f"[{ended}/{total}] {_title(index, row)} {row.status}{reason}")
        elif _clock() - self.logged_at > _LOG_EVERY_S:
            rows = sorted(self.begun.items())
            shares = ", ".join(f"{_title(aoi, row)} {100 * row.done:.0f} %" for aoi, row in rows)
            self._log_progress("progress", f"{ended} of {total} AOIs, and {shares}")

    def _draw(self, index: int, row: AoiStatus) -> None:
        if index not in self.tasks:
            self.tasks[index] = self.bars.add_task(escape(_title(index, row)), total=1.0, done="", pace="")
        self.bars.update(self.tasks[index], completed=row.done, done=f"{100 * row.done:.0f} %")

    def _log_progress(self, kind: str, text: str) -> None:
        self.logged_at = _clock()
        left, words = self.pace.left, str(self.pace)
        facts = {
            "done": round(self.pace.done, 4),
            "total": self.pace.total,
            "per_hour": round(self.pace.per_hour, 3),
            "left_s": None if left is None else round(left),
        }
        _LOG.info("%s", f"{text}; {words}" if words else text, extra=event(kind, what=self.title, **facts))


@contextmanager
def _open_bars(*, bars: bool) -> Iterator[Progress]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.fields[done]}"),
        TimeElapsedColumn(),
        _PaceColumn(),
    )
    with Progress(*columns, console=STDERR, disable=not (bars and STDERR.is_terminal)) as progress:
        yield progress


@contextmanager
def draw_aois(total: int, title: str, *, bars: bool = True) -> Iterator[Callable[[int, AoiStatus], None]]:
    """Say on stderr how far AOIs are while the ``with`` statement runs."""
    pace = AoiPace(total)
    with _open_bars(bars=bars) as progress, heard(pace):
        progress.add_task(title, total=total, done=f"0/{total}", pace=pace)
        yield _AoiBars(progress, title, pace)


@dataclass
class _StepBars:
    """A bar for each named step."""

    bars: Progress
    tasks: dict[str, TaskID] = field(default_factory=dict)
    paces: dict[str, Pace] = field(default_factory=dict)
    done: dict[str, int] = field(default_factory=dict)
    logged_at: float = field(default_factory=_clock)

    def __call__(self, what: str, done: int, total: int) -> None:
        """Take how many of a step's things are done; what the first call names was done before."""
        if what not in self.tasks:
            self.tasks[what] = self.bars.add_task(what, total=total, done="", pace="")
            self.paces[what], self.done[what] = Pace(), done
        pace = self.paces[what]
        pace.move(done - self.done[what])
        self.done[what] = done
        left = pace.left(total - done)
        words = "" if left is None else f"{duration_text(left)} left"
        text = f"{done}/{total}"
        self.bars.update(
            self.tasks[what],
            completed=done,
            total=total,
            done=text,
            pace=words if done < total else "",
        )
        if _clock() - self.logged_at > _LOG_EVERY_S:
            self.logged_at = _clock()
            facts = {"done": done, "total": total, "left_s": None if left is None else round(left)}
            message = f"{what}: {text}, {words}" if words else f"{what}: {text}"
            _LOG.info("%s", message, extra=event("progress", what=what, **facts))


@contextmanager
def draw_steps(*, bars: bool = True) -> Iterator[Callable[[str, int, int], None]]:
    """Say on stderr how far named steps are while the ``with`` statement runs."""
    with _open_bars(bars=bars) as progress:
        yield _StepBars(progress)
