"""stac-geoparquet is read item by item as it is asked for: the same items as of all of it in memory."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import geopandas
import numpy as np
import pyarrow as pa
import pytest
import stac_geoparquet
from pyarrow import parquet
from shapely import box, union_all
from shapely.geometry.base import BaseGeometry

from cube.build.plans import plan_cubes
from cube.config.fields import TimeRange
from cube.config.models import Config
from cube.errors import CatalogError, ConfigError, DiskFullError, StoreError
from cube.scenes.catalog import FileCatalog
from cube.scenes.files import table as item_table
from cube.scenes.plan import CubePlan
from cube.scenes.query import Query
from cube.testing import Archive, lulc_item, sentinel2_item, utm_geobox

COLLECTIONS = ("sentinel-2-l2a", "io-lulc-annual-v02", "sentinel-1-rtc")
SPOTS = (
    (32633, 300_000, 5_490_000),
    (32601, 300_000, 5_490_000),
    (32660, 690_000, 5_490_000),
    (32733, 600_000, 6_500_000),
    (32633, 380_000, 5_490_000),
)
"""Zone, left and bottom; two of them lie at the antimeridian."""


def scattered() -> list[dict[str, Any]]:
    """Return items here and there, in time's order, so that those of a place lie in many groups."""
    rng = np.random.default_rng(0)
    items = []
    for n in range(60):
        epsg, left, bottom = SPOTS[n % len(SPOTS)]
        x, y = left + int(rng.integers(-5, 5)) * 9600, bottom + int(rng.integers(-5, 5)) * 9600
        grid = utm_geobox(epsg, (x, y, x + 19_200, y + 19_200), 60)
        when = datetime(2022, 11, 1, 10, tzinfo=UTC) + timedelta(days=7 * n)
        item = lulc_item(grid, 2022 + n // 25) if n % 6 == 0 else sentinel2_item(grid, when, cloud_cover=n)
        items.append({**item, "id": f"{item['id']}-{n}"})
    return items


def queries() -> list[Query]:
    places: list[BaseGeometry | None] = [
        None,
        box(-180, -90, 180, 90),
        box(40, 40, 41, 41),
        union_all([box(-180, 45, -170, 52), box(172, 45, 180, 52)]),
        box(172, 45, 180, 52),
    ]
    rng = np.random.default_rng(1)
    for lon, lat in ((12.2, 49.5), (-178, 49.5), (179, 49.5), (16.2, -31)):
        for _ in range(2):
            west, south = lon + rng.uniform(-0.6, 0.6), lat + rng.uniform(-0.6, 0.6)
            places.append(box(west, south, west + rng.uniform(0, 0.5), south + rng.uniform(0, 0.5)))
    spans = [None, TimeRange.parse("2023-01-01/2023-12-31"), TimeRange.parse("2023-03-07/2023-03-07")]
    wanted = (COLLECTIONS[:1], COLLECTIONS[:2], COLLECTIONS[2:])
    asked = [Query(names, place, span) for place in places for span in spans for names in wanted]
    return [*asked, Query(COLLECTIONS, places[1], properties=(("eo:cloud_cover", "lt", 30),))]


def as_table(items: list[dict[str, Any]]) -> pa.Table:
    return stac_geoparquet.arrow.parse_stac_items_to_arrow(items).read_all()


def all_of(path: Path, collection: str | None = None) -> list[dict[str, Any]]:
    """Return the items of a file as stac-geoparquet itself gives them."""
    whole = parquet.ParquetFile(path).read()
    items = [json.loads(json.dumps(one)) for one in stac_geoparquet.arrow.stac_table_to_items(whole)]
    return [{**item, "collection": item.get("collection") or collection} for item in items]


def assert_same_answers(path: Path, oracle: FileCatalog) -> None:
    catalog, found = FileCatalog.open(path), 0
    for query in queries():
        expected = oracle.search(query)
        assert catalog.search(query) == expected
        found += len(expected)
    assert found > 300


@pytest.mark.parametrize(("rows", "batch"), [(5, 4096), (1000, 3), (1000, 4096)])
def test_answers_are_those_of_all_items_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int, batch: int
) -> None:
    monkeypatch.setattr(item_table, "_BATCH", batch)
    monkeypatch.setattr(item_table, "_KEPT_ITEMS", 20)
    path = tmp_path / "items.parquet"
    parquet.write_table(as_table(scattered()), path, row_group_size=rows)
    assert_same_answers(path, FileCatalog(all_of(path)))


def never(table: pa.Table) -> pa.Table:
    """Take away when some of the items begin, and some end."""
    for name, remainder in (("datetime", 0), ("end_datetime", 1)):
        column = table.schema.get_field_index(name)
        times = [None if n % 7 == remainder else one for n, one in enumerate(table[name].to_pylist())]
        table = table.set_column(column, name, pa.array(times, table.schema.field(name).type))
    return table


def in_categories(table: pa.Table) -> pa.Table:
    """Write collections as pandas' categories are."""
    column = table.schema.get_field_index("collection")
    return table.set_column(column, "collection", table["collection"].dictionary_encode())


def in_nanoseconds(table: pa.Table) -> pa.Table:
    column = table.schema.get_field_index("datetime")
    return table.set_column(column, "datetime", table["datetime"].cast(pa.timestamp("ns", "Europe/Berlin")))


@pytest.mark.parametrize("change", [never, in_categories, in_nanoseconds])
def test_tables_that_others_write_are_answered_the_same(
    tmp_path: Path, change: Callable[[pa.Table], pa.Table]
) -> None:
    path = tmp_path / "items.parquet"
    parquet.write_table(change(as_table(scattered())), path, row_group_size=11)
    assert_same_answers(path, FileCatalog(all_of(path)))


def test_a_folder_of_files_is_answered_in_the_order_of_its_files(tmp_path: Path) -> None:
    """A copy of an item stands in another file: which of equals comes first follows from the names."""
    items, every = scattered(), list[dict[str, Any]]()
    for name in sorted(COLLECTIONS[:2]):
        some = [item for item in items if item["collection"] == name]
        for part, here in (("a", [*some, some[0]]), ("b", some[:3])):
            folder = tmp_path / f"collection={name}"
            folder.mkdir(exist_ok=True)
            path = folder / f"{part}.parquet"
            parquet.write_table(as_table(here).drop_columns("collection"), path, row_group_size=4)
            every += all_of(path, name)
    assert_same_answers(tmp_path, FileCatalog(every))


def test_what_geopandas_wrote_is_answered_as_what_it_read(tmp_path: Path) -> None:
    """It leaves the bounds out."""
    first, second = tmp_path / "a.parquet", tmp_path / "b.parquet"
    stac_geoparquet.arrow.to_parquet(as_table(scattered()), first)
    geopandas.read_parquet(first).to_parquet(second, row_group_size=8)
    by_id = {item["id"]: item for item in all_of(first)}
    found = FileCatalog.open(second).search(Query(COLLECTIONS, box(11, 49, 13, 50)))
    assert len(found) > 10
    assert all(item["assets"] == by_id[item["id"]]["assets"] for item in found)
    assert [one["id"] for one in found] == [
        one["id"] for one in FileCatalog(all_of(first)).search(Query(COLLECTIONS, box(11, 49, 13, 50)))
    ]


def as_tables_have_it(record: Any) -> Any:
    """Leave out what is null, which a table says of a property that an item has not; spell times its way."""
    if isinstance(record, list):
        return [as_tables_have_it(one) for one in record]
    if not isinstance(record, dict):
        return record
    times = {key: datetime.fromisoformat(one).timestamp() for key, one in record.items() if is_time(key, one)}
    return {key: as_tables_have_it(one) for key, one in (record | times).items() if one is not None}


def is_time(key: str, value: object) -> bool:
    return key.endswith("datetime") and isinstance(value, str)


def test_plans_are_the_same_from_json_and_from_tables_of_one_and_of_many_groups(
    demo_config: Callable[..., Config], sample_archive: Archive, tmp_path: Path
) -> None:
    items = json.loads(sample_archive.items.read_text())["features"]
    (tmp_path / "items.json").write_text(json.dumps({"type": "FeatureCollection", "features": items}))
    for name, rows in (("one", 1000), ("many", 5)):
        parquet.write_table(as_table(items), tmp_path / f"{name}.parquet", row_group_size=rows)
    plans = []
    for name in ("items.json", "one.parquet", "many.parquet"):
        config = demo_config(tmp_path / name.replace(".", "-"), f"catalog.url={tmp_path / name}")
        records = [
            plan.to_json() if isinstance(plan, CubePlan) else str(plan) for _, plan in plan_cubes(config)
        ]
        plans.append(
            [as_tables_have_it(json.loads(json.dumps(one).replace(name, "FILE"))) for one in records]
        )
    assert len([plan for plan in plans[0] if isinstance(plan, dict)]) >= 4
    assert plans[0] == plans[1] == plans[2]


def test_a_table_with_an_item_that_lies_nowhere_is_named(tmp_path: Path) -> None:
    path, table = tmp_path / "items.parquet", as_table(scattered())
    wkb = pa.array([None, *table["geometry"].to_pylist()[1:]], pa.binary())
    parquet.write_table(table.set_column(table.schema.get_field_index("geometry"), "geometry", wkb), path)
    with pytest.raises(ConfigError, match=r"cannot be read as .* \(there is an item without a geometry\)"):
        FileCatalog.open(path)


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """Return a file whose second group of rows, of another place, has damaged assets."""
    items = sorted(scattered(), key=lambda item: item["bbox"][1] < 0)
    north = sum(item["bbox"][1] > 0 for item in items)
    path = tmp_path / "items.parquet"
    with parquet.ParquetWriter(path, as_table(items).schema) as writer:
        writer.write_table(as_table(items).slice(0, north))
        writer.write_table(as_table(items).slice(north))
    group = parquet.ParquetFile(path).metadata.row_group(1)
    columns = [group.column(n) for n in range(group.num_columns)]
    [column] = [one for one in columns if one.path_in_schema == "assets.B02.href"]
    data = bytearray(path.read_bytes())
    start = column.dictionary_page_offset or column.data_page_offset
    data[start : start + column.total_compressed_size] = bytes(column.total_compressed_size)
    path.write_bytes(data)
    return path


def test_groups_that_hold_nothing_near_are_not_read(broken: Path) -> None:
    catalog = FileCatalog.open(broken)
    assert len(catalog.search(Query(COLLECTIONS, box(11, 49, 13, 50)))) > 10
    with pytest.raises(
        CatalogError, match=r"items\.parquet: cannot be read as stac-geoparquet \(.+\)$"
    ) as caught:
        catalog.search(Query(COLLECTIONS, box(15, -33, 18, -30)))
    assert "\n" not in str(caught.value)


def test_what_is_unpacked_has_no_name_and_many_may_ask_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    path = tmp_path / "items.parquet"
    parquet.write_table(as_table(scattered()), path, row_group_size=9)
    catalog, oracle = FileCatalog.open(path), FileCatalog(all_of(path))
    asked = queries()
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(catalog.search, asked))
    assert answers == [oracle.search(query) for query in asked]
    assert list((tmp_path / "temporary").iterdir()) == []


def test_a_temporary_folder_without_room_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "items.parquet"
    parquet.write_table(as_table(scattered()), path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(StoreError, match=r"nowhere: cannot be written \(No such file or directory\)"):
        FileCatalog.open(path).search(Query(COLLECTIONS))

    monkeypatch.setattr(
        tempfile, "NamedTemporaryFile", lambda: nullcontext(SimpleNamespace(name="/dev/full"))
    )
    monkeypatch.setattr(tempfile, "tempdir", None)
    with pytest.raises(DiskFullError, match="no space left; make room"):
        FileCatalog.open(path).search(Query(COLLECTIONS))
