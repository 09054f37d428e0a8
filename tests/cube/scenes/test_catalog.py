"""File catalogs: the semantics of a STAC API, in process."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import geopandas
import pytest
import stac_geoparquet.arrow
from pyarrow import parquet
from shapely import box

from cube.config.fields import TimeRange
from cube.config.models import Config
from cube.config.sensor_models import LandCoverConfig
from cube.errors import CatalogError, ConfigError
from cube.run.storage import open_folder
from cube.scenes.catalog import CachedCatalog, FileCatalog, open_catalog
from cube.scenes.query import Query
from cube.testing import lulc_item, sentinel2_item, utm_geobox

GRID = utm_geobox(32633, (300_000, 5_490_000, 303_840, 5_493_840), 10)
FAR = utm_geobox(32633, (600_000, 5_490_000, 603_840, 5_493_840), 10)
S2, LULC = ("sentinel-2-l2a",), ("io-lulc-annual-v02",)


def items() -> list[dict[str, object]]:
    start = datetime(2023, 1, 1, 10, tzinfo=UTC)
    near = [sentinel2_item(GRID, start + timedelta(days=30 * n), cloud_cover=10.0 * n) for n in range(5)]
    return [
        *near,
        sentinel2_item(FAR, start, tile="33UXR"),
        *(lulc_item(GRID, year) for year in (2022, 2023, 2024)),
    ]


@pytest.fixture(params=["json", "parquet"])
def catalog(request: pytest.FixtureRequest, tmp_path: Path) -> FileCatalog:
    if request.param == "json":
        path = tmp_path / "items.json"
        path.write_text(json.dumps({"type": "FeatureCollection", "features": items()}))
    else:
        path = tmp_path / "items.parquet"
        table = stac_geoparquet.arrow.parse_stac_items_to_arrow(items())
        parquet.write_table(table.read_all(), path)
    return FileCatalog.open(path)


def ids(catalog: FileCatalog, query: Query) -> list[str]:
    return [item["id"] for item in catalog.search(query)]


HERE = box(12.2, 49.4, 12.3, 49.6)


def test_collections_and_intersects(catalog: FileCatalog) -> None:
    assert len(ids(catalog, Query(S2))) == 6
    assert len(ids(catalog, Query(S2, HERE))) == 5
    assert len(ids(catalog, Query((*S2, *LULC), HERE))) == 8
    assert ids(catalog, Query(("landsat-c2-l2",), HERE)) == []


def test_datetime_ends_are_included(catalog: FileCatalog) -> None:
    first = catalog.search(Query(S2, HERE))[0]["properties"]["datetime"]
    instant = datetime.fromisoformat(first)
    assert len(ids(catalog, Query(S2, HERE, TimeRange(instant, instant)))) == 1
    before = TimeRange(instant - timedelta(days=1), instant - timedelta(seconds=1))
    assert ids(catalog, Query(S2, HERE, before)) == []


def test_periods_overlap(catalog: FileCatalog) -> None:
    year = TimeRange.parse("2023-01-02/2023-12-31")
    assert ids(catalog, Query(LULC, HERE, year)) == ["33U-2023"]
    whole = TimeRange.parse("2023-01-01/2023-12-31")
    assert ids(catalog, Query(LULC, HERE, whole)) == ["33U-2022", "33U-2023"]


def test_an_api_is_asked_in_utc() -> None:
    noon = datetime(2023, 1, 1, 12, tzinfo=timezone(timedelta(hours=2)))
    query = Query(S2, datetime=TimeRange(noon, noon))
    assert query.body["datetime"] == "2023-01-01T10:00:00Z/2023-01-01T10:00:00Z"


def test_property_comparisons(catalog: FileCatalog) -> None:
    def clouds(*condition: object) -> list[float]:
        found = catalog.search(Query(S2, HERE, properties=(("eo:cloud_cover", *condition),)))  # type: ignore[arg-type]
        return [item["properties"]["eo:cloud_cover"] for item in found]

    assert clouds("lt", 20) == [0, 10]
    assert clouds("lte", 20) == [0, 10, 20]
    assert clouds("gt", 20) == [30, 40]
    assert clouds("gte", 20) == [20, 30, 40]
    assert clouds("eq", 20) == [20]
    assert clouds("neq", 20) == [0, 10, 30, 40]
    assert clouds("in", [10, 40]) == [10, 40]
    with pytest.raises(CatalogError, match="unknown comparison 'like'"):
        clouds("like", 1)


def test_sort_and_limit(catalog: FileCatalog) -> None:
    query = Query(S2, HERE, sortby=("-eo:cloud_cover",), limit=2)
    assert [item["properties"]["eo:cloud_cover"] for item in catalog.search(query)] == [40, 30]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"type": "Feature"}', "feature 0 is no STAC item: type 'Feature', without id; expected a STAC"),
        (
            '{"type": "Catalog", "id": "c"}',
            "feature 0 is a STAC Catalog, whose items lie elsewhere; expected",
        ),
        ('{"type": "FeatureCollection", "features": ["a"]}', 'feature 0 is no object \\("a"\\); expected'),
        ("id,geometry\n1,POINT (1 2)\n", "is neither Parquet nor JSON .*; expected"),
        ("", "is neither Parquet nor JSON .*; expected"),
    ],
)
def test_a_file_that_is_no_catalog_is_named(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "items.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=rf"items\.json: {words}") as caught:
        FileCatalog.open(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("form", ["list", "item", "lines", "bom", "null", "collections"])
def test_items_are_read_in_every_plain_form(
    tmp_path: Path, form: str, caplog: pytest.LogCaptureFixture
) -> None:
    every = items()
    collection = {"type": "FeatureCollection", "features": every}
    texts = {
        "list": json.dumps(every),
        "item": json.dumps(every[0]),
        "lines": "\n".join(map(json.dumps, every)) + "\n\n",
        "bom": "\ufeff" + json.dumps(collection),
        "null": json.dumps({**collection, "features": [None, *every]}),
        "collections": json.dumps([collection, {**collection, "features": []}]),
    }
    path = tmp_path / "items.json"
    path.write_text(texts[form], encoding="utf-8")
    expected = every[:1] if form == "item" else every
    found = FileCatalog.open(path).search(Query((*S2, *LULC)))
    assert sorted(item["id"] for item in found) == sorted(str(item["id"]) for item in expected)
    assert ("feature 0 is null" in caplog.text) == (form == "null")


def test_a_folder_of_parquet_files_is_one_catalog(tmp_path: Path) -> None:
    every = items()
    for name in (*S2, *LULC):
        some = [item for item in every if item["collection"] == name]
        table = stac_geoparquet.arrow.parse_stac_items_to_arrow(some).read_all()
        (tmp_path / f"collection={name}").mkdir()
        parquet.write_table(
            table.drop_columns("collection"), tmp_path / f"collection={name}" / "part.parquet"
        )
    catalog = FileCatalog.open(tmp_path)
    assert len(ids(catalog, Query(S2, HERE))) == 5
    assert len(ids(catalog, Query(LULC, HERE))) == 3
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"a folder without \.parquet files; expected"):
        FileCatalog.open(tmp_path / "empty")


def test_a_table_that_lost_its_assets_is_named(tmp_path: Path) -> None:
    """As geopandas makes it of features, of which it keeps the properties alone."""
    path = tmp_path / "items.parquet"
    geopandas.GeoDataFrame.from_features(items(), crs=4326).to_parquet(path)
    with pytest.raises(ConfigError, match=r"items\.parquet: has no column id nor assets, so it is not"):
        FileCatalog.open(path)


def test_a_table_that_geopandas_wrote_of_whole_items_is_read(tmp_path: Path) -> None:
    path = tmp_path / "items.parquet"
    stac_geoparquet.arrow.to_parquet(stac_geoparquet.arrow.parse_stac_items_to_arrow(items()), path)
    geopandas.read_parquet(path).to_parquet(path)
    assert len(ids(FileCatalog.open(path), Query((*S2, *LULC), HERE))) == 8


class Silent:
    def search(self, query: Query) -> list[dict[str, object]]:
        raise AssertionError(query)


def test_a_cache_answers_without_its_catalog(tmp_path: Path) -> None:
    folder = open_folder(str(tmp_path / "cache"))
    asked = CachedCatalog(FileCatalog(items()), "https://a.example/stac", folder)
    query = Query(S2, HERE)
    first = asked.search(query)
    assert asked.search(query) == first
    assert asked.sent == 1
    (tmp_path / "cache").rename(tmp_path / "moved")
    moved = CachedCatalog(Silent(), "https://a.example/stac/", open_folder(str(tmp_path / "moved")))
    assert moved.search(query) == first


def test_one_cache_keeps_the_answers_of_two_catalogs_apart(tmp_path: Path) -> None:
    folder = open_folder(str(tmp_path))
    full = CachedCatalog(FileCatalog(items()), "https://a.example/stac", folder)
    empty = CachedCatalog(FileCatalog([]), "https://b.example/stac", folder)
    assert len(full.search(Query(S2))) == 6
    assert empty.search(Query(S2)) == []


def test_a_cache_keeps_no_token(tmp_path: Path) -> None:
    signed = sentinel2_item(GRID, datetime(2023, 1, 1, tzinfo=UTC))
    signed["assets"]["B02"]["href"] += "?st=2023&sig=SECRET"
    cache = CachedCatalog(FileCatalog([signed]), "https://a.example/stac", open_folder(str(tmp_path)))
    first = cache.search(Query(S2))
    assert cache.search(Query(S2)) == first
    assert not any(b"SECRET" in path.read_bytes() for path in tmp_path.rglob("*.json"))


def config_with(catalog: dict[str, str], path: Path = Path(), **directory: object) -> Config:
    return Config.model_validate(
        {
            "dataset": {"version": "t"},
            "aoi": {"path": "a.geojson"},
            "directory": {"working": "w", "output": "o", **directory},
            "catalog": catalog,
            "sensors": {"lulc": LandCoverConfig(year="2023-01-02/2023-12-31")},
            "path": path,
        }
    )


def test_a_file_that_changes_is_seen_though_a_cache_is_set(tmp_path: Path) -> None:
    path = tmp_path / "items.json"
    config = config_with({"url": "items.json", "cache": str(tmp_path / "cache")}, tmp_path / "c.yaml")
    for count in (1, 3):
        path.write_text(json.dumps({"type": "FeatureCollection", "features": items()[:count]}))
        assert len(open_catalog(config).search(Query(S2))) == count


def test_a_cache_in_an_object_store_is_opened_with_its_options() -> None:
    options = {"endpoint_url": "http://s3.example"}
    catalog = open_catalog(config_with({"cache": "s3://bucket/cache"}, storage_options=options))
    assert isinstance(catalog, CachedCatalog)
    assert catalog.folder.options == options


@pytest.mark.parametrize(
    "properties", [{"datetime": "soon"}, {"datetime": 7}, {}, None, {"datetime": "2023-01-01", "platform": 5}]
)
def test_an_item_without_a_readable_time_is_left_to_its_reader(properties: object) -> None:
    bad = {**items()[0], "id": "bad", "properties": properties}
    query = Query(S2, HERE, TimeRange.parse("2023-01-01/2023-12-31"))
    assert "bad" in ids(FileCatalog([*items(), bad]), query)


@pytest.mark.parametrize("geometry", [None, {"type": "Blob"}, {"type": "Polygon", "coordinates": [[0]]}])
def test_an_item_that_does_not_say_where_it_lies_is_left_to_its_reader(geometry: object) -> None:
    bad = {**items()[0], "id": "bad", "geometry": geometry}
    assert "bad" in ids(FileCatalog([*items(), bad]), Query(S2, HERE))
