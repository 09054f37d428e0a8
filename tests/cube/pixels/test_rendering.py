"""Pictures, recounted pixel by pixel, and looked at for what a person sees in them: water is dark."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray
from PIL import Image

from cube.config.sensors import SENSORS
from cube.pixels.rendering import encode_png, render

S1 = SENSORS["s1rtc"]


def speckled(vv_db: float, vh_db: float, seed: int = 0, side: int = 48) -> dict[str, NDArray[np.float32]]:
    """Return backscatter of one kind of ground, as radar of 4.4 looks sees it."""
    random = np.random.default_rng(seed)
    return {
        name: (10 ** (level / 10) * random.gamma(4.4, 1 / 4.4, (side, side))).astype(np.float32)
        for name, level in (("vv", vv_db), ("vh", vh_db))
    }


def luminance(picture: NDArray[np.uint8]) -> NDArray[np.float64]:
    return np.asarray(picture[..., :3] @ np.array([0.2126, 0.7152, 0.0722]))


def expected_pixel(bands: dict[str, NDArray[np.float32]], row: int, col: int) -> list[int]:
    """Return red, green and blue by the rule's own words."""

    def share(value: float, low: float, high: float) -> float:
        return min(max((value - low) / (high - low), 0), 1)

    def mean(name: str) -> float:
        values = bands[name][max(row - 2, 0) : row + 3, max(col - 2, 0) : col + 3].astype(float)
        return 10 * math.log10(np.nanmean(values))

    vv, vh = mean("vv"), mean("vh")
    red, green = share(vv, -20, -2), share(vh, -26, -8)
    blue = share(vv - vh, 0, 16) * math.sqrt(max(red, green))
    own = [10 * math.log10(bands[name][row, col]) for name in ("vv", "vh")]
    here = (share(own[0], -20, -2) + share(own[1], -26, -8)) / 2
    return [round(255 * min(layer * here / ((red + green) / 2), 1)) for layer in (red, green, blue)]


@pytest.mark.parametrize("ground", [(-8.0, -13.5), (-12.0, -21.0), (-3.0, -12.0)])
def test_colour_is_of_the_square_around_a_pixel_and_brightness_its_own(ground: tuple[float, float]) -> None:
    bands = speckled(*ground)
    bands["vv"][10:14, 20:24] = np.nan
    picture = render(S1, bands)
    assert (picture[10:14, 20:24] == 0).all()
    assert (picture[..., 3] == 0).sum() == 16
    for row, col in ((0, 0), (30, 30), (9, 19), (47, 47), (24, 3)):
        assert picture[row, col, :3].tolist() == pytest.approx(expected_pixel(bands, row, col), abs=1)


def test_water_is_dark_and_not_blue_and_nothing_wraps() -> None:
    water, forest = render(S1, speckled(-17.5, -22.1)), render(S1, speckled(-7.5, -13.5))
    assert luminance(water).mean() < 60
    assert luminance(forest).mean() > 130
    assert water[..., 2].mean() < 45
    town = {name: np.full((8, 8), 1e6, np.float32) for name in ("vv", "vh")}
    assert (render(S1, town)[..., :2] == 255).all()
    nothing = {name: np.zeros((8, 8), np.float32) for name in ("vv", "vh")}
    assert (render(S1, nothing)[..., :3] == 0).all()


def test_real_water_is_darker_than_the_real_forest_beside_it(shared: Path) -> None:
    folder = shared / "real-archive" / "blobs" / "282D_485L_3_3"
    bands = {name: rasterio.open(folder / f"{name}.tif").read(1) for name in ("vv", "vh", "lulc")}
    classes = bands.pop("lulc")
    picture = render(S1, bands)
    water, trees = (luminance(picture)[classes == code].mean() for code in (1, 2))
    assert 2.5 * water < trees
    assert picture[classes == 1][:, 2].mean() < 45


def test_a_png_holds_the_picture() -> None:
    bands = speckled(-8, -14)
    for holes in (False, True):
        if holes:
            bands["vh"][:3] = np.nan
        picture = render(S1, bands)
        with Image.open(io.BytesIO(encode_png(picture))) as opened:
            assert opened.mode == ("RGBA" if holes else "RGB")
            np.testing.assert_array_equal(np.asarray(opened.convert("RGBA")), picture)


def test_classes_have_their_colours_and_heights_are_grey() -> None:
    codes = np.array([[0, 1], [2, 7]], np.uint8)
    picture = render(SENSORS["lulc"], {"lulc": codes})
    assert picture.tolist() == [
        [[0, 0, 0, 0], [0x41, 0x9B, 0xDF, 255]],
        [[0x39, 0x7D, 0x49, 255], [0xC4, 0x28, 0x1B, 255]],
    ]
    heights = np.array([[100, 200], [np.nan, 300]], np.float32)
    picture = render(SENSORS["dem"], {"elevation": heights})
    assert picture[..., 0].tolist() == [[40, 140], [0, 240]]
    assert picture[..., 3].tolist() == [[255, 255], [0, 255]]
