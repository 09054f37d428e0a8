"""The commands as a person runs them: exit codes, one-line errors, interruption."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import click
import pytest
import rasterio
from click.testing import CliRunner, Result

from cube.config.models import Config
from cube.run.command import Verb
from cube.run.layout import Layout
from release.cli import COMMANDS, main

ROOT = Path(__file__).parents[1]


def run(*arguments: str | Path, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def typed(*arguments: str) -> Result:
    """Return what ``gelos-lc`` prints, and its exit code."""
    return CliRunner().invoke(main, arguments, prog_name="gelos-lc")


def subcommand(name: str) -> Verb:
    found = main.get_command(click.Context(main), name)
    assert isinstance(found, Verb)
    return found


def overrides(config: Config) -> list[str]:
    keys = {
        "catalog.url": config.catalog.url,
        "aoi.path": config.aoi.path,
        "directory.working": config.directory.working,
        "directory.output": config.directory.output,
    }
    return [part for key, value in keys.items() for part in ("--set", f"{key}={value}")]


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("s2l2a.cloud_covr=3", "did you mean s2l2a.cloud_cover?"),
        ("s2l2a.cloud_cover=many", "s2l2a.cloud_cover: found 'many'"),
        ("aoi.path=nowhere.geojson", "aoi.path: the AOI file is nowhere"),
        ("aoi.path=broken.geojson", "AOI 0: has no geometry"),
        ("catalog.url=nowhere.json", "catalog.url: no such file"),
        ("chips.chip_size=970", "is not a multiple of s2l2a.resolution"),
        ("directory.working=/proc/nowhere", "directory.working"),
    ],
)
def test_bad_input_is_one_line_and_exit_2(
    demo_config: Callable[..., Config], tmp_path: Path, setting: str, words: str
) -> None:
    broken = {"type": "FeatureCollection", "features": [{"type": "Feature", "geometry": None}]}
    (tmp_path / "broken.geojson").write_text(json.dumps(broken))
    setting = setting.replace("broken.geojson", str(tmp_path / "broken.geojson"))
    config = demo_config(tmp_path)
    done = run("scripts/build_cubes.py", "-c", "configs/demo.yaml", *overrides(config), "--set", setting)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "Usage: gelos-lc [OPTIONS] COMMAND"),
        (["bild", "-c", "configs/demo.yaml"], "No such command 'bild'. Did you mean 'build'?"),
        (["build", "--retry-faild"], "Did you mean '--retry-failed'?"),
        (["build"], "Missing option '-c'"),
        (["build", "-c", "nowhere.yaml"], "nowhere.yaml: no such config file"),
        (["verify"], "Missing argument 'RELEASE'"),
        (["verify", "nowhere"], "error: nowhere"),
    ],
)
def test_usage_errors_exit_2_and_say_what_may_be_meant(arguments: list[str], words: str) -> None:
    done = typed(*arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    assert words in done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_the_examples_of_a_help_are_taken(name: str) -> None:
    command = subcommand(name)
    done = typed(name, "--help")
    assert done.exit_code == 0
    assert command.examples
    for line in command.examples:
        assert f"\n  {line}\n" in done.stdout
        program, called, *arguments = shlex.split(line)
        assert (program, called) == ("gelos-lc", name)
        command.make_context(name, arguments)


def test_several_values_stand_together_or_apart() -> None:
    words = [
        "-c",
        "a.yaml",
        "--aoi",
        "3",
        "7",
        "--retry-failed",
        "--aoi",
        "9",
        "--set",
        "a.b=1",
        "--set",
        "c=2",
    ]
    values = subcommand("build").make_context("build", words).params
    assert values["aoi"] == ("3", "7", "9")
    assert values["retry_failed"]
    assert values["settings"] == ("a.b=1", "c=2")


def test_the_version_names_what_makes_pixels() -> None:
    done = typed("--version")
    assert done.exit_code == 0
    assert done.stdout.startswith(f"gelos-lc {version('gelos-lc')}, Python 3.")
    assert f"GDAL {rasterio.__gdal_version__}" in done.stdout


def test_the_shell_can_complete_commands_and_options() -> None:
    for words, expected in [("gelos-lc sw", "sweep"), ("gelos-lc build --retry", "--retry-failed")]:
        asked = {
            "_GELOS_LC_COMPLETE": "bash_complete",
            "COMP_WORDS": words,
            "COMP_CWORD": str(words.count(" ")),
        }
        done = CliRunner(env=asked).invoke(main, prog_name="gelos-lc")
        assert done.stdout.splitlines() == [f"plain,{expected}"]


HEAVY = {
    "dask",
    "distributed",
    "geopandas",
    "matplotlib",
    "numpy",
    "odc",
    "pandas",
    "planetary_computer",
    "pyarrow",
    "pydantic",
    "pystac_client",
    "rasterio",
    "rich",
    "shapely",
    "xarray",
    "zarr",
}
"""Libraries that take long to import, or are many files."""


@pytest.mark.parametrize(
    "code",
    [
        "import cube, chipping, release",
        *(
            f"from release.cli import main; main({arguments!r}, standalone_mode=False)"
            for arguments in (["--help"], *([name, "--help"] for name in COMMANDS))
        ),
    ],
)
def test_help_and_packages_import_nothing_heavy(code: str) -> None:
    done = run("-c", f"{code}\nimport json, sys; print(json.dumps(sorted(sys.modules)))")
    loaded = {name.partition(".")[0] for name in json.loads(done.stdout.splitlines()[-1])}
    assert "click" in loaded or "--help" not in code
    assert loaded & HEAVY == set()


def test_a_build_with_nothing_to_do_imports_no_library_for_reading(
    demo: Config, demo_config: Callable[..., Config], tmp_path: Path
) -> None:
    config = demo_config(tmp_path)
    # Files are replaced and never written into, so names of the same ones will do.
    working, lock = Layout.of(config).working.path, shutil.ignore_patterns(".lock")
    shutil.copytree(Layout.of(demo).working.path, working, copy_function=os.link, ignore=lock)
    command = ["build", "-c", "configs/demo.yaml", *overrides(config)]
    code = f"import sys; from release.cli import main; main({command!r}, standalone_mode=False)"
    done = run("-c", f"{code}; print(*sys.modules)")
    assert "5 built, 1 skipped; 0 blocks fetched" in done.stdout, done.stderr
    loaded = {name.partition(".")[0] for name in done.stdout.splitlines()[-1].split()}
    assert (
        loaded
        & {
            "distributed",
            "geopandas",
            "matplotlib",
            "pandas",
            "planetary_computer",
            "pyarrow",
            "pystac_client",
            "requests",
            "xarray",
        }
        == set()
    )


def test_public_names_are_there_and_no_room_hides_them() -> None:
    code = (
        "import cube, release.verify.documents, release; from release import verify; from cube import *; "
        "assert callable(verify) and verify is release.verify and callable(open_cube); "
        "[getattr(package, name) for package in (cube, release) for name in package.__all__]; "
        "assert sorted(cube.__all__) == dir(cube) and sorted(release.__all__) == dir(release); "
        "release.nothing"
    )
    done = run("-c", code)
    assert done.stderr.splitlines()[-1] == "AttributeError: module 'release' has no attribute 'nothing'"


def test_a_dry_run_builds_nothing(demo_config: Callable[..., Config], tmp_path: Path) -> None:
    config = demo_config(tmp_path)
    done = run("scripts/build_cubes.py", "-c", "configs/demo.yaml", *overrides(config), "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "no scene for 2023-07-01/2023-09-30" in " ".join(done.stdout.split())
    assert not (Path(config.directory.working) / "cubes").exists()


def test_ctrl_c_and_a_batch_system_stop_in_seconds_and_the_next_run_goes_on(
    demo_config: Callable[..., Config], tmp_path: Path, listening: str
) -> None:
    config = demo_config(tmp_path)
    command = ["scripts/build_cubes.py", "-c", "configs/demo.yaml", *overrides(config), "--aoi", "0", "5"]
    for setting in ("compute.workers=1", "s2l2a.bands=[B02, B03, B04]", "lc2l2=", "s1rtc.bands=[vv]"):
        command += ["--set", setting]
    working = Path(config.directory.working)
    # A terminal interrupts all processes, a batch system terminates the one that it started.
    for number, (stop, kind) in enumerate([(os.killpg, signal.SIGINT), (os.kill, signal.SIGTERM)], start=1):
        before = len(list((working / "building").glob("*/*.json")))
        process = subprocess.Popen(
            [sys.executable, "-c", listening, *command],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and len(list((working / "building").glob("*/*.json"))) <= before:
            time.sleep(0.05)
        stop(process.pid, kind)
        _, stderr = process.communicate(timeout=30)
        assert process.returncode == 130, stderr
        assert "run the same command again to go on" in stderr
        assert "stopped: " in stderr
        assert "Traceback" not in stderr, stderr
        assert not list(Path(config.directory.working).rglob("zarr.json.partial"))
        logs = sorted((working / "demo" / "logs").iterdir())
        assert len(logs) == number
        assert "build ended with 130" in logs[-1].read_text()
    done = run(*command)
    assert done.returncode == 0, done.stderr
    assert "2 built" in done.stdout
