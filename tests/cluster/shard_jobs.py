"""Runs of a share, as a batch system starts them."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from cube.config.models import Config

ROOT = Path(__file__).parents[2]
WAIT_S = 300


class Jobs(contextlib.ExitStack):
    """Runs of a script on a config; what is at work at the end is killed."""

    def __init__(self, script: str, config: Config) -> None:
        super().__init__()
        self._script, self._config = script, config

    def start(self, number: int, count: int) -> subprocess.Popen[bytes]:
        """Begin the run of a share."""
        settings = {
            "catalog.url": self._config.catalog.url,
            "aoi.path": self._config.aoi.path,
            "directory.working": self._config.directory.working,
            "directory.output": self._config.directory.output,
            "compute.workers": 0,
        }
        sets = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
        command = [sys.executable, ROOT / "scripts" / self._script, "-c", ROOT / "configs/demo.yaml", *sets]
        job = subprocess.Popen(
            [*command, "--shard", f"{number}/{count}"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self.enter_context(job)
        self.callback(job.kill)
        return job


def wait_until(is_so: Callable[[], object], job: subprocess.Popen[bytes]) -> None:
    """Wait for what a run that is at work brings about."""
    deadline = time.monotonic() + WAIT_S
    while not is_so():
        assert job.poll() is None, ((job.stdout and job.stdout.read()) or b"").decode()
        assert time.monotonic() < deadline
        time.sleep(0.002)
