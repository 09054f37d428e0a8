"""The sample archive through all three phases: what phase two writes is what a release reads."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import rasterio

from chipping.chip import chip
from cube.config.models import Config
from release import make_release, open_release, verify
from release.tracker import GELOS_FIELDS


@pytest.fixture(scope="module")
def released(demo: Config) -> Config:
    """The demo's chips, released."""
    chip(demo)
    make_release(demo)
    return demo


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
    again = demo_config(tmp_path, f"directory.working={released.directory.working}", "compute.threads=1")
    chip(again)
    summary = make_release(again)
    seal = Path(released.directory.output) / released.dataset.version / "SHA256SUMS"
    assert summary.fingerprint == hashlib.sha256(seal.read_bytes()).hexdigest()
