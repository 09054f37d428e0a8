"""Chips cut by runs of a share, as a batch system starts them, one of them killed: the bytes of one run."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from chipping.chip import chip
from cube.config.models import Config
from cube.run.layout import EXPORTING, Layout
from release import make_release

ROOT = Path(__file__).parents[2]
WAIT_S = 300
SHARES = 3


def start(config: Config, number: int) -> subprocess.Popen[bytes]:
    settings = {
        "catalog.url": config.catalog.url,
        "aoi.path": config.aoi.path,
        "directory.working": config.directory.working,
        "directory.output": config.directory.output,
        "compute.workers": 0,
    }
    sets = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    command = [sys.executable, ROOT / "scripts/chip.py", "-c", ROOT / "configs/demo.yaml", *sets]
    return subprocess.Popen(
        [*command, "--shard", f"{number}/{SHARES}"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def contents(config: Config) -> dict[str, bytes]:
    """All files of a version, but locks and logs."""
    root = Path(Layout.of(config).root.url)
    found = (path for path in sorted(root.rglob("*")) if path.is_file())
    return {
        name: path.read_bytes()
        for path in found
        if not (name := str(path.relative_to(root))).startswith((".lock", "logs"))
    }


def wait_for_its_first_chip(config: Config, job: subprocess.Popen[bytes], number: int) -> None:
    """Wait until a run has begun to write its share's chips, and some chip is there."""
    root = Path(Layout.of(config).root.url)
    deadline = time.monotonic() + WAIT_S
    while not (
        list(root.glob(f"choosing-*/{number:04}-of-*.begun")) and list(root.glob("chips/*/chip.json"))
    ):
        assert job.poll() is None, ((job.stdout and job.stdout.read()) or b"").decode()
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.mark.slow
def test_three_shares_of_which_one_is_killed_and_begun_again(
    demo_config: Callable[..., Config], demo: Config, tmp_path: Path
) -> None:
    configs = [demo_config(tmp_path / name) for name in ("one", "shares")]
    for config in configs:
        shutil.copytree(demo.directory.working, config.directory.working)
    whole, shared = configs
    chip(whole)
    with contextlib.ExitStack() as stack:
        jobs = {number: stack.enter_context(start(shared, number)) for number in range(1, SHARES + 1)}
        for job in jobs.values():
            stack.callback(job.kill)
        wait_for_its_first_chip(shared, jobs[2], 2)
        jobs[2].kill()
        jobs[2].wait(WAIT_S)
        again = stack.enter_context(start(shared, 2))
        stack.callback(again.kill)
        said = [job.communicate(timeout=WAIT_S)[0].decode() for job in (jobs[1], jobs[3], again)]
        assert [job.returncode for job in (jobs[1], jobs[3], again)] == [0, 0, 0], said
    assert not Layout.of(shared).root.exists(EXPORTING)
    found, expected = contents(shared), contents(whole)
    assert found.keys() == expected.keys()
    assert [name for name in found if found[name] != expected[name]] == []
    assert make_release(shared).fingerprint == make_release(whole).fingerprint
