"""Engines: what a cluster does when its parts die. Tasks leave their traces in files, which any process can write."""

from __future__ import annotations

import importlib.util
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from distributed import LocalCluster

from cube.config.models import ComputeConfig
from cube.errors import ClusterError, ConfigError
from cube.run import dask_engine
from cube.run.engine import open_engine
from cube.run.tasks import Engine, Tasks

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


@pytest.mark.slow
def test_a_task_that_loses_its_worker_more_often_than_dask_forgives_is_still_done(tmp_path: Path) -> None:
    with open_engine(ComputeConfig(workers=1, threads=1)) as engine:
        outcomes = list(engine.run(die_at_first, Tasks([tmp_path]), SCOPE))
    assert [outcome.get() for outcome in outcomes] == [6]


def test_a_cluster_without_a_worker_is_not_waited_for_in_silence(caplog: pytest.LogCaptureFixture) -> None:
    with (
        LocalCluster(n_workers=0, dashboard_address=":0") as cluster,
        open_engine(ComputeConfig(scheduler=cluster.scheduler_address)) as engine,
    ):
        assert engine.slots == 1
        assert f"{cluster.scheduler_address} has no worker yet" in caplog.text


@contextmanager
def process(code: str, told: str) -> Iterator[str]:
    """Run a process of Dask until the ``with`` ends; yields the line in which it told of itself."""
    environment = {**os.environ, "PYTHONPATH": f"{Path(__file__).parent}:{Path(__file__).parents[3]}"}
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as running:
        assert running.stderr is not None
        try:
            yield next(line for line in running.stderr if told in line)
        finally:
            running.kill()


def dask_process(kind: str, *arguments: str, versions: dict[str, str | None] | None = None) -> str:
    """Return code that runs a scheduler or worker which tells other versions of some packages."""
    words = [*arguments, "--no-dashboard", "--host", "127.0.0.1"]
    return (
        f"import distributed.versions as v; told = {versions or {}!r}; known = v._version_cached\n"
        "v._version_cached = lambda name: told[name] if name in told else known(name)\n"
        f"from distributed.cli.dask_{kind} import main\nmain({words!r})"
    )


def pid_after(seconds: float) -> int:
    """Return which process waits for so long."""
    time.sleep(seconds)
    return os.getpid()


def test_a_cluster_is_started_only_where_threads_have_worked_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cube.run.engine._SMALL_S", 0.5)
    monkeypatch.delenv("DASK_SCHEDULER_ADDRESS", raising=False)
    for count in (3, 60):
        with open_engine(ComputeConfig()) as engine:
            pids = [outcome.get() for outcome in engine.run(pid_after, Tasks([0.1] * count), SCOPE)]
        assert len(pids) == count
        own = list(itertools.takewhile(os.getpid().__eq__, pids))
        assert len(own) == count if count == 3 else 3 <= len(own) < count
        assert os.getpid() not in pids[len(own) :]


def test_a_scheduler_that_goes_away_is_said_in_one_line(tmp_path: Path) -> None:
    with ExitStack() as scheduler:
        said = scheduler.enter_context(process(dask_process("scheduler", "--port", "0"), "Scheduler at:"))
        address = said.split("Scheduler at:")[1].strip()
        worker = dask_process("worker", address, "--nthreads", "1", "--no-nanny")

        def go_away() -> None:
            wait_until_there(tmp_path / "running")
            scheduler.close()

        with process(worker, "Registered to:"), ThreadPoolExecutor(1) as pool:
            going = pool.submit(go_away)
            with (
                pytest.raises(ClusterError, match=r"tcp://.*: the Dask scheduler went away; .* run again"),
                open_engine(ComputeConfig(scheduler=address)) as engine,
            ):
                list(engine.run(slow, Tasks([tmp_path]), SCOPE))
            going.result(timeout=60)
        assert not (tmp_path / "ended").exists()


@pytest.mark.parametrize(
    ("versions", "words"),
    [
        ({"gelos-lc": None}, "has no gelos-lc, this client "),
        ({"gelos-lc": "0.40.0"}, "has gelos-lc 0.40.0, this client "),
        ({"rasterio": "1.3.0"}, "has rasterio 1.3.0, this client "),
    ],
)
def test_a_worker_without_the_package_or_of_other_versions_is_one_line(
    versions: dict[str, str | None], words: str
) -> None:
    with process(dask_process("scheduler", "--port", "0"), "Scheduler at:") as said:
        address = said.split("Scheduler at:")[1].strip()
        worker = dask_process("worker", address, "--nthreads", "1", "--no-nanny", versions=versions)
        with process(worker, "Registered to:"), pytest.raises(ConfigError) as raised:  # noqa: SIM117
            with open_engine(ComputeConfig(scheduler=address)) as engine:
                list(engine.run(slow, Tasks([Path()]), SCOPE))
    said = str(raised.value)
    assert said.startswith(f"compute.scheduler {address}: worker tcp://127.0.0.1:")
    assert words in said
    assert said.endswith("install the same versions there (requirements.lock), and start it again")
    assert "\n" not in said


STOPPED = """
import signal, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_engine import SCOPE, slow
from cube.config.models import ComputeConfig
from cube.run.engine import open_engine
from cube.run.tasks import Tasks

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with open_engine(ComputeConfig(workers=1, threads=1)) as engine:
        list(engine.run(slow, Tasks([Path(sys.argv[1])]), SCOPE))
"""


@pytest.mark.parametrize("interrupts", [1, 2])
def test_ctrl_c_ends_a_cluster_at_once_whatever_it_is_at(tmp_path: Path, interrupts: int) -> None:
    """A block that nobody wants any more is not waited for, which took 4 s; nor twice, which took 10."""
    script = tmp_path / "stopped.py"
    script.write_text(STOPPED)
    here = Path(__file__)
    process = subprocess.Popen(
        [sys.executable, script, tmp_path, here.parent],
        env={**os.environ, "PYTHONPATH": str(here.parents[3])},
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until_there(tmp_path / "running")
    began = time.monotonic()
    for _ in range(interrupts):
        process.send_signal(signal.SIGINT)
        time.sleep(0.2)
    _, stderr = process.communicate(timeout=60)
    assert time.monotonic() - began < 3.5
    assert stderr.splitlines()[-1] == "KeyboardInterrupt"
    assert not (tmp_path / "ended").exists()


def test_a_dashboard_is_named_only_where_it_answers(cluster: LocalCluster) -> None:
    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html><title>Dask: Status</title></html>")

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    link = f"http://127.0.0.1:{server.server_port}/status"
    assert dask_engine.is_dashboard(link)
    server.shutdown()
    server.server_close()
    assert not dask_engine.is_dashboard(link)
    has_bokeh = importlib.util.find_spec("bokeh") is not None
    assert dask_engine.is_dashboard(cluster.dashboard_link) == has_bokeh
