"""Where work runs: a Dask cluster or threads of this process, with the same results."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Generic

from cube.config.models import ComputeConfig

from .dask_engine import DaskEngine, scheduler_of
from .tasks import Engine, Outcome, Result, Task, TaskSource
from .thread_engine import ThreadEngine

_SMALL_S = 30.0
"""Seconds of work in threads that pay for a cluster's start, at some 2.5 s of processor time."""


@contextlib.contextmanager
def open_engine(compute: ComputeConfig) -> Iterator[Engine]:
    """Give access to what runs the work; what it starts for that is stopped at the end.

    Parameters
    ----------
    compute
        ``scheduler`` (or ``DASK_SCHEDULER_ADDRESS``) names a running cluster; ``workers`` is the
        size of a LocalCluster, and 0 means threads of this process; without either, threads do a
        small piece of work, and a LocalCluster that is sized from the machine what is left of a
        larger one.
    """
    if compute.workers == 0 and not scheduler_of(compute):
        yield ThreadEngine(compute.threads)
        return
    with contextlib.ExitStack() as stack:
        cluster = DaskEngine(compute, stack)
        alone = compute.workers is None and not scheduler_of(compute)
        yield _GrowingEngine(ThreadEngine(compute.threads), cluster) if alone else cluster


class _GrowingEngine:
    """Threads of this process, and a cluster of this machine once they have worked for a while.

    Dask's start costs more than all the pixels of a small area.
    """

    def __init__(self, threads: ThreadEngine, cluster: DaskEngine) -> None:
        self._threads, self._cluster = threads, cluster

    @property
    def slots(self) -> int:
        """How many tasks can run at once at the beginning."""
        return self._threads.slots

    def run(
        self, function: Callable[[Task], Result], tasks: TaskSource[Task], scope: str
    ) -> Generator[Outcome[Task, Result]]:
        """Yield an outcome per task, as they come; closed before the end, it gives the rest up."""
        yield from self._threads.run(function, _TakenForAWhile(tasks, _SMALL_S), scope)
        yield from self._cluster.run(function, tasks, scope)

    def wait_for_earlier_tasks(self, scope: str) -> None:
        """Return at once: what ran earlier died with its client."""


class _TakenForAWhile(Generic[Task]):
    """A source of tasks that gives none any more some seconds after its first."""

    def __init__(self, tasks: TaskSource[Task], seconds: float) -> None:
        self._tasks, self._seconds = tasks, seconds
        self._end = math.inf

    def take(self, count: int) -> Sequence[Task]:
        if time.monotonic() >= self._end:
            return []
        taken = self._tasks.take(count)
        if taken and self._end == math.inf:
            self._end = time.monotonic() + self._seconds
        return taken
