"""compare finds each planted difference, and nothing else: what is expected is written down, not computed by it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio
from click.testing import CliRunner
from release_changes import reseal, rewrite_raster, rewrite_tracker

from release import compare_releases
from release.cli import main
from release.compare.comparison import FileChange

TABLES = {
    "gelos_chip_tracker.csv",
    "gelos_chip_tracker.geojson",
    "gelos_chip_tracker.parquet",
    "croissant.json",
}
SECTIONS = ("settings", "fields_gone", "fields_new", "gone", "new", "changes", "scenes", "rasters", "areas")
Found = dict[str, Any]
Expected = dict[str, list[dict[str, Any]]]
"""By section that is not empty: what is expected of each of its rows; of ``files``: their names."""


def compared(a: Path, b: Path) -> Found:
    """What the command says, as JSON; its exit code fits."""
    result = CliRunner().invoke(main, ["compare", str(a), str(b), "--json"])
    found: Found = json.loads(result.stdout)
    assert result.exit_code == int(found["differs"])
    return found


def check(found: Found, expected: Expected) -> None:
    """Compare sections with what was planted."""
    assert found["differs"]
    for name in SECTIONS:
        rows, wanted = found[name], expected.get(name, [])
        assert len(rows) == len(wanted), (name, rows)
        for row, facts in zip(rows, wanted, strict=True):
            assert {key: row[key] for key in facts} == facts if isinstance(facts, dict) else row == facts
    files, wanted_files = {(one["file"], one["side"]) for one in found["files"]}, expected.get("files", [])
    # Statistics and Croissant's checksums follow from chips, and are made again after each change of these.
    follow = {("statistics.json", ""), ("croissant.json", "")}
    assert files - follow == {*wanted_files} - follow
    assert files >= {*wanted_files}


def cell_of(folder: Path, chip: int) -> str:
    """The cell of a chip, by its id."""
    table = pd.read_csv(folder / "gelos_chip_tracker.csv", dtype=str)
    return str(table.loc[table["id"] == str(chip), "cell"].item())


def value_of(folder: Path, chip: int, field: str) -> str:
    """A field of a chip, as text."""
    table = pd.read_csv(folder / "gelos_chip_tracker.csv", dtype=str, keep_default_na=False)
    return str(table.loc[table["id"] == str(chip), field].item())


def tables(*more: str) -> list[tuple[str, str]]:
    """Files that change with the table."""
    return [(name, "") for name in {*TABLES, *more}]


def change_pixel(folder: Path, name: str, to: Callable[[np.ndarray], float]) -> np.ndarray:
    """Give one pixel of a raster's first band another value; return what was there."""
    with rasterio.open(folder / name) as raster:
        values = raster.read()
    changed = values.copy()
    changed[0, 4, 7] = to(values[0, 4, 7])
    rewrite_raster(folder / name, values=changed)
    reseal(folder)
    return values


def a_pixel(folder: Path) -> Expected:
    change_pixel(folder, "s2l2a_000004_20230115.tif", lambda was: was + 3)
    return {
        "rasters": [
            {"cell": cell_of(folder, 4), "sensor": "s2l2a", "number": 1, "pixels": 1, "of": 900, "nodata": 0}
            | {"bands": ["B02"], "largest": 3.0, "file_b": "s2l2a_000004_20230115.tif"}
        ]
    }


def a_pixel_without_data(folder: Path) -> Expected:
    change_pixel(folder, "s1rtc_000002_20230512.tif", lambda _: np.nan)
    facts = {"sensor": "s1rtc", "number": 2, "pixels": 1, "nodata": 1, "bands": ["vv"], "largest": 0.0}
    return {"rasters": [{"cell": cell_of(folder, 2), **facts}]}


def a_class_of_a_pixel(folder: Path) -> Expected:
    change_pixel(folder, "lulc_000007.tif", lambda was: 7 if was != 7 else 8)
    facts = {"sensor": "lulc", "number": 0, "pixels": 1, "largest": None, "mean": None}
    return {"rasters": [{"cell": cell_of(folder, 7), **facts}]}


def a_height(folder: Path) -> Expected:
    was = change_pixel(folder, "dem_000001.tif", lambda was: was + 0.5)
    step = float(np.float32(was[0, 4, 7] + np.float32(0.5)) - was[0, 4, 7])
    facts = {"sensor": "dem", "number": 0, "pixels": 1, "of": 100, "largest": step}
    return {"rasters": [{"cell": cell_of(folder, 1), **facts, "mean": pytest.approx(step / 100)}]}


def a_tag(folder: Path) -> Expected:
    rewrite_raster(folder / "lc2l2_000003_20230120.tif", tags={"note": "hello"})
    reseal(folder)
    return {"rasters": [{"sensor": "lc2l2", "pixels": 0, "bands": [], "note": "same pixels"}]}


def a_raster_that_cannot_be_read(folder: Path) -> Expected:
    (folder / "dem_000001.tif").write_bytes(b"II*\0 and no more")
    reseal(folder)
    facts = {"pixels": 0, "file_b": "dem_000001.tif"}
    return {"rasters": [{"cell": cell_of(folder, 1), "sensor": "dem", **facts}]}


def a_date(folder: Path) -> Expected:
    def later(table: gpd.GeoDataFrame) -> None:
        for field in ("s2l2a_dates", "s2l2a_paths", "s2l2a_thumbs"):
            table.loc[5, field] = table.loc[5, field].replace("20230510", "20230511")

    for suffix in ("tif", "png"):
        (folder / f"s2l2a_000005_20230510.{suffix}").rename(folder / f"s2l2a_000005_20230511.{suffix}")
    aoi = int(value_of(folder, 5, "aoi_index"))
    rewrite_tracker(folder, later)
    facts = {"aoi_index": aoi, "sensor": "s2l2a", "number": 2, "date_a": "20230510", "date_b": "20230511"}
    return {"scenes": [{**facts, "chips": 1}], "files": tables()}


def a_scene(folder: Path) -> Expected:
    def another(table: gpd.GeoDataFrame) -> None:
        first, _, second = table.loc[9, "lc2l2_scene_ids"].partition(",")
        table.loc[9, "lc2l2_scene_ids"] = f"{first}+LC09,{second}"

    before = value_of(folder, 9, "lc2l2_scene_ids").split(",")[0]
    rewrite_tracker(folder, another)
    facts = {"sensor": "lc2l2", "number": 1, "scenes_a": before, "scenes_b": f"{before}+LC09", "chips": 1}
    return {"scenes": [{**facts, "date_a": "20230120", "date_b": "20230120"}], "files": tables()}


def scenes_of_the_land_cover(folder: Path) -> Expected:
    aois = pd.read_csv(folder / "gelos_chip_tracker.csv")["aoi_index"].value_counts().sort_index()
    rewrite_tracker(folder, lambda table: table.assign(lulc_scene_ids="32T-2022"))
    facts = {"sensor": "lulc", "number": 0, "date_a": "", "scenes_a": "32T-2023", "scenes_b": "32T-2022"}
    rows = [{"aoi_index": aoi, **facts, "chips": count} for aoi, count in aois.items()]
    return {"scenes": rows, "files": tables()}


def a_class(folder: Path) -> Expected:
    before = value_of(folder, 6, "lulc")
    after, name, color = ("1", "Water", "#419bdf") if before != "1" else ("2", "Trees", "#397d49")
    codes = sorted(json.loads((folder / "config.json").read_text())["config"]["chips"]["classes"])

    def another(table: gpd.GeoDataFrame) -> None:
        table.loc[6, ["lulc", "category", "color"]] = [after, name, color]
        table.loc[6, "label"] = codes.index(int(after))

    rewrite_tracker(folder, another)
    facts = {"cell": cell_of(folder, 6), "field": "lulc", "a": before, "b": after, "id_a": 6, "id_b": 6}
    return {"changes": [facts], "files": tables()}


def a_purity(folder: Path) -> Expected:
    before = float(value_of(folder, 3, "purity"))

    def another(table: gpd.GeoDataFrame) -> None:
        table.loc[3, "purity"] = 0.5

    rewrite_tracker(folder, another)
    return {"changes": [{"field": "purity", "a": before, "b": 0.5}], "files": tables()}


def a_split(folder: Path) -> Expected:
    before = value_of(folder, 0, "split")
    after = "test" if before == "train" else "train"

    def another(table: gpd.GeoDataFrame) -> None:
        table.loc[0, "split"] = after

    rewrite_tracker(folder, another)
    facts = {"cell": cell_of(folder, 0), "field": "split", "a": before, "b": after}
    return {"changes": [facts], "files": tables()}


def a_field(folder: Path) -> Expected:
    def one_more(table: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
        table.insert(len(table.columns) - 1, "slope", 1.5)
        return table

    rewrite_tracker(folder, one_more)
    return {"fields_new": ["slope"], "files": tables()}  # type: ignore[list-item]


def a_setting(folder: Path) -> Expected:
    recipe = json.loads((folder / "config.json").read_text())
    recipe["config"]["chips"]["max_per_class"] = 17
    (folder / "config.json").write_text(json.dumps(recipe))
    reseal(folder)
    facts = {"key": "chips.max_per_class", "a": 400, "b": 17, "sides": "ab"}
    return {"settings": [facts], "files": [("config.json", "")]}


def a_setting_that_one_lacks(folder: Path) -> Expected:
    recipe = json.loads((folder / "config.json").read_text())
    del recipe["config"]["chips"]["masks"]  # as a release of an earlier program
    (folder / "config.json").write_text(json.dumps(recipe))
    reseal(folder)
    facts = {"key": "chips.masks", "a": False, "b": None, "sides": "a"}
    return {"settings": [facts], "files": [("config.json", "")]}


def another_version(folder: Path) -> Expected:
    recipe = json.loads((folder / "config.json").read_text())
    recipe["version"] = "v0.2"
    (folder / "config.json").write_text(json.dumps(recipe))
    reseal(folder)
    return {
        "settings": [{"key": "dataset.version", "a": "v0.1", "b": "v0.2"}],
        "files": [("config.json", "")],
    }


def a_missing_raster(folder: Path) -> Expected:
    (folder / "lc2l2_000000_20230501.tif").unlink()  # SHA256SUMS still names it
    return {"files": [("lc2l2_000000_20230501.tif", "b")]}


def a_missing_picture(folder: Path) -> Expected:
    (folder / "s1rtc_000000_20230117.png").unlink()
    reseal(folder)
    return {"files": [("s1rtc_000000_20230117.png", "b")]}


def another_picture(folder: Path) -> Expected:
    shutil.copy(folder / "s2l2a_000001_20230115.png", folder / "s2l2a_000000_20230115.png")
    reseal(folder)
    return {"files": [("s2l2a_000000_20230115.png", "")]}


def a_missing_card(folder: Path) -> Expected:
    (folder / "README.md").unlink()
    reseal(folder)
    return {"files": [("README.md", "b")]}


def another_statistic(folder: Path) -> Expected:
    path = folder / "statistics.json"
    path.write_text(path.read_text().replace('"chips":', '"Chips":'))
    reseal(folder, recount=False)
    return {"files": [("statistics.json", "")]}


def another_report(folder: Path) -> Expected:
    path = folder / "report.html"
    path.write_text(path.read_text().replace("Overview", "Summary"))
    reseal(folder)
    return {"files": [("report.html", "")]}


def an_area_that_failed(folder: Path) -> Expected:
    areas = json.loads((folder / "aois.geojson").read_text())
    areas["features"][1]["properties"] |= {"status": "failed", "reason": "no read of one file"}
    (folder / "aois.geojson").write_text(json.dumps(areas))
    reseal(folder)
    facts = {"aoi_index": 1, "a": "built", "b": "failed: no read of one file"}
    return {"areas": [facts], "files": [("aois.geojson", "")]}


def an_area_less(folder: Path) -> Expected:
    areas = json.loads((folder / "aois.geojson").read_text())
    gone = areas["features"].pop()
    (folder / "aois.geojson").write_text(json.dumps(areas))
    reseal(folder)
    facts = {"aoi_index": gone["properties"]["aoi_index"], "b": ""}
    return {"areas": [facts], "files": [("aois.geojson", "")]}


def an_outline(folder: Path) -> Expected:
    areas = json.loads((folder / "aois.geojson").read_text())
    areas["features"][0]["geometry"]["coordinates"][0][1][0] += 0.01
    (folder / "aois.geojson").write_text(json.dumps(areas))
    reseal(folder)
    facts = {"aoi_index": 0, "a": "built", "b": "built (another outline)"}
    return {"areas": [facts], "files": [("aois.geojson", "")]}


def a_chip_less(folder: Path) -> Expected:
    last = len(list(folder.glob("lulc_*.tif"))) - 1
    facts = {"cell": cell_of(folder, last), "id": last, "lulc": int(value_of(folder, last, "lulc"))}
    facts["aoi_index"] = int(value_of(folder, last, "aoi_index"))
    for path in folder.glob(f"*_{last:06}*"):
        path.unlink()
    rewrite_tracker(folder, lambda table: table.iloc[:-1])
    return {"gone": [facts], "files": tables()}


def a_chip_elsewhere(folder: Path) -> Expected:
    def move(table: gpd.GeoDataFrame) -> None:
        table.loc[2, "left_m"] += 240 * 1000
        table.loc[2, "cell"] = f"{table.loc[2, 'epsg']}_{table.loc[2, 'left_m']}_{table.loc[2, 'top_m']}"

    before = cell_of(folder, 2)
    rewrite_tracker(folder, move)
    return {
        "gone": [{"cell": before, "id": 2}],
        "new": [{"cell": cell_of(folder, 2), "id": 2}],
        "files": tables(),
    }


PLANTED = (
    a_pixel,
    a_pixel_without_data,
    a_class_of_a_pixel,
    a_height,
    a_tag,
    a_raster_that_cannot_be_read,
    a_date,
    a_scene,
    scenes_of_the_land_cover,
    a_class,
    a_purity,
    a_split,
    a_field,
    a_setting,
    a_setting_that_one_lacks,
    another_version,
    a_missing_raster,
    a_missing_picture,
    another_picture,
    a_missing_card,
    another_report,
    another_statistic,
    an_area_that_failed,
    an_area_less,
    an_outline,
    a_chip_less,
    a_chip_elsewhere,
)


@pytest.mark.parametrize("plant", PLANTED, ids=lambda plant: plant.__name__)
def test_a_planted_difference_is_found_and_nothing_else(
    folder: Path, copy: Path, plant: Callable[[Path], Expected]
) -> None:
    expected = plant(copy)
    found = compared(folder, copy)
    check(found, expected)
    assert found["a"]["chips"] == len(list(folder.glob("lulc_*.tif")))
    if not (found["gone"] or found["new"]):
        return
    turned = compared(copy, folder)  # the other way round, what is gone is new
    assert [one["cell"] for one in turned["new"]] == [one["cell"] for one in found["gone"]]
    assert [one["cell"] for one in turned["gone"]] == [one["cell"] for one in found["new"]]
    assert turned["kept"] == found["kept"]


def every_text(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for one in value.values():
            yield from every_text(one)
    elif isinstance(value, list):
        for one in value:
            yield from every_text(one)
    else:
        yield str(value)


def test_a_release_is_what_its_zip_is(folder: Path, archive: Path, copy: Path) -> None:
    for a, b in ((folder, archive), (archive, folder), (folder, copy)):
        found = compared(a, b)
        assert not found["differs"]
        assert all(found[name] == [] for name in (*SECTIONS, "files"))
        assert sorted(found["kept"]) == sorted(pd.read_csv(folder / "gelos_chip_tracker.csv")["cell"])
        assert not any(str(folder) in text for text in every_text(found))
    result = CliRunner().invoke(main, ["compare", str(folder), str(archive)])
    assert result.exit_code == 0
    assert result.stdout.endswith("nothing differs\n")


def test_numbered_files_are_told_of_together(folder: Path, copy: Path) -> None:
    named = [(f"browse_layers_{number:04}.js", "") for number in range(5)]
    named += [("browse_layers_0005.js", "a"), ("README.md", ""), ("s1rtc_000000_20230117.png", "b")]
    files = tuple(FileChange(name, side, "is missing" if side else "differs") for name, side in named)
    assert replace(compare_releases(folder, copy), files=files).file_lines == [
        ("browse_layers_*.js (5)", "differs"),
        ("browse_layers_0005.js", "is missing in A"),
        ("README.md", "differs"),
        ("s1rtc_000000_20230117.png", "is missing in B"),
    ]


def test_pixels_are_counted_as_numpy_counts_them(folder: Path, copy: Path) -> None:
    rng = np.random.default_rng(5)
    name = "s2l2a_000008_20230510.tif"
    with rasterio.open(folder / name) as raster:
        before = raster.read()
    after = before.copy()
    after[1:3] += rng.integers(0, 4, after[1:3].shape, dtype=after.dtype)
    after[0, :2] = 0  # nodata
    rewrite_raster(copy / name, values=after)
    reseal(copy)
    [found] = compared(folder, copy)["rasters"]
    apart = np.abs(after.astype(int) - before)
    both = (before != 0) & (after != 0)
    assert found["pixels"] == int((apart != 0).any(axis=0).sum())
    assert found["nodata"] == int(((after == 0) != (before == 0)).any(axis=0).sum())
    assert found["bands"] == ["B02", "B03", "B04"]
    assert found["largest"] == apart[both].max()
    assert found["mean"] == pytest.approx(apart[both].mean())


@pytest.mark.parametrize("broken", ["nowhere", "v0.1/config.json"])
def test_what_is_no_release_is_one_line(folder: Path, copy: Path, broken: str) -> None:
    (copy / "gelos_chip_tracker.parquet").write_bytes(b"PAR1")
    for b in (copy.parent / broken, copy):
        result = CliRunner().invoke(main, ["compare", str(folder), str(b)])
        assert result.exit_code == 2
        assert result.stderr.startswith("error: ")
        assert result.stderr.count("\n") == 1
        assert not result.stdout
