"""Engines: what a cluster does when its parts die. Tasks leave their traces in files, which any process can write."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cloudpickle
import pytest
from distributed import LocalCluster

from cube.config.models import ComputeConfig
from cube.errors import ClusterError
from cube.run.engine import open_engine
from cube.run.tasks import Engine, Tasks

# Workers in processes of their own cannot import a test.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

SCOPE = "/data/interim/v1"


def wait_until_there(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} never came"
        time.sleep(0.01)


def slow(folder: Path) -> None:
    """Say that it runs, and end only when told to."""
    (folder / "running").touch()
    wait_until_there(folder / "go")
    (folder / "ended").touch()


def die_at_first(folder: Path) -> int:
    """Kill the worker that runs this, six times; more often than a scheduler forgives."""
    deaths = len(list(folder.iterdir()))
    if deaths < 6:
        (folder / str(deaths)).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return deaths


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, protocol="tcp://", dashboard_address=":0"
    ) as running:
        yield running


@pytest.fixture
def external(cluster: LocalCluster) -> Iterator[Engine]:
    with open_engine(ComputeConfig(scheduler=cluster.scheduler_address)) as engine:
        yield engine


def test_a_killed_clients_task_is_waited_for_before_the_next_run_touches_its_scope(
    cluster: LocalCluster, external: Engine, tmp_path: Path
) -> None:
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[3]);"
        "from test_engine import SCOPE, slow; from cube.config.models import ComputeConfig; from cube.run.engine import open_engine; from cube.run.tasks import Tasks\n"
        "with open_engine(ComputeConfig(scheduler=sys.argv[1])) as e: list(e.run(slow, Tasks([Path(sys.argv[2])]), SCOPE))"
    )
    here = Path(__file__)
    client = subprocess.Popen(
        [sys.executable, "-c", code, cluster.scheduler_address, str(tmp_path), str(here.parent)],
        cwd=here.parents[3],
    )
    wait_until_there(tmp_path / "running")
    client.kill()
    client.wait()
    external.wait_for_earlier_tasks("/data/interim/v2")  # another scope is free at once
    assert not (tmp_path / "ended").exists()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(external.wait_for_earlier_tasks, SCOPE)
        time.sleep(1)
        assert not waiting.done()
        (tmp_path / "go").touch()
        waiting.result(timeout=60)
    assert (tmp_path / "ended").exists()


def test_a_task_that_loses_its_worker_more_often_than_dask_forgives_is_still_done(tmp_path: Path) -> None:
    with open_engine(ComputeConfig(workers=1, threads=1)) as engine:
        outcomes = list(engine.run(die_at_first, Tasks([tmp_path]), SCOPE))
    assert [outcome.get() for outcome in outcomes] == [6]


def test_a_scheduler_that_goes_away_is_said_in_one_line(tmp_path: Path) -> None:
    cluster = LocalCluster(n_workers=1, processes=False, protocol="tcp://", dashboard_address=":0")

    def close() -> None:
        wait_until_there(tmp_path / "running")
        (tmp_path / "go").touch()
        cluster.close()

    with ThreadPoolExecutor(1) as pool:
        closing = pool.submit(close)
        with (
            pytest.raises(ClusterError, match=r"tcp://.*: the Dask scheduler went away; .* run again"),
            open_engine(ComputeConfig(scheduler=cluster.scheduler_address)) as engine,
        ):
            list(engine.run(slow, Tasks([tmp_path]), SCOPE))
        closing.result(timeout=60)


def test_a_cluster_without_a_worker_is_not_waited_for_in_silence(caplog: pytest.LogCaptureFixture) -> None:
    with (
        LocalCluster(n_workers=0, dashboard_address=":0") as cluster,
        open_engine(ComputeConfig(scheduler=cluster.scheduler_address)) as engine,
    ):
        assert engine.slots == 1
        assert f"{cluster.scheduler_address} has no worker yet" in caplog.text
