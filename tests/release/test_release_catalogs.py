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

import duckdb
import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pystac
import pytest
import rasterio
import shapely
import stac_geoparquet.arrow
import yaml
from odc.geo.geobox import GeoBox
from odc.stac import load
from PIL import Image
from pystac.validation import validate_dict
from pystac.validation.stac_validator import GetSchemaError
from rasterio.io import MemoryFile
from release_landscape import read_windows, write_windows

from cube.config.models import Config
from cube.config.reading import load_config
from cube.config.sensors import SENSORS
from cube.html import svg
from cube.run.storage import open_folder
from release import open_release, windows
from release.card import make_card
from release.catalogs.croissant import make_croissant
from release.catalogs.stac import make_catalogs
from release.opening.faults import ReleaseError
from release.recipe import parse_recipe
from release.report.map import draw_map
from release.select import Selection
from release.tracker import GELOS_FIELDS, Tracker, read_tracker, to_csv


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
        links = {link["rel"]: link["href"] for link in item["links"]}
        assert links.keys() == {"root", "parent", "collection"}
        assert all((folder / href).exists() for href in links.values())


def test_a_stac_item_is_the_same_as_a_file_and_in_the_table(
    folder: Path, items: list[dict[str, Any]]
) -> None:
    for item in items:
        own = json.loads((folder / f"item_{item['properties']['gelos:id']:06}.json").read_text())
        for one in (own, item):
            for name in ("start_datetime", "end_datetime"):
                one["properties"][name] = pystac.utils.str_to_datetime(one["properties"][name])
        assert own == item


def nulls(document: object, path: str = "") -> list[str]:
    """Return where a document says null."""
    if isinstance(document, dict):
        return [found for key, value in document.items() for found in nulls(value, f"{path}/{key}")]
    if isinstance(document, list):
        return [found for value in document for found in nulls(value, path)]
    return [path] if document is None else []


@pytest.mark.parametrize("masks", [False, True])
def test_items_claim_the_extensions_that_they_use_and_leave_no_field_empty(
    folder: Path, items: list[dict[str, Any]], *, masks: bool
) -> None:
    """As the extensions' schemas ask, which the slow test holds against them where they can be had."""
    if masks:
        items = items_with_masks(folder)
    for item in items:
        assert nulls(item) == ["/properties/datetime"]  # the core's own: a range is given instead
        fields = {*item["properties"], *(name for asset in item["assets"].values() for name in asset)}
        used = {name.partition(":")[0] for name in fields if ":" in name} - {"gelos"}
        short = {"projection": "proj"}
        names = [url.split("/")[3] for url in item["stac_extensions"]]
        assert {short.get(name, name) for name in names} == used
        for one in item["assets"]["lulc"]["classification:classes"]:
            assert re.fullmatch("[0-9A-Za-z-_]+", one["name"])
            assert re.fullmatch("[0-9A-F]{6}", one["color_hint"])


def items_with_masks(folder: Path) -> list[dict[str, Any]]:
    """Return items of chips whose images hold mask bands, too."""
    recipe = parse_recipe((folder / "config.json").read_bytes())
    masks = {"s2l2a": "SCL", "lc2l2": "qa_pixel"}
    rasters = {
        key: replace(spec, bands=(*spec.bands, masks[key])) if key in masks else spec
        for key, spec in recipe.rasters.items()
    }
    table = read_tracker((folder / "gelos_chip_tracker.geojson").read_bytes())
    sums = dict.fromkeys((f"gelos_chip_tracker.{end}" for end in ("csv", "geojson", "parquet")), "0")
    data = b"".join(
        dict(make_catalogs(Tracker.of_table(table), replace(recipe, rasters=rasters), sums))["items.parquet"]
    )
    return list(stac_geoparquet.arrow.stac_table_to_items(pq.read_table(io.BytesIO(data))))


@pytest.mark.slow
def test_stac_is_valid_with_all_its_extensions(folder: Path, items: list[dict[str, Any]]) -> None:
    """By the extensions' own schemas, which lie on the web alone."""
    try:
        for document in (*items, *items_with_masks(folder)):
            assert len(validate_dict(document)) > 4
    except GetSchemaError as error:
        pytest.skip(f"no network: {error}")


def test_pystac_finds_all_items_and_their_files(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    catalog = pystac.Catalog.from_file(str(folder / "catalog.json"))
    assert catalog.catalog_type == pystac.CatalogType.SELF_CONTAINED
    table = read_tracker((folder / "gelos_chip_tracker.geojson").read_bytes())
    items = list(catalog.get_items(recursive=True))
    assert [item.properties["gelos:id"] for item in items] == table["id"].tolist()
    for item in items:
        assert item.get_self_href() == str(folder / f"item_{item.properties['gelos:id']:06}.json")
        assert item.get_collection().id == "tiny"
        check_assets(item)


def check_assets(item: pystac.Item) -> None:
    for asset in item.assets.values():
        assert Path(asset.get_absolute_href() or "").is_file()


def test_items_of_the_table_take_the_place_that_they_are_given(
    folder: Path, items: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")
    for item in items:
        check_assets(pystac.Item.from_dict(item, href=f"{folder}/{item['id']}.json"))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of odc-stac's own libraries
def test_odc_stac_loads_what_rasterio_reads(folder: Path) -> None:
    catalog = pystac.Catalog.from_file(str(folder / "catalog.json"))
    item = next(item for item in catalog.get_items(recursive=True) if item.id.endswith("5"))
    for key in ("s2l2a_2", "s1rtc_1", "lc2l2_1", "dem", "lulc"):
        with rasterio.open(folder / item.assets[key].href) as raster:
            expected, geobox = raster.read(), GeoBox.from_rio(raster)
        bands = [f"{key}.{number}" for number, _ in enumerate(expected, start=1)]
        loaded = load([item], bands=bands, geobox=geobox)
        for band, values in zip(bands, expected, strict=True):
            found = loaded[band if band in loaded else key].to_numpy()[0]
            assert found.dtype == values.dtype
            np.testing.assert_array_equal(found, values)


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
    data = b"".join(dict(make_catalogs(Tracker.of_table(table), recipe, sums))["items.parquet"])
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
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it leaves files to be closed
def test_croissant_is_valid_and_gives_tables_pictures_and_pixels(folder: Path) -> None:
    document = json.loads((folder / "croissant.json").read_text())
    assert document["conformsTo"] == "http://mlcommons.org/croissant/1.0"
    mlcroissant = pytest.importorskip("mlcroissant")
    dataset = mlcroissant.Dataset(str(folder / "croissant.json"))
    issues = dataset.metadata.ctx.issues
    assert (list(issues.errors), list(issues.warnings)) == ([], [])
    records = list(dataset.records("chips"))
    table = read_tracker((folder / "gelos_chip_tracker.geojson").read_bytes()).set_index("id", drop=False)
    assert [record["chips/id"] for record in records] == table["id"].tolist()
    assert records[0]["chips/s2l2a_paths"].decode() == table["s2l2a_paths"][0]
    assert records[0]["chips/label"] == table["label"][0]
    pictures = list(dataset.records("s1rtc-images"))
    assert len(pictures) == len(list(folder.glob("s1rtc_*.png")))
    for one in pictures[::7]:
        name = one["s1rtc-images/filename"].decode()
        with Image.open(folder / name) as picture:
            np.testing.assert_array_equal(np.asarray(one["s1rtc-images/image"]), np.asarray(picture))
        chip = table.loc[int(name.split("_")[1])]
        assert one["s1rtc-images/label"] == chip["label"]
        assert one["s1rtc-images/category"].decode() == chip["category"]
        assert one["s1rtc-images/split"].decode() == chip["split"]
    for key in ("s2l2a", "lulc"):
        rasters = list(dataset.records(f"{key}-geotiffs"))
        names = [one[f"{key}-geotiffs/filename"].decode() for one in rasters]
        assert names == sorted(path.name for path in folder.glob(f"{key}_*.tif"))
        assert [one[f"{key}-geotiffs/chip"] for one in rasters] == [
            int(name.split("_")[1][:6]) for name in names
        ]
        for name, one in zip(names[::9], rasters[::9], strict=True):
            with MemoryFile(one[f"{key}-geotiffs/geotiff"]) as memory, memory.open() as found:
                pixels = found.read()
            with rasterio.open(folder / name) as raster:
                np.testing.assert_array_equal(pixels, raster.read())


@pytest.mark.parametrize(
    ("version", "semantic"),
    [
        ("v0.50.1", "0.50.1"),
        ("v0.1", "0.1.0"),
        ("2", "2.0.0"),
        ("demo", "0.0.0+demo"),
        ("2024.01_b", "0.0.0+2024-01-b"),
    ],
)
def test_croissants_version_is_semantic(folder: Path, version: str, semantic: str) -> None:
    recipe = replace(parse_recipe((folder / "config.json").read_bytes()), version=version)
    table = read_tracker((folder / "gelos_chip_tracker.geojson").read_bytes())
    sums = dict.fromkeys((f"gelos_chip_tracker.{end}" for end in ("csv", "geojson", "parquet")), "0")
    assert make_croissant(Tracker.of_table(table), recipe, sums)["version"] == semantic


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


def test_duckdb_asks_the_tables_by_sql(folder: Path) -> None:
    """As many chips per class as the GeoJSON has; footprints as well-known binary, items by their properties."""
    table = gpd.read_file(folder / "gelos_chip_tracker.geojson")
    with duckdb.connect() as database:
        counts = database.sql(
            f"SELECT category, count(*) FROM '{folder / 'gelos_chip_tracker.parquet'}' GROUP BY category"
        ).fetchall()
        footprints = database.sql(
            f"SELECT id, geometry::BLOB FROM '{folder / 'gelos_chip_tracker.parquet'}' ORDER BY id"
        ).fetchall()
        found = database.sql(
            f"""SELECT t.id, i."gelos:lulc" FROM '{folder / "gelos_chip_tracker.parquet"}' t
            JOIN '{folder / "items.parquet"}' i ON i."gelos:id" = t.id ORDER BY t.id"""
        ).fetchall()
    assert dict(counts) == table["category"].value_counts().to_dict()
    assert [(chip_id, lulc) for chip_id, lulc in found] == list(
        zip(table["id"], table["lulc"].astype(int), strict=True)
    )
    shapes = shapely.from_wkb([bytes(blob) for _, blob in footprints])
    assert shapely.equals_exact(shapes, table.geometry.to_numpy(), 1e-9).all()


def test_thumbnails_get_their_prefix(tmp_path: Path) -> None:
    from release_landscape import Land, working_folder

    from release import make_release, verify

    config = working_folder(tmp_path, Land({1: 2}), {"release.thumbnail_url": "https://example.org/thumbs/"})
    folder = Path(make_release(config).folder)
    row = read_tracker((folder / "gelos_chip_tracker.geojson").read_bytes()).iloc[0]
    assert row["s2l2a_thumbs"].split(",")[0] == "https://example.org/thumbs/s2l2a_000000_20230115.png"
    assert verify(folder) == []


def test_of_a_window_that_is_no_chip_only_its_measures_are_kept(config: Config) -> None:
    working = Path(config.directory.working) / config.dataset.version
    expected = read_windows(working)
    is_chip = expected["status"] == "success"
    assert 0 < is_chip.sum() < len(expected)
    found = windows.read_windows(open_folder(str(working / "windows")), SENSORS)
    assert found.chips.index.tolist() == expected.index[is_chip].tolist()
    assert set(found.chips) == set(expected)
    for name in expected:
        assert found.chips[name].tolist() == expected.loc[is_chip, name].tolist()
    assert len({id(text) for text in found.chips["s2l2a_dates"]}) == 1  # of many chips, held once
    assert found.rejected.to_dict() == expected.loc[~is_chip, "status"].to_dict()
    measures = pd.concat(found.measures)
    assert set(measures) == {"aoi_index", "lulc", "epsg", "left_m", "top_m", "purity", "s2l2a_clear"}
    assert measures.index.tolist() == expected.index.tolist()
    for name in measures:
        assert measures[name].tolist() == expected[name].tolist()


def test_a_footprint_that_is_none_is_told(config: Config, tmp_path: Path) -> None:
    table = read_windows(Path(config.directory.working) / config.dataset.version)
    table.loc[table["status"] == "success", "chip_footprint"] = "POLYGON ((0 0, 1"
    write_windows(tmp_path, table.to_dict("records"))
    with pytest.raises(ReleaseError, match=r"a value cannot be read .*; run gelos-lc chip again"):
        windows.read_windows(open_folder(str(tmp_path / "windows")), SENSORS)


def test_a_text_that_is_missing_is_told(config: Config, tmp_path: Path) -> None:
    table = read_windows(Path(config.directory.working) / config.dataset.version)
    table.loc[table.index[table["status"] == "success"][0], "s2l2a_scene_ids"] = None
    write_windows(tmp_path, table.to_dict("records"))
    with pytest.raises(
        ReleaseError, match=r"column s2l2a_scene_ids: a chip's row has no text; run gelos-lc chip"
    ):
        windows.read_windows(open_folder(str(tmp_path / "windows")), SENSORS)


def test_a_measure_that_nobody_took_is_an_empty_text(config: Config, tmp_path: Path) -> None:
    table = read_windows(Path(config.directory.working) / config.dataset.version)
    write_windows(tmp_path, table.assign(dem_min_valid=np.nan).to_dict("records"))
    found = windows.read_windows(open_folder(str(tmp_path / "windows")), SENSORS)
    assert set(found.chips["dem_min_valid"]) == {""}
    assert "dem_min_valid" not in pd.concat(found.measures)
    assert found.chips["lulc"].dtype == np.int64


def test_report_and_browser_say_the_same_of_windows_however_they_are_packed(
    config: Config, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from release import make_release

    monkeypatch.setattr(windows, "_ROWS_PER_PART", 1)
    again = load_config(config.path, [f"directory.output={tmp_path}"])
    make_release(again)
    for name in ("SHA256SUMS", "report.html", "browse_chips.js", "browse_windows_0000.js"):
        assert (tmp_path / config.dataset.version / name).read_bytes() == (folder / name).read_bytes()


def rows_of(piece: dict[str, Any]) -> list[tuple[Any, ...]]:
    """Edge, edge and verdict of the windows of a file; a column of one number is that number."""
    columns = (piece[name] for name in ("left", "top", "verdict"))
    filled = [column if isinstance(column, list) else [column] * piece["count"] for column in columns]
    return list(zip(*filled, strict=True))


def test_the_browser_has_every_window_that_is_no_chip_once(
    config: Config, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from release import make_release

    monkeypatch.setattr(windows, "_ROWS_PER_PART", 4)
    monkeypatch.setattr("release.report.browser._WINDOWS_PER_FILE", 5)
    again = load_config(config.path, [f"directory.output={tmp_path}"])
    made = Path(make_release(again).folder)
    files = sorted(made.glob("browse_windows_*.js"))
    pieces = [json.loads(path.read_text().partition(",")[2].removesuffix(");\n")) for path in files]
    [whole] = [
        json.loads(path.read_text().partition(",")[2].removesuffix(");\n"))
        for path in folder.glob("browse_windows_*.js")
    ]
    assert len(pieces) > 1
    assert [piece["count"] for piece in pieces[:-1]] == [5] * (len(pieces) - 1)
    rows = [row for piece in pieces for row in rows_of(piece)]
    assert rows == rows_of(whole)
    table = read_windows(Path(config.directory.working) / config.dataset.version)
    tracker = gpd.read_parquet(made / "gelos_chip_tracker.parquet")
    lost = table[~table["cell"].isin(tracker["cell"])]
    assert sorted((left, top) for left, top, _ in rows) == sorted(
        zip(lost["left_m"], lost["top_m"], strict=True)
    )


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
    selection, tracker = Selection(opened.table, (), counts, counts, ()), Tracker.of_table(opened.table)
    card = make_card(selection, tracker, recipe).decode()
    assert "| Heights \\| of # nowhere | `dem` |" in card
    assert "| a --- b |" in card
    assert card.count("\n---\n") == 1  # the end of the front matter


def test_the_report_needs_nothing_else(folder: Path) -> None:
    page = (folder / "report.html").read_text()
    for address in re.findall(r'(?:src|href)="([^"]+)"', page):
        assert (
            address.startswith(("data:image/png;base64,", "#"))
            or (folder / address.partition("#")[0]).exists()
        ), address
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
    assert page.count("<img decoding") == 3 * 3 * 8


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
        assert f"<tr><td>{area:06}</td>{cells}</tr>" in page
    for verdict, meaning in {
        "impure": "the majority class has too small a share",
        "s2l2a_cloudy": "too few pixels of s2l2a are clear on some date",
        "capped": "its class had enough chips in its area; which go is drawn by lot",
    }.items():
        assert f'>{verdict}</a><br><span class="muted">{meaning}</span></span>' in page
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
        assert all(f">{pd.Timestamp(f'{month}01'):%b}</text>" in drawing for month in months)


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


@pytest.mark.parametrize("chips", [500, 60_000])
def test_the_map_counts_every_chip_and_draws_no_more_than_a_browser_likes(folder: Path, chips: int) -> None:
    opened, rng = open_release(folder), np.random.default_rng(5)
    table = opened.table.iloc[rng.integers(0, len(opened.table), chips)].reset_index(drop=True)
    lon, lat = rng.uniform(0, 9, chips), rng.uniform(40, 44, chips)
    moved = table.set_geometry(gpd.points_from_xy(lon, lat)).assign(lon=lon, lat=lat)
    drawing = draw_map(Tracker.of_table(moved), None, opened.recipe)["drawing"]
    titles = re.findall(r'class="chip"><title>([^<]*)</title>', drawing)
    counts = Counter[str]()
    for name, count in (one.rsplit(": ", 1) for title in titles for one in title.split(", ")):
        counts[name] += int(count)
    assert counts == moved["category"].value_counts().to_dict()
    if chips == 500:
        assert len(titles) > 450  # hardly two of them within half a unit
    else:
        assert len(titles) < 30_000


def test_the_report_escapes(tmp_path: Path) -> None:
    from release_landscape import VERSION, Land, working_folder

    from release import make_release

    config = working_folder(tmp_path, Land({1: 2}))
    aois = Path(config.directory.working) / VERSION / "aoi_metadata.geojson"
    aois.write_text(aois.read_text().replace("no scene", "<script>alert(1)</script>"))
    table = read_windows(aois.parent)
    table = table.rename(columns={"s2l2a_clear": 'clear"><script>alert(2)</script>'})
    table["status"] = table["status"].replace("impure", "<script>alert(3)</script>")
    write_windows(aois.parent, table.to_dict("records"))
    page = (Path(make_release(config).folder) / "report.html").read_text()
    assert page.count("<script") == 2  # the map and its data
    assert all(f"&lt;script&gt;alert({number})" in page for number in (1, 2, 3))
