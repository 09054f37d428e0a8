"""The sample archive through all three phases: what phase two writes is what a release reads."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio

from chipping.chip import chip
from cube.build.run import build_cubes
from cube.config.models import Config
from cube.run.layout import Layout
from cube.run.thread_engine import ThreadEngine
from release import make_release, open_release, verify
from release.tracker import GELOS_FIELDS

LITTLE = ("aoi.include_indices=[0, 1, 4]", "chips.max_per_class=3")
"""Of the demo, which `scripts/demo.sh` releases and verifies whole: AOIs of two UTM zones."""


@pytest.fixture(scope="module")
def released(
    demo: Config, demo_config: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory
) -> Config:
    """A few of the demo's chips, released."""
    config = demo_config(tmp_path_factory.mktemp("released"), *LITTLE)
    working = Layout.of(config).working.path
    # Hard links, but of the locks: they would be held by whoever holds the other's.
    lock = shutil.ignore_patterns(".lock")
    shutil.copytree(Layout.of(demo).working.path, working, copy_function=os.link, ignore=lock)
    build_cubes(config, ThreadEngine())  # nothing is left to build; its records are of these AOIs
    chip(config)
    make_release(config)
    return config


def test_the_demo_is_released_without_a_fault(released: Config) -> None:
    folder = Path(released.directory.output) / released.dataset.version
    assert [str(fault) for fault in verify(folder) if not fault.warning] == []
    opened = open_release(folder)
    assert list(opened.table.columns[: len(GELOS_FIELDS)]) == list(GELOS_FIELDS)
    chip_id = int(opened.table["id"].iloc[-1])
    for sensor, image in opened.chip(chip_id).items():
        for index, name in enumerate(opened.paths(chip_id, sensor)):
            with rasterio.open(folder / name) as raster:
                layer = image if "time" not in image.dims else image[index]
                np.testing.assert_array_equal(layer.to_numpy(), raster.read())
                assert raster.descriptions == tuple(layer["band"].to_numpy().tolist())


def test_chips_made_again_elsewhere_give_the_same_release(
    released: Config, demo_config: Callable[..., Config], tmp_path: Path
) -> None:
    working = f"directory.working={released.directory.working}"
    again = demo_config(tmp_path, *LITTLE, working, "compute.threads=1")
    chip(again)
    summary = make_release(again)
    seal = Path(released.directory.output) / released.dataset.version / "SHA256SUMS"
    assert summary.fingerprint == hashlib.sha256(seal.read_bytes()).hexdigest()
