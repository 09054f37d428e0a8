"""STAC records into scenes: the recorded quirks, and what is refused."""

from __future__ import annotations

import copy
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pystac
import pytest
from odc.geo.geobox import GeoBox

from cube.config.sensors import SENSORS
from cube.errors import ItemError
from cube.redaction import unsigned_href
from cube.scenes.items import Scene, parse_item, parse_time
from cube.testing import dem_item, landsat_item, lulc_item, sentinel1_item, sentinel2_item, utm_geobox

WHEN = datetime(2023, 5, 9, 10, 10, 31, 24000, tzinfo=UTC)
GRID = utm_geobox(32633, (300_000, 5_490_000, 303_840, 5_493_840), 10)
GRID_30 = utm_geobox(32633, (300_015, 5_490_015, 303_855, 5_493_855), 30)

ITEMS = {
    "s2l2a": sentinel2_item(GRID, WHEN),
    "s1rtc": sentinel1_item(GRID, WHEN),
    "lc2l2": landsat_item(GRID_30, WHEN),
    "dem": dem_item(GeoBox.from_bbox((12, 50, 12.1, 50.1), "EPSG:4326", resolution=1 / 3600)),
    "lulc": lulc_item(GRID),
}


def bands_of(key: str) -> list[str]:
    return [band.name for band in SENSORS[key].bands]


@pytest.mark.parametrize("key", SENSORS)
def test_every_sensor_parses_and_survives_json(key: str) -> None:
    scene = parse_item(ITEMS[key], SENSORS[key], bands_of(key))
    again = Scene.from_json(json.loads(json.dumps(scene.to_json(), sort_keys=True)))
    assert again.to_json() == scene.to_json()
    assert list(scene.assets) == bands_of(key)
    assert scene.geometry.is_valid


@pytest.mark.parametrize("key", SENSORS)
@pytest.mark.parametrize("form", ["epsg", "code", "nine"])
def test_projection_in_every_form(key: str, form: str) -> None:
    item = copy.deepcopy(ITEMS[key])
    for holder in (item["properties"], *item["assets"].values()):
        if form == "code" and "proj:epsg" in holder:
            holder["proj:code"] = f"EPSG:{holder.pop('proj:epsg')}"
        if form == "nine" and "proj:transform" in holder:
            holder["proj:transform"] = [*holder["proj:transform"][:6], 0.0, 0.0, 1.0]
    scene = parse_item(item, SENSORS[key], bands_of(key))
    plain = parse_item(ITEMS[key], SENSORS[key], bands_of(key))
    for band in bands_of(key):
        assert scene.assets[band].geobox is not None
        assert scene.assets[band].geobox == plain.assets[band].geobox


@pytest.mark.parametrize(
    ("key", "edit", "words"),
    [
        ("s2l2a", lambda i: i["assets"].pop("B05"), "has no asset 'B05'"),
        ("s1rtc", lambda i: i["assets"].pop("vh"), "has no asset 'vh'"),
        ("lc2l2", lambda i: i["assets"]["red"]["raster:bands"][0].update(scale=1e-4), "has scale 0.0001"),
        ("lc2l2", lambda i: i["assets"]["red"]["raster:bands"][0].update(offset=0.1), "has offset 0.1"),
        ("dem", lambda i: i["properties"].pop("datetime"), "neither datetime nor start_datetime"),
        ("dem", lambda i: i.update(geometry=None), "has no geometry"),
        (
            "s1rtc",
            lambda i: i["properties"].update({"proj:transform": [1, 2, 3]}),
            "3 numbers; expected 6 or 9",
        ),
        ("s1rtc", lambda i: i["properties"].update({"datetime": "yesterday"}), "record cannot be read"),
        ("s2l2a", lambda i: i.update(properties="none"), "record cannot be read"),
        ("s2l2a", lambda i: i.update(geometry={"type": "Blob"}), "record cannot be read"),
        ("s2l2a", lambda i: i["properties"].pop("eo:cloud_cover"), "has no eo:cloud_cover"),
        ("s2l2a", lambda i: i["properties"].update({"eo:cloud_cover": "n/a"}), "has no eo:cloud_cover"),
        (
            "s2l2a",
            lambda i: i["properties"].update({"eo:cloud_cover": float("nan")}),
            "has no eo:cloud_cover",
        ),
        ("lc2l2", lambda i: i["properties"].update({"eo:cloud_cover": -1}), "has no eo:cloud_cover"),
        ("s2l2a", lambda i: i["properties"].pop("s2:processing_baseline"), "has no s2:processing_baseline"),
        ("s2l2a", lambda i: i["properties"].update({"s2:processing_baseline": "new"}), "expected such as"),
        (
            "s2l2a",
            lambda i: i["properties"].update({"s2:nodata_pixel_percentage": "many"}),
            "expected 0 to 100",
        ),
        ("s1rtc", lambda i: i["properties"].update({"sat:relative_orbit": "A"}), "expected an integer"),
        ("lc2l2", lambda i: i["properties"].pop("landsat:wrs_path"), "has no landsat:wrs_path"),
    ],
)
def test_what_cannot_be_used_is_refused_with_a_reason(key: str, edit: Any, words: str) -> None:
    item = copy.deepcopy(ITEMS[key])
    edit(item)
    with pytest.raises(ItemError, match=words):
        parse_item(item, SENSORS[key], bands_of(key))


def test_a_saved_signature_is_left_out_and_other_queries_stay() -> None:
    item = copy.deepcopy(ITEMS["dem"])
    plain = parse_item(item, SENSORS["dem"], ["elevation"])
    item["assets"]["data"]["href"] += "?st=2023-01-01T00%3A00%3A00Z&sp=rl&sig=abc%3D"
    item["links"] = [{"rel": "self", "href": "https://a.example/item?subscription-key=abc"}]
    signed = parse_item(item, SENSORS["dem"], ["elevation"])
    assert signed.assets == plain.assets
    assert signed.self_href == "https://a.example/item"
    item["assets"]["data"]["href"] = "https://a.example/dem.tif?version=2&design=1"
    kept = parse_item(item, SENSORS["dem"], ["elevation"])
    assert kept.assets["elevation"].href == "https://a.example/dem.tif?version=2&design=1"


def test_l2sr_without_thermal_assets_is_a_candidate() -> None:
    item = landsat_item(GRID_30, WHEN, correction="L2SR")
    assert "lwir11" not in item["assets"]
    assert parse_item(item, SENSORS["lc2l2"], bands_of("lc2l2")).id == item["id"]


def test_times_are_utc_whatever_their_form() -> None:
    assert parse_time("2024-04-19 04:58:14.219437+00:00") == parse_time("2024-04-19T04:58:14.219437Z")
    assert parse_time("2024-04-19T06:58:14+02:00") == parse_time("2024-04-19T04:58:14Z")


def test_a_period_is_kept_whole() -> None:
    scene = parse_item(ITEMS["lulc"], SENSORS["lulc"], ["lulc"])
    assert (scene.start.year, scene.end.year) == (2023, 2024)
    assert scene.datetime == scene.start


def test_every_recorded_item_parses_or_is_refused_with_a_reason(shared: Path) -> None:
    refused = {}
    parsed = 0
    for sensor in SENSORS.values():
        folder = shared / "reference" / "stac-items" / sensor.collection
        for path in sorted(folder.rglob("*.json")):
            if path.name.startswith("collection"):
                continue
            record = json.loads(path.read_text())
            try:
                scene = parse_item(record, sensor, bands_of(sensor.key))
            except ItemError as error:
                refused[path.stem] = str(error)
                continue
            parsed += 1
            oracle = pystac.Item.from_dict(record)  # which writes any form as proj:code
            for band in sensor.bands:
                asset = oracle.assets[band.asset_key]
                extra = {**oracle.properties, **asset.extra_fields}
                geobox = scene.assets[band.name].geobox
                assert geobox is not None, (path, band.name)
                assert f"EPSG:{geobox.crs.epsg}" == extra["proj:code"]
                assert list(geobox.shape) == extra["proj:shape"]
                assert list(geobox.affine)[:6] == extra["proj:transform"][:6]
                raster = extra.get("raster:bands", [{}])[0]
                assert scene.assets[band.name].nodata == raster.get("nodata")
    assert parsed > 50
    assert all("has no asset" in reason for reason in refused.values()), refused


@pytest.mark.parametrize(
    ("query", "kept"),
    [
        ("?X-Amz-Algorithm=AWS4&X-Amz-Signature=ab12", ""),
        ("?Expires=1&Signature=ab12", ""),
        ("?GoogleAccessId=a&X-Goog-Signature=ab12", ""),
        ("?token=ab12", ""),
        ("?versionId=7", "?versionId=7"),
    ],
)
def test_only_what_opens_closed_doors_is_taken_off_an_href(query: str, kept: str) -> None:
    assert unsigned_href(f"https://host/a.tif{query}") == f"https://host/a.tif{kept}"
