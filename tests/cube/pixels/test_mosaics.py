"""Mosaics and the offset of Sentinel-2, pixel by pixel, against the rules as the docs state them."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from test_loader import GRID_30, read, scene

from cube.config.sensors import SENSORS
from cube.pixels.access import Access
from cube.pixels.read import harmonize_dn, read_band, read_bands
from cube.scenes.items import AssetRef, Scene
from cube.testing import write_cog

LC2L2 = SENSORS["lc2l2"]
HELD = ("", "g", "r", "gr")
"""Which bands of a pixel a scene may hold: green, red, both, or none."""


def landsat_scene(folder: Path, name: str, layers: dict[str, NDArray[np.uint16]]) -> Scene:
    """Write a scene's bands; a band's nodata is 0, that of the quality band 1."""
    assets = {}
    for band, values in layers.items():
        path = folder / f"{name}_{band}.tif"
        write_cog(path, values, GRID_30, nodata=1 if band == "qa_pixel" else 0)
        assets[band] = AssetRef(band, str(path))
    return replace(scene("", "lc2l2", "red", name), assets=assets)


def read_all(scenes: tuple[Scene, ...], bands: tuple[str, ...]) -> dict[str, NDArray[np.uint16]]:
    found = read_bands(scenes, LC2L2, bands, GRID_30, Access(), resampling="cubic", harmonize=False)
    return dict(found)


def test_the_first_scene_with_all_bands_gives_a_pixel_and_else_the_first_with_any(tmp_path: Path) -> None:
    """Every way in which three scenes can hold two bands of a pixel, side by side."""
    ways = list(itertools.product(HELD, repeat=3))
    made = {name: np.zeros((3, *GRID_30.shape), np.uint16) for name in "gr"}
    for pixel, way in enumerate(ways):
        for number, held in enumerate(way):
            for band in held:
                made[band][number].flat[pixel] = 1000 * (number + 1) + ord(band)
    scenes = tuple(
        landsat_scene(tmp_path, f"scene{n}", {"green": made["g"][n], "red": made["r"][n]}) for n in range(3)
    )
    found = read_all(scenes, ("green", "red"))
    for pixel, way in enumerate(ways):
        whole = [n for n, held in enumerate(way) if held == "gr"]
        some = [n for n, held in enumerate(way) if held]
        chosen = next(iter(whole + some), None)
        for name, band in (("green", "g"), ("red", "r")):
            expected = 0 if chosen is None else made[band][chosen].flat[pixel]
            assert found[name].flat[pixel] == expected, (way, name)


def test_one_band_alone_is_filled_by_the_first_scene_that_holds_it(tmp_path: Path) -> None:
    ways = list(itertools.product((0, 1), repeat=3))
    made = np.zeros((3, *GRID_30.shape), np.uint16)
    for pixel, way in enumerate(ways):
        for number, held in enumerate(way):
            made[number].flat[pixel] = (number + 1) * 1000 * held
    scenes = tuple(landsat_scene(tmp_path, f"scene{n}", {"red": made[n]}) for n in range(3))
    found = read_all(scenes, ("red",))["red"]
    expected = [next((1000 * (n + 1) for n, held in enumerate(way) if held), 0) for way in ways]
    assert found.flat[: len(ways)].tolist() == expected


def test_a_pixel_is_empty_by_its_quality_where_the_bit_of_fill_is_set(tmp_path: Path) -> None:
    """Fill is a bit among others: 1, and 65 too; a quality of 0 says nothing bad."""
    quality = np.full(GRID_30.shape, 64, np.uint16)
    quality.flat[:4] = [1, 65, 0, 64]
    first = {"red": np.full(GRID_30.shape, 7000, np.uint16), "qa_pixel": quality}
    second = {
        "red": np.full(GRID_30.shape, 9000, np.uint16),
        "qa_pixel": np.full(GRID_30.shape, 128, np.uint16),
    }
    scenes = landsat_scene(tmp_path, "a", first), landsat_scene(tmp_path, "b", second)
    found = read_all(scenes, ("red", "qa_pixel"))
    assert found["red"].flat[:5].tolist() == [9000, 9000, 7000, 7000, 7000]
    assert found["qa_pixel"].flat[:5].tolist() == [128, 128, 0, 64, 64]


def test_many_bands_come_in_the_order_in_which_they_are_asked_for(tmp_path: Path) -> None:
    names = ("swir22", "red", "blue", "qa_pixel", "green", "nir08", "swir16")
    layers = {name: np.full(GRID_30.shape, 64 + number, np.uint16) for number, name in enumerate(names)}
    one = landsat_scene(tmp_path, "a", {**layers, "qa_pixel": np.full(GRID_30.shape, 64, np.uint16)})
    found = read_all((one,), names)
    assert list(found) == list(names)
    assert [int(values.max()) for values in found.values()] == [64, 65, 66, 64, 68, 69, 70]


def test_a_date_without_a_scene_is_nodata() -> None:
    for key, name in (("lc2l2", "red"), ("dem", "elevation")):
        band = SENSORS[key].band(name)
        values = read_band((), SENSORS[key], band, GRID_30, Access(), resampling="cubic", harmonize=False)
        expected = np.full(GRID_30.shape, band.nodata, band.dtype)
        np.testing.assert_array_equal(values, expected)
        assert values.dtype == expected.dtype


@pytest.mark.parametrize(
    ("baseline", "lowered"),
    [
        ("00.01", False),
        ("02.14", False),
        ("03.99", False),
        ("04.00", True),
        ("04.01", True),
        ("10.00", True),
        (None, False),
    ],
)
def test_the_offset_is_taken_off_from_baseline_04_00_on(baseline: str | None, lowered: bool) -> None:
    dn = np.array([[0, 1, 999, 1000, 1001, 1002, 11_000, 65_535]], np.uint16)
    properties = {} if baseline is None else {"s2:processing_baseline": baseline}
    found = harmonize_dn(dn, scene("", "s2l2a", "B02", **properties))
    assert found.tolist() == ([[0, 1, 1, 1, 1, 2, 10_000, 64_535]] if lowered else dn.tolist())
    assert found.dtype == np.uint16


def test_classes_have_no_offset(tmp_path: Path) -> None:
    write_cog(tmp_path / "scl.tif", np.full(GRID_30.shape, 9, np.uint8), GRID_30, nodata=0)
    one = scene(tmp_path / "scl.tif", "s2l2a", "SCL", **{"s2:processing_baseline": "05.09"})
    assert (read((one,), "s2l2a", "SCL", GRID_30, harmonize=True) == 9).all()
