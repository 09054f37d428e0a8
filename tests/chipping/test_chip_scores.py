"""Windows and scores against a recount that looks at one window at a time."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from chip_cubes import (
    TIMES,
    clean_arrays,
    cube_path,
    make_config,
    put_block_records,
    put_cube,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from chipping.chip import chip, score_cubes
from chipping.masks import MaskSettings, clear_pixels, mask_settings
from chipping.scores import ScoreTable
from cube.config.models import Config
from cube.config.reading import load_config
from cube.config.sensor_models import CloudRule
from cube.config.sensors import SENSORS
from cube.errors import StoreError
from cube.run.thread_engine import ThreadEngine
from cube.windows.counts import CellCounts, CellGrid, count_codes, count_true
from cube.windows.grid import Block, Bounds
from cube.windows.lattice import WindowGeometry, WindowLattice

tens = st.integers(1, 12).map(lambda n: 10 * n)


@st.composite
def geometries(draw: st.DrawFn) -> WindowGeometry:
    """Windows on a 10 m grid, with and without a margin, overlapping or apart."""
    sample = draw(tens)
    return WindowGeometry(sample, sample + 2 * draw(st.integers(0, 4)) * 10, draw(tens))


@st.composite
def boxes(draw: st.DrawFn) -> Bounds:
    """Boxes of up to 20 x 20 pixels of 10 m, anywhere."""
    left, bottom = draw(st.integers(-60, 60)) * 10, draw(st.integers(-60, 60)) * 10
    return Bounds(left, bottom, left + draw(st.integers(1, 20)) * 10, bottom + draw(st.integers(1, 20)) * 10)


@settings(deadline=None, max_examples=60)
@given(geometries(), boxes())
def test_lattice_holds_every_window_whose_chip_is_inside_and_no_other(
    geometry: WindowGeometry, box: Bounds
) -> None:
    found = set(
        zip(*(edges.tolist() for edges in WindowLattice(geometry, box, 32632).corners()), strict=True)
    )
    expected = set()
    for left in range(box.left - 10, box.right + 10, 10):
        for top in range(box.bottom - 10, box.top + 10, 10):
            chip = geometry.bounds("chip", left, top)
            inside = (
                box.left <= chip.left
                and chip.right <= box.right
                and box.bottom <= chip.bottom
                and chip.top <= box.top
            )
            if inside and left % geometry.stride_m == 0 and top % geometry.stride_m == 0:
                expected.add((left, top))
    assert found == expected


@settings(deadline=None, max_examples=60)
@given(geometries(), boxes(), st.integers(3, 30), st.integers(0, 2**32 - 1), st.integers(1, 255))
def test_counts_agree_with_a_recount_whatever_blocks_the_pixels_come_in(
    geometry: WindowGeometry, box: Bounds, side: int, seed: int, codes: int
) -> None:
    lattice = WindowLattice(geometry, box, 32632)
    if not len(lattice):
        return
    height, width = box.height // 10, box.width // 10
    pixels = np.random.default_rng(seed).integers(0, codes, (height, width), dtype=np.uint8)
    spans = [(lattice.rows(part, 10), lattice.columns(part, 10)) for part in ("sample", "chip")]
    grid = CellGrid(
        [s[0] for s in spans], [s[1] for s in spans], range(0, height, side), range(0, width, side)
    )
    counts: dict[int, CellCounts] = {}
    odd = CellCounts(grid)
    for row in range(0, height, side):
        for col in range(0, width, side):
            block = Block("lulc", 0, row, col, min(side, height - row), min(side, width - col))
            cut = grid.cut(block)
            if cut is None:
                continue
            part = pixels[block.roi]
            odd.put(cut.cells, count_true(part % 2 == 1, cut.row_edges, cut.column_edges))
            for code, values in count_codes(part, cut.row_edges, cut.column_edges).items():
                counts.setdefault(code, CellCounts(grid)).put(cut.cells, values)
    for rows, columns in spans:
        odd_windows = odd.windows(rows, columns)
        windows = {code: count.windows(rows, columns) for code, count in counts.items()}
        for r, (top, bottom) in enumerate(zip(*rows, strict=True)):
            for c, (left, right) in enumerate(zip(*columns, strict=True)):
                window = pixels[top:bottom, left:right]
                assert odd_windows[r, c] == np.sum(window % 2 == 1)
                found = {code: int(count[r, c]) for code, count in windows.items()}
                expected = dict(
                    zip(*map(np.ndarray.tolist, np.unique(window, return_counts=True)), strict=True)
                )
                assert {code: count for code, count in found.items() if count} == expected


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 3),
    st.lists(st.integers(0, 15), max_size=4, unique=True),
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(0, 2**32 - 1),
)
def test_landsat_is_clear_where_no_cloud_bit_is_near(
    buffer: int, bits: list[int], height: int, width: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    mask = np.where(rng.random((height, width)) < 0.7, 64, rng.integers(0, 2**16, (height, width))).astype(
        np.uint16
    )
    rule = CloudRule("qa_pixel", cloudy_bits=tuple(bits), buffer_px=buffer)
    found = clear_pixels(mask, rule, SENSORS["lc2l2"])
    for row in range(height):
        for col in range(width):
            near = mask[max(row - buffer, 0) : row + buffer + 1, max(col - buffer, 0) : col + buffer + 1]
            cloudy = any((near >> bit & 1).any() for bit in bits)
            assert found[row, col] == (not cloudy and not mask[row, col] & 1)


def test_sentinel_2_is_clear_where_its_code_is_and_landsat_without_a_buffer_where_no_bit_is() -> None:
    scl = np.array([[4, 5, 0, 255]], np.uint8)
    codes = CloudRule("SCL", clear_codes=(4, 11))
    assert clear_pixels(scl, codes, SENSORS["s2l2a"]).tolist() == [[True, False, False, False]]
    bits = CloudRule("qa_pixel", cloudy_bits=(3, 15))
    quality = np.array([[64, 8, 64, 1 << 15, 64, 1, 65, 0]], np.uint16)
    expected = [True, False, True, False, True, False, False, True]
    assert clear_pixels(quality, bits, SENSORS["lc2l2"]).tolist() == [expected]


def test_what_makes_a_pixel_valid_and_clear_is_what_the_config_says(tmp_path: Path) -> None:
    make_config(tmp_path)
    settings = ["s2l2a.clear=[5, 4]", "lc2l2.cloud_bits=[4, 1]", "lc2l2.cloud_buffer_px=2"]
    s2l2a, s1rtc, lc2l2, dem, lulc = mask_settings(load_config(tmp_path / "config.yaml", settings))
    assert s2l2a == MaskSettings("s2l2a", ("B02", "B03", "B04"), CloudRule("SCL", clear_codes=(4, 5)))
    assert lc2l2 == MaskSettings(
        "lc2l2", ("blue", "green", "red"), CloudRule("qa_pixel", cloudy_bits=(1, 4), buffer_px=2)
    )
    assert s1rtc == MaskSettings("s1rtc", ("vv", "vh"))
    assert dem == MaskSettings("dem", ("elevation",))
    assert lulc == MaskSettings("lulc", ("lulc",))
    without = load_config(tmp_path / "config.yaml", ["s2l2a.cloud_band=null", "lc2l2.cloud_band=null"])
    assert [one.cloud_rule for one in mask_settings(without)] == [None] * 5


def test_nodata_and_nan_are_not_valid() -> None:
    b02, red, vv = (
        SENSORS[key].band(name) for key, name in (("s2l2a", "B02"), ("lc2l2", "red"), ("s1rtc", "vv"))
    )
    for band in (b02, red):
        assert band.is_nodata(np.array([0, 1, 65_535], np.uint16)).tolist() == [True, False, False]
    assert vv.is_nodata(np.array([np.nan, 0, -1], np.float32)).tolist() == [True, False, False]


def _faulty(config: Config, box: Bounds, rng: np.random.Generator) -> dict[str, dict[str, np.ndarray]]:
    """Pixels with every fault there is."""
    arrays = clean_arrays(config, box, rng)
    arrays["lulc"]["lulc"] = rng.choice(
        np.array([0, 1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 200], np.uint8), arrays["lulc"]["lulc"].shape
    )
    for key, bands in arrays.items():
        for name, values in bands.items():
            hole = rng.random(values.shape) < 0.02
            if name == "SCL":
                values[:] = rng.integers(0, 12, values.shape)
            elif name == "qa_pixel":
                values[hole] = rng.integers(0, 2**16, values.shape)[hole]
            elif key != "lulc":
                values[hole] = np.nan if values.dtype.kind == "f" else 0
    return arrays


def _recount(
    config: Config, table: ScoreTable, arrays: dict[str, dict[str, np.ndarray]], box: Bounds
) -> None:
    geometry = table.geometry
    for index, (left, top) in enumerate(zip(table.columns["left_m"], table.columns["top_m"], strict=True)):
        sample, chip = (geometry.bounds(part, int(left), int(top)) for part in ("sample", "chip"))

        def cut(values: np.ndarray, square: Bounds, resolution: int) -> np.ndarray:
            rows = slice((box.top - square.top) // resolution, (box.top - square.bottom) // resolution)
            columns = slice((square.left - box.left) // resolution, (square.right - box.left) // resolution)
            return values[..., rows, columns]

        classes = cut(arrays["lulc"]["lulc"], sample, 10)
        codes, counts = np.unique(classes, return_counts=True)
        assert table.columns["lulc"][index] == codes[counts.argmax()]
        assert table.columns["majority_px"][index] == counts.max()
        for code in (0, 1, 2, 4, 5, 7, 8, 9, 10, 11):
            assert table.columns[f"class_{code}_px"][index] == np.sum(classes == code)
        assert table.columns["class_other_px"][index] == np.sum(np.isin(classes, (3, 200)))
        for key, bands in arrays.items():
            resolution = config.sensors[key].resolution
            wanted = [values for name, values in bands.items() if name not in ("SCL", "qa_pixel")]
            valid = np.logical_and.reduce([~np.isnan(v) if v.dtype.kind == "f" else v != 0 for v in wanted])
            clear = valid.copy()
            if key == "s2l2a":
                clear &= np.isin(bands["SCL"], (2, 4, 5, 6, 11))
            if key == "lc2l2":
                padded = np.pad(bands["qa_pixel"], ((0, 0), (1, 1), (1, 1)))
                near = [
                    padded[:, r : r + clear.shape[1], c : c + clear.shape[2]]
                    for r in range(3)
                    for c in range(3)
                ]
                clear &= ~np.logical_or.reduce([(q & 0b11110) != 0 for q in near]) & (
                    bands["qa_pixel"] & 1 == 0
                )
            for date in range(1 if key in ("dem", "lulc") else len(TIMES)):
                of_date = (lambda mask: mask) if valid.ndim == 2 else (lambda mask, date=date: mask[date])
                assert (
                    table.columns[f"{key}_{date}_valid_px"][index]
                    == cut(of_date(valid), chip, resolution).sum()
                )
                assert (
                    table.columns[f"{key}_{date}_clear_px"][index]
                    == cut(of_date(clear), sample, resolution).sum()
                )


@settings(max_examples=8, deadline=None)
@given(
    st.sampled_from([(240, 240, None), (480, 600, 240), (240, 480, 960), (960, 960, None), (60, 60, 480)]),
    st.integers(0, 2**32 - 1),
    st.sampled_from([(1, 1), (2, 1), (1, 3)]),
)
def test_scores_of_a_cube_agree_with_a_recount(
    sizes: tuple[int, int, int | None], seed: int, side: tuple[int, int]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        config = make_config(Path(folder), sample_size=sizes[0], chip_size=sizes[1], stride=sizes[2])
        box = Bounds(480_000, 5_990_400, 480_000 + 960 * side[0], 5_990_400 + 960 * side[1])
        arrays = _faulty(config, box, np.random.default_rng(seed))
        put_cube(config, box, arrays)
        (table,) = score_cubes(config, ThreadEngine(1)).tables
        _recount(config, table, arrays, box)


def test_blocks_are_walked_to_the_last_edge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("chipping.scores.BLOCK_M", 480)
    monkeypatch.setattr("cube.windows.grid.BLOCK_M", 480)
    config = make_config(tmp_path, sample_size=120, chip_size=240, stride=60)
    box = Bounds(480_000, 5_990_400, 481_920, 5_990_400 + 960)
    arrays = _faulty(config, box, np.random.default_rng(7))
    monkeypatch.undo()
    put_cube(config, box, arrays)
    monkeypatch.setattr("chipping.scores.BLOCK_M", 690)
    (table,) = score_cubes(config, ThreadEngine(1)).tables
    _recount(config, table, arrays, box)


def test_a_cube_smaller_than_a_chip_has_no_windows(tmp_path: Path) -> None:
    config = make_config(tmp_path, sample_size=960, chip_size=1920)
    box = Bounds(480_000, 5_990_400, 480_960, 5_991_360)
    put_cube(config, box, clean_arrays(config, box, np.random.default_rng(0)))
    (table,) = score_cubes(config, ThreadEngine(1)).tables
    assert len(table) == 0
    assert set(table.columns) >= {"lulc", "s2l2a_1_clear_px", "dem_0_valid_px"}


@pytest.mark.parametrize(
    ("array", "block"),
    [("lulc/lulc", "lulc-0-0-0"), ("s2l2a/SCL", "s2l2a-0-0-0"), ("lc2l2/qa_pixel", "lc2l2-1-0-0"),
     ("s1rtc/vh", "s1rtc-1-0-0"), ("dem/elevation", "dem-0-0-0")],
)  # fmt: skip
def test_pixels_that_are_not_what_was_written_are_noticed(tmp_path: Path, array: str, block: str) -> None:
    config = make_config(tmp_path, min_clear=0)
    box = Bounds(480_000, 5_990_400, 480_960, 5_991_360)
    arrays = clean_arrays(config, box, np.random.default_rng(0))
    put_cube(config, box, arrays)
    put_block_records(config, arrays)
    (table,) = score_cubes(config, ThreadEngine(1)).tables
    assert len(table) == 4
    shutil.rmtree(Path(config.directory.working) / "v1" / "scores")
    chunks = cube_path(config) / array / "c"
    shutil.rmtree(chunks / block.split("-")[1] if "time" in _dims(chunks.parent) else chunks)
    with pytest.raises(StoreError) as caught:
        score_cubes(config, ThreadEngine(1))
    assert str(caught.value) == (
        f"AOI 000000: {array} block {block} differs from what was written; delete its cube, and build it again"
    )


def _dims(array: Path) -> list[str]:
    return list(json.loads((array / "zarr.json").read_text())["dimension_names"])


@pytest.mark.parametrize("array", ["lulc/lulc", "s2l2a/B02", "lc2l2/qa_pixel"])
def test_a_chunk_that_was_cut_off_is_one_line(tmp_path: Path, array: str) -> None:
    config = make_config(tmp_path)
    box = Bounds(480_000, 5_990_400, 480_960, 5_991_360)
    put_cube(config, box, clean_arrays(config, box, np.random.default_rng(0)))
    score_cubes(config, ThreadEngine(1))
    folder = cube_path(config) / array / "c"
    chunk = next(path for path in sorted(folder.rglob("*")) if path.is_file())
    chunk.write_bytes(chunk.read_bytes()[:-7])

    def said(verb: Callable[[], object]) -> str:
        with pytest.raises(StoreError) as caught:
            verb()
        return str(caught.value)

    text = said(lambda: score_cubes(make_config(tmp_path, stride=240), ThreadEngine(1)))
    assert text.startswith(f"AOI 000000: {array}: cannot be read (")
    assert "\n" not in text
    if array != "lc2l2/qa_pixel":  # masks are not exported
        assert said(lambda: chip(make_config(tmp_path), ThreadEngine(1))) == text


def test_a_record_of_blocks_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    box = Bounds(480_000, 5_990_400, 480_960, 5_991_360)
    put_cube(config, box, clean_arrays(config, box, np.random.default_rng(0)))
    record = Path(config.directory.working) / "blocks" / f"{cube_path(config).stem}.json"
    record.parent.mkdir()
    for text in ("[1]", "{", '{"lulc-0-0-0": 1}'):
        record.write_text(text)
        with pytest.raises(StoreError, match=rf"AOI 000000: .*{record.name}: cannot be read"):
            score_cubes(config, ThreadEngine(1))


def test_scores_are_made_again_only_when_what_they_follow_from_changes(tmp_path: Path) -> None:
    config = make_config(tmp_path)
    box = Bounds(480_000, 5_990_400, 480_960, 5_991_360)
    put_cube(config, box, clean_arrays(config, box, np.random.default_rng(0)))
    file = Path(config.directory.working) / "v1" / "scores" / "aoi_000000.parquet"

    def made(**chips: object) -> tuple[int, bytes]:
        score_cubes(make_config(tmp_path, **chips), ThreadEngine(1))
        return file.stat().st_ino, file.read_bytes()

    first = made()
    assert made(min_purity=0.5, classes=[1], max_per_class=3) == first
    other = made(sample_size=240, chip_size=240)
    assert other[0] != first[0]
    assert made()[1] == first[1]
    file.write_bytes(b"not a table")
    assert made()[1] == first[1]
    for place in range(0, len(first[1]), 389):
        file.write_bytes(first[1][:place] + bytes(160) + first[1][place + 160 :])
        made()
