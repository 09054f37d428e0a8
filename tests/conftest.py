"""Fixtures that more than one part of the tests uses."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from cube.testing import make_archive

if TYPE_CHECKING:
    from cube.testing import Archive

# Machines are noisy: a slow example is no fault.
settings.register_profile("project", deadline=None)
settings.load_profile("project")


@pytest.fixture(scope="session")
def sample_archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    """Return the sample archive of seed 0, made once a session; not to be written to."""
    return make_archive(tmp_path_factory.mktemp("archive") / "sample", seed=0)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of reference data beside the project; tests that need it are skipped where it is absent."""
    path = Path(__file__).parents[2] / "shared"
    if not path.is_dir():
        pytest.skip("the reference data beside the project is absent")
    return path
