"""Runs of a share on one working folder, without a scheduler, some of them killed: the same as one run."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cube.config.models import Config
from cube.run.layout import Layout

ROOT = Path(__file__).parents[2]
WAIT_S = 300


class Jobs(contextlib.ExitStack):
    """Runs of a share, as a batch system starts them; what is at work at the end is killed."""

    def start(self, config: Config, number: int, count: int) -> subprocess.Popen[bytes]:
        """Begin one."""
        job = self.enter_context(start(config, number, count))
        self.callback(job.kill)
        return job


def start(config: Config, number: int, count: int) -> subprocess.Popen[bytes]:
    settings = {
        "catalog.url": config.catalog.url,
        "aoi.path": config.aoi.path,
        "directory.working": config.directory.working,
        "directory.output": config.directory.output,
        "compute.workers": 0,
    }
    sets = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    command = [sys.executable, ROOT / "scripts/build_cubes.py", "-c", ROOT / "configs/demo.yaml", *sets]
    return subprocess.Popen(
        [*command, "--shard", f"{number}/{count}"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def wait_for_a_marker(config: Config, aoi: int, job: subprocess.Popen[bytes]) -> None:
    """Wait until an area has a block on disk and is not finished."""
    building = Path(Layout.of(config).building.url)
    deadline = time.monotonic() + WAIT_S
    while not list(building.glob(f"aoi_{aoi:06}_*/*.json")):
        assert job.poll() is None, ((job.stdout and job.stdout.read()) or b"").decode()
        assert time.monotonic() < deadline
        time.sleep(0.002)


def code_of(job: subprocess.Popen[bytes]) -> int:
    job.communicate(timeout=WAIT_S)
    return job.returncode


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def rows(config: Config) -> list[dict[str, object]]:
    """Return the areas' rows, but for how many runs began to build each."""
    features = json.loads(Layout.of(config).root.read("aoi_metadata.geojson"))["features"]
    return [feature["properties"] | {"tries": 0} for feature in features]


def assert_same(config: Config, demo: Config) -> None:
    made, expected = (contents(Path(Layout.of(one).cubes.url)) for one in (config, demo))
    assert made.keys() == expected.keys()
    assert [name for name in made if made[name] != expected[name]] == []
    assert rows(config) == rows(demo)
    root = Path(Layout.of(config).root.url)
    assert not list((root / "shards").glob("*"))
    assert not list(root.glob(".lock-*"))
    assert not list(Path(Layout.of(config).building.url).glob("*"))


@pytest.mark.slow
def test_two_shares_make_what_one_run_makes(
    demo_config: Callable[..., Config], demo: Config, tmp_path: Path
) -> None:
    config = demo_config(tmp_path)
    with Jobs() as jobs:
        both = [jobs.start(config, number, 2) for number in (1, 2)]
        said = [job.communicate(timeout=WAIT_S)[0].decode() for job in both]
    assert [job.returncode for job in both] == [0, 0], said
    assert_same(config, demo)


@pytest.mark.slow
def test_eight_shares_of_which_two_are_killed(
    demo_config: Callable[..., Config], demo: Config, tmp_path: Path
) -> None:
    config = demo_config(tmp_path)
    with Jobs() as jobs:
        first = {number: jobs.start(config, number, 8) for number in range(1, 9)}
        for number in (5, 6):  # areas 4 and 5
            wait_for_a_marker(config, number - 1, first[number])
            first[number].kill()
        codes = {number: code_of(job) for number, job in first.items()}
        assert [number for number, code in codes.items() if code != 0] == [5, 6]
        assert [code_of(jobs.start(config, number, 8)) for number in (5, 6)] == [0, 0]
    assert_same(config, demo)
