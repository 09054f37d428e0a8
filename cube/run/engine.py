"""Where work runs: a Dask cluster or threads of this process, with the same results."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING

from cube.config.models import ComputeConfig

from .dask_engine import DaskEngine, scheduler_of
from .tasks import Engine
from .thread_engine import ThreadEngine

if TYPE_CHECKING:
    pass

_LOG = logging.getLogger(__name__)


@contextlib.contextmanager
def open_engine(compute: ComputeConfig) -> Iterator[Engine]:
    """Give access to what runs the work; what it starts for that is stopped at the end.

    Parameters
    ----------
    compute
        ``scheduler`` (or ``DASK_SCHEDULER_ADDRESS``) names a running cluster; ``workers: 0`` means
        threads of this process; otherwise a LocalCluster is sized from the machine.
    """
    if compute.workers == 0 and not scheduler_of(compute):
        yield ThreadEngine(compute.threads)
        return
    with contextlib.ExitStack() as stack:
        yield DaskEngine(compute, stack)
