"""sweep: balance and limits of scenes, against what runs with each setting give; and what the command says."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chip_cubes import clean_arrays, cubes_folder, make_config, put_cube
from click.testing import CliRunner

from chipping.chip import chip
from chipping.sweep import parse_grid, sweep
from cube.config.models import Config
from cube.config.reading import load_config
from cube.config.sensors import SENSORS
from cube.errors import ConfigError
from cube.windows.grid import Bounds
from release import make_release
from release.cli import main

BOX = Bounds(480_000, 5_760_000, 480_000 + 1920, 5_760_000 + 1920)
EAST = Bounds(BOX.left + 9600, BOX.bottom, BOX.right + 9600, BOX.top)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    """Two cubes of 4 x 4 windows each, of classes 1, 2 and 5."""
    made = make_config(tmp_path, min_clear=0.5, classes=[1, 2, 5])
    for aoi, bounds in enumerate((BOX, EAST)):
        arrays = clean_arrays(made, bounds, np.random.default_rng(aoi))
        codes = np.array([1, 5, 5, 5, 5, 5, 5, 5, 2, 2, 5, 5, 1, 5, 5, 2]).reshape(4, 4)
        arrays["lulc"]["lulc"][:] = np.kron(codes, np.ones((48, 48)))
        put_cube(made, bounds, arrays, aoi)
    return made


def change_items(
    config: Config, aoi: int, key: str, change: Callable[[list[list[dict[str, Any]]]], None]
) -> None:
    """Change what a cube says of the items that a sensor was made from."""
    [file] = cubes_folder(config).path.glob(f"aoi_{aoi:06}*/zarr.json")
    record = json.loads(file.read_text())
    change(record["consolidated_metadata"]["metadata"][key]["attributes"]["items"])
    file.write_text(json.dumps(record))


def table_of(result: Any) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(result.to_csv().decode())))


def test_a_factor_gives_what_a_release_with_it_holds(config: Config, tmp_path: Path) -> None:
    result = sweep(config, parse_grid(["lulc.sampling_factor=1,2,3,null"], SENSORS))
    chip(config)
    assert result.is_balanced
    for setting, row in zip(result.settings, table_of(result), strict=True):
        factor = setting.values["lulc.sampling_factor"]
        output = tmp_path / f"released_{factor}"
        settings = [f"lulc.sampling_factor={factor or ''}", f"directory.output={output}"]
        made = make_release(load_config(config.path, settings))
        assert setting.balanced == {code: count for code, count in made.after.items() if count}
        assert setting.chips == {code: count for code, count in made.before.items() if count}
        assert int(row["balanced_total"]) == made.chips
        assert int(row["total"]) == sum(made.before.values())


def test_without_a_factor_there_is_no_column_of_balance(config: Config) -> None:
    result = sweep(config, parse_grid(["chips.min_purity=0.9,1.0"], SENSORS))
    assert not result.is_balanced
    assert not any(name.startswith("balanced") for name in table_of(result)[0])


def test_limits_of_scenes_leave_out_the_cubes_that_break_them(config: Config) -> None:
    def cloudier(dates: list[list[dict[str, Any]]]) -> None:
        dates[1][0]["properties"]["eo:cloud_cover"] = 20.0

    def later(dates: list[list[dict[str, Any]]]) -> None:
        dates[0][0]["datetime"] = "2023-02-06T10:11:12Z"  # three days after Sentinel-2's

    change_items(config, 1, "s2l2a", cloudier)
    change_items(config, 0, "s1rtc", later)
    options = ["s2l2a.cloud_cover=20,20.1", "s1rtc.delta_days=3,2.9,0"]
    result = sweep(config, parse_grid(options, SENSORS))
    alone = {aoi: chip(load_config(config.path, [f"aoi.include_indices=[{aoi}]"])).classes for aoi in (0, 1)}
    both = {code: alone[0][code] + alone[1][code] for code in alone[0]}
    expected = [alone[0], {}, {}, both, alone[1], alone[1]]
    assert [setting.chips for setting in result.settings] == expected
    assert [int(row["cubes"]) for row in table_of(result)] == [1, 0, 0, 2, 1, 1]
    clipped = load_config(config.path, ["aoi.clip=centre"])  # the areas of the file lie elsewhere
    found = sweep(clipped, parse_grid(options[:1], SENSORS))
    assert [(setting.chips, setting.areas) for setting in found.settings] == [({}, 1), ({}, 2)]


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("s2l2a.cloud_cover=40", "40 is looser than the config's 30"),
        ("lc2l2.cloud_cover=[1]", "is no number from 0 on"),
        ("s1rtc.cloud_cover=4", "the config has no such limit; it has s2l2a.cloud_cover"),
        ("lulc.sampling_factor=0.5", "0.5 is no whole number from 1 on"),
        ("lulc.sampling_factor=true", "True is no whole number from 1 on"),
        ("dem.resolution=10", "can be swept are chips.min_purity"),
        ("foo.cloud_cover=10", "can be swept are chips.min_purity"),
    ],
)
def test_what_cubes_cannot_tell_is_refused(config: Config, option: str, said: str) -> None:
    with pytest.raises(ConfigError, match="--grid") as caught:
        sweep(config, parse_grid([option], SENSORS))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_command_shows_classes_by_name_and_names_its_files(config: Config) -> None:
    arguments = ["sweep", "-c", str(config.path), "--grid", "chips.min_purity=0.9,1.0"]
    for more in ((), ("lulc.sampling_factor=2",)):
        result = CliRunner().invoke(main, [*arguments, *more])
        assert result.exit_code == 0, result.output
        lines = result.stdout.splitlines()
        written = [line.split(maxsplit=1)[1] for line in lines if line.startswith(("table ", "plot "))]
        assert [Path(path).name for path in written] == ["sweep.csv", "sweep.png"]
        assert all(Path(path).is_file() for path in written)
        shown = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if line.startswith("│")]
        with Path(written[0]).open() as file:
            counted = list(csv.DictReader(file))
        for row, cells in zip(counted, shown, strict=True):
            before = [row["class_1"], row["class_2"], row["class_5"], row["total"]]
            after = [row.get(f"balanced_{code}", "") for code in (1, 2, 5, "total")]
            told = [f"{n}→{kept}" if more else n for n, kept in zip(before, after, strict=True)]
            assert cells[-5:] == [*told, row["cubes"]]
            assert cells[0] == row["chips.min_purity"]
        assert all(name in result.stdout for name in ("Water", "Trees", "Crops"))
        assert ("before→after balancing" in lines[0]) is bool(more)


def test_chip_ends_with_what_comes_next(config: Config) -> None:
    result = CliRunner().invoke(main, ["chip", "-c", str(config.path)])
    assert result.exit_code == 0, result.output
    typed = f"-c {config.path}"
    next_lines = ["next:", f"  gelos-lc release {typed}", f"  gelos-lc sheet {typed} -o sheet.png"]
    assert result.stdout.splitlines()[-3:] == next_lines
    snow = ["--set", "chips.forbidden=[0]", "--set", "chips.classes=[9]"]
    nothing = CliRunner().invoke(main, ["chip", "-c", str(config.path), *snow])
    assert nothing.exit_code == 0, nothing.output
    assert nothing.stdout.startswith("0 chips of ")
    assert "next:" not in nothing.stdout
