"""Fixtures that more than one part of the tests uses."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from cube.build.run import build_cubes
from cube.config.reading import load_config
from cube.run.storage import Folder, open_folder
from cube.run.thread_engine import ThreadEngine
from cube.testing import make_archive

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from cube.config.models import Config
    from cube.testing import Archive

# Machines are noisy: a slow example is no fault. And what fails does so for everybody, every time.
settings.register_profile("project", deadline=None, derandomize=True)
settings.load_profile("project")


@pytest.fixture(scope="session")
def sample_archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    """Return the sample archive of seed 0, made once a session by the first process that asks; not to be written to."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent  # the session's; each process has a folder of its own in it
    with (folder / "archive.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return make_archive(folder / "archive" / "sample", seed=0)


@pytest.fixture(scope="session")
def demo_config(sample_archive: Archive) -> Callable[..., Config]:
    """Return a function that loads configs/demo.yaml for a folder of its own: ``demo_config(folder, "key=value", ...)``."""

    def load(folder: Path, *overrides: str) -> Config:
        return load_config(
            Path(__file__).parents[1] / "configs" / "demo.yaml",
            [
                f"catalog.url={sample_archive.items}",
                f"aoi.path={sample_archive.aois}",
                f"directory.working={folder / 'interim'}",
                f"directory.output={folder / 'processed'}",
                "compute.workers=0",
                *overrides,
            ],
        )

    return load


@pytest.fixture(scope="session")
def demo(demo_config: Callable[..., Config], tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Return the demo's config with all its cubes built, once a session; not to be written to."""
    config = demo_config(tmp_path_factory.mktemp("demo"))
    build_cubes(config, ThreadEngine())
    return config


@pytest.fixture(scope="session")
def listening() -> str:
    """Return code that runs a script which hears Ctrl-C: a shell makes children in its background deaf to it."""
    return (
        "import runpy, signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    )


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of reference data beside the project; tests that need it are skipped where it is absent."""
    path = Path(__file__).parents[2] / "shared"
    if not path.is_dir():
        pytest.skip("the reference data beside the project is absent")
    return path


@pytest.fixture(scope="session")
def s3() -> Iterator[Folder]:
    """Return a bucket on a local S3 server."""
    import s3fs
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    options = {"endpoint_url": f"http://{host}:{port}", "key": "test", "secret": "test"}
    s3fs.S3FileSystem(**options).mkdir("bucket")
    yield open_folder("s3://bucket", options)
    server.stop()
