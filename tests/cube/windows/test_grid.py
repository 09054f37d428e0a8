"""The lattice and the grids on it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st
from pyproj import Transformer
from shapely import box

from cube.config.fields import LATTICE_M
from cube.errors import GridError
from cube.windows.grid import Bounds, aoi_bounds, blocks_of, geobox_for, overlap_bounds

CELLS = st.integers(-400, 400)
SIDES = st.integers(1, 60)


@given(left=CELLS, bottom=CELLS, width=SIDES, height=SIDES, resolution=st.sampled_from([10, 20, 30, 60]))
def test_grids_of_a_box_share_their_outer_edges(
    left: int, bottom: int, width: int, height: int, resolution: int
) -> None:
    bounds = Bounds(*(LATTICE_M * n for n in (left, bottom, left + width, bottom + height)))
    geobox = geobox_for(bounds, 32633, resolution)
    edges = (bounds.left, bounds.bottom, bounds.right, bounds.top)
    assert tuple(geobox.boundingbox.bbox) == edges
    assert rasterio.transform.array_bounds(*geobox.shape, geobox.affine) == edges


@given(width=SIDES, height=SIDES, dates=st.integers(1, 3), resolution=st.sampled_from([10, 30]))
def test_blocks_cover_every_pixel_once_in_whole_chunks(
    width: int, height: int, dates: int, resolution: int
) -> None:
    geobox = geobox_for(Bounds(0, 0, width * LATTICE_M, height * LATTICE_M), 32633, resolution)
    hits = np.zeros((dates, *geobox.shape), "uint8")
    names = set()
    for block in blocks_of("s2l2a", dates, geobox):
        hits[(block.time, *block.roi)] += 1
        names.add(block.name)
        assert block.row % (7680 // resolution) == 0
        assert block.col % (7680 // resolution) == 0
        assert max(block.height, block.width) * resolution <= 30720
    assert (hits == 1).all()
    assert len(names) == sum(1 for _ in blocks_of("s2l2a", dates, geobox))


@given(
    lon=st.floats(12.5, 17.5),
    lat=st.floats(-60, 60),
    width=st.floats(0.005, 0.3),
    height=st.floats(0.005, 0.3),
)
def test_an_aoi_box_is_the_smallest_on_the_lattice(
    lon: float, lat: float, width: float, height: float
) -> None:
    aoi = box(lon, lat, lon + width, lat + height)
    bounds = aoi_bounds(aoi, 32633)
    edge = aoi.segmentize(0.001)
    east, north = Transformer.from_crs(4326, 32633, always_xy=True).transform(*edge.exterior.xy)
    assert bounds.left <= min(east) + 1
    assert bounds.right >= max(east) - 1
    assert bounds.bottom <= min(north) + 1
    assert bounds.top >= max(north) - 1
    assert bounds.width < max(east) - min(east) + 2 * LATTICE_M
    assert bounds.height < max(north) - min(north) + 2 * LATTICE_M
    assert all(edge % LATTICE_M == 0 for edge in (bounds.left, bounds.bottom, bounds.right, bounds.top))


def test_an_overlap_box_lies_within_what_is_shared_and_around_the_aoi() -> None:
    to_lonlat = Transformer.from_crs(32633, 4326, always_xy=True)
    corners = [to_lonlat.transform(x, y) for x, y in ((399_960, 5_490_240), (509_760, 5_600_040))]
    shared = box(*corners[0], *corners[1])
    aoi = box(*to_lonlat.transform(410_000, 5_500_000), *to_lonlat.transform(414_000, 5_503_000))
    whole = overlap_bounds(shared, aoi, 32633, None)
    assert whole.width > 100_000
    capped = overlap_bounds(shared, aoi, 32633, 30_720)
    assert (capped.width, capped.height) == (30_720, 30_720)
    assert capped.left <= 410_000
    assert capped.right >= 414_000
    assert capped.left >= whole.left
    assert capped.bottom >= whole.bottom


@given(
    lon=st.floats(12.5, 16.0),
    lat=st.floats(-60, 60),
    width=st.floats(0.05, 1.5),
    height=st.floats(0.05, 1.5),
    place=st.tuples(st.floats(0, 1), st.floats(0, 1)),
    max_side_m=st.none() | st.integers(LATTICE_M, 60_000),
)
def test_an_overlap_box_is_the_largest_within_what_is_shared(
    lon: float, lat: float, width: float, height: float, place: tuple[float, float], max_side_m: int | None
) -> None:
    shared = box(lon, lat, lon + width, lat + height)
    x, y = lon + place[0] * width, lat + place[1] * height
    bounds = overlap_bounds(shared, box(x, y, x + 0.01, y + 0.01), 32633, max_side_m)
    east, north = Transformer.from_crs(4326, 32633, always_xy=True).transform(
        *shared.segmentize(0.001).exterior.xy
    )
    for low, high, least, most in (
        (bounds.left, bounds.right, min(east), max(east)),
        (bounds.bottom, bounds.top, min(north), max(north)),
    ):
        assert low % LATTICE_M == high % LATTICE_M == 0
        assert least - 1 <= low < high <= most + 1
        cap = math.inf if max_side_m is None else max_side_m // LATTICE_M
        fewest, most_cells = (
            math.floor((most + metre) / LATTICE_M) - math.ceil((least - metre) / LATTICE_M)
            for metre in (-1, 1)
        )
        assert min(fewest, cap) <= (high - low) // LATTICE_M <= min(most_cells, cap)


def test_a_shared_area_without_a_whole_cell_says_so() -> None:
    with pytest.raises(GridError, match="no whole cell"):
        overlap_bounds(box(12.0, 50.0, 12.005, 50.005), box(12.0, 50.0, 12.005, 50.005), 32633, None)


def test_an_empty_box_is_refused() -> None:
    with pytest.raises(GridError, match="width and a height"):
        Bounds(0, 0, 0, 960)
