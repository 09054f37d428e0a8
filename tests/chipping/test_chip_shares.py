"""Runs of a share of the areas, at once and one by one: the chips, tables and bytes of one run."""

from __future__ import annotations

import json
import logging
import shutil
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from chip_cubes import clean_arrays, contents, cube_path, make_config, put_cube

from chipping import areas as area_work
from chipping.chip import chip
from chipping.records import read_window_tables
from chipping.rounds import Round
from cube.config.models import Config
from cube.config.reading import load_config
from cube.errors import BusyError, CubeNotSealedError, StoreError
from cube.run.layout import EXPORTING, Layout
from cube.run.lock import hold, hold_part
from cube.run.shards import Share
from cube.run.thread_engine import ThreadEngine
from cube.windows.grid import Bounds
from release import make_release

AREAS = 4
SENSORS = ("s2l2a", "dem", "lulc")


def put_areas(config: Config) -> Config:
    """Write neighbours that share a column of windows each, of three classes."""
    for aoi in range(AREAS):
        put_area(config, aoi, seed=aoi)
    return config


def put_area(config: Config, aoi: int, seed: int) -> None:
    """Write an area's cube; one of another seed has other pixels, and the same name."""
    left = 480_000 + aoi * 960
    box = Bounds(left, 5_990_400, left + 1_920, 5_992_320)
    rng = np.random.default_rng(seed)
    arrays = clean_arrays(config, box, rng, lulc=5)
    arrays["lulc"]["lulc"][:] = np.kron(rng.choice([1, 2, 5, 4], (4, 4)), np.ones((48, 48)))
    put_cube(config, box, arrays, aoi)


def of_version(config: Config) -> dict[str, bytes]:
    """All files of a version, but locks."""
    found = contents(Path(Layout.of(config).root.url))
    return {name: data for name, data in found.items() if not name.startswith((".lock", "logs"))}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What one run leaves."""
    config = put_areas(make_config(tmp_path_factory.mktemp("whole"), sensors=SENSORS, max_per_class=3))
    chip(config, ThreadEngine(1))
    return of_version(config)


def test_shares_at_once_leave_what_one_run_leaves(tmp_path: Path, whole: dict[str, bytes]) -> None:
    config = put_areas(make_config(tmp_path, sensors=SENSORS, max_per_class=3))
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda n: chip(config, ThreadEngine(1), shard=Share(n, 3)), range(1, 4)))
    assert of_version(config) == whole
    totals = found[0].totals()
    assert {"success", "duplicate", "capped", "forbidden_class"} <= totals.keys()
    assert all(one.totals() == totals and one.classes == found[0].classes for one in found)
    assert sum(one.written + one.kept for one in found) == totals["success"] == found[0].chips


@pytest.mark.parametrize("working", ["", "memory://one-share"])
def test_a_share_alone_does_what_no_run_is_at_and_the_next_have_nothing_to_do(
    tmp_path: Path, working: str
) -> None:
    config = put_areas(make_config(tmp_path, working=working, sensors=SENSORS, max_per_class=3))
    first = chip(config, ThreadEngine(1), shard=Share(2, 3))
    assert first.written == first.chips > 0
    root = Layout.of(config).root
    before = {name: root.read(name) for name in root.files() if not name.startswith(".lock")}
    for number in (1, 3):
        again = chip(config, ThreadEngine(1), shard=Share(number, 3))
        assert (again.chips, again.written, again.kept) == (first.chips, 0, 0)
    assert chip(config, ThreadEngine(1)).kept == first.chips
    assert {name: root.read(name) for name in root.files() if not name.startswith(".lock")} == before


@pytest.mark.parametrize("shard", [None, Share(1, 2)])
def test_a_run_that_another_has_taken_over_removes_no_chip_of_its(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shard: Share | None
) -> None:
    config = put_areas(make_config(tmp_path, sensors=SENSORS, max_per_class=3))
    layout = Layout.of(config)
    lock = ".lock" if shard is None else f".lock-of-chip-{shard.name}"
    theirs = b'{"host": "elsewhere", "process": 7, "renewal": "x"}'

    def fall_asleep(doing: str, done: int, total: int) -> None:
        if (doing, done) == ("export", total):
            layout.root.write(lock, theirs)
            layout.chips.write("32632_0_0/chip.json", b"{}")
            monkeypatch.setattr("cube.run.named_locks._SURE_S", 0.0)

    with pytest.raises(BusyError, match=r"another run \(process 7 on elsewhere\) has taken it over"):
        chip(config, ThreadEngine(1), fall_asleep, shard=shard)
    assert layout.root.read(lock) == theirs
    assert "32632_0_0" in layout.chips.names()
    assert not layout.windows.exists("choice.json")


class Killed(BaseException):
    """Ends a run as a signal does."""


@pytest.mark.parametrize("at", ["find_candidates", "settle", "write_chips"])
def test_what_a_killed_share_leaves_is_done_by_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: dict[str, bytes], at: str
) -> None:
    config = put_areas(make_config(tmp_path, sensors=SENSORS, max_per_class=3))
    calls, real = iter(range(1000)), getattr(area_work, at)

    def die(task: Any) -> Any:
        if next(calls) == 1:
            raise Killed
        return real(task)

    monkeypatch.setattr(f"chipping.chip.{at}", die)
    with pytest.raises(Killed):
        chip(config, ThreadEngine(1), shard=Share(1, 3))
    monkeypatch.undo()
    assert Layout.of(config).root.exists(EXPORTING)
    assert not Layout.of(config).root.exists("chip_metadata.csv")
    for path in sorted(Path(Layout.of(config).chips.url).glob("*/dem.tif"))[:1]:
        path.write_bytes(b"\0" * path.stat().st_size)  # as a power cut might
    chip(config, ThreadEngine(1), shard=Share(1, 3))
    assert of_version(config) == whole


@pytest.mark.parametrize("second", [Share(2, 5), None])
def test_other_shares_and_the_whole_take_up_what_killed_shares_leave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: dict[str, bytes], second: Share | None
) -> None:
    config = put_areas(make_config(tmp_path, sensors=SENSORS, max_per_class=3))

    def die(_: Any) -> Any:
        raise Killed

    monkeypatch.setattr("chipping.chip.write_chips", die)
    with pytest.raises(Killed):
        chip(config, ThreadEngine(1), shard=Share(1, 3))
    monkeypatch.undo()
    chip(config, ThreadEngine(1), shard=second)
    assert of_version(config) == whole


def test_a_share_that_ends_while_the_next_have_begun_harms_and_fails_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: dict[str, bytes]
) -> None:
    config = put_areas(make_config(tmp_path, sensors=SENSORS, max_per_class=3))
    at_its_end, goes_on, has_begun, has_ended = (threading.Event() for _ in range(4))
    end, score = Round.end, area_work.find_candidates

    def end_late(self: Round, finish: Any) -> int:
        if threading.current_thread().name == "late":
            at_its_end.set()
            assert goes_on.wait(60)
        return end(self, finish)

    def score_after(area: Any) -> Any:
        if at_its_end.is_set():
            has_begun.set()
            assert has_ended.wait(60)
        return score(area)

    monkeypatch.setattr(Round, "end", end_late)
    monkeypatch.setattr("chipping.chip.find_candidates", score_after)
    found: list[int] = []
    late = threading.Thread(
        target=lambda: found.append(chip(config, ThreadEngine(1), shard=Share(2, 2)).chips), name="late"
    )
    late.start()
    assert at_its_end.wait(60)
    assert chip(config, ThreadEngine(1), shard=Share(1, 2)).chips > 0
    Layout.of(config).chips.remove_folder(Layout.of(config).chips.names()[0])
    with ThreadPoolExecutor(1) as pool:
        after = pool.submit(chip, config, ThreadEngine(1), shard=Share(1, 2))
        assert has_begun.wait(60)
        goes_on.set()
        late.join(60)
        has_ended.set()
        assert after.result(60).written == 1
    assert found == [after.result().chips]
    assert of_version(config) == whole


def test_locks_that_killed_shares_left_are_cleared_away_and_those_of_others_are_not(tmp_path: Path) -> None:
    config = put_areas(make_config(tmp_path, sensors=SENSORS, max_per_class=3))
    root = Layout.of(config).root
    dead = json.dumps({"host": socket.gethostname(), "process": 1 << 22}).encode()
    left = [".lock-choosing-0-2-0-0001-of-0002", ".lock-of-choosing-0-2-0-0001-of-0002"]
    for name in left:
        root.write(name, dead)
    with hold_part(root, "choosing-0-2-0-0002-of-0002", if_alone=lambda: None):  # is ending
        chip(config, ThreadEngine(1), shard=Share(1, 2))
        found = set(root.names())
    assert found.isdisjoint(left)
    assert ".lock-of-choosing-0-2-0-0002-of-0002" in found


def test_other_settings_begin_anew_and_are_refused_meanwhile(tmp_path: Path) -> None:
    config = put_areas(make_config(tmp_path, sensors=SENSORS, max_per_class=3))
    chip(config, ThreadEngine(1), shard=Share(1, 2))
    fewer = make_config(tmp_path, sensors=SENSORS, max_per_class=2)
    root = Layout.of(config).root
    with hold_part(root, "chip-0001-of-0003", if_alone=lambda: None):
        said = r"other runs \(chip-0001-of-0003\) are at other cubes, settings"
        with pytest.raises(BusyError, match=said):
            chip(fewer, ThreadEngine(1), shard=Share(2, 2))
        with pytest.raises(BusyError, match="another run"):
            chip(fewer, ThreadEngine(1), shard=Share(1, 3))
        with pytest.raises(BusyError, match="another run"):
            chip(fewer, ThreadEngine(1))
    with hold(root), pytest.raises(BusyError, match="another run"):
        chip(fewer, ThreadEngine(1), shard=Share(1, 2))
    found = chip(fewer, ThreadEngine(1), shard=Share(2, 2))
    assert found.removed > 0
    fresh = put_areas(make_config(tmp_path / "fresh", sensors=SENSORS, max_per_class=2))
    chip(fresh, ThreadEngine(1))
    assert of_version(fewer) == of_version(fresh)


def test_chips_that_went_since_are_made_again(tmp_path: Path, whole: dict[str, bytes]) -> None:
    config = put_areas(make_config(tmp_path, sensors=SENSORS, max_per_class=3))
    first = chip(config, ThreadEngine(1), shard=Share(1, 2))
    gone = sorted(Layout.of(config).chips.names())[:2]
    for name in gone:
        Layout.of(config).chips.remove_folder(name)
    again = chip(config, ThreadEngine(1), shard=Share(2, 2))
    assert (again.written, again.kept) == (len(gone), first.chips - len(gone))
    assert of_version(config) == whole


@pytest.fixture(scope="module")
def rebuilt(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What one run leaves where the third area has other pixels."""
    config = put_areas(make_config(tmp_path_factory.mktemp("rebuilt"), sensors=SENSORS, max_per_class=3))
    put_area(config, 2, seed=77)
    chip(config, ThreadEngine(1))
    return of_version(config)


@pytest.mark.parametrize("shard", [Share(1, 2), Share(3, 3), None])
def test_cubes_that_were_built_again_with_other_pixels_are_chosen_from_again(
    tmp_path: Path, whole: dict[str, bytes], rebuilt: dict[str, bytes], shard: Share | None
) -> None:
    """A damaged cube is built again from files that have changed: under the same name."""
    config = put_areas(make_config(tmp_path, sensors=SENSORS, max_per_class=3))
    chip(config, ThreadEngine(1), shard=Share(1, 2))
    assert of_version(config) == whole
    put_area(config, 2, seed=77)
    chip(config, ThreadEngine(1), shard=shard)
    assert of_version(config) == rebuilt != whole
    shutil.rmtree(cube_path(config, 2))
    chip(config, ThreadEngine(1), shard=shard)
    assert "aoi_000002.parquet" not in Layout.of(config).windows.names()


@pytest.mark.parametrize("at", ["settle", "write_chips"])
def test_what_killed_shares_left_of_cubes_that_were_built_again_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rebuilt: dict[str, bytes], at: str
) -> None:
    config = put_areas(make_config(tmp_path, sensors=SENSORS, max_per_class=3))
    real = getattr(area_work, at)

    def die(task: Any) -> Any:
        if (task[0] if at == "settle" else task.area).cube.aoi_index == 3:  # the other share is done
            raise Killed
        return real(task)

    monkeypatch.setattr(f"chipping.chip.{at}", die)
    with pytest.raises(Killed):
        chip(config, ThreadEngine(1), shard=Share(1, 2))
    monkeypatch.undo()
    put_area(config, 2, seed=77)
    chip(config, ThreadEngine(1), shard=Share(2, 2))
    assert of_version(config) == rebuilt


@pytest.mark.parametrize("shard", [None, Share(1, 2)])
@pytest.mark.parametrize("at", ["settle", "write_chips"])
def test_a_cube_that_is_built_again_in_the_midst_is_said_and_the_next_run_is_right(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rebuilt: dict[str, bytes], at: str, shard: Share | None
) -> None:
    """Its candidates are as many as before: what tells is what its seal says."""
    config = put_areas(make_config(tmp_path, sensors=SENSORS, max_per_class=3))
    calls, real = iter(range(1000)), getattr(area_work, at)

    def meanwhile(task: Any) -> Any:
        if next(calls) == 0:
            put_area(config, 2, seed=77)
        return real(task)

    monkeypatch.setattr(f"chipping.chip.{at}", meanwhile)
    with pytest.raises(
        StoreError, match="AOI 000002: its cube has changed meanwhile; run gelos-lc chip again"
    ):
        chip(config, ThreadEngine(1), shard=shard)
    monkeypatch.undo()
    chip(config, ThreadEngine(1), shard=shard)
    assert of_version(config) == rebuilt


def test_more_shares_than_areas_and_none_at_all(tmp_path: Path, whole: dict[str, bytes]) -> None:
    config = put_areas(make_config(tmp_path, sensors=SENSORS, max_per_class=3))
    chip(config, ThreadEngine(1), shard=Share(9, 9))
    assert of_version(config) == whole
    empty = make_config(tmp_path / "empty")
    with pytest.raises(CubeNotSealedError, match="no finished cube"):
        chip(empty, ThreadEngine(1), shard=Share(1, 2))


def test_tables_hold_the_rows_of_the_csv_to_other_readers(tmp_path: Path) -> None:
    config = put_areas(make_config(tmp_path, sensors=SENSORS, max_per_class=3))
    chip(config)
    root = Path(Layout.of(config).root.url)
    text = pd.read_csv(root / "chip_metadata.csv", dtype=str, keep_default_na=False)
    tables = [pq.read_table(path) for path in sorted((root / "windows").glob("*.parquet"))]
    assert [table["aoi_index"].unique().to_pylist() for table in tables] == [[n] for n in range(AREAS)]
    assert all(table.column_names == list(text) for table in tables)
    rows = [row for table in tables for row in table.to_pylist()]
    as_text = [["" if value is None else str(value) for value in row.values()] for row in rows]
    assert as_text == text.to_numpy().tolist()
    everything = ds.dataset(sorted(map(str, (root / "windows").glob("*.parquet")))).to_table()
    assert everything["status"].to_pylist() == text["status"].tolist()
    assert json.loads((root / "windows" / "choice.json").read_text())["windows"] == len(text)
    some = next(read_window_tables(Layout.of(config).windows, ["cell", "status"]))
    assert some.column_names == ["cell", "status"]
    with pytest.raises(StoreError, match=r"aoi_000000\.parquet: column pureness is missing"):
        next(read_window_tables(Layout.of(config).windows, ["pureness"]))


def test_a_table_too_large_for_people_lies_in_parquet_alone_and_is_released(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = put_areas(make_config(tmp_path, sensors=SENSORS, max_per_class=3))
    chip(config)
    config = load_config(config.path, ["release.allow_missing_classes=true"])
    summary = make_release(config)
    path = Path(Layout.of(config).root.url) / "chip_metadata.csv"
    rows = path.read_text().count("\n") - 1
    monkeypatch.setattr("chipping.chip.CSV_ROWS", rows)
    chip(config)
    assert path.exists()
    monkeypatch.setattr("chipping.chip.CSV_ROWS", rows - 1)
    with caplog.at_level(logging.INFO):
        chip(config)
    assert not path.exists()
    assert f"no chip_metadata.csv of {rows} windows; their table is" in caplog.text
    assert make_release(config).fingerprint == summary.fingerprint


def test_a_share_of_other_settings_waits_for_no_run_that_only_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs that hold their share may have joined the round that is there, or not yet any."""
    config = put_areas(make_config(tmp_path, sensors=SENSORS, max_per_class=3))
    fewer = make_config(tmp_path, sensors=SENSORS, max_per_class=2)
    root, found = Layout.of(config).root, []
    real = area_work.settle

    def meanwhile(task: Any) -> Any:
        if not found:
            with pytest.raises(BusyError, match=r"other runs \(chip-0001-of-0002\) are at other cubes"):
                chip(fewer, ThreadEngine(1), shard=Share(2, 2))
            found.append(True)
        return real(task)

    monkeypatch.setattr("chipping.chip.settle", meanwhile)
    chip(config, ThreadEngine(1), shard=Share(1, 2))
    monkeypatch.undo()
    assert found
    root.write(EXPORTING, b"")  # as a single run leaves it that was killed
    with hold_part(root, "chip-0001-of-0002", if_alone=lambda: None):
        assert chip(fewer, ThreadEngine(1), shard=Share(2, 2)).removed > 0
