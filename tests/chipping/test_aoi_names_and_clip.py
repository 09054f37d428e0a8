"""What an AOI is called is shown wherever its number is, and ``aoi.clip`` keeps chips to its polygon."""

from __future__ import annotations

import csv
import json
import logging
import re
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import shapely
from chip_cubes import clean_arrays, make_config, put_cube
from pyproj import Transformer
from shapely import box
from shapely.geometry import mapping

from chipping.chip import chip
from cube.build.aoi_rows import AoiRows
from cube.config.aoi import load_aois
from cube.config.models import Config
from cube.config.reading import load_config
from cube.errors import ConfigError
from cube.run.layout import Layout
from cube.run.status import AoiState, StatusBoard
from cube.store.open import open_cube
from cube.windows.grid import Bounds
from release.make import make_release
from release.verify.release import verify

EPSG = 32632
BOX = Bounds(480_000, 5_990_400, 482_880, 5_993_280)


def to_lonlat(area: shapely.Polygon) -> shapely.Polygon:
    dense = area.segmentize(100)
    return shapely.transform(
        dense, Transformer.from_crs(EPSG, 4326, always_xy=True).transform, interleaved=False
    )


def with_area(folder: Path, area: shapely.Polygon, *overrides: str, **names: str) -> Config:
    """Return a config of one AOI, with its cube."""
    make_config(folder)
    feature = {"type": "Feature", "properties": names, "geometry": mapping(to_lonlat(area))}
    (folder / "aoi.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    config = load_config(folder / "config.yaml", overrides)
    put_cube(config, BOX, clean_arrays(config, BOX, np.random.default_rng(0)), epsg=EPSG)
    return config


def rows_of(config: Config) -> list[dict[str, str]]:
    with (Layout.of(config).root.path / "chip_metadata.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("clip", ["none", "centre", "whole"])
def test_clip_agrees_with_a_recount(tmp_path: Path, clip: str) -> None:
    area = shapely.Polygon([(480_100, 5_990_500), (482_700, 5_990_700), (481_300, 5_993_100)])
    config = with_area(tmp_path, area, f"aoi.clip={clip}", "chips.max_per_class=")
    summary = chip(config)
    kept = 0
    for row in rows_of(config):
        left, top = int(row["left_m"]), int(row["top_m"])
        square = box(left, top - 480, left + 480, top)  # in the zone, where the polygon was drawn
        inside = {"none": True, "centre": area.contains(square.centroid), "whole": area.contains(square)}[
            clip
        ]
        assert row["status"] == ("success" if inside else "outside_aoi")
        kept += inside
    assert summary.chips == kept
    assert {"none": kept == 36, "centre": 10 < kept < 30, "whole": 0 < kept < 15}[clip]


def test_clip_across_the_antimeridian() -> None:
    from cube.windows.footprints import footprints, outside
    from cube.windows.lattice import WindowGeometry

    geometry = WindowGeometry(480, 480, 480)
    x, y = Transformer.from_crs(4326, 32601, always_xy=True).transform(-180.0, 10.0)
    left = np.array([round(x) - 2000, round(x) - 240, round(x) + 2000])
    chips = footprints(geometry, 32601, left, np.full(3, round(y)))
    both = shapely.MultiPolygon([box(179.99, 9.9, 180, 10.1), box(-180, 9.9, -179.99, 10.1)])
    assert outside(both, chips, "centre").tolist() == [True, False, True]
    assert outside(both, chips, "whole").tolist() == [True, False, True]


def test_names_are_in_every_table_log_line_tracker_and_report(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    area = box(480_000, 5_990_400, 482_880, 5_993_280)
    more = ("release.allow_missing_classes=true", "directory.zip_output=false")
    config = with_area(tmp_path, area, *more, name="Łódź [old] town", id="007")
    rows = AoiRows(StatusBoard(Layout.of(config).root, load_aois(config)), None)
    with caplog.at_level(logging.INFO):
        rows.update(0, status=AoiState.BUILT)
    assert "AOI 000000 (Łódź [old] town): built" in caplog.text
    assert open_cube(Layout.of(config).root, aoi="007").attrs["aoi_index"] == 0
    chip(config)
    assert {(row["aoi_name"], row["aoi_id"]) for row in rows_of(config)} == {("Łódź [old] town", "007")}
    make_release(config)
    folder = Path(config.directory.output) / "v1"
    for tracker in (
        gpd.read_file(folder / "gelos_chip_tracker.geojson"),
        gpd.read_parquet(folder / "gelos_chip_tracker.parquet"),
    ):
        assert set(tracker["aoi_name"]) == {"Łódź [old] town"}
        assert set(tracker["aoi_id"].astype(str)) == {"007"}
    [area_row] = json.loads((folder / "aois.geojson").read_text())["features"]
    assert (area_row["properties"]["name"], area_row["properties"]["id"]) == ("Łódź [old] town", "007")
    assert "<td>000000 (Łódź [old] town)</td>" in (folder / "report.html").read_text()
    assert re.search(r"aoi_name.*what the list of areas calls it", (folder / "README.md").read_text())
    assert [str(fault) for fault in verify(folder) if not fault.warning] == []
    with pytest.raises(ConfigError, match=r"^AOI 000000 \(Łódź \[old\] town\): its cube was built with"):
        chip(load_config(config.path, ["s2l2a.harmonize=false"]))


def test_areas_without_names_add_no_column(tmp_path: Path) -> None:
    config = with_area(tmp_path, box(480_000, 5_990_400, 482_880, 5_993_280))
    chip(config)
    assert not {"aoi_name", "aoi_id"} & set(rows_of(config)[0])
