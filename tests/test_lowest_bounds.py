"""The lower bounds of pyproject.toml are true for who reads a release: tried with the lowest versions."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
READING = ("tests/release/test_release_dataset.py", "tests/release/opening/test_release_files.py")


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )


@pytest.fixture(scope="module")
def lowest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a Python with the lowest versions that pyproject.toml allows."""
    folder = tmp_path_factory.mktemp("lowest")
    run(sys.executable, "-m", "venv", folder / "tool")
    done = run(folder / "tool/bin/python", "-m", "pip", "install", "--quiet", "uv")
    if done.returncode:
        pytest.skip(f"no registry of packages: {done.stderr.strip().splitlines()[-1]}")
    uv, python = folder / "tool/bin/uv", folder / "venv/bin/python"
    install = [uv, "pip", "install", "--quiet", "--python", python]
    for command in (
        [uv, "venv", "--quiet", "--python", sys.executable, folder / "venv"],
        [*install, "--resolution", "lowest-direct", "-r", ROOT / "pyproject.toml"],
        [*install, "pytest", "hypothesis"],
        [*install, "--no-deps", ROOT],
    ):
        done = run(*command)
        assert done.returncode == 0, done.stderr
    return python


@pytest.mark.slow
@pytest.mark.skipif(sys.version_info >= (3, 12), reason="the lowest versions have wheels for Python 3.11")
def test_a_release_is_read_with_the_lowest_versions(lowest: Path) -> None:
    versions = run(lowest, "-c", "import numpy, zarr; print(numpy.__version__, zarr.__version__)")
    assert versions.stdout.split() == ["1.26.0", "3.1.3"]
    options = ["-q", "-p", "no:cacheprovider", "-o", "addopts=", "-o", "filterwarnings=", "-m", "not slow"]
    done = run(lowest, "-m", "pytest", *options, *READING)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr
