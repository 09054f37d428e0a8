"""The engine that is the threads of this process."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Generator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

from cube.retry import heed

from .named_locks import stop_if_lost
from .tasks import AHEAD, Outcome, Result, Task, TaskSource, outcome_of

_THREADS_PER_CORE = 2
"""Reads wait on the network."""


class ThreadEngine:
    """The threads of this process."""

    def __init__(self, threads: int | None = None) -> None:
        self.slots = threads or _THREADS_PER_CORE * (os.cpu_count() or 1)

    def run(
        self, function: Callable[[Task], Result], tasks: TaskSource[Task], scope: str
    ) -> Generator[Outcome[Task, Result]]:
        """Yield an outcome per task, as they come."""
        del scope
        given_up = threading.Event()
        with ThreadPoolExecutor(self.slots, initializer=heed, initargs=(given_up.is_set,)) as pool:
            pending: dict[Future[Result], Task] = {}
            try:
                while True:
                    while some := tasks.take(self.slots * AHEAD - len(pending)):
                        pending |= {pool.submit(function, task): task for task in some}
                    if not pending:
                        return
                    done, _ = wait(pending, return_when=FIRST_COMPLETED)
                    for future in done:
                        stop_if_lost()
                        yield outcome_of(pending.pop(future), future)
            finally:
                given_up.set()
                pool.shutdown(wait=True, cancel_futures=True)

    def wait_for_earlier_tasks(self, scope: str) -> None:
        """Return at once: threads die with their client."""
