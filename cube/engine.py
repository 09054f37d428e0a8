"""Where work runs: a Dask cluster, or the threads of this process. What is made does not depend on it."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, cast

from .config import ComputeConfig
from .errors import ConfigError

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["Engine", "Outcome", "ThreadEngine", "open_engine"]

_LOG = logging.getLogger(__name__)

Task = TypeVar("Task")
Result = TypeVar("Result")

_THREADS_PER_WORKER = 4
"""Reads wait on the network, so a worker has more threads than cores."""
_CONNECT_S = 20
_AHEAD = 2
"""Tasks in flight per thread: enough to keep every thread busy, and few enough to keep the scheduler's graph small."""


@dataclass(frozen=True)
class Outcome(Generic[Task, Result]):
    """What became of one task: a value, or the exception that ended it."""

    task: Task
    value: Result | None = None
    error: BaseException | None = None

    def get(self) -> Result:
        """Return the value, or raise the error."""
        if self.error is not None:
            raise self.error
        return self.value  # type: ignore[return-value]


class Engine(Protocol):
    """Runs a function over tasks, some at a time."""

    @property
    def slots(self) -> int:
        """How many tasks can run at once."""
        ...

    def run(
        self, function: Callable[[Task], Result], tasks: Iterable[Task]
    ) -> Iterator[Outcome[Task, Result]]:
        """Yield an outcome per task, as they come; `tasks` is drawn from as capacity frees up."""
        ...


class ThreadEngine:
    """The threads of this process."""

    def __init__(self, threads: int | None = None) -> None:
        self.slots = threads or os.cpu_count() or 1

    def run(
        self, function: Callable[[Task], Result], tasks: Iterable[Task]
    ) -> Iterator[Outcome[Task, Result]]:
        """Yield an outcome per task, as they come."""
        with ThreadPoolExecutor(self.slots) as pool:
            pending: dict[Future[Result], Task] = {}
            source = iter(tasks)
            try:
                while True:
                    for task in _take(source, self.slots * _AHEAD - len(pending)):
                        pending[pool.submit(function, task)] = task
                    if not pending:
                        return
                    done, _ = wait(pending, return_when=FIRST_COMPLETED)
                    for future in done:
                        yield _outcome(pending.pop(future), future)
            finally:
                pool.shutdown(wait=True, cancel_futures=True)


class DaskEngine:
    """A Dask cluster, local or elsewhere; it is started, or connected to, when the first task comes.

    Parameters
    ----------
    compute
        ``scheduler``, or workers and threads of a LocalCluster.
    stack
        Closes what was started.
    """

    def __init__(self, compute: ComputeConfig, stack: contextlib.ExitStack) -> None:
        self._compute = compute
        self._stack = stack

    @cached_property
    def _client(self) -> Client:
        from distributed import Client, LocalCluster

        address = _scheduler(self._compute)
        if address:
            try:
                return cast("Client", self._stack.enter_context(Client(address, timeout=_CONNECT_S)))
            except (OSError, ValueError) as error:
                raise ConfigError(f"compute.scheduler {address}: no scheduler answers ({error})") from None
        with _workers_ignore_interrupts():
            cluster = LocalCluster(
                n_workers=self._compute.workers or os.cpu_count() or 1,
                threads_per_worker=self._compute.threads or _THREADS_PER_WORKER,
                memory_limit=self._compute.memory_limit,
                dashboard_address=":0",
            )
        client = Client(self._stack.enter_context(cluster))
        _LOG.info("dashboard: %s", client.dashboard_link)
        return cast("Client", self._stack.enter_context(client))

    @property
    def slots(self) -> int:
        """Threads of all workers at this moment."""
        return max(sum(cast("dict[str, int]", self._client.nthreads()).values()), 1)

    def run(
        self, function: Callable[[Task], Result], tasks: Iterable[Task]
    ) -> Iterator[Outcome[Task, Result]]:
        """Yield an outcome per task, as they come; a task whose worker dies is run again elsewhere."""
        source = iter(tasks)
        first = list(_take(source, 1))
        if not first:
            return
        from distributed import as_completed

        pending: dict[Any, Task] = {}
        finished = as_completed(loop=self._client.loop)

        def submit(some: Iterable[Task]) -> None:
            for task in some:
                future = self._client.submit(function, task, pure=False)
                pending[future] = task
                finished.add(future)

        try:
            submit(first)
            while pending:
                submit(_take(source, self.slots * _AHEAD - len(pending)))
                future = next(finished)
                yield _outcome(pending.pop(future), future)
                if not pending:
                    submit(_take(source, 1))
        finally:
            self._client.cancel(list(pending))


@contextlib.contextmanager
def _workers_ignore_interrupts() -> Iterator[None]:
    """Let processes that are started here ignore Ctrl-C: the client hears it, and ends them in order."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _take(source: Iterator[Task], count: int) -> Iterator[Task]:
    for _ in range(count):
        try:
            yield next(source)
        except StopIteration:
            return


def _outcome(task: Task, future: Any) -> Outcome[Task, Any]:
    error = future.exception()
    return Outcome(task, error=error) if error is not None else Outcome(task, future.result())


def _scheduler(compute: ComputeConfig) -> str:
    return compute.scheduler or os.environ.get("DASK_SCHEDULER_ADDRESS", "")


@contextlib.contextmanager
def open_engine(compute: ComputeConfig) -> Iterator[Engine]:
    """Give access to what runs the work; what it starts for that is stopped at the end.

    Parameters
    ----------
    compute
        ``scheduler`` (or ``DASK_SCHEDULER_ADDRESS``) names a running cluster; ``workers: 0`` means threads of this
        process; otherwise a LocalCluster is sized from the machine.
    """
    if compute.workers == 0 and not _scheduler(compute):
        yield ThreadEngine(compute.threads)
        return
    with contextlib.ExitStack() as stack:
        yield DaskEngine(compute, stack)
