"""A disk that fills up in mid-write: a tmpfs of its own, in a mount namespace of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from chaos import files

from cube.build.run import build_cubes
from cube.config.models import Config
from cube.run.layout import Layout
from cube.run.thread_engine import ThreadEngine
from cube.testing import Archive

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
UNSHARE = ("unshare", "--map-root-user", "--mount")
FEW = ("s2l2a.bands=[B02, B05]", "s2l2a.cloud_band=SCL", "lc2l2.bands=[red]", "s1rtc.bands=[vv]")

SCRIPT = r"""
set -u
disk=$1 log=$2; shift 2
mount -t tmpfs -o size=64m tmpfs "$disk"
"$@" 2>"$log.full" >/dev/null &
for _ in $(seq 6000); do
    [ -n "$(ls "$disk"/building/*/*.json 2>/dev/null)" ] && break
    sleep 0.01
done
dd if=/dev/zero of="$disk/filler" bs=64k 2>/dev/null  # until there is no room left
wait $!; echo "full $?"
ls "$disk"/cubes/*/zarr.json >/dev/null 2>&1 && echo sealed
rm "$disk/filler"
"$@" >"$log.out" 2>"$log.again"; echo "again $?"
cp -r "$disk" "$log.made"
"""


def has_namespaces(folder: Path) -> bool:
    """Tell whether this process may mount a tmpfs for itself alone."""
    if shutil.which(UNSHARE[0]) is None:
        return False
    probe = [*UNSHARE, "mount", "-t", "tmpfs", "tmpfs", str(folder)]
    return subprocess.run(probe, check=False, capture_output=True).returncode == 0


@pytest.mark.parametrize("workers", [0, 1])
def test_a_full_disk_is_said_and_a_rerun_completes(
    sample_archive: Archive, demo_config: Callable[..., Config], tmp_path: Path, workers: int
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    if not has_namespaces(disk):
        pytest.skip("no mount namespaces here")
    settings = {
        "catalog.url": sample_archive.items,
        "aoi.path": sample_archive.aois,
        "directory.working": disk,
        "directory.output": disk / "out",
        "compute.workers": workers,
        "compute.threads": 1,
    }
    sets = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    sets += [part for setting in FEW for part in ("--set", setting)]
    command = [
        sys.executable,
        ROOT / "scripts/build_cubes.py",
        "-c",
        ROOT / "configs/demo.yaml",
        *sets,
        "--aoi",
        "4",
        "5",
    ]
    ran = subprocess.run(
        [*UNSHARE, "bash", "-c", SCRIPT, "bash", disk, tmp_path / "log", *command],
        check=True, capture_output=True, text=True, cwd=ROOT, env=os.environ,
    )  # fmt: skip
    said = (tmp_path / "log.full").read_text()
    assert ran.stdout.split("\n")[:2] == ["full 3", "again 0"], said + (tmp_path / "log.again").read_text()
    assert "no space left; make room and run again, nothing is lost" in said
    assert "Traceback" not in said
    whole = demo_config(tmp_path / "whole", *FEW)
    build_cubes(whole, ThreadEngine(), only=[4, 5])
    made, expected = files(tmp_path / "log.made"), files(Layout.of(whole).working.path)
    assert [name for name in made.keys() | expected.keys() if made.get(name) != expected.get(name)] == []
