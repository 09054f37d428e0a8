"""A user of the wheel, in a folder with nothing else in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path

import pytest

from cube.testing import Archive
from release import verify

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
SMALL = [
    "--set",
    "aoi.include_indices=5",
    "--set",
    "s2l2a.bands=[B02, B03, B04]",
    "--set",
    "compute.workers=0",
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an empty folder beside which the wheel is installed, and nothing of the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    build = ["-m", "build", "--wheel", "--no-isolation", "--outdir", folder / "dist", ROOT]
    wheel = python(folder, *build).stdout.split()[-1]
    install = ["-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--disable-pip-version-check"]
    python(folder, *install, "--target", folder / "site", folder / "dist" / wheel)
    (folder / "home").mkdir()
    return folder / "home"


def python(folder: Path, *arguments: str | Path, exit_code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run Python where the wheel comes before all else; the libraries are this environment's."""
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder.parent / "site")},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == exit_code, done.stdout + done.stderr
    return done


def test_the_packages_are_the_wheels_own(home: Path) -> None:
    names = "import cube, chipping, release; print(cube.__file__, chipping.__file__, release.__file__)"
    for path in python(home, "-c", names).stdout.split():
        assert Path(path).is_relative_to(home.parent / "site")
    assert (home.parent / "site" / "cube" / "py.typed").is_file()


def test_from_nothing_to_a_release_as_the_command_makes_it(home: Path, sample_archive: Archive) -> None:
    python(home, "-m", "cube.config.shipped", "configs")
    (home / "data" / "demo").mkdir(parents=True)
    (home / "data" / "demo" / "archive").symlink_to(sample_archive.path)  # python -m cube.testing makes it
    [wheel] = distributions(path=[str(home.parent / "site")], name="gelos-lc")
    [entry] = [one for one in wheel.entry_points if one.group == "console_scripts"]
    assert entry.name == "gelos-lc"
    command = ("-c", f"from {entry.module} import {entry.attr}; {entry.attr}()")
    config = ["-c", "configs/demo.yaml", *SMALL]
    build, chips = python(home, *command, "build", *config), python(home, *command, "chip", *config)
    made = python(home, *command, "release", *config, "--set", "release.allow_missing_classes=true")
    assert "1 built" in build.stdout
    assert " chips of " in chips.stdout
    release = home / "data" / "demo" / "processed" / "demo"
    assert f"{release.relative_to(home)}: " in made.stdout
    assert [fault for fault in verify(str(release)) if not fault.warning] == []
    assert "0 faults" in python(home, *command, "verify", release).stderr
    assert json.loads((release / "gelos_chip_tracker.geojson").read_text())["features"]


def test_an_aoi_list_of_the_program_is_found(home: Path) -> None:
    where = "from cube import load_config; print(load_config('elsewhere/c.yaml').aoi_path)"
    (home / "elsewhere").mkdir()
    text = (ROOT / "configs" / "lc-v0.50.1.yaml").read_text()
    (home / "elsewhere" / "c.yaml").write_text(text)
    found = Path(python(home, "-c", where).stdout.strip())
    assert found == home.parent / "site" / "cube" / "configs" / "aois" / "map_v0.40.geojson"
    assert found.read_bytes() == (ROOT / "configs" / "aois" / "map_v0.40.geojson").read_bytes()


def test_configs_are_not_written_over(home: Path) -> None:
    (home / "mine").mkdir()
    (home / "mine" / "demo.yaml").write_text("mine")
    done = python(home, "-m", "cube.config.shipped", "mine", exit_code=2)
    assert done.stderr.splitlines() == ["error: mine/demo.yaml exists; name another folder, or remove it"]
    assert [path.name for path in (home / "mine").iterdir()] == ["demo.yaml"]
