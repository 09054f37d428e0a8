"""What `release` and `verify` say: where things are, what is in them, what to do next."""

from __future__ import annotations

import csv
import json
import shlex
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner
from release_changes import reseal

from cube.config.models import Config
from cube.run.command import CommonOptions, typed_on_release
from release.cli import main

RASTER = "s2l2a_000004_20230115.tif"


def test_release_ends_with_places_counts_and_what_comes_next(
    config: Config, folder: Path, archive: Path
) -> None:
    result = CliRunner().invoke(main, ["release", "-c", str(config.path)])
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    places = dict(
        line.split(maxsplit=1)
        for line in lines
        if line.startswith(("release ", "report ", "browser ", "card ", "zip "))
    )
    assert {name: Path(path) for name, path in places.items()} == {
        "release": folder,
        "report": folder / "report.html",
        "browser": folder / "browse.html",
        "card": folder / "README.md",
        "zip": archive,
    }
    assert all(Path(path).exists() for path in places.values())
    with (folder / "gelos_chip_tracker.csv").open() as file:
        counts = Counter(row["category"] for row in csv.DictReader(file))
    for name, count in counts.items():
        assert any(f"{count} chips of " in line and name in line for line in lines), name
    commands = [shlex.split(line) for line in lines[lines.index("next:") + 1 :]]
    assert ["gelos-lc", "verify", str(folder)] in commands
    for command, *arguments in commands:
        assert command == "gelos-lc"
        assert CliRunner().invoke(main, [arguments[0], "--help"]).exit_code == 0
    again = CliRunner().invoke(main, next(words[1:] for words in commands if words[1] == "verify"))
    assert again.exit_code == 0


def test_next_commands_can_be_typed_as_they_stand(config: Config) -> None:
    settings = ["--set", "compute.threads=1", "--set", "compute.workers="]
    result = CliRunner().invoke(main, ["release", "-c", str(config.path), *settings])
    sheet = ["gelos-lc", "sheet", "-c", str(config.path), *settings, "-o", "sheet.png"]
    assert sheet in [shlex.split(line) for line in result.stdout.splitlines() if line.startswith("  gelos")]


@pytest.mark.parametrize(
    "setting",
    [
        "directory.storage_options={key: secret}",
        "directory.storage_options.key=secret",
        "directory={working: x, storage_options: {key: secret}}",
        "directory.working=https://me:secret@example.org/",
        "catalog.url=items.json?key=secret",
        "s2l2a.catalog=secret",
        "profiles.mine.token_url=secret",
    ],
)
def test_next_commands_show_no_value_that_may_be_secret(setting: str) -> None:
    typed = CommonOptions("a.yaml", (setting,)).typed("sheet")
    assert shlex.split(typed) == [
        "gelos-lc",
        "sheet",
        "-c",
        "a.yaml",
        "--set",
        f"{setting.partition('=')[0]}=...",
    ]


def test_a_command_on_a_release_goes_where_the_config_led() -> None:
    endpoint = {"client_kwargs": {"endpoint_url": "https://me:secret@s3.example.org"}, "key": "secret"}
    options = {"endpoint_url": "https://s3.example.org", "secret": "secret"}
    there = "AWS_ENDPOINT_URL=https://s3.example.org gelos-lc verify s3://bucket/v1"
    assert typed_on_release("verify", "s3://bucket/v1", options) == there
    assert typed_on_release("verify", "s3://bucket/v1", endpoint) == there
    assert typed_on_release("verify", "s3://bucket/v1", {}) == "gelos-lc verify s3://bucket/v1"
    assert (
        typed_on_release("verify", "s3://bucket/v1", {"client_kwargs": None})
        == "gelos-lc verify s3://bucket/v1"
    )
    assert typed_on_release("verify", "data/my v1", options) == "gelos-lc verify 'data/my v1'"


def test_verify_says_all_on_stdout(folder: Path, copy: Path) -> None:
    (copy / RASTER).write_bytes(b"nothing")
    for release, end in ((folder, "0 faults, 0 warnings"), (copy, "1 fault, 0 warnings")):
        result = CliRunner().invoke(main, ["verify", str(release)])
        assert result.stderr == ""
        assert result.stdout.splitlines()[-1] == f"{release}: {end}"
        assert result.exit_code == int(end.startswith("1"))
    (copy / "extra.txt").write_bytes(b"")
    reseal(copy)
    assert CliRunner().invoke(main, ["verify", str(copy)]).stdout.endswith(": 2 faults, 0 warnings\n")


def test_verify_as_json(folder: Path, copy: Path) -> None:
    (copy / RASTER).unlink()
    result = CliRunner().invoke(main, ["verify", str(copy), "--json"])
    found = json.loads(result.stdout)
    assert (result.exit_code, result.stderr) == (1, "")
    assert (found["release"], found["faults"], found["warnings"]) == (str(copy), 1, 0)
    [fault] = found["found"]
    assert (fault["file"], fault["warning"]) == (RASTER, False)
    assert "is missing" in fault["message"]
    whole = CliRunner().invoke(main, ["verify", str(folder), "--json"])
    assert json.loads(whole.stdout) == {"release": str(folder), "faults": 0, "warnings": 0, "found": []}
    assert whole.exit_code == 0


def test_an_output_that_cannot_be_written_or_is_taken_is_told_before_chips_are_looked_at(
    config: Config, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr("release.make.make_release", never)
    start = ["release", "-c", str(config.path)]
    (tmp_path / "file").write_text("")
    result = CliRunner().invoke(main, [*start, "--set", f"directory.output={tmp_path}/file/below"])
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: {config.path}: directory.output: {tmp_path}/file/below: ")
    taken = CliRunner().invoke(main, [*start, "--set", "chips.min_purity=0.4"])
    assert taken.exit_code == 2
    assert taken.stderr == (
        f"error: {folder}: a release of other settings has this version (chips.min_purity is 0.5 there, "
        "0.4 here); set another dataset.version, or give --force to replace it\n"
    )
