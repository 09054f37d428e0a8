"""What a cube lacks, or holds on its item's word alone, is said: in the AOI's row, at the end, in the cube."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import zarr

from cube.build.commands import print_summary
from cube.build.plans import plan_cubes
from cube.build.run import build_cubes
from cube.config.models import Config
from cube.run.layout import Layout
from cube.run.status import AoiState
from cube.run.thread_engine import ThreadEngine
from cube.scenes.plan import CubePlan
from cube.store.open import find_cube
from cube.testing import Archive

AOI = 5
ONE_DATE = (
    f"aoi.include_indices=[{AOI}]",
    's2l2a.time_ranges=["2023-01-01/2023-03-31"]',
    "s2l2a.bands=[B05]",
    "s2l2a.cloud_band=SCL",
    "s1rtc=",
    "lc2l2=",
    "dem=",
)


@pytest.fixture
def case(sample_archive: Archive, demo_config: Callable[..., Config], tmp_path: Path) -> tuple[Config, Path]:
    """Return the config of a small build, and the file of its one Sentinel-2 band, which may be written to."""
    archive = tmp_path / "archive"
    shutil.copytree(sample_archive.path, archive, copy_function=shutil.os.link)
    config = demo_config(tmp_path, f"catalog.url={archive / Path(sample_archive.items).name}", *ONE_DATE)
    [(_, plan)] = plan_cubes(config)
    assert isinstance(plan, CubePlan)
    path = archive / next(plan.sensor("s2l2a").scenes).assets["B05"].href
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data)
    return config, path


def rewrite(path: Path, change: Callable[[np.ndarray[Any, Any]], None], **profile: Any) -> None:
    with rasterio.open(path) as source:
        values, settings = source.read(1), source.profile | profile
    change(values)
    path.unlink()
    with rasterio.open(path, "w", **settings) as file:
        file.write(values, 1)


def cube_of(config: Config) -> Path:
    return Path(find_cube(Layout.of(config).root, AOI).url)


def root_of(config: Config) -> dict[str, Any]:
    return dict(zarr.open_group(cube_of(config), mode="r").attrs)


@pytest.mark.parametrize(
    ("share", "words"), [(0, "no valid pixel"), (0.2, "% valid"), (0.8, "")], ids=["none", "few", "many"]
)
def test_a_date_without_its_pixels_is_sealed_with_a_word(
    case: tuple[Config, Path], capsys: pytest.CaptureFixture[str], share: float, words: str
) -> None:
    config, path = case

    def empty(values: np.ndarray[Any, Any]) -> None:
        lot = np.random.default_rng(0).random(values.shape)
        values[lot >= share] = 0

    rewrite(path, empty)
    for _ in range(2):  # and a run that finds the cube sealed says it again
        summary = build_cubes(config, ThreadEngine(2))
        row = summary.rows[AOI]
        assert (summary.exit_code, row.status) == (0, AoiState.BUILT)
        print_summary(summary)
        out = capsys.readouterr().out
        if not words:
            assert row.reason == ""
            assert "warning" not in out
            continue
        assert row.reason.startswith("s2l2a 2023-0")
        assert words in row.reason
        assert row.reason.endswith("; its scenes' footprints promise 100 %")
        assert "warning: AOI 000005 holds fewer pixels than its scenes promise: s2l2a" in out
    assert root_of(config).get("shortfalls", []) == ([row.reason] if words else [])
    with rasterio.open(path) as source:
        valid = np.count_nonzero(source.read(1))
    assert (valid == 0) == (share == 0)


def test_what_files_do_not_say_is_in_the_cubes_provenance(case: tuple[Config, Path]) -> None:
    config, path = case
    build_cubes(config, ThreadEngine(2))
    told, cube = root_of(config), cube_of(config)
    assert told.keys() & {"placed_by_item", "nodata_by_table"} == set()
    expected = zarr.open_array(cube, path="s2l2a/B05", mode="r")[...]
    shutil.rmtree(Layout.of(config).working.path)
    rewrite(path, lambda _: None, crs=None, nodata=None)
    assert build_cubes(config, ThreadEngine(2)).exit_code == 0
    assert root_of(config)["nodata_by_table"] == {"s2l2a": {"B05": 0}}
    [fact] = root_of(config)["placed_by_item"]
    assert (fact["asset"], fact["by_item"]) == ("B05", "CRS")
    found = zarr.open_array(cube, path="s2l2a/B05", mode="r")[...]
    np.testing.assert_array_equal(found, expected)
    assert (found > 0).all()
    assert fact["item"] in json.dumps(dict(zarr.open_group(cube, path="s2l2a", mode="r").attrs))
