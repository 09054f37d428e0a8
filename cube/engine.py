"""Where work runs: a Dask cluster, or the threads of this process. What is made does not depend on it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from .config import ComputeConfig
from .errors import ConfigError

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["Engine", "Outcome", "ThreadEngine", "open_engine"]

Task = TypeVar("Task")
Result = TypeVar("Result")

_THREADS_PER_WORKER = 4
"""Reads wait on the network, so a worker has more threads than cores."""
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

    @property
    def dashboard(self) -> str:
        """Address of a page that shows the work, or an empty string."""
        ...

    def run(
        self, function: Callable[[Task], Result], tasks: Iterable[Task]
    ) -> Iterator[Outcome[Task, Result]]:
        """Yield an outcome per task, as they come; `tasks` is drawn from as capacity frees up."""
        ...


class ThreadEngine:
    """The threads of this process."""

    dashboard = ""

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
    """A Dask cluster, local or elsewhere."""

    def __init__(self, client: Client) -> None:
        self._client = client

    @property
    def slots(self) -> int:
        """Threads of all workers at this moment."""
        return max(sum(self._client.nthreads().values()), 1)

    @property
    def dashboard(self) -> str:
        """Address of the dashboard, or an empty string."""
        return str(self._client.dashboard_link or "")

    def run(
        self, function: Callable[[Task], Result], tasks: Iterable[Task]
    ) -> Iterator[Outcome[Task, Result]]:
        """Yield an outcome per task, as they come; a task whose worker dies is run again elsewhere."""
        from distributed import as_completed

        pending: dict[Any, Task] = {}
        source = iter(tasks)
        finished = as_completed(with_results=False)

        def feed() -> None:
            for task in _take(source, self.slots * _AHEAD - len(pending)):
                future = self._client.submit(function, task, pure=False)
                pending[future] = task
                finished.add(future)

        try:
            feed()
            while pending:
                future = next(finished)
                task = pending.pop(future)
                yield _outcome(task, future)
                feed()
        finally:
            self._client.cancel(list(pending))


def _take(source: Iterator[Task], count: int) -> Iterator[Task]:
    for _ in range(count):
        try:
            yield next(source)
        except StopIteration:
            return


def _outcome(task: Task, future: Any) -> Outcome[Task, Any]:
    error = future.exception()
    return Outcome(task, error=error) if error is not None else Outcome(task, future.result())


@contextlib.contextmanager
def open_engine(compute: ComputeConfig) -> Iterator[Engine]:
    """Start, or connect to, what runs the work, and leave it as it was.

    Parameters
    ----------
    compute
        ``scheduler`` (or ``DASK_SCHEDULER_ADDRESS``) names a running cluster; ``workers: 0`` means threads of this
        process; otherwise a LocalCluster is sized from the machine.

    Raises
    ------
    ConfigError
        If no scheduler answers at the address.
    """
    address = compute.scheduler or os.environ.get("DASK_SCHEDULER_ADDRESS", "")
    if compute.workers == 0 and not address:
        yield ThreadEngine(compute.threads)
        return
    from distributed import Client, LocalCluster

    if address:
        try:
            client = Client(address, timeout=20)
        except OSError as error:
            raise ConfigError(f"compute.scheduler {address}: no scheduler answers there ({error})") from error
        with client:
            yield DaskEngine(client)
        return
    with (
        LocalCluster(
            n_workers=compute.workers or os.cpu_count() or 1,
            threads_per_worker=compute.threads or _THREADS_PER_WORKER,
            memory_limit=compute.memory_limit,
            processes=True,
            dashboard_address=":0",
        ) as cluster,
        Client(cluster) as client,
    ):
        yield DaskEngine(client)
