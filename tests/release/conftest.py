"""One small release that many tests look at; those that change something take a copy."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from release_landscape import LAND, SETTINGS, VERSION, working_folder

from cube.config.models import Config
from release import make_release


@pytest.fixture(scope="session")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Chips of three classes and three AOIs in two UTM zones, released and zipped. Not to be changed."""
    made = working_folder(tmp_path_factory.mktemp("made"), LAND, SETTINGS)
    make_release(made)
    return made


@pytest.fixture(scope="session")
def folder(config: Config) -> Path:
    """The release's folder. Not to be changed."""
    return Path(config.directory.output) / VERSION


@pytest.fixture(scope="session")
def archive(config: Config) -> Path:
    """The release's zip. Not to be changed."""
    return Path(config.directory.output) / f"tiny_{VERSION}.zip"


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """A copy of the release's folder, without the zip beside it."""
    return Path(shutil.copytree(folder, tmp_path / VERSION))
