"""Every code block of the README and the docs does what it says, and every figure and name in them is the program's.

Blocks of a page run in order, in a folder that looks like a checkout in which ``demo.sh`` was run.
The comment before a block tells what else is done with it:

``<!-- network -->``
    It needs a network, or other machines: its syntax, its commands' arguments and its keys are
    checked.
``<!-- CI -->``
    It is what CI runs: ``.ci/run`` must hold it.
``<!-- torch -->``, ``<!-- lightning -->``, ...
    It needs this library, and runs where that is installed.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import itertools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from click.testing import CliRunner

from chipping.chip import chip
from cube.build.run import build_cubes
from cube.config.aoi import load_aois
from cube.config.models import Config
from cube.config.reading import load_config
from cube.config.reference import config_table
from cube.run.layout import Layout
from cube.run.thread_engine import ThreadEngine
from cube.scenes.estimate import Cost, estimate_cost
from cube.testing import Archive
from cube.testing.cubes import plan_from_times
from cube.windows.grid import Bounds, aoi_bounds
from cube.windows.projection import utm_epsg
from release import make_release
from release.cli import COMMANDS, main

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
MARKED = re.compile(
    r"(?:^<!-- (?P<mark>[a-zA-Z]+) -->\n)?^```(?P<language>.*)\n(?P<text>(?:.*\n)*?)^```$", re.MULTILINE
)
LANGUAGES = {"bash", "python", "yaml", "json", "text", "{toctree}", "{eval-rst}"}
OPTIONAL = {"torch", "lightning", "torchgeo", "terratorch", "webdataset", "datasets"}
"""Libraries that users may have; blocks that need one are marked by its name."""
RUN_FOR = {"bash": ("bash", "-euo", "pipefail", "-c"), "python": (sys.executable, "-c")}
SCRIPTS = {
    "build_cubes": "build",
    "chip": "chip",
    "sweep": "sweep",
    "contact_sheet": "sheet",
    "make_release": "release",
    "run": "run",
    "verify": "verify",
}
"""Subcommands, by the script that is the same."""


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    mark: str
    text: str

    @property
    def runs(self) -> bool:
        """True for those that are run here."""
        is_there = self.mark in OPTIONAL and importlib.util.find_spec(self.mark) is not None
        return self.language in RUN_FOR and (not self.mark or is_there)

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    """Return the fenced blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            page,
            text.count("\n", 0, found.start("language")) + 1,
            found["language"].split()[0] if found["language"].strip() else "",
            found["mark"] or "",
            found["text"],
        )
        for found in MARKED.finditer(text)
    ]


BLOCKS = [block for page in PAGES for block in blocks_of(page)]


@pytest.fixture(scope="module")
def demo_ran(demo: Config, sample_archive: Archive, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that looks like a checkout after ``demo.sh``, but that its config asks for less."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("chipping", "cube", "release", "scripts"):
        (folder / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "configs", folder / "configs")
    settings = yaml.safe_load((ROOT / "configs" / "demo.yaml").read_text())
    little = {"aoi": {"include_indices": [0, 1]}, "chips": {"max_per_class": 3}, "compute": {"workers": 0}}
    settings = merged(settings, little)
    (folder / "configs" / "demo.yaml").write_text(yaml.safe_dump(settings))
    (folder / "data" / "demo").mkdir(parents=True)
    (folder / "data" / "demo" / "archive").symlink_to(sample_archive.path)
    here = {
        "directory.working": folder / "data" / "demo" / "interim",
        "directory.output": folder / "data" / "demo" / "processed",
    }
    config = load_config(folder / "configs" / "demo.yaml", [f"{key}={value}" for key, value in here.items()])
    shutil.copytree(Layout.of(demo).working.path, Layout.of(config).working.path)
    build_cubes(config, ThreadEngine())  # nothing is left to build; its records are of the two AOIs
    chip(config)
    make_release(config)
    (folder / "bin").mkdir()
    command = folder / "bin" / "gelos-lc"
    command.write_text(f"#!{sys.executable}\nfrom release.cli import main\n\nmain()\n")
    command.chmod(0o755)
    return folder


@pytest.fixture
def checkout(demo_ran: Path, tmp_path: Path) -> Path:
    """Return a copy for one page; files are replaced and never written into, so names of the same ones will do."""
    return shutil.copytree(demo_ran, tmp_path / "checkout", symlinks=True, copy_function=os.link)


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, id=page.name, marks=[] if page == README else pytest.mark.slow) for page in PAGES],
)
def test_blocks_run(page: Path, checkout: Path) -> None:
    environment = {
        **os.environ,
        "PATH": f"{checkout / 'bin'}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(checkout),  # the command is the checkout's, whatever is installed
        "http_proxy": "http://127.0.0.1:9",  # nothing answers: these blocks need no network
        "https_proxy": "http://127.0.0.1:9",
    }
    for block in filter(lambda block: block.runs, blocks_of(page)):
        done = subprocess.run(
            [*RUN_FOR[block.language], block.text],
            cwd=checkout,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"


def test_every_block_is_of_a_kind_that_is_checked() -> None:
    assert {block.language for block in BLOCKS} <= LANGUAGES
    assert {block.mark for block in BLOCKS} <= {"", "network", "CI", *OPTIONAL}
    assert sum(block.runs for block in BLOCKS) >= 10
    fences = sum(page.read_text().count("```") for page in PAGES)
    assert fences == 2 * len(BLOCKS)


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "bash"], ids=str)
def test_shell_is_valid_and_its_commands_take_these_arguments(
    block: Block, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = re.sub(r"[][]", "", block.text)  # of a synopsis: optional parts
    subprocess.run(["bash", "-n", "-c", text], check=True)
    for line in text.replace("\\\n", " ").splitlines():
        for arguments in commands_in(line):
            assert is_taken(arguments, monkeypatch), f"{block}: {line}"


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language in {"python", "json"}], ids=str)
def test_python_and_json_are_valid(block: Block) -> None:
    if block.language == "json":
        json.loads(block.text)
        return
    for node in ast.walk(ast.parse(block.text)):
        if (
            isinstance(node, ast.ImportFrom)
            and node.module
            and node.module.split(".")[0] in {"cube", "chipping", "release"}
        ):
            module = importlib.import_module(node.module)
            assert [name.name for name in node.names if not hasattr(module, name.name)] == [], block


@pytest.mark.parametrize("block", [b for b in BLOCKS if b.language == "yaml"], ids=str)
def test_yaml_is_config_that_loads(block: Block, tmp_path: Path) -> None:
    """A block that is no config whole is laid over the demo's."""
    given = yaml.safe_load(block.text)
    data = (
        given
        if "dataset" in given
        else merged(yaml.safe_load((ROOT / "configs/demo.yaml").read_text()), given)
    )
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(data))
    load_config(tmp_path / "config.yaml")


def test_every_command_has_a_page_with_all_its_options(tmp_path: Path) -> None:
    listed = re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "commands.md").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(COMMANDS)
    make = [sys.executable, str(ROOT / "docs" / "command_pages.py"), str(tmp_path)]
    subprocess.run(make, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert {path.stem for path in tmp_path.iterdir()} == set(COMMANDS)
    for name in COMMANDS:
        said = CliRunner().invoke(main, [name, "--help"]).output
        options = re.findall(r"^  (-.*?)(?:  |$)", said, re.MULTILINE)
        page = tmp_path / f"{name}.md"
        told = re.findall(r"^\| `(.*?)` \|", page.read_text(), re.MULTILINE)
        assert [option.replace("\\|", "|") for option in told] + ["-h, --help"] == options
        examples = said.partition("Examples:\n")[2].strip().splitlines()
        assert [line.strip() for line in examples] == blocks_of(page)[-1].text.splitlines()


def test_what_ci_is_said_to_run_it_runs() -> None:
    ci = (ROOT / ".ci" / "run").read_text().splitlines()
    commands = [
        shlex.split(line, comments=True) for b in BLOCKS if b.mark == "CI" for line in b.text.splitlines()
    ]
    assert ["bash", "scripts/demo.sh"] in commands
    for command in commands:
        assert shlex.join(command) in ci


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if not urlsplit(target).scheme and not target.startswith("#"):
                assert (page.parent / target.split("#")[0]).exists(), f"{page.name}: {target}"


def test_files_that_are_named_exist() -> None:
    for page in PAGES:
        for name in re.findall(
            r"`((?:cube|chipping|release|scripts|tests|configs|docs)/[\w./-]+\.\w+)`", page.read_text()
        ):
            assert (ROOT / name).exists(), f"{page.name}: {name}"


def test_the_table_of_config_keys_is_the_schemas() -> None:
    text = (ROOT / "docs" / "config.md").read_text()
    start = text.index("<!-- config keys: made by python -m cube.config.reference -->")
    table = text[start : text.index("<!-- end of config keys -->")].split("\n", 1)[1].strip()
    assert table == config_table()


def test_every_module_has_its_api_page() -> None:
    page = (ROOT / "docs" / "api.md").read_text()
    listed = set(re.findall(r"^   ((?:cube|chipping|release)(?:\.\w+)+)$", page, re.MULTILINE))
    files = [
        path.relative_to(ROOT).with_suffix("")
        for package in ("cube", "chipping", "release")
        for path in (ROOT / package).rglob("*.py")
    ]
    there = {
        ".".join(path.parts)
        for path in files
        if not path.stem.startswith("_") and "testing" not in path.parts
    }
    assert listed == there | {"cube.testing"}


def test_the_first_runs_figures_are_the_models() -> None:
    config = load_config(ROOT / "configs" / "quickstart.yaml")
    aoi = load_aois(config)[0]
    epsg = utm_epsg(aoi.geometry)
    cost = modelled_cost(config, aoi_bounds(aoi.geometry, epsg), epsg)
    said = re.search(r"(\d+) MB to fetch, (\d+) MB to store, about (\d+) s", README.read_text())
    assert said is not None
    assert [int(number) for number in said.groups()] == figures(cost)


def test_the_sizes_of_runs_are_the_models() -> None:
    config = load_config(ROOT / "configs" / "lc-v0.50.1.yaml")
    side = config.aoi.max_side_m
    assert side is not None
    cost = modelled_cost(config, Bounds(480_000, 5_760_000, 480_000 + side, 5_760_000 + side), 32633)
    megabytes, stored, seconds = figures(cost)
    aois = len(load_aois(config))
    page = (ROOT / "docs" / "scaling.md").read_text()
    assert f"four seasons | {megabytes} MB | {stored} MB | {seconds} s |" in page
    whole = [
        round(aois * value) for value in (cost.fetch_bytes / 1e9, cost.store_bytes / 1e9, cost.seconds / 3600)
    ]
    assert f"{aois} such AOIs at most | {whole[0]} GB | {whole[1]} GB | {whole[2]} h |" in page


def modelled_cost(config: Config, bounds: Bounds, epsg: int) -> Cost:
    """Return what the dry run says of one AOI; it counts pixels, so made-up scenes will do."""
    seasons = [datetime(2023, month, 10, 10, tzinfo=UTC) for month in (2, 5, 8, 11)]
    return estimate_cost(plan_from_times(config, bounds, epsg, seasons))


def figures(cost: Cost) -> list[int]:
    """Return megabytes to fetch and to store, and seconds."""
    return [round(cost.fetch_bytes / 1e6), round(cost.store_bytes / 1e6), round(cost.seconds)]


def commands_in(line: str) -> Iterator[list[str]]:
    """Yield the arguments of ``gelos-lc`` in a line of shell, in whichever way it is called there."""
    words = list(itertools.dropwhile(re.compile(r"\w+=").match, shlex.split(line, comments=True)))
    if words[:1] in (["gelos-lc"], [".venv/bin/gelos-lc"]):
        yield words[1:]
    if words[:1] == ["python"] and Path(words[1]).parent.name == "scripts" and Path(words[1]).stem in SCRIPTS:
        yield [SCRIPTS[Path(words[1]).stem], *words[2:]]
    if words[:2] == ["docker", "run"]:
        yield words[words.index("gelos-lc") + 1 :]
    if words[:3] == ["docker", "compose", "run"]:
        yield words[words.index("program") + 1 :]


class Asked(BaseException):
    """A command has read its arguments."""


def is_taken(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> bool:
    """Tell whether ``gelos-lc`` takes these arguments; if the config exists, whether it takes these settings."""

    def config(path: str, overrides: Sequence[str]) -> None:
        if (ROOT / path).is_file():
            load_config(ROOT / path, [text for text in overrides if not text.endswith("=value")])
        raise Asked

    def verify(*_: object, **__: object) -> None:
        raise Asked

    monkeypatch.setattr("cube.config.reading.load_config", config)
    monkeypatch.setattr(importlib.import_module("cube.build.new_config"), "write_config", verify)
    monkeypatch.setattr(importlib.import_module("release.verify.release"), "verify", verify)
    monkeypatch.setattr(importlib.import_module("release.compare.releases"), "open_one", verify)
    monkeypatch.setattr(importlib.import_module("release.export.run"), "export_release", verify)
    try:
        return main.main(arguments, "gelos-lc", standalone_mode=False) == 0
    except Asked:
        return True


def merged(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Lay one mapping over another."""
    return base | {
        key: merged(base.get(key) or {}, value)
        if isinstance(value, dict) and key != "storage_options"
        else value
        for key, value in over.items()
    }
