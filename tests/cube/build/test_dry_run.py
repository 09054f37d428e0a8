"""What ``gelos-lc plan`` leaves: features read by geopandas, a page read by an HTML parser and a browser.

Both are held against the catalog's own items.
"""

from __future__ import annotations

import base64
import io
import json
import re
import shlex
import shutil
import subprocess
import zlib
from collections.abc import Callable
from datetime import datetime
from html.parser import HTMLParser
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import rasterio
from click.testing import CliRunner
from PIL import Image, ImageColor
from rasterio.transform import from_origin
from rasterio.warp import Resampling, reproject
from shapely.geometry import shape

from cube.build.dry_run.table import print_plans
from cube.build.plans import plan_cubes
from cube.config.models import Config
from cube.config.sensors import CLASS_COLORS
from cube.run.layout import Layout
from cube.scenes.plan import CubePlan
from cube.testing import Archive
from release.cli import main

ROOT = Path(__file__).parents[3]
GROUPS = {"s2l2a": "s2:mgrs_tile", "s1rtc": "sat:relative_orbit", "lc2l2": "landsat:wrs_path"}
HOSTILE = "</script><script>alert(1)</script><b>'\"&"


class Page(HTMLParser):
    """What a page holds: elements with their attributes, and the texts of some."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.rows: list[list[str]] = []
        self.titles: list[str] = []
        self.scripts: list[str] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag == "td":
            self.rows[-1].append("")
        if tag in ("script", "title"):
            (self.scripts if tag == "script" else self.titles).append("")

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        self.text += data
        inside = self.open[-1] if self.open else ""
        if inside == "td":
            self.rows[-1][-1] += data
        elif inside in ("script", "title"):
            (self.scripts if inside == "script" else self.titles)[-1] += data


def unpacked(page: Page) -> list[Page]:
    """Return what lies packed in a page, an area each."""
    packed = [text for text in page.scripts if re.fullmatch(r"[A-Za-z0-9+/=]+", text)]
    return [Page(zlib.decompress(base64.b64decode(text)).decode()) for text in packed]


def test_a_gis_shows_extents_groups_and_scenes(
    demo_config: Callable[..., Config], sample_archive: Archive, tmp_path: Path
) -> None:
    config = demo_config(tmp_path)
    given = {
        "catalog.url": config.catalog.url,
        "aoi.path": config.aoi.path,
        "directory.working": config.directory.working,
        "directory.output": config.directory.output,
    }
    settings = [part for key, value in given.items() for part in ("--set", f"{key}={value}")]
    command = ["plan", "-c", str(ROOT / "configs/demo.yaml"), *settings]
    done = CliRunner().invoke(main, [*command, "--aoi", "0", "3"])
    assert done.exit_code == 0, done.output
    working = Path(config.directory.working)
    file = working / "demo" / "plan.geojson"
    assert str(file) in done.stdout
    written = [path for path in working.rglob("*") if path.is_file()]
    assert sorted(written) == [file, file.with_suffix(".html")]

    planned, skipped = (row for _, row in gpd.read_file(file).iterrows())
    areas = gpd.read_file(sample_archive.aois)
    assert (skipped["aoi_index"], skipped["status"]) == (3, "skipped")
    assert "no scene for 2023-07-01/2023-09-30" in skipped["reason"]
    assert skipped.geometry.equals(areas.geometry[3])

    assert (planned["aoi_index"], planned["status"]) == (0, "planned")
    epsg = int(planned["epsg"])
    utm = gpd.GeoSeries([planned.geometry], crs=4326).to_crs(epsg).total_bounds
    assert all(abs(edge - 960 * round(edge / 960)) < 0.01 for edge in utm)
    assert abs(utm[2] - utm[0] - planned["width_m"]) < 0.01
    assert abs(utm[3] - utm[1] - planned["height_m"]) < 0.01
    assert planned.geometry.buffer(1e-4).contains(areas.geometry[0])

    items = {item["id"]: item for item in json.loads(Path(sample_archive.items).read_text())["features"]}
    for sensor, key in GROUPS.items():
        scenes = [items[name] for name in planned[f"{sensor}_scene_ids"].split(",")]
        assert {str(scene["properties"][key]).lstrip("0") for scene in scenes} == {planned[f"{sensor}_group"]}
        days = {scene["properties"]["datetime"][:10] for scene in scenes}
        assert days == set(planned[f"{sensor}_dates"].split(","))
    assert {items[name]["collection"] for name in planned["dem_scene_ids"].split(",")} == {"cop-dem-glo-30"}


def test_the_page_tells_of_every_scene_when_it_was_and_why_it_lost(
    demo_config: Callable[..., Config], sample_archive: Archive, tmp_path: Path
) -> None:
    config = demo_config(tmp_path)
    assert print_plans(config, [0, 3], bars=False) == 0
    page = Page(Layout.of(config).root.read("plan.html").decode())
    links = [facts[name] for _, facts in page.elements for name in ("src", "href") if name in facts]
    assert links
    assert all(link.startswith("#") for link in links)
    planned, skipped = unpacked(page)
    assert "4 over cloud_cover 50; 51.6 would admit one" in skipped.text
    kinds = [row[1] for row in page.rows if len(row) == 3]
    assert {"cloud_cover is not below 30", "another tile covers more of the target"} <= set(kinds)
    assert not any("..." in kind for kind in kinds)
    assert "2023-01-01/2023-03-31" in planned.text
    assert "cloud_cover is not below 30 (4)" in planned.text

    area = gpd.read_file(sample_archive.aois).geometry[0]
    items = json.loads(Path(sample_archive.items).read_text())["features"]
    series = {
        item["id"]: item["properties"]
        for item in items
        if item["collection"] in ("sentinel-2-l2a", "sentinel-1-rtc", "landsat-c2-l2")
        and item["properties"]["datetime"].startswith("2023")
        and shape(item["geometry"]).intersects(area)
    }
    told = dict(re.findall(r"^\d{4}-\d\d-\d\d (\S+): (.*)$", "\n".join(planned.titles), re.MULTILINE))
    assert set(told) == set(series)
    chosen = {name for name, why in told.items() if why == "chosen"}
    marks = [facts for tag, facts in planned.elements if tag == "circle"]
    assert sum("chosen" in mark.get("class", "") for mark in marks) == len(chosen)
    listed = {row[2]: row[3] for row in planned.rows if len(row) == 4}
    assert listed == {name: why for name, why in told.items() if name not in chosen}
    tiles = {name: facts for name, facts in series.items() if "s2:mgrs_tile" in facts}
    cloudy = [name for name, facts in tiles.items() if facts["eo:cloud_cover"] >= 30]
    assert cloudy
    assert all(listed[name].startswith("cloud_cover ") for name in cloudy)

    # The middle of a mark is its scene's share of the time from 1 January to 31 December.
    start, year_s = datetime.fromisoformat("2023-01-01T00:00:00Z"), 365 * 86_400 - 1
    expected = sorted(
        100 * (datetime.fromisoformat(facts["datetime"]) - start).total_seconds() / year_s
        for facts in series.values()
    )
    assert sorted(float(mark["cx"].rstrip("%")) for mark in marks) == pytest.approx(expected, abs=0.01)


def test_a_plan_ends_with_the_command_that_builds_it(sample_archive: Archive, tmp_path: Path) -> None:
    there = {
        "catalog.url": sample_archive.items,
        "aoi.path": sample_archive.aois,
        "directory.working": tmp_path,
    }
    config = ["-c", str(ROOT / "configs/demo.yaml")]
    settings = [part for key, value in there.items() for part in ("--set", f"{key}={value}")]
    result = CliRunner().invoke(main, ["plan", *config, *settings, "--aoi", "0", "3"])
    assert result.exit_code == 0, result.output
    *_, next_line, command = result.stdout.splitlines()
    assert next_line == "next:"
    shown = ["--set", "catalog.url=...", *settings[2:]]  # which may be secret
    typed = ["gelos-lc", "run", *config, *shown, "--aoi", "0", "3"]
    assert shlex.split(command, comments=True) == typed
    skipped = CliRunner().invoke(main, ["plan", *config, *settings, "--aoi", "3"])
    assert skipped.exit_code == 0, skipped.output
    assert "next:" not in skipped.stdout


def test_no_text_of_areas_gets_out_of_its_place(
    demo_config: Callable[..., Config], sample_archive: Archive, tmp_path: Path
) -> None:
    areas = json.loads(Path(sample_archive.aois).read_text())
    for feature in areas["features"]:
        feature["properties"]["name"] = HOSTILE
    (tmp_path / "areas.geojson").write_text(json.dumps(areas))
    config = demo_config(tmp_path, f"aoi.path={tmp_path / 'areas.geojson'}")
    assert print_plans(config, [0, 3], bars=False) == 0
    page = Page(Layout.of(config).root.read("plan.html").decode())
    assert len(page.scripts) == 3  # an area each, and the page's own
    assert page.text.count(HOSTILE) == 4  # in the list and on the map, an area each
    for area in unpacked(page):
        assert not area.scripts
        assert HOSTILE in area.text


def test_a_preview_shows_each_chosen_date_and_says_which_it_cannot(
    demo_config: Callable[..., Config], sample_archive: Archive, tmp_path: Path
) -> None:
    catalog = json.loads(Path(sample_archive.items).read_text())
    missing = "S2A_MSIL2A_20230213T101031_R022_T33UUR_20230213T155158"
    for item in catalog["features"]:
        for key, asset in item["assets"].items():
            asset["href"] = str(Path(sample_archive.items).parent / asset["href"])
            if (item["id"], key) == (missing, "B03"):
                asset["href"] += ".gone"
    (tmp_path / "items.json").write_text(json.dumps(catalog))
    config = demo_config(tmp_path, f"catalog.url={tmp_path / 'items.json'}")
    assert print_plans(config, [0], bars=False, preview=True) == 0
    [area] = unpacked(Page(Layout.of(config).root.read("plan.html").decode()))
    assert f"no picture: item {missing}, asset B03: the file is missing" in area.text

    images = {
        facts["alt"]: Image.open(io.BytesIO(base64.b64decode(facts["src"].partition("base64,")[2])))
        for tag, facts in area.elements
        if tag == "img"
    }
    dates = [name for name in images if " on 2023-" in name]
    assert len(images) - len(dates) == 2  # heights and land cover
    assert len(dates) == 3 * 4 - 1
    for name, image in images.items():
        shades = np.asarray(image.convert("L"))
        assert shades.shape == (84, 84), name  # 6.72 km at 80 m
        assert shades.std() > 3, name
    [one] = plan_cubes(config, only=[0])
    plan = one[1]
    assert isinstance(plan, CubePlan)
    bounds = plan.bounds
    to = {"dst_crs": f"EPSG:{plan.epsg}", "dst_transform": from_origin(bounds.left, bounds.top, 80, 80)}
    codes = np.zeros((84, 84), np.uint8)
    [scene] = plan.sensor("lulc").scenes
    with rasterio.open(scene.assets["lulc"].href) as file:
        reproject(rasterio.band(file, 1), codes, resampling=Resampling.nearest, **to)
    shown = np.asarray(images["Impact Observatory annual land cover"].convert("RGB")).astype(int)
    palette = {code: ImageColor.getrgb(color) for code, color in CLASS_COLORS.items()}
    distance = {code: np.abs(shown - color).sum(axis=-1) for code, color in palette.items()}
    nearest = np.array(list(distance))[np.argmin(list(distance.values()), axis=0)]
    assert (nearest == codes).mean() > 0.9


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("chromium"), reason="there is no Chromium here")
def test_a_browser_unpacks_the_area_that_a_link_names(
    demo_config: Callable[..., Config], tmp_path: Path
) -> None:
    config = demo_config(tmp_path)
    assert print_plans(config, [0, 3], bars=False) == 0
    page = f"file://{config.directory.working}/demo/plan.html#area-3"
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--virtual-time-budget=5000",
        f"--user-data-dir={tmp_path / 'profile'}",
    ]
    done = subprocess.run(
        ["chromium", *flags, "--dump-dom", page], capture_output=True, text=True, check=True, timeout=120
    )
    dom = done.stdout
    assert len(re.findall(r'<script type="text/plain">', dom)) == 1  # area 0 is packed still
    assert len(Page(dom).titles) > 5
    assert 'class="lane' in dom
