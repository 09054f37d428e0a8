"""No kill, at whatever moment, costs more than the blocks that were being made."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from chaos import Storm, files, storm
from crash_points import Death

from cube.build.plans import plan_cubes
from cube.config.models import Config
from cube.scenes.plan import CubePlan
from cube.testing import Archive

pytestmark = pytest.mark.slow  # minutes; test_a_killed_client_is_survived is one that is not

HERE = Path(__file__).parent
TINY = (
    "aoi.include_indices=[5]",
    's2l2a.time_ranges=["2023-01-01/2023-03-31"]',
    "s2l2a.bands=[B05]",
    "s2l2a.cloud_band=SCL",
    "s1rtc=",
    "lc2l2=",
    "dem=",
)
"""A cube of two blocks and three arrays."""


def crash_points(archive: Archive, folder: Path, *arguments: str) -> list[dict[str, Any]]:
    """Return the records of builds that died, and were completed by another."""
    settings = (f"catalog.url={archive.items}", f"aoi.path={archive.aois}", *TINY)
    sets = [part for setting in settings for part in ("--set", setting)]
    config = HERE.parents[1] / "configs" / "demo.yaml"
    command = [sys.executable, HERE / "crash_points.py", folder, config, *sets, *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    records = [json.loads(line) for line in done.stdout.splitlines()]
    return [record for record in records if "step" in record]


def assert_harmless(records: list[dict[str, Any]]) -> None:
    harmed = [r for r in records if not r["killed"] or r["misread"] or r["exit"] != 0 or r["differs"]]
    assert not harmed, "\n".join(json.dumps(record) for record in harmed)


def test_a_kill_at_every_step_of_a_build_costs_no_finished_block(
    sample_archive: Archive, tmp_path: Path
) -> None:
    records = crash_points(sample_archive, tmp_path, "--deaths", Death.KILL)
    assert_harmless(records)
    assert len(records) > 90
    steps = " ".join(r["step"] for r in records)
    for what in ("plans/", "building/aoi_000005_", "blocks/", "/c/0/0", ".zarr/.staging"):
        assert what in steps
    assert "os.rename cubes/.staging" in steps  # a chunk
    assert [r for r in records if r["fetched_twice"]] == []


@pytest.mark.parametrize(("death", "stride"), [(Death.KILL, 2), (Death.CONTENTS, 17), (Death.NAMES, 17)])
def test_a_build_that_loses_a_scene_may_die_at_any_step(
    sample_archive: Archive, demo_config: Callable[..., Config], tmp_path: Path, death: Death, stride: int
) -> None:
    damaged = tmp_path / "archive"
    shutil.copytree(sample_archive.path, damaged, copy_function=os.link)
    [(_, plan)] = plan_cubes(demo_config(tmp_path / "plan", *TINY))
    assert isinstance(plan, CubePlan)
    (damaged / next(plan.sensor("s2l2a").scenes).assets["B05"].href).unlink()
    here = replace(
        sample_archive, path=damaged, items=damaged / sample_archive.items.name, aois=sample_archive.aois
    )
    settings = ("--set", "compute.retry_wait_s=0.01", "--deaths", death, "--stride", str(stride))
    records = crash_points(here, tmp_path / "dead", *settings)
    assert_harmless(records)
    assert death is not Death.KILL or any("lost/" in record["step"] for record in records)


@pytest.mark.parametrize("death", [Death.CONTENTS, Death.NAMES])
def test_a_power_cut_between_two_writes_is_survived(
    sample_archive: Archive, tmp_path: Path, death: Death
) -> None:
    records = crash_points(sample_archive, tmp_path, "--deaths", death, "--stride", "11")
    assert_harmless(records)
    assert len(records) > 15


@pytest.mark.parametrize(("death", "stride"), [(Death.KILL, 3), (Death.CONTENTS, 13), (Death.NAMES, 13)])
def test_a_build_in_shards_may_die_at_any_step(
    sample_archive: Archive, tmp_path: Path, death: Death, stride: int
) -> None:
    """A shard is there or not; none is written twice, or in part."""
    settings = ("--set", "store.shards=block", "--deaths", death, "--stride", str(stride))
    records = crash_points(sample_archive, tmp_path, *settings)
    assert_harmless(records)
    assert len(records) > 12
    assert death is not Death.KILL or [r for r in records if r["fetched_twice"]] == []


@pytest.mark.parametrize("to_shards", [True, False])
def test_a_build_that_takes_blocks_into_another_form_may_die_at_any_step(
    sample_archive: Archive, tmp_path: Path, *, to_shards: bool
) -> None:
    """A version with another band: land cover is taken from the finished cube, which has the other form."""
    forms = ["store.shards=none", "store.shards=block"][:: 1 if to_shards else -1]
    settings = ("--set", forms[0], "--deaths", Death.KILL, "--stride", "7")
    then = ("--then", forms[1], "--then", "s2l2a.bands=[B04,B05]")
    records = crash_points(sample_archive, tmp_path, *settings, *then)
    assert_harmless(records)
    assert len(records) > 12


@pytest.mark.parametrize("death", list(Death))
def test_a_cube_is_whole_while_it_is_changed(sample_archive: Archive, tmp_path: Path, death: Death) -> None:
    """A version asks for another band: at any death the old cube is whole, and the new one is or is not there."""
    records = crash_points(
        sample_archive, tmp_path, "--deaths", death, "--stride", "11", "--then", "s2l2a.bands=[B04,B05]"
    )
    assert_harmless(records)
    assert len(records) > 5


def test_kills_of_client_scheduler_and_workers_change_no_byte(
    sample_archive: Archive, tmp_path: Path
) -> None:
    shutil.copytree(sample_archive.path, tmp_path / "archive")
    found = storm(tmp_path, kills=25, seed=1, aois=[4, 5])
    assert found.broken == []
    assert sum(found.kills.values()) == 25
    assert set(found.kills) == {"client", "worker", "scheduler"}
    assert found.blocks_kept > 0


def test_a_build_whose_workers_are_killed_every_few_seconds_finishes(
    sample_archive: Archive, tmp_path: Path
) -> None:
    """Its own workers, that is: those of the cluster that it starts on this machine."""
    (tmp_path / "archive").symlink_to(sample_archive.path)
    with Storm(tmp_path, seed=2, aois=[5], latency_s=0.2) as one:
        expected = one.undisturbed()
        one.start_client("--set", "compute.workers=2", "--set", "compute.threads=1")
        client = one.cluster.processes["client"]
        killed = seen = 0
        deadline = time.monotonic() + 240
        while client.poll() is None:
            assert time.monotonic() < deadline, (tmp_path / "client.log").read_text()[-2000:]
            time.sleep(2)
            try:
                children = psutil.Process(client.pid).children()
                workers = [p for p in children if "spawn_main" in " ".join(p.cmdline())]
            except psutil.Error:  # it has just ended, or one of them
                continue
            # On a machine that is busy a worker may take seconds to start: it gets to do something
            # before it is killed.
            if workers and one.done() > seen:
                seen = one.done()
                one.random.choice(workers).kill()
                killed += 1
        assert client.returncode == 0, (tmp_path / "client.log").read_text()[-2000:]
        assert killed >= 3
        made = files(one.working)
        assert [name for name in made.keys() | expected.keys() if made.get(name) != expected.get(name)] == []
