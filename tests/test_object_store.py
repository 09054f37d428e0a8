"""The three phases with their folders in an object store give what local folders give."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from chipping.chip import chip
from cube.build.run import build_cubes
from cube.config.models import Config
from cube.run.storage import Folder, open_folder
from cube.run.thread_engine import ThreadEngine
from release.make import make_release
from release.verify.release import verify

SETTINGS = ("s2l2a.bands=[B02, B03, B04]", "lulc.sampling_factor=", "chips.max_per_class=4")
"""An AOI of few bands and chips; all of the demo is fifty thousand requests."""


@pytest.mark.slow
def test_a_release_from_s3_is_the_release_from_a_disk(
    demo_config: Callable[..., Config], tmp_path: Path, s3: Folder
) -> None:
    options = json.dumps(dict(s3.options))
    there = (
        "directory.working=s3://bucket/interim",
        "directory.output=s3://bucket/processed",
        f"directory.storage_options={options}",
    )
    releases = []
    for config in (demo_config(tmp_path, *SETTINGS), demo_config(tmp_path, *SETTINGS, *there)):
        summary = build_cubes(config, ThreadEngine(), only=[5])
        assert summary.exit_code == 0, summary.rows
        assert build_cubes(config, ThreadEngine(), only=[5]).fetched_blocks == 0
        made = chip(config)
        assert made.written == made.chips >= 8
        again = chip(config)
        assert (again.written, again.kept) == (0, made.chips)
        make_release(config)
        output = open_folder(config.directory.output, config.directory.storage_options)
        releases.append({name: output.read(name) for name in output.files() if name != ".lock"})
    local, remote = releases
    assert local.keys() == remote.keys()
    assert [name for name in local if local[name] != remote[name]] == []
    assert len(local) > 200
    assert verify(tmp_path / "processed" / "demo") == []
