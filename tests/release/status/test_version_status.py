"""gelos-lc status: at any moment, on a disk or in a bucket, from another machine; it reads and writes nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from shapely import box

from chipping.chip import chip
from cube.build.overview import group_areas, lost_scenes
from cube.config.aoi import Aoi
from cube.config.models import Config
from cube.run.layout import Layout
from cube.run.lock import hold_part
from cube.run.shards import Share
from cube.run.status import AoiState, AoiStatus, StatusBoard
from cube.run.storage import Folder, open_folder
from release.cli import main

ROOT = Path(__file__).parents[3]
HOLD = (
    "import sys, time; from cube.run.lock import hold; from cube.run.storage import open_folder\n"
    "with hold(open_folder(sys.argv[1])): print('held', flush=True); time.sleep(60)"
)


def settings_of(config: Config) -> list[str]:
    given = {
        "catalog.url": config.catalog.url,
        "aoi.path": config.aoi.path,
        "directory.working": config.directory.working,
        "directory.output": config.directory.output,
        "aoi.include_indices": json.dumps(config.aoi.include_indices),
        "directory.storage_options": json.dumps(config.directory.storage_options),
    }
    return [part for key, value in given.items() for part in ("--set", f"{key}={value}")]


def status_of(config: Config) -> tuple[dict[str, Any], str]:
    """Return what the command says as JSON, and as text."""
    asked = ["status", "-c", str(ROOT / "configs/demo.yaml"), *settings_of(config)]
    machine, person = (CliRunner().invoke(main, [*asked, *more]) for more in (["--json"], []))
    assert (machine.exit_code, person.exit_code) == (0, 0), machine.output + person.output
    return json.loads(machine.stdout), person.stdout


def seen(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in folder.rglob("*")}


def next_verbs(found: dict[str, Any]) -> list[str]:
    return [line.split()[1] + (" --retry-failed" in line) * "!" for line in found["next"]]


def test_a_version_is_followed_from_nothing_to_chips(
    demo: Config, demo_config: Callable[..., Config], tmp_path: Path
) -> None:
    config = demo_config(tmp_path)
    found, text = status_of(config)
    assert list(tmp_path.iterdir()) == []
    assert found["areas"] == {"total": 6, "pending": 6, "building": 0, "built": 0, "skipped": 0, "failed": 0}
    assert next_verbs(found) == ["build"]
    assert "6 pending" in text
    assert f"working   {Layout.of(config).root}: no run has begun anything there" in text

    built = Path(demo.directory.working)
    before = {path: facts for path, facts in seen(built).items() if "/scores" not in path}
    found, text = status_of(demo)
    assert before == {path: facts for path, facts in seen(built).items() if "/scores" not in path}
    assert found["areas"] | {"total": 6} == {"total": 6, "pending": 0, "building": 0, "built": 5, "skipped": 1, "failed": 0}  # fmt: skip
    assert [one["aois"] for one in found["groups"]] == [[3], [0, 1, 2, 4, 5]]
    assert found["groups"][0]["reason"] == "lc2l2: no scene for 2023-07-01/2023-09-30"
    assert "would admit one" in " ".join(text.split())  # what would have saved the only one is told whole

    config = demo_config(tmp_path, "aoi.include_indices=[4]")
    working = Path(config.directory.working)
    working.mkdir()
    for name in ("cubes", "blocks"):
        (working / name).symlink_to(built / name)
    Layout.of(config).root.make()
    rows = (built / "demo" / "aoi_metadata.geojson").read_bytes()
    Layout.of(config).root.write("aoi_metadata.geojson", rows)
    assert next_verbs(status_of(config)[0]) == ["chip"]
    summary = chip(config)
    found, text = status_of(config)
    assert found["windows"] == summary.totals()
    assert f"{summary.chips} of {summary.windows} windows" in text
    assert next_verbs(found) == ["release"]


def test_a_run_at_work_is_told_from_one_that_was_killed(
    demo_config: Callable[..., Config], tmp_path: Path
) -> None:
    config = demo_config(tmp_path)
    root = Layout.of(config).root
    StatusBoard(root, [Aoi(2, box(0, 0, 1, 1))]).update(2, status=AoiState.BUILDING, done=0.43)
    held = [sys.executable, "-c", HOLD, root.url]
    with subprocess.Popen(held, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            before = seen(tmp_path)
            found, text = status_of(config)
            assert before == seen(tmp_path)
            assert found["at_work"].startswith(f"process {process.pid} on ")
            assert found["areas"]["building"] == 1
            assert "building, 43 % done" in text
            assert next_verbs(found) == ["status"]
        finally:
            process.kill()
    found, text = status_of(config)
    assert "pending, 1 of them begun" in text
    assert (found["at_work"], found["areas"]["building"], found["areas"]["pending"]) == ("", 0, 6)
    assert next_verbs(found) == ["build"]


def test_a_share_that_was_killed_beside_others_is_named(
    demo_config: Callable[..., Config], tmp_path: Path
) -> None:
    config = demo_config(tmp_path)
    root = Layout.of(config).root
    for number in (1, 2):
        StatusBoard(root, [Aoi(number, box(0, 0, 1, 1))], Share(number, 2)).write()
    with hold_part(root, Share(1, 2).name, lambda: None):
        found, text = status_of(config)
    assert found["cut_off"] == ["2/2"]
    assert [line.split(" --shard ")[1:] for line in found["next"]] == [["2/2"], []]
    assert "(0001-of-0002)" in text
    assert status_of(config)[0]["cut_off"] == []  # a run of the whole takes all up


@pytest.mark.parametrize("host", ["another-machine", ""])
def test_a_bucket_is_read_and_never_written(
    demo_config: Callable[..., Config], s3: Folder, tmp_path: Path, host: str
) -> None:
    config = demo_config(
        tmp_path,
        f"directory.working={s3.url}/status{host}",
        f"directory.storage_options={json.dumps(dict(s3.options))}",
    )
    root = Layout.of(config).root
    board = StatusBoard(root, [Aoi(index, box(0, 0, 1, 1)) for index in range(2)])
    board.update(0, status=AoiState.BUILDING, done=0.5)
    board.update(1, status=AoiState.FAILED, reason="block x: item A, asset B02: the file is cut short")
    board.close()
    if host:
        root.write(".lock", json.dumps({"host": host, "process": 7, "renewal": "x"}).encode())
    folder = open_folder(f"{s3.url}/status{host}", dict(s3.options))
    before = {name: folder.read(name) for name in folder.files()}
    found, text = status_of(config)
    assert {name: folder.read(name) for name in folder.files()} == before
    assert found["at_work"] == ("process 7 on another-machine" if host else "")
    assert next_verbs(found) == (["status"] if host else ["build", "build!"])
    assert "directory.storage_options=..." in text
    assert "secret" not in text


def test_reasons_of_hundreds_of_areas_are_a_few_lines() -> None:
    """Of 641 areas, 22 failed at one kind of file, each at its own; 100 lack a season, each by other limits."""
    rows = {index: AoiStatus(AoiState.BUILT, done=1.0) for index in range(641)}
    lost = {"item": "S2_X", "asset": "B02", "cause": "the file is missing (HTTP 404)"}
    rows |= {index: AoiStatus(AoiState.BUILT, lost=[lost]) for index in (7, 9)}
    for index in range(100, 122):
        reason = f"block s2l2a/{index}: item S2_{index}, asset B0{index % 8}: the file cannot be decoded"
        rows[index] = AoiStatus(AoiState.FAILED, reason)
    for index in range(200, 300):
        season = "2023-01-01/2023-03-31" if index % 4 else "2023-10-01/2023-12-31"
        tally = f"{index} found, {index} over cloud_cover 50; 51.{index} would admit one"
        rows[index] = AoiStatus(AoiState.SKIPPED, f"lc2l2: no scene for {season} ({tally})")
    groups = group_areas(rows)
    assert [(one.state, one.kind, len(one.rows)) for one in groups] == [
        ("failed", "the file cannot be decoded", 22),
        ("skipped", "lc2l2: no scene for 2023-01-01/2023-03-31", 75),
        ("skipped", "lc2l2: no scene for 2023-10-01/2023-12-31", 25),
        ("built", "", 519),
    ]
    assert sorted(index for one in groups for index in one.rows) == list(range(641))
    like = "(201 found, 201 over cloud_cover 50; 51.201 would admit one)"
    assert groups[1].reason == f"lc2l2: no scene for 2023-01-01/2023-03-31; such as: {like}"
    assert groups[0].labels == "000100, 000101, 000102, 000103, 000104, 000105 and 16 more"
    assert lost_scenes(rows) == [{**lost, "aois": [7, 9]}]
