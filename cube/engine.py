"""Where work runs: a Dask cluster, or the threads of this process. What is made does not depend on it."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, cast

import dask.config

from .config import ComputeConfig
from .errors import ClusterError, ConfigError, GelosError

if TYPE_CHECKING:
    from distributed import Client, Scheduler, Worker

__all__ = ["Engine", "Outcome", "ThreadEngine", "open_engine"]

_LOG = logging.getLogger(__name__)

Task = TypeVar("Task")
Result = TypeVar("Result")

_CORES_PER_WORKER = 2
"""A worker's threads keep that many cores busy, since GDAL and the codecs work without Python's lock."""
_THREADS_PER_WORKER = 4
"""Reads wait on the network, so a worker has more threads than cores."""
_CONNECT_S = 20
_AHEAD = 2
"""Tasks in flight per thread: enough to keep every thread busy, and few enough to keep the scheduler's graph small."""
_LIVES = 8
"""How often a task is handed in again after the scheduler gave it up, having lost several workers under it."""
_LOOK_AGAIN_S = 0.5
_NANNY_ENVIRON = "distributed.nanny.pre-spawn-environ"
_WORKER_ENVIRON = {
    # What glibc adapts to by itself. Dask's own 64 KiB gives every freed array back to the system, and half of a worker's
    # time would go into having its pages cleared again.
    "MALLOC_TRIM_THRESHOLD_": 64 << 20,
    "MALLOC_MMAP_THRESHOLD_": 32 << 20,
    "OMP_NUM_THREADS": 1,
    "OPENBLAS_NUM_THREADS": 1,
}


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
        self, function: Callable[[Task], Result], tasks: Iterable[Task], scope: str
    ) -> Iterator[Outcome[Task, Result]]:
        """Yield an outcome per task, as they come; `tasks` is drawn from as capacity frees up.

        Parameters
        ----------
        function
            What is done with a task.
        tasks
            May have more to give after it ran dry, once a task has ended.
        scope
            Address of what the tasks write to.
        """
        ...

    def wait_for_stragglers(self, scope: str) -> None:
        """Wait until no task of an earlier client, which was killed, is at work in a scope."""
        ...


class ThreadEngine:
    """The threads of this process."""

    def __init__(self, threads: int | None = None) -> None:
        self.slots = threads or os.cpu_count() or 1

    def run(
        self, function: Callable[[Task], Result], tasks: Iterable[Task], scope: str
    ) -> Iterator[Outcome[Task, Result]]:
        """Yield an outcome per task, as they come."""
        del scope
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

    def wait_for_stragglers(self, scope: str) -> None:
        """Return at once: threads die with their client."""


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
        with _workers_ignore_interrupts(), dask.config.set({_NANNY_ENVIRON: _WORKER_ENVIRON}):
            cluster = LocalCluster(
                n_workers=self._compute.workers or max((os.cpu_count() or 1) // _CORES_PER_WORKER, 1),
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
        self, function: Callable[[Task], Result], tasks: Iterable[Task], scope: str
    ) -> Iterator[Outcome[Task, Result]]:
        """Yield an outcome per task, as they come; a task whose worker dies is run again elsewhere.

        Raises
        ------
        ClusterError
            If the scheduler goes away.
        """
        prefix = f"{function.__name__}{_mark(scope)}"
        source = iter(tasks)
        first = list(_take(source, 1))
        if not first:
            return
        from distributed import CancelledError, KilledWorker, as_completed

        pending: dict[Any, Task] = {}
        lives: dict[int, int] = {}
        finished = as_completed(loop=self._client.loop)

        def submit(some: Iterable[Task]) -> None:
            for task in some:
                key = f"{prefix}{uuid.uuid4().hex}"
                future = self._client.submit(_attempt, function, task, key=key, pure=False)
                pending[future] = task
                finished.add(future)

        try:
            submit(first)
            while pending:
                submit(_take(source, self.slots * _AHEAD - len(pending)))
                future = next(finished)
                task = pending.pop(future)
                outcome = _received(task, future)
                if isinstance(outcome.error, CancelledError):
                    raise self._lost()
                if isinstance(outcome.error, KilledWorker) and lives.setdefault(id(task), _LIVES) > 0:
                    lives[id(task)] -= 1
                    submit([task])
                    continue
                lives.pop(id(task), None)
                yield outcome
                if not pending:
                    submit(_take(source, 1))
        finally:
            if self._client.status == "running":
                self._client.cancel(list(pending))

    def _lost(self) -> ClusterError:
        logging.getLogger("distributed").setLevel(logging.CRITICAL)  # it would tell the same in fifty lines
        address = self._client.scheduler.address if self._client.scheduler else "the scheduler"
        return ClusterError(f"{address}: the Dask scheduler went away; what is done is kept, run again")

    def wait_for_stragglers(self, scope: str) -> None:
        """Wait until no task of an earlier client is at work in a scope: a thread that runs cannot be stopped.

        A cluster of our own dies with its client, and has none.
        """
        if not _scheduler(self._compute):
            return
        mark, told = _mark(scope), False
        while True:
            keys = set(self._client.run_on_scheduler(_unfinished, mark=mark))
            keys = keys.union(*self._client.run(_running, mark=mark).values())
            if not keys:
                return
            if not told:
                _LOG.warning("waiting for %d blocks that an earlier run left on the cluster", len(keys))
                told = True
            time.sleep(_LOOK_AGAIN_S)


def _mark(scope: str) -> str:
    """Return what the keys of all tasks in a scope contain."""
    return f"-{hashlib.sha256(scope.encode()).hexdigest()[:16]}-"


def _unfinished(mark: str, dask_scheduler: Scheduler) -> list[str]:
    """Return the keys of tasks that the scheduler has still to see done, on behalf of any client."""
    return [
        str(key)
        for key, task in dask_scheduler.tasks.items()
        if mark in str(key) and task.state in ("waiting", "no-worker", "queued", "processing")
    ]


def _running(mark: str, dask_worker: Worker) -> list[str]:
    """Return the keys of tasks that occupy a thread of a worker, wanted by anyone or not."""
    return [str(key) for key in list(dask_worker.active_keys) if mark in str(key)]


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
    try:
        return Outcome(task, future.result())
    except Exception as error:  # noqa: BLE001  whatever ended the task is what became of it
        return Outcome(task, error=error)


def _attempt(function: Callable[[Task], Result], task: Task) -> tuple[Result | None, GelosError | None]:
    """Do a task in a worker; an error of ours is a result, or the worker would print its traceback."""
    try:
        return function(task), None
    except GelosError as error:
        return None, error


def _received(task: Task, future: Any) -> Outcome[Task, Any]:
    outcome = _outcome(task, future)
    if outcome.error is not None:
        return outcome
    value, error = outcome.get()
    return Outcome(task, value, error)


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
