"""Plans: what a recipe holds, what a block's pixels follow from, and the way to JSON and back."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from cube.config.models import Config
from cube.config.reading import load_config
from cube.config.sensors import SENSORS
from cube.scenes.choose import SceneSet
from cube.scenes.explain import SceneOutcome
from cube.scenes.plan import CubePlan, canonical_json, plan_cube, row_recipe
from cube.testing.cubes import plan_from_times
from cube.windows.grid import Block, Bounds

BOUNDS = Bounds(960 * 312, 960 * 5720, 960 * 352, 960 * 5730)
TIMES = (datetime(2023, 2, 1, 10, 11, 12, 24000, tzinfo=UTC), datetime(2023, 5, 1, 10, tzinfo=UTC))


@pytest.fixture
def config(tmp_path: Path) -> Config:
    text = {
        "dataset": {"version": "t"},
        "aoi": {"path": "a.geojson"},
        "directory": {"working": "w", "output": "o"},
        "s2l2a": {
            "time_ranges": ["2023-01-01/2023-03-31", "2023-04-01/2023-06-30"],
            "bands": ["B02"],
            "cloud_band": "SCL",
            "resampling": "bilinear",
        },
        "lc2l2": {"bands": ["red"], "cloud_band": "qa_pixel"},
        "lulc": {"year": "2023-01-02/2023-12-31"},
    }
    (tmp_path / "c.yaml").write_text(json.dumps(text))
    return load_config(tmp_path / "c.yaml")


@pytest.fixture
def plan(config: Config) -> CubePlan:
    return plan_from_times(config, BOUNDS, 32633, TIMES, aoi_index=7)


def test_a_recipe_is_what_makes_the_pixels_and_nothing_else(plan: CubePlan) -> None:
    recipe = plan.recipe
    assert recipe["schema_version"] == 1
    assert (recipe["block_m"], recipe["chunk_m"]) == (30_720, 7_680)
    assert (recipe["epsg"], recipe["bounds"]) == (32633, [299_520, 5_491_200, 337_920, 5_500_800])
    assert list(recipe["sensors"]) == ["s2l2a", "lc2l2", "lulc"]
    s2l2a, lc2l2, _ = recipe["sensors"].values()
    assert (s2l2a["resolution"], s2l2a["resampling"], s2l2a["harmonize"]) == (10, "bilinear", True)
    assert (lc2l2["resolution"], lc2l2["resampling"], lc2l2["harmonize"]) == (30, "cubic", False)
    assert list(s2l2a["bands"]) == ["B02", "SCL"]
    assert [len(date) for date in s2l2a["dates"]] == [1, 1]
    assert set(s2l2a["dates"][0][0]) == {"collection", "id", "baseline", "nodata"}
    text = json.dumps(recipe, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    assert canonical_json(recipe) == text
    assert plan.fingerprint == hashlib.sha256(text).hexdigest()
    elsewhere = replace(
        plan, aoi_index=8, scenes_seen=(SceneOutcome("a", "dem", "", chosen=False, reason="b"),)
    )
    assert elsewhere.fingerprint == plan.fingerprint
    assert replace(plan, epsg=32632).fingerprint != plan.fingerprint


def test_canonical_json_is_one_text_per_value_and_knows_no_nan() -> None:
    assert canonical_json({"b": [1, 2.5, None], "a": "\u00fc"}) == '{"a":"\u00fc","b":[1,2.5,null]}'.encode()
    with pytest.raises(ValueError, match="JSON"):
        canonical_json(float("nan"))


def changed(plan: CubePlan, key: str, **changes: Any) -> CubePlan:
    """Return a plan of which one sensor is another."""
    return replace(plan, sensors=tuple(replace(s, **changes) if s.key == key else s for s in plan.sensors))


def test_a_block_is_shared_by_plans_that_agree_on_its_pixels(plan: CubePlan) -> None:
    first, second = Block("s2l2a", 0, 0, 0, 960, 3072), Block("s2l2a", 1, 0, 0, 960, 3072)
    prints = {
        plan.block_fingerprint(block) for key in ("s2l2a", "lc2l2", "lulc") for block in plan.blocks(key)
    }
    assert len(prints) == sum(len(plan.blocks(key)) for key in ("s2l2a", "lc2l2", "lulc"))
    assert {plan.block_fingerprint(first), plan.block_fingerprint(second)} <= prints
    dates = plan.sensor("s2l2a").dates
    other = replace(dates[1], scenes=tuple(replace(scene, id="another") for scene in dates[1].scenes))
    new = changed(plan, "s2l2a", dates=(dates[0], other))
    assert new.block_fingerprint(first) == plan.block_fingerprint(first)
    assert new.block_fingerprint(second) != plan.block_fingerprint(second)
    for change in ({"harmonize": False}, {"resampling": "cubic"}, {"bands": ("B02",)}):
        assert changed(plan, "s2l2a", **change).block_fingerprint(first) != plan.block_fingerprint(first)
    assert changed(plan, "lc2l2", bands=("red",)).block_fingerprint(first) == plan.block_fingerprint(first)
    wider = replace(plan, bounds=replace(plan.bounds, right=plan.bounds.right + 960))
    assert wider.block_fingerprint(first) != plan.block_fingerprint(first)


def test_blocks_are_those_of_every_date(plan: CubePlan) -> None:
    assert [block.name for block in plan.blocks("s2l2a")] == [
        f"s2l2a-{t}-0-{c}" for t in (0, 1) for c in (0, 3072)
    ]
    assert [block.name for block in plan.blocks("lulc")] == ["lulc-0-0-0", "lulc-0-0-3072"]
    assert tuple(plan.geobox("lc2l2").shape) == (320, 1280)
    assert [scene.datetime for scene in plan.sensor("s2l2a").scenes] == list(TIMES)


def test_a_plan_survives_json(plan: CubePlan) -> None:
    chosen = SceneOutcome("a", "s2l2a", "33UUR", chosen=True, reason="", time=TIMES[0])
    told = replace(plan, scenes_seen=(chosen, replace(chosen, id="b", time=None)))
    text = json.dumps(told.to_json())
    assert '"time": "2023-05-01T10:00:00Z"' in text
    again = CubePlan.from_json(json.loads(text), SENSORS)
    assert json.dumps(again.to_json()) == text
    assert (again.fingerprint, again.scenes_seen) == (plan.fingerprint, told.scenes_seen)
    assert (again.extent, again.aoi_index, again.bounds) == (plan.extent, 7, BOUNDS)
    assert again.aoi.equals(plan.aoi)


def test_scenes_of_a_date_keep_their_order_and_the_first_gives_its_time(
    config: Config, plan: CubePlan
) -> None:
    chosen = {s.key: tuple(date.scenes for date in s.dates) for s in plan.sensors}
    first = plan.sensor("s2l2a").dates[0].scenes[0]
    second = replace(first, id="b", datetime=datetime(2023, 2, 1, 10, 11, 20, tzinfo=UTC))
    chosen["s2l2a"] = ((first, second), *chosen["s2l2a"][1:])
    made = plan_cube(7, plan.aoi, 32633, BOUNDS, SceneSet(chosen, ()), config)
    date = made.sensor("s2l2a").dates[0]
    assert (date.time, [scene.id for scene in date.scenes]) == (TIMES[0], [first.id, "b"])
    raw = load_config(config.path, ["s2l2a.harmonize=false"])
    assert not plan_cube(7, plan.aoi, 32633, BOUNDS, SceneSet(chosen, ()), raw).sensor("s2l2a").harmonize


def test_of_a_rows_bands_the_recipe_says_what_is_stored() -> None:
    assert row_recipe(SENSORS["dem"], ["elevation"]) == {
        "bands": {
            "elevation": {
                "dtype": "float32",
                "asset": "data",
                "compressor": SENSORS["dem"].bands[0].compressor,
            }
        }
    }
    own = row_recipe(replace(SENSORS["dem"], key="height"), ["elevation"])
    assert own["row"]["bands"] == {"elevation": ["elevation", "nan"]}
    assert own["row"]["static"] is True
