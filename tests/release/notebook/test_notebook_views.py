"""What a notebook shows of a release, a chip, a config and a plan; and the table of cubes."""

from __future__ import annotations

import base64
import io
import pickle
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio.warp
import xarray as xr
from PIL import Image
from release_landscape import VERSION, Land, working_folder

from chipping.finished import sealed_cubes
from cube.config.models import Config
from cube.config.reading import load_config
from cube.testing.cubes import plan_from_times
from cube.windows.grid import Bounds
from release import ReleaseError, make_release, open_cubes, open_release


class Balanced(HTMLParser):
    """Elements of a piece of HTML, each closed by its own end."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        del attrs
        self.tags.append(tag)
        if tag not in {"img", "br"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += f"{data}\n"


def pictures(text: str) -> list[bytes]:
    found = re.findall(r"src='data:image/png;base64,([^']*)'", text)
    return [base64.b64decode(one) for one in found]


def test_a_release_shows_its_counts_and_a_picture_of_each_class(folder: Path, archive: Path) -> None:
    counts = pd.read_csv(folder / "gelos_chip_tracker.csv")["category"].value_counts()
    for path in (folder, archive):
        shown = open_release(path)._repr_html_()
        read = Balanced(shown)
        words = read.text.split("\n")
        for name, count in counts.items():
            place = next(number for number, word in enumerate(words) if word.endswith(f" {name}"))
            assert words[place + 1] == str(count)
        images = pictures(shown)
        assert len(images) == len(counts)
        there = {path.read_bytes() for path in folder.glob("s2l2a_*.png")}
        assert set(images) <= there
        assert shown == open_release(path)._repr_html_()


def test_a_chip_shows_all_dates_of_all_sensors(folder: Path) -> None:
    chip = open_release(folder).chip(3)
    shown = chip._repr_html_()
    read = Balanced(shown)
    for date in ("s2l2a 2023-01-15", "s1rtc 2023-05-12", "lc2l2 2023-05-01", "dem", "lulc"):
        assert date in read.text.split("\n")
    images = pictures(shown)
    assert len(images) == 3 * 2 + 2
    assert images[0] == (folder / "s2l2a_000003_20230115.png").read_bytes()
    with Image.open(io.BytesIO(images[-1])) as land_cover:
        assert land_cover.size == (30, 30)
    assert isinstance(chip, dict)
    assert set(pickle.loads(pickle.dumps(chip))) == set(chip)


def test_printed_they_say_what_they_are_in_few_lines(folder: Path) -> None:
    opened = open_release(folder)
    text = repr(opened)
    assert "\n" not in text
    table = pd.read_csv(folder / "gelos_chip_tracker.csv")
    for words in (f"{len(table)} chips of", *table["category"], "s2l2a, s1rtc, lc2l2, dem, lulc"):
        assert words in text
    title, *lines = repr(opened.chip(3)).splitlines()
    assert title == f"<Chip 3, {table['category'][3]}, {table['cell'][3]}>"
    shape = opened.read(3, "s2l2a").shape
    assert lines[0] == "  s2l2a: int16, time {}, band {}, y {}, x {}".format(*shape)
    assert [line.split(":")[0].strip() for line in lines] == list(opened.sensors)


def test_a_picture_that_cannot_be_read_is_a_word(copy: Path) -> None:
    (copy / "s2l2a_000003_20230115.png").unlink()
    (copy / "dem_000003.tif").write_bytes(b"nothing")
    shown = open_release(copy).chip(3)._repr_html_()
    assert shown.count("<i>unreadable</i>") == 2
    assert len(pictures(shown)) == 6


def test_what_is_shown_is_escaped_and_hides_keys(tmp_path: Path) -> None:
    config = working_folder(tmp_path, Land({1: 2}), {"release.thumbnail_url": "<script>alert(1)</script>"})
    shown = Balanced(config._repr_html_())
    assert "script" not in shown.tags
    assert "<script>alert(1)</script>" in shown.text
    assert f"tiny {VERSION}" in shown.text
    secret = load_config(config.path, ["directory.storage_options={key: abc, secret: sesame}"])
    text = secret._repr_html_()
    assert "sesame" not in text
    assert "key, secret (hidden)" in text
    Balanced(open_release(make_release(config).folder)._repr_html_())


def test_a_plan_shows_its_scenes(demo_config: Callable[..., Config], tmp_path: Path) -> None:
    from datetime import UTC, datetime

    times = [datetime(2023, month, 10, 10, tzinfo=UTC) for month in (2, 5, 8, 11)]
    config = demo_config(tmp_path)
    plan = plan_from_times(config, Bounds(480_000, 5_760_000, 483_840, 5_763_840), 32633, times, 7)
    shown = Balanced(plan._repr_html_())
    assert "AOI 7" in shown.text
    for date in plan.sensor("s2l2a").dates:
        assert f"{date.time:%Y-%m-%d}" in shown.text
        assert all(scene.id in shown.text for scene in date.scenes)


def test_explore_is_a_map_or_says_what_to_install(folder: Path) -> None:
    opened = open_release(folder)
    try:
        import folium
    except ImportError:
        with pytest.raises(ReleaseError, match=r"type: pip install 'gelos-lc\[explore\]'$"):
            opened.explore()
        return
    page = opened.explore(tiles=None)
    assert isinstance(page, folium.Map)
    text = page.get_root().render()
    assert all(str(cell) in text for cell in opened.table["cell"])


@pytest.fixture(scope="module")
def cubes(demo: Config) -> gpd.GeoDataFrame:
    return open_cubes(demo)


def test_all_cubes_are_one_table(demo: Config, cubes: gpd.GeoDataFrame) -> None:
    infos = {info.aoi_index: info for info in sealed_cubes(demo)}
    assert list(cubes.index) == sorted(infos)
    for index, row in cubes.iterrows():
        tree = row["cube"].open()
        lulc = tree["lulc"]["lulc"].to_numpy()
        for code in np.unique(lulc[lulc > 0]):
            share = np.count_nonzero(lulc == code) / np.count_nonzero(lulc)
            assert row[f"share_{code}"] == pytest.approx(share)
        s2 = tree["s2l2a"]
        assert row["s2l2a_dates"] == [str(time)[:10].replace("-", "") for time in s2["time"].to_numpy()]
        assert row["s2l2a_scene_ids"] == s2["scene_ids"].to_numpy().tolist()
        half = 5
        left, right = float(s2["x"].min()) - half, float(s2["x"].max()) + half
        bottom, top = float(s2["y"].min()) - half, float(s2["y"].max()) + half
        wanted = rasterio.warp.transform_bounds(row["epsg"], 4326, left, bottom, right, top)
        np.testing.assert_allclose(row["geometry"].bounds, wanted, atol=1e-4)
        assert (row["width_m"], row["height_m"]) == (right - left, top - bottom)
        assert infos[index].epsg == row["epsg"]


def test_rows_open_lazily_and_travel(cubes: gpd.GeoDataFrame) -> None:
    cube = pickle.loads(pickle.dumps(cubes.iloc[0]["cube"]))
    tree = cube.open()
    assert isinstance(tree, xr.DataTree)
    assert not isinstance(tree["s2l2a"]["B04"].variable._data, np.ndarray)
    assert str(cube).startswith("LazyCube(")
    ndvi = (tree["s2l2a"]["B08"] - tree["s2l2a"]["B04"]) / (tree["s2l2a"]["B08"] + tree["s2l2a"]["B04"])
    assert ndvi[:, :32, :32].mean(("y", "x")).compute().shape == (4,)


def test_without_shares_no_pixel_is_read(demo: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError

    monkeypatch.setattr("release.notebook.cubes.read_array", refuse)
    table = open_cubes(demo, shares=False)
    assert len(table)
    assert not [name for name in table if name.startswith("share_")]
