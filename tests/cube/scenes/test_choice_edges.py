"""Scene choice where a rule has an edge: each case is a few made-up items on either side of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from shapely import Point, box
from shapely.geometry.base import BaseGeometry
from test_scenes import FEB, HALF, MAY, Q1, Q2, TARGET, WHOLE, ids, landsat, reasons, s1, s2, scene

from cube.config.fields import TimeRange
from cube.config.sensor_models import LandsatConfig, Sentinel1Config, Sentinel2Config
from cube.scenes.acquisition import Rejection
from cube.scenes.choose import SensorChoice, choose_orbit, choose_path, choose_period, choose_tile
from cube.scenes.explain import SceneOutcome, Skipped
from cube.scenes.items import Scene

DAY, SECOND = timedelta(days=1), timedelta(seconds=1)
NORTH, SOUTH = box(11.5, 50.05, 12.5, 51), box(11.5, 49, 12.5, 50.05)
FAR = box(20, 50, 21, 51)


def covering(share: float) -> BaseGeometry:
    """Return a footprint over so much of the target, from its west on."""
    return box(11.5, 49.5, 12 + 0.1 * share, 50.5)


def tile(scenes: Sequence[Scene], ranges: Sequence[TimeRange] = (Q1, Q2), **settings: Any) -> SensorChoice:
    return choose_tile(scenes, Sentinel2Config(**settings), ranges, TARGET)


def orbit(scenes: Sequence[Scene], **settings: Any) -> SensorChoice:
    return choose_orbit(scenes, Sentinel1Config(**settings), (Q1, Q2), TARGET, (FEB, MAY))


def path(scenes: Sequence[Scene], **settings: Any) -> SensorChoice:
    return choose_path(scenes, LandsatConfig(**settings), (Q1, Q2), TARGET, (FEB, MAY))


def skipped(choose: Any, scenes: Sequence[Scene], **settings: Any) -> str:
    with pytest.raises(Skipped) as caught:
        choose(scenes, **settings)
    return caught.value.reason


# ---------------------------------------------------------------- overpasses


@pytest.mark.parametrize(
    ("gap", "passes"), [(timedelta(minutes=10), 1), (timedelta(minutes=10, seconds=1), 2)]
)
def test_slices_within_ten_minutes_are_one_pass(gap: timedelta, passes: int) -> None:
    choice = orbit([s1(FEB, 44, NORTH, "n"), s1(FEB + gap, 44, SOUTH, "s"), s1(MAY, 44)])
    assert ids(choice)[0] == ["n", "s"][: 3 - passes]
    assert choice.acquisitions[0].coverage == pytest.approx(1 / passes, abs=0.01)


def test_ten_minutes_are_counted_from_slice_to_slice() -> None:
    slices = [s1(FEB + timedelta(minutes=8 * n), 44, WHOLE, f"slice{n}") for n in range(3)]
    assert ids(orbit([*slices, s1(MAY, 44)]))[0] == ["slice0", "slice1", "slice2"]


def test_slices_of_two_satellites_are_two_passes() -> None:
    other = scene(FEB + SECOND, SOUTH, "b", **{"sat:relative_orbit": 44, "platform": "SENTINEL-1B"})
    assert ids(orbit([s1(FEB, 44, NORTH, "a"), other, s1(MAY, 44)]))[0] == ["a"]


def test_a_scene_beside_the_target_is_none_of_its_pass() -> None:
    choice = orbit([s1(FEB, 44, WHOLE, "here"), s1(FEB + SECOND, 44, FAR, "beside"), s1(MAY, 44)])
    assert ids(choice)[0] == ["here"]
    assert skipped(orbit, [s1(FEB, 44, FAR), s1(MAY, 44)]) == (
        "s1rtc: no scene for 2023-01-01/2023-03-31 (0 found)"
    )


def test_cloud_cover_of_rows_is_weighted_by_what_they_see_of_the_target() -> None:
    quarter, rest = box(11.5, 50.075, 12.5, 51), box(11.5, 49, 12.5, 50.075)
    rows = [landsat(FEB, 40, geometry=quarter), landsat(FEB + SECOND, 0, geometry=rest), landsat(MAY, 1)]
    one = path(rows).acquisitions[0]
    assert one.cloud_cover == pytest.approx(10, abs=0.05)
    assert (one.tier, one.nodata, one.name) == (1, 0, "2023-02-10")


def test_equal_cloud_covers_have_exactly_that_mean() -> None:
    """A sum of thirds might be above a limit that each of them is below."""
    rows = [landsat(FEB + n * SECOND, 49.9, geometry=one) for n, one in enumerate((NORTH, SOUTH, WHOLE))]
    assert path([*rows, landsat(MAY, 1)]).acquisitions[0].cloud_cover == 49.9


def test_a_pass_that_touches_the_target_alone_has_its_cloud_cover() -> None:
    edge = box(12.1, 49, 13, 51)
    scenes = [landsat(FEB, 7, geometry=edge), landsat(MAY, 1)]
    assert path(scenes).acquisitions[0].cloud_cover == 7


# ---------------------------------------------------------------- Sentinel-2: twins, halves, limits

TWIN = {"s2:datatake_id": "GS2A_20230210T100000_039902_N05.09", "s2:processing_baseline": "05.09"}


@pytest.mark.parametrize(("shared", "kept"), [(0.45, ["a", "b"]), (0.55, ["b"])])
def test_copies_share_more_than_half_of_the_smaller_one(shared: float, kept: list[str]) -> None:
    large, small = box(11, 49, 12.04, 51), box(12.04 - 0.1 * shared, 50, 12.14 - 0.1 * shared, 50.1)
    twins = [
        s2(FEB, 1, geometry=large, nodata=50, name="a", **TWIN),
        s2(FEB, 1, geometry=small, nodata=50, name="b", **TWIN),
    ]
    choice = tile([*twins, s2(MAY, 1)], nodata_pixel_percentage=60)
    assert ids(choice)[0] == kept


def test_two_that_share_exactly_half_are_halves() -> None:
    large, small = box(11, 49, 12.0625, 51), box(12, 50, 12.125, 50.125)  # powers of two: no rounding
    twins = [
        s2(FEB, 1, geometry=one, nodata=50, name=name, **TWIN) for name, one in (("a", large), ("b", small))
    ]
    assert ids(tile([*twins, s2(MAY, 1)], nodata_pixel_percentage=60))[0] == ["a", "b"]


def test_two_datatakes_of_one_tile_are_no_twins() -> None:
    later = {**TWIN, "s2:datatake_id": "GS2A_20230215T100000_039973_N05.09"}
    scenes = [s2(FEB, 3, name="a", **TWIN), s2(FEB + 5 * DAY, 9, name="b", **later), s2(MAY, 1)]
    choice = tile(scenes)
    assert ids(choice)[0] == ["a"]
    assert reasons(choice.scenes_seen) == {"b": "a is less cloudy"}


def test_of_footprints_without_an_area_one_is_kept() -> None:
    twins = [s2(FEB, 1, geometry=Point(12.05, 50.05), name=name, **TWIN) for name in ("a", "b")]
    assert ids(tile([*twins, s2(MAY, 1)]))[0] == ["b"]


def test_both_halves_of_the_newest_processing_replace_the_old() -> None:
    old = s2(FEB, 1, name="old", **{**TWIN, "s2:processing_baseline": "04.00"})
    west, east = box(11.5, 49.5, 12.05, 50.5), box(12.04, 49.5, 12.5, 50.5)
    halves = [
        s2(FEB, 1, geometry=half, nodata=50, name=name, **TWIN) for name, half in (("w", west), ("e", east))
    ]
    choice = tile([old, *halves, s2(MAY, 1)])
    assert ids(choice)[0] == ["e", "w"]
    assert reasons(choice.scenes_seen) == {"old": "w is a newer processing of the same datatake"}


def test_of_one_baseline_the_later_processing_wins() -> None:
    twins = [
        s2(FEB, 1, name=name, **TWIN, **{"s2:generation_time": f"2023-0{month}-01T00:00:00Z"})
        for name, month in (("b", 3), ("a", 5))
    ]
    assert ids(tile([*twins, s2(MAY, 1)]))[0] == ["a"]


def test_without_a_datatake_platform_and_second_stand_for_it() -> None:
    more = {"platform": "Sentinel-2A"}
    same = [s2(FEB, 1, name="a", **more), s2(FEB, 1, name="b", **more), s2(MAY, 1)]
    assert ids(tile(same))[0] == ["b"]
    apart = [s2(FEB, 1, name="a", **more), s2(FEB + SECOND, 1, name="b", **more), s2(MAY, 1)]
    choice = tile(apart)
    assert ids(choice)[0] == ["a"]
    assert reasons(choice.scenes_seen) == {"b": "a is less cloudy"}  # or as cloudy, and earlier


@pytest.mark.parametrize(("nodata", "taken"), [((60, 44), True), ((60, 45), False), ((40, 40), True)])
def test_what_halves_lack_is_counted_together(nodata: tuple[int, int], taken: bool) -> None:
    west, east = box(11.5, 49.5, 12.05, 50.5), box(12.04, 49.5, 12.5, 50.5)
    halves = [
        s2(FEB, 1, geometry=half, nodata=share, name=str(n), **TWIN)
        for n, (half, share) in enumerate(zip((west, east), nodata, strict=True))
    ]
    scenes = [*halves, s2(MAY, 1)]
    if taken:
        lacking = max(sum(nodata) - 100, 0)
        assert tile(scenes, nodata_pixel_percentage=5).acquisitions[0].nodata == lacking
    else:
        said = skipped(tile, scenes, nodata_pixel_percentage=5)
        assert "(2 found, 2 over nodata_pixel_percentage 5; 5.1 would admit one)" in said


def test_an_item_that_says_nothing_of_nodata_lacks_nothing_and_is_the_last_choice() -> None:
    silent = scene(FEB, WHOLE, "a", **{"eo:cloud_cover": 1, "s2:mgrs_tile": "33UUR"})
    assert tile([silent], (Q1,), nodata_pixel_percentage=0.5).acquisitions[0].nodata == 0
    assert ids(tile([silent, s2(FEB, 20, name="b")], (Q1,), nodata_pixel_percentage=0.5)) == [["b"]]


def test_both_ends_of_a_range_belong_to_it() -> None:
    scenes = [s2(Q1.start, 1, name="first"), s2(Q2.end, 1, name="last")]
    assert ids(tile(scenes)) == [["first"], ["last"]]
    assert ids(tile([s2(Q1.end, 1, name="first"), s2(Q2.start, 1, name="last")])) == [["first"], ["last"]]
    beyond = [s2(Q1.start - SECOND, 1, name="x"), s2(FEB, 1), s2(MAY, 1), s2(Q2.end + SECOND, 1, name="y")]
    lost = reasons(tile(beyond).scenes_seen)
    assert lost == {"x": "outside every time range", "y": "outside every time range"}


def test_a_loser_at_an_end_of_a_range_is_of_that_range() -> None:
    lost = reasons(
        tile(
            [s2(Q1.start, 9, name="x"), s2(FEB, 1, name="a"), s2(MAY, 1), s2(Q2.end, 9, name="y")]
        ).scenes_seen
    )
    assert lost["x"] == "a is less cloudy"
    assert lost["y"].endswith(" is less cloudy")


# ---------------------------------------------------------------- groups


@pytest.mark.parametrize(("share", "winner"), [(0.99502, "33UTR"), (0.99497, "33UUR")])
def test_tiles_that_cover_the_same_to_the_percent_differ_by_cloud(share: float, winner: str) -> None:
    """99.5 % and more is as much as all of it; then the less cloudy tile wins."""
    scenes = [s2(t, 20, "33UUR") for t in (FEB, MAY)]
    scenes += [s2(t, 1, "33UTR", covering(share)) for t in (FEB, MAY)]
    assert tile(scenes, cloud_cover=30).group == winner


def test_the_date_that_covers_least_speaks_for_its_tile() -> None:
    scenes = [s2(FEB, 1, "33UTR"), s2(MAY, 1, "33UTR", covering(0.6))]
    scenes += [s2(t, 20, "33UUR", covering(0.7)) for t in (FEB, MAY)]
    choice = tile(scenes, cloud_cover=30)
    assert choice.group == "33UUR"
    assert set(reasons(choice.scenes_seen).values()) == {"tile 33UUR covers 70 % of the target, 33UTR 60 %"}


def test_mean_cloud_is_that_of_all_ranges() -> None:
    clouds = {"33UTR": (1, 21), "33UUR": (10, 11)}
    scenes = [
        s2(t, cloud, name) for name, both in clouds.items() for t, cloud in zip((FEB, MAY), both, strict=True)
    ]
    choice = tile(scenes, cloud_cover=30)
    assert choice.group == "33UUR"
    assert set(reasons(choice.scenes_seen).values()) == {
        "tile 33UUR covers as much (100 %) and is less cloudy on average"
    }


def test_of_orbits_that_cover_as_much_the_one_nearer_in_time_wins() -> None:
    days = {95: (3, 4), 44: (1, 5)}
    scenes = [
        s1(t + n * DAY, number)
        for number, both in days.items()
        for t, n in zip((FEB, MAY), both, strict=True)
    ]
    choice = orbit(scenes)
    assert choice.group == "044"
    assert set(reasons(choice.scenes_seen).values()) == {
        "orbit 044 covers as much (100 %) and is nearer in time"
    }


def test_of_paths_that_cover_as_much_the_less_cloudy_wins() -> None:
    clouds = {"192": (10, 11), "193": (1, 18)}
    scenes = [
        landsat(t, cloud, name)
        for name, both in clouds.items()
        for t, cloud in zip((FEB, MAY), both, strict=True)
    ]
    choice = path(scenes)
    assert choice.group == "193"
    assert set(reasons(choice.scenes_seen).values()) == {
        "path 193 covers as much (100 %) and is less cloudy on average"
    }


# ---------------------------------------------------------------- preferences within a group


@pytest.mark.parametrize(("share", "first"), [(0.96, "part"), (0.94, "whole"), (0.84, "whole")])
def test_a_tenth_of_the_target_weighs_more_than_time_or_cloud(share: float, first: str) -> None:
    passes = [s1(FEB, 44, covering(share), "part"), s1(FEB + DAY, 44, WHOLE, "whole"), s1(MAY, 44)]
    assert ids(orbit(passes))[0] == [first]
    dates = [
        landsat(FEB, 1, geometry=covering(share), name="part"),
        landsat(FEB + DAY, 9, name="whole"),
        landsat(MAY, 1),
    ]
    assert ids(path(dates))[0] == [first]


def test_of_passes_that_see_the_same_the_nearest_wins_before_or_after_the_anchor() -> None:
    scenes = [s1(FEB - 2 * DAY, 44, name="before"), s1(FEB + 3 * DAY, 44, name="after"), s1(MAY, 44)]
    choice = orbit(scenes)
    assert ids(choice)[0] == ["before"]
    assert reasons(choice.scenes_seen) == {"after": "before is nearer in time, or covers more"}
    equal = [s1(FEB - 2 * DAY, 44, name="z"), s1(FEB + 2 * DAY, 44, name="a"), s1(MAY, 44)]
    assert ids(orbit(equal))[0] == ["z"]  # the earlier


def test_equally_cloudy_scenes_go_by_time_then_by_name() -> None:
    assert ids(tile([s2(FEB + DAY, 3, name="a"), s2(FEB, 3, name="b")], (Q1,))) == [["b"]]
    one, two = (s2(FEB, 3, name=name, platform=platform) for name, platform in (("b", "S2A"), ("a", "S2B")))
    assert ids(tile([one, two], (Q1,))) == [["a"]]


def test_tracks_have_three_digits() -> None:
    assert path([landsat(t, 1, "23") for t in (FEB, MAY)]).group == "023"
    assert orbit([s1(t, 7) for t in (FEB, MAY)]).group == "007"


def test_a_tier_that_is_not_said_comes_after_the_first_and_before_the_second() -> None:
    silent = landsat(FEB + DAY, 0, name="silent")
    silent = replace(silent, properties={k: v for k, v in silent.properties.items() if "category" not in k})
    first, second = landsat(FEB, 40, name="first"), landsat(FEB + 2 * DAY, 0, tier="T2", name="second")
    for scenes, chosen in (([first, silent, second], "first"), ([silent, second], "silent")):
        assert ids(path([*scenes, landsat(MAY, 0)]))[0] == [chosen]


def test_tiers() -> None:
    choice = path([landsat(FEB, 0, tier="T2"), landsat(FEB + DAY, 40), landsat(MAY, 0, tier="T2")])
    assert [one.tier for one in choice.acquisitions] == [1, 2]
    assert "is of a better tier, covers more, or is less cloudy" in "".join(
        reasons(choice.scenes_seen).values()
    )


def test_ranking_over_the_aoi_looks_into_the_range_and_at_what_is_eligible_alone() -> None:
    asked: list[str] = []

    def clear_share(one: Any) -> float:
        asked.append(one.name)
        return 0.5

    scenes = [
        s2(Q1.start - SECOND, 1, name="early"),
        s2(Q1.start, 4, name="start"),
        s2(FEB, 40, name="cloudy"),
        s2(Q1.end, 3, name="end"),
        s2(Q1.end + SECOND, 1, name="late"),
    ]
    choice = choose_tile(scenes, Sentinel2Config(cloud_cover=30), (Q1,), TARGET, clear_share)
    assert asked == ["end", "start"]
    assert ids(choice) == [["end"]]  # equally clear: the less cloudy
    assert reasons(choice.scenes_seen)["start"] == "end is clearer over the AOI"


# ---------------------------------------------------------------- limits, and what is said of them


@pytest.mark.parametrize("choose", [orbit, path])
def test_a_day_has_86400_seconds(choose: Any) -> None:
    def one(when: datetime) -> Scene:
        return s1(when, 44) if choose is orbit else landsat(when, 1)

    for side in (1, -1):
        assert ids(choose([one(FEB + side * 12 * DAY), one(MAY)], delta_days=12))
        said = skipped(choose, [one(FEB + side * (12 * DAY + 5 * SECOND)), one(MAY)], delta_days=12)
        assert "(1 found, 1 over delta_days 12; 12.1 would admit one)" in said
    with pytest.raises(Skipped) as caught:
        choose([one(FEB + 13 * DAY), one(MAY)], delta_days=12)
    assert "delta_days 13 is more than 12" in reasons(caught.value.scenes_seen).values()


def test_a_landsat_scene_at_the_cloud_limit_is_over_it() -> None:
    at_the_limit = landsat(Q1.start, 50, name="limit")
    said = skipped(path, [at_the_limit, landsat(Q1.end, 51.04), landsat(MAY, 1)], cloud_cover=50)
    assert "no scene for 2023-01-01/2023-03-31 (2 found, 2 over cloud_cover 50; 50.1 would admit one)" in said
    below = landsat(FEB, 49.99, name="below")
    choice = path([at_the_limit, below, landsat(MAY, 1)], cloud_cover=50)
    assert ids(choice)[0] == ["below"]
    lost = next(one for one in choice.scenes_seen if one.id == "limit")
    assert (lost.group, lost.reason, lost.chosen) == ("192", "cloud_cover 50 is not below 50", False)


def test_scenes_over_the_limit_beside_a_range_are_none_of_it() -> None:
    scenes = [landsat(Q1.start - SECOND, 60), landsat(Q1.end + SECOND, 60), landsat(MAY, 1)]
    assert "2023-01-01/2023-03-31 (0 found)" in skipped(path, scenes, cloud_cover=50)


def test_what_was_found_is_counted_in_scenes() -> None:
    far = FEB + 20 * DAY
    scenes = [s1(far, 44, NORTH), s1(far + SECOND, 44, SOUTH), s1(MAY, 44)]
    assert "(2 found, 2 over delta_days 12; 20 would admit one)" in skipped(orbit, scenes, delta_days=12)


@pytest.mark.parametrize(
    ("value", "strict", "admits"),
    [
        (30, True, 30.1),
        (30.04, True, 30.1),
        (30.1, True, 30.2),
        (12.01, False, 12.1),
        (13, False, 13),
        (0, True, 0.1),
    ],
)
def test_the_limit_that_would_admit_is_the_smallest_of_one_decimal(
    value: float, strict: bool, admits: float
) -> None:
    rejection = Rejection("cloud_cover", value, 12, strict)
    assert rejection.admits == admits
    assert rejection.reason == f"cloud_cover {value:.4g} is {'not below' if strict else 'more than'} 12"


def test_the_group_that_is_nearest_to_complete_is_spoken_of() -> None:
    """Two ranges are missing in one tile, one in the other; of one range nothing was seen at all in a third."""
    ranges = tuple(TimeRange.parse(f"2023-0{month}-01/2023-0{month}-28") for month in (1, 2, 3))
    days = [datetime(2023, month, 10, 10, tzinfo=UTC) for month in (1, 2, 3)]
    scenes = [
        s2(days[0], 1, "33UAA"),
        *(s2(day, 60, "33UAA") for day in days[1:]),  # lacks two
        *(s2(day, 1, "33UBB") for day in days[:2]),  # lacks one, of which nothing was seen
        *(s2(day, 1, "33UCC", covering(0.8)) for day in days[1:]),  # lacks one
        s2(days[0], 55, "33UCC"),
        s2(days[0] + DAY, 45, "33UCC"),
        *(s2(day, 1, "33UDD", covering(0.7)) for day in days[1:]),  # lacks one, and covers less
        s2(days[0], 31, "33UDD"),
    ]
    with pytest.raises(Skipped) as caught:
        tile(scenes, ranges, cloud_cover=30)
    assert caught.value.reason == (
        "s2l2a: no tile has a scene for every range (33UAA lacks 2023-02-01/2023-02-28, "
        "33UBB lacks 2023-03-01/2023-03-28, 33UCC lacks 2023-01-01/2023-01-28, "
        "33UDD lacks 2023-01-01/2023-01-28); "
        "33UCC, 2023-01-01/2023-01-28: 2 found, 2 over cloud_cover 30; 45.1 would admit one"
    )
    assert len(caught.value.scenes_seen) == len(scenes)
    lost = reasons(caught.value.scenes_seen)
    assert set(lost.values()) >= {"tile 33UAA has nothing for 2023-02-01/2023-02-28"}


def test_two_ranges_that_are_missing_are_both_spoken_of() -> None:
    ranges = tuple(TimeRange.parse(f"2023-0{month}-01/2023-0{month}-28") for month in (1, 2, 3))
    days = [datetime(2023, month, 10, 10, tzinfo=UTC) for month in (1, 2, 3)]
    scenes = [s2(days[0], 1, "33UAA"), s2(days[1], 60, "33UAA"), s2(days[2], 70, "33UAA")]
    scenes += [s2(day, 1, "33UBB") for day in days[1:]]  # of the first nothing was seen
    with pytest.raises(Skipped) as caught:
        tile(scenes, ranges, cloud_cover=30)
    assert caught.value.reason.endswith(
        "33UAA, 2023-02-01/2023-02-28: 1 found, 1 over cloud_cover 30; 60.1 would admit one; "
        "33UAA, 2023-03-01/2023-03-28: 1 found, 1 over cloud_cover 30; 70.1 would admit one"
    )


def test_the_first_range_of_which_nothing_is_left_is_named() -> None:
    assert skipped(tile, [s2(FEB, 1), s2(MAY, 60)], cloud_cover=30) == (
        "s2l2a: no scene for 2023-04-01/2023-06-30 (1 found, 1 over cloud_cover 30; 60.1 would admit one)"
    )


def test_limits_of_two_kinds_are_counted_apart() -> None:
    scenes = [s2(FEB, 40), s2(FEB + DAY, 50), s2(FEB + 2 * DAY, 1, nodata=80), s2(MAY, 1)]
    assert skipped(tile, scenes, cloud_cover=30, nodata_pixel_percentage=5) == (
        "s2l2a: no scene for 2023-01-01/2023-03-31 (3 found, 2 over cloud_cover 30; 40.1 would admit one, "
        "1 over nodata_pixel_percentage 5; 80.1 would admit one)"
    )


def test_a_scene_at_the_nodata_limit_is_over_it() -> None:
    scenes = [s2(FEB, 1, nodata=5), s2(MAY, 1)]
    assert "1 over nodata_pixel_percentage 5; 5.1 would" in skipped(tile, scenes, nodata_pixel_percentage=5)


# ---------------------------------------------------------------- periods and records


@pytest.mark.parametrize(
    ("start", "end", "within"),
    [
        ("2021-01-02", "2021-01-02", True),  # instants: both ends count
        ("2021-12-31T23:59:59", "2021-12-31T23:59:59", True),
        ("2021-01-01T23:59:59", "2021-01-01T23:59:59", False),
        ("2022-01-01", "2022-01-01", False),
        ("2020-01-01", "2021-01-02", False),  # spans: an instant is not enough
        ("2020-01-01", "2021-01-02T00:00:01", True),
        ("2021-12-31T23:59:58", "2023-01-01", True),
        ("2022-01-01", "2023-01-01", False),
    ],
)
def test_an_item_of_a_layer_without_dates_shares_time_with_its_period(
    start: str, end: str, within: bool
) -> None:
    begun, ended = (datetime.fromisoformat(text).replace(tzinfo=UTC) for text in (start, end))
    item = Scene("it", "c", begun, begun, ended, WHOLE, {}, {}, "")
    sure = scene(datetime(2021, 6, 1, tzinfo=UTC), name="sure")
    choice = choose_period("dem", [item, sure], TimeRange.parse("2021-01-02/2021-12-31"))
    assert sorted(s.id for s in choice.acquisitions[0].scenes) == ["it", "sure"][0 if within else 1 :]
    record = next(one for one in choice.scenes_seen if one.id == "it")
    assert (record.chosen, record.reason) == (within, "" if within else "not within 2021-01-02/2021-12-31")
    assert SceneOutcome.from_json(record.to_json()) == record
    [whole] = choice.acquisitions
    assert (whole.coverage, whole.cloud_cover, whole.nodata, whole.tier) == (1, 0, 0, 1)


def test_a_span_that_begins_where_the_period_ends_shares_an_instant_alone() -> None:
    period = TimeRange.parse("2021-01-02/2021-12-31")
    after = Scene("after", "c", period.end, period.end, period.end + DAY, WHOLE, {}, {}, "")
    with pytest.raises(Skipped, match="no item"):
        choose_period("dem", [after], period)


def test_an_acquisition_sees_what_its_scenes_see_together() -> None:
    one = orbit(
        [s1(FEB, 44, NORTH, "n"), s1(FEB + SECOND, 44, SOUTH, "s"), s1(MAY, 44, HALF, "may")]
    ).acquisitions
    assert one[0].footprint.equals(NORTH.union(SOUTH))
    assert one[1].footprint.equals(HALF)
    assert [a.name for a in one] == ["2023-02-10", "may"]
