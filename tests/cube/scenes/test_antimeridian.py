"""Areas and items at the antimeridian, on a file and on an API: found, however they are written."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from shapely import MultiPolygon, box
from shapely.affinity import translate
from shapely.geometry import mapping, shape
from shapely.geometry.base import BaseGeometry

from cube.config.aoi import Aoi
from cube.config.models import Config
from cube.config.sensor_models import LandCoverConfig, Sentinel2Config
from cube.scenes.catalog import open_catalog
from cube.scenes.explain import Skipped
from cube.scenes.planner import plan_aoi
from cube.testing import lulc_item, sentinel2_item, utm_geobox
from cube.testing.service import StandIn
from cube.windows.projection import eastward, split_at_antimeridian

GRID = utm_geobox(32660, (690_000, 5_530_000, 740_000, 5_560_000), 10)
"""From 179.65 to 180.36 degrees east."""
WHEN = datetime(2023, 2, 10, 0, tzinfo=UTC)
AREAS = {
    "east of Greenwich": box(179.8, 50.0, 179.9, 50.05),
    "west of Greenwich": box(-179.9, 50.0, -179.8, 50.05),
    "both": MultiPolygon([box(179.95, 50, 180, 50.05), box(-180, 50, -179.95, 50.05)]),
}


def continued(footprint: BaseGeometry) -> BaseGeometry:
    """Return a footprint across the antimeridian as one polygon that goes on beyond 180."""
    return eastward(split_at_antimeridian(footprint)).convex_hull


FORMS: dict[str, Callable[[BaseGeometry], BaseGeometry]] = {
    "beyond 180": continued,
    "below -180": lambda footprint: translate(continued(footprint), -360),
    "in two": split_at_antimeridian,
    "round the world": lambda footprint: box(-179.6, footprint.bounds[1], 179.7, footprint.bounds[3]),
    "all longitudes": lambda footprint: box(-180, footprint.bounds[1], 180, footprint.bounds[3]),
}


def items(form: str) -> list[dict[str, Any]]:
    made = [sentinel2_item(GRID, WHEN, tile="60UXA"), lulc_item(GRID, tile="60U")]
    for item in made:
        outline = continued(shape(item["geometry"]))
        item["geometry"] = mapping(FORMS[form](outline))
    return made


def configured(url: str, path: Path) -> Config:
    return Config.model_validate(
        {
            "dataset": {"version": "t"},
            "aoi": {"path": "a.geojson", "extent": "aoi"},
            "directory": {"working": "w", "output": "o"},
            "catalog": {"url": url, "retries": 0},
            "sensors": {
                "s2l2a": Sentinel2Config(time_ranges=("2023-01-01/2023-03-31",), bands=("B04",)),
                "lulc": LandCoverConfig(year="2023-01-02/2023-12-31"),
            },
            "path": path,
        }
    )


@pytest.fixture(params=["file", "API"])
def config_of(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[str], Config]]:
    """Return a function that gives the config of a catalog, of either kind, of items in a form."""
    running: list[StandIn] = []

    def made(form: str) -> Config:
        (tmp_path / "blobs").mkdir()
        path = tmp_path / "items.json"
        path.write_text(json.dumps({"type": "FeatureCollection", "features": items(form)}))
        if request.param == "file":
            return configured("items.json", tmp_path / "config.yaml")
        running.append(StandIn(tmp_path).__enter__())
        return configured(running[0].url, tmp_path / "config.yaml")

    yield made
    for service in running:
        service.__exit__(None, None, None)


@pytest.mark.parametrize("form", FORMS)
def test_an_item_is_found_from_both_sides_and_from_nowhere_else(
    form: str, config_of: Callable[[str], Config]
) -> None:
    config = config_of(form)
    catalog = open_catalog(config)
    for number, area in enumerate(AREAS.values()):
        plan = plan_aoi(Aoi(number, area), config, catalog)
        assert plan.epsg == 32660
        assert plan.bounds.width < 15_000
        assert [len(date.scenes) for sensor in plan.sensors for date in sensor.dates] == [1, 1]
    with pytest.raises(Skipped, match=r"s2l2a: no scene for .* \(0 found"):
        plan_aoi(Aoi(3, box(12.1, 50, 12.2, 50.05)), config, catalog)
