"""A config says what it says: YAML 1.2, and paths as people write them."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from chipping.sweep import parse_grid
from cube.config.models import Config
from cube.config.reading import load_config
from cube.config.sensors import SENSORS
from cube.config.yaml_text import load_yaml
from cube.errors import ConfigError
from release.cli import main

TEXT = """
dataset: {version: VERSION}
aoi: {path: aois.geojson}
directory: {working: w, output: o}
s2l2a: {time_ranges: [2023-01-01/2023-03-31]}
lulc: {year: 2023-01-02/2023-12-31}
"""


def write(folder: Path, text: str = TEXT.replace("VERSION", "v1")) -> Path:
    path = folder / "config.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    "text", ["no", "on", "2:40:00", "2023-12-31", "2023-12-31T10:00:00Z", "1_000", "0b1"]
)
def test_what_yaml_1_1_alone_takes_for_something_else_is_text(text: str) -> None:
    assert load_yaml(text) == text
    assert yaml.safe_load(text) != text
    assert parse_grid([f"chips.classes={text}"], SENSORS) == {"chips.classes": [text]}


@pytest.mark.parametrize(
    ("text", "value"),
    [("0740", 740), ("0o17", 15), ("0x1F", 31), ("-.5", -0.5), ("1e3", 1000.0), (".inf", float("inf")), ("", None),
     ("Null", None), ("TRUE", True), ("+7", 7), ("'7'", "7"), ("[1, no]", [1, "no"])],
)  # fmt: skip
def test_the_core_schema_of_yaml_1_2(text: str, value: object) -> None:
    found = load_yaml(text)
    assert found == value
    assert type(found) is type(value)


def test_a_version_that_is_a_date_or_a_word_is_read_as_written(tmp_path: Path) -> None:
    for version in ("2023-12-31", "no", "1.10.0"):
        assert load_config(write(tmp_path, TEXT.replace("VERSION", version))).dataset.version == version
    assert load_config(write(tmp_path), ["dataset.version=2023-12-31"]).dataset.version == "2023-12-31"
    assert load_config(write(tmp_path), ["directory.zip_output=no"]).directory.zip_output is False


@pytest.mark.parametrize(
    ("version", "kind"), [("1.10", "number"), ("0740", "number"), ("1e3", "number"), ("true", "truth value")]
)
def test_what_must_be_quoted_is_said(tmp_path: Path, version: str, kind: str) -> None:
    said = rf'dataset\.version: found {version}, which YAML reads as a {kind}; put quotes around it: version: "{version}"$'
    with pytest.raises(ConfigError, match=said):
        load_config(write(tmp_path, TEXT.replace("VERSION", version)))
    with pytest.raises(ConfigError, match=said):
        load_config(write(tmp_path), [f"dataset.version={version}"])
    quoted = TEXT.replace("VERSION", f'"{version}"')
    assert load_config(write(tmp_path, quoted)).dataset.version == version


def test_a_year_alone_is_told_what_a_period_is(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"lulc\.year: '2023' is not a time range; expected start/end such as"
    ):
        load_config(write(tmp_path), ["lulc.year=2023"])


def test_a_key_given_twice_in_an_override_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--set .*: key 's2l2a' is given twice"):
        load_config(write(tmp_path), ["chips.min_clear={s2l2a: 0.5, s2l2a: 0.6}"])


PATHS = {
    "aoi.path": lambda config: config.aoi.path,
    "directory.working": lambda config: config.directory.working,
    "directory.output": lambda config: config.directory.output,
    "catalog.url": lambda config: config.catalog.url,
    "catalog.cache": lambda config: config.catalog.cache,
}


@pytest.mark.parametrize("key", PATHS)
@pytest.mark.parametrize("start", ["~", "$HOME", "${HOME}", "$SCRATCH"])
def test_paths_are_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, start: str) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.setenv("SCRATCH", "/home/somebody")
    config: Config = load_config(write(tmp_path), [f"{key}={start}/of mine"])
    assert PATHS[key](config) == "/home/somebody/of mine"


@pytest.mark.parametrize("start", ["~nobody-of-that-name", "$NO_SUCH_VARIABLE", "${NO_SUCH_VARIABLE}"])
def test_what_cannot_be_expanded_is_refused_and_makes_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for key in PATHS:
        with pytest.raises(ConfigError) as caught:
            load_config(write(tmp_path), [f"{key}={start}/x"])
        assert f"{key}: found '{start}/x', and {start} is not known here" in str(caught.value)
    with pytest.raises(ConfigError, match="is not known here"):
        load_config(f"{start}/config.yaml")
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


def test_paths_of_the_command_line_are_expanded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path, "dataset: {}")
    assert main(["chip", "--config=~/config.yaml"], standalone_mode=False) == 2
    assert f"{tmp_path}/config.yaml: " in capsys.readouterr().err
    assert main(["verify", "$HOME/nothing"], standalone_mode=False) == 2
    assert f"{tmp_path}/nothing" in capsys.readouterr().err
