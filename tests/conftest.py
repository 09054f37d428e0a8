"""Fixtures that more than one part of the tests uses."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
from collections.abc import Callable
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
    from collections.abc import Iterator

    from cube.config.models import Config
    from cube.testing import Archive

# Machines are noisy: a slow example is no fault. And what fails does so for everybody, every time.
settings.register_profile("project", deadline=None, derandomize=True)
settings.load_profile("project")

# Of the server that forks what checks releases a process has one, whichever test starts it.
multiprocessing.set_forkserver_preload(["release.verify.release"])

Once = Callable[[str, Callable[[Path], object]], Path]


@pytest.fixture(scope="session")
def once(tmp_path_factory: pytest.TempPathFactory) -> Once:
    """Return a function that gives a folder which the first process of the session that asks has filled."""
    session = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        session = session.parent  # each process has a folder of its own in it

    def filled(name: str, fill: Callable[[Path], object]) -> Path:
        folder = session / "shared" / name
        folder.mkdir(parents=True, exist_ok=True)
        with (session / "shared" / f"{name}.lock").open("a+") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if lock.seek(0, os.SEEK_END) == 0:  # another may have filled it since this one opened it
                fill(folder)
                lock.write("filled")
        return folder

    return filled


@pytest.fixture(scope="session")
def sample_archive(once: Once) -> Archive:
    """Return the sample archive of seed 0; not to be written to."""

    def made(folder: Path) -> Archive:
        return make_archive(folder / "sample", seed=0)

    return made(once("archive", made))


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
def demo(demo_config: Callable[..., Config], once: Once) -> Config:
    """Return the demo's config with all its cubes built; not to be written to."""
    return demo_config(once("demo", lambda folder: build_cubes(demo_config(folder), ThreadEngine())))


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
