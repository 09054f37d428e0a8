"""make_release: the same bytes again, whole or not at all, and never over something else."""

from __future__ import annotations

import hashlib
import json
import os
import runpy
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import release_landscape
from release_landscape import (
    LAND,
    SETTINGS,
    VERSION,
    Land,
    read_windows,
    working_folder,
    write_chip_json,
    write_config,
    write_windows,
)

from cube.config.models import Config
from cube.errors import BusyError, GelosError
from cube.run.storage import open_folder
from release import ReleaseError, chosen, make_release, open_release, verify
from release.tracker import GELOS_FIELDS, read_tracker

ROOT = Path(__file__).resolve().parents[2]


def digests(root: Path) -> dict[str, str]:
    """Every file below, by checksum; the lock is no part of what is made."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


def test_another_folder_day_umask_and_time_zone_give_the_same_bytes(config: Config, tmp_path: Path) -> None:
    other = working_folder(tmp_path / "elsewhere", LAND, SETTINGS)
    working = Path(other.directory.working) / VERSION
    shuffled = read_windows(working).sample(frac=1, random_state=4)
    write_windows(working, shuffled.sort_values("aoi_index", kind="stable").to_dict("records"))
    for path in working.rglob("*"):
        os.utime(path, (86_400, 86_400))
    code = (
        "import os, sys; os.umask(0o077); from cube.config.reading import load_config; "
        "from release import make_release; make_release(load_config(sys.argv[1]))"
    )
    environment = {**os.environ, "TZ": "Pacific/Kiritimati", "LC_ALL": "C", "PYTHONHASHSEED": "7"}
    subprocess.run(
        [sys.executable, "-c", code, str(other.path)],
        check=True,
        cwd=ROOT,
        env={**environment, "PYTHONPATH": "."},
    )
    assert digests(Path(other.directory.output)) == digests(Path(config.directory.output))


def test_no_file_names_a_folder_or_host(config: Config, folder: Path) -> None:
    for path in folder.iterdir():
        if path.suffix not in (".tif", ".png"):
            data = path.read_bytes()
            assert str(config.path.parent).encode() not in data, path.name
            assert b"/tmp" not in data, path.name


def test_an_identical_release_is_left_as_it_is(config: Config, folder: Path, archive: Path) -> None:
    before = (folder.stat().st_ino, archive.stat().st_ino)
    summary = make_release(config)
    assert not summary.written
    assert (folder.stat().st_ino, archive.stat().st_ino) == before
    assert summary.fingerprint == hashlib.sha256((folder / "SHA256SUMS").read_bytes()).hexdigest()


def test_a_different_release_is_not_overwritten_without_force(tmp_path: Path) -> None:
    config = working_folder(tmp_path, Land({1: 3, 2: 3}))
    first = make_release(config)
    before = digests(Path(config.directory.output))
    other = write_config(tmp_path, Land({1: 3, 2: 3}), {"release.seed": 9})
    with pytest.raises(
        ReleaseError, match=r"v0.1: a different release of this version is there; give --force"
    ):
        make_release(other)
    assert digests(Path(config.directory.output)) == before
    second = make_release(other, force=True)
    assert second.written
    assert second.fingerprint != first.fingerprint
    assert verify(second.folder) == []
    assert verify(second.zip) == []


@pytest.mark.parametrize("force", [False, True])
def test_a_folder_that_is_no_release_is_never_replaced(tmp_path: Path, force: bool) -> None:
    config = working_folder(tmp_path, Land({1: 3}))
    other = Path(config.directory.output)
    (other / VERSION).mkdir(parents=True)
    (other / VERSION / "thesis.txt").write_text("years of work")
    before = digests(other)
    with pytest.raises(ReleaseError, match=r"v0\.1: holds files, but no SHA256SUMS: it is no release"):
        make_release(config, force=force)
    assert digests(other) == before


def test_an_interrupted_upload_can_be_replaced(tmp_path: Path) -> None:
    config = working_folder(tmp_path, Land({1: 2}), {"directory.output": "memory://interrupted"})
    summary = make_release(config)
    release = open_folder(summary.folder)
    for name in ("SHA256SUMS", "dem_000000.tif"):
        release.remove(name)
    assert make_release(config, force=True).fingerprint == summary.fingerprint
    assert verify(summary.folder) == []


@pytest.mark.parametrize("place", ["", "memory://taken-over"])
def test_a_run_that_another_has_taken_over_makes_no_release(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    config = working_folder(tmp_path, Land({1: 30}), {"directory.output": place} if place else {})
    output = open_folder(config.directory.output)
    theirs = b'{"host": "elsewhere", "process": 7, "renewal": "x"}'

    def fall_asleep(doing: str, done: int, _: int) -> None:
        if (doing, done) == ("chips", 1):
            output.write(".lock", theirs)
            monkeypatch.setattr("cube.run.named_locks._SURE_S", 0.0)

    with pytest.raises(BusyError, match=r"another run \(process 7 on elsewhere\) has taken it over"):
        make_release(config, progress=fall_asleep)
    assert output.read(".lock") == theirs
    assert not output.exists(f"{VERSION}/SHA256SUMS")
    assert len([name for name in (output / VERSION).files() if name.startswith("dem_")]) < 20
    assert not [name for name in output.names() if name.endswith(".zip")]


def test_a_damaged_release_is_a_different_one(config: Config, tmp_path: Path) -> None:
    place = tmp_path / "made"
    shutil.copytree(config.path.parent, place)
    moved = write_config(place, LAND, SETTINGS)
    damaged = Path(moved.directory.output) / VERSION / "dem_000000.tif"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"!")
    with pytest.raises(ReleaseError, match="--force"):
        make_release(moved)
    assert make_release(moved, force=True).written
    assert digests(Path(moved.directory.output)) == digests(Path(config.directory.output))


def test_a_zip_that_is_missing_is_made_and_one_that_differs_is_not_overwritten(tmp_path: Path) -> None:
    config = working_folder(tmp_path, Land({1: 2}))
    summary = make_release(config)
    archive = Path(summary.zip)
    data = archive.read_bytes()
    archive.unlink()
    assert make_release(config).written
    assert archive.read_bytes() == data
    archive.write_bytes(data[:-1])
    with pytest.raises(ReleaseError, match=r"tiny_v0.1.zip: differs from .*; give --force"):
        make_release(config)
    make_release(config, force=True)
    assert archive.read_bytes() == data


def test_killed_at_any_file_nothing_is_seen_and_a_rerun_completes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = working_folder(tmp_path, Land({1: 3}))
    output = Path(config.directory.output)
    read = chosen.ChosenChips.read
    seen: list[str] = []

    def dies(chips: chosen.ChosenChips, source: chosen.Source) -> bytes:
        seen.append(str(source))
        if len(seen) > 20:
            raise KeyboardInterrupt
        return read(chips, source)

    monkeypatch.setattr(chosen.ChosenChips, "read", dies)
    with pytest.raises(KeyboardInterrupt):
        make_release(config)
    assert digests(output) == {}
    monkeypatch.undo()
    left = output / ".staging-v0.1-x"
    left.mkdir(parents=True)
    (left / "half").touch()
    assert make_release(config).written
    assert not left.exists()
    assert verify(output / VERSION) == []


def test_bad_input_is_one_clear_line(tmp_path: Path) -> None:
    config = working_folder(tmp_path, Land({1: 3}))
    working = Path(config.directory.working) / VERSION
    cell = min((working / "chips").iterdir())

    def message() -> str:
        with pytest.raises(GelosError) as caught:
            make_release(config)
        assert not Path(config.directory.output, VERSION).exists()
        assert "\n" not in str(caught.value)
        return str(caught.value)

    raster = cell / "s2l2a_20230115.tif"
    data = raster.read_bytes()
    raster.write_bytes(data[:100])
    assert message().startswith(f"chip {cell.name}: s2l2a_20230115.tif is not what its chip.json says")
    raster.unlink()
    assert f"{cell.name}/s2l2a_20230115.tif is missing; run gelos-lc chip again" in message()
    raster.write_bytes(data)
    facts = json.loads((cell / "chip.json").read_text())
    for text in ("{}", "[1]", json.dumps({**facts, "sensors": [1]})):
        (cell / "chip.json").write_text(text)
        assert f"chip {cell.name}: {cell}/chip.json cannot be read" in message()
    for digest in ("abcd", "", "zz" * 32, None):
        text = json.dumps({**facts, "files": {**facts["files"], "dem.tif": digest}})
        (cell / "chip.json").write_text(text)
        assert message() == f"chip {cell.name}: chip.json has no sha256 of dem.tif; run gelos-lc chip again"
    moved = [edge + 10 for edge in facts["bounds"]]
    dates = {**facts["sensors"], "lc2l2": {"dates": ["20230121", "20230501"]}}
    for name, value, said in (
        ("cell", "1_2_3", "has cell 1_2_3, and its window"),
        ("bounds", moved, f"has bounds {moved}, and its window {facts['bounds']}"),
        ("sensors", dates, "has lc2l2 dates 20230121,20230501, and its window 20230120,20230501"),
    ):
        write_chip_json(cell, {**facts, name: value})
        assert message().startswith(f"chip {cell.name}: its chip.json {said}")
    write_chip_json(cell, facts)
    (working / ".exporting").touch()
    assert "its chips are unfinished" in message()
    (working / ".exporting").unlink()
    (working / "aoi_metadata.geojson").write_text("[]")
    assert "aoi_metadata.geojson: cannot be read" in message()
    (working / "aoi_metadata.geojson").unlink()
    table = read_windows(working)
    outlines = table["chip_footprint"].str.replace("POLYGON", "POLYGONE")
    statuses = table["status"].where(table.index > 0, "")
    for changed, said in (
        (table.rename(columns={"purity": "pureness"}), "column purity is missing"),
        (table.assign(chip_footprint=outlines), "a value cannot be read"),
        (table.assign(status=statuses), "a row has no status"),
    ):
        write_windows(working, changed.to_dict("records"))
        assert said in message()
    write_windows(working, table.to_dict("records"))
    file = working / "windows" / "aoi_000001.parquet"
    for data, said in ((file.read_bytes()[:-9], "cannot be read"), (b"", "cannot be read")):
        file.write_bytes(data)
        assert said in message()
    file.unlink()
    assert message().endswith("aoi_000001.parquet: is missing; run gelos-lc chip again")
    (working / "windows" / "choice.json").write_text("{}")
    assert "choice.json: cannot be read" in message()
    (working / "windows" / "choice.json").unlink()
    assert message().endswith("windows: no window is chosen; run gelos-lc chip first")


def test_without_chips_no_output_folder_is_made(tmp_path: Path) -> None:
    config = write_config(tmp_path, Land({1: 3}))
    with pytest.raises(ReleaseError, match=r"run gelos-lc chip first"):
        make_release(config)
    assert not Path(config.directory.output).exists()


def test_chips_of_another_config_are_refused(tmp_path: Path) -> None:
    land = Land({1: 3})
    working_folder(tmp_path, land)
    config = write_config(tmp_path, land, {"s2l2a.dtype": "float32"})
    with pytest.raises(
        ReleaseError,
        match=r"s2l2a_20230115.tif: found .*int16.*expected .*float32.*; run gelos-lc chip again",
    ):
        make_release(config)


@pytest.mark.parametrize("sensors", [("lulc",), ("s2l2a", "lulc"), ("s1rtc", "lc2l2", "dem", "lulc")])
def test_any_sensor_but_land_cover_may_be_left_out(tmp_path: Path, sensors: tuple[str, ...]) -> None:
    config = working_folder(tmp_path, Land({1: 2, 2: 2}, sensors=sensors))
    summary = make_release(config)
    assert verify(summary.folder) == []
    table = read_tracker((Path(summary.folder) / "gelos_chip_tracker.geojson").read_bytes())
    assert list(table.columns[: len(GELOS_FIELDS)]) == list(GELOS_FIELDS)
    assert set(table["dem_paths"]) == ({"dem_000000.tif"} if "dem" in sensors else {""}) or "dem" in sensors


def test_the_zip_is_the_release_itself(folder: Path, archive: Path) -> None:
    with zipfile.ZipFile(archive) as opened:
        infos = opened.infolist()
        assert {info.filename for info in infos} == {f"tiny_v0.1/{path.name}" for path in folder.iterdir()}
        assert infos[0].filename == "tiny_v0.1/SHA256SUMS"
        for info in infos:
            assert info.date_time == (1980, 1, 1, 0, 0, 0)
            assert info.external_attr >> 16 == 0o100644
            assert opened.read(info) == (folder / info.filename.rpartition("/")[2]).read_bytes()
        assert opened.testzip() is None
    system = shutil.which("unzip")
    if system:
        subprocess.run([system, "-tq", str(archive)], check=True)


def test_an_object_store_takes_a_release(tmp_path: Path) -> None:
    config = working_folder(tmp_path, Land({1: 2, 2: 2}), {"directory.output": "memory://releases"})
    summary = make_release(config)
    assert summary.zip == "memory://releases/tiny_v0.1.zip"
    assert verify(summary.folder) == []
    assert verify(summary.zip) == []
    assert not make_release(config).written
    local = working_folder(tmp_path / "local", Land({1: 2, 2: 2}))
    assert make_release(local).fingerprint == summary.fingerprint


def test_progress_and_modes(tmp_path: Path) -> None:
    config = working_folder(tmp_path, Land({1: 3}))
    calls: list[tuple[str, int, int]] = []
    summary = make_release(config, progress=lambda *call: calls.append(call))
    assert calls[-1] == ("chips", 3, 3)
    assert {path.stat().st_mode & 0o777 for path in Path(summary.folder).iterdir()} == {0o644}


def test_aois_say_what_became_of_them_not_how(folder: Path) -> None:
    features = json.loads((folder / "aois.geojson").read_text())["features"]
    assert {one["properties"]["status"] for one in features} == {"built", "skipped", "failed"}
    assert all({"tries", "done"}.isdisjoint(one["properties"]) for one in features)


def run_script(name: str, *arguments: str) -> int:
    """Run a script in this process; return its exit code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [name, *arguments])
        patch.setattr(sys, "path", [*sys.path])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(ROOT / "scripts" / f"{name}.py"), run_name="__main__")
    return int(str(ended.value.code))


def test_scripts(config: Config, folder: Path, copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_script("make_release", "-c", str(config.path)) == 0
    assert "already there, unchanged" in capsys.readouterr().out
    assert run_script("make_release", "-c", str(config.path), "--set", "release.seed=5") == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert run_script("verify", str(folder)) == 0
    (copy / "README.md").unlink()
    capsys.readouterr()
    assert run_script("verify", str(copy)) == 1
    assert capsys.readouterr().out == (
        f"README.md: is missing, though SHA256SUMS names it\n{copy}: 1 fault, 0 warnings\n"
    )
    assert run_script("verify", str(copy / "nowhere")) == 2
    assert run_script("verify") == 2


def test_sensors_whose_names_begin_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bands = {"heights": ("top",), "height": ("low", "high"), "dem": ("elevation",), "lulc": ("lulc",)}
    facts: list[tuple[dict[str, Any], Any]] = [
        (release_landscape.SCENE, "scene"),
        (release_landscape.DTYPES, "float32"),
        (release_landscape.NODATA, np.nan),
        (release_landscape.PX, 30),
    ]
    for key in ("heights", "height"):
        monkeypatch.setitem(release_landscape.BANDS, key, bands[key])
        for table, value in facts:
            monkeypatch.setitem(table, key, value)
    rows = {
        key: {
            "title": key,
            "collection": key,
            "choice": "period",
            "resolution": 30,
            "bands": [
                {"name": name, "kind": "elevation", "dtype": "float32", "nodata": np.nan}
                for name in bands[key]
            ],
        }
        for key in ("heights", "height")
    }
    settings = {f"extra_sensors.{key}": row for key, row in rows.items()}
    made = make_release(working_folder(tmp_path, Land({1: 2, 2: 2}, sensors=tuple(bands)), settings))
    assert verify(made.folder) == []
    assert {key: one.bands for key, one in open_release(made.folder).recipe.rasters.items()} == bands
