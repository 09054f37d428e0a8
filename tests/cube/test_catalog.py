"""File catalogs: the semantics of a STAC API, in process."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import stac_geoparquet.arrow
from pyarrow import parquet
from shapely import box

from cube.catalog import CachedCatalog, FileCatalog, Query
from cube.config import TimeRange
from cube.errors import CatalogError
from cube.storage import Folder
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


def test_a_file_that_is_no_catalog_is_named(tmp_path: Path) -> None:
    path = tmp_path / "items.json"
    path.write_text('{"type": "Feature"}')
    with pytest.raises(CatalogError, match=r"items\.json: not a STAC ItemCollection"):
        FileCatalog.open(path)


def test_a_cache_answers_without_its_catalog(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path / "cache"))
    asked = CachedCatalog(FileCatalog(items()), folder)
    query = Query(S2, HERE)
    first = asked.search(query)
    assert asked.search(query) == first
    assert asked.sent == 1

    class Silent:
        def search(self, query: Query) -> list[dict[str, object]]:
            raise AssertionError(query)

    (tmp_path / "cache").rename(tmp_path / "moved")
    moved = CachedCatalog(Silent(), Folder(str(tmp_path / "moved")))
    assert moved.search(query) == first
