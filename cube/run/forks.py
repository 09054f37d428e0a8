"""Children that a process forks: they forget the threads of their parent, which they have not."""

from __future__ import annotations

import os
import sys
import threading
from functools import cache


@cache
def survive_forks() -> None:
    """Let what was computed lazily be computed in forked children, too; once a process.

    Dask keeps its pool of threads in its module. A child, such as a loader's worker, inherits the
    pool without the threads, and would wait for them for ever; zarr and fsspec see to theirs.
    """
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_forget_pools)


def _forget_pools() -> None:
    threaded = sys.modules.get("dask.threaded")
    if threaded is not None:
        threaded.__dict__.update(default_pool=None, pools_lock=threading.Lock())
        threaded.__dict__["pools"].clear()
