"""What the chip browser shows of rasters without pictures, against the rasters read by GDAL."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import rasterio
from chromium import needs_chromium, open_browser
from numpy.typing import NDArray
from PIL import Image, ImageColor

from chipping.chip import chip
from cube.build.run import build_cubes
from cube.config.models import Config
from cube.config.sensors import CLASS_COLORS
from cube.run.layout import Layout
from cube.run.thread_engine import ThreadEngine
from release import make_release, verify


def layers_of(folder: Path) -> list[dict[str, str]]:
    """Return the layers of all chips, as the page's own data give them, in the order of ids."""
    chips: list[dict[str, str]] = []
    for path in sorted(folder.glob("browse_layers_*.js")):
        text = re.fullmatch(r'gelos\("browse_layers_\d+\.js",(.*)\);\n', path.read_text())
        assert text is not None
        chips += json.loads(text[1])
    return chips


def drawn(picture: str) -> NDArray[Any]:
    with Image.open(io.BytesIO(base64.b64decode(picture))) as image:
        return np.asarray(image.convert("RGBA"))


def test_land_cover_and_heights_are_drawn_of_every_chip(folder: Path) -> None:
    table = pd.read_csv(folder / "gelos_chip_tracker.csv")
    layers = layers_of(folder)
    assert [sorted(one) for one in layers] == [[f"dem_{n:06}", f"lulc_{n:06}"] for n in table["id"]]
    for number, one in enumerate(layers):
        with rasterio.open(folder / f"lulc_{number:06}.tif") as raster:
            codes = raster.read(1)
        colors = drawn(one[f"lulc_{number:06}"])[..., :3]
        for code in np.unique(codes):
            assert (colors[codes == code] == ImageColor.getrgb(CLASS_COLORS[int(code)])).all()


def test_a_browser_that_was_changed_is_a_fault_and_one_that_is_absent_is_none(copy: Path) -> None:
    page = copy / "browse.html"
    page.write_text(page.read_text() + " ")
    (copy / "browse_more.js").write_text("")
    assert [(fault.file, fault.message[:24]) for fault in verify(copy)] == [
        ("browse.html", "its sha256 is not the on"),
        ("browse_more.js", "is not named in SHA256SU"),
    ]
    (copy / "browse_more.js").unlink()
    for path in copy.glob("browse*"):
        path.unlink()
    sums = (copy / "SHA256SUMS").read_text().splitlines(keepends=True)
    (copy / "SHA256SUMS").write_text("".join(line for line in sums if "  browse" not in line))
    assert verify(copy) == []  # one that was made before there was a browser


@pytest.mark.slow
@needs_chromium
def test_the_demo_shows_four_dates_of_three_sensors_and_what_is_not_clear(
    demo: Config, demo_config: Callable[..., Config], tmp_path: Path
) -> None:
    config = demo_config(tmp_path, "chips.masks=true", "chips.min_clear=0.5", "chips.max_per_class=5")
    lock = shutil.ignore_patterns(".lock")
    working = Layout.of(config).working.path
    shutil.copytree(Layout.of(demo).working.path, working, copy_function=os.link, ignore=lock)
    build_cubes(config, ThreadEngine())
    chip(config)
    folder = Path(make_release(config).folder)
    table = pd.read_csv(folder / "gelos_chip_tracker.csv", dtype={"lulc": str})
    layers = layers_of(folder)
    cloudy = 0
    for number, row in table.iterrows():
        for name in row["s2l2a_paths"].split(","):
            with rasterio.open(folder / name) as raster:
                codes = raster.read(raster.descriptions.index("SCL") + 1)
            unclear = ~np.isin(codes, [2, 4, 5, 6, 11])
            alpha = drawn(layers[int(str(number))][name.removesuffix(".tif")])[..., 3]
            np.testing.assert_array_equal(alpha > 0, unclear)
            cloudy += int(unclear.any())
    assert cloudy > 0
    with open_browser() as page:
        page.show(1280)
        page.open(folder / "browse.html")
        page.click("#cards a")
        page.wait("[...document.querySelectorAll('.frame img')].every((one) => one.naturalWidth > 0)")
        rows = page.evaluate("[...document.querySelectorAll('.shots')].map((one) => one.children.length)")
        assert rows == [4, 4, 4, 2]
        assert page.evaluate("document.querySelectorAll('.over.unclear').length") == 8
        page.click(".switches label:nth-child(3) input")
        assert not page.evaluate("document.querySelector('.over.unclear').checkVisibility()")
        assert page.errors == []
