"""STAC, Croissant, card and tracker: what other tools read."""

from __future__ import annotations

import io
import json
import re
import tomllib
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import rasterio
import stac_geoparquet.arrow
import yaml
from PIL import Image
from pystac.validation import validate_dict

from cube.config.models import Config
from cube.config.sensors import SENSORS
from release import open_release, svg, tracker
from release.card import make_card
from release.catalogs import make_catalogs
from release.recipe import parse_recipe
from release.select import Selection
from release.tracker import GELOS_FIELDS, read_metadata, read_tracker, to_csv


@pytest.fixture(scope="module")
def items(folder: Path) -> list[dict[str, Any]]:
    """STAC items, as any reader of stac-geoparquet gets them."""
    return list(stac_geoparquet.arrow.stac_table_to_items(pq.read_table(folder / "items.parquet")))


def core(document: dict[str, Any]) -> dict[str, Any]:
    """Leave extensions out: their schemas need a network."""
    return {**document, "stac_extensions": []}


def test_stac_is_valid(folder: Path, items: list[dict[str, Any]]) -> None:
    for name in ("catalog.json", "collection.json"):
        document = json.loads((folder / name).read_text())
        validate_dict(core(document))
        for link in document["links"]:
            assert (folder / link["href"]).exists()
        for asset in document.get("assets", {}).values():
            assert (folder / asset["href"]).exists()
    table = read_tracker((folder / "gelos_chip_tracker.geojson").read_bytes())
    assert [item["properties"]["gelos:id"] for item in items] == table["id"].tolist()
    for item in items:
        validate_dict(core(item))
        assert {link["rel"]: (folder / link["href"]).exists() for link in item["links"]} == {
            "root": True,
            "parent": True,
            "collection": True,
        }


def test_stac_says_where_and_what_each_raster_is(folder: Path, items: list[dict[str, Any]]) -> None:
    extensions = " ".join(items[0]["stac_extensions"])
    assert all(name in extensions for name in ("/projection/", "/eo/", "/raster/", "/classification/"))
    for item in items[::4]:
        rasters = {k: a for k, a in item["assets"].items() if "thumbnail" not in k}
        assert set(rasters) == {
            "s2l2a_1",
            "s2l2a_2",
            "s1rtc_1",
            "s1rtc_2",
            "lc2l2_1",
            "lc2l2_2",
            "dem",
            "lulc",
        }
        for asset in rasters.values():
            assert "proj:code" not in asset
            with rasterio.open(folder / asset["href"]) as raster:
                assert item["properties"]["proj:code"] == str(raster.crs)
                assert asset["proj:transform"] == list(raster.transform)[:6]
                assert asset["proj:shape"] == list(raster.shape)
                assert [band["data_type"] for band in asset["raster:bands"]] == list(raster.dtypes)
        assert item["assets"]["lulc"]["classification:classes"][1]["name"] == "water"
        assert [band["name"] for band in item["assets"]["s2l2a_1"]["eo:bands"]] == [
            "B02",
            "B03",
            "B04",
            "B08",
        ]


def test_stac_says_how_each_image_was_taken(folder: Path) -> None:
    table = read_tracker((folder / "gelos_chip_tracker.geojson").read_bytes())
    recipe = parse_recipe((folder / "config.json").read_bytes())
    table["s2l2a_sun_elevations"] = [f"24.6,{50 + number}" for number in range(len(table))]
    table["s2l2a_cloud_shares"] = "0,0.25"
    table["s1rtc_orbit_states"] = "descending,ascending"
    table["lc2l2_sun_azimuths"] = ["161.05,"] + ["161.05,150"] * (len(table) - 1)
    sums = dict.fromkeys((f"gelos_chip_tracker.{end}" for end in ("csv", "geojson", "parquet")), "0")
    data = make_catalogs(table, recipe, sums)["items.parquet"]
    items = list(stac_geoparquet.arrow.stac_table_to_items(pq.read_table(io.BytesIO(data))))
    for number, item in enumerate(items):
        validate_dict(core(item))
        extensions = " ".join(item["stac_extensions"])
        assert "/view/v" in extensions
        assert "/sat/v" in extensions
        known = {
            (name, key): value
            for name, asset in item["assets"].items()
            for key, value in asset.items()
            if key.startswith(("view:", "sat:", "gelos:"))
        }
        assert known == {
            ("s2l2a_1", "view:sun_elevation"): 24.6,
            ("s2l2a_2", "view:sun_elevation"): 50.0 + number,
            ("s2l2a_1", "gelos:cloud_share"): 0.0,
            ("s2l2a_2", "gelos:cloud_share"): 0.25,
            ("s1rtc_1", "sat:orbit_state"): "descending",
            ("s1rtc_2", "sat:orbit_state"): "ascending",
            ("lc2l2_1", "view:sun_azimuth"): 161.05,  # of the second range not every chip's is known
        }
        # The extensions' schemas want one of their properties on the item.
        properties = item["properties"]
        assert (properties["view:sun_elevation"], properties["sat:orbit_state"]) == (24.6, "descending")


def test_stac_of_images_of_which_nothing_is_known_claims_nothing(items: list[dict[str, Any]]) -> None:
    for item in items:
        assert not [name for name in item["stac_extensions"] if "/view/" in name or "/sat/" in name]
        assert not [name for asset in item["assets"].values() for name in asset if "view:" in name]


@pytest.mark.filterwarnings("ignore:ConjunctiveGraph:DeprecationWarning")  # of mlcroissant's own rdflib
def test_croissant_is_valid_and_gives_the_records(folder: Path) -> None:
    document = json.loads((folder / "croissant.json").read_text())
    assert document["conformsTo"] == "http://mlcommons.org/croissant/1.0"
    mlcroissant = pytest.importorskip("mlcroissant")
    dataset = mlcroissant.Dataset(str(folder / "croissant.json"))
    assert not dataset.metadata.ctx.issues.errors
    records = list(dataset.records("chips"))
    table = read_tracker((folder / "gelos_chip_tracker.geojson").read_bytes())
    assert [record["chips/id"] for record in records] == table["id"].tolist()
    assert records[0]["chips/s2l2a_paths"].decode() == table["s2l2a_paths"][0]
    assert records[0]["chips/label"] == table["label"][0]
    pictures = list(dataset.records("s1rtc-images"))
    assert len(pictures) == len(list(folder.glob("s1rtc_*.png")))
    for one in pictures[::7]:
        with Image.open(folder / one["s1rtc-images/filename"].decode()) as picture:
            np.testing.assert_array_equal(np.asarray(one["s1rtc-images/image"]), np.asarray(picture))


def test_the_tracker_has_gelos_fields_types_and_forms(folder: Path) -> None:
    by_gdal = gpd.read_file(folder / "gelos_chip_tracker.geojson")
    assert list(by_gdal.columns[: len(GELOS_FIELDS)]) == list(GELOS_FIELDS)
    row = by_gdal.iloc[4]
    assert row["lulc"] in {"1", "2", "5"}
    assert row["s2l2a_paths"] == "s2l2a_000004_20230115.tif,s2l2a_000004_20230510.tif"
    assert row["s1rtc_thumbs"] == "s1rtc_000004_20230117.png,s1rtc_000004_20230512.png"
    assert (row["dem_paths"], row["lulc_paths"]) == ("dem_000004.tif", "lulc_000004.tif")
    assert row["color"] == {"1": "#419bdf", "2": "#397d49", "5": "#e49635"}[row["lulc"]]
    assert abs(row["lat"] - row.geometry.centroid.y) < 1e-5
    assert abs(row["lon"] - row.geometry.centroid.x) < 1e-5
    for name in ("original_id", "aoi_index", "epsg", "id"):
        assert pd.api.types.is_integer_dtype(by_gdal[name])
    assert by_gdal.crs.to_epsg() == 4326


def test_csv_and_parquet_are_the_same_table(folder: Path) -> None:
    table = read_tracker((folder / "gelos_chip_tracker.geojson").read_bytes())
    parquet = gpd.read_parquet(folder / "gelos_chip_tracker.parquet")
    assert list(parquet.columns) == list(table.columns)
    text = (folder / "gelos_chip_tracker.csv").read_bytes()
    assert to_csv(parquet) == to_csv(table) == text
    csv = pd.read_csv(io.BytesIO(text))
    assert csv["lat"].tolist() == table["lat"].tolist()


def test_thumbnails_get_their_prefix(tmp_path: Path) -> None:
    from release_landscape import Land, working_folder

    from release import make_release, verify

    config = working_folder(tmp_path, Land({1: 2}), {"release.thumbnail_url": "https://example.org/thumbs/"})
    folder = Path(make_release(config).folder)
    row = read_tracker((folder / "gelos_chip_tracker.geojson").read_bytes()).iloc[0]
    assert row["s2l2a_thumbs"].split(",")[0] == "https://example.org/thumbs/s2l2a_000000_20230115.png"
    assert verify(folder) == []


def test_metadata_with_a_single_date_stays_text() -> None:
    head = "chip_index,aoi_index,cell,s2l2a_dates,s1rtc_dates,lc2l2_dates,lulc,purity,"
    head += "chip_footprint,epsg,status,"
    head += "s2l2a_scene_ids,s1rtc_scene_ids,lc2l2_scene_ids,dem_scene_ids,lulc_scene_ids,"
    head += "left_m,top_m,s2l2a_min_clear"
    row = '0,0,32632_0_0,20230115,,,1,1.0,"POLYGON ((0 0, 1 0, 1 1, 0 0))",32632,success,a,,,,b,0,0,'
    table = read_metadata(io.BytesIO(f"{head}\n{row}\n".encode()), SENSORS)
    assert table["s2l2a_dates"][0] == "20230115"
    assert table["purity"].dtype == float
    assert table["s2l2a_min_clear"][0] == ""


@pytest.mark.parametrize("rows", [1, 7, 5000])
def test_of_a_window_that_is_no_chip_only_its_measures_are_kept(
    config: Config, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    path = Path(config.directory.working) / config.dataset.version / "chip_metadata.csv"
    expected = pd.read_csv(path, dtype=str, keep_default_na=False)
    is_chip = expected["status"] == "success"
    assert 0 < is_chip.sum() < len(expected)
    monkeypatch.setattr(tracker, "_WINDOWS", rows)
    with path.open("rb") as file:
        table = read_metadata(file, SENSORS)
    for name in ("chip_index", "aoi_index", "status", "lulc", "s2l2a_clear", "left_m"):
        assert table[name].astype(str).tolist() == expected[name].tolist()
    for name in ("cell", "s2l2a_dates", "lc2l2_scene_ids"):
        assert table[name].tolist() == expected[name].where(is_chip, "").tolist()
    assert table.geometry.notna().tolist() == is_chip.tolist()
    wkt = gpd.GeoSeries.from_wkt(expected["chip_footprint"])
    assert table.geometry[is_chip].geom_equals(wkt[is_chip].set_crs(4326)).all()


def test_a_tracker_has_the_types_of_whole_columns() -> None:
    columns: dict[str, list[object]] = {
        "whole": [1, 2, 3, 4],
        "share": [None, None, 0.5, 1.0],
        "text": ["a", "", "c", None],
        "flag": [True, True, 1, 2],
        "empty": [None, None, None, None],
        "mixed": [1, 2, "a", 2.5],
        "large": [1, 1, 2**63, 2**63],
        "list": [1, 1, 1, [2]],
    }
    records = [{name: values[number] for name, values in columns.items()} for number in range(4)]
    point = {"type": "Point", "coordinates": [1.0, 2.0]}
    features = [{"type": "Feature", "properties": record, "geometry": point} for record in records]
    table = read_tracker(json.dumps({"type": "FeatureCollection", "features": features}).encode())
    expected = pd.DataFrame.from_records(records)
    pd.testing.assert_frame_equal(pd.DataFrame(table.drop(columns="geometry")), expected)
    assert [type(value) for value in table["flag"]] == [bool, bool, int, int]


def test_the_card_says_what_how_and_whose(folder: Path) -> None:
    card = (folder / "README.md").read_text()
    for text in (
        "Contains modified Copernicus Sentinel data",
        "Landsat Level-2 products courtesy of the U.S. Geological Survey",
        "CC BY 4.0",
        "sha256sum -c SHA256SUMS",
        "the largest class holds at most 2 times",
        "`lat` is the latitude and `lon` the longitude; GELOS's trackers made before January 2026 have them swapped",
        "Sentinel-1 RTC is known to lie up to 20 m off",
        "calendar quarters",
        "4 impure",
    ):
        assert text.lower() in card.lower(), text
    assert card.startswith("---\npretty_name: tiny v0.1\n")


def test_labels_are_integers_with_names(folder: Path) -> None:
    table = read_tracker((folder / "gelos_chip_tracker.geojson").read_bytes())
    names = json.loads((folder / "config.json").read_text())["label_names"]
    assert pd.api.types.is_integer_dtype(table["label"])
    assert [names[label] for label in table["label"]] == table["category"].tolist()
    front = yaml.safe_load((folder / "README.md").read_text().split("---")[1])
    assert front["configs"][0]["data_files"] == [{"split": "train", "path": "gelos_chip_tracker.parquet"}]


def test_hugging_face_takes_the_card_for_the_table(folder: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    data = datasets.load_dataset(str(folder), cache_dir=str(tmp_path))["train"]
    table = read_tracker((folder / "gelos_chip_tracker.geojson").read_bytes())
    assert data["label"][:] == table["label"].tolist()
    assert data["s2l2a_paths"][:] == table["s2l2a_paths"].tolist()


def test_a_date_of_publication_is_the_configs(tmp_path: Path) -> None:
    from release_landscape import Land, working_folder

    from release import make_release

    config = working_folder(tmp_path, Land({1: 2}), {"dataset.published": "2026-11-28"})
    folder = Path(make_release(config).folder)
    assert json.loads((folder / "croissant.json").read_text())["datePublished"] == "2026-11-28"
    assert set(pd.read_csv(folder / "gelos_chip_tracker.csv")["split"]) == {"all"}


def test_no_sensors_row_breaks_the_cards_tables(folder: Path) -> None:
    opened = open_release(folder)
    row = replace(opened.recipe.table["dem"], title="Heights | of\n# nowhere", attribution="a\n\n---\nb")
    recipe = replace(opened.recipe, table=opened.recipe.table.extended([row]))
    counts = dict.fromkeys(recipe.before, 1)
    card = make_card(Selection(opened.table, (), counts, counts, ()), opened.table, recipe).decode()
    assert "| Heights \\| of # nowhere | `dem` |" in card
    assert "| a --- b |" in card
    assert card.count("\n---\n") == 1  # the end of the front matter


def test_the_report_needs_nothing_else(folder: Path) -> None:
    page = (folder / "report.html").read_text()
    for address in re.findall(r'(?:src|href)="([^"]*)"', page):
        assert address.startswith(("data:image/png;base64,", "#")) or (folder / address).exists(), address
    assert "http" not in re.sub(r"data:image/png;base64,[^\"]*", "", page)
    for text in (
        "Gallery",
        "unbalanced",
        "7 over cloud_cover 50",
        "Sentinel-1 RTC",
        "s2l2a_clear",
        "2 Trees",
    ):
        assert text in page, text
    assert page.count("<img") == 3 * 3 * 8


def test_the_report_tells_thresholds_areas_and_verdicts(folder: Path) -> None:
    page = (folder / "report.html").read_text()
    version = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]["version"]
    assert f"Made by gelos-lc {version}." in page
    for name, value in {
        "least purity": "0.5",
        "least valid share, s2l2a": "1",
        "s2l2a cloud cover": "&lt; 30",
        "s1rtc delta days": "≤ 12",
        "most chips of a class and area": "400",
    }.items():
        assert f"<dt>{name}</dt><dd>{value}</dd>" in page, name
    table = pd.read_csv(folder / "gelos_chip_tracker.csv")
    codes = sorted(table["lulc"].unique())
    for area, own in table.groupby("aoi_index"):
        counts = [(own["lulc"] == code).sum() for code in codes]
        cells = "".join(f'<td class="number">{count}</td>' for count in (*counts, len(own)))
        assert f"<tr><td>{area}</td>{cells}</tr>" in page
    for verdict, meaning in {
        "impure": "the majority class has too small a share",
        "s2l2a_cloudy": "too few pixels of s2l2a are clear on some date",
        "capped": "its class had enough chips in its area; which go is drawn by lot",
    }.items():
        assert f'<span>{verdict}<br><span class="muted">{meaning}</span></span>' in page
    assert 'class="asked"' in page


def test_the_report_counts_dates_by_month(folder: Path) -> None:
    page = (folder / "report.html").read_text()
    table = pd.read_csv(folder / "gelos_chip_tracker.csv", dtype=str)
    for key in ("s2l2a", "s1rtc", "lc2l2"):
        months = Counter(date[:6] for joined in table[f"{key}_dates"] for date in joined.split(","))
        drawing = page.partition(f'aria-label="Dates of {key}"')[2].partition("</svg>")[0]
        bars = [int(text) for text in re.findall(r"<title>(\d+)</title>", drawing)]
        assert bars == [months[month] for month in sorted(months)]
        assert all(f">{count}</text>" in drawing for count in months.values())


def test_histograms_mark_the_threshold_and_show_small_bars() -> None:
    flat = svg.histogram([1, 0, 1000, 3], "name", mark=0.5)
    steep = svg.histogram([1, 0, 1000, 3], "name", is_log=True)
    tall = [
        [float(text) for text in re.findall(r'height="([^"]*)" class="bar"', one)] for one in (flat, steep)
    ]
    assert tall[0] == [1.5, 92, 1.5]
    assert tall[1] == pytest.approx([92 * np.log(n + 1) / np.log(1001) for n in (1, 1000, 3)], abs=0.06)
    assert '<line x1="160" x2="160"' in flat
    assert "asked" not in steep


def test_the_report_escapes(tmp_path: Path) -> None:
    from release_landscape import VERSION, Land, working_folder

    from release import make_release

    config = working_folder(tmp_path, Land({1: 2}))
    aois = Path(config.directory.working) / VERSION / "aoi_metadata.geojson"
    aois.write_text(aois.read_text().replace("no scene", "<script>alert(1)</script>"))
    metadata = aois.with_name("chip_metadata.csv")
    table = pd.read_csv(metadata, dtype=str, keep_default_na=False)
    table = table.rename(columns={"s2l2a_clear": 'clear"><script>alert(2)</script>'})
    table["status"] = table["status"].replace("impure", "<script>alert(3)</script>")
    table.to_csv(metadata, index=False)
    page = (Path(make_release(config).folder) / "report.html").read_text()
    assert "<script" not in page
    assert all(f"&lt;script&gt;alert({number})" in page for number in (1, 2, 3))
