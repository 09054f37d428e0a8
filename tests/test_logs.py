"""What a run says while it runs: to people, to machines, and in its log file."""

from __future__ import annotations

import errno
import importlib.util
import json
import logging
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cube.build.commands import BuildOptions, run_build
from cube.build.dry_run.table import print_plans
from cube.config.aoi import load_aois
from cube.config.models import Config
from cube.errors import ReadError
from cube.run import pace
from cube.run.command import EXIT_FAILED, CommonOptions, run_verb
from cube.run.layout import Layout
from cube.run.logs import RunLog, event
from cube.run.progress import draw_aois, draw_steps
from cube.run.status import AoiState, AoiStatus, StatusBoard
from cube.run.storage import open_folder
from cube.scenes.plan import CubePlan

ROOT = Path(__file__).parents[1]
SECRET = "sig=c2VjcmV0&se=2026"
FEW = {"s2l2a.bands": "[B02, B03, B04]", "s1rtc": "", "lc2l2": "", "dem": ""}


def command(script: str, config: Config, *more: str) -> list[str]:
    keys = {
        "catalog.url": config.catalog.url,
        "aoi.path": config.aoi.path,
        "aoi.include_indices": "[4, 5]",
        "directory.working": config.directory.working,
        "directory.output": config.directory.output,
        "compute.workers": "0",
        **FEW,
    }
    sets = [part for key, value in keys.items() for part in ("--set", f"{key}={value}")]
    return [
        sys.executable,
        str(ROOT / "scripts" / script),
        "-c",
        str(ROOT / "configs/demo.yaml"),
        *sets,
        *more,
    ]


def log_files(folder: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in sorted((folder / "interim/demo/logs").glob("*"))}


def test_machines_get_an_object_per_line_and_every_run_a_file(
    demo_config: Callable[..., Config], tmp_path: Path
) -> None:
    config = demo_config(tmp_path)
    done = subprocess.run(
        command("build_cubes.py", config, "--set", "compute.workers=1", "--json-logs"),
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert all({"time", "level", "event", "message"} <= line.keys() for line in lines)
    assert [line["event"] for line in lines[:1]] == ["start"]
    assert (lines[-1]["event"], lines[-1]["exit"]) == ("end", 0)
    links = [line["url"] for line in lines if line["event"] == "dashboard"]
    assert len(links) == (importlib.util.find_spec("bokeh") is not None)  # without it there is no dashboard
    rows = [(line["aoi"], line["status"]) for line in lines if line["event"] == "aoi"]
    assert sorted(rows) == [(4, "building"), (4, "built"), (5, "building"), (5, "built")]
    ends = [line for line in lines if line["event"] == "aois"]
    assert [(line["done"], line["total"]) for line in ends][-1] == (2, 2)
    assert ends[-1]["per_hour"] > 0
    assert ends[-1]["left_s"] == 0

    failed = subprocess.run(command("make_release.py", config), capture_output=True, text=True, check=False)
    subprocess.run(command("chip.py", config), capture_output=True, check=True)
    files = log_files(tmp_path)
    assert [name[17:] for name in files] == ["build.log", "release.log", "chip.log"]
    assert all(re.fullmatch(r"\d{8}T\d{6}Z_\w+\.log", name) for name in files)
    built, released, _ = files.values()
    assert "AOI 000005: built" in built
    assert built.splitlines()[-1].endswith("build ended with 0 after " + built.rpartition(" ")[2].strip())
    assert failed.returncode == 2
    assert failed.stderr.removeprefix("error: ").strip() in released


def test_no_file_where_none_is_wanted(demo_config: Callable[..., Config], tmp_path: Path) -> None:
    config = demo_config(tmp_path)
    subprocess.run(
        command("build_cubes.py", config, "--set", "log_errors=false"), capture_output=True, check=True
    )
    assert log_files(tmp_path) == {}
    assert (tmp_path / "interim/demo/aoi_metadata.geojson").exists()


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    main, side = pty.openpty()
    yield main, side
    os.close(main)


def test_a_terminal_has_bars_and_is_sane_after_ctrl_c(
    demo_config: Callable[..., Config], tmp_path: Path, terminal: tuple[int, int], listening: str
) -> None:
    main, side = terminal
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "120"}
    more = ("--set", "compute.threads=1", "--set", "aoi.include_indices=[0, 1, 2, 4, 5]")
    python, *rest = command("build_cubes.py", demo_config(tmp_path), *more)
    arguments = [python, "-c", listening, *rest]
    before = subprocess.run(["stty", "-g"], stdin=side, capture_output=True, check=True).stdout
    process = subprocess.Popen(arguments, stdin=side, stdout=side, stderr=side, env=environment)
    seen, interrupted = b"", False
    deadline = time.monotonic() + 120
    while process.poll() is None:
        assert time.monotonic() < deadline, seen.decode()
        if select.select([main], [], [], 0.1)[0]:
            seen += os.read(main, 65536)
        if not interrupted and b"AOIs/h" in seen:
            process.send_signal(signal.SIGINT)
            interrupted = True
    while select.select([main], [], [], 0.1)[0]:
        seen += os.read(main, 65536)
    after = subprocess.run(["stty", "-g"], stdin=side, capture_output=True, check=True).stdout
    os.close(side)
    text = seen.decode()
    assert process.returncode == 130, text
    assert re.search(r"AOI 00000\d .*\d+ %", text)
    assert re.search(r"AOIs/h, .*\d+:\d\d:\d\d left", text)
    assert text.rindex("\x1b[?25h") > text.rindex("\x1b[?25l")  # the cursor is back
    assert "run the same command again to go on" in text
    assert before == after


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        monkeypatch.setattr(pace.time, "monotonic", lambda: self.now)


def facts(caplog: pytest.LogCaptureFixture, kind: str) -> list[dict[str, Any]]:
    return [vars(record)["facts"] for record in caplog.records if vars(record).get("event") == kind]


def test_time_left_counts_what_this_run_does_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Of ten AOIs four were built before and one to a half; another takes 100 s."""
    caplog.set_level(logging.INFO)
    clock = Clock(monkeypatch)
    with draw_aois(10, "cubes") as report:
        for index in range(4):
            report(index, AoiStatus(AoiState.BUILT, done=1.0))
        report(4, AoiStatus(AoiState.BUILDING, done=0.5))
        clock.now += 50
        report(4, AoiStatus(AoiState.BUILDING, done=1.0))
        report(4, AoiStatus(AoiState.BUILT, done=1.0))
    assert [fact["left_s"] for fact in facts(caplog, "aois")] == [None] * 4 + [500]
    assert facts(caplog, "aois")[-1] == {
        "what": "cubes",
        "done": 5.0,
        "total": 10,
        "per_hour": 36.0,
        "left_s": 500,
    }
    assert "[1/10] AOI 000000 built" in caplog.messages
    assert "[5/10] AOI 000004 built; 36 AOIs/h, 0:08:20 left" in caplog.messages


def test_a_long_step_is_heard_of_once_a_minute(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    clock = Clock(monkeypatch)
    with draw_steps() as report:
        for done in range(101):
            report("export", done, 100)
            clock.now += 10
    heard = facts(caplog, "progress")
    assert len(heard) == 14  # 1010 s
    assert heard[0] == {"what": "export", "done": 7, "total": 100, "left_s": 930}
    assert caplog.messages[0] == "export: 7/100, 0:15:30 left"


def test_an_aoi_of_hours_is_heard_of_once_a_minute(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    clock = Clock(monkeypatch)
    with draw_aois(2, "cubes") as report:
        for percent in range(101):
            report(7, AoiStatus(AoiState.BUILDING, done=percent / 100))
            clock.now += 36
    heard = [message for message in caplog.messages if "AOI 000007" in message]
    assert heard[0].startswith("0 of 2 AOIs, and AOI 000007 2 %; ")
    assert len(heard) == 50


def refuse() -> None:
    raise OSError(f"no answer from https://host/a.tif?{SECRET}")


def test_other_libraries_are_in_the_file_alone_and_tokens_nowhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = logging.getLogger().handlers[:]
    for as_json in (False, True):
        with RunLog(as_json=as_json) as log:
            log.keep_in(open_folder(str(tmp_path / "logs")), f"json{as_json}")
            logging.getLogger("distributed.worker").error("compute failed")
            logging.getLogger("tornado.application").info("of no interest")
            try:
                refuse()
            except OSError:
                logging.getLogger("cube.some").exception("read https://host/b.tif?%s", SECRET)
            logging.getLogger("cube.some").info("for the file")
            logging.getLogger("cube.some").info("a link", extra=event("dashboard", url="http://x"))
    assert logging.getLogger().handlers == before
    _, stderr = capsys.readouterr()
    people = [line for line in stderr.splitlines() if not line.startswith("{")]
    machines = [json.loads(line) for line in stderr.splitlines() if line.startswith("{")]
    assert [line.split("?")[0] for line in people] == ["error: read https://host/b.tif", "a link"]
    assert [line["event"] for line in machines] == ["message", "message", "dashboard"]
    assert "Traceback" in machines[0]["traceback"]
    files = [path.read_text() for path in (tmp_path / "logs").iterdir()]
    assert len(files) == 2
    for text in files:
        assert "ERROR   compute failed" in text
        assert "of no interest" not in text
        assert "Traceback" in text
    for text in (stderr, *files):
        assert "c2VjcmV0" not in text


@pytest.mark.parametrize(
    "said",
    [
        "https://host/a.tif?sig={}",
        "access_token={} refused",
        "X-Amz-Signature={}&x=1",
        "Authorization: Bearer {}",
        "s3://key:{}@bucket/a.tif",
    ],
)
def test_what_opens_something_is_in_no_fact_however_deep(
    said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = "c2VjcmV0LXNlY3JldA"
    text = said.format(secret)
    with RunLog(as_json=True):
        facts = event("read", why=text, assets=[{"href": text}], error=ValueError(text))
        logging.getLogger("cube.test").warning("%s", text, extra=facts)
    [line] = capsys.readouterr().err.splitlines()
    assert secret not in line
    assert json.loads(line)["event"] == "read"


def test_an_object_store_gets_the_log_when_the_run_ends() -> None:
    folder = open_folder("memory://logs-of-a-run")
    with RunLog() as log:
        log.keep_in(folder, "chip")
        logging.getLogger("chipping.some").info("a line")
        assert folder.names() == []
    [name] = folder.names()
    assert name.endswith("Z_chip.log")
    assert folder.read(name).decode().endswith("INFO    a line\n")


def faulty(_: Config) -> int:
    refuse()
    return 0


class Gone:
    """A terminal that has been closed."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True

    def write(self, _: str) -> int:
        raise OSError(errno.EIO, "Input/output error")

    def flush(self) -> None:
        self.write("")


@pytest.mark.parametrize("as_json", [False, True])
def test_a_terminal_that_is_gone_ends_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, as_json: bool
) -> None:
    monkeypatch.setattr(sys, "stderr", Gone())
    monkeypatch.setattr(logging, "raiseExceptions", False)
    with RunLog(as_json=as_json) as log, draw_aois(2, "cubes", bars=not as_json) as report:
        log.keep_in(open_folder(str(tmp_path)), "some")
        report(7, AoiStatus(AoiState.BUILDING, done=0.5))
        report(7, AoiStatus(AoiState.BUILT, done=1.0))
        logging.getLogger("cube.some").warning("a line")
    [file] = tmp_path.iterdir()
    assert "AOI 000007 built" in file.read_text()
    assert "a line" in file.read_text()


@pytest.mark.parametrize("as_json", [False, True])
def test_a_fault_of_the_program_shows_no_token(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    config = str(ROOT / "configs/demo.yaml")
    options = CommonOptions(config, (f"directory.working={tmp_path}",), json_logs=as_json)
    assert run_verb("some", options, faulty) == 1
    stderr = capsys.readouterr().err
    assert "no answer from https://host/a.tif" in stderr
    assert "in refuse" in stderr
    assert "c2VjcmV0" not in stderr
    if as_json:
        events = [json.loads(line) for line in stderr.splitlines()]
        assert [(line["event"], line.get("exit")) for line in events[1:]] == [("fault", None), ("end", 1)]


def test_only_the_aois_that_are_tried_again_are_counted(
    demo_config: Callable[..., Config], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = demo_config(tmp_path, "s2l2a.cloud_cover=0.1")  # every AOI is skipped
    board = StatusBoard(Layout.of(config).root, load_aois(config))
    board.update(1, status=AoiState.FAILED)
    caplog.set_level(logging.INFO)
    assert run_build(config, BuildOptions(retry_failed=True), bars=False) == 0
    [only] = facts(caplog, "aois")
    assert (only["done"], only["total"]) == (1, 1)


def test_a_dry_run_shows_what_cannot_be_read_and_goes_on(
    demo_config: Callable[..., Config],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def candidates(plan: CubePlan, _: Config) -> dict[str, int]:
        if plan.aoi_index == 4:
            raise ReadError("an item", "data", "HTTP 404")
        return {"Trees": 7}

    monkeypatch.setattr("cube.build.dry_run.table.candidates_of", candidates)
    assert print_plans(demo_config(tmp_path), [4, 5]) == EXIT_FAILED
    printed = " ".join(re.sub(r"[^\w,.: ]", " ", capsys.readouterr().out).split())
    assert "item an item, asset data: HTTP 404" in printed
    assert "candidate windows: 7 Trees" in printed
