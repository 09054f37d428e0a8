"""Grids, lattices, counts and projections where a rule has an edge, against hand-made cases and slow recounts."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray
from pyproj import Transformer
from shapely import MultiPolygon, Point, Polygon, box, get_parts
from shapely.geometry.base import BaseGeometry

from cube.config.models import ChipsConfig
from cube.config.sensors import CLASS_NAMES
from cube.errors import GridError
from cube.windows.counts import CellCounts, CellGrid, count_codes, count_true
from cube.windows.grid import Block, Bounds, aoi_bounds, blocks_of, chunk_px, geobox_for, overlap_bounds
from cube.windows.landcover import count_classes, land_cover_columns, land_cover_rules
from cube.windows.lattice import WindowGeometry, WindowLattice, windows_on
from cube.windows.projection import (
    beyond_antimeridian,
    project,
    spans_all_longitudes,
    split_at_antimeridian,
    utm_epsg,
)

TO_LONLAT = Transformer.from_crs(32633, 4326, always_xy=True)


def lonlat(*corners: tuple[float, float]) -> BaseGeometry:
    """Return a polygon in longitude and latitude whose corners lie at these metres of zone 33."""
    return Polygon([TO_LONLAT.transform(x, y) for x, y in corners])


# ---------------------------------------------------------------- grids


def test_a_block_is_30720_m_and_a_chunk_a_quarter_of_it() -> None:
    bounds = Bounds(0, 0, 40_320, 31_680)
    for resolution, side in ((10, 3072), (30, 1024), (60, 512)):
        geobox = geobox_for(bounds, 32633, resolution)
        across, down = 40_320 // resolution - side, 31_680 // resolution - side
        found = [(b.time, b.row, b.col, b.height, b.width) for b in blocks_of("s2l2a", 2, geobox)]
        assert found == [
            (time, *place)
            for time in (0, 1)
            for place in (
                (0, 0, side, side),
                (0, side, side, across),
                (side, 0, down, side),
                (side, side, down, across),
            )
        ]
        chunk = chunk_px(resolution)
        assert (chunk, type(chunk)) == (side // 4, int)
    assert chunk_px(1) == 7680
    assert Block("dem", 0, 3072, 1024, 7, 5).name == "dem-0-3072-1024"


@pytest.mark.parametrize("corners", [(0, 0, 0, 9), (0, 0, 9, 0), (1, 0, 0, 9), (0, 1, 9, 0)])
def test_a_box_needs_a_width_and_a_height(corners: tuple[int, int, int, int]) -> None:
    with pytest.raises(GridError, match="width and a height"):
        Bounds(*corners)
    assert (Bounds(2, 3, 7, 11).width, Bounds(2, 3, 7, 11).height) == (5, 8)


@pytest.mark.parametrize(("beyond_m", "cells"), [(0.0004, 1), (0.004, 2)])
def test_an_edge_on_the_lattice_is_one_to_the_millimetre(beyond_m: float, cells: int) -> None:
    left, bottom = 480_000, 5_760_000
    right, top = left + 960 + beyond_m, bottom + 960 + beyond_m
    aoi = lonlat((left + 9, bottom + 9), (right, bottom + 480), (left + 480, top))
    bounds = aoi_bounds(aoi, 32633)
    assert bounds == Bounds(left, bottom, left + 960 * cells, bottom + 960 * cells)
    left, bottom = left - beyond_m, bottom - beyond_m
    aoi = lonlat((480_951, 5_760_951), (left, 5_760_480), (480_480, bottom))
    more = 960 * (cells - 1)
    assert aoi_bounds(aoi, 32633) == Bounds(480_000 - more, 5_760_000 - more, 480_960, 5_760_960)


def test_a_capped_box_has_the_aoi_in_its_middle_or_ends_where_what_is_shared_ends() -> None:
    shared = lonlat((480_300, 5_760_300), (518_100, 5_760_300), (518_100, 5_798_100), (480_300, 5_798_100))

    def around(x: float, y: float, cap: int | None = 4_000) -> Bounds:
        aoi = lonlat((x - 50, y - 50), (x + 50, y - 50), (x + 50, y + 50), (x - 50, y + 50))
        return overlap_bounds(shared, aoi, 32633, cap)

    for x, y in ((500_000, 5_780_000), (499_700, 5_779_500), (490_020, 5_770_333)):
        bounds = around(x, y)
        assert (bounds.width, bounds.height) == (3_840, 3_840)  # the most whole cells that the cap holds
        assert abs((bounds.left + bounds.right) / 2 - x) <= 480
        assert abs((bounds.bottom + bounds.top) / 2 - y) <= 480
    corner = around(481_000, 5_797_500)
    assert (corner.left, corner.right) == (480_960, 484_800)
    assert (corner.bottom, corner.top) == (5_793_600, 5_797_440)
    assert around(500_000, 5_780_000, None) == Bounds(480_960, 5_760_960, 517_440, 5_797_440)


def test_ground_without_a_whole_cell_in_one_direction_is_said_with_its_size() -> None:
    for width, height in ((1_500, 9_000), (9_000, 1_500)):
        left, bottom = 480_300, 5_760_300
        aoi = lonlat(
            (left, bottom), (left + width, bottom), (left + width, bottom + height), (left, bottom + height)
        )
        with pytest.raises(GridError, match=r"holds no whole cell of 960 m; use aoi\.extent: aoi") as caught:
            overlap_bounds(aoi, aoi, 32633, None)
        said = [int(number) for number in re.findall(r"\d+", str(caught.value))[:2]]
        assert said == pytest.approx([width, height], abs=5)


# ---------------------------------------------------------------- the lattice of windows


def test_sizes_of_windows() -> None:
    geometry = WindowGeometry.from_config(ChipsConfig(sample_size=480, chip_size=960, stride=240))
    assert (geometry.sample_m, geometry.chip_m, geometry.stride_m, geometry.margin_m) == (480, 960, 240, 240)
    assert type(geometry.margin_m) is int
    assert [geometry.window_px(part, 30) for part in ("sample", "chip")] == [256, 1024]
    assert geometry.bounds("sample", 960, 1920) == Bounds(960, 1440, 1440, 1920)
    assert geometry.bounds("chip", 960, 1920) == Bounds(720, 1200, 1680, 2160)
    lattice = WindowLattice(geometry, Bounds(0, 0, 1440, 1200), 32632)
    assert (lattice.shape, len(lattice)) == ((2, 3), 6)
    assert lattice.cells()[:2] == ["32632_240_960", "32632_480_960"]
    for part, side, start in (("sample", 16, [8, 16]), ("chip", 32, [0, 8])):
        rows = lattice.rows(part, 30)
        assert (rows.start.tolist(), rows.stop.tolist()) == (start, [first + side for first in start])
        columns = lattice.columns(part, 30)
        begin = [*start, start[-1] + 8]
        assert (columns.start.tolist(), columns.stop.tolist()) == (begin, [first + side for first in begin])


def test_without_a_cloud_rule_windows_on_a_block_are_those_that_touch_it() -> None:
    lattice = WindowLattice(WindowGeometry(40, 40, 40), Bounds(0, 0, 120, 40), 32632)
    rows, columns = windows_on(Block("dem", 0, 0, 4, 4, 4), lattice, 10)
    assert (rows.ravel().tolist(), columns.ravel().tolist()) == ([0], [1])


# ---------------------------------------------------------------- counts


@pytest.mark.parametrize("height", [1, 255, 256, 257, 65_535, 65_536])
def test_sums_of_columns_of_any_height_are_whole(height: int) -> None:
    rows, columns = np.array([0, height]), np.array([0, 2, 3])
    mask = np.ones((height, 3), np.bool_)
    mask[0, 2] = False
    assert count_true(mask, rows, columns).tolist() == [[2 * height, height - 1]]
    codes = np.where(mask, 5, 7).astype(np.uint8)
    found = {code: counts.tolist() for code, counts in count_codes(codes, rows, columns).items()}
    assert found == {5: [[2 * height, height - 1]], 7: [[0, 1]]}


def test_a_block_that_no_window_reaches_has_no_cells() -> None:
    lattice = WindowLattice(WindowGeometry(20, 20, 40), Bounds(0, 0, 100, 100), 32632)
    rows, columns = lattice.rows("sample", 10), lattice.columns("sample", 10)
    grid = CellGrid([rows], [columns], range(0, 10, 2), range(0, 10, 2))
    assert grid.cut(Block("lulc", 0, 8, 0, 2, 2)) is None  # south of all windows
    assert grid.cut(Block("lulc", 0, 0, 6, 2, 2)) is None  # east of all
    cut = grid.cut(Block("lulc", 0, 2, 4, 2, 2))
    assert cut is not None
    assert (cut.row_edges.tolist(), cut.column_edges.tolist()) == ([0, 2], [0, 2])


def pieces(pixels: NDArray[np.uint8], side: int) -> Iterator[tuple[Block, NDArray[np.uint8]]]:
    """Yield an array in blocks, the last first."""
    height, width = pixels.shape
    places = list(itertools.product(range(0, height, side), range(0, width, side)))
    for row, col in reversed(places):
        part = pixels[row : row + side, col : col + side]
        yield Block("lulc", 0, row, col, *part.shape), part


@pytest.mark.parametrize("side", [3, 7, 8, 50])
def test_classes_of_windows_agree_with_a_recount_whatever_the_blocks(side: int) -> None:
    rng = np.random.default_rng(side)
    pixels = rng.choice(np.array([1, 2, 5, 9, 3, 200], np.uint8), (24, 31))
    bounds = Bounds(0, 0, 310, 240)
    for geometry in (WindowGeometry(80, 80, 50), WindowGeometry(30, 50, 60)):
        lattice = WindowLattice(geometry, bounds, 32632)
        found = count_classes(pieces(pixels, side), lattice, 10, side)
        for index, (left, top) in enumerate(zip(*lattice.corners(), strict=True)):
            rows = slice((240 - top) // 10, (240 - top + geometry.sample_m) // 10)
            window = pixels[rows, left // 10 : (left + geometry.sample_m) // 10]
            codes, counts = np.unique(window, return_counts=True)
            assert found["lulc"][index] == codes[counts.argmax()]
            assert found["majority_px"][index] == counts.max()
            for code in CLASS_NAMES:
                assert found[f"class_{code}_px"][index] == np.sum(window == code)
            assert found["class_other_px"][index] == np.sum((window == 3) | (window == 200))
    assert {
        len(column) for column in count_classes([], WindowLattice(geometry, bounds, 32632), 10, 8).values()
    } == {len(lattice)}


def test_counts_of_a_grid_start_at_nothing() -> None:
    lattice = WindowLattice(WindowGeometry(20, 20, 20), Bounds(0, 0, 40, 40), 32632)
    rows, columns = lattice.rows("sample", 10), lattice.columns("sample", 10)
    grid = CellGrid([rows], [columns])
    counts = CellCounts(grid)
    assert counts.windows(rows, columns).tolist() == [[0, 0], [0, 0]]
    counts.put((slice(0, 1), slice(1, 2)), np.array([[3]], np.int32))
    assert counts.windows(rows, columns).tolist() == [[0, 3], [0, 0]]


# ---------------------------------------------------------------- rules of land cover


@pytest.mark.parametrize(
    ("purity", "asked", "broken"),
    [
        (0.5, None, ["forbidden_class", "class_excluded"]),
        (0.5, 0.96, ["forbidden_class", "impure", "class_excluded"]),
    ],
)
def test_each_rule_says_which_windows_break_it(purity: float, asked: float | None, broken: list[str]) -> None:
    """Of 100 pixels: one of snow and 95 of the class that is not kept; then all of a class that is."""
    counts = {9: np.array([1, 0]), 8: np.array([95, 0]), 5: np.array([4, 100])}
    chips = ChipsConfig(sample_size=100, chip_size=100, min_purity=purity, classes=(5,), forbidden=(0, 9))
    columns = land_cover_columns(counts, 2)
    rules = list(land_cover_rules(columns, 100, chips, asked))
    assert [str(rule) for rule, _ in rules] == ["nodata", "forbidden_class", "impure", "class_excluded"]
    assert [str(rule) for rule, windows in rules if windows[0]] == broken
    assert not any(windows[1] for _, windows in rules)
    none = land_cover_columns({}, 2)
    assert {name: column.tolist() for name, column in none.items()} == {name: [0, 0] for name in none}


# ---------------------------------------------------------------- projections


@pytest.mark.parametrize(
    ("lon", "lat", "epsg"),
    [
        (-180, 1, 32601),
        (-174.001, 1, 32601),
        (-174, -1, 32702),
        (-0.001, 0, 32630),
        (0, 0, 32631),
        (6, -0.001, 32732),
        (179.999, 1, 32660),
        (180, 1, 32601),
    ],
)
def test_zones_begin_at_every_sixth_degree(lon: float, lat: float, epsg: int) -> None:
    assert utm_epsg(Point(lon, lat)) == epsg


def test_the_zone_at_the_antimeridian_is_where_most_of_it_lies() -> None:
    east = [(179.9, 1), (-179.5, 1), (-179.5, 1.1), (179.9, 1.1)]
    west = [(179.5, -1), (-179.9, -1), (-179.9, -1.1), (179.5, -1.1)]
    assert [utm_epsg(Polygon(ring)) for ring in (east, west)] == [32601, 32760]


def test_long_edges_are_bent_as_the_projection_bends_them() -> None:
    whole = box(13.3, 50, 16.9, 51)  # its southernmost point lies within an edge
    xs, ys = Transformer.from_crs(4326, 32633, always_xy=True).transform(*whole.segmentize(1e-4).exterior.xy)
    assert project(whole, 32633).bounds == pytest.approx((min(xs), min(ys), max(xs), max(ys)), abs=0.5)


@pytest.mark.parametrize(("south", "north"), [(70, 90), (-90, -70)])
def test_a_ring_round_the_world_is_cut_at_the_antimeridian(south: int, north: int) -> None:
    ring = Polygon([(-179.8, south), (-179.8, north), (179.7, north), (179.7, south)])
    parts = sorted(get_parts(split_at_antimeridian(ring)), key=lambda part: part.bounds)
    expected = [(-180, south, -179.8, north), (179.7, south, 180, north)]
    assert [tuple(np.round(part.bounds, 9)) for part in parts] == expected
    assert sum(part.area for part in parts) == pytest.approx(0.5 * 20)


def test_a_ring_that_only_touches_the_antimeridian_is_one_part() -> None:
    ring = Polygon([(-180, 70), (-180, 71), (179.5, 71), (179.5, 70)])
    found = split_at_antimeridian(ring)
    assert found.geom_type == "Polygon"
    assert found.equals(box(179.5, 70, 180, 71))


@pytest.mark.parametrize("width", [10.0, 179.5, 180.0])
def test_half_of_the_world_and_less_is_as_it_is_written(width: float) -> None:
    whole = box(-90, 0, -90 + width, 1)
    assert split_at_antimeridian(whole).equals(whole)
    both = whole.union(box(-90, 5, -89, 6))
    assert split_at_antimeridian(both).equals(both)


def test_more_than_half_of_the_world_went_the_other_way_round() -> None:
    found = split_at_antimeridian(Polygon([(-90, 0), (90.5, 0), (90.5, 1), (-90, 1)]))
    assert found.area == pytest.approx(179.5)
    assert not found.intersects(box(-80, 0, 80, 1))


EAST, WEST = box(179.7, 50, 180, 51), box(-180, 50, -179.5, 51)


@pytest.mark.parametrize(
    "written",
    [
        box(-180.3, 50, -179.5, 51),
        box(179.7, 50, 180.5, 51),
        box(539.7, 50, 540.5, 51),
        Polygon([(179.7, 50), (-179.5, 50), (-179.5, 51), (179.7, 51)]),
        Polygon([(-179.5, 50), (179.7, 50), (179.7, 51), (-179.5, 51)]),
        MultiPolygon([EAST, WEST]),
        MultiPolygon([EAST, box(180, 50, 180.5, 51)]),
    ],
)
def test_what_crosses_the_antimeridian_is_the_same_however_it_is_written(written: BaseGeometry) -> None:
    found = split_at_antimeridian(written)
    assert found.symmetric_difference(EAST.union(WEST)).area < 1e-9
    assert not spans_all_longitudes(found)


def test_a_hole_stays_where_it_is_in_a_ring_that_crosses() -> None:
    ring, hole = ([(x, y), (-x, y), (-x, y + s), (x, y + s)] for x, y, s in ((178, 50, 2), (179.5, 51, 0.5)))
    found = split_at_antimeridian(Polygon(ring, [hole]))
    assert found.area == pytest.approx(4 * 2 - 1 * 0.5)
    assert not found.intersects(Point(179.8, 51.2))
    assert not found.intersects(Point(-179.8, 51.2))


@pytest.mark.parametrize("ring", [box(-180, 50, 180, 51), box(-180, 80, 180, 90)])
def test_what_spans_all_longitudes_says_so_and_stays(ring: BaseGeometry) -> None:
    assert split_at_antimeridian(ring).equals(ring)
    assert spans_all_longitudes(ring)


def test_only_what_is_near_the_antimeridian_is_searched_beyond_it() -> None:
    assert beyond_antimeridian(box(12, 50, 13, 51)) is None
    east, west = beyond_antimeridian(EAST), beyond_antimeridian(WEST)
    assert east is not None
    assert west is not None
    assert [part.bounds for part in get_parts(east)] == [(-180.3, 50, -180, 51), (-30.01, 50, -30, 51)]
    assert [part.bounds for part in get_parts(west)] == [(-30.01, 50, -30, 51), (180, 50, 180.5, 51)]
