"""Several runs, one version: each has its share of the areas, its lock and its rows, which become one table."""

from __future__ import annotations

import itertools
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from shapely import box

from cube.config.aoi import Aoi
from cube.errors import BusyError
from cube.run.lock import hold, hold_part, who_holds
from cube.run.shards import Share
from cube.run.status import AOI_METADATA, AoiState, StatusBoard, merge_left_shards, read_features, read_rows
from cube.run.storage import STAGING_PREFIX, Folder, open_folder
from cube.run.storage.bucket import BucketFolder

AOIS = [Aoi(n, box(n, 0, n + 1, 1)) for n in range(7)]
PLACES = ["disk", "memory"]


@pytest.fixture(params=PLACES)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    return open_folder(str(tmp_path) if request.param == "disk" else f"memory://{tmp_path.name}")


def states(folder: Folder) -> dict[int, str]:
    return {row["properties"]["aoi_index"]: row["properties"]["status"] for row in read_features(folder)}


@pytest.mark.parametrize("count", [1, 3, 64])
def test_every_area_is_in_one_share(count: int) -> None:
    shares = [Share(number, count).of(AOIS) for number in range(1, count + 1)]
    assert sorted(aoi.index for share in shares for aoi in share) == list(range(7))


@pytest.mark.parametrize("text", ["0/3", "4/3", "3", "a/b", "1/0", "-1/3", "1/3/..", ""])
def test_what_is_no_share_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected NUMBER/COUNT, counted from 1"):
        Share.parse(text)


def test_rows_of_shares_are_read_together_and_end_up_in_one_file(folder: Folder) -> None:
    StatusBoard(folder, AOIS).write()
    shards = [Share(number, 3) for number in (1, 2, 3)]
    boards = [StatusBoard(folder, shard.of(AOIS), shard) for shard in shards]
    boards[0].update(0, status=AoiState.BUILT)
    boards[1].update(4, status=AoiState.FAILED, reason="why")
    expected = ["built", *["pending"] * 3, "failed", *["pending"] * 2]
    assert list(states(folder).values()) == expected
    boards[0].close()
    boards[1].write()  # and is killed
    assert list(states(folder).values()) == expected
    assert [row.status for row in read_rows(folder, AOIS, at_work=False).values()] == expected
    merge_left_shards(folder)
    rows = json.loads(folder.read(AOI_METADATA))["features"]
    assert [row["properties"]["status"] for row in rows] == expected
    assert [row["geometry"]["type"] for row in rows] == ["Polygon"] * 7
    assert (folder / "shards").names() == []


def test_what_a_killed_share_left_half_written_goes(tmp_path: Path) -> None:
    folder = open_folder(str(tmp_path))
    board = StatusBoard(folder, Share(1, 3).of(AOIS), Share(1, 3))
    board.write()
    (tmp_path / "shards" / f"{STAGING_PREFIX}half").write_bytes(b'{"features": [')  # and is killed
    merge_left_shards(folder)
    assert list((tmp_path / "shards").iterdir()) == []
    assert list(states(folder)) == [0, 3, 6]


@pytest.mark.parametrize("tries", [1, 2])  # a cube that was sealed already is not begun again
def test_what_a_killed_share_left_does_not_undo_what_other_shares_have_built_since(
    folder: Folder, tries: int
) -> None:
    StatusBoard(folder, AOIS).write()
    left = StatusBoard(folder, Share(1, 2).of(AOIS), Share(1, 2))
    left.update(0, status=AoiState.BUILDING, tries=1)
    left.write()  # and is killed
    later = StatusBoard(folder, Share(1, 3).of(AOIS), Share(1, 3))
    later.update(0, status=AoiState.BUILT, tries=tries, cube="aoi_000000_abc")
    later.write()
    assert states(folder)[0] == "built"
    later.close()
    assert states(folder)[0] == "built"
    merge_left_shards(folder)
    assert states(folder)[0] == "built"


def test_a_file_of_a_share_that_cannot_be_read_stays_and_hides_no_area(
    folder: Folder, caplog: pytest.LogCaptureFixture
) -> None:
    whole = StatusBoard(folder, AOIS)
    whole.update(1, status=AoiState.BUILT, tries=1, cube="aoi_000001_abc")
    whole.write()
    folder.write("shards/0002-of-0003.geojson", b'{"features": [{"prop')
    merge_left_shards(folder)
    assert states(folder)[1] == "built"
    assert folder.read("shards/0002-of-0003.geojson.unreadable") == b'{"features": [{"prop'
    assert (folder / "shards").names() == ["0002-of-0003.geojson.unreadable"]
    assert "shards/0002-of-0003.geojson: cannot be read" in caplog.text
    merge_left_shards(folder)
    assert states(folder)[1] == "built"


def test_a_share_begins_with_the_rows_that_there_are(folder: Folder) -> None:
    whole = StatusBoard(folder, AOIS)
    whole.update(1, status=AoiState.BUILT, tries=3, cube="aoi_000001_abc")
    whole.write()
    board = StatusBoard(folder, Share(2, 3).of(AOIS), Share(2, 3))
    assert {index: row.tries for index, row in board.rows.items()} == {1: 3, 4: 0}
    assert board[1].cube == "aoi_000001_abc"


def test_shares_are_held_beside_each_other_but_not_twice_nor_beside_the_whole(folder: Folder) -> None:
    alone: list[str] = []
    with hold_part(folder, "0001-of-0002", lambda: alone.append("first")):
        with hold_part(folder, "0002-of-0002", lambda: alone.append("second")):
            assert who_holds(folder).endswith(" (0001-of-0002)")  # one run, whatever it holds
            with pytest.raises(BusyError, match="another run"), hold(folder):
                pass
        with (
            pytest.raises(BusyError, match="another run"),
            hold_part(folder, "0001-of-0002", lambda: None),
        ):
            pass
    assert alone == ["first"]
    assert who_holds(folder) == ""
    with (
        hold(folder),
        pytest.raises(BusyError, match="another run"),
        hold_part(folder, "0001-of-0002", lambda: None),
    ):
        pass
    with hold(folder):
        pass


def test_two_runs_are_one_and_one_more(tmp_path: Path) -> None:
    code = (
        "import sys; from cube.run.lock import hold_part; from cube.run.storage import open_folder\n"
        "with hold_part(open_folder(sys.argv[1]), '0002-of-0002', lambda: None):\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with hold_part(open_folder(str(tmp_path)), "0001-of-0002", lambda: None):
            assert "(0001-of-0002), and 1 more" in who_holds(open_folder(str(tmp_path)))
        assert f"process {other.pid} on" in who_holds(open_folder(str(tmp_path)))
        other.communicate("")
    assert who_holds(open_folder(str(tmp_path))) == ""


def test_shares_that_begin_at_once_wait_for_the_one_that_clears_up(tmp_path: Path) -> None:
    """A batch system starts all of them in the same second; the first finds itself alone."""
    folder = open_folder(str(tmp_path))
    dead = {
        "host": socket.gethostname(),
        "process": os.getpid(),
        "renewal": "x",
    }  # as if its number lived again
    folder.write(".lock", json.dumps(dead).encode())
    clearing, go_on, begun = threading.Event(), threading.Event(), threading.Event()

    def clear_up() -> None:
        clearing.set()
        assert go_on.wait(60)

    def begin(part: str, if_alone: Callable[[], None]) -> str:
        with hold_part(folder, part, if_alone):
            begun.set()
            assert go_on.wait(60)
        return part

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(begin, "0001-of-0002", clear_up)
        assert clearing.wait(60)
        second = pool.submit(begin, "0002-of-0002", lambda: None)
        assert not begun.wait(0.5)
        assert not second.done()
        go_on.set()
        assert [first.result(60), second.result(60)] == ["0001-of-0002", "0002-of-0002"]


def test_who_is_refused_is_told_which_shares_are_at_work(folder: Folder) -> None:
    with (
        hold_part(folder, "0001-of-0002", lambda: None),
        pytest.raises(BusyError, match=rf"another run \(process {os.getpid()} on "),
        hold(folder),
    ):
        pass


@pytest.mark.parametrize("lock", [".lock", ".lock-of-0002-of-0002"])
def test_a_share_that_died_elsewhere_keeps_nobody_out_for_ever(
    lock: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a bucket nothing but silence tells that a run of another machine is gone."""
    folder = open_folder(f"memory://{tmp_path.name}-{lock}")
    monkeypatch.setattr("cube.run.named_locks._STALE_S", 0.6)
    folder.write(lock, json.dumps({"host": "gone", "process": 7, "renewal": "x"}).encode())
    assert who_holds(folder) == f"process 7 on gone{'' if lock == '.lock' else ' (0002-of-0002)'}"
    with hold_part(folder, "0001-of-0002", lambda: None) if lock == ".lock" else hold(folder):
        assert lock not in folder.names()
    assert who_holds(folder) == ""


@pytest.mark.parametrize("lock", [".lock", ".lock-of-0002-of-0002"])
def test_a_run_elsewhere_that_gives_signs_is_left_alone(
    lock: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = open_folder(f"memory://{tmp_path.name}-{lock}")
    monkeypatch.setattr("cube.run.named_locks._STALE_S", 3.0)
    looks = itertools.count()

    def read(self: BucketFolder, name: str) -> bytes:
        owner = {"host": "elsewhere", "process": 7, "renewal": str(next(looks))}
        return json.dumps(owner).encode() if name == lock else plainly(self, name)

    plainly = BucketFolder.read
    folder.write(lock, b"{}")
    monkeypatch.setattr(BucketFolder, "read", read)
    with (
        pytest.raises(BusyError, match="process 7 on elsewhere"),
        hold_part(folder, "0001-of-0002", lambda: None) if lock == ".lock" else hold(folder),
    ):
        pass
    assert lock in folder.names()
