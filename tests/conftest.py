"""Fixtures that more than one part of the tests uses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from cube.testing import make_archive

if TYPE_CHECKING:
    from cube.testing import Archive


@pytest.fixture(scope="session")
def sample_archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    """Return the sample archive of seed 0, made once a session; not to be written to."""
    return make_archive(tmp_path_factory.mktemp("archive") / "sample", seed=0)
