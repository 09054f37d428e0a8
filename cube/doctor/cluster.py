"""The Dask cluster that a config or the environment names: whether it is there and fits."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

from cube.config.models import ComputeConfig
from cube.run.dask_engine import dask_logs_are_ours, scheduler_of, version_problems

from .check import Check

_CONNECT_S = 10


def check_cluster(compute: ComputeConfig) -> Iterator[Check]:
    """Ask the scheduler, if one is named, for its workers and their versions."""
    address = scheduler_of(compute)
    if not address:
        return
    with dask_logs_are_ours():
        from distributed import Client

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its table of versions: ours is a line
            client = Client(address, timeout=_CONNECT_S, set_as_default=False)
    except (OSError, ValueError) as error:
        text = f"compute.scheduler {address}: no scheduler answers ({error})"
        yield Check("scheduler", ok=False, found=text, mend="start it: dask scheduler; or mend the address")
        return
    with client:
        problems = list(version_problems(client))
        workers = len(client.nthreads())
    for problem in problems:
        found, _, mend = problem.partition("; ")
        yield Check("scheduler", ok=False, found=f"{address}: {found}", mend=mend)
    if not problems:
        yield Check("scheduler", ok=True, found=f"{address} has {workers} workers of the same versions")
