"""A cube's bytes follow from its items and its config: not from who made it, where, or in what surroundings."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from chaos import WORKERS, Cluster

from cube.config.models import Config
from cube.run.layout import Layout
from cube.store.open import find_cube

ROOT = Path(__file__).parents[2]
AOI = 5


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def assert_same_cube(config: Config, demo: Config) -> None:
    made, expected = (files(Path(find_cube(Layout.of(c).root, AOI).url)) for c in (config, demo))
    assert made.keys() == expected.keys()
    assert [name for name in made if made[name] != expected[name]] == []
    assert len(made) > 100


def build(
    config: Config,
    *more: str,
    environment: dict[str, str] | None = None,
    umask: int = 0o022,
    folder: Path = ROOT,
) -> None:
    """Run phase one on one AOI as a person does."""
    settings = {
        "catalog.url": config.catalog.url,
        "aoi.path": config.aoi.path,
        "directory.working": config.directory.working,
        "directory.output": config.directory.output,
    }
    sets = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    command = [sys.executable, ROOT / "scripts/build_cubes.py", "-c", ROOT / "configs/demo.yaml", *sets]
    subprocess.run(
        [*command, "--aoi", str(AOI), *more],
        cwd=folder,
        env={**os.environ, **(environment or {})},
        umask=umask,
        check=True,
        capture_output=True,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "compute",
    [
        ("compute.workers=1", "compute.threads=4"),
        ("compute.workers=0", "compute.threads=4"),
    ],
    ids=["one worker", "four threads"],
)
def test_whatever_the_number_of_workers(
    demo_config: Callable[..., Config], demo: Config, tmp_path: Path, compute: tuple[str, ...]
) -> None:
    config = demo_config(tmp_path)
    build(config, *(part for setting in compute for part in ("--set", setting)))
    assert_same_cube(config, demo)


@pytest.mark.slow
def test_on_a_scheduler_and_workers_started_by_others(
    demo_config: Callable[..., Config], demo: Config, tmp_path: Path
) -> None:
    config = demo_config(tmp_path / "made")
    with Cluster(tmp_path, dict(os.environ)) as cluster:
        cluster.start_all()
        build(config, "--scheduler", cluster.address)
        logs = [(tmp_path / f"{name}.log").read_text() for name in ("scheduler", *WORKERS)]
    assert_same_cube(config, demo)
    assert all("tcp://127.0.0.1" in log for log in logs)


@pytest.mark.slow
def test_by_two_workers_whatever_the_time_zone_locale_umask_home_and_folder(
    demo_config: Callable[..., Config], demo: Config, tmp_path: Path
) -> None:
    home = tmp_path / "ein Zuhause"
    home.mkdir()
    config = demo_config(home / "übung")
    surroundings = {
        "TZ": "Pacific/Chatham",
        "LC_ALL": "C",
        "LANG": "tr_TR.UTF-8",
        "HOME": str(home),
        "PYTHONHASHSEED": "7",
    }
    workers = ("--set", "compute.workers=2", "--set", "compute.threads=3")
    build(config, *workers, environment=surroundings, umask=0o077, folder=home)
    assert_same_cube(config, demo)
    cube = Path(find_cube(Layout.of(config).root, AOI).url)
    assert {oct(path.stat().st_mode & 0o777) for path in cube.rglob("zarr.json")} == {"0o600"}


@pytest.mark.slow
def test_shards_are_the_same_by_two_workers_and_by_one_thread(
    demo_config: Callable[..., Config], tmp_path: Path
) -> None:
    made = []
    for compute in (("workers=2", "threads=2"), ("workers=0", "threads=1")):
        config = demo_config(tmp_path / compute[0])
        settings = ("store.shards=block", *(f"compute.{one}" for one in compute))
        build(config, *(part for setting in settings for part in ("--set", setting)))
        made.append(files(Path(find_cube(Layout.of(config).root, AOI).url)))
    assert made[0].keys() == made[1].keys()
    assert [name for name in made[0] if made[0][name] != made[1][name]] == []
    assert b"sharding_indexed" in made[0]["s2l2a/B02/zarr.json"]
