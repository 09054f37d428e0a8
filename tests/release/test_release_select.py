"""Clean, balance, split, number: pure functions over tables."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyproj import Geod, Transformer
from release_landscape import Land, write_config

from chipping.choose import drop_counts
from cube.config.fields import TimeRange
from cube.errors import ConfigError
from cube.lots import lot
from release.opening.faults import ReleaseError
from release.select import balance, clean, dates_fit, number, select
from release.splits import NO_SPLIT, split

BLOCK, SIDE = 9600, 960


def windows(counts: dict[int, int], aois: int = 4, epsg: int = 32632, step: int = 960) -> pd.DataFrame:
    """Successful windows, in a raster 40 wide, AOI by AOI."""
    classes = [code for code, count in sorted(counts.items()) for _ in range(count)]
    np.random.default_rng(1).shuffle(classes)
    index = np.arange(len(classes))
    left, top = 499_200 + (index % 40) * step, 5_040_000 - (index // 40) * step
    return pd.DataFrame(
        {
            "chip_index": index,
            "aoi_index": index * aois // max(len(classes), 1),
            "cell": [f"{epsg}_{x}_{y}" for x, y in zip(left, top, strict=True)],
            "lulc": classes,
            "epsg": epsg,
            "left_m": left,
            "top_m": top,
            "status": "success",
            "s2l2a_dates": "20230115,20230510",
        }
    )


@given(st.dictionaries(st.integers(1, 11), st.integers(1, 5000), min_size=1), st.integers(1, 12))
def test_after_the_drop_the_largest_is_at_most_factor_times_the_smallest(
    counts: dict[int, int], factor: int
) -> None:
    drops = drop_counts(counts, factor)
    after = {code: count - drops[code] for code, count in counts.items()}
    assert max(after.values()) <= factor * min(after.values())
    assert min(after.values()) == min(counts.values())
    assert all(0 <= drops[code] < counts[code] for code in counts)
    order = sorted(counts, key=lambda code: counts[code])
    assert all(after[a] <= after[b] for a, b in itertools.pairwise(order))


@given(st.dictionaries(st.integers(1, 11), st.integers(1, 5000), min_size=2), st.integers(1, 12))
def test_the_drop_is_gelos_rule(counts: dict[int, int], factor: int) -> None:
    largest, smallest = max(counts.values()), min(counts.values())
    for code, drop in drop_counts(counts, factor).items():
        if largest <= factor * smallest:
            assert drop == 0
        else:
            gelos = (largest - factor * smallest) / (largest - smallest) * (counts[code] - smallest)
            assert abs(drop - gelos) < 1 + 1e-6
            assert drop <= gelos + 1e-6


def test_no_rounding_where_floats_would() -> None:
    assert drop_counts({1: 10**15 + 3, 2: 1}, 1) == {1: 10**15 + 2, 2: 0}
    assert drop_counts({1: 7, 2: 0}, 3) == {1: 0, 2: 0}


def test_balance_does_not_depend_on_the_order_of_rows() -> None:
    table = windows({1: 40, 2: 200, 5: 90})
    kept = set(balance(table, 2, 0)["cell"])
    shuffled = table.sample(frac=1, random_state=3).reset_index(drop=True)
    assert set(balance(shuffled, 2, 0)["cell"]) == kept
    assert set(balance(table, 2, 1)["cell"]) != kept
    assert Counter(balance(table, 2, 0)["lulc"]) == {1: 40, 2: 80, 5: 90 - 120 * 50 // 160}


def test_balance_takes_from_the_aoi_that_has_most() -> None:
    table = windows({1: 12, 2: 103}, aois=1)
    table["aoi_index"] = [0] * 100 + [1] * 10 + [2] * 5
    kept = balance(table, 1, 0)
    left = Counter(kept.loc[kept["lulc"] == 2, "aoi_index"])
    had = Counter(table.loc[table["lulc"] == 2, "aoi_index"])
    assert sum(left.values()) == 12
    assert all(
        left[aoi] == min(had[aoi], max(left.values())) or left[aoi] >= max(left.values()) - 1 for aoi in had
    )


def test_numbers_follow_chip_index() -> None:
    table = windows({1: 9}).sample(frac=1, random_state=0)
    numbered = number(table)
    assert numbered["id"].tolist() == list(range(9))
    assert numbered["chip_index"].is_monotonic_increasing
    assert list(numbered) == [*table, "id"]


def test_clean_says_why_a_row_went(tmp_path: Path) -> None:
    config = write_config(tmp_path, Land({1: 1, 2: 1}, sensors=("s2l2a", "lulc")))
    table = windows({1: 6})
    table.loc[0, "status"] = "impure"
    table.loc[1, "lulc"] = 7
    table.loc[2, "s2l2a_dates"] = "20230115"
    table.loc[3, "s2l2a_dates"] = "20230510,20230115"
    table.loc[4, "s2l2a_dates"] = "20230115,20230710"
    kept, reasons = clean(table, config)
    assert kept["chip_index"].tolist() == [5]
    assert Counter(reasons) == {"impure": 1, "class_excluded": 1, "s2l2a_dates": 3}
    with pytest.raises(ReleaseError, match=r"no chip is left to release \(5 impure"):
        clean(table.drop(5).assign(status="impure"), config)
    with pytest.raises(ReleaseError, match="cell 32632_499200_5040000 is there twice"):
        clean(pd.concat([windows({1: 6}), windows({1: 1}).assign(chip_index=99)], ignore_index=True), config)


def test_a_class_without_chips(tmp_path: Path) -> None:
    land = Land({1: 1, 2: 1, 5: 1}, sensors=("s2l2a", "lulc"))
    table = windows({1: 4, 2: 9})
    only_warned = select(table, write_config(tmp_path, land))
    assert only_warned.warnings == ("chips.classes: no chip of class 5",)
    with pytest.raises(ReleaseError, match=r"no chip of class 5, so lulc.sampling_factor cannot hold"):
        select(table, write_config(tmp_path, land, {"lulc.sampling_factor": 2}))
    settings = {"lulc.sampling_factor": 2, "release.allow_missing_classes": True}
    allowed = select(table, write_config(tmp_path, land, settings))
    assert allowed.warnings
    assert allowed.before == {1: 4, 2: 9, 5: 0}
    assert allowed.after == {1: 4, 2: 8, 5: 0}
    assert allowed.funnel == (("unbalanced", 1),)
    assert allowed.windows == 13


def test_nothing_to_balance() -> None:
    assert drop_counts({}, 2) == {}
    assert drop_counts({1: 0, 2: 0}, 2) == {1: 0, 2: 0}
    assert drop_counts({1: 6, 2: 3, 5: 0}, 2) == {1: 0, 2: 0, 5: 0}
    assert drop_counts({1: 5, 2: 5}, 1) == {1: 0, 2: 0}
    assert drop_counts({1: 8, 2: 3, 5: 5, 7: 0}, 2) == {1: 2, 2: 0, 5: 2 * 2 // 5, 7: 0}


Q = (TimeRange.parse("2023-01-01/2023-03-31"), TimeRange.parse("2023-04-01/2023-06-30"))


@pytest.mark.parametrize(
    ("text", "fit"),
    [
        ("20230101,20230401", True),
        ("20230331,20230630", True),
        ("20221231,20230401", False),
        ("20230101,20230331", False),
        ("20230101,20230701", False),
        ("20230101", False),
        ("20230101,20230401,20230402", False),
        ("", False),
        ("20230101,2023-04-01", False),
        ("20230101,20230431", False),
        ("20230101,2023W141", False),
        ("20230101,202304011", False),
    ],
)
def test_dates_fit_where_each_lies_in_its_range(text: str, fit: bool) -> None:
    assert dates_fit(text, Q) is fit


def test_no_dates_fit_no_ranges() -> None:
    assert dates_fit("", ())


def test_what_is_left_of_nothing_is_said(tmp_path: Path) -> None:
    config = write_config(tmp_path, Land({1: 1, 2: 1}, sensors=("s2l2a", "lulc")))
    with pytest.raises(ReleaseError, match=r"no chip is left to release \(no windows\)"):
        clean(windows({1: 1}).drop(0), config)
    table = windows({1: 15})
    table["status"] = list("eeeeeddddcccbba")
    with pytest.raises(ReleaseError, match=r"\(5 e, 4 d, 3 c, 2 b\); run gelos-lc chip"):
        clean(table, config)
    twice = windows({1: 5}).assign(chip_index=[0, 1, 1, 2, 2])
    with pytest.raises(ReleaseError, match=r"chip_index 1 is there twice; run gelos-lc chip again"):
        clean(twice, config)


def test_the_funnel_names_what_most_windows_ended_by_first(tmp_path: Path) -> None:
    config = write_config(
        tmp_path, Land({1: 1, 2: 1}, sensors=("s2l2a", "lulc")), {"lulc.sampling_factor": 1}
    )
    table = windows({1: 6, 2: 9})
    table.loc[:0, "status"], table.loc[1:2, "status"] = "b", "a"
    kept = Counter(table["lulc"][3:])
    found = select(table, config)
    lost = abs(kept[1] - kept[2])
    assert found.before == dict(sorted(kept.items()))
    assert found.after == dict.fromkeys((1, 2), min(kept.values()))
    assert dict(found.funnel) == {"a": 2, "b": 1, **({"unbalanced": lost} if lost else {})}
    assert [count for _, count in found.funnel] == sorted((count for _, count in found.funnel), reverse=True)
    assert found.windows == 15
    plain = write_config(tmp_path, Land({1: 1, 2: 1}, sensors=("s2l2a", "lulc")))
    equal = select(windows({1: 6, 2: 6}).assign(status=["b", "c", "c", "a"] + ["success"] * 8), plain)
    assert equal.funnel == (("c", 2), ("a", 1), ("b", 1))


@pytest.mark.parametrize(("chips", "lost", "warned"), [(8, 2, False), (7, 2, True), (4, 0, False)])
def test_more_than_a_quarter_of_chips_in_no_split_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chips: int, lost: int, warned: bool
) -> None:
    names = [NO_SPLIT] * lost + ["train"] * (chips - lost)
    asked: list[pd.DataFrame] = []

    def split_by_hand(table: pd.DataFrame, *_: object) -> pd.Series:
        asked.append(table)
        return pd.Series(names, index=table.index)

    monkeypatch.setattr("release.select.split", split_by_hand)
    land = Land({1: 1}, side=960, margin=240, sensors=("s2l2a", "lulc"))
    config = write_config(tmp_path, land, {"release.splits": {"train": 0.5, "test": 0.5}})
    table = windows({1: chips}, step=1440)
    assert bool(select(table, config).warnings) == warned
    assert (asked[0]["left_m"] == table["left_m"] - 240).all()  # chips, not their sample windows
    assert (asked[0]["top_m"] == table["top_m"] + 240).all()


def at(*places: tuple[float, float], epsg: int = 32632) -> pd.DataFrame:
    """Return chips of one class whose north-west corners lie at these metres."""
    left, top = zip(*places, strict=True)
    return pd.DataFrame({"epsg": epsg, "left_m": left, "top_m": top, "lulc": 1})


@pytest.mark.parametrize("gap", [SIDE - 10, SIDE])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("side", [1, -1])
def test_a_chip_nearer_than_its_side_to_a_block_of_another_split_is_in_none(
    gap: int, axis: int, side: int
) -> None:
    """Two blocks beside each other: one chip in the middle of its own, and one near the border, or just not."""
    middle = (BLOCK - SIDE) // 2
    near = BLOCK + gap if side > 0 else -gap - SIDE
    places = [(middle, middle), (near, middle) if axis == 0 else (middle, near)]
    table = at(*((left, low + SIDE) for left, low in places))
    for seed in range(3):
        first, second = split(table, {"a": 0.5, "b": 0.5}, BLOCK, SIDE, seed)
        assert first in {"a", "b"}
        assert second == (NO_SPLIT if gap < SIDE else {"a": "b", "b": "a"}[first])


def test_a_chip_that_reaches_out_of_a_small_block_is_near_the_one_after_the_next() -> None:
    """East of its block, west, south and north: its edge lies 560 m or less from the other's block."""
    far = [((400, SIDE), (2 * SIDE, SIDE)), ((2 * SIDE - 400, SIDE), (0, SIDE))]
    far += [((0, SIDE + 400), (0, 3 * SIDE)), ((0, 3 * SIDE - 400), (0, SIDE))]
    for places, seed in itertools.product(far, range(3)):
        first, second = split(at(*places), {"a": 0.5, "b": 0.5}, SIDE, SIDE, seed)
        assert first == NO_SPLIT
        assert second in {"a", "b"}


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("beyond", [0.05, 0.45])
def test_a_chip_is_of_the_block_in_which_its_centre_lies(axis: int, beyond: float) -> None:
    """It goes with the chip in the middle of that block, however far it reaches into the one before."""
    middle, low = (BLOCK - SIDE) // 2, int((beyond - 0.5) * SIDE)
    places = [(low, middle), (middle, middle)] if axis == 0 else [(middle, low), (middle, middle)]
    table = at(*((left, bottom + SIDE) for left, bottom in places))
    for seed in range(6):
        first, second = split(table, {"a": 0.5, "b": 0.5}, BLOCK, SIDE, seed)
        assert first == second != NO_SPLIT


@pytest.mark.parametrize("seed", range(4))
def test_a_cluster_goes_to_the_split_that_it_leaves_lacking_least(seed: int) -> None:
    """As the docs have it: those that hold most of a class first, squares of what is lacking before and after."""
    rng = np.random.default_rng(seed)
    middle = (BLOCK - SIDE) // 2
    blocks = [(3 * n, 0) for n in range(25)]
    chips = [(block, code) for block in blocks for code in rng.choice([1, 1, 1, 2, 2, 5], rng.integers(1, 9))]
    table = at(*((BLOCK * column + middle, middle + SIDE) for (column, _), _ in chips))
    table["lulc"] = [code for _, code in chips]
    shares = {"train": 0.6, "val": 0.3, "test": 0.1}
    total = Counter(table["lulc"])
    held = {block: Counter(code for place, code in chips if place == block) for block in blocks}
    lacking = {name: {code: share * total[code] for code in total} for name, share in shares.items()}

    def grows(name: str, block: tuple[int, int]) -> float:
        lack = lacking[name]
        before = sum((lack[code] / total[code]) ** 2 for code in total)
        after = sum(((lack[code] - held[block][code]) / total[code]) ** 2 for code in total)
        return round((after - before) / shares[name], 9)

    expected = {}
    for block in sorted(
        blocks, key=lambda one: (-max(held[one][c] / total[c] for c in total), lot(seed, 32632, *one))
    ):
        expected[block] = min(shares, key=lambda name: (grows(name, block), lot(seed, name, 32632, *block)))
        for code in total:
            lacking[expected[block]][code] -= held[block][code]
    found = split(table, shares, BLOCK, SIDE, seed)
    assert found.tolist() == [expected[block] for block, _ in chips]
    assert set(found) == set(shares)


@pytest.mark.parametrize(
    ("more", "block_m", "apart", "together"),
    [
        (0, BLOCK, 1, True),
        (1, BLOCK, 1, False),
        (0, BLOCK, 2, False),
        (0, 2 * SIDE, 1, True),
        (0, 2 * SIDE, 2, False),
    ],
)
def test_blocks_that_touch_go_together_up_to_a_fifth_of_the_smallest_split(
    more: int, block_m: int, apart: int, together: bool
) -> None:
    """Of 20 chips in halves that is two; a split without a share is none. Chips lie in the middle of blocks."""
    middle = (block_m - SIDE) // 2
    pair = [(column * block_m + middle, middle + SIDE) for column in (0, apart, *[apart] * more)]
    others = [(block_m * (9 + 4 * n) + middle, middle + SIDE) for n in range(18 - more)]
    shares = {"a": 0.5, "b": 0.5, "c": 0.0}
    found = [split(at(*pair, *others), shares, block_m, SIDE, seed).tolist() for seed in range(12)]
    assert all(names[0] == names[1] for names in found) == together
    if block_m == BLOCK:
        assert all(names.count("a") == names.count("b") == 10 for names in found)


@pytest.mark.parametrize("lon", [12.0, 180.0])
@pytest.mark.parametrize("bearing", [0, 90, 225])
@pytest.mark.parametrize(("share", "near"), [(0.985, True), (1.015, False)])
def test_chips_of_two_zones_are_near_up_to_their_side_and_diagonal(
    lon: float, bearing: int, share: float, near: bool
) -> None:
    """However the squares are turned to one another: the distance is that of their centres on the ground."""
    apart = share * SIDE * (1 + 2**0.5)
    other_lon, other_lat, _ = Geod(ellps="WGS84").fwd(lon, 45, bearing, apart)
    zones = (32632, 32633) if lon == 12 else (32660, 32601)
    chips = []
    for epsg, x, y in ((zones[0], lon, 45.0), (zones[1], other_lon, other_lat)):
        east, north = Transformer.from_crs(4326, epsg, always_xy=True).transform(x, y)
        chips.append(at((east - SIDE / 2, north + SIDE / 2), epsg=epsg))
    table = pd.concat(chips, ignore_index=True)
    names = set(split(table, {"a": 0.5, "b": 0.5}, BLOCK, SIDE, 0))
    assert names == ({NO_SPLIT} if near else {"a", "b"})


def test_chips_of_two_zones_in_one_split_are_near_one_another_in_peace() -> None:
    corners = [Transformer.from_crs(4326, epsg, always_xy=True).transform(12, 45) for epsg in (32632, 32633)]
    table = pd.concat([at(corners[0]), at(corners[1], epsg=32633)], ignore_index=True)
    assert set(split(table, {"a": 1.0}, BLOCK, SIDE, 0)) == {"a"}
    assert set(split(table, {"a": 1.0, "b": 0.0}, BLOCK, SIDE, 0)) == {"a"}


@pytest.mark.parametrize("seed", range(5))
def test_splits_are_apart_and_stratified(seed: int) -> None:
    table = windows({1: 500, 2: 900, 5: 200})
    names = split(table, {"train": 0.6, "val": 0.2, "test": 0.2}, BLOCK, SIDE, seed)
    assert set(names) == {"train", "val", "test", NO_SPLIT}
    shuffled = table.sample(frac=1, random_state=seed)
    again = split(shuffled, {"test": 0.2, "val": 0.2, "train": 0.6}, BLOCK, SIDE, seed)
    assert (again.sort_index() == names).all()
    left, top = table["left_m"].to_numpy(), table["top_m"].to_numpy()
    gap = np.maximum(abs(left[:, None] - left), abs(top[:, None] - top)) - SIDE
    apart = (
        (names.to_numpy()[:, None] != names.to_numpy())
        & (names != NO_SPLIT).to_numpy()
        & (names != NO_SPLIT).to_numpy()[:, None]
    )
    assert gap[apart].min() >= SIDE
    for code, share in Counter(table["lulc"]).items():
        part = (table["lulc"] == code) & (names != NO_SPLIT)
        assert 0.35 < (names[part] == "train").mean() < 0.85, (code, share)


def test_areas_far_apart_are_kept_whole_and_no_chip_is_lost() -> None:
    """With many areas no border between splits runs through one: every chip has a split, in the shares asked for."""
    rng = np.random.default_rng(2)
    areas = [
        windows(dict(zip((1, 2, 5), rng.integers(1, 80, 3).tolist(), strict=True))).assign(
            left_m=lambda t, n=n: 200_640 + 96_000 * (n % 6) + 960 * (t.index % 12),
            top_m=lambda t, n=n: 5_040_000 - 96_000 * (n // 6) - 960 * (t.index // 12),
            aoi_index=n,
        )
        for n in range(120)
    ]
    table = pd.concat(areas, ignore_index=True)
    shares = {"train": 0.7, "val": 0.15, "test": 0.15}
    names = split(table, shares, BLOCK, SIDE, 0)
    assert NO_SPLIT not in set(names)
    assert names.groupby(table["aoi_index"]).nunique().max() == 1
    for code in (1, 2, 5):
        found = names[table["lulc"] == code].value_counts(normalize=True)
        assert all(abs(found[name] - share) < 0.02 for name, share in shares.items()), found
    shuffled = table.sample(frac=1, random_state=5)
    assert (split(shuffled, shares, BLOCK, SIDE, 0).sort_index() == names).all()
    assert (split(table, shares, BLOCK, SIDE, 1) != names).any()


def test_blocks_so_small_that_borders_are_everywhere_are_a_warning(tmp_path: Path) -> None:
    land = Land({1: 1, 2: 1, 5: 1}, side=960, sensors=("s2l2a", "lulc"))
    table = windows({1: 300, 2: 300, 5: 300})
    settings = {"release.splits": {"train": 0.5, "test": 0.5}, "release.block_m": 1920}
    found = select(table, write_config(tmp_path, land, settings))
    lost = int((found.chips["split"] == NO_SPLIT).sum())
    assert lost > 225
    text = f"release.splits: {lost} of 900 chips lie too near to another split and are in none"
    assert found.warnings == (f"{text}; a larger release.block_m loses fewer",)
    settings["release.block_m"] = 96_000
    assert select(table, write_config(tmp_path, land, settings)).warnings == ()


def test_a_block_smaller_than_a_chip_is_refused(tmp_path: Path) -> None:
    land = Land({1: 1}, side=960, sensors=("s2l2a", "lulc"))
    settings = {"release.splits": {"train": 0.5, "test": 0.5}, "release.block_m": 480}
    with pytest.raises(ConfigError, match=r"release\.block_m 480 is smaller than chips\.chip_size 960"):
        write_config(tmp_path, land, settings)


def test_another_zone_is_no_way_round_the_gap() -> None:
    """Two chips in two UTM zones that touch on the ground are never in different splits."""
    one = windows({1: 30}, epsg=32632).assign(left_m=lambda t: 735_360 + 960 * (t.index % 2))
    two = windows({1: 30}, epsg=32633).assign(left_m=lambda t: 264_000 - 960 * (t.index % 2))
    one["top_m"] = two["top_m"] = 5_040_000 - 960 * (one.index // 2)
    both = pd.concat([one, two], ignore_index=True)
    found = [split(both, {"a": 0.5, "b": 0.5}, 1920, SIDE, seed) for seed in range(4)]
    assert any(NO_SPLIT in set(names) for names in found)


def test_without_splits_the_column_is_empty(tmp_path: Path) -> None:
    config = write_config(tmp_path, Land({1: 1}, sensors=("s2l2a", "lulc")))
    assert set(select(windows({1: 3}), config).chips["split"]) == {""}
