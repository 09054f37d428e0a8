"""The pages of a release in a real browser: what a person sees when they point, click and type."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import geopandas as gpd
import pandas as pd
import pytest
from chromium import Page, needs_chromium, open_browser
from pyproj import Transformer
from release_landscape import read_windows

from cube.config.models import Config

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def browser() -> Iterator[Page]:
    with open_browser() as page:
        yield page


@pytest.fixture
def page(browser: Page) -> Iterator[Page]:
    browser.show(1280)
    yield browser
    assert browser.errors == []


@pytest.fixture(scope="module")
def table(folder: Path) -> pd.DataFrame:
    """The release's own table, read by pandas."""
    return pd.read_csv(folder / "gelos_chip_tracker.csv", dtype={"lulc": str}).set_index("id")


def place_of(page: Page, lon: float, lat: float) -> tuple[float, float]:
    """Return where PROJ's Mercator puts a position on the map as it is shown, CSS pixels."""
    to_mercator = Transformer.from_crs(4326, 3857, always_xy=True)
    at = [float(text) for text in page.evaluate("document.querySelector('#map canvas').dataset.view").split()]
    px_per_m = at[2] / to_mercator.transform(1, 0)[0]
    middle, wanted = to_mercator.transform(at[0], at[1]), to_mercator.transform(lon, lat)
    x, y = page.place("#map canvas")
    return x + (wanted[0] - middle[0]) * px_per_m, y - (wanted[1] - middle[1]) * px_per_m


def test_the_map_tells_of_the_chip_that_is_pointed_at(page: Page, folder: Path, table: pd.DataFrame) -> None:
    page.open(folder / "report.html")
    whole = page.evaluate("document.querySelector('#map canvas').dataset.view")
    for chip, row in table.iloc[[0, -1]].iterrows():
        page.click("[data-do=all]")
        for _ in range(20):  # as close as it goes
            x, y = place_of(page, row["lon"], row["lat"])
            page.evaluate("document.querySelector('#map canvas').focus()")
            page.scroll(x, y, -200)
        page.point(*place_of(page, row["lon"], row["lat"]))
        page.wait("!document.querySelector('#map .tip').hidden")
        assert page.texts("#map .tip b") == [f"{chip:06}"]
        assert page.texts("#map .tip span") == [row["category"]]
        page.wait("document.querySelector('#map .tip img').naturalWidth > 0")
        first = row["s2l2a_paths"].split(",")[0].replace(".tif", ".png")
        assert page.evaluate("document.querySelector('#map .tip img').src").endswith(first)
        page.point(1, 1)
        page.wait("document.querySelector('#map .tip').hidden")
    page.press("0")
    assert page.evaluate("document.querySelector('#map canvas').dataset.view") == whole
    page.press("n")
    assert page.texts("#map .tip b") == ["000000"]


def test_from_afar_the_map_tells_of_the_area_and_goes_to_it(
    page: Page, folder: Path, table: pd.DataFrame
) -> None:
    page.open(folder / "report.html")
    areas = gpd.read_file(folder / "aois.geojson").set_index("aoi_index")
    index = int(table["aoi_index"].iloc[0])
    west, south, east, north = areas.geometry[index].bounds
    middle = (west + east) / 2, (south + north) / 2
    page.point(*place_of(page, *middle))
    page.wait("!document.querySelector('#map .tip').hidden")
    count = (table["aoi_index"] == index).sum()
    assert page.texts("#map .tip") == [f"AOI {index:06}: built {count} chips"]
    page.press_at(*place_of(page, *middle))
    at = [float(text) for text in page.evaluate("document.querySelector('#map canvas').dataset.view").split()]
    assert at[:2] == pytest.approx(middle, abs=1e-3)
    assert at[2] * (east - west) > 100  # pixels that it is wide


def test_the_wheel_over_a_map_that_was_not_clicked_scrolls_the_page(page: Page, folder: Path) -> None:
    page.open(folder / "report.html")
    before = page.evaluate("document.querySelector('#map canvas').dataset.view")
    x, y = page.place("#map canvas")
    start = page.evaluate("scrollY")
    page.scroll(x, y, 200)
    page.wait(f"scrollY > {start}")
    assert page.evaluate("document.querySelector('#map canvas').dataset.view") == before


def captions(page: Page) -> list[str]:
    page.wait("document.querySelector('#cards').ariaBusy === 'false'")
    return page.texts("#cards a")


def test_the_browser_filters_by_class_area_and_split(page: Page, folder: Path, table: pd.DataFrame) -> None:
    page.open(folder / "browse.html")
    assert captions(page) == [f"{chip:06} {name}" for chip, name in table["category"].items()]
    page.choose("[name=class]", "2")
    trees = table[table["lulc"] == "2"]
    assert captions(page) == [f"{chip:06} Trees" for chip in trees.index]
    page.choose("[name=area]", "1")
    few = trees[trees["aoi_index"] == 1]
    assert captions(page) == [f"{chip:06} Trees" for chip in few.index]
    page.choose("[name=split]", "test")
    assert captions(page) == [f"{chip:06} Trees" for chip in few.index[few["split"] == "test"]]
    address = page.evaluate("location.href")
    page.click("[type=reset]")
    assert len(captions(page)) == len(table)
    page.open(address)  # what is shown stands in the address
    assert page.evaluate("document.querySelector('[name=split]').value") == "test"
    assert captions(page) == [f"{chip:06} Trees" for chip in few.index[few["split"] == "test"]]


def test_an_area_without_a_chip_says_what_became_of_it(page: Page, folder: Path) -> None:
    areas = gpd.read_file(folder / "aois.geojson").sort_values("aoi_index", ignore_index=True)
    number, skipped = next((n, one) for n, one in areas.iterrows() if one["status"] == "skipped")
    page.open(folder / "browse.html")
    captions(page)
    page.choose("[name=area]", str(number))
    assert captions(page) == []
    (said,) = page.texts("#said")
    assert said.endswith(f"; AOI {skipped['aoi_index']:06}: skipped, {skipped['reason']}")


def test_a_chip_opens_with_all_dates_of_all_sensors(page: Page, folder: Path, table: pd.DataFrame) -> None:
    page.open(folder / "browse.html")
    captions(page)
    page.click("#cards a:nth-child(3)")
    check_opened(page, folder, table, 2)
    page.press("ArrowRight")
    check_opened(page, folder, table, 3)
    page.press("ArrowLeft")
    check_opened(page, folder, table, 2)
    page.press("Escape")
    assert page.texts("dialog h2") == []
    page.open(folder / "report.html")
    page.evaluate("document.querySelector('#map canvas').focus()")
    for key in ("n", "n", "Enter"):
        page.press(key)
    page.wait("location.pathname.endsWith('browse.html') && document.querySelector('dialog[open]') !== null")
    check_opened(page, folder, table, 1)


def check_opened(page: Page, folder: Path, table: pd.DataFrame, chip: int) -> None:
    """Check what is open against the release's table and files."""
    row = table.loc[chip]
    assert page.texts("dialog h2") == [f"{chip:06} {row['category']}"]
    page.wait("[...document.querySelectorAll('.frame img')].every((one) => one.naturalWidth > 0)")
    dates = [
        f"{text[:4]}-{text[4:6]}-{text[6:]} tif"
        for key in ("s2l2a", "s1rtc", "lc2l2")
        for text in row[f"{key}_dates"].split(",")
    ]
    assert page.texts(".frame + figcaption") == [*dates, "dem tif", "lulc tif"]
    links = page.evaluate(
        "[...document.querySelectorAll('dialog figcaption a')].map((one) => one.getAttribute('href'))"
    )
    paths = [row[f"{key}_paths"] for key in ("s2l2a", "s1rtc", "lc2l2", "dem", "lulc")]
    assert links == ",".join(paths).split(",")
    assert all((folder / name).exists() for name in links)
    assert f"{row['lat']:.5f}, {row['lon']:.5f}" in page.texts("dialog dd")
    box = page.evaluate(SAMPLE)
    assert box == pytest.approx([30 / 300] * 4, abs=0.01)  # 240 m within 300 m


SAMPLE = """(() => {
  const [frame, sample] = [".frame", ".frame .sample"].map((one) => document.querySelector(one).getBoundingClientRect());
  return [sample.left - frame.left, sample.top - frame.top, frame.right - sample.right, frame.bottom - sample.bottom]
    .map((one) => one / frame.width);
})()"""


def test_windows_that_are_no_chips_are_there_with_their_reasons(
    page: Page, folder: Path, config: Config
) -> None:
    windows = read_windows(Path(config.directory.working) / "v0.1")
    page.open(folder / "browse.html")
    captions(page)
    shown = page.evaluate("[...document.querySelector('[name=verdict]').options].map((one) => one.text)")
    lost = windows[windows["status"] != "success"]
    counts = lost["status"].value_counts().to_dict()
    assert set(shown) >= {f"{name} ({count})" for name, count in counts.items()}
    assert any(text.startswith("unbalanced (") for text in shown)
    page.choose("[name=verdict]", str([text.split(" ")[0] for text in shown].index("impure")))
    impure = lost[lost["status"] == "impure"]
    assert [text.split("\n")[-1] for text in captions(page)] == impure["cell"].tolist()
    page.click("#cards a")
    assert page.texts("dialog h2") == ["Water: impure"]
    assert any("the majority class has too small a share" in text for text in page.texts("dialog p"))
    page.click("dialog p button")  # where it lies
    page.wait("!document.querySelector('#plan').hidden")
    assert page.texts("dialog h2") == []
    assert page.evaluate("document.querySelector('[name=area]').value") == str(impure["aoi_index"].iloc[0])


def test_a_browser_without_its_data_says_so(browser: Page, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "browse.html").write_bytes((folder / "browse.html").read_bytes())
    browser.open(tmp_path / "browse.html")
    browser.wait("!document.querySelector('#trouble').hidden")
    assert browser.texts("#trouble") == [
        "browse_chips.js is not there: this page needs all browse_*.js beside it"
    ]
    browser.errors.clear()


@pytest.mark.parametrize("name", ["report.html", "browse.html"])
def test_no_page_is_wider_than_a_phone(page: Page, folder: Path, name: str) -> None:
    page.show(390, 800)
    page.open(folder / name)
    page.wait("document.querySelector('#map, #cards a') !== null")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
