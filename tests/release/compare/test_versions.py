"""Two versions of the demo, made from the same cubes: what compare says of chips, and what phase two had said of them."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from click.testing import CliRunner
from PIL import Image

from chipping.chip import chip
from cube.config.models import Config
from cube.run.layout import Layout
from release import make_release
from release.cli import main

pytestmark = pytest.mark.slow  # two releases; test_compare.py is of what one that was changed shows

BEFORE = ("aoi.include_indices=[0, 4]", "lulc.sampling_factor=3")
AFTER = (
    *BEFORE[1:],
    "aoi.include_indices=[4]",
    "dataset.version=next",
    "chips.classes=[1, 2, 5, 7]",
    "chips.min_purity=0.9",
    "chips.min_clear={s2l2a: 0.9, lc2l2: 1.0}",
    "chips.max_per_class=12",
)


@pytest.fixture(scope="module")
def made(
    demo: Config, demo_config: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Config, Config]:
    """The configs of two versions, chipped and released."""
    folder = tmp_path_factory.mktemp("versions")
    configs = demo_config(folder, *BEFORE), demo_config(folder, *AFTER)
    no_lock = shutil.ignore_patterns(".lock")
    shutil.copytree(Layout.of(demo).working.path, Layout.of(configs[0]).working.path, ignore=no_lock)
    shutil.copytree(Layout.of(demo).root.path, Layout.of(configs[1]).root.path, ignore=no_lock)
    for config in configs:
        chip(config)
        make_release(config)
    return configs


def release_of(config: Config) -> Path:
    return Path(config.directory.output) / config.dataset.version


def table_of(config: Config) -> pd.DataFrame:
    """The tracker's CSV by cell."""
    return pd.read_csv(release_of(config) / "gelos_chip_tracker.csv").set_index("cell")


def verdicts_of(config: Config) -> dict[str, str]:
    """What phase two said of each window, by its cell."""
    table = pd.read_csv(Path(Layout.of(config).root.url) / "chip_metadata.csv")
    return dict(zip(table["cell"], table["status"], strict=True))


@pytest.fixture(scope="module")
def found(made: tuple[Config, Config]) -> dict[str, Any]:
    """What the command says of them."""
    before, after = map(release_of, made)
    result = CliRunner().invoke(main, ["compare", str(before), str(after), "--json"])
    assert result.exit_code == 1
    return json.loads(result.stdout)  # type: ignore[no-any-return]


def test_every_cell_is_kept_gone_or_new(made: tuple[Config, Config], found: dict[str, Any]) -> None:
    before, after = (set(table_of(config).index) for config in made)
    assert set(found["kept"]) == before & after
    assert {one["cell"] for one in found["gone"]} == before - after
    assert {one["cell"] for one in found["new"]} == after - before
    assert min(len(before & after), len(before - after), len(after - before)) > 5


def test_reasons_are_the_verdicts_of_phase_two(made: tuple[Config, Config], found: dict[str, Any]) -> None:
    chosen = {"success": {"unbalanced"}, "capped": {"capped", "unbalanced_or_capped"}}
    kinds = set()
    for moves, config in ((found["gone"], made[1]), (found["new"], made[0])):
        verdicts = verdicts_of(config)
        for one in moves:
            verdict = verdicts.get(one["cell"])
            kinds.add(verdict)
            if verdict is None:  # the other version leaves its area out
                assert one["reason"] == "class_excluded" if one["lulc"] in (8, 11) else "area_absent"
            elif verdict in chosen:
                assert one["reason"] in {*chosen[verdict], "unbalanced_or_capped"}
            else:
                assert one["reason"] == verdict
    assert {"impure", "class_excluded", None} <= kinds
    assert kinds & {"success", "capped"}


def test_class_shares_are_those_of_the_tables(made: tuple[Config, Config], found: dict[str, Any]) -> None:
    counts = [Counter(table_of(config)["lulc"]) for config in made]
    for one in found["classes"]:
        of_a, of_b = (count[one["code"]] for count in counts)
        assert (one["a"], one["b"]) == (of_a, of_b)
        assert one["kept"] + one["gone"] == of_a
        assert one["kept"] + one["new"] == of_b
        shift = of_b / counts[1].total() - of_a / counts[0].total()
        assert one["shift"] == pytest.approx(shift)
    assert sum(one["kept"] for one in found["classes"]) == len(found["kept"])


def test_the_same_cubes_have_the_same_pixels_and_scenes(found: dict[str, Any]) -> None:
    assert found["rasters"] == []
    assert found["scenes"] == []
    assert found["same_rasters"] == 14 * len(found["kept"])  # four dates of three sensors, and two layers


def test_settings_are_those_that_were_set(found: dict[str, Any]) -> None:
    settings = {one["key"]: (one["a"], one["b"]) for one in found["settings"]}
    assert settings == {
        "aoi.include_indices": ([0, 4], [4]),
        "chips.classes": ([1, 2, 5, 7, 8, 11], [1, 2, 5, 7]),
        "chips.max_per_class": (400, 12),
        "chips.min_clear.lc2l2": (0.95, 1.0),
        "chips.min_clear.s2l2a": (1.0, 0.9),
        "chips.min_purity": (1.0, 0.9),
        "dataset.version": ("demo", "next"),
    }


class Page(HTMLParser):
    """What a page refers to, and how its elements lie in each other."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.open: list[str] = []
        self.ids: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.links += [given[name] or "" for name in ("src", "href") if name in given]
        self.ids += [given["id"] or ""] if "id" in given else []
        if tag not in {"meta", "img", "br", "wbr", "link", "input"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Elements that close themselves lie in none."""


def test_the_page_needs_nothing_else(
    made: tuple[Config, Config], found: dict[str, Any], tmp_path: Path
) -> None:
    paths = [str(release_of(config)) for config in made]
    pages = [tmp_path / "deep" / "one.html", tmp_path / "other.html"]
    for page in pages:
        result = CliRunner().invoke(main, ["compare", *paths, "--html", str(page)])
        assert result.exit_code == 1
        assert f"page      {page}" in result.stdout
        assert (
            f"{len(found['kept'])} chips kept, {len(found['gone'])} gone, {len(found['new'])} new"
            in result.stdout
        )
    assert pages[0].read_bytes() == pages[1].read_bytes()
    text = pages[0].read_text()
    page_read = Page(text)
    assert page_read.open == []
    pictures = [link for link in page_read.links if link.startswith("data:image/png;base64,")]
    assert len(pictures) >= 10
    for picture in pictures:
        with Image.open(io.BytesIO(base64.b64decode(picture.partition(",")[2]))) as image:
            assert image.size == (96, 96)
    assert {link.removeprefix("#") for link in page_read.links if link not in pictures} <= set(page_read.ids)
    assert str(tmp_path.parent) not in text
    assert not re.search(r"https?://(?!www\.w3\.org)", text)
    for one in [*found["gone"], *found["new"]]:
        assert one["cell"] in text
