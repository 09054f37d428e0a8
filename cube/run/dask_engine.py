"""The engine that is a Dask cluster, local or elsewhere."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import signal
import threading
import time
import uuid
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from functools import cached_property
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING, Any, cast

from cube.config.models import ComputeConfig
from cube.errors import ClusterError, ConfigError, GelosError
from cube.retry import GivenUpError, IsGivenUp, heed

from .logs import event
from .named_locks import stop_if_lost
from .tasks import AHEAD, Outcome, Result, Task, TaskSource, outcome_of

if TYPE_CHECKING:
    from distributed import Client, LocalCluster, Scheduler, Worker

_LOG = logging.getLogger(__name__)

_CORES_PER_WORKER = 2
"""A worker's threads keep that many cores busy, since GDAL and the codecs work without Python's
lock."""
_THREADS_PER_WORKER = 4
"""Reads wait on the network, so a worker has more threads than cores."""
_CONNECT_S = 20
_DASHBOARD_S, _PAGE_BYTES = 2, 4096
_MAX_REPEATS = 8
"""How often a task is handed in again after the scheduler gave it up, having lost several workers
under it."""
_POLL_S = 0.5
_END_S = 1.0
"""Seconds for a cluster to close whose workers have been killed."""
_LOST_S = 20.0
"""Seconds after which a worker that died is lost: a busy machine takes long to start one."""
_LOGGING = {"version": 1, "incremental": True, "loggers": {"distributed": {"level": "WARNING"}}}
_SAID_BY_WORKERS = "cube.retry.services"
"""Log whose warnings workers send to the client: what they cannot reach is said at once."""
_NANNY_ENVIRON = "distributed.nanny.pre-spawn-environ"
_WORKER_ENVIRON = {
    # What glibc adapts to by itself. Dask's own 64 KiB gives every freed array back to the system,
    # and half of a worker's time would go into having its pages cleared again.
    "MALLOC_TRIM_THRESHOLD_": 64 << 20,
    "MALLOC_MMAP_THRESHOLD_": 32 << 20,
    # An arena per thread would each keep the most that its thread has ever held.
    "MALLOC_ARENA_MAX": 2,
    "OMP_NUM_THREADS": 1,
    "OPENBLAS_NUM_THREADS": 1,
}


class DaskEngine:
    """A Dask cluster, local or elsewhere, which is started or connected to with the first task.

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
        with dask_logs_are_ours():
            return self._start_or_connect()

    def _start_or_connect(self) -> Client:
        import dask.config
        from distributed import Client, LocalCluster

        client: Client

        address = scheduler_of(self._compute)
        if address:
            try:
                client = self._stack.enter_context(_client_of(address))
            except (OSError, ValueError) as error:
                raise ConfigError(f"compute.scheduler {address}: no scheduler answers ({error})") from None
            if problem := next(version_problems(client), ""):
                raise ConfigError(f"compute.scheduler {address}: {problem}")
            _attend(client)
            if not client.scheduler_info()["workers"]:
                _LOG.warning("%s has no worker yet: blocks wait until one joins it", address)
            return client
        with _workers_ignore_interrupts(), dask.config.set({_NANNY_ENVIRON: _WORKER_ENVIRON}):
            cluster = LocalCluster(
                n_workers=self._compute.workers or max((os.cpu_count() or 1) // _CORES_PER_WORKER, 1),
                threads_per_worker=self._compute.threads or _THREADS_PER_WORKER,
                memory_limit=self._compute.memory_limit,
                dashboard_address=":0",
                silence_logs=logging.CRITICAL,  # what matters is in ours
            )
        self._stack.enter_context(_log_dead_workers())
        self._stack.enter_context(_keep_workers(cluster))
        client = self._stack.enter_context(Client(self._stack.enter_context(_ended_soon(cluster))))
        _attend(client)
        return client

    @property
    def slots(self) -> int:
        """Threads of all workers at this moment."""
        with self._scheduler_errors():
            return max(sum(cast("dict[str, int]", self._client.nthreads()).values()), 1)

    def run(
        self, function: Callable[[Task], Result], tasks: TaskSource[Task], scope: str
    ) -> Generator[Outcome[Task, Result]]:
        """Yield an outcome per task, as they come; a task whose worker dies is run again elsewhere.

        Raises
        ------
        ClusterError
            If the scheduler goes away.
        """
        prefix = f"{function.__name__}{_scope_mark(scope)}"
        first = tasks.take(1)
        if not first:
            return
        from distributed import KilledWorker, as_completed

        pending: dict[Any, Task] = {}
        repeats_left: dict[int, int] = {}
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
                room = self.slots * AHEAD - len(pending)
                while some := tasks.take(room):
                    submit(some)
                    room -= len(some)
                future = next(finished)
                task = pending.pop(future)
                outcome = _task_outcome(task, future)
                future.release()  # or it would be made again if the worker that holds it died
                self._check_cluster(outcome.error)
                killed = isinstance(outcome.error, KilledWorker)
                if killed and repeats_left.setdefault(id(task), _MAX_REPEATS) > 0:
                    repeats_left[id(task)] -= 1
                    submit([task])
                    continue
                repeats_left.pop(id(task), None)
                stop_if_lost()
                yield outcome
                if not pending:
                    submit(tasks.take(1))
        finally:
            if self._client.status == "running":
                self._client.cancel(list(pending))

    @contextlib.contextmanager
    def _scheduler_errors(self) -> Iterator[None]:
        """Turn the silence of a scheduler that is asked something into one clear line."""
        try:
            yield
        except OSError:  # Dask's own, too
            raise self._scheduler_lost() from None

    def _scheduler_lost(self) -> ClusterError:
        address = self._client.scheduler.address if self._client.scheduler else "the scheduler"
        return ClusterError(f"{address}: the Dask scheduler went away; what is done is kept, run again")

    def _check_cluster(self, error: BaseException | None) -> None:
        """Raise if a task ended since the scheduler is gone, or a worker that joined unfit."""
        from distributed import CancelledError

        if isinstance(error, CancelledError):
            raise self._scheduler_lost()
        if _lacks_package(error):
            problem = next(version_problems(self._client), "a worker lacks the package, and is gone again")
            raise ConfigError(f"compute.scheduler {scheduler_of(self._compute)}: {problem}")

    def wait_for_earlier_tasks(self, scope: str) -> None:
        """Wait until no task of an earlier client is at work in a scope; threads cannot be stopped.

        A cluster of our own dies with its client, and has none.
        """
        if not scheduler_of(self._compute):
            return
        mark, told = _scope_mark(scope), False
        while True:
            with self._scheduler_errors():
                keys = set(self._client.run_on_scheduler(_unfinished_keys, mark=mark))
                keys = keys.union(*self._client.run(_running_keys, mark=mark, on_error="ignore").values())
            if not keys:
                return
            if not told:
                _LOG.warning("waiting for %d blocks that an earlier run left on the cluster", len(keys))
                told = True
            time.sleep(_POLL_S)


def dask_logs_are_ours() -> AbstractContextManager[None]:
    """Let Dask, imported or started within, send its lines to our handlers alone.

    It would print them itself, tracebacks included.
    """
    import dask.config

    return cast("AbstractContextManager[None]", dask.config.set({"logging": _LOGGING}))


def _client_of(address: str) -> Client:
    """Connect; Dask's own table of versions is not shown, since a line of ours tells of them."""
    from distributed import Client

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Client(address, timeout=_CONNECT_S)


def _attend(client: Client) -> None:
    """Let workers' warnings come into this process's log, and say where the dashboard answers."""
    client.forward_logging(_SAID_BY_WORKERS, logging.WARNING)
    link = client.dashboard_link
    if is_dashboard(link):
        _LOG.info("Dask dashboard: %s", link, extra=event("dashboard", url=link))


def is_dashboard(link: str) -> bool:
    """Tell whether an address is one to open: a scheduler without bokeh shows a page of excuses."""
    from http.client import HTTPException
    from urllib.request import ProxyHandler, build_opener

    try:
        with build_opener(ProxyHandler({})).open(link, timeout=_DASHBOARD_S) as answer:
            return b"Dask needs" not in answer.read(_PAGE_BYTES)
    except (OSError, ValueError, HTTPException):
        return False


def _lacks_package(error: BaseException | None) -> bool:
    """Tell whether a worker could not even read what it was to do."""
    missing = next((one for one in (error, error and error.__cause__) if isinstance(one, ImportError)), None)
    return missing is not None and (missing.name or "").partition(".")[0] == __name__.partition(".")[0]


_ON_SCHEDULER = ("gelos-lc", "dask", "distributed")
_ON_WORKERS = (*_ON_SCHEDULER, "numpy", "numcodecs", "rasterio", "zarr")
"""Packages whose versions must be the client's: they speak with each other, or make pixels."""


def version_problems(client: Client) -> Iterator[str]:
    """Yield in what a cluster's scheduler and workers differ from this process, a line each."""
    found = cast("dict[str, Any]", client.get_versions(packages=[*_ON_WORKERS]))
    own = found["client"]["packages"]
    for address, there in sorted(found["workers"].items()):
        yield from _differences(f"worker {address}", there["packages"], own, _ON_WORKERS)
    yield from _differences("the scheduler", found["scheduler"]["packages"], own, _ON_SCHEDULER)


def _differences(
    who: str, there: Mapping[str, str | None], own: Mapping[str, str | None], names: Iterable[str]
) -> Iterator[str]:
    mend = "install the same versions there (requirements.lock), and start it again"
    pythons = [".".join(str(one["python"]).split(".")[:2]) for one in (there, own)]
    if pythons[0] != pythons[1]:
        yield f"{who} has Python {pythons[0]}, this client {pythons[1]}; {mend}"
        return
    for name in names:
        if there.get(name) is None and own.get(name) is not None:
            yield f"{who} has no {name}, this client {own[name]}; {mend}"
        elif there.get(name) != own.get(name):
            yield f"{who} has {name} {there.get(name)}, this client {own.get(name)}; {mend}"


def _scope_mark(scope: str) -> str:
    """Return what the keys of all tasks in a scope contain."""
    return f"-{hashlib.sha256(scope.encode()).hexdigest()[:16]}-"


def _unfinished_keys(mark: str, dask_scheduler: Scheduler) -> list[str]:
    """Return the keys of tasks, of any client, that the scheduler has not seen done yet."""
    return [
        str(key)
        for key, task in dask_scheduler.tasks.items()
        if mark in str(key) and task.state in ("waiting", "no-worker", "queued", "processing")
    ]


def _running_keys(mark: str, dask_worker: Worker) -> list[str]:
    """Return the keys of tasks that occupy a thread of a worker, wanted by anyone or not."""
    return [str(key) for key in list(dask_worker.active_keys) if mark in str(key)]


@contextlib.contextmanager
def _workers_ignore_interrupts() -> Iterator[None]:
    """Keep Ctrl-C from processes that are started here: the client gets it, and ends them in order.

    A blocked signal stays blocked in threads that are begun here, and in the processes that they
    start, now or later. SIGTERM waits, too, but is not blocked: Dask may end its workers with it.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # Its start would unblock the signal again.
    resource_tracker.ensure_running()
    received: list[int] = []
    held = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(one, lambda number, _: received.append(number)) for one in held]
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for one, handler in zip(held, before, strict=True):
            signal.signal(one, handler)
        if received:
            signal.raise_signal(received[0])


class _ForwardedLog(logging.Handler):
    """Copies records of Dask's log into ours."""

    def emit(self, record: logging.LogRecord) -> None:
        _LOG.warning("%s", record.getMessage())


@contextlib.contextmanager
def _log_dead_workers() -> Iterator[None]:
    """Note workers that died, or were killed for their memory."""
    nannies = logging.getLogger("distributed.nanny")
    forwarder = _ForwardedLog(logging.WARNING)
    nannies.addHandler(forwarder)
    try:
        yield
    finally:
        nannies.removeHandler(forwarder)


@contextlib.contextmanager
def _ended_soon(cluster: LocalCluster) -> Iterator[LocalCluster]:
    """Close a cluster at the end; at once where a run is stopped, or Ctrl-C comes meanwhile.

    Dask waits for blocks that nobody wants any more, and once more at the end of the process. A
    worker may be killed at any moment: what it held is made again.
    """
    try:
        yield cluster
        cluster.close()
    except BaseException:
        cluster.shutdown_on_close = False  # not once more when the process ends
        _kill_workers(cluster)
        with contextlib.suppress(Exception):
            cluster.close(timeout=_END_S)
        raise


def _kill_workers(cluster: LocalCluster) -> None:
    for nanny in list(cluster.workers.values()):
        nanny.auto_restart = False
        with contextlib.suppress(ProcessLookupError, TypeError, AttributeError):  # it has none now
            os.kill(nanny.pid, signal.SIGKILL)


@contextlib.contextmanager
def _keep_workers(cluster: LocalCluster) -> Iterator[None]:
    """Replace workers that did not come back: a nanny gives up on one that dies while it starts."""
    wanted, missing_since = len(cluster.worker_spec), dict[Any, float]()
    loop = cluster.loop
    assert loop is not None

    def look() -> None:
        registered = {worker["name"] for worker in cluster.scheduler_info["workers"].values()}
        for name in cluster.worker_spec:
            if name in registered:
                missing_since.pop(name, None)
            elif time.monotonic() - missing_since.setdefault(name, time.monotonic()) > _LOST_S:
                _LOG.warning("worker %s did not come back in %g s; another takes its place", name, _LOST_S)
                del missing_since[name]
                if (nanny := cluster.workers.pop(name, None)) is not None:
                    loop.add_callback(nanny.close, timeout=1)
                cluster.scale(wanted)

    from tornado.ioloop import PeriodicCallback

    watch = PeriodicCallback(look, _POLL_S * 1000)
    loop.add_callback(watch.start)
    try:
        yield
    finally:
        loop.add_callback(watch.stop)


def _attempt(function: Callable[[Task], Result], task: Task) -> tuple[Result | None, GelosError | None]:
    """Do a task in a worker; our errors are results, or the worker would print tracebacks."""
    heed(_is_given_up())
    try:
        return function(task), None
    except GelosError as error:
        return None, error
    except GivenUpError:
        from distributed import Reschedule

        raise Reschedule from None


def _is_given_up() -> IsGivenUp:
    """Return what tells whether this thread's task is in vain: cancelled, or its worker closes."""
    from distributed import Status, get_worker

    worker = get_worker()
    key = worker.get_current_task()

    def check() -> bool:
        task = worker.state.tasks.get(key)
        is_cancelled = task is None or task.state == "cancelled"
        return is_cancelled or worker.status in (Status.closing, Status.closed)

    return check


def _task_outcome(task: Task, future: Any) -> Outcome[Task, Any]:
    outcome = outcome_of(task, future)
    if outcome.error is not None:
        return outcome
    value, error = outcome.get()
    return Outcome(task, value, error)


def scheduler_of(compute: ComputeConfig) -> str:
    """Return the address of the running scheduler that is to be used, or nothing."""
    return compute.scheduler or os.environ.get("DASK_SCHEDULER_ADDRESS", "")
