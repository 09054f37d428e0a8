"""One process, eight that share, a cluster, and what is killed and goes on: one release in shards, byte for byte."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from repeated_chips import ROOT, write_repeated_chips
from test_release_kills import DIES

from chipping.chip import chip
from cube.build.run import build_cubes
from cube.config.models import Config
from cube.run.layout import Layout
from cube.run.thread_engine import ThreadEngine

RELEASE = "from release.commands import release_command; release_command(sys.argv[5:])"
WAYS: dict[str, Sequence[Sequence[str]]] = {
    "eight that share": [[f"--shard={number}/8"] for number in range(1, 9)],
    "a cluster": [["--set", "compute.workers=2"]],
}
DEATHS = [
    ("release.packing.shards", "write_chips", "3", ["--shard=1/3"]),
    ("release.packing.shards", "write_chips", "2", []),
    ("release.packing.shards", "np.savez_compressed", "2", ["--shard=3/3"]),
    ("cube.run.storage.disk", "DiskFolder.move", "1", ["--shard=2/3"]),
    ("release.packing.shards", "write_zip", "3", ["--shard=2/3"]),
]


def start(
    options: Sequence[str], module: str = "os", name: str = "getcwd", call: str = "1000000000"
) -> subprocess.Popen[bytes]:
    """Start the command, which is killed at the n-th call of a function."""
    command = [sys.executable, "-c", f"{DIES}\n{RELEASE}", "", module, name, call, *options]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, env={**os.environ, "PYTHONPATH": "."}
    )


def seals(output: Path) -> dict[str, str]:
    """SHA-256 of all checksums and zips; each file of a release is in one of both."""
    files = [path for path in output.rglob("*") if path.name == "SHA256SUMS" or path.suffix == ".zip"]
    return {str(path.relative_to(output)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def prove(options: Sequence[str], folder: Path, least_shards: int) -> None:
    """Make the release in all ways, each from the same chips."""
    threads = ["--set", "compute.workers=0", "--set", "compute.threads=1"]

    def options_of(way: str) -> list[str]:
        return [*options, *threads, "--set", f"directory.output={folder / way}"]

    assert start(options_of("one")).wait() == 0
    one = seals(folder / "one")
    assert len(one) >= 2 * (least_shards + 1)
    for way, runs in WAYS.items():
        processes = [start([*options_of(way), *run]) for run in runs]
        assert [process.wait() for process in processes] == [0] * len(runs)
        assert seals(folder / way) == one, way
        shutil.rmtree(folder / way)
    for module, name, call, run in DEATHS:
        assert start([*options_of("killed"), *run], module, name, call).wait() == -signal.SIGKILL, name
    assert start([*options_of("killed"), "--shard=1/3"]).wait() == 0
    assert seals(folder / "killed") == one
    for place in (folder / "one", folder / "killed"):
        for sums in place.rglob("SHA256SUMS"):
            subprocess.run(
                ["sha256sum", "--check", "--strict", "--quiet", sums.name], cwd=sums.parent, check=True
            )


@pytest.mark.slow
def test_the_demo_in_shards(demo: Config, demo_config: Callable[..., Config], tmp_path: Path) -> None:
    config = demo_config(tmp_path)
    lock = shutil.ignore_patterns(".lock")  # it would be held by whoever holds the other's
    working = Layout.of(config).working.path
    shutil.copytree(Layout.of(demo).working.path, working, copy_function=os.link, ignore=lock)
    build_cubes(config, ThreadEngine())
    chip(config)
    sets = ["release.shard_chips=16", f"catalog.url={config.catalog.url}", f"aoi.path={config.aoi.path}"]
    sets.append(f"directory.working={config.directory.working}")
    options = ["-c", str(config.path), *(word for one in sets for word in ("--set", one))]
    prove(options, tmp_path / "made", least_shards=6)


@pytest.mark.slow
def test_2500_chips(tmp_path: Path) -> None:
    path = write_repeated_chips(tmp_path, 2500)
    prove(["-c", str(path), "--set", "release.shard_chips=100"], tmp_path / "made", least_shards=25)
