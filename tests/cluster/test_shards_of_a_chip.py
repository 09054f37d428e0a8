"""Chips cut by runs of a share, as a batch system starts them, one of them killed: the bytes of one run."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from shard_jobs import WAIT_S, Jobs, wait_until

from chipping.chip import chip
from cube.config.models import Config
from cube.run.layout import EXPORTING, Layout
from release import make_release

SHARES = 3


def contents(config: Config) -> dict[str, bytes]:
    """All files of a version, but locks and logs."""
    root = Path(Layout.of(config).root.url)
    found = (path for path in sorted(root.rglob("*")) if path.is_file())
    return {
        name: path.read_bytes()
        for path in found
        if not (name := str(path.relative_to(root))).startswith((".lock", "logs"))
    }


def is_cutting(config: Config, number: int) -> Callable[[], object]:
    """Return what tells whether a run has begun to write its share's chips, and some chip is there."""
    root = Path(Layout.of(config).root.url)
    begun, chips = f"choosing-*/{number:04}-of-*.begun", "chips/*/chip.json"
    return lambda: list(root.glob(begun)) and list(root.glob(chips))


@pytest.mark.slow
def test_three_shares_of_which_one_is_killed_and_begun_again(
    demo_config: Callable[..., Config], demo: Config, tmp_path: Path
) -> None:
    configs = [demo_config(tmp_path / name) for name in ("one", "shares")]
    for config in configs:
        shutil.copytree(demo.directory.working, config.directory.working)
    whole, shared = configs
    chip(whole)
    with Jobs("chip.py", shared) as running:
        jobs = {number: running.start(number, SHARES) for number in range(1, SHARES + 1)}
        wait_until(is_cutting(shared, 2), jobs[2])
        jobs[2].kill()
        jobs[2].wait(WAIT_S)
        again = running.start(2, SHARES)
        said = [job.communicate(timeout=WAIT_S)[0].decode() for job in (jobs[1], jobs[3], again)]
        assert [job.returncode for job in (jobs[1], jobs[3], again)] == [0, 0, 0], said
    assert not Layout.of(shared).root.exists(EXPORTING)
    found, expected = contents(shared), contents(whole)
    assert found.keys() == expected.keys()
    assert [name for name in found if found[name] != expected[name]] == []
    assert make_release(shared).fingerprint == make_release(whole).fingerprint
