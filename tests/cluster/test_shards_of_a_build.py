"""Runs of a share on one working folder, without a scheduler, some of them killed: the same as one run."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from shard_jobs import WAIT_S, Jobs, wait_until

from cube.config.models import Config
from cube.run.layout import Layout


def is_begun(config: Config, aoi: int) -> Callable[[], object]:
    """Return what tells whether an area has a block on disk and is not finished."""
    building = Path(Layout.of(config).building.url)
    return lambda: list(building.glob(f"aoi_{aoi:06}_*/*.json"))


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
    with Jobs("build_cubes.py", config) as jobs:
        both = [jobs.start(number, 2) for number in (1, 2)]
        said = [job.communicate(timeout=WAIT_S)[0].decode() for job in both]
    assert [job.returncode for job in both] == [0, 0], said
    assert_same(config, demo)


@pytest.mark.slow
def test_eight_shares_of_which_two_are_killed(
    demo_config: Callable[..., Config], demo: Config, tmp_path: Path
) -> None:
    config = demo_config(tmp_path)
    with Jobs("build_cubes.py", config) as jobs:
        first = {number: jobs.start(number, 8) for number in range(1, 9)}
        for number in (5, 6):  # areas 4 and 5
            wait_until(is_begun(config, number - 1), first[number])
            first[number].kill()
        codes = {number: code_of(job) for number, job in first.items()}
        assert [number for number, code in codes.items() if code != 0] == [5, 6]
        assert [code_of(jobs.start(number, 8)) for number in (5, 6)] == [0, 0]
    assert_same(config, demo)
