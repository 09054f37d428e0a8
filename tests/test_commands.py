"""The commands as a person runs them: exit codes, one-line errors, interruption."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cube.config.models import Config

ROOT = Path(__file__).parents[1]


def run(*arguments: str | Path, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def overrides(config: Config) -> list[str]:
    keys = {
        "catalog.url": config.catalog.url,
        "aoi.path": config.aoi.path,
        "directory.working": config.directory.working,
        "directory.output": config.directory.output,
    }
    return [part for key, value in keys.items() for part in ("--set", f"{key}={value}")]


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("s2l2a.cloud_covr=3", "did you mean s2l2a.cloud_cover?"),
        ("s2l2a.cloud_cover=many", "s2l2a.cloud_cover: found 'many'"),
        ("aoi.path=nowhere.geojson", "aoi.path: the AOI file is nowhere"),
        ("aoi.path=broken.geojson", "AOI 0: has no geometry"),
        ("catalog.url=nowhere.json", "catalog.url: no such file"),
        ("chips.chip_size=970", "is not a multiple of s2l2a.resolution"),
        ("directory.working=/proc/nowhere", "directory.working"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(
    demo_config: Callable[..., Config], tmp_path: Path, setting: str, words: str
) -> None:
    broken = {"type": "FeatureCollection", "features": [{"type": "Feature", "geometry": None}]}
    (tmp_path / "broken.geojson").write_text(json.dumps(broken))
    setting = setting.replace("broken.geojson", str(tmp_path / "broken.geojson"))
    config = demo_config(tmp_path)
    done = run("scripts/build_cubes.py", "-c", "configs/demo.yaml", *overrides(config), "--set", setting)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr


def test_usage_errors_exit_2() -> None:
    assert run("scripts/build_cubes.py").returncode == 2
    assert run("scripts/build_cubes.py", "-c", "nowhere.yaml").returncode == 2


def test_a_dry_run_builds_nothing(demo_config: Callable[..., Config], tmp_path: Path) -> None:
    config = demo_config(tmp_path)
    done = run("scripts/build_cubes.py", "-c", "configs/demo.yaml", *overrides(config), "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "no scene for 2023-07-01/2023-09-30" in " ".join(done.stdout.split())
    assert not (Path(config.directory.working) / "demo" / "cubes").exists()


def test_ctrl_c_and_a_batch_system_stop_in_seconds_and_the_next_run_goes_on(
    demo_config: Callable[..., Config], tmp_path: Path, listening: str
) -> None:
    config = demo_config(tmp_path)
    command = ["scripts/build_cubes.py", "-c", "configs/demo.yaml", *overrides(config), "--aoi", "0", "5"]
    for setting in ("compute.workers=1", "s2l2a.bands=[B02, B03, B04]", "lc2l2=", "s1rtc.bands=[vv]"):
        command += ["--set", setting]
    working = Path(config.directory.working) / "demo"
    # A terminal interrupts all processes, a batch system terminates the one that it started.
    for number, (stop, kind) in enumerate([(os.killpg, signal.SIGINT), (os.kill, signal.SIGTERM)], start=1):
        before = len(list((working / "building").glob("*/*.json")))
        process = subprocess.Popen(
            [sys.executable, "-c", listening, *command],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and len(list((working / "building").glob("*/*.json"))) <= before:
            time.sleep(0.05)
        stop(process.pid, kind)
        _, stderr = process.communicate(timeout=30)
        assert process.returncode == 130, stderr
        assert "run the same command again to go on" in stderr
        assert "stopped: " in stderr
        assert "Traceback" not in stderr, stderr
        assert not list(Path(config.directory.working).rglob("zarr.json.partial"))
        logs = sorted((working / "logs").iterdir())
        assert len(logs) == number
        assert "build_cubes ended with 130" in logs[-1].read_text()
    done = run(*command)
    assert done.returncode == 0, done.stderr
    assert "2 built" in done.stdout
