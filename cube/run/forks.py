"""What lazy arrays need after a fork, such as that of torch's ``DataLoader`` with workers."""

from __future__ import annotations

import os
import threading
from functools import cache

import dask.threaded


@cache
def renew_threads_after_forks() -> None:
    """Let arrays be computed in forked children of a process that has computed some itself.

    Dask keeps its pool of threads for the life of the process. A fork copies the pool and none of
    its threads, so that a child's first ``compute()`` would wait for ever. Zarr and fsspec look
    after their own threads.
    """
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_forget_pools)


def _forget_pools() -> None:
    dask.threaded.default_pool = None
    dask.threaded.pools.clear()
    dask.threaded.pools_lock = threading.Lock()  # another thread may have held it
    dask.threaded.main_thread = threading.current_thread()
