"""A file that is replaced while a cube is made from it: no cube holds two versions of one."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import zarr
from rasterio.windows import Window
from shapely import box
from shapely.geometry import mapping

from cube.build.plans import plan_cubes
from cube.build.run import build_cubes
from cube.config.models import Config
from cube.run.layout import Layout
from cube.run.status import AoiState
from cube.run.tasks import Outcome, TaskSource
from cube.run.thread_engine import ThreadEngine
from cube.scenes.plan import CubePlan
from cube.store.open import find_cube
from cube.testing import Archive
from cube.windows.projection import outline_to_lonlat

WIDE = (285_120, 5_544_000, 318_720, 5_544_960)
"""Metres, EPSG:32633: two blocks of land cover."""


class Replacing(ThreadEngine):
    """One thread, before whose tasks something is done: it is told how many went before."""

    def __init__(self, before: Callable[[int], None]) -> None:
        super().__init__(1)
        self.before, self.tasks = before, 0

    def run(
        self, function: Callable[[Any], Any], tasks: TaskSource[Any], scope: str
    ) -> Generator[Outcome[Any, Any]]:
        def told(task: Any) -> Any:
            self.before(self.tasks)
            self.tasks += 1
            return function(task)

        return super().run(told, tasks, scope)


@pytest.fixture
def case(sample_archive: Archive, demo_config: Callable[..., Config], tmp_path: Path) -> tuple[Config, Path]:
    """Return the config of a cube of two blocks of land cover, and the file that they come from."""
    archive = tmp_path / "archive"
    shutil.copytree(sample_archive.path, archive, copy_function=shutil.os.link)
    geometry = mapping(outline_to_lonlat(box(*WIDE).buffer(-1), 32633))
    area = {"type": "Feature", "properties": {}, "geometry": geometry}
    (tmp_path / "area.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [area]}))
    sources = (
        f"aoi.path={tmp_path / 'area.geojson'}",
        f"catalog.url={archive / Path(sample_archive.items).name}",
    )
    config = demo_config(tmp_path, *sources, "aoi.extent=aoi", "s2l2a=", "s1rtc=", "lc2l2=", "dem=")
    [(_, plan)] = plan_cubes(config)
    assert isinstance(plan, CubePlan)
    scenes = {scene.assets["lulc"].href for scene in plan.sensor("lulc").scenes}
    [href] = [href for href in scenes if inside(archive / href)]
    return config, archive / href


def inside(path: Path) -> bool:
    with rasterio.open(path) as file:
        return bool(file.crs == "EPSG:32633" and box(*file.bounds).contains(box(*WIDE)))


def replace(path: Path, number: int) -> None:
    """Put another version of a file in its place: of other codes everywhere."""
    with rasterio.open(path) as source:
        profile, shape = source.profile, source.shape
    lot = np.random.default_rng(number).choice(np.array([1, 2, 5, 11], "uint8"), shape)
    other = path.with_name("other.tif")
    with rasterio.open(other, "w", **profile) as file:
        file.write(lot, 1)
    other.replace(path)


def land_cover(config: Config) -> np.ndarray[Any, Any]:
    cube = Path(find_cube(Layout.of(config).root, 0).url)
    return np.asarray(zarr.open_array(cube, path="lulc/lulc", mode="r")[...])


def under_cube(path: Path, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    with rasterio.open(path) as file:
        row, column = file.index(WIDE[0] + 5, WIDE[3] - 5)
        return np.asarray(file.read(1, window=Window(column, row, shape[1], shape[0])))


def test_blocks_of_an_older_version_are_read_again(
    case: tuple[Config, Path], caplog: pytest.LogCaptureFixture
) -> None:
    config, path = case
    caplog.set_level(logging.WARNING)
    engine = Replacing(lambda task: replace(path, 1) if task == 1 else None)
    summary = build_cubes(config, engine)
    assert (summary.exit_code, summary.rows[0].status, engine.tasks) == (0, AoiState.BUILT, 4)
    found = land_cover(config)
    assert found.shape[1] > 3072
    np.testing.assert_array_equal(found, under_cube(path, found.shape))
    assert "asset data: changed while it was read; 2 blocks are read again" in caplog.text


def test_a_file_that_goes_on_changing_fails_its_area_and_the_next_run_reads_it_anew(
    case: tuple[Config, Path],
) -> None:
    config, path = case
    row = build_cubes(config, Replacing(lambda task: replace(path, task))).rows[0]
    assert row.status is AoiState.FAILED
    assert (
        "changed while it was read, and again when it was read anew; run again when it is whole" in row.reason
    )
    assert build_cubes(config, ThreadEngine(1)).exit_code == 0
    found = land_cover(config)
    np.testing.assert_array_equal(found, under_cube(path, found.shape))


def test_a_run_that_completes_anothers_reads_blocks_of_an_older_version_again(
    case: tuple[Config, Path],
) -> None:
    config, path = case

    def killed(task: int) -> None:
        if task == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_cubes(config, Replacing(killed))
    replace(path, 1)
    assert build_cubes(config, ThreadEngine(1)).exit_code == 0
    found = land_cover(config)
    np.testing.assert_array_equal(found, under_cube(path, found.shape))
