"""A release may come from anybody: checking or loading it leaves it never, is never drowned, and never falls over."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rasterio
from click.testing import CliRunner
from rasterio.transform import from_origin
from release_changes import only, reseal, rewrite_tracker
from release_landscape import VERSION

from release import ReleaseError, chip_arrays, open_release, verify
from release.cli import main
from release.opening.checksums import SUMS_NAME, sha256
from release.opening.table import to_parquet

ROOT = Path(__file__).resolve().parents[3]
RASTER = "s2l2a_000004_20230115.tif"
DAMAGES = int(os.environ.get("GELOS_DAMAGES", "30")) // 3


def add_sum(folder: Path, name: str, digest: str) -> None:
    """Name one more file in the checksums."""
    path = folder / SUMS_NAME
    lines = [*path.read_text().splitlines(), f"{digest}  {name}"]
    path.write_text("".join(f"{line}\n" for line in sorted(lines, key=lambda line: line[66:])))


@pytest.mark.parametrize("name", ["../secret", "../v0.1/../secret", "/etc/hostname", "//etc/hostname"])
def test_checksums_do_not_lead_out_of_the_release(copy: Path, name: str) -> None:
    os.mkfifo(copy.parent / "secret")  # who reads it waits for ever
    add_sum(copy, name, "0" * 64)
    found = verify(copy)
    assert {fault.file for fault in found} <= {name, SUMS_NAME}
    assert any(
        text in str(fault) for fault in found for text in (f"{name}: is missing", "not a checksum and a")
    )


def test_the_tracker_does_not_lead_out_of_the_release(folder: Path, copy: Path) -> None:
    def lead(table: gpd.GeoDataFrame) -> None:
        table.loc[4, "s2l2a_paths"] = f"../{RASTER},{(folder / RASTER).absolute()}"

    shutil.copy(folder / RASTER, copy.parent)
    rewrite_tracker(copy, lead)
    assert any("chip 4: s2l2a_paths is" in fault.message for fault in verify(copy))
    with pytest.raises(ReleaseError, match="chip 4: s2l2a_paths is"):
        open_release(copy).read(4, "s2l2a")
    for name in ("../secret", "/etc/hostname", "..\\secret", "C:secret", ""):
        with pytest.raises(ReleaseError, match="lies outside the release"):
            open_release(copy).read_file(name)
    for name in ("a\0b", "\ud800"):
        with pytest.raises(ReleaseError, match="is missing") as caught:
            open_release(copy).read_file(name)
        assert str(caught.value).isprintable()


def test_a_raster_is_a_geotiff_and_nothing_that_names_other_files(folder: Path, copy: Path) -> None:
    with rasterio.open(folder / RASTER) as raster:
        profile = raster.profile
    vrt = (
        f'<VRTDataset rasterXSize="30" rasterYSize="30"><SRS>{profile["crs"].to_wkt()}</SRS>'
        + "".join(
            f'<VRTRasterBand dataType="Int16" band="{band}"><SimpleSource>'
            f"<SourceFilename>{folder / RASTER}</SourceFilename><SourceBand>{band}</SourceBand>"
            "</SimpleSource></VRTRasterBand>"
            for band in range(1, 5)
        )
        + "</VRTDataset>"
    )
    (copy / RASTER).write_text(vrt)
    with rasterio.open(copy / RASTER) as raster:  # GDAL would follow it
        assert raster.read(1).any()
    reseal(copy)
    only(verify(copy), RASTER, "is not a raster that can be read")
    with pytest.raises(ReleaseError, match=f"{RASTER}: cannot be read"):
        open_release(copy).read(4, "s2l2a")


def test_links_are_followed_where_a_cache_of_data_sets_has_them(folder: Path, tmp_path: Path) -> None:
    """As the Hugging Face hub's client lays them: ``snapshots/REVISION/NAME`` leads to ``blobs/DIGEST``."""
    hub = tmp_path / "hub"
    (hub / "blobs").mkdir(parents=True)
    linked = hub / "snapshots" / VERSION
    linked.mkdir(parents=True)
    for number, path in enumerate(folder.iterdir()):
        blob = hub / "blobs" / str(number)
        blob.write_bytes(path.read_bytes())
        (linked / path.name).symlink_to(f"../../blobs/{number}")
    assert verify(linked) == []
    assert open_release(linked).read(0, "lulc").any()
    (linked / RASTER).unlink()
    (linked / RASTER).symlink_to("../../blobs/gone")
    only(verify(linked), RASTER, "is missing")


@pytest.mark.parametrize("target", ["elsewhere.tif", "/dev/zero", "/etc/hostname", "../../nowhere"])
def test_a_link_that_leads_out_of_a_release_is_refused_in_one_line(
    copy: Path, tmp_path: Path, target: str
) -> None:
    (tmp_path / "elsewhere.tif").write_bytes((copy / RASTER).read_bytes())
    (copy / RASTER).unlink()
    (copy / RASTER).symlink_to(tmp_path / target if target == "elsewhere.tif" else target)
    with pytest.raises(ReleaseError, match=f"{RASTER}: is a link out of the release; .*cp -rL"):
        verify(copy)
    with pytest.raises(ReleaseError, match=f"{RASTER} is a link out of the release"):
        open_release(copy).read(4, "s2l2a")
    done = CliRunner().invoke(main, ["verify", str(copy)])
    assert (done.exit_code, done.stderr.count("\n"), done.stdout) == (2, 1, "")


def test_a_linked_folder_is_refused_and_a_link_to_the_release_itself_is_none_of_its_own(
    copy: Path, tmp_path: Path
) -> None:
    (tmp_path / "here").symlink_to(copy)
    assert verify(tmp_path / "here") == []
    (copy / "more").symlink_to("/etc")
    with pytest.raises(ReleaseError, match="more: is a link out of the release"):
        verify(copy)


@pytest.mark.parametrize("name", [RASTER, "s2l2a_000004_20230115.png", "report.html", "config.json"])
def test_a_file_of_a_terabyte_is_not_read(copy: Path, name: str) -> None:
    os.truncate(copy / name, 1 << 40)
    found = verify(copy)
    assert [fault.file for fault in found] == [name]
    assert found[0].message.startswith("holds 1,099,511,627,776 bytes, more than the ")


def sparse(path: Path, side: int, **profile: object) -> None:
    """Write a raster of nothing, which takes no room whatever its size."""
    shape = {"count": 4, "height": side, "width": side, "dtype": "int16", "nodata": 0}
    place = {"crs": "EPSG:32632", "transform": from_origin(0, 0, 10, 10)}
    with rasterio.open(path, "w", driver="GTiff", sparse_ok=True, **{**shape, **place, **profile}):
        pass


def test_a_raster_far_too_large_is_not_decoded(copy: Path) -> None:
    sparse(copy / RASTER, 300_000, tiled=True, blockxsize=8192, blockysize=8192, bigtiff="YES")
    reseal(copy)
    only(verify(copy), RASTER, "size is (300000, 300000), expected (30, 30)")
    sparse(copy / RASTER, 30, tiled=True, blockxsize=8192, blockysize=8192)
    reseal(copy)
    only(verify(copy), RASTER, "is stored in blocks of 8192 x 8192 px, larger than it is")


def test_a_loader_decodes_only_what_the_settings_say(copy: Path) -> None:
    sparse(copy / RASTER, 300_000, tiled=True, blockxsize=8192, blockysize=8192, bigtiff="YES")
    with pytest.raises(ReleaseError, match=rf"{RASTER}: is not what config\.json says of it"):
        open_release(copy).read(4, "s2l2a")


def test_a_picture_far_too_large_is_not_decoded(copy: Path) -> None:
    path = copy / RASTER.replace("tif", "png")

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    for side, said in ((12_000, "is PNG of 12000 x 12000 px, expected"), (2**30, "is not a picture")):
        head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
        body = chunk(b"IDAT", zlib.compress(bytes(1 << 20))) + chunk(b"IEND", b"")
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + body)
        reseal(copy)
        only(verify(copy), path.name, said)


def test_a_zip_that_is_compressed_is_no_release_and_nothing_is_inflated(folder: Path, tmp_path: Path) -> None:
    bomb = tmp_path / "bomb.zip"
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for path in folder.iterdir():
            stored = zipfile.ZIP_STORED if path.name != RASTER else zipfile.ZIP_DEFLATED
            archive.write(path, f"tiny_v0.1/{path.name}", compress_type=stored)
    found = {fault.file: fault.message for fault in verify(bomb)}
    assert found == {
        RASTER: "is compressed or encrypted; a release's zip holds its files as they are",
        "bomb.zip": "is not, byte for byte, the zip that its own files make",
    }
    opened = open_release(bomb)
    assert opened.read(3, "s2l2a").any()
    with pytest.raises(ReleaseError, match=f"{RASTER} is compressed"):
        opened.read(4, "s2l2a")


def test_entries_of_a_zip_that_overlap_or_claim_too_much_are_damaged(archive: Path, tmp_path: Path) -> None:
    data = bytearray(archive.read_bytes())
    with zipfile.ZipFile(io.BytesIO(data)) as opened:
        place, victim = opened.start_dir, opened.getinfo(f"tiny_v0.1/{RASTER}")
    while True:  # to its line in the central directory
        name, extra, comment = struct.unpack_from("<HHH", data, place + 28)
        if data[place + 46 : place + 46 + name].decode() == victim.filename:
            break
        place += 46 + name + extra + comment
    for size in (victim.file_size + 1000, 2**31):
        struct.pack_into("<II", data, place + 20, size, size)
        path = tmp_path / "claims.zip"
        path.write_bytes(data)
        found = {fault.file: fault.message for fault in verify(path)}
        assert set(found) == {RASTER, path.name}
        assert found[RASTER].startswith(("cannot be read from the zip", "holds 2,147,483,648 bytes"))


def test_names_that_a_terminal_would_obey_are_escaped(copy: Path, tmp_path: Path) -> None:
    shutil.copy(copy / "README.md", os.fsencode(copy) + b"/\xff.tif")
    (copy / "a\nREADME.md: fine\x1b[2J").write_text("")
    (copy / "größe.png").write_text("")
    (tmp_path / "tiny_v0.1.zip").write_bytes(b"")
    code = "from release.commands import verify_command; verify_command()"
    run = subprocess.run(
        [sys.executable, "-c", code, str(copy)], cwd=ROOT, env={**os.environ, "PYTHONPATH": "."},
        capture_output=True, check=False,
    )  # fmt: skip
    assert run.returncode == 1
    assert run.stdout.decode().splitlines()[:-1] == [
        "a\\nREADME.md: fine\\x1b[2J: is not named in SHA256SUMS",
        "größe.png: is not named in SHA256SUMS",
        "tiny_v0.1.zip: is not, byte for byte, the zip that the folder's files make",
        "\\udcff.tif: is not named in SHA256SUMS",
    ]
    assert b"Traceback" not in run.stderr


def test_checksums_that_name_themselves(copy: Path) -> None:
    add_sum(copy, SUMS_NAME, "0" * 64)
    only(verify(copy), SUMS_NAME, "names itself")


CLAIMS: dict[str, tuple[str, object, str]] = {
    "folder": ("name", "../../other", "name: String should match"),
    "pixels": ("layout.s2l2a.size_px", 60_000, "s2l2a: 60000 px of 10 m are no chip of 300 m"),
    "nothing": ("layout.s2l2a.resolution", 0, "30 px of 0 m are no chip"),
    "dtype": ("layout.s2l2a.dtype", "O", "'O' is no dtype of a raster"),
    "band": ("layout.s2l2a.bands", ["B99"], "there is no band B99"),
    "blocks": ("config.release.block_m", 1, "block_m 1 is smaller than a chip"),
    "factor": ("config.lulc.sampling_factor", 0, "sampling_factor is 0"),
    "class": ("chips_per_class_before_balancing", {"7": 1}, "class 7 is counted, but not kept"),
    "purity": ("config.chips.min_purity", "much", "min_purity: Input should be a valid number"),
    "uncounted": ("chips_per_class_before_balancing", {"1": 3}, "class 2 is kept, but not counted"),
    "splits": (
        "config.release.splits",
        {f"s{number}": 1 / 128 for number in range(128)},
        "there are 128 splits, more than 100",
    ),
    "valid": (
        "layout.s2l2a.min_valid",
        [0.0, 0.0],
        r"s2l2a: min_valid is (0.0, 0.0), its config stands for (1.0, 1.0)",
    ),
    "nodata": ("layout.s2l2a.nodata", 7, "s2l2a: nodata is 7, its config stands for 0"),
    "fewer": ("layout.s2l2a.bands", ["B02"], "s2l2a: bands is ('B02',), its config stands for"),
    "picture": ("layout.s2l2a.thumbnail_px", 10**9, "a picture of 1000000000 px a side"),
    "expression": ("config.s2l2a.dtype", "9" * 5000, "s2l2a: dtype is int16, its config stands for 999"),
    "rows": ("config.extra_sensors", {"x": {"bands": [{}] * 1001}}, "extra_sensors: more than 100 rows"),
}


@pytest.mark.parametrize("which", CLAIMS)
def test_settings_that_do_not_fit_together_are_not_believed(copy: Path, which: str) -> None:
    key, value, text = CLAIMS[which]
    path = copy / "config.json"
    raw = json.loads(path.read_text())
    *parents, last = key.split(".")
    inner = raw
    for name in parents:
        inner = inner[name]
    inner[last] = value
    path.write_text(json.dumps(raw))
    reseal(copy)
    only(verify(copy), path.name, text)
    with pytest.raises(ReleaseError, match=r"config\.json: not a release's"):
        open_release(copy)


def test_a_sensor_that_the_settings_tell_of_is_there(copy: Path) -> None:
    path = copy / "config.json"
    raw = json.loads(path.read_text())
    del raw["layout"]["dem"]
    path.write_text(json.dumps(raw))
    reseal(copy)
    only(verify(copy), path.name, "dem is not in both its config and its layout")


def test_later_versions_may_add_settings(copy: Path) -> None:
    path = copy / "config.json"
    raw = json.loads(path.read_text())
    raw["config"]["chips"]["min_beauty"] = raw["config"]["release"]["tone"] = 1
    path.write_text(json.dumps(raw))
    reseal(copy)
    assert verify(copy) == []


def test_geoparquet_says_what_the_geojson_says_in_types_and_crs_too(copy: Path) -> None:
    path = copy / "gelos_chip_tracker.parquet"
    table = gpd.read_parquet(path)
    for changed, text in (
        (table.assign(lulc=table["lulc"].astype(int)), "field lulc is not all text"),
        (table.set_crs(3857, allow_override=True), "its CRS is 3857, expected 4326"),
        (table.assign(purity=0.5), "differs from gelos_chip_tracker.geojson"),
    ):
        path.write_bytes(to_parquet([changed], changed.total_bounds.tolist()))
        reseal(copy)
        found = {fault.file: fault.message for fault in verify(copy)}
        assert found.pop("croissant.json") == f"gives another sha256 of {path.name}"
        assert found == {path.name: text}


def test_geojson_has_no_crs_of_its_own(copy: Path) -> None:
    path = copy / "gelos_chip_tracker.geojson"
    raw = json.loads(path.read_text())
    path.write_text(json.dumps({**raw, "crs": {"type": "name", "properties": {"name": "EPSG:3857"}}}))
    assert gpd.read_file(path).crs.to_epsg() == 3857  # GDAL believes it
    reseal(copy)
    found = {fault.file: fault.message for fault in verify(copy)}
    assert found.pop("croissant.json") == f"gives another sha256 of {path.name}"
    assert found == {path.name: "cannot be read (it names a CRS; GeoJSON is in EPSG:4326)"}


def test_geoparquet_holds_no_more_rows_and_other_types_than_a_tracker(copy: Path) -> None:
    path = copy / "gelos_chip_tracker.parquet"
    sound = pq.read_table(path)
    place = sound.schema.get_field_index("category")
    packed = sound.set_column(place, "category", sound["category"].dictionary_encode())
    for table, text in (
        (pa.concat_tables([sound] * 1000), f"{1000 * len(sound):,} rows, where "),
        (packed, "field category is dictionary<"),
        (sound.append_column(sound.schema.field("color"), sound["color"]), "field color is there twice"),
    ):
        pq.write_table(table, path)
        reseal(copy)
        found = {fault.file: fault.message for fault in verify(copy)}
        assert found.pop("croissant.json") == f"gives another sha256 of {path.name}"
        assert list(found) == [path.name]
        assert text in found[path.name]
        with pytest.raises(ReleaseError, match=rf"{path.name}: cannot be read \(.*{re.escape(text)}"):
            open_release(copy)


def test_ids_that_repeat(copy: Path) -> None:
    def repeat(table: gpd.GeoDataFrame) -> None:
        table.loc[5, "id"] = 4

    rewrite_tracker(copy, repeat)
    assert any(fault.message == "ids are not 0 to n-1 in order" for fault in verify(copy))
    with pytest.raises(ReleaseError, match=r"tracker\.parquet: ids are not 0 to n-1 in order"):
        open_release(copy)


def test_a_damaged_release_opens_with_one_clear_line(copy: Path) -> None:
    for name in ("gelos_chip_tracker.parquet", "config.json"):
        data = (copy / name).read_bytes()
        (copy / name).write_bytes(data[: len(data) // 2])
        with pytest.raises(ReleaseError, match=name) as caught:
            open_release(copy)
        assert "\n" not in str(caught.value)
        (copy / name).write_bytes(data)


ODD: tuple[Any, ...] = (
    None,
    -1,
    0,
    10**400,
    1e308,
    True,
    "",
    "x",
    "9" * 5000,
    [],
    {},
    [[]],
    {"a": {}},
    "\ud800",
)


def leaves(value: object, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of all that can be replaced in a JSON document."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(leaf for key, one in inside for leaf in leaves(one, (*path, key)))]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["config.json", "croissant.json", "gelos_chip_tracker.geojson"])
def test_odd_values_anywhere_are_faults_and_no_accidents(copy: Path, name: str) -> None:
    path = copy / name
    sound = path.read_text()
    rng = np.random.default_rng(len(name))
    for _ in range(DAMAGES):
        raw = json.loads(sound)
        *parents, last = next(leaf for leaf in [leaves(raw)[rng.integers(1, len(leaves(raw)))]])
        inner = raw
        for key in parents:
            inner = inner[key]
        inner[last] = ODD[rng.integers(len(ODD))]
        path.write_text(json.dumps(raw))
        reseal(copy)
        for fault in verify(copy, workers=1):
            assert "\n" not in str(fault)
        try:
            opened = open_release(copy)
            chip_arrays(opened, 4, opened.sensors)
            opened.chip(4)
        except ReleaseError as error:
            assert str(error).isprintable()  # noqa: PT017  most odd values are no error
    path.write_text("[" * 100_000)
    reseal(copy)
    assert path.name in {fault.file for fault in verify(copy, workers=1)}
    path.write_text(sound)
    reseal(copy)
    assert sha256(path.read_bytes()) in (copy / SUMS_NAME).read_text()
    assert verify(copy, workers=1) == []
