"""A run that slept for longer than its lock lives finds another in its place: it stops, and harms nothing."""

from __future__ import annotations

import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from test_places import settings_of, typed

from cube.build.run import build_cubes
from cube.config.models import Config
from cube.errors import BusyError
from cube.run import named_locks
from cube.run.layout import Layout
from cube.run.lock import hold, hold_part, part_lock
from cube.run.named_locks import NamedLocks, stop_if_lost
from cube.run.status import AOI_METADATA, AoiStatus
from cube.run.storage import Folder, open_folder
from cube.run.tasks import Tasks
from cube.run.thread_engine import ThreadEngine
from cube.scenes.catalog import open_catalog
from cube.scenes.query import Catalog

ROOT = Path(__file__).parents[3]
THEIRS = json.dumps(
    {"host": "elsewhere", "process": 7, "since": "2026-11-30T09:00:00Z", "renewal": "x"}
).encode()
SAID = (
    r"another run \(process 7 on elsewhere, since 2026-11-30T09:00:00Z\) has taken it over; "
    r"start again once that run has ended"
)


@pytest.fixture(params=["disk", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    return open_folder(str(tmp_path) if request.param == "disk" else f"memory://{tmp_path.name}")


@pytest.fixture
def awake(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return what lets this machine have slept for an hour."""
    now = time.time
    return lambda: monkeypatch.setattr(named_locks.time, "time", lambda: now() + 3600)


def test_a_renewal_never_writes_over_another_runs_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(named_locks, "_RENEW_S", 0.01)
    folder = open_folder(f"memory://{tmp_path.name}")

    def work() -> None:
        with hold(folder):
            folder.write(".lock", THEIRS)
            time.sleep(0.3)
            assert folder.read(".lock") == THEIRS
            stop_if_lost()

    with pytest.raises(
        BusyError, match=rf"^memory://{tmp_path.name}/\.lock: this run gave no sign .*{SAID}$"
    ):
        work()
    assert folder.read(".lock") == THEIRS
    stop_if_lost()  # the run has ended, and the next begins with nothing lost


def test_a_lock_whose_making_was_asked_for_twice_is_its_makers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client of a store that loses an answer asks again, and is told that the object is there."""
    folder = open_folder(f"memory://{tmp_path.name}")
    plainly = type(folder).create

    def twice(self: Folder, name: str, data: bytes) -> bool:
        plainly(self, name, data)
        return plainly(self, name, data)

    monkeypatch.setattr(type(folder), "create", twice)
    with hold(folder):
        assert NamedLocks(folder).take(".lock") == f"process {os.getpid()} on {socket.gethostname()}"
    assert folder.names() == []


@pytest.mark.parametrize("part", ["", "0001-of-0002"])
def test_whoever_wakes_looks_before_it_goes_on(folder: Folder, awake: Callable[[], None], part: str) -> None:
    name = part_lock(part) if part else ".lock"

    def work() -> None:
        with hold_part(folder, part, lambda: None) if part else hold(folder):
            stop_if_lost()
            folder.write(name, THEIRS)
            awake()
            stop_if_lost()

    with pytest.raises(BusyError, match=SAID):
        work()
    assert folder.read(name) == THEIRS


def test_whoever_ends_as_it_wakes_leaves_the_others_lock(folder: Folder, awake: Callable[[], None]) -> None:
    with hold(folder):
        folder.write(".lock", THEIRS)
        awake()
    assert folder.read(".lock") == THEIRS


def test_whoever_wakes_alone_goes_on(folder: Folder, awake: Callable[[], None]) -> None:
    with hold(folder):
        before = folder.read(".lock")
        awake()
        stop_if_lost()
        after = folder.read(".lock")
        stop_if_lost()
    assert (before == after) is (not folder.url.startswith("memory"))  # a sign of life for runs elsewhere
    assert {**json.loads(before), "renewal": ""} == {**json.loads(after), "renewal": ""}


def test_a_lock_that_is_gone_was_anothers_meanwhile(folder: Folder, awake: Callable[[], None]) -> None:
    def work() -> None:
        with hold(folder):
            folder.remove(".lock")
            awake()
            stop_if_lost()

    with pytest.raises(
        BusyError, match=r"has taken it over, and ended, or somebody has removed it; start again$"
    ):
        work()
    assert not folder.exists(".lock")


@pytest.mark.parametrize(("own", "other"), [("", "0002-of-0002"), ("0001-of-0002", "")])
def test_the_whole_and_its_parts_take_over_from_each_other(
    folder: Folder, awake: Callable[[], None], own: str, other: str
) -> None:

    def work() -> None:
        with hold_part(folder, own, lambda: None) if own else hold(folder):
            folder.remove(part_lock(own) if own else ".lock")  # as whoever takes over does
            folder.write(part_lock(other) if other else ".lock", THEIRS)
            awake()
            stop_if_lost()

    with pytest.raises(BusyError, match=SAID):
        work()


def test_who_holds_the_whole_removes_the_locks_of_parts_that_nobody_holds(folder: Folder) -> None:
    folder.make()
    folder.write(
        part_lock("0001-of-0002"), json.dumps({"host": socket.gethostname(), "process": 1 << 22}).encode()
    )
    with hold(folder):
        assert folder.names() == [".lock"]


def test_locks_are_taken_again_after_all_were_let_go(
    folder: Folder, awake: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(named_locks, "_RENEW_S", 0.01)
    locks = NamedLocks(folder)
    assert locks.take("l") == ""
    folder.write("l", THEIRS)
    awake()
    with pytest.raises(BusyError, match=SAID):
        stop_if_lost()
    locks.release_all()
    folder.remove("l")
    assert locks.take("l") == ""
    before = folder.read("l")
    if folder.url.startswith("memory"):
        deadline = time.monotonic() + 10
        while folder.read("l") == before:  # it is renewed again
            assert time.monotonic() < deadline
    locks.release_all()
    assert "l" not in folder.names()


def test_a_run_that_lost_a_lock_takes_no_other(folder: Folder, awake: Callable[[], None]) -> None:
    with hold(folder):
        folder.write(".lock", THEIRS)
        awake()
        with pytest.raises(BusyError, match=SAID):
            NamedLocks(folder).take("another")
    assert "another" not in folder.names()


def test_two_of_one_process_are_told_apart(folder: Folder, awake: Callable[[], None]) -> None:
    one, two = NamedLocks(folder), NamedLocks(folder / "other")
    assert one.take("l") == two.take("l") == ""
    folder.write("l", (folder / "other").read("l"))
    awake()
    with pytest.raises(BusyError, match=f"process {os.getpid()} on "):
        stop_if_lost()
    two.release_all()
    one.release_all()


def test_a_store_that_does_not_answer_is_no_loss(
    tmp_path: Path,
    awake: Callable[[], None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = open_folder(f"memory://{tmp_path.name}")
    with hold(folder):
        awake()
        with monkeypatch.context() as patch:

            def refuse(*_: object, **__: object) -> None:
                raise ConnectionResetError("for a moment")

            patch.setattr(folder._fs, "cat_file", refuse)  # type: ignore[union-attr]
            stop_if_lost()
        assert "the lock was not renewed" in caplog.text
        folder.write(".lock", THEIRS)
        with pytest.raises(BusyError, match=SAID):
            stop_if_lost()


@pytest.mark.parametrize("working", ["", "memory://lost"])
def test_a_build_that_wakes_beside_another_stops_and_writes_no_row(
    demo_config: Callable[..., Config], tmp_path: Path, awake: Callable[[], None], working: str
) -> None:
    settings = [f"directory.working={working}/{tmp_path.name}"] if working else []
    config = demo_config(tmp_path, *settings)
    root = Layout.of(config).root
    rows = b'{"type":"FeatureCollection","features":[]}'

    def progress(_: int, row: AoiStatus) -> None:
        if row.done > 0 and not root.exists("taken"):
            root.write("taken", b"")
            root.write(".lock", THEIRS)
            root.write(AOI_METADATA, rows)
            awake()

    with pytest.raises(BusyError, match=SAID):
        build_cubes(config, ThreadEngine(1), progress=progress)
    assert root.exists("taken")
    assert root.read(".lock") == THEIRS
    assert root.read(AOI_METADATA) == rows
    layout = Layout.of(config)
    assert not layout.blocks.names()  # none was sealed
    assert not layout.locks.names()


def test_an_engine_gives_no_outcome_to_a_run_that_lost_its_lock(
    folder: Folder, awake: Callable[[], None]
) -> None:
    given: list[int] = []

    def work() -> None:
        with hold(folder):
            for outcome in ThreadEngine(1).run(abs, Tasks(range(1000)), ""):
                given.append(outcome.get())
                folder.write(".lock", THEIRS)
                awake()

    with pytest.raises(BusyError, match=SAID):
        work()
    assert given == [0]


@pytest.mark.parametrize("when", ["it is begun", "a block is there"])
def test_a_cube_that_another_run_has_taken_over_ends_the_run_and_fails_no_area(
    demo_config: Callable[..., Config], tmp_path: Path, awake: Callable[[], None], when: str
) -> None:
    config = demo_config(tmp_path, f"directory.working=memory://{tmp_path.name}")
    layout = Layout.of(config)
    taken: list[str] = []

    def progress(_: int, row: AoiStatus) -> None:
        if (row.done > 0 or (row.status == "building" and when == "it is begun")) and not taken:
            taken.extend(layout.locks.names())
            for name in taken:
                layout.locks.write(name, THEIRS)
            awake()

    with pytest.raises(BusyError, match=rf"/locks/aoi_\d{{6}}_\w{{12}}: .*{SAID}"):
        build_cubes(config, ThreadEngine(16), progress=progress)
    assert taken == layout.locks.names() != []
    features = json.loads(layout.root.read(AOI_METADATA))["features"]
    assert "failed" not in {one["properties"]["status"] for one in features}


def test_a_command_says_so_in_one_line(
    demo_config: Callable[..., Config],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    awake: Callable[[], None],
) -> None:
    config = demo_config(tmp_path)
    root = Layout.of(config).root

    def wake(*given: Any, **more: Any) -> Catalog:
        root.write(".lock", THEIRS)
        awake()
        return open_catalog(*given, **more)

    monkeypatch.setattr("cube.build.run.open_catalog", wake)
    done = typed("build", "-c", "configs/demo.yaml", *settings_of(config))
    assert done.exit_code == 2, done.output
    [line] = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert line.startswith(f"error: {root}/.lock: this run gave no sign of life for a while")
    assert "another run (process 7 on elsewhere, since 2026-11-30T09:00:00Z) has taken it over" in line


SLEEPER = """
import pickle, socket, sys, time
from cube.errors import BusyError
from cube.run import lock, named_locks
socket.gethostname = lambda: "asleep"
named_locks._RENEW_S, named_locks._SURE_S = 0.3, 0.6
try:
    with lock.hold(pickle.loads(bytes.fromhex(sys.argv[1]))):
        print("held", flush=True)
        while True:
            named_locks.stop_if_lost()
            time.sleep(0.05)
except BusyError as error:
    print(error)
"""


@pytest.mark.parametrize("other_has_ended", [False, True])
def test_a_process_that_is_stopped_for_long_and_goes_on_finds_another_in_its_bucket(
    s3: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other_has_ended: bool
) -> None:
    monkeypatch.setattr(named_locks, "_STALE_S", 1.5)
    folder = s3 / tmp_path.name
    command = [sys.executable, "-c", SLEEPER, pickle.dumps(folder).hex()]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as sleeper:
        assert sleeper.stdout is not None
        assert sleeper.stdout.readline() == "held\n"
        with pytest.raises(BusyError, match=f"process {sleeper.pid} on asleep"), hold(folder):
            pass
        sleeper.send_signal(signal.SIGSTOP)
        with hold(folder):
            mine = folder.read(".lock")
            if not other_has_ended:
                sleeper.send_signal(signal.SIGCONT)
                said, _ = sleeper.communicate(timeout=60)
                assert folder.read(".lock") == mine
        if other_has_ended:
            sleeper.send_signal(signal.SIGCONT)
            said, _ = sleeper.communicate(timeout=60)
    assert ("and ended" if other_has_ended else f"another run (process {os.getpid()} on ") in said
    assert sleeper.returncode == 0
    assert not folder.exists(".lock")
