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
from shapely.geometry import shape

from cube.config.profiles import SensorProfile
from cube.config.sensors import SENSORS
from cube.errors import ItemError
from cube.redaction import unsigned_href
from cube.scenes import facts
from cube.scenes.items import Scene, parse_item, parse_time, wanted_fields
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
        ("lc2l2", lambda i: i["properties"].pop("platform"), "has no platform"),
        ("s2l2a", lambda i: i["properties"].pop("s2:mgrs_tile"), "has no s2:mgrs_tile"),
        ("s2l2a", lambda i: i["properties"].update({"s2:mgrs_tile": 7}), "expected such as 33UUR"),
        ("s1rtc", lambda i: i["properties"].update({"sar:polarizations": ["HH", "HV"]}), "taken in HH, HV"),
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


def parsed(key: str, **properties: Any) -> Scene:
    """Return a sensor's item of these properties (None takes one away), read."""
    item = copy.deepcopy(ITEMS[key])
    item["properties"] = {k: v for k, v in {**item["properties"], **properties}.items() if v is not None}
    return parse_item(item, SENSORS[key], bands_of(key))


@pytest.mark.parametrize("cover", [0, 0.0, 0.5, 99.5, 100])
def test_both_ends_of_a_percentage_are_numbers(cover: float) -> None:
    scene = parsed("s2l2a", **{"eo:cloud_cover": cover, "s2:nodata_pixel_percentage": cover})
    assert scene.cloud_cover == cover
    assert type(scene.cloud_cover) is float


@pytest.mark.parametrize("cover", [-0.01, 100.01, True, float("inf"), float("nan"), "n/a"])
def test_a_percentage_beyond_its_ends_is_none(cover: object) -> None:
    unknown = parsed("s2l2a", **{"eo:cloud_cover": cover})
    assert not unknown.has_cloud_cover
    assert "eo:cloud_cover" not in unknown.properties
    with pytest.raises(ItemError, match=r"has no s2:nodata_pixel_percentage \(.*; expected 0 to 100\)"):
        parsed("s2l2a", **{"s2:nodata_pixel_percentage": cover})


def test_what_an_item_need_not_say() -> None:
    scene = parsed("s2l2a", **{"s2:nodata_pixel_percentage": None, "s2:generation_time": None})
    assert "s2:nodata_pixel_percentage" not in scene.properties
    assert parsed("dem").cloud_cover == 0
    assert parsed("s1rtc", **{"sat:relative_orbit": 44.0}).properties["sat:relative_orbit"] == 44
    for orbit in (44.5, True, None, ""):
        with pytest.raises(ItemError, match="has no sat:relative_orbit"):
            parsed("s1rtc", **{"sat:relative_orbit": orbit})
    for baseline in ("5", "05.09b", "v05.09", ""):
        with pytest.raises(ItemError, match="has no s2:processing_baseline"):
            parsed("s2l2a", **{"s2:processing_baseline": baseline})


@pytest.mark.parametrize(
    ("scale", "offset", "fits"),
    [
        (2.75e-5, -0.2, True),
        (2.75e-5 * (1 + 5e-7), -0.2 * (1 - 5e-7), True),
        (2.75e-5 * (1 + 2e-6), -0.2, False),
        (2.75e-5, -0.2 * (1 + 2e-6), False),
        (None, None, True),
    ],
)
def test_scaling_is_the_tables_to_a_millionth(scale: float | None, offset: float | None, fits: bool) -> None:
    item = copy.deepcopy(ITEMS["lc2l2"])
    raster = item["assets"]["red"]["raster:bands"][0]
    raster.pop("scale"), raster.pop("offset")
    raster |= {k: v for k, v in {"scale": scale, "offset": offset}.items() if v is not None}
    if fits:
        assert parse_item(item, SENSORS["lc2l2"], ["red"]).assets["red"].key == "red"
    else:
        with pytest.raises(ItemError, match=r"asset 'red' has (scale|offset) .*; expected (2\.75e-05|-0\.2)"):
            parse_item(item, SENSORS["lc2l2"], ["red"])


def test_an_offset_that_is_taken_off_by_baseline_is_no_contradiction() -> None:
    """Of Sentinel-2 alone: records differ in whether they tell of it."""
    item = copy.deepcopy(ITEMS["s2l2a"])
    item["assets"]["B04"]["raster:bands"] = [{"offset": -0.1, "scale": 0.0001, "nodata": 0}]
    assert parse_item(item, SENSORS["s2l2a"], ["B04"]).assets["B04"].nodata == 0
    item["assets"]["B04"]["raster:bands"][0]["scale"] = 0.0002
    with pytest.raises(ItemError, match="'B04' has scale"):
        parse_item(item, SENSORS["s2l2a"], ["B04"])


def test_what_a_record_says_of_a_file() -> None:
    item = copy.deepcopy(ITEMS["dem"])
    asset = item["assets"]["data"]
    asset["proj:shape"], asset["proj:transform"] = [7.0, 5.0], [0.1, 0, 12, 0, -0.1, 51, 0, 0, 1]
    asset["raster:bands"] = [{"nodata": -32768}, {"nodata": 5}]
    asset["proj:code"] = "epsg:4258"  # an asset's own word comes before the item's
    found = parse_item(item, SENSORS["dem"], ["elevation"]).assets["elevation"]
    assert (found.shape, found.epsg, found.nodata) == ((7, 5), 4258, -32768)
    assert found.transform == (0.1, 0, 12, 0, -0.1, 51)
    assert isinstance(found.nodata, float)
    assert all(isinstance(number, int) for number in found.shape or ())
    for key in ("proj:shape", "proj:transform", "proj:code", "proj:epsg"):
        silent = copy.deepcopy(item)
        for holder in (silent["properties"], silent["assets"]["data"]):
            holder.pop(key, None)
        if key == "proj:code":
            silent["properties"].pop("proj:epsg", None)
        if key != "proj:epsg":
            asset_of = parse_item(silent, SENSORS["dem"], ["elevation"]).assets["elevation"]
            assert asset_of.geobox is None
    asset["raster:bands"], asset["bands"] = [], [{"nodata": "nan"}]
    scene = parse_item(item, SENSORS["dem"], ["elevation"])
    record = json.loads(json.dumps(scene.to_json(), allow_nan=False))
    assert record["assets"]["elevation"]["nodata"] == "nan"
    assert Scene.from_json(record).assets["elevation"].nodata != 0
    assert (scene.epsg, Scene.from_json(record).epsg) == (4258, 4258)


@pytest.mark.parametrize("numbers", [5, 7, 8, 10])
def test_a_transform_has_six_numbers_or_nine(numbers: int) -> None:
    item = copy.deepcopy(ITEMS["dem"])
    item["assets"]["data"]["proj:transform"] = [1.0] * numbers
    with pytest.raises(ItemError, match=f"proj:transform has {numbers} numbers; expected 6 or 9"):
        parse_item(item, SENSORS["dem"], ["elevation"])


def test_times_are_the_items_own() -> None:
    start, end = "2023-01-01T00:00:00Z", "2023-12-31T00:00:00Z"
    both = parsed("s2l2a", start_datetime=start, end_datetime=end)
    assert (both.datetime, both.start, both.end) == (WHEN, parse_time(start), parse_time(end))
    span = parsed("s2l2a", datetime=None, start_datetime=start, end_datetime=end)
    assert (span.datetime, span.start, span.end) == (parse_time(start), parse_time(start), parse_time(end))
    half = parsed("s2l2a", start_datetime=start)
    assert (half.datetime, half.start, half.end) == (WHEN, WHEN, WHEN)
    with pytest.raises(ItemError, match="neither datetime nor"):
        parsed("s2l2a", datetime=None, end_datetime=end)
    with pytest.raises(ItemError, match="neither datetime nor"):
        parsed("s2l2a", datetime=None, start_datetime=start)
    assert both.to_json()["start"] == start


def test_a_footprint_that_crosses_itself_is_made_valid() -> None:
    item = copy.deepcopy(ITEMS["dem"])
    bow = [[12, 50], [13, 51], [13, 50], [12, 51], [12, 50]]
    item["geometry"] = {"type": "Polygon", "coordinates": [bow]}
    geometry = parse_item(item, SENSORS["dem"], ["elevation"]).geometry
    assert geometry.is_valid
    assert geometry.area == pytest.approx(0.5)


def test_the_fields_that_are_asked_for_are_those_that_are_read() -> None:
    """An item that holds these alone gives the same scene."""
    for key, item in ITEMS.items():
        fields = wanted_fields(SENSORS[key], bands_of(key))
        kept: dict[str, Any] = {"properties": {}, "assets": {}}
        for field in fields:
            section, _, name = field.partition(".")
            if not name:
                kept |= {section: item[section]} if section in item else {}
            elif name in item[section]:
                kept[section][name] = item[section][name]
        whole = parse_item(item, SENSORS[key], bands_of(key))
        assert parse_item(kept, SENSORS[key], bands_of(key)).to_json() == whole.to_json()


def test_an_item_without_a_collection_is_of_the_sensors() -> None:
    item = copy.deepcopy(ITEMS["dem"]) | {"collection": "another"}
    assert parse_item(item, SENSORS["dem"], ["elevation"]).collection == "another"
    del item["collection"]
    assert parse_item(item, SENSORS["dem"], ["elevation"]).collection == SENSORS["dem"].collection


def test_the_record_is_where_its_first_link_to_itself_leads() -> None:
    item = copy.deepcopy(ITEMS["dem"])
    item["links"] = [{"rel": "root", "href": "https://a/"}, {"rel": "self", "href": "https://a/b?c=d?e"}]
    assert parse_item(item, SENSORS["dem"], ["elevation"]).self_href == "https://a/b"
    item["links"] = None
    assert parse_item(item, SENSORS["dem"], ["elevation"]).self_href == ""


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
    expected = ("has no asset", "was taken in HH")
    assert all(any(words in reason for words in expected) for reason in refused.values()), refused


@pytest.mark.parametrize(
    ("query", "kept"),
    [
        ("?X-Amz-Algorithm=AWS4&X-Amz-Signature=ab12", ""),
        ("?Expires=1&Signature=ab12", ""),
        ("?GoogleAccessId=a&X-Goog-Signature=ab12", ""),
        ("?token=ab12", ""),
        ("?subscription-key=ab12", ""),
        ("?v=1&apikey=ab12", ""),
        ("?versionId=7", "?versionId=7"),
    ],
)
def test_only_what_opens_closed_doors_is_taken_off_an_href(query: str, kept: str) -> None:
    assert unsigned_href(f"https://host/a.tif{query}") == f"https://host/a.tif{kept}"


def test_newer_names_of_the_same_facts_give_the_same_scene() -> None:
    """As the Copernicus Data Space and Earth Search write them; numbers as text."""
    item = copy.deepcopy(ITEMS["s2l2a"])
    properties = item["properties"]
    properties["grid:code"] = f"MGRS-{properties.pop('s2:mgrs_tile')}"
    properties["processing:version"] = properties.pop("s2:processing_baseline")
    properties["statistics"] = {"nodata": properties.pop("s2:nodata_pixel_percentage"), "water": 4.5}
    properties["eopf:datatake_id"] = properties.pop("s2:datatake_id")
    properties["processing:datetime"] = properties.pop("s2:generation_time")
    properties["proj:code"] = f"EPSG:{properties.pop('proj:epsg')}"
    properties["eo:cloud_cover"] = str(properties["eo:cloud_cover"])
    properties["sat:relative_orbit"] = str(properties["sat:relative_orbit"])
    found = parse_item(item, SENSORS["s2l2a"], bands_of("s2l2a"))
    assert found.to_json() == parse_item(ITEMS["s2l2a"], SENSORS["s2l2a"], bands_of("s2l2a")).to_json()


@pytest.mark.parametrize(
    "form",
    [
        {"bands": [{"name": "red", "nodata": 0, "raster:scale": 2.75e-5, "raster:offset": -0.2}]},
        {"nodata": 0, "raster:scale": 2.75e-5, "raster:offset": -0.2, "bands": [{"name": "red"}]},
        {"bands": [{"nodata": "0", "scale": "0.0000275", "offset": "-0.2"}]},
    ],
)
def test_bands_of_stac_1_1_are_read_as_raster_bands_are(form: dict[str, Any]) -> None:
    item = copy.deepcopy(ITEMS["lc2l2"])
    asset = item["assets"]["red"]
    del asset["raster:bands"]
    asset |= form
    assert parse_item(item, SENSORS["lc2l2"], ["red"]).assets["red"].nodata == 0
    other = json.loads(json.dumps(asset).replace("-0.2", "-0.3"))
    item["assets"]["red"] = other
    with pytest.raises(ItemError, match=r"'red' has offset -0\.3; expected -0\.2"):
        parse_item(item, SENSORS["lc2l2"], ["red"])


@pytest.mark.parametrize(
    ("baseline", "flag", "offset", "carries"),
    [
        ("05.09", None, None, True),
        ("05.09", None, -0.1, True),
        ("05.09", True, -0.1, False),  # Earth Search copies ESA's offset, whatever it did to the pixels
        ("05.09", True, 0, False),
        ("05.09", True, None, False),
        ("05.09", "true", -0.1, False),
        ("05.09", False, -0.1, True),
        ("03.01", None, 0, False),
        ("03.01", False, 0, False),
        ("05.09", None, 0, "asset 'B04' has offset 0, and s2:processing_baseline 05.09"),
        ("05.09", False, 0, "asset 'B04' has offset 0, and s2:processing_baseline 05.09"),
        ("03.01", None, -0.1, "asset 'B04' has offset -0.1, and s2:processing_baseline 03.01"),
        ("03.01", True, 0, "has earthsearch:boa_offset_applied true, but nothing to apply at baseline 03.01"),
        ("05.09", "perhaps", None, "expected true or false"),
    ],
)
def test_whether_dn_carry_the_offset_is_compared_three_ways(
    baseline: str, flag: object, offset: float | None, carries: bool | str
) -> None:
    item = copy.deepcopy(ITEMS["s2l2a"])
    item["properties"] |= {"s2:processing_baseline": baseline, "earthsearch:boa_offset_applied": flag}
    if offset is not None:
        item["assets"]["B04"]["raster:bands"] = [{"scale": 0.0001, "offset": offset}]
    if isinstance(carries, str):
        with pytest.raises(ItemError, match=carries):
            parse_item(item, SENSORS["s2l2a"], ["B04", "SCL"])
    else:
        scene = parse_item(item, SENSORS["s2l2a"], ["B04", "SCL"])
        assert scene.carries_offset is carries
        assert Scene.from_json(json.loads(json.dumps(scene.to_json()))).carries_offset is carries


def test_a_flag_that_is_wrong_of_some_items_is_not_believed() -> None:
    item = copy.deepcopy(ITEMS["s2l2a"])
    item["properties"]["earthsearch:boa_offset_applied"] = False
    doubtful = SensorProfile(doubtful_flags=("sentinel-2-l2a",))
    with pytest.raises(ItemError, match=r"false at baseline 05\.09, known to be wrong of some items"):
        parse_item(item, SENSORS["s2l2a"], ["B04"], doubtful)
    item["collection"] = "sentinel-2-c1-l2a"
    assert parse_item(item, SENSORS["s2l2a"], ["B04"], doubtful).carries_offset


def test_a_service_that_mended_all_pixels_says_so_in_its_profile() -> None:
    mended = SensorProfile(offset="applied")
    assert not parse_item(ITEMS["s2l2a"], SENSORS["s2l2a"], ["B04"], mended).carries_offset


@pytest.mark.parametrize(
    ("name", "other", "hint"),
    [
        ("s2:mgrs_tile", "s2:mgrs_tile_id", " (s2:mgrs_tile_id is there)"),
        ("sat:relative_orbit", "s1:relative_orbit", " (s1:relative_orbit is there)"),
        ("landsat:wrs_path", "datetime", ""),
    ],
)
def test_what_may_be_meant_is_named(name: str, other: str, hint: str) -> None:
    assert facts.hint(name, ["platform", other]) == hint


def test_a_box_round_the_world_gives_way_to_the_files_own_place() -> None:
    grid = utm_geobox(32601, (300_000, 5_490_000, 303_840, 5_493_840), 10)
    item = sentinel2_item(grid, WHEN, tile="01UBR")
    outline = shape(item["geometry"])
    band = [[-180, 49], [180, 49], [180, 50], [-180, 50], [-180, 49]]
    item["geometry"] = {"type": "Polygon", "coordinates": [band]}
    found = parse_item(item, SENSORS["s2l2a"], ["B04"]).geometry
    assert found.symmetric_difference(outline).area < 1e-4 * outline.area
    for holder in (item["properties"], item["assets"]["B04"]):
        holder.pop("proj:transform", None)
    with pytest.raises(ItemError, match="has a geometry round the world, and no proj:transform"):
        parse_item(item, SENSORS["s2l2a"], ["B04"])


def test_the_zone_is_the_tiles_where_no_projection_is_named() -> None:
    for tile, epsg in (("33UUR", 32633), ("01CCV", 32701), ("60NXF", 32660)):
        scene = parsed("s2l2a", **{"proj:epsg": None, "s2:mgrs_tile": tile})
        assert scene.epsg == epsg
