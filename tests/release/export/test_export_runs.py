"""An export's bytes follow from release and request alone; cut off, it goes on; it harms no other folder."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import zarr
from click.testing import CliRunner

from cube.errors import BusyError
from release import ReleaseError, open_release
from release.cli import main
from release.export.request import ExportRequest
from release.export.run import export_release

READY = ("webdataset", "huggingface", "terratorch", "zarr")
SMALL = ExportRequest(shard_samples=4)


def bytes_of(out: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


@pytest.mark.parametrize(
    "to", [to if to in {"webdataset", "zarr"} else pytest.param(to, marks=pytest.mark.slow) for to in READY]
)
def test_workers_and_folders_change_no_byte(folder: Path, archive: Path, tmp_path: Path, to: str) -> None:
    one = export_release(folder, to, tmp_path / "one", SMALL)
    two = export_release(archive, to, tmp_path / "elsewhere" / "two", SMALL, workers=2)
    assert bytes_of(tmp_path / "one") == bytes_of(tmp_path / "elsewhere" / "two")
    assert one.fingerprint == two.fingerprint
    assert one.shards > 2
    listed = subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=tmp_path / "one", check=False)
    assert listed.returncode == 0
    names = {line.split("  ")[1] for line in (tmp_path / "one" / "SHA256SUMS").read_text().splitlines()}
    assert names == set(bytes_of(tmp_path / "one")) - {"SHA256SUMS"}
    again = export_release(folder, to, tmp_path / "one", SMALL)
    assert not again.written


@pytest.mark.parametrize("to", READY)
def test_an_unfinished_export_goes_on(folder: Path, tmp_path: Path, to: str) -> None:
    whole = export_release(folder, to, tmp_path / "whole", SMALL)
    out = tmp_path / "cut"
    export_release(folder, to, out, SMALL)
    expected = bytes_of(out)
    (out / "SHA256SUMS").unlink()
    (out / "README.md").unlink()
    shards = [
        name for name in expected if name.endswith((".tar", ".parquet", "/0/0/0", ".tif")) and "/" in name
    ]
    kept, lost = shards[0], shards[-1]
    (out / lost).unlink()
    (out / lost).with_name(".staging-torn").write_bytes(b"half")
    before = (out / kept).stat().st_mtime_ns
    found = export_release(folder, to, out, SMALL)
    assert found.written
    assert 0 < found.resumed < found.shards
    assert (out / kept).stat().st_mtime_ns == before
    assert bytes_of(out) == expected
    assert found.fingerprint == whole.fingerprint


@pytest.mark.parametrize("workers", [1, 2])
def test_an_export_that_another_run_has_taken_over_stops(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    theirs = b'{"host": "elsewhere", "process": 7, "renewal": "x"}'

    def fall_asleep(_: str, done: int, total: int) -> None:
        assert done < total
        (tmp_path / ".lock").write_bytes(theirs)
        monkeypatch.setattr("cube.run.named_locks._SURE_S", 0.0)

    with pytest.raises(BusyError, match=r"another run \(process 7 on elsewhere\) has taken it over"):
        export_release(folder, "webdataset", tmp_path, SMALL, workers=workers, progress=fall_asleep)
    assert (tmp_path / ".lock").read_bytes() == theirs
    assert not (tmp_path / "SHA256SUMS").exists()


RUN = (
    "import sys; from release.export.run import export_release; from release.export.request import ExportRequest; "
    "export_release(sys.argv[1], sys.argv[2], sys.argv[3], ExportRequest(shard_samples=1))"
)


@pytest.mark.slow
@pytest.mark.parametrize("to", ["webdataset", "zarr"])
def test_a_killed_export_goes_on(folder: Path, tmp_path: Path, to: str) -> None:
    expected = export_release(folder, to, tmp_path / "whole", ExportRequest(shard_samples=1)).fingerprint
    out = tmp_path / "killed"
    for _ in range(6):
        process = subprocess.Popen(
            [sys.executable, "-c", RUN, str(folder), to, str(out)], start_new_session=True
        )
        deadline = time.monotonic() + 30
        while not (out / "export.json").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(0.05)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert export_release(folder, to, out, ExportRequest(shard_samples=1)).fingerprint == expected


def test_an_export_is_no_release_that_lacks_ten_files(folder: Path, tmp_path: Path) -> None:
    export_release(folder, "zarr", tmp_path / "z", ExportRequest(("dem",)))
    result = CliRunner().invoke(main, ["verify", str(tmp_path / "z")])
    assert (result.exit_code, result.stdout) == (2, "")
    said = f"error: {tmp_path / 'z'}: is an export of a release; verify the release itself, and the export's "
    assert result.stderr.startswith(said)
    assert result.stderr.count("\n") == 1
    check = ["sha256sum", "--check", "--quiet", "SHA256SUMS"]
    assert subprocess.run(check, cwd=tmp_path / "z", check=False).returncode == 0


def test_what_is_asked_for_is_what_is_there(folder: Path, tmp_path: Path) -> None:
    asked = ExportRequest(("s2l2a", "dem"), {"s2l2a": ("B08", "B02")}, "float32", ("test",), None, "1")
    export_release(folder, "zarr", tmp_path / "z", asked)
    root = zarr.open_group(str(tmp_path / "z" / "chips.zarr"), mode="r")
    image = root["s2l2a/image"]
    opened = open_release(folder)
    ids = opened.table.index[opened.table["split"] == "test"]
    assert root["id"][:].tolist() == ids.tolist()
    assert sorted(root.group_keys()) == ["dem", "s2l2a"]
    expected = np.stack([opened.read(one, "s2l2a", ["B08", "B02"])[1:] for one in ids]).astype("float32")
    np.testing.assert_array_equal(image[:], expected)
    assert image.dtype == np.float32
    export_release(folder, "huggingface", tmp_path / "h", asked)
    assert [path.name for path in (tmp_path / "h" / "data").iterdir()] == ["test-00000-of-00001.parquet"]
    names = pq.read_schema(next((tmp_path / "h" / "data").iterdir())).names
    assert "s2l2a_png_2" in names
    assert "s2l2a_png_1" not in names


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (ExportRequest(("modis",)), "no sensor 'modis' in this release; it has s2l2a"),
        (ExportRequest(bands={"s2l2a": ("B99",)}), "s2l2a has no band 'B99'; it has B02"),
        (ExportRequest(splits=("dev",)), "no chip in split 'dev'; the release has train, test, none"),
        (ExportRequest(dates="7"), "dates '7': expected all, first, or a number from 0 to 1"),
        (ExportRequest(dtype="int16"), "dtype 'int16': s1rtc is float32, whose numbers it cannot hold"),
        (ExportRequest(dtype="complex"), "dtype 'complex': expected one of int16"),
    ],
)
def test_what_cannot_be_is_one_clear_line(
    folder: Path, tmp_path: Path, request_: ExportRequest, text: str
) -> None:
    with pytest.raises(ReleaseError, match=text):
        export_release(folder, "webdataset", tmp_path / "out", request_)
    assert not (tmp_path / "out").exists()


def test_no_other_folder_is_touched(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("all of it")
    with pytest.raises(ReleaseError, match="holds files, and is no export"):
        export_release(folder, "webdataset", tmp_path / "mine", SMALL, force=True)
    with pytest.raises(ReleaseError, match="holds files, and is no export"):
        export_release(folder, "webdataset", folder, SMALL, force=True)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]
    assert not (folder / ".lock").exists()
    out = tmp_path / "out"
    export_release(folder, "webdataset", out, SMALL)
    with pytest.raises(ReleaseError, match="another export is there; give --force"):
        export_release(folder, "huggingface", out, SMALL)
    export_release(folder, "huggingface", out, SMALL, force=True)
    assert not list(out.rglob("*.tar"))
    assert json.loads((out / "export.json").read_text())["format"] == "huggingface"


def test_the_command(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["export", str(folder), "--to", "webdataset", "--out", str(out), "--sensors", "dem", "lulc"]
    done = CliRunner().invoke(main, [*words, "--split", "train", "--workers", "1"])
    assert done.exit_code == 0, done.output
    assert f"{out}: webdataset, " in done.output
    assert [path.name for path in out.rglob("*.tar")] == ["train-000000.tar"]
    wrong = CliRunner().invoke(main, [*words, "--bands", "dem"])
    assert wrong.exit_code == 2
    assert "error: --bands 'dem': expected a sensor and its bands" in wrong.output
    wrong = CliRunner().invoke(main, ["export", str(tmp_path / "no"), "--to", "zarr"])
    assert wrong.exit_code == 2
    assert "no release there" in wrong.output
