"""Scene choice: pure functions, so every case is a few made-up items."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shapely import box, union_all
from shapely.geometry import shape
from shapely.geometry.base import BaseGeometry

from cube.config.aoi import Aoi
from cube.config.fields import TimeRange
from cube.config.models import Config
from cube.config.profiles import PROFILES
from cube.config.sensor_models import LandCoverConfig, LandsatConfig, Sentinel1Config, Sentinel2Config
from cube.errors import UnusableError
from cube.scenes.catalog import FileCatalog
from cube.scenes.choose import SensorChoice, choose_orbit, choose_path, choose_period, choose_tile
from cube.scenes.explain import Skipped
from cube.scenes.items import Scene
from cube.scenes.planner import plan_aoi
from cube.testing import landsat_item, lulc_item, sentinel2_item, utm_geobox

Q1, Q2 = TimeRange.parse("2023-01-01/2023-03-31"), TimeRange.parse("2023-04-01/2023-06-30")
TARGET = box(12.0, 50.0, 12.1, 50.1)
WHOLE = box(11.5, 49.5, 12.5, 50.5)
HALF = box(11.5, 49.5, 12.05, 50.5)
FEB, MAY = datetime(2023, 2, 10, 10, tzinfo=UTC), datetime(2023, 5, 10, 10, tzinfo=UTC)

_COUNTER = itertools.count()


def scene(when: datetime, geometry: BaseGeometry = WHOLE, name: str = "", **properties: Any) -> Scene:
    identity = name or f"item{next(_COUNTER):03}"
    return Scene(identity, "c", when, when, when, geometry, properties, {}, "")


def s2(
    when: datetime, cloud: float, tile: str = "33UUR", geometry: BaseGeometry = WHOLE, **more: Any
) -> Scene:
    name = more.pop("name", "")
    nodata = more.pop("nodata", 0.0)
    properties = {"eo:cloud_cover": cloud, "s2:mgrs_tile": tile, "s2:nodata_pixel_percentage": nodata, **more}
    return scene(when, geometry, name, **properties)


def s1(when: datetime, orbit: int, geometry: BaseGeometry = WHOLE, name: str = "") -> Scene:
    return scene(when, geometry, name, **{"sat:relative_orbit": orbit, "platform": "SENTINEL-1A"})


def landsat(when: datetime, cloud: float, path: str = "192", tier: str = "T1", **more: Any) -> Scene:
    geometry = more.pop("geometry", WHOLE)
    properties = {
        "platform": more.pop("platform", "landsat-8"),
        "eo:cloud_cover": cloud,
        "landsat:wrs_path": path,
        "landsat:collection_category": tier,
    }
    return scene(when, geometry, more.pop("name", ""), **properties)


def ids(choice: SensorChoice) -> list[list[str]]:
    return [[s.id for s in one.scenes] for one in choice.acquisitions]


def reasons(scenes_seen: Sequence[Any]) -> dict[str, str]:
    return {c.id: c.reason for c in scenes_seen if not c.chosen}


S2_SETTINGS = Sentinel2Config(cloud_cover=30, nodata_pixel_percentage=5)


class TestTile:
    def choose(self, scenes: Sequence[Scene], ranges: tuple[TimeRange, ...] = (Q1, Q2)) -> SensorChoice:
        return choose_tile(scenes, S2_SETTINGS, ranges, TARGET)

    def test_least_cloudy_of_each_range(self) -> None:
        choice = self.choose(
            [s2(FEB, 9, name="a"), s2(FEB + timedelta(days=5), 3, name="b"), s2(MAY, 20, name="c")]
        )
        assert ids(choice) == [["b"], ["c"]]
        assert reasons(choice.scenes_seen) == {"a": "b is less cloudy"}

    def test_limits_are_strict(self) -> None:
        with pytest.raises(Skipped) as caught:
            self.choose([s2(FEB, 30), s2(FEB + timedelta(days=5), 41.32), s2(MAY, 1)])
        assert caught.value.reason == (
            "s2l2a: no scene for 2023-01-01/2023-03-31 (2 found, 2 over cloud_cover 30; 30.1 would admit one)"
        )
        assert ids(self.choose([s2(FEB, 29.99, name="x"), s2(MAY, 1, name="y")])) == [["x"], ["y"]]

    def test_the_limit_that_is_named_does_admit_one(self) -> None:
        with pytest.raises(Skipped, match=r"51\.2 would admit one"):
            self.choose([s2(FEB, 51.13), s2(MAY, 1)])
        admitted = Sentinel2Config(cloud_cover=51.2)
        assert choose_tile([s2(FEB, 51.13), s2(MAY, 1)], admitted, (Q1, Q2), TARGET).group == "33UUR"

    def test_a_clear_scene_that_is_mostly_nodata_is_refused(self) -> None:
        choice = self.choose(
            [s2(FEB, 0, nodata=80, name="empty"), s2(FEB + timedelta(days=5), 20, name="full"), s2(MAY, 1)]
        )
        assert ids(choice)[0] == ["full"]
        assert reasons(choice.scenes_seen)["empty"] == "nodata_pixel_percentage 80 is not below 5"

    def test_the_tile_that_covers_best_wins_even_if_cloudier(self) -> None:
        scenes = [s2(t, 20, "33UUR") for t in (FEB, MAY)] + [s2(t, 1, "33UTR", HALF) for t in (FEB, MAY)]
        choice = self.choose(scenes)
        assert choice.group == "33UUR"
        assert set(reasons(choice.scenes_seen).values()) == {
            "tile 33UUR covers 100 % of the target, 33UTR 50 %"
        }

    def test_the_next_tile_is_tried_when_the_first_cannot_fill_all_ranges(self) -> None:
        choice = self.choose([s2(FEB, 1, "33UUR"), *(s2(t, 1, "33UTR", HALF) for t in (FEB, MAY))])
        assert choice.group == "33UTR"
        assert "tile 33UUR has nothing for 2023-04-01/2023-06-30" in reasons(choice.scenes_seen).values()

    def test_no_tile_with_every_range(self) -> None:
        with pytest.raises(Skipped, match="no tile has a scene for every range"):
            self.choose([s2(FEB, 1, "33UUR"), s2(MAY, 1, "33UTR")])

    def test_no_tile_with_every_range_says_what_would_have_saved_the_nearest(self) -> None:
        days = [timedelta(days=5 * n) for n in range(2)]
        cloudy = [s2(MAY + day, cloud, "33UUR") for day, cloud in zip(days, (44.44, 36.05), strict=True)]
        with pytest.raises(Skipped) as caught:
            self.choose([s2(FEB, 1, "33UUR"), *cloudy, s2(MAY, 1, "33UTR")])
        assert caught.value.reason == (
            "s2l2a: no tile has a scene for every range "
            "(33UTR lacks 2023-01-01/2023-03-31, 33UUR lacks 2023-04-01/2023-06-30); "
            "33UUR, 2023-04-01/2023-06-30: 2 found, 2 over cloud_cover 30; 36.1 would admit one"
        )

    def test_equal_coverage_goes_to_the_lower_mean_cloud_then_to_the_name(self) -> None:
        scenes = [s2(t, 5, "33UUR") for t in (FEB, MAY)] + [s2(t, 4, "33UTR") for t in (FEB, MAY)]
        assert self.choose(scenes).group == "33UTR"
        scenes = [s2(t, 5, tile) for t in (FEB, MAY) for tile in ("33UUR", "33UTR")]
        assert self.choose(scenes).group == "33UTR"

    def test_reprocessed_twins_the_newest_baseline_wins(self) -> None:
        datatake = "GS2A_20230210T100000_039902_N"
        old = s2(
            FEB, 1, name="old", **{"s2:datatake_id": f"{datatake}03.01", "s2:processing_baseline": "03.01"}
        )
        new = s2(
            FEB, 2, name="new", **{"s2:datatake_id": f"{datatake}05.10", "s2:processing_baseline": "05.10"}
        )
        choice = self.choose([old, new, s2(MAY, 1)])
        assert ids(choice)[0] == ["new"]
        assert reasons(choice.scenes_seen)["old"] == "new is a newer processing of the same datatake"

    def test_halves_of_one_datatake_are_mosaicked(self) -> None:
        same = {"s2:datatake_id": "GS2A_20230210T100000_039902_N05.09", "s2:processing_baseline": "05.09"}
        west = s2(FEB, 1, geometry=box(11.5, 49.5, 12.05, 50.5), nodata=55, name="west", **same)
        east = s2(
            FEB + timedelta(seconds=7),
            3,
            geometry=box(12.04, 49.5, 12.5, 50.5),
            nodata=44,
            name="east",
            **same,
        )
        choice = self.choose([east, west, s2(MAY, 1)])
        assert ids(choice)[0] == ["west", "east"]
        assert choice.acquisitions[0].coverage == 1

    def test_ranking_over_the_aoi_looks_at_the_least_cloudy_few(self) -> None:
        asked = []

        def clear_share(one: Any) -> float:
            asked.append(one.name)
            return {"a": 0.5, "b": 0.9}.get(one.name, 0.1)

        scenes = [s2(FEB + timedelta(days=n), n, name="abcdef"[n]) for n in range(6)]
        choice = choose_tile(scenes, S2_SETTINGS, (Q1,), TARGET, clear_share)
        assert ids(choice) == [["b"]]
        assert asked == ["a", "b", "c", "d"]

    def test_ranking_over_the_aoi_tells_two_tiles_of_one_day_apart(self) -> None:
        same = {"s2:processing_baseline": "05.09", "s2:datatake_id": "GS2A_20230210T100000_039902_N05.09"}
        west, east = box(11.5, 49.5, 12.05, 50.5), box(12.04, 49.5, 12.5, 50.5)
        scenes = [
            s2(FEB, 1, tile, half, nodata=50, **same) for tile in ("33UUR", "33UTR") for half in (west, east)
        ]
        later = FEB + timedelta(days=5)
        scenes += [s2(later, 2, tile, name=f"later-{tile}") for tile in ("33UUR", "33UTR")]

        def clear_share(one: Any) -> float:
            if one.time == later:
                return 0.5
            return 0.9 if one.group == "33UTR" else 0.1

        choice = choose_tile(scenes, S2_SETTINGS, (Q1,), TARGET, clear_share)
        assert (choice.group, len(choice.acquisitions[0].scenes)) == ("33UTR", 2)

    @given(st.randoms(use_true_random=False))
    def test_the_order_of_items_does_not_matter(self, rng: random.Random) -> None:
        scenes = [
            s2(t + timedelta(days=d), (7 * d) % 11, tile, name=f"{tile}{t.month}{d}")
            for t in (FEB, MAY)
            for d in range(4)
            for tile in ("33UUR", "33UTR")
        ]
        expected = self.choose(scenes)
        rng.shuffle(scenes)
        assert ids(self.choose(scenes)) == ids(expected)


SEEN = st.builds(
    lambda number, day, cloud, nodata, tile, half: s2(
        Q1.start + timedelta(days=day, seconds=number),
        cloud / 4,
        tile,
        HALF if half else WHOLE,
        nodata=nodata,
        name=f"{tile}-{day:03}-{number}",
    ),
    st.integers(0, 999),
    st.integers(0, 200),  # past the end of the second range
    st.integers(0, 160),
    st.sampled_from([0.0, 4.9, 5.0, 60.0]),
    st.sampled_from(["33UUR", "33UTR", "33UVR"]),
    st.booleans(),
)


@given(st.lists(SEEN, max_size=25, unique_by=lambda scene: scene.datetime))
def test_tiles_are_chosen_as_a_slow_reading_of_the_rules_would(scenes: list[Scene]) -> None:
    """The rules as the docs state them, one after the other, over every tile and range."""

    def eligible(one: Scene, tile: str, span: TimeRange) -> bool:
        p = one.properties
        inside = span.start <= one.datetime <= span.end and p["s2:mgrs_tile"] == tile
        return inside and p["eo:cloud_cover"] < 30 and p["s2:nodata_pixel_percentage"] < 5

    filled = {}
    for tile in ("33UUR", "33UTR", "33UVR"):
        found = [[one for one in scenes if eligible(one, tile, span)] for span in (Q1, Q2)]
        if all(found):
            filled[tile] = [
                min(one, key=lambda s: (s.properties["eo:cloud_cover"], s.datetime)) for one in found
            ]

    def order(tile: str) -> tuple[float, float, str]:
        covered = min(50 if one.geometry is HALF else 100 for one in filled[tile])
        return -covered, sum(one.properties["eo:cloud_cover"] for one in filled[tile]), tile

    if not filled:
        with pytest.raises(Skipped) as caught:
            choose_tile(scenes, S2_SETTINGS, (Q1, Q2), TARGET)
        assert len(caught.value.scenes_seen) == len(scenes)
        assert not any(one.chosen or not one.reason for one in caught.value.scenes_seen)
        return
    choice = choose_tile(scenes, S2_SETTINGS, (Q1, Q2), TARGET)
    best = min(filled, key=order)
    assert (choice.group, ids(choice)) == (best, [[one.id] for one in filled[best]])
    assert sorted(one.id for one in choice.scenes_seen) == sorted(one.id for one in scenes)
    assert all(one.chosen != bool(one.reason) for one in choice.scenes_seen)


class TestOrbit:
    ANCHORS = (FEB, MAY)

    def choose(self, scenes: Sequence[Scene], **settings: Any) -> SensorChoice:
        return choose_orbit(scenes, Sentinel1Config(**settings), (Q1, Q2), TARGET, self.ANCHORS)

    def test_nearest_pass_with_all_its_slices(self) -> None:
        north, south = box(11.5, 50.04, 12.5, 51), box(11.5, 49, 12.5, 50.06)
        near = FEB + timedelta(days=3)
        scenes = [
            s1(near, 44, north, "n"),
            s1(near + timedelta(seconds=25), 44, south, "s"),
            s1(FEB - timedelta(days=9), 44, WHOLE, "far"),
            s1(MAY, 44, WHOLE, "may"),
        ]
        choice = self.choose(scenes)
        assert ids(choice) == [["n", "s"], ["may"]]
        assert choice.acquisitions[0].coverage == pytest.approx(1)

    def test_the_covering_orbit_wins_though_the_other_is_nearer(self) -> None:
        days = timedelta(days=5)
        scenes = [s1(t + days, 44) for t in self.ANCHORS] + [s1(t, 95, HALF) for t in self.ANCHORS]
        choice = self.choose(scenes)
        assert choice.group == "044"
        assert "orbit 044 covers 100 % of the target, 095 50 %" in reasons(choice.scenes_seen).values()

    def test_delta_days_may_be_reached_but_not_passed(self) -> None:
        limit = timedelta(days=12)
        assert self.choose([s1(FEB + limit, 44), s1(MAY, 44)]).group == "044"
        with pytest.raises(Skipped, match=r"1 over delta_days 12; 12\.1 would admit one"):
            self.choose([s1(FEB + limit + timedelta(hours=1), 44), s1(MAY, 44)])

    def test_a_pass_outside_the_range_is_none_of_it(self) -> None:
        anchors = (datetime(2023, 3, 30, tzinfo=UTC), MAY)
        april = s1(datetime(2023, 4, 1, 5, tzinfo=UTC), 44)
        with pytest.raises(Skipped, match="s1rtc: no scene for 2023-01-01/2023-03-31"):
            choose_orbit([april, s1(MAY, 44)], Sentinel1Config(), (Q1, Q2), TARGET, anchors)

    def test_a_pass_without_its_slice_comes_after_a_whole_one(self) -> None:
        scenes = [s1(FEB, 44, HALF, "cut"), s1(FEB + timedelta(days=6), 44, WHOLE, "whole"), s1(MAY, 44)]
        assert ids(self.choose(scenes))[0] == ["whole"]


class TestPath:
    ANCHORS = (FEB, MAY)

    def choose(self, scenes: Sequence[Scene], **settings: Any) -> SensorChoice:
        return choose_path(scenes, LandsatConfig(**settings), (Q1, Q2), TARGET, self.ANCHORS)

    def test_least_cloudy_date_with_its_rows(self) -> None:
        north, south = box(11.5, 50.04, 12.5, 51), box(11.5, 49, 12.5, 50.06)
        scenes = [
            landsat(FEB, 2, geometry=north, name="n"),
            landsat(FEB + timedelta(seconds=24), 4, geometry=south, name="s"),
            landsat(FEB + timedelta(days=16), 30, name="cloudy"),
            landsat(MAY, 1, name="may"),
        ]
        assert ids(self.choose(scenes)) == [["n", "s"], ["may"]]

    def test_tier_1_before_tier_2(self) -> None:
        scenes = [
            landsat(FEB, 0, tier="T2", name="t2"),
            landsat(FEB + timedelta(days=8), 40, name="t1"),
            landsat(MAY, 0, tier="T2", name="only"),
        ]
        assert ids(self.choose(scenes)) == [["t1"], ["only"]]

    def test_other_platforms_are_no_candidates(self) -> None:
        scenes = [
            landsat(FEB, 0, platform="landsat-7", name="l7"),
            landsat(FEB, 10, name="l8"),
            landsat(MAY, 1),
        ]
        choice = self.choose(scenes)
        assert ids(choice)[0] == ["l8"]
        assert reasons(choice.scenes_seen)["l7"] == "platform landsat-7"

    def test_a_row_over_the_limit_is_not_used(self) -> None:
        north, south = box(11.5, 50.04, 12.5, 51), box(11.5, 49, 12.5, 50.06)
        scenes = [
            landsat(FEB, 2, geometry=north, name="n"),
            landsat(FEB + timedelta(seconds=24), 60, geometry=south, name="over"),
            landsat(FEB + timedelta(days=16), 40, name="whole"),
            landsat(MAY, 1),
        ]
        choice = self.choose(scenes)
        assert ids(choice)[0] == ["whole"]
        assert reasons(choice.scenes_seen)["over"] == "cloud_cover 60 is not below 50"

    def test_what_would_have_saved_it(self) -> None:
        scenes = [landsat(FEB + timedelta(days=8 * n), 51.13 + n) for n in range(5)] + [landsat(MAY, 1)]
        with pytest.raises(Skipped) as caught:
            self.choose(scenes)
        assert caught.value.reason == (
            "lc2l2: no scene for 2023-01-01/2023-03-31 (5 found, 5 over cloud_cover 50; 51.2 would admit one)"
        )
        assert len(caught.value.scenes_seen) == 6

    def test_the_path_that_covers_best_wins(self) -> None:
        scenes = [landsat(t, 30, "192") for t in self.ANCHORS]
        scenes += [landsat(t, 0, "193", geometry=HALF) for t in self.ANCHORS]
        assert self.choose(scenes).group == "192"


def config_of_sentinel_2(*ranges: TimeRange) -> Config:
    return Config.model_validate(
        {
            "dataset": {"version": "t"},
            "aoi": {"path": "a.geojson"},
            "directory": {"working": "w", "output": "o"},
            "sensors": {
                "s2l2a": Sentinel2Config(time_ranges=tuple(map(str, ranges))),
                "lulc": LandCoverConfig(year="2023-01-02/2023-12-31"),
            },
        }
    )


def test_footprints_that_share_nothing_are_a_skip() -> None:
    """With aoi.extent: overlap, the ground that two dates share is the target of all other sensors."""
    grids = [utm_geobox(32633, (left, 5_490_000, left + 3840, 5_493_840), 10) for left in (300_000, 303_840)]
    items = [sentinel2_item(grid, when) for grid, when in zip(grids, (FEB, MAY), strict=True)]
    aoi = Aoi(0, union_all([shape(item["geometry"]) for item in items]).envelope)
    with pytest.raises(Skipped, match=r"the chosen scenes share no ground; use aoi.extent: aoi"):
        plan_aoi(aoi, config_of_sentinel_2(Q1, Q2), FileCatalog(items))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("datetime", "soon"),
        ("s2:processing_baseline", None),
    ],
)
def test_a_bad_item_is_recorded_with_its_reason_and_stops_nothing(name: str, value: object) -> None:
    grid = utm_geobox(32633, (300_000, 5_490_000, 303_840, 5_493_840), 10)
    good, bad = sentinel2_item(grid, FEB, cloud_cover=9.0), sentinel2_item(grid, FEB, cloud_cover=1.0)
    bad |= {"id": "bad", "properties": {**bad["properties"], name: value}}
    land = lulc_item(grid)
    aoi = Aoi(0, shape(good["geometry"]))
    plan = plan_aoi(aoi, config_of_sentinel_2(Q1), FileCatalog([good, bad, land]))
    lost = next(one for one in plan.scenes_seen if one.id == "bad")
    assert not lost.chosen
    assert "item bad: " in lost.reason


@pytest.mark.parametrize(
    ("fact", "words"),
    [
        ("eo:cloud_cover", "how cloudy is not known"),
        ("s2:nodata_pixel_percentage", "how much is without data is not known"),
    ],
)
def test_a_scene_that_does_not_say_what_it_is_chosen_by_is_the_last_choice_and_told(
    caplog: pytest.LogCaptureFixture, fact: str, words: str
) -> None:
    grid = utm_geobox(32633, (300_000, 5_490_000, 303_840, 5_493_840), 10)
    known, unknown = (sentinel2_item(grid, FEB + timedelta(days=day), cloud_cover=29.0) for day in (0, 5))
    unknown["properties"]["eo:cloud_cover"] = 1.0
    del unknown["properties"][fact]
    aoi, land = Aoi(0, shape(known["geometry"])), lulc_item(grid)
    for items, chosen in (([known, unknown, land], known), ([unknown, land], unknown)):
        plan = plan_aoi(aoi, config_of_sentinel_2(Q1), FileCatalog(items))
        assert [scene.id for scene in plan.sensor("s2l2a").scenes] == [chosen["id"]]
        assert (words in caplog.text) == (chosen is unknown)
        assert caplog.text.count("not known") == (chosen is unknown)


def test_a_skip_tells_of_items_that_could_not_be_used() -> None:
    grid = utm_geobox(32633, (300_000, 5_490_000, 303_840, 5_493_840), 10)
    good, bad = (sentinel2_item(grid, when) for when in (FEB, MAY))
    del bad["assets"]["B05"]
    with pytest.raises(Skipped) as caught:
        plan_aoi(Aoi(0, shape(good["geometry"])), config_of_sentinel_2(Q1, Q2), FileCatalog([good, bad]))
    assert caught.value.reason == (
        "s2l2a: no scene for 2023-04-01/2023-06-30 (0 found); beside these 1 found, 1 unusable: "
        "no asset 'B05'"
    )


def test_items_of_another_profile_are_recognised() -> None:
    grid = utm_geobox(32633, (300_000, 5_490_000, 303_840, 5_493_840), 10)
    item = sentinel2_item(grid, FEB)
    keys = PROFILES["earth-search"].sensor("s2l2a").assets
    item["assets"] = {keys[name]: asset for name, asset in item["assets"].items() if name in keys}
    with pytest.raises(UnusableError) as caught:
        plan_aoi(Aoi(0, shape(item["geometry"])), config_of_sentinel_2(Q1), FileCatalog([item]))
    assert str(caught.value) == (
        "s2l2a: sentinel-2-l2a: 1 found, 1 unusable: no asset 'B01'; they are as the profile earth-search "
        f"has them: set s2l2a.catalog (item {item['id']})"
    )


def test_items_of_another_platform_may_lack_anything() -> None:
    grid = utm_geobox(32633, (300_000, 5_490_000, 303_840, 5_493_840), 10)
    sections = {
        "lc2l2": LandsatConfig(time_ranges=(str(Q1),)),
        "lulc": LandCoverConfig(year="2023-01-02/2023-12-31"),
    }
    config = config_of_sentinel_2(Q1).model_copy(update={"sensors": sections})
    items = [
        landsat_item(grid, FEB, platform="landsat-8"),
        landsat_item(grid, FEB, platform="landsat-7"),  # has no coastal band
        lulc_item(grid),
    ]
    plan = plan_aoi(Aoi(0, shape(items[0]["geometry"])), config, FileCatalog(items))
    assert reasons(plan.scenes_seen) == {items[1]["id"]: "platform landsat-7"}


class TestPeriod:
    def year(self, year: int) -> Scene:
        start, end = datetime(year, 1, 1, tzinfo=UTC), datetime(year + 1, 1, 1, tzinfo=UTC)
        return Scene(f"33U-{year}", "c", start, start, end, WHOLE, {}, {}, "")

    @pytest.mark.parametrize("period", ["2023-01-01/2023-12-31", "2023-01-02/2023-12-31"])
    def test_neighbouring_years_that_only_touch_are_left_out(self, period: str) -> None:
        choice = choose_period("lulc", [self.year(y) for y in (2024, 2022, 2023)], TimeRange.parse(period))
        assert ids(choice) == [["33U-2023"]]

    def test_all_tiles_in_order(self) -> None:
        tiles = [scene(datetime(2021, 4, 22, tzinfo=UTC), name=name) for name in ("N50", "N49")]
        choice = choose_period("dem", tiles, TimeRange.parse("2021-01-02/2021-12-31"))
        assert ids(choice) == [["N49", "N50"]]

    def test_nothing_is_said(self) -> None:
        with pytest.raises(Skipped, match="lulc: no item for 2023-01-01/2023-12-31 touches the extent"):
            choose_period("lulc", [], TimeRange.parse("2023-01-01/2023-12-31"))
