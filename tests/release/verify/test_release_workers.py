"""Worker processes of verify that are ended by others, and a verify that is ended itself."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[3]
DIES = """
import importlib, os, signal, sys
module = importlib.import_module("release.verify.release")
real = module.check_chips
def check_chips(*arguments, **settings):
    try:
        os.close(os.open(sys.argv[2], os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return real(*arguments, **settings)
    os.kill(os.getpid(), int(sys.argv[3]))
    return real(*arguments, **settings)
module.check_chips = check_chips
from release.commands import verify_command
verify_command([sys.argv[1], "--workers", "2"])
"""
STALLS = """
import importlib, os, signal, sys, time
processes = importlib.import_module("release.verify.processes")
chips = importlib.import_module("release.verify.chips")
processes._SECONDS = 3
real = chips._file_problems
def _file_problems(name, *arguments):
    if name == "dem_000003.tif" and sys.argv[2] == "crashes":
        os.kill(os.getpid(), signal.SIGSEGV)
    if name == "dem_000003.tif" and sys.argv[2] == "stalls":
        time.sleep(300)
    if name == "dem_000005.tif" and sys.argv[2] == "grows":
        bytearray(1 << 33)
    return real(name, *arguments)
chips._file_problems = _file_problems
from release.commands import verify_command
verify_command([sys.argv[1], "--workers", sys.argv[3]])
"""
WAITS = """
import importlib, sys, time
module = importlib.import_module("release.verify.release")
def _check_zip(*_, **__):
    open(sys.argv[2], "w").close()
    time.sleep(300)
module._check_zip = _check_zip
from release.commands import verify_command
verify_command([sys.argv[1], "--workers", "2"])
"""


def started(code: str, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": "."},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("death", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_worker_that_is_killed_costs_time_alone(
    folder: Path, tmp_path: Path, death: signal.Signals
) -> None:
    process = started(DIES, folder, tmp_path / "died", int(death))
    stdout, stderr = process.communicate(timeout=90)
    assert (process.returncode, stdout) == (0, f"{folder}: 0 faults, 0 warnings\n"), stderr
    assert "Traceback" not in stderr
    assert (tmp_path / "died").exists()


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("way", "file"), [("crashes", 3), pytest.param("stalls", 3, marks=pytest.mark.slow), ("grows", 5)]
)
def test_a_file_that_no_process_survives_is_one_fault(
    folder: Path, way: str, file: int, workers: int
) -> None:
    process = started(STALLS, folder, way, workers)
    stdout, stderr = process.communicate(timeout=90)
    assert process.returncode == 1, stderr
    assert stdout.startswith(
        f"dem_{file:06}.tif: cannot be checked: it takes more memory or time than it may"
    )
    assert stdout.count("\n") == 2, stdout
    assert "Traceback" not in stderr


def test_a_batch_system_ends_it_at_once_and_whole(folder: Path, tmp_path: Path) -> None:
    process = started(WAITS, folder, tmp_path / "waits")
    deadline = time.monotonic() + 60
    while not (tmp_path / "waits").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    workers = psutil.Process(process.pid).children()
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr, stderr
    assert workers
    assert psutil.wait_procs(workers, timeout=30)[1] == []
