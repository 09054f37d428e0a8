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
from release_landscape import Land, write_config

from cube.errors import ConfigError
from release.opening.faults import ReleaseError
from release.select import balance, clean, drop_counts, number, select
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
