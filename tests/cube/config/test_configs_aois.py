"""What a user of the committed AOI list relies on: its form, its spread and its geometry."""

import json
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import geopandas as gpd
import pytest
from pyproj import CRS, Geod
from shapely.geometry import Polygon, box, shape

AOIS = Path(__file__).resolve().parents[3] / "configs" / "aois" / "map_world-240.geojson"

# rough west, south, east, north of each inhabited continent: a wrong sign or a swap falls outside
CONTINENTS = {
    "Africa": (-18.5, -35.5, 52.0, 38.0),
    "Asia": (25.0, -11.0, 180.0, 68.0),
    "Europe": (-25.0, 35.0, 62.0, 68.0),
    "North America": (-168.0, 7.0, -15.0, 68.0),
    "Oceania": (112.0, -48.0, 180.0, 0.0),
    "South America": (-82.0, -55.0, -34.0, 13.0),
}
CLASSES = {"Water", "Trees", "Crops", "Built area", "Bare ground", "Rangeland"}
PROPERTIES = {"name", "continent", "biome", "expected"}

MIN_COUNT = 200
MIN_PER_CONTINENT = 25
MIN_PER_CLASS = 30
MIN_BIOMES = 12
MIN_COUNTRIES = 70
MIN_PER_HEMISPHERE = 60
SIDE_M = (5_000.0, 25_000.0)
LATITUDES = (-55.0, 68.0)
UTM_ZONE_DEGREES = 6
MAX_ACROSS_ZONES = 5
DECIMALS = 6
ANTIMERIDIAN = 180.0


@pytest.fixture(scope="module")
def aois() -> gpd.GeoDataFrame:
    """Read the list as the pipeline does."""
    return gpd.read_file(AOIS)


@pytest.fixture(scope="module")
def features() -> list[dict[str, Any]]:
    """Read the features as written, before any reader has touched a ring."""
    features: list[dict[str, Any]] = json.loads(AOIS.read_text(encoding="utf-8"))["features"]
    return features


def _zone(lon: float) -> int:
    return int((lon + 180) // UTM_ZONE_DEGREES) + 1


def test_reads_as_valid_polygons_in_epsg_4326(aois: gpd.GeoDataFrame) -> None:
    assert CRS(aois.crs).to_epsg() == CRS.from_epsg(4326).to_epsg()
    assert len(aois) >= MIN_COUNT
    assert set(aois.geom_type) == {"Polygon"}
    assert aois.is_valid.all()
    assert not aois.is_empty.any()


def test_every_feature_has_the_properties_and_nothing_else(features: list[dict[str, Any]]) -> None:
    for feature in features:
        assert feature["type"] == "Feature"
        assert set(feature["properties"]) == PROPERTIES
        assert all(isinstance(value, str) and value for value in feature["properties"].values())


def test_names_are_unique_and_end_in_the_country(aois: gpd.GeoDataFrame) -> None:
    assert aois["name"].is_unique
    assert (aois["name"].str.count(", ") == 1).all()


def test_order_is_continent_country_name(features: list[dict[str, Any]]) -> None:
    keys = [
        (properties["continent"], properties["name"].rsplit(", ", 1)[1], properties["name"])
        for properties in (feature["properties"] for feature in features)
    ]
    assert keys == sorted(keys)


def test_one_feature_per_line(features: list[dict[str, Any]]) -> None:
    text = AOIS.read_text(encoding="utf-8")
    assert text.endswith("]}\n")
    head, *lines, tail = text.splitlines()
    assert head == '{"type": "FeatureCollection", "features": ['
    assert tail == "]}"
    assert [json.loads(line.removesuffix(",")) for line in lines] == features


def test_rings_are_counter_clockwise_rectangles_on_the_graticule(features: list[dict[str, Any]]) -> None:
    for feature in features:
        polygon = shape(feature["geometry"])
        assert isinstance(polygon, Polygon)
        assert polygon.exterior.is_ccw, feature["properties"]["name"]
        assert not polygon.interiors
        assert len(polygon.exterior.coords) == len(box(0, 0, 1, 1).exterior.coords)
        assert polygon.equals(box(*polygon.bounds)), feature["properties"]["name"]


def test_coordinates_carry_six_decimals_at_most(features: list[dict[str, Any]]) -> None:
    for feature in features:
        for vertex in feature["geometry"]["coordinates"][0]:
            assert [round(value, DECIMALS) for value in vertex] == vertex


def test_sides_on_the_ellipsoid(features: list[dict[str, Any]]) -> None:
    geod = Geod(ellps="WGS84")
    shortest, longest = SIDE_M
    for feature in features:
        for (lon, lat), (next_lon, next_lat) in pairwise(feature["geometry"]["coordinates"][0]):
            side = geod.inv(lon, lat, next_lon, next_lat)[2]
            assert shortest <= side <= longest, (feature["properties"]["name"], side)


def test_no_two_overlap_or_touch(aois: gpd.GeoDataFrame) -> None:
    left, right = aois.sindex.query(aois.geometry, predicate="intersects")
    pairs = [(aois["name"].iloc[i], aois["name"].iloc[j]) for i, j in zip(left, right, strict=True) if i < j]
    assert not pairs


def test_latitudes_stay_out_of_the_polar_night_and_none_crosses_the_antimeridian(
    aois: gpd.GeoDataFrame,
) -> None:
    west, south, east, north = aois.total_bounds
    lowest, highest = LATITUDES
    assert lowest <= south <= north <= highest
    assert -ANTIMERIDIAN <= west <= east <= ANTIMERIDIAN
    # a ring written across the antimeridian would span the globe
    assert (aois.bounds["maxx"] - aois.bounds["minx"]).max() < 1


def test_few_but_some_cross_a_utm_zone_boundary(aois: gpd.GeoDataFrame) -> None:
    bounds = aois.bounds
    across = aois["name"][bounds["minx"].map(_zone) != bounds["maxx"].map(_zone)]
    assert 1 <= len(across) <= MAX_ACROSS_ZONES, list(across)
    # nor does one straddle the equator, where the northern and the southern projection meet
    assert not ((bounds["miny"] < 0) & (bounds["maxy"] > 0)).any()


def test_every_inhabited_continent_has_its_share(aois: gpd.GeoDataFrame) -> None:
    counts = Counter(aois["continent"])
    assert set(counts) == set(CONTINENTS)
    assert min(counts.values()) >= MIN_PER_CONTINENT, counts


def test_every_place_lies_on_the_continent_it_names(aois: gpd.GeoDataFrame) -> None:
    for name, continent, polygon in zip(aois["name"], aois["continent"], aois.geometry, strict=True):
        assert box(*CONTINENTS[continent]).covers(polygon), name


def test_every_kept_class_is_expected_often_enough(aois: gpd.GeoDataFrame) -> None:
    counts = Counter(aois["expected"])
    assert set(counts) == CLASSES
    assert min(counts.values()) >= MIN_PER_CLASS, counts


@pytest.mark.parametrize("continent", sorted(CONTINENTS))
def test_every_class_is_expected_on_every_continent(aois: gpd.GeoDataFrame, continent: str) -> None:
    assert set(aois.loc[aois["continent"] == continent, "expected"]) == CLASSES


def test_many_biomes_and_countries_and_both_hemispheres(aois: gpd.GeoDataFrame) -> None:
    assert aois["biome"].nunique() >= MIN_BIOMES
    assert aois["name"].str.rsplit(", ", n=1).str[1].nunique() >= MIN_COUNTRIES
    middle = (aois.bounds["miny"] + aois.bounds["maxy"]) / 2
    assert (middle > 0).sum() >= MIN_PER_HEMISPHERE
    assert (middle < 0).sum() >= MIN_PER_HEMISPHERE
