"""A network that is down, as whoever runs the command meets it: real processes, sockets and signals."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cube.testing import Archive
from cube.testing.service import StandIn

ROOT = Path(__file__).parents[2]
BLOBS = "/sentinel2l2a01/*"
FEW = ("s2l2a.bands=[B05]", "lc2l2=", "s1rtc=", "dem=")

Run = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def run(sample_archive: Archive, listening: str, tmp_path: Path) -> Run:
    """Return a function that begins a build: ``run(url, environment, "key=value", ...)``."""

    def begin(url: str, environment: dict[str, str], *settings: str) -> subprocess.Popen[str]:
        every = (
            f"catalog.url={url}",
            "catalog.sign=planetary-computer",
            f"aoi.path={sample_archive.aois}",
            f"directory.working={tmp_path / 'working'}",
            f"directory.output={tmp_path / 'output'}",
            *FEW,
            *settings,
        )
        sets = [part for setting in every for part in ("--set", setting)]
        script, config = str(ROOT / "scripts/build_cubes.py"), str(ROOT / "configs/demo.yaml")
        return subprocess.Popen(
            [sys.executable, "-c", listening, script, "-c", config, *sets],
            env={**os.environ, **environment, "PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    return begin


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.05)


def ended(process: subprocess.Popen[str], how: int) -> tuple[float, str]:
    """Send a signal; return the seconds until the process ends, and what it said."""
    begun = time.monotonic()
    process.send_signal(how)
    said, _ = process.communicate(timeout=60)
    return time.monotonic() - begun, said


def test_a_network_that_is_down_is_one_warning_one_error_and_exit_3(run: Run) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{probe.getsockname()[1]}"
    process = run(f"http://{place}/stac", {}, "compute.workers=0", "catalog.retry_longest_wait_s=0.2")
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 3, said
    warning, error = said.strip().splitlines()  # of six AOIs
    assert warning == (
        f"warning: {place} cannot be reached: the connection is refused; it is tried 5 times in all, "
        "then the run stops"
    )
    assert error.startswith(f"error: {place} cannot be reached: the connection is refused, 5 times in a row;")


@pytest.mark.slow
def test_blobs_that_cannot_be_reached_stop_a_run_with_workers(run: Run, sample_archive: Archive) -> None:
    with StandIn(sample_archive.path) as service:
        dead = {**service.environment(), "GDAL_HTTP_PROXY": "127.0.0.1:9"}
        process = run(service.url, dead, "compute.workers=1", "compute.retry_longest_wait_s=0.2")
        said, _ = process.communicate(timeout=100)
    assert process.returncode == 3, said
    warnings = [line for line in said.splitlines() if line.startswith("warning: ")]
    assert warnings
    assert all(
        "cannot be reached: the connection is refused; it is tried 5 times" in line for line in warnings
    )
    assert said.count("5 times in a row") == 1
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("what", "pattern", "asked", "workers", "how"),
    [
        ("search", "*/search", 1, 0, signal.SIGINT),
        pytest.param("blob", BLOBS, 12, 0, signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param("blob", BLOBS, 12, 1, signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param("blob", BLOBS, 12, 1, signal.SIGINT, marks=pytest.mark.slow),
    ],
)
def test_waits_between_tries_end_with_the_run(
    run: Run, sample_archive: Archive, what: str, pattern: str, asked: int, workers: int, how: int
) -> None:
    """They would last 30 s on average; a cluster's processes take a while to end besides."""
    waits: tuple[Any, ...] = ("catalog.retry_wait_s=60", "compute.retry_wait_s=60")
    with StandIn(sample_archive.path) as service:
        service.fail(pattern, 503)
        process = run(service.url, service.environment(), f"compute.workers={workers}", *waits)
        wait_for(lambda: service.counts()[what] >= asked)
        time.sleep(2)  # GDAL's own tries end, and the long waits begin
        seconds, said = ended(process, how)
    assert process.returncode == 130, said
    assert seconds < (12 if workers else 5), said
    assert "Traceback" not in said
