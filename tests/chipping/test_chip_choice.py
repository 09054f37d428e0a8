"""The choice against a slow reading of its rules, one window at a time."""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import json
import os
import tempfile
from collections import Counter
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from chip_cubes import clean_arrays, cube_path, make_config, put_cube
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pyproj import Transformer

from chipping.chip import chip, engine_for, score_cubes
from chipping.choose import ScoreSet, choose
from chipping.masks import MaskSettings
from chipping.scores import ScoreTable
from chipping.sweep import parse_grid, sweep, sweep_scores
from cube.build.prefilter import candidate_classes, count_candidates
from cube.config.models import ChipsConfig
from cube.config.reading import load_config
from cube.config.sensor_models import CloudRule
from cube.config.sensors import CLASS_NAMES, SENSORS
from cube.errors import BusyError, ConfigError
from cube.run.dask_engine import DaskEngine
from cube.run.layout import Layout
from cube.run.lock import hold
from cube.run.thread_engine import ThreadEngine
from cube.store.sealed import CubeInfo, SensorInfo
from cube.store.write import seal
from cube.testing.cubes import plan_from_times
from cube.windows.duplicates import Places
from cube.windows.footprints import footprints, near_pairs
from cube.windows.grid import Bounds
from cube.windows.landcover import land_cover_columns, pixels_needed
from cube.windows.lattice import WindowGeometry, WindowLattice

BOX = Bounds(480_000, 5_990_400, 481_920, 5_992_320)
SIDE_PX = 10
CODES = (0, 1, 2, 4, 5, 7, 8, 9, 10, 11)
TIMES = (datetime(2023, 2, 1, tzinfo=UTC), datetime(2023, 8, 1, tzinfo=UTC))


def make_table(
    rng: np.random.Generator, aoi_index: int = 0, shift_m: int = 0, epsg: int = 32632, windows: int = 6
) -> ScoreTable:
    """Scores of windows of 10 x 10 land-cover pixels, with numbers near every threshold."""
    box = Bounds(480_000 + shift_m, 5_990_400, 480_000 + shift_m + 100 * windows, 5_990_400 + 100 * windows)
    lattice = WindowLattice(WindowGeometry(100, 100, 100), box, epsg)
    size = len(lattice)
    main = rng.choice(CODES, size, p=[0.02, 0.2, 0.2, 0.04, 0.2, 0.2, 0.02, 0.04, 0.04, 0.04])
    rest = rng.choice(CODES[1:], size)
    share = rng.choice([40, 50, 79, 80, 81, 95, 100, 100, 100], size)
    counts = {
        code: np.where(main == code, share, 0) + np.where(rest == code, 100 - share, 0) for code in CODES
    }
    left, top = lattice.corners()
    columns: dict[str, Any] = {"left_m": left, "top_m": top, **land_cover_columns(counts, size)}
    for key, dates in {"s2l2a": 2, "lulc": 1}.items():
        columns[f"{key}_not_fetched"] = rng.random(size) < (0.05 if key == "s2l2a" else 0)
        for date in range(dates):
            columns[f"{key}_{date}_valid_px"] = rng.choice([100, 100, 100, 99, 90], size)
            columns[f"{key}_{date}_clear_px"] = rng.choice([100, 100, 100, 95, 94, 10], size)
    sensors = {
        "s2l2a": SensorInfo(SENSORS["s2l2a"], ("B02",), 10, TIMES, ("a", "b")),
        "lulc": SensorInfo(SENSORS["lulc"], ("lulc",), 10, TIMES[:1], ("c",)),
    }
    cube = CubeInfo(aoi_index, epsg, box, "0" * 64, "0" * 64, sensors)
    masks = (
        MaskSettings("s2l2a", ("B02",), CloudRule("SCL", clear_codes=(4,))),
        MaskSettings("lulc", ("lulc",)),
    )
    return ScoreTable(cube, lattice.geometry, masks, 2, columns)


def slow_verdict(table: ScoreTable, index: int, chips: ChipsConfig) -> str:  # noqa: C901, PLR0911  rule by rule
    """Return the first rule that a window breaks, of those that concern it alone."""

    def value(name: str) -> Any:
        return table.columns[name][index]

    def enough(name: str, share: float) -> bool:
        return Fraction(int(value(name)), SIDE_PX**2) >= Fraction(str(share))

    if 0 in chips.forbidden and value("class_0_px"):
        return "nodata"
    if any(value(f"class_{code}_px") for code in chips.forbidden):
        return "forbidden_class"
    if not enough("majority_px", chips.min_purity):
        return "impure"
    if value("lulc") not in chips.classes:
        return "class_excluded"
    if value("s2l2a_not_fetched"):
        return "not_fetched"
    for key, dates in {"s2l2a": 2, "lulc": 1}.items():
        if not all(enough(f"{key}_{d}_valid_px", chips.threshold("min_valid", key, d)) for d in range(dates)):
            return f"{key}_missing"
    if not all(enough(f"s2l2a_{d}_clear_px", chips.threshold("min_clear", "s2l2a", d)) for d in range(2)):
        return "s2l2a_cloudy"
    return "success"


@st.composite
def chip_settings(draw: st.DrawFn) -> ChipsConfig:
    share = st.sampled_from([0.0, 0.1, 0.5, 0.8, 0.9, 0.94, 0.95, 0.99, 1.0])
    forbidden = draw(st.lists(st.sampled_from([0, 4, 9, 10]), unique=True))
    by_date = share | st.tuples(share, share)
    return ChipsConfig(
        sample_size=100,
        chip_size=100,
        min_purity=draw(share),
        classes=tuple(draw(st.lists(st.sampled_from([1, 2, 5, 7, 8, 11]), unique=True))),
        forbidden=tuple(forbidden),
        max_per_class=draw(st.none() | st.integers(1, 5)),
        min_clear=draw(by_date | st.fixed_dictionaries({}, optional={"s2l2a": by_date})),
        min_valid=draw(share | st.fixed_dictionaries({}, optional={"s2l2a": by_date, "lulc": share})),
    )


@settings(max_examples=60, deadline=None)
@given(chip_settings(), st.integers(0, 2**32 - 1), st.integers(0, 3))
def test_verdicts_agree_with_a_slow_reading_of_the_rules(chips: ChipsConfig, seed: int, lot: int) -> None:
    rng = np.random.default_rng(seed)
    tables = [make_table(rng, 2), make_table(rng, 5, shift_m=300), make_table(rng, 9, shift_m=300)]
    scores = ScoreSet(tables, SENSORS)
    found = [scores.verdicts[code] for code in choose(scores, chips, lot)]
    taken: set[str] = set()
    for number, table in enumerate(tables):
        verdicts = found[scores.starts[number] : scores.starts[number + 1]]
        alone = [slow_verdict(table, index, chips) for index in range(len(table))]
        unique = [
            "duplicate" if verdict == "success" and cell in taken else verdict
            for cell, verdict in zip(table.cells, alone, strict=True)
        ]
        taken |= {cell for cell, verdict in zip(table.cells, unique, strict=True) if verdict == "success"}
        assert ["success" if verdict == "capped" else verdict for verdict in verdicts] == unique
        kept = Counter(int(c) for c, v in zip(table.columns["lulc"], verdicts, strict=True) if v == "success")
        wanted = Counter(int(c) for c, v in zip(table.columns["lulc"], unique, strict=True) if v == "success")
        cap = chips.max_per_class or len(table)
        assert kept == {code: min(count, cap) for code, count in wanted.items()}


def test_lots_follow_seed_and_cell_and_nothing_else() -> None:
    chips = ChipsConfig(
        sample_size=100, chip_size=100, min_purity=0, forbidden=(), min_valid=0, min_clear=0, max_per_class=3
    )
    rng = np.random.default_rng(1)
    table, other = make_table(rng), make_table(rng, 4, shift_m=60_000)

    def chosen(scores: ScoreSet, seed: int) -> set[str]:
        return {c for c, v in zip(scores.cells, choose(scores, chips, seed), strict=True) if v == 0}

    alone = chosen(ScoreSet([table], SENSORS), 0)
    assert alone < chosen(ScoreSet([table, other], SENSORS), 0)
    assert alone != chosen(ScoreSet([table], SENSORS), 1)


@pytest.mark.parametrize("seed", [0, 7])
def test_under_a_cap_those_stay_whose_seed_and_cell_have_the_least_sha256(seed: int) -> None:
    chips = ChipsConfig(
        sample_size=100, chip_size=100, min_purity=0, forbidden=(), classes=(1, 2, 5, 7, 8, 11),
        min_valid=0, min_clear=0, max_per_class=2,
    )  # fmt: skip
    rng = np.random.default_rng(3)
    scores = ScoreSet([make_table(rng, aoi, shift_m=1_000 * aoi) for aoi in range(14)], SENSORS)
    verdicts = [scores.verdicts[code] for code in choose(scores, chips, seed)]
    crowds: dict[tuple[int, int], list[str]] = {}
    for aoi, code, cell, verdict in zip(scores.aoi, scores.lulc, scores.cells, verdicts, strict=True):
        if verdict in {"success", "capped"}:
            crowds.setdefault((int(aoi), int(code)), []).append(cell)
    drawn = [
        cell
        for crowd in crowds.values()
        for cell in sorted(crowd, key=lambda cell: hashlib.sha256(f"{seed}:{cell}".encode()).digest())[:2]
    ]
    stay = {cell for cell, verdict in zip(scores.cells, verdicts, strict=True) if verdict == "success"}
    assert stay == set(drawn)
    assert sum(len(crowd) > 2 for crowd in crowds.values()) > 14
    assert (choose(scores, chips) == choose(scores, chips, 0)).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([12.0, 180.0, -60.0]), st.sampled_from([0.4, 0.8, 1.0]))
def test_duplicates_agree_with_a_look_at_every_pair(seed: int, lon: float, share: float) -> None:
    """Areas of three zones and both hemispheres thrown around a border, against shapely on a plane."""
    rng = np.random.default_rng(seed)
    west = int((lon - 0.01 + 180) // 6) % 60 + 1
    zones = [32600 + west, 32600 + west % 60 + 1, 32700 + west]
    size, plane = 100, Transformer.from_crs(4326, f"+proj=tmerc +lon_0={lon} +ellps=WGS84", always_xy=True)
    epsgs, lefts, tops, squares, owner = [], [], [], [], []
    for area in range(7):
        epsg = int(rng.choice(zones))
        at = Transformer.from_crs(4326, epsg, always_xy=True).transform(lon, 0.0)
        x, y = (round(float(one) / size) * size + int(rng.integers(-3, 3)) * size for one in at)
        places = [(x + i * size, y + j * size) for i in range(3) for j in range(3) if rng.random() < 0.8]
        back = Transformer.from_crs(epsg, 4326, always_xy=True)
        for left, top in places:
            corners = back.transform(
                np.array([left, left + size, left + size, left]), np.array([top - size, top - size, top, top])
            )
            squares.append(shapely.Polygon(np.column_stack(plane.transform(*corners))))
        lefts += [left for left, _ in places]
        tops += [top for _, top in places]
        owner += [area] * len(places)
        epsgs.append(epsg)
    wanted = rng.random(len(owner)) < share
    kept: list[int] = []
    expected = np.zeros(len(owner), bool)
    is_near = np.zeros(len(owner), bool)
    for window in np.flatnonzero(wanted).tolist():
        for one in kept:
            if owner[one] == owner[window]:
                continue
            if epsgs[owner[one]] == epsgs[owner[window]]:
                expected[window] |= (lefts[one], tops[one]) == (lefts[window], tops[window])
                continue
            both = squares[one], squares[window]
            shared = both[0].intersection(both[1]).area / min(square.area for square in both)
            expected[window] |= shared > 0.1
            is_near[window] |= abs(shared - 0.1) < 1e-3
        if not expected[window]:
            kept.append(window)
    starts = np.searchsorted(owner, np.arange(8))
    edges = (np.array(one, np.int32) for one in (lefts, tops))
    places_ = Places(WindowGeometry(size, size, size), np.array(epsgs, np.int32), starts, *edges)
    assume(not is_near.any())
    assert places_.duplicates(wanted).tolist() == expected.tolist()


def test_without_windows_there_is_nothing_to_choose() -> None:
    chips = ChipsConfig(sample_size=100, chip_size=100, max_per_class=1)
    empty = ScoreSet([], SENSORS)
    assert (len(empty), choose(empty, chips).tolist(), empty.lulc.tolist(), empty.starts) == (0, [], [], [0])
    assert empty.places.overlaps.shape == (0, 2)


@given(st.integers(0, 1000), st.integers(1, 10_000))
def test_needed_pixels_are_exact(thousandths: int, pixels: int) -> None:
    share = thousandths / 1000
    needed = pixels_needed(share, pixels)
    assert Fraction(needed, pixels) >= Fraction(thousandths, 1000)
    assert needed == 0 or Fraction(needed - 1, pixels) < Fraction(thousandths, 1000)


@pytest.mark.parametrize(
    ("lon", "zones"), [(12.0, (32632, 32633)), (180.0, (32660, 32601)), (-60.0, (32620, 32621))]
)
def test_of_two_chips_of_different_zones_on_one_place_the_lower_aoi_stays(
    lon: float, zones: tuple[int, int]
) -> None:
    rng = np.random.default_rng(0)
    tables = []
    for aoi_index, epsg in enumerate(zones):
        x, y = Transformer.from_crs(4326, epsg, always_xy=True).transform(lon, 40.0)
        shift = round(x / 100) * 100 - 480_000 - 300
        table = make_table(rng, aoi_index, shift, epsg)
        columns = {**table.columns, "top_m": table.columns["top_m"] - 5_991_000 + round(y / 100) * 100 + 300}
        tables.append(ScoreTable(table.cube, table.geometry, table.masks, 2, columns))
    chips = ChipsConfig(
        sample_size=100, chip_size=100, min_purity=0, forbidden=(), classes=(1, 2, 5, 7, 8, 11),
        min_valid=0, min_clear=0, max_per_class=None,
    )  # fmt: skip
    scores = ScoreSet(tables, SENSORS)
    verdicts = choose(scores, chips)
    outlines = [footprints(t.geometry, t.cube.epsg, t.columns["left_m"], t.columns["top_m"]) for t in tables]
    kept = [verdicts[:36] == 0, verdicts[36:] == 0]
    rejected = verdicts[36:] == scores.verdicts.index("duplicate")
    assert rejected.any()

    def square(outline: Any, zone: int) -> Any:
        to_utm = Transformer.from_crs(4326, zone, always_xy=True)
        return shapely.transform(outline, lambda c: np.column_stack(to_utm.transform(c[:, 0], c[:, 1])))

    first = [square(o, zones[0]) for o in outlines[0][kept[0]]]
    for index in np.flatnonzero(kept[1] | rejected):
        outline = square(outlines[1][index], zones[0])
        most = max((outline.intersection(o).area / 10_000 for o in first), default=0)
        assert (most > 0.1) == rejected[index] or abs(most - 0.1) < 1e-3


def test_an_area_in_a_zone_far_away_hides_no_overlap_of_two_others() -> None:
    rng = np.random.default_rng(0)
    tables = []
    for aoi_index, (epsg, lon) in enumerate([(32632, 12.0), (32640, 57.0), (32633, 12.0)]):
        x, y = Transformer.from_crs(4326, epsg, always_xy=True).transform(lon, 40.0)
        table = make_table(rng, aoi_index, round(x / 100) * 100 - 480_300, epsg)
        columns = {**table.columns, "top_m": table.columns["top_m"] - 5_990_700 + round(y / 100) * 100}
        tables.append(ScoreTable(table.cube, table.geometry, table.masks, 2, columns))
    pairs = ScoreSet(tables[::2], SENSORS).places.overlaps
    assert len(pairs) > 9
    assert ScoreSet(tables, SENSORS).places.overlaps.tolist() == np.add(pairs, [0, 36]).tolist()


@pytest.mark.parametrize(("lon", "lat"), [(12, 40), (180, 65), (-180, -17), (9, 78), (-60, 0)])
def test_no_pair_of_areas_that_share_ground_is_left_out(lon: float, lat: float) -> None:
    """Areas of all sizes around a border of zones, against shapely's own look at every pair."""
    rng = np.random.default_rng(abs(int(lat)))
    epsgs, bounds, outlines = [], [], []
    for _ in range(60):
        place = lon + rng.uniform(-2, 2), lat + rng.uniform(-0.7, 0.7)
        place = ((place[0] + 180) % 360 - 180, place[1])
        zone = int((place[0] + 180) // 6 + rng.integers(2)) % 60 + 1
        epsg = (32600 if place[1] >= 0 else 32700) + zone
        x, y = Transformer.from_crs(4326, epsg, always_xy=True).transform(*place)
        side = rng.uniform(1_000, 60_000)
        box = shapely.segmentize(shapely.box(x, y, x + side, y + side), side / 20)
        to_lonlat = Transformer.from_crs(epsg, 4326, always_xy=True)
        ring = np.column_stack(to_lonlat.transform(*shapely.get_coordinates(box).T))
        ring[:, 0] = (ring[:, 0] - lon + 180) % 360  # around the border, which is far from a seam
        epsgs.append(epsg)
        bounds.append((x, y, x + side, y + side))
        outlines.append(shapely.Polygon(ring))
    found = near_pairs(epsgs, np.array(bounds))
    shared = {
        (one, two)
        for one, two in itertools.combinations(range(60), 2)
        if epsgs[one] != epsgs[two] and outlines[one].intersects(outlines[two])
    }
    assert len(shared) > 20
    assert shared <= set(found)
    assert found == sorted(set(found))


def test_areas_far_from_each_other_are_no_pairs() -> None:
    count = 2_000
    zones = 32601 + np.arange(count) % 60
    bounds = np.array([400_000, 3_000_000, 410_000, 3_010_000]) + np.zeros((count, 1))
    assert near_pairs(zones.tolist(), bounds) == []


def test_not_fetched_blocks_reject_only_what_land_cover_lets_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(tmp_path)
    arrays = clean_arrays(config, BOX, np.random.default_rng(0))
    arrays["lulc"]["lulc"][:48] = 4
    monkeypatch.setattr(
        "cube.testing.cubes.seal",
        lambda *what: seal(*what, not_fetched=["s2l2a-0-0-0"]),
    )
    put_cube(config, BOX, arrays)
    assert chip(config).totals() == {"not_fetched": 12, "forbidden_class": 4}


@pytest.mark.parametrize(("buffer", "rejected"), [(0, 32), (1, 40)])
def test_windows_whose_cloud_buffer_was_not_fetched_are_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, buffer: int, rejected: int
) -> None:
    make_config(tmp_path, sensors=("lc2l2", "lulc"), sample_size=240, chip_size=240)
    config = load_config(tmp_path / "config.yaml", [f"lc2l2.cloud_buffer_px={buffer}"])
    arrays = clean_arrays(config, BOX, np.random.default_rng(0))
    put_cube(config, BOX, arrays)
    monkeypatch.setattr("chipping.scores.BLOCK_M", 960)
    file = cube_path(config) / "zarr.json"
    record = json.loads(file.read_text())
    record["attributes"]["not_fetched"] = ["lc2l2-0-0-0", "lc2l2-0-0-32"]
    file.write_text(json.dumps(record))
    assert chip(config).totals() == {"not_fetched": rejected, "success": 64 - rejected}


def test_sweep_counts_what_a_run_with_each_setting_would_give(tmp_path: Path) -> None:
    config = make_config(tmp_path, min_clear=0.5)
    rng = np.random.default_rng(2)
    arrays = clean_arrays(config, BOX, rng)
    arrays["lulc"]["lulc"][:] = np.kron(rng.choice([1, 2, 5], (4, 4)), np.ones((48, 48)))
    arrays["lulc"]["lulc"][rng.random((192, 192)) < 0.1] = 11
    put_cube(config, BOX, arrays)
    grid = parse_grid(
        ["chips.min_purity=0.89,0.9,0.95", "chips.max_per_class=3,null", "chips.classes=[1,2,5],[5]"], SENSORS
    )
    result = sweep(config, grid)
    folder = Path(config.directory.working) / "v1"
    rows = list(csv.DictReader(io.StringIO((folder / "sweep.csv").read_text())))
    assert len(rows) == len(result.settings) == 12
    assert (folder / "sweep.png").read_bytes().startswith(b"\x89PNG")
    for setting, row in zip(result.settings, rows, strict=True):
        chips = {key.removeprefix("chips."): value for key, value in setting.values.items()}
        summary = chip(make_config(tmp_path, min_clear=0.5, **chips))
        assert summary.classes == setting.chips
        assert int(row["total"]) == summary.chips
    loosest, strictest = result.loosest(1), result.strictest(1)
    assert loosest is not None
    assert strictest is not None
    assert loosest.total == max(s.total for s in result.settings if s.fewest >= 1)
    assert strictest.total == min(s.total for s in result.settings if s.fewest >= 1)
    assert result.loosest(10_000) is None


def test_sweep_of_one_sensors_threshold() -> None:
    scores = ScoreSet([make_table(np.random.default_rng(0))], SENSORS)
    chips = ChipsConfig(sample_size=100, chip_size=100, min_purity=0.5, forbidden=(), min_valid=0)
    one, two = sweep_scores(scores, chips, {"chips.min_clear.s2l2a": [0.1, 1.0]}).settings
    assert one.total > two.total


@pytest.mark.parametrize(
    "option",
    [
        "chips.min_purity",
        "chips.sample_size=1,2",
        "s2l2a.clear=1",
        "chips.min_purity=[",
        "chips.min_purity=",
        "chips.min_clear.foo=0.5",
        "chips.min_clear.=0.5",
        "chips.min_purity.s2l2a=0.5",
        "chips.min_clear.s2l2a.x=1",
    ],
)
def test_a_grid_that_cannot_be_swept_is_refused(option: str) -> None:
    with pytest.raises(ConfigError, match=r"--grid"):
        parse_grid([option], SENSORS)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("chips.min_clear=[0.5,0.6,0.7],0.9", "gives 3 shares for 2 time ranges"),
        ("chips.min_valid.s2l2a=[0.5]", "gives 1 shares for 2 time ranges"),
        ("chips.min_clear={foo: 0.5}", "foo is no sensor"),
        ("chips.min_clear=2", "expected a share from 0 to 1"),
    ],
)
def test_a_value_that_cannot_be_swept_is_one_line(option: str, said: str) -> None:
    scores = ScoreSet([make_table(np.random.default_rng(0))], SENSORS)
    chips = ChipsConfig(sample_size=100, chip_size=100)
    with pytest.raises(ConfigError, match=r"--grid") as caught:
        sweep_scores(scores, chips, parse_grid([option], SENSORS))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_shares_by_time_range_can_be_swept() -> None:
    scores = ScoreSet([make_table(np.random.default_rng(0))], SENSORS)
    chips = ChipsConfig(sample_size=100, chip_size=100, min_purity=0.5, forbidden=(), min_valid=0)
    grid = parse_grid(["chips.min_clear=[0.1,0.1],[1.0,0.1],1.0"], SENSORS)
    loose, half, strict = (one.total for one in sweep_scores(scores, chips, grid).settings)
    assert loose > half > strict


def test_a_sweep_holds_the_working_folder(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    put_cube(config, BOX, clean_arrays(config, BOX, np.random.default_rng(0)))
    root = Layout.of(config).root
    with hold(root), pytest.raises(BusyError, match="another run"):
        sweep(config, parse_grid(["chips.min_purity=0.9"], SENSORS))
    assert root.names(".csv") == []


@pytest.mark.parametrize(
    ("compute", "slots"),
    [
        ({"threads": 3}, 3),
        ({"workers": 2}, 2),
        ({"workers": 2, "threads": 3}, 6),
        ({"workers": 0, "threads": 5}, 5),
        ({}, os.cpu_count()),
    ],
)
def test_threads_are_those_of_the_config(tmp_path: Path, compute: dict[str, int], slots: int) -> None:
    make_config(tmp_path)
    overrides = [f"compute.{key}={value}" for key, value in compute.items()]
    with engine_for(load_config(tmp_path / "config.yaml", overrides), None) as engine:
        assert engine.slots == slots


def test_a_scheduler_of_the_environment_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", "tcp://127.0.0.1:1")
    with engine_for(make_config(tmp_path), None) as engine:
        assert isinstance(engine, DaskEngine)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.3, 0.6, 1.0]), st.sampled_from([120, 240]))
def test_a_dry_run_counts_the_windows_that_land_cover_alone_lets_through(
    seed: int, purity: float, stride: int
) -> None:
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as folder:
        config = make_config(
            Path(folder), sensors=("lulc",), sample_size=240, chip_size=240, stride=stride, min_purity=purity
        )
        arrays = clean_arrays(config, BOX, rng)
        arrays["lulc"]["lulc"][:] = np.kron(rng.choice([1, 2, 5, 4], (12, 12)), np.ones((16, 16)))
        put_cube(config, BOX, arrays)
        scores = score_cubes(config, ThreadEngine(1))
        codes, counts = np.unique(scores.lulc[choose(scores, config.chips) == 0], return_counts=True)
        plan = plan_from_times(config, BOX, 32632, TIMES)
        found = count_candidates(candidate_classes(arrays["lulc"]["lulc"], plan, config))
        assert found == {CLASS_NAMES[int(c)]: int(n) for c, n in zip(codes, counts, strict=True)}
