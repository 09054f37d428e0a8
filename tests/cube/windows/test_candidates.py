"""Candidates: what land cover lets through, and the blocks that judging it reads."""

from __future__ import annotations

import dataclasses
import itertools
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import Transformer
from shapely import Polygon, box, transform
from shapely.geometry.base import BaseGeometry

from cube.build.prefilter import candidate_classes, count_candidates, needed_blocks
from cube.config.models import Config
from cube.config.reading import load_config
from cube.scenes.plan import CubePlan
from cube.testing.cubes import plan_from_times
from cube.windows.grid import Block, Bounds
from cube.windows.lattice import WindowGeometry, WindowLattice, windows_on

RANGE = "2023-01-01/2023-06-30"


def config_of(folder: Path, **sections: dict[str, object]) -> Config:
    record = {
        "dataset": {"version": "v1"},
        "aoi": {"path": "aoi.geojson", **sections.get("aoi", {})},
        "directory": {"working": str(folder / "work"), "output": str(folder / "out")},
        "lc2l2": {
            "bands": ["red"],
            "cloud_band": "qa_pixel",
            "time_ranges": [RANGE],
            **sections.get("lc2l2", {}),
        },
        "lulc": {"year": "2023-01-02/2023-12-31"},
        "chips": {"sample_size": 960, "chip_size": 960, **sections.get("chips", {})},
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(record))
    return load_config(path)


def project_back(area: Polygon) -> BaseGeometry:
    to_lonlat = Transformer.from_crs(32632, 4326, always_xy=True)
    return transform(area.segmentize(100), to_lonlat.transform, interleaved=False)


def plan_of(config: Config, side_m: int) -> CubePlan:
    from datetime import UTC, datetime

    box = Bounds(480_000, 5_990_400, 480_000 + side_m, 5_990_400 + side_m)
    return plan_from_times(config, box, 32632, [datetime(2023, 2, 1, tzinfo=UTC)])


@pytest.mark.parametrize(
    ("purity", "pixels", "passes"),
    [(0.95, 8756, True), (0.95, 8755, False), (1.0, 9216, True), (0.1 + 0.2, 2765, True), (0.5, 4608, True)],
)
def test_purity_is_compared_in_whole_pixels_as_phase_two_does(
    tmp_path: Path, purity: float, pixels: int, passes: bool
) -> None:
    assert passes == (Fraction(pixels, 9216) >= Fraction(repr(purity)))
    config = config_of(tmp_path, chips={"min_purity": 1.0}, aoi={"candidate_purity": purity})
    lulc = np.tile(np.array([1, 2, 7, 8], np.uint8), 9216 // 4)
    lulc[:pixels] = 5
    classes = candidate_classes(lulc.reshape(96, 96), plan_of(config, 960), config)
    assert classes.tolist() == [[5 if passes else 0]]


def test_one_forbidden_pixel_or_a_class_that_is_not_kept_is_no_candidate(tmp_path: Path) -> None:
    config = config_of(tmp_path, chips={"min_purity": 0.5, "classes": [5, 8]})
    lulc = np.full((192, 192), 5, np.uint8)
    lulc[0, 0] = 9
    lulc[:96, 96:] = 7
    lulc[96:, 96:144] = 8  # half and half: the lower code is the majority
    classes = candidate_classes(lulc, plan_of(config, 1920), config)
    assert classes.tolist() == [[0, 0], [5, 5]]
    assert count_candidates(classes) == {"Crops": 2}
    lulc[0, 0] = 3  # no class of the map, and not forbidden
    assert candidate_classes(lulc, plan_of(config, 1920), config)[0, 0] == 5


def test_a_box_without_windows_has_no_candidates(tmp_path: Path) -> None:
    config = config_of(tmp_path, chips={"chip_size": 1920})
    classes = candidate_classes(np.full((96, 96), 5, np.uint8), plan_of(config, 960), config)
    assert classes.size == 0
    assert needed_blocks(classes, plan_of(config, 960), config) == set()


@pytest.mark.parametrize("clip", ["none", "centre", "whole"])
def test_what_a_clip_cuts_off_is_no_candidate(tmp_path: Path, clip: str) -> None:
    config = config_of(tmp_path, aoi={"clip": clip}, chips={"min_purity": 1.0})
    plan = plan_of(config, 34_560)
    strip = box(479_900, 5_990_300, 481_500, 6_025_100)  # 1.56 windows wide
    plan = dataclasses.replace(plan, aoi=project_back(strip))
    classes = candidate_classes(np.full((3456, 3456), 5, np.uint8), plan, config)
    columns = {"none": 36, "centre": 2, "whole": 1}[clip]
    assert (classes[1:-1] > 0).sum(axis=1).tolist() == [columns] * 34
    few = needed_blocks(classes, plan, config)
    assert few == {block.name for block in plan.blocks("lc2l2") if clip == "none" or block.col == 0}
    assert clip == "none" or len(few) < len(plan.blocks("lc2l2"))


@pytest.mark.parametrize(
    ("lc2l2", "blocks"),
    [
        ({"cloud_buffer_px": 0}, {"lc2l2-0-0-0"}),
        ({"cloud_buffer_px": 1}, {"lc2l2-0-0-0", "lc2l2-0-0-1024"}),
        ({"cloud_buffer_px": 1, "cloud_band": None}, {"lc2l2-0-0-0"}),
    ],
)
def test_the_cloud_buffer_of_a_candidate_is_fetched_too(
    tmp_path: Path, lc2l2: dict[str, object], blocks: set[str]
) -> None:
    config = config_of(tmp_path, lc2l2=lc2l2)
    plan = plan_of(config, 34_560)  # a block is 30,720 m, 32 windows, wide
    classes = np.zeros((36, 36), np.uint8)
    classes[0, 31] = 5
    assert needed_blocks(classes, plan, config) == blocks


@settings(max_examples=50)
@given(
    st.sampled_from([WindowGeometry(40, 40, 40), WindowGeometry(40, 60, 20), WindowGeometry(20, 60, 50)]),
    st.integers(0, 4),
    st.tuples(st.integers(0, 15), st.integers(0, 15), st.integers(1, 9), st.integers(1, 9)),
)
def test_windows_on_a_block_are_those_that_read_a_pixel_of_it(
    geometry: WindowGeometry, buffer: int, place: tuple[int, int, int, int]
) -> None:
    lattice = WindowLattice(geometry, Bounds(0, 0, 200, 200), 32632)
    block = Block("lc2l2", 0, *place)
    found = np.zeros(lattice.shape, bool)
    found[windows_on(block, lattice, 10, buffer)] = True
    pixels = np.zeros((50, 50), bool)
    pixels[12:32, 12:32][block.roi] = True
    for row, col in itertools.product(*map(range, lattice.shape)):
        top, left = lattice.rows("chip", 10).start[row], lattice.columns("chip", 10).start[col]
        side = geometry.chip_m // 10 + 2 * buffer
        read = pixels[12 + top - buffer :, 12 + left - buffer :][:side, :side]
        assert found[row, col] == read.any()
