"""Places that cannot be worked in are found before anything is done, in one line that says what to do."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyproj
import pytest
import zarr
from click.testing import CliRunner, Result

from cube.config.models import Config
from cube.config.reading import load_config
from cube.errors import ConfigError, DiskFullError, StoreError
from cube.run.lock import hold
from cube.run.storage import Folder, check_writable, disk_errors, open_folder, write_folder
from release.cli import main
from release.recipe import settings_of as recorded

ROOT = Path(__file__).parents[3]
CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE")
READ_ONLY = r'mount -t tmpfs -o ro tmpfs "$1"; shift; exec "$@"'
UNSHARE = ("unshare", "--map-root-user", "--mount")


def typed(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments, prog_name="gelos-lc")


def settings_of(config: Config, **settings: object) -> list[str]:
    """Return ``--set`` arguments that lead a command to a config's folders and archive."""
    given = {
        "catalog.url": config.catalog.url,
        "aoi.path": config.aoi.path,
        "directory.working": config.directory.working,
        "directory.output": config.directory.output,
        "compute.workers": 0,
    } | {key.replace("__", "."): value for key, value in settings.items()}
    return [part for key, value in given.items() for part in ("--set", f"{key}={value}")]


def assert_one_line(done: Result, *words: str) -> None:
    assert done.exit_code == 2, done.output
    assert done.stderr.count("\n") == 1, done.stderr
    assert "Traceback" not in done.output
    for word in words:
        assert word in done.stderr


STORES: Mapping[str, tuple[str, dict[str, object], str, str]] = {
    "no credentials": ("bucket", {"key": None, "secret": None}, "Unable to locate credentials", "AWS_PROFILE"),
    "no bucket": ("nobucket", {}, "The specified bucket does not exist", "there is no such bucket; make it"),
    "a wrong endpoint": ("bucket", {"endpoint_url": "http://127.0.0.1:9"}, "connect", "no service answers; look at endpoint_url"),
    "no scheme": ("bucket", {"endpoint_url": "127.0.0.1:9"}, "Invalid endpoint", "(https://HOST)"),
    "a misspelt option": ("bucket", {"endpont_url": "x"}, "unknown option 'endpont_url'", "look at its name in directory.storage_options"),
}  # fmt: skip


@pytest.mark.parametrize("trouble", STORES)
@pytest.mark.parametrize("key", ["working", "output"])
def test_a_store_that_cannot_be_written_to_is_one_line_before_the_first_search(
    demo_config: Callable[..., Config],
    s3: Folder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    trouble: str,
    key: str,
) -> None:
    for name in CREDENTIALS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr("cube.build.run.open_catalog", lambda _: pytest.fail("it searched"))
    bucket, wrong, cause, mend = STORES[trouble]
    config = demo_config(tmp_path)
    options = {name: value for name, value in {**s3.options, **wrong}.items() if value is not None}
    settings = settings_of(config, **{f"directory.{key}": f"s3://{bucket}/{key}"})
    done = typed(
        "run",
        "-c",
        "configs/demo.yaml",
        *settings,
        "--set",
        f"directory.storage_options={json.dumps(options)}",
    )
    assert_one_line(done, f"directory.{key}: s3://{bucket}/{key}", cause, mend)


def test_a_missing_library_names_the_pip_command() -> None:
    for url, extra in {"az://container/x": "azure", "gs://bucket/x": "gcs"}.items():
        with pytest.raises(StoreError, match=rf"type: pip install 'gelos-lc\[{extra}\]'"):
            check_writable(open_folder(url))


class _FullBucket(BaseHTTPRequestHandler):
    """An S3 service whose quota is used up, in MinIO's words."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.send_response(404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self) -> None:
        body = b"<ListBucketResult><KeyCount>0</KeyCount></ListBucketResult>"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        code, text = "XMinioAdminBucketQuotaExceeded", "Bucket quota exceeded"
        body = f"<Error><Code>{code}</Code><Message>{text}</Message></Error>".encode()
        self.send_response(403)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def test_a_full_quota_is_a_full_disk() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _FullBucket) as service:
        threading.Thread(target=service.serve_forever, args=(0.02,), daemon=True).start()
        options = {"endpoint_url": f"http://127.0.0.1:{service.server_port}", "key": "k", "secret": "s"}
        folder = open_folder("s3://bucket/full", options)
        with pytest.raises(DiskFullError, match="no space left; make room and run again"):
            folder.write("a", b"1")
        with pytest.raises(DiskFullError, match="no space left; make room and run again"), disk_errors("it"):
            zarr.create_array(folder.zarr_store("cube.zarr"), shape=(4,), dtype="u1")
        service.shutdown()


def test_a_file_system_without_locks_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As NFS answers whose lock daemon does not run."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with (
        pytest.raises(StoreError, match=r"\.lock: this file system knows no locks .*local_lock=flock"),
        hold(open_folder(str(tmp_path))),
    ):
        pass


def test_a_file_system_that_forces_files_alone_will_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Folders cannot be forced onto the disk on some network file systems."""
    force = os.fsync

    def refuse_folders(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        force(handle)

    monkeypatch.setattr(os, "fsync", refuse_folders)
    folder = open_folder(str(tmp_path)) / "new"
    folder.write("a", b"1")
    write_folder(folder, "chip", {"chip.json": b"{}"}, "chip.json")
    folder.write_files({"cube/c/0": b"2"})
    folder.sync_files(["cube/c/0"])
    assert sorted(folder.files()) == ["a", "chip/chip.json", "cube/c/0"]


def test_a_probe_outlives_another_run_that_sweeps_as_it_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, force = open_folder(str(tmp_path)), os.fsync
    sweeps = []

    def force_and_sweep(descriptor: int) -> None:
        force(descriptor)
        if len(sweeps) < 3:
            sweeps.append(list(tmp_path.iterdir()))
            folder.sweep()

    monkeypatch.setattr(os, "fsync", force_and_sweep)
    check_writable(folder)
    assert [bool(names) for names in sweeps] == [True] * 3
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("key", ["working", "output"])
def test_a_read_only_disk_is_one_line_before_anything_is_built(
    demo_config: Callable[..., Config], tmp_path: Path, key: str
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    config = demo_config(tmp_path)
    settings = settings_of(config, **{f"directory.{key}": disk / key})
    command = [sys.executable, "scripts/run.py", "-c", "configs/demo.yaml", *settings]
    done = subprocess.run(
        [*UNSHARE, "bash", "-c", READ_ONLY, "bash", disk, *command],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    if "unshare" in done.stderr or "mount" in done.stderr.split("directory")[0]:
        pytest.skip("no mount namespaces here")
    assert done.returncode == 2, done.stderr
    assert f"directory.{key}: {disk}/{key}" in done.stderr
    assert "Read-only file system" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "interim" / "cubes").exists()


def test_a_version_that_is_taken_is_found_before_anything_is_built(
    demo_config: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cube.build.run.build_cubes", lambda *_, **__: pytest.fail("it built"))
    taken = tmp_path / "processed" / "demo"
    taken.mkdir(parents=True)
    (taken / "notes.txt").write_text("mine")
    done = typed("run", "-c", "configs/demo.yaml", *settings_of(demo_config(tmp_path)))
    assert_one_line(done, str(taken), "it is no release, and is not replaced")
    (taken / "notes.txt").unlink()
    config = demo_config(tmp_path, "chips.max_per_class=2")
    recipe = {"config": recorded(config)}
    (taken / "config.json").write_text(json.dumps(recipe))
    (taken / "SHA256SUMS").write_text("")
    done = typed("run", "-c", "configs/demo.yaml", *settings_of(config, chips__max_per_class=3))
    assert_one_line(done, "chips.max_per_class is 2 there, 3 here", "give --force to replace it")
    same = {"chips__max_per_class": 2}
    done = typed("run", "-c", "configs/demo.yaml", *settings_of(config, **same, catalog__exclude_items="S2A"))
    assert_one_line(done, "catalog.exclude_items is None there, ['S2A'] here")


def test_a_release_says_what_decided_which_scenes_there_are(
    demo_config: Callable[..., Config], tmp_path: Path
) -> None:
    plain = demo_config(tmp_path)
    assert "catalog" not in recorded(plain)  # the bytes of releases that were made before
    other = demo_config(tmp_path, "catalog.exclude_items=[b, a]", "s2l2a.catalog=earth-search")
    assert recorded(other)["catalog"] == {"exclude_items": ["a", "b"], "profile": {"s2l2a": "earth-search"}}


def test_a_run_without_a_cube_ends_as_its_build_did(
    demo_config: Callable[..., Config], tmp_path: Path
) -> None:
    config = demo_config(tmp_path)
    none = settings_of(config, s2l2a__time_ranges="[1999-01-01/1999-03-31]", aoi__include_indices="[0]")
    done = typed("run", "-c", "configs/demo.yaml", *none)
    assert (done.exit_code, "1 skipped" in done.stdout) == (0, True), done.output
    assert "no cube was made, so there is nothing to cut chips from" in done.stdout
    items = json.loads(Path(config.catalog.url).read_text())
    for item in items["features"]:
        for asset in item["assets"].values():
            asset["href"] = asset["href"].replace("blobs", "gone")
    broken = tmp_path / "items.json"
    broken.write_text(json.dumps(items))
    failing = settings_of(config, catalog__url=broken, aoi__include_indices="[0]")
    done = typed("run", "-c", "configs/demo.yaml", *failing)
    assert (done.exit_code, "1 failed" in done.stdout) == (3, True), done.output
    assert "Traceback" not in done.output


@pytest.mark.parametrize(
    ("given", "codes"),
    [("[water]", (1,)), ("1,2,5", (1, 2, 5)), ("water, Built, snow", (1, 7, 9)), ("[1, bare_ground]", (1, 8)), ("", (1, 2, 5, 7, 8, 11))],
)  # fmt: skip
def test_classes_are_given_by_code_or_name(given: str, codes: tuple[int, ...]) -> None:
    settings = [f"chips.classes={given}", "chips.forbidden=[]"]
    assert load_config(ROOT / "configs/demo.yaml", settings).chips.classes == codes


@pytest.mark.parametrize("given", ["[watr]", "[12]", "b", "1,x"])
def test_what_is_no_class_lists_the_classes(given: str) -> None:
    with pytest.raises(
        ConfigError, match=r"chips\.classes: found .*; expected .* 1 Water, 2 Trees, .*11 Rangeland"
    ):
        load_config(ROOT / "configs/demo.yaml", [f"chips.classes={given}"])


@pytest.mark.parametrize("name", ["PROJ_LIB", "PROJ_DATA"])
@pytest.mark.parametrize("verb", ["chip", "build"])
def test_another_installations_proj_is_found_at_the_start(tmp_path: Path, name: str, verb: str) -> None:
    """A database of an older layout: what conda and system packages leave in the environment."""
    source = Path(pyproj.datadir.get_data_dir()) / "proj.db"
    (tmp_path / "proj.db").write_bytes(source.read_bytes())
    with closing(sqlite3.connect(tmp_path / "proj.db")) as database, database:
        database.execute("update metadata set value = '2' where key = 'DATABASE.LAYOUT.VERSION.MINOR'")
    code = f"from release.cli import main; main(['{verb}', '-c', 'configs/demo.yaml'])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), name: str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 2
    assert done.stderr == (
        f"error: {name}={tmp_path}: the PROJ database there is missing, or another installation's; type: unset {name}\n"
    )


def test_a_forgotten_environment_says_what_to_type(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    (checkout / ".venv" / "bin").mkdir(parents=True)
    (checkout / ".venv" / "bin" / "activate").touch()
    for name in ("chipping", "cube", "release", "scripts"):
        for path in (ROOT / name).rglob("*.py"):
            target = checkout / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    done = subprocess.run(
        [sys.executable, "-I", "-S", checkout / "scripts" / "run.py", "-c", "configs/demo.yaml"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "has no library click" in done.stderr
    assert done.stderr.endswith(f"type: source {checkout}/.venv/bin/activate\n")
