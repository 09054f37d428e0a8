"""Areas near each other are searched for together: the same plans, with a fraction of the searches."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shapely import box
from shapely.geometry import mapping, shape

from cube.build.plans import plan_cubes
from cube.config.aoi import Aoi
from cube.config.models import Config
from cube.errors import CatalogError
from cube.scenes.catalog import ApiCatalog
from cube.scenes.neighbours import NeighbourCatalog, neighbourhoods
from cube.scenes.plan import CubePlan
from cube.scenes.query import Query
from cube.testing import Archive
from cube.testing.service import StandIn

AREAS = 40


@pytest.fixture(scope="module")
def areas(sample_archive: Archive, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file of many small areas in and around the sample's own."""
    outlines = [
        shape(one["geometry"]) for one in json.loads(Path(sample_archive.aois).read_text())["features"]
    ]
    rng = np.random.default_rng(0)
    features = []
    for n in range(AREAS):
        west, south, east, north = outlines[n % len(outlines)].bounds
        x, y = rng.uniform(west, east), rng.uniform(south, north)
        square = box(x, y, x + 0.01, y + 0.01)
        features.append({"type": "Feature", "properties": {}, "geometry": mapping(square)})
    path = tmp_path_factory.mktemp("areas") / "areas.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def plans(config: Config, catalog: Any = None) -> list[str]:
    found = plan_cubes(config, catalog=catalog)
    return [json.dumps(one.to_json()) if isinstance(one, CubePlan) else str(one) for _, one in found]


@pytest.mark.parametrize("extent", ["aoi", pytest.param("overlap", marks=pytest.mark.slow)])
def test_plans_are_the_same_item_for_item(
    sample_archive: Archive, demo_config: Callable[..., Config], areas: Path, tmp_path: Path, extent: str
) -> None:
    with StandIn(sample_archive.path) as service:
        cap = ["aoi.max_side_m=7680"] if extent == "overlap" else []
        sets = [f"catalog.url={service.url}", f"aoi.path={areas}", f"aoi.extent={extent}", *cap]
        config = demo_config(tmp_path, *sets)
        one_by_one = plans(config, ApiCatalog(config.catalog.model_copy(update={"url": service.url})))
        before = service.counts()["search"]
        together = plans(config)
        searches = service.counts()["search"] - before
    assert together == one_by_one
    assert sum(text.startswith("{") for text in together) > AREAS / 4
    groups = neighbourhoods(
        Aoi(n, shape(one["geometry"])) for n, one in enumerate(json.loads(areas.read_text())["features"])
    )
    assert searches <= 5 * len(groups) < before / 2


class _Slow:
    """Holds the first search back until it is let go; may fail."""

    def __init__(self) -> None:
        self.queries: list[Query] = []
        self.go = threading.Event()
        self.fails = False

    def search(self, query: Query) -> list[dict[str, Any]]:
        self.queries.append(query)
        assert self.go.wait(30)
        if self.fails:
            raise CatalogError("no answer")
        return []


NEAR = [Aoi(n, box(13 + n / 100, 52, 13.005 + n / 100, 52.005)) for n in range(5)]


def query(aoi: Aoi, *, fields: tuple[str, ...] = ("geometry",)) -> Query:
    return Query(("sentinel-2-l2a",), aoi.geometry, fields=fields)


def test_threads_that_ask_at_once_wait_for_one_answer(
    demo_config: Callable[..., Config], tmp_path: Path
) -> None:
    slow = _Slow()
    catalog = NeighbourCatalog(slow, neighbourhoods(NEAR), demo_config(tmp_path))
    threads = [threading.Thread(target=catalog.search, args=(query(aoi),)) for aoi in NEAR]
    for thread in threads:
        thread.start()
    slow.go.set()
    for thread in threads:
        thread.join(30)
    assert len(slow.queries) == 1
    assert all(slow.queries[0].intersects.covers(aoi.geometry) for aoi in NEAR)  # type: ignore[union-attr]


def test_a_search_that_fails_is_made_again(demo_config: Callable[..., Config], tmp_path: Path) -> None:
    slow = _Slow()
    slow.go.set()
    slow.fails = True
    catalog = NeighbourCatalog(slow, neighbourhoods(NEAR), demo_config(tmp_path))
    for _ in range(2):
        with pytest.raises(CatalogError, match="no answer"):
            catalog.search(query(NEAR[0]))
    slow.fails = False
    assert catalog.search(query(NEAR[1])) == []
    assert len(slow.queries) == 3


@pytest.mark.parametrize("what", ["few", "far", "all fields", "elsewhere"])
def test_what_is_not_worth_it_or_not_safe_is_asked_by_itself(
    demo_config: Callable[..., Config], tmp_path: Path, what: str
) -> None:
    slow = _Slow()
    slow.go.set()
    near = NEAR[:2] if what == "few" else NEAR
    if what == "far":
        near = [Aoi(n, box(179 + n / 100, 52, 179.005 + n / 100, 52.005)) for n in range(5)]
    catalog = NeighbourCatalog(slow, neighbourhoods(near), demo_config(tmp_path))
    asked = query(near[0], fields=() if what == "all fields" else ("geometry",))
    if what == "elsewhere":
        asked = query(Aoi(9, box(-70, -30, -69.9, -29.9)))
    catalog.search(asked)
    assert slow.queries == [asked]


def test_an_area_gets_what_touches_it_and_what_nobody_can_place(
    demo_config: Callable[..., Config], tmp_path: Path
) -> None:
    """Of one answer for all; records that cannot be read are left to be refused by name."""

    def item(name: str, geometry: Any) -> dict[str, Any]:
        properties = {"datetime": "2023-01-01T00:00:00Z"}
        return {"id": name, "collection": "sentinel-2-l2a", "properties": properties, "geometry": geometry}

    found = [
        item("a-all", mapping(box(12, 51, 14, 53))),
        item("b-first", mapping(box(12.9, 51.9, 13.001, 52.1))),
        item("c-edge", mapping(box(13.035, 52, 13.04, 52.01))),
        item("d-beside", mapping(box(13.0351, 52, 13.039, 52.01))),
        item("e-world", mapping(box(-180, 51, 180, 53))),
        item("f-nowhere", None),
        item("g-broken", {"type": "Polygon", "coordinates": [[0]]}),
        {key: value for key, value in item("h-none", None).items() if key != "geometry"},
        item("i-empty", {"type": "Polygon", "coordinates": []}),
    ]

    class One:
        asked = 0

        def search(self, query: Query) -> list[dict[str, Any]]:
            self.asked += 1
            return query.finish([*reversed(found)])

    one = One()
    catalog = NeighbourCatalog(one, neighbourhoods(NEAR), demo_config(tmp_path))
    names = [[item["id"][0] for item in catalog.search(query(aoi))] for aoi in NEAR]
    assert names == [[*"abefgh"], [*"aefgh"], [*"aefgh"], [*"acefgh"], [*"acefgh"]]
    assert one.asked == 1
