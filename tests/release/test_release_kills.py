"""A release that is killed, starved of room, or run twice leaves nothing half, and a rerun completes it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from release_landscape import LAND, SETTINGS, VERSION, Land, working_folder, write_config
from test_release_verb import digests

from cube.config.models import Config
from cube.errors import BusyError, GelosError
from cube.run.lock import hold
from cube.run.storage import Folder, open_folder
from release import make_release, open_release, verify

ROOT = Path(__file__).resolve().parents[2]
LITTLE = Land({1: 2, 2: 1})
RUN = "from cube.config.reading import load_config; from release import make_release; "
DIES = """
import importlib, os, signal, sys
owner = importlib.import_module(sys.argv[2])
*names, last = sys.argv[3].split(".")
for name in names:
    owner = getattr(owner, name)
real, calls = getattr(owner, last), []
def dies(*args, **kwargs):
    calls.append(1)
    if len(calls) >= int(sys.argv[4]):
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*args, **kwargs)
setattr(owner, last, dies)
"""


def run(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own, at the project's root."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": "."}
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Checksums of what a run that nobody kills makes."""
    config = working_folder(tmp_path_factory.mktemp("other"), LITTLE, {"release.seed": 1})
    make_release(config)
    return digests(Path(config.directory.output))


@pytest.mark.parametrize(
    ("module", "name", "call"),
    [
        # as the folder is filled
        pytest.param("cube.run.storage.disk", "_write_file", 30, marks=pytest.mark.slow),
        # before the old folder makes way
        pytest.param("pathlib", "Path.replace", 1, marks=pytest.mark.slow),
        ("pathlib", "Path.replace", 2),  # before the new one takes its place
        # as the old one is removed
        pytest.param("os", "unlink", 10, marks=pytest.mark.slow),
        # as the zip is written
        pytest.param("zipfile", "ZipInfo.FileHeader", 30, marks=pytest.mark.slow),
        # before the zip takes its place
        pytest.param("pathlib", "Path.replace", 3, marks=pytest.mark.slow),
    ],
)
def test_killed_as_it_replaces_another_release(
    tmp_path: Path, other: dict[str, str], module: str, name: str, call: int
) -> None:
    config = working_folder(tmp_path, LITTLE)
    first = make_release(config)
    output = Path(config.directory.output)
    before = digests(output)
    changed = write_config(tmp_path, LITTLE, {"release.seed": 1})
    code = f"{DIES}\n{RUN}make_release(load_config(sys.argv[1]), force=True)"
    assert run(code, changed.path, module, name, call).returncode == -signal.SIGKILL
    found = digests(output)
    seen = {path: digest for path, digest in found.items() if not path.startswith(".staging-")}
    folder = {path: digest for path, digest in seen.items() if path.startswith(f"{VERSION}/")}
    assert folder in (
        {},
        {path: digest for path, digest in before.items() if path.startswith(f"{VERSION}/")},
        {path: digest for path, digest in other.items() if path.startswith(f"{VERSION}/")},
    )
    assert not {path for path in seen if path.endswith(".zip")}
    assert make_release(changed, force=True).fingerprint != first.fingerprint
    assert digests(output) == other


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "name", "call"),
    [
        ("release.packing.contents", "make_card", 1),  # as documents are made
        ("stac_geoparquet.arrow", "to_parquet", 1),  # as the catalog's items are
    ],
)
def test_killed_before_it_replaces_another_release(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    other: dict[str, str],
    module: str,
    name: str,
    call: int,
) -> None:
    config = working_folder(tmp_path, LITTLE)
    make_release(config)
    elsewhere = tmp_path / "tmp"
    elsewhere.mkdir()
    monkeypatch.setenv("TMPDIR", str(elsewhere))
    output = Path(config.directory.output)
    before = digests(output)
    changed = write_config(tmp_path, LITTLE, {"release.seed": 1})
    code = f"{DIES}\n{RUN}make_release(load_config(sys.argv[1]), force=True)"
    assert run(code, changed.path, module, name, call).returncode == -signal.SIGKILL
    assert not list(elsewhere.iterdir())
    found = digests(output)
    assert found == before
    make_release(changed, force=True)
    assert digests(output) == other


@pytest.mark.slow
def test_no_room_for_the_zip(config: Config, folder: Path, archive: Path, tmp_path: Path) -> None:
    mine = working_folder(tmp_path, LAND, SETTINGS)
    room = max(path.stat().st_size for path in folder.iterdir()) + 1
    assert room < archive.stat().st_size / 2
    code = (
        f"import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, ({room}, {room})); "
        "from release.commands import release_command; release_command(['-c', sys.argv[1]])"
    )
    ended = run(code, mine.path)
    assert ended.returncode != 0
    assert "Traceback" not in ended.stderr
    assert f"{archive.name}: cannot be written (File too large)" in ended.stderr
    output = Path(mine.directory.output)
    assert {path.name for path in output.iterdir()} == {".lock", VERSION}
    assert verify(output / VERSION) == []
    assert make_release(mine).written
    assert digests(output) == digests(Path(config.directory.output))


def test_one_run_at_a_time_in_an_output_folder(tmp_path: Path) -> None:
    config = working_folder(tmp_path, LITTLE)
    output = open_folder(config.directory.output)
    output.make()
    with hold(output), pytest.raises(BusyError, match="another run"):
        make_release(config)
    assert digests(output.path) == {}
    assert make_release(config).written


def test_an_output_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "locked" / ".lock").mkdir(parents=True)
    for output in (tmp_path / "file" / "output", tmp_path / "locked"):
        config = working_folder(tmp_path / f"from_{output.name}", LITTLE, {"directory.output": str(output)})
        with pytest.raises(GelosError, match="cannot be written") as caught:
            make_release(config)
        assert str(output) in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_release_in_an_object_store(s3: Folder, tmp_path: Path, other: dict[str, str]) -> None:
    target = s3 / "releases"
    settings = {
        "release.seed": 1,
        "directory.output": target.url,
        "directory.storage_options": dict(target.options),
    }
    config = working_folder(tmp_path, LITTLE, settings)
    assert make_release(config).written
    assert not make_release(config).written
    local = tmp_path / "local"
    for name in target.files():
        (local / name).parent.mkdir(parents=True, exist_ok=True)
        (local / name).write_bytes(target.read(name))
    assert digests(local) == other
    for name in (VERSION, f"tiny_{VERSION}.zip"):
        assert verify(target / name) == []
        assert open_release(target / name).chip(1)["s2l2a"].to_numpy().any()
    (target / VERSION).remove("dem_000001.tif")
    (target / VERSION).write("dem_000000.tif", b"")
    found = {fault.file: fault.message for fault in verify(target / VERSION)}
    assert found["dem_000001.tif"].startswith("is missing")
    assert found["dem_000000.tif"].startswith("its sha256 is not the one")
    assert set(found) == {"dem_000000.tif", "dem_000001.tif", f"tiny_{VERSION}.zip"}
