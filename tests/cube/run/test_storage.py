"""Folders on a disk, in memory and in an object store: one set of promises."""

from __future__ import annotations

import errno
import gc
import json
import os
import pickle
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
import zarr
from fsspec.implementations.memory import MemoryFileSystem

from cube.errors import BusyError, DiskFullError, StoreError
from cube.run import lock, named_locks
from cube.run.storage import STAGING_PREFIX, Folder, disk_errors, open_folder, write_folder


@pytest.fixture(params=["disk", "memory", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    if request.param == "disk":
        return open_folder(str(tmp_path / "folder"))
    if request.param == "memory":
        return open_folder(f"memory://{tmp_path.name}")
    s3: Folder = request.getfixturevalue("s3")
    return s3 / tmp_path.name


def test_files(folder: Folder) -> None:
    folder.make()
    assert folder.names() == []
    assert list(folder.files()) == []
    assert not folder.exists("a/b.txt")
    folder.write("a/b.txt", b"one")
    folder.write("a/b.txt", b"two")
    folder.write("c.json", b"{}")
    assert folder.exists("a/b.txt")
    assert folder.read("a/b.txt") == b"two"
    assert folder.names() == ["a", "c.json"]
    assert folder.names(".json") == ["c.json"]
    assert folder.sizes() == {"c.json": 2}
    assert (folder / "a").sizes() == {"b.txt": 3}
    assert (folder / "nowhere").sizes() == {}
    assert list(folder.files()) == ["a/b.txt", "c.json"]
    assert list(pickle.loads(pickle.dumps(folder)).files()) == ["a/b.txt", "c.json"]
    folder.remove("c.json")
    folder.remove("c.json")
    assert not folder.exists("c.json")
    with pytest.raises(FileNotFoundError):
        folder.read("c.json")
    folder.remove_folder("a")
    assert list(folder.files()) == []


def test_create_is_decided_once(folder: Folder) -> None:
    folder.make()
    assert folder.create("lock", b"first")
    assert not folder.create("lock", b"second")
    assert folder.read("lock") == b"first"


def test_a_folder_appears_whole(folder: Folder) -> None:
    write_folder(folder, "chip", {"chip.json": b"{}", "x.tif": b"1", "old.tif": b"1"}, "chip.json")
    write_folder(folder, "chip", {"chip.json": b"{ }", "x.tif": b"2"}, "chip.json")
    assert list((folder / "chip").files()) == ["chip.json", "x.tif"]
    assert (folder / "chip").read("x.tif") == b"2"


def test_a_folder_that_fails_half_way_has_no_seal(folder: Folder) -> None:
    def half() -> None:
        with folder.staged("chip", "chip.json") as put:
            put("chip.json", b"{}")
            put("x.tif", b"1")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        half()
    assert not (folder / "chip").exists("chip.json")
    write_folder(folder, "chip", {"chip.json": b"{}"}, "chip.json")
    assert list((folder / "chip").files()) == ["chip.json"]


def test_sweeping_removes_only_what_is_unfinished(tmp_path: Path) -> None:
    folder = open_folder(str(tmp_path))
    folder.write("kept.txt", b"1")
    (tmp_path / f"{STAGING_PREFIX}half").mkdir()
    (tmp_path / f"{STAGING_PREFIX}half" / "x").write_bytes(b"1")
    (tmp_path / f"{STAGING_PREFIX}file").write_bytes(b"1")
    assert folder.names() == ["kept.txt"]
    folder.sweep()
    assert [p.name for p in tmp_path.iterdir()] == ["kept.txt"]


def test_a_full_disk_and_a_refusal_are_told_apart() -> None:
    with (
        pytest.raises(DiskFullError, match="here: no space left; make room and run again"),
        disk_errors("here"),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    with (
        pytest.raises(StoreError, match=r"here: cannot be written \(Permission denied\)"),
        disk_errors("here"),
    ):
        raise OSError(errno.EACCES, "Permission denied")


def test_a_folder_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="cannot be written"):
        open_folder(str(tmp_path / "file" / "below")).make()


def test_one_run_at_a_time(folder: Folder) -> None:
    folder.make()
    with lock.hold(folder), pytest.raises(BusyError, match="another run"), lock.hold(folder):
        pass
    with lock.hold(folder):
        pass


def test_the_lock_of_a_process_that_died_is_taken_over(folder: Folder) -> None:
    folder.make()
    script = (
        "import os, sys, pickle; from cube.run import lock; folder = pickle.loads(bytes.fromhex(sys.argv[1]));"
        "held = lock.hold(folder); held.__enter__(); os.kill(os.getpid(), 9)"
    )
    if folder.url.startswith("memory"):
        pytest.skip("memory is not shared between processes")
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", script, pickle.dumps(folder).hex()], cwd=root, check=False)
    assert done.returncode == -signal.SIGKILL
    assert ".lock" in folder.names()
    with lock.hold(folder):
        pass


def test_the_lock_of_another_users_process_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = open_folder("memory://theirs")
    owner = {"host": socket.gethostname(), "process": 1, "renewal": "a"}
    folder.write(".lock", json.dumps(owner).encode())

    def refuse(process: int, number: int) -> None:
        raise PermissionError(process, number)

    monkeypatch.setattr(named_locks.os, "kill", refuse)
    with pytest.raises(BusyError, match="another run"), lock.hold(folder):
        pass


def test_a_container_that_starts_again_is_not_kept_out_by_itself() -> None:
    """Killed and started again, it has its old host name, and often its old process number."""
    folder = open_folder("memory://again")
    owner = {"host": socket.gethostname(), "process": os.getpid(), "run": "an earlier one", "renewal": "a"}
    folder.write(".lock", json.dumps(owner).encode())
    with lock.hold(folder), pytest.raises(BusyError), lock.hold(folder):  # and now it is held
        pass


def test_a_lock_of_another_host_is_stale_once_it_is_not_renewed(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = open_folder("memory://stale")
    monkeypatch.setattr(named_locks, "_STALE_S", 0.05)
    folder.write(".lock", b'{"host": "another", "process": 1, "renewal": "a"}')
    with lock.hold(folder):
        pass
    folder.write(".lock", b'{"host": "another", "process": 1, "renewal": "a"}')

    def renewed(_: float) -> None:
        folder.write(".lock", b'{"host": "another", "process": 1, "renewal": "b"}')

    monkeypatch.setattr(named_locks.time, "sleep", renewed)
    with pytest.raises(BusyError, match="process 1 on another"), lock.hold(folder):
        pass


def test_of_two_that_take_a_dead_runs_lock_at_once_one_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = open_folder("memory://both")
    monkeypatch.setattr(named_locks, "_STALE_S", 0.0)
    folder.write("l", b'{"host": "another", "process": 1, "renewal": "a"}')
    one, two = named_locks.NamedLocks(folder), named_locks.NamedLocks(folder)
    assert one.take("l") == two.take("l") == "process 1 on another"  # signs of life are waited for
    fs = fsspec.filesystem("memory")
    remove, found = fs.rm_file, list[str]()
    other = threading.Thread(target=lambda: found.append(one.take("l")))

    def remove_late(path: str) -> None:
        monkeypatch.setattr(fs, "rm_file", remove)
        other.start()
        while b"another" in (folder.read_files(["l"]).get("l") or b"another"):
            pass
        remove(path)

    monkeypatch.setattr(fs, "rm_file", remove_late)
    found.append(two.take("l"))
    other.join()
    assert found.count("") == 1
    one.release_all()
    two.release_all()


def test_a_lock_whose_renewal_fails_once_is_renewed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = open_folder("memory://renewed")
    monkeypatch.setattr(named_locks, "_RENEW_S", 0.01)
    fs = fsspec.filesystem("memory")
    put, calls, renewed = fs.pipe_file, [0], threading.Event()

    def pipe_file(path: str, value: bytes, **options: object) -> None:
        calls[0] += 1
        if calls[0] == 2:
            raise ConnectionResetError("for a moment")
        put(path, value, **options)
        if calls[0] > 2:
            renewed.set()

    monkeypatch.setattr(fs, "pipe_file", pipe_file)
    with lock.hold(folder):
        assert renewed.wait(10)


def test_a_store_that_refuses_is_one_line_and_its_key_is_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    folder = open_folder("memory://refused", {"some_key": "c2VjcmV0"})

    def refuse(*_: object) -> None:
        raise RuntimeError("no answer from\n https://host/a?sig=c2VjcmV0")

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", refuse)

    def stream() -> None:
        with folder.stream("a") as file:
            file.write(b"1")

    monkeypatch.setattr(MemoryFileSystem, "put_file", refuse)
    for put in (lambda: folder.write("a", b""), stream):
        with pytest.raises(StoreError) as raised:
            put()
        assert str(raised.value) == "memory://refused/a: cannot be written (no answer from https://host/a)"
    assert "c2VjcmV0" not in repr(folder)


@pytest.mark.parametrize("failing", ["07.tif", "99.tif"])
def test_a_store_that_takes_all_but_one_file_gets_no_seal(
    monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    folder, put_object = open_folder(f"memory://unsealed-{failing}"), MemoryFileSystem.pipe_file

    def pipe_file(fs: MemoryFileSystem, path: str, value: bytes, **options: object) -> None:
        if path.endswith(failing):
            raise ConnectionResetError("gone")
        put_object(fs, path, value, **options)

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", pipe_file)
    files = {"chip.json": b"{}", **{f"{number:02}.tif": b"1" for number in range(100)}}
    with pytest.raises(StoreError, match=rf"{failing}: cannot be written \(gone\)"):
        write_folder(folder, "chip", files, "chip.json")
    assert not (folder / "chip").exists("chip.json")


def test_a_killed_writer_of_a_chunk_leaves_nothing_in_its_cube(tmp_path: Path) -> None:
    code = f"""
import os, sys
import numpy as np, zarr
from cube.run.storage import open_folder
store = open_folder({str(tmp_path)!r}).zarr_store("a.zarr")
array = zarr.create_array(store, shape=(8,), chunks=(4,), dtype="i4", fill_value=0)
array[:4] = 7
sys.addaudithook(lambda event, _: os._exit(9) if event == "os.rename" else None)
array[:] = 8
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    folder = open_folder(str(tmp_path))
    assert sorted((folder / "a.zarr").files()) == ["c/0", "zarr.json"]
    assert zarr.open_array(tmp_path / "a.zarr", mode="r")[:].tolist() == [7] * 4 + [0] * 4
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(STAGING_PREFIX)] != []
    folder.sweep()
    assert [p.name for p in tmp_path.iterdir()] == ["a.zarr"]


@pytest.mark.parametrize("umask", [0o077, 0o007, 0o022])
def test_files_and_folders_are_as_open_as_the_umask_lets_them_be(tmp_path: Path, umask: int) -> None:
    code = f"""
import os
os.umask({umask})
import zarr
from cube.run.lock import hold
from cube.run.storage import open_folder, write_folder
folder = open_folder({str(tmp_path / "working")!r})
folder.make()
with hold(folder):
    folder.write("plans/a.json", b"1")
    with folder.stream("a.zip") as file:
        file.write(b"1")
    folder.create("created", b"1")
    write_folder(folder, "chip", {{"a.tif": b"1", "chips/b.tif": b"2", "chip.json": b"3"}}, "chip.json")
    zarr.create_array(folder.zarr_store("a.zarr"), shape=(8,), chunks=(4,), dtype="i4")[:] = 7
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    found = {p: stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / "working").rglob("*")}
    assert len(found) > 12
    wanted = {p: (0o777 if p.is_dir() else 0o666) & ~umask for p in found}
    assert found == wanted


@pytest.mark.skipif(os.geteuid() != 0, reason="gives a folder to another group")
def test_what_lies_in_a_set_gid_folder_is_its_groups(tmp_path: Path) -> None:
    os.chown(tmp_path, -1, 12345)
    tmp_path.chmod(0o2775)
    folder = open_folder(str(tmp_path))
    folder.write("plans/a.json", b"1")
    for _ in range(2):
        write_folder(folder, "chip", {"a.tif": b"1", "chip.json": b"3"}, "chip.json")
    found = {p: p.stat() for p in tmp_path.rglob("*")}
    assert {info.st_gid for info in found.values()} == {12345}
    assert all(info.st_mode & stat.S_ISGID for p, info in found.items() if p.is_dir())


@pytest.mark.slow
@pytest.mark.parametrize("megabytes", [1, 120])
def test_s3_takes_a_large_file_in_parts_and_none_that_ends_badly(
    s3: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, megabytes: int
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    pieces = [bytes([number]) * (1 << 20) for number in range(megabytes)]
    s3.write("a.zip", b"before")

    def pieces_and_no_end() -> Iterator[bytes]:
        yield from pieces
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"), s3.stream("a.zip") as file:
        file.writelines(pieces_and_no_end())
    gc.collect()
    assert s3.read("a.zip") == b"before"
    with s3.stream("a.zip") as file:
        file.writelines(pieces)
        assert file.tell() == megabytes << 20
    assert s3.read("a.zip") == b"".join(pieces)
    assert list(tmp_path.iterdir()) == []
