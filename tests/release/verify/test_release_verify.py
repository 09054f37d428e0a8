"""verify: an untouched release gives no fault; each damage is found, and its file named."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rasterio
from pyproj import Transformer
from rasterio.transform import from_origin
from release_changes import only, reseal, rewrite_raster, rewrite_tracker
from release_landscape import VERSION, Land, working_folder

from release import Fault, ReleaseError, make_release, verify
from release.opening.checksums import SUMS_NAME, format_sums, sha256
from release.opening.zips import zip_chunks
from release.tracker import read_tracker

DAMAGES = int(os.environ.get("GELOS_DAMAGES", "30"))
"""How many seeded damages are planted; the full proof is GELOS_DAMAGES=1000."""


def test_an_untouched_release_has_no_fault(folder: Path, archive: Path) -> None:
    assert verify(folder) == []
    assert verify(str(archive)) == []


def test_workers_find_the_same(copy: Path) -> None:
    (copy / "dem_000003.tif").write_bytes(b"nothing")
    (copy / "s2l2a_000001_20230115.png").unlink()
    found = verify(copy, workers=1)
    assert len(found) == 2
    assert verify(copy, workers=2) == found


def test_nothing_there(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere", tmp_path / "nowhere.zip"):
        with pytest.raises(ReleaseError, match="no release there"):
            verify(path)
    (tmp_path / "x").touch()
    assert [fault.file for fault in verify(tmp_path)] == ["SHA256SUMS"]
    (tmp_path / "bad.zip").write_bytes(b"PK")
    only(verify(tmp_path / "bad.zip"), "bad.zip", "is not a zip")


def test_checksums_and_names(copy: Path) -> None:
    path = copy / "lc2l2_000002_20230120.tif"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    only(verify(copy), path.name, "its sha256 is not the one in SHA256SUMS")
    path.unlink()
    only(verify(copy), path.name, "is missing")
    reseal(copy)
    only(verify(copy), path.name, "the tracker stands for it")


def test_an_extra_file(copy: Path) -> None:
    (copy / "s2l2a_000099_20230115.tif").write_bytes(b"x")
    only(verify(copy), "s2l2a_000099_20230115.tif", "is not named in SHA256SUMS")
    reseal(copy)
    only(verify(copy), "s2l2a_000099_20230115.tif", "belongs to no chip")


def test_the_checksums_themselves(copy: Path) -> None:
    path = copy / SUMS_NAME
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines)[:-1])
    assert Fault(SUMS_NAME, "ends within a line") in verify(copy)
    path.write_text("".join(reversed(lines)))
    only(verify(copy), SUMS_NAME, "not in order")
    path.write_text("".join([*lines, lines[-1]]))
    only(verify(copy), SUMS_NAME, "again")
    path.write_text("x" + "".join(lines))
    assert SUMS_NAME in {fault.file for fault in verify(copy)}


RASTERS: dict[str, tuple[dict[str, object], str]] = {
    "shifted": ({"transform": from_origin(500_000, 5_000_000, 10, 10)}, "place is"),
    "crs": ({"crs": "EPSG:32631"}, "CRS is 32631"),
    "dtype": ({"dtype": "float32"}, "dtype is"),
    "nodata": ({"nodata": -999}, "nodata is -999, expected 0"),
    "bands": ({"bands": ("B04", "B03", "B02", "B08")}, "bands is"),
    "black": ({"values": np.zeros((4, 30, 30))}, "black or constant"),
    "constant": ({"values": np.full((4, 30, 30), 1234)}, "is black or constant (1234)"),
    "scale": ({"scales": (2e-4,) * 4}, "scale is 0.0002, expected 0.0001"),
    "date": ({"tags": {"datetime": "2023-05-10T10:10:31Z"}}, "was acquired on 20230510, not on 20230115"),
    "scene": ({"tags": {"scene_ids": "another"}}, "was made from another"),
}


@pytest.mark.parametrize("which", RASTERS)
def test_a_raster_that_is_not_what_it_should_be(copy: Path, which: str) -> None:
    path = copy / "s2l2a_000004_20230115.tif"
    changes, text = RASTERS[which]
    rewrite_raster(path, **changes)
    assert path.name in {fault.file for fault in verify(copy)}
    reseal(copy)
    only(verify(copy), path.name, text)


def test_a_shift_of_one_pixel(copy: Path) -> None:
    path = copy / "dem_000004.tif"
    with rasterio.open(path) as raster:
        moved = raster.transform * raster.transform.translation(1, 0)
    rewrite_raster(path, transform=moved)
    reseal(copy)
    only(verify(copy), path.name, "place is")


def _values_of(path: Path) -> np.ndarray:
    with rasterio.open(path) as raster:
        return np.asarray(raster.read())


def test_heights_may_be_level_where_a_chip_shows_water(copy: Path) -> None:
    """Height models are flattened at lakes, and a chip may show one beside what it is kept for."""
    chips = sorted(copy.glob("lulc_*.tif"))
    classes = next(path for path in chips if not np.isin(_values_of(path), [1, 4, 9]).any())
    heights = copy / classes.name.replace("lulc", "dem")
    rewrite_raster(heights, values=np.full_like(_values_of(heights), 487.5))
    reseal(copy)
    only(verify(copy), heights.name, "is black or constant (487.5)")
    values = _values_of(classes)
    values[0, 0, 0] = 1  # beside the sample window
    rewrite_raster(classes, values=values)
    reseal(copy)
    assert verify(copy) == []


def test_a_black_patch(copy: Path) -> None:
    path = copy / "s2l2a_000004_20230115.tif"
    with rasterio.open(path) as raster:
        values = raster.read()
    values[2, :3, :3] = 0
    rewrite_raster(path, values=values)
    reseal(copy)
    only(verify(copy), path.name, "1.0% of it has no data")


@pytest.mark.parametrize("other", ["s2l2a_000004_20230510.tif", "s2l2a_000009_20230115.tif"])
def test_an_image_that_is_there_twice(copy: Path, other: str) -> None:
    path = copy / "s2l2a_000004_20230115.tif"
    with rasterio.open(path) as raster:
        rewrite_raster(copy / other, values=raster.read())
    reseal(copy)
    only(verify(copy), other, f"holds the same pixels as {path.name}")
    assert verify(copy, workers=2) == verify(copy, workers=1)


def test_land_cover_is_measured_again(copy: Path) -> None:
    path = copy / "lulc_000004.tif"
    with rasterio.open(path) as raster:
        codes = raster.read()
    code = codes[0, 15, 15]
    one_more = codes.copy()
    one_more[0, 15, 15] = 11
    rewrite_raster(path, values=one_more)
    reseal(copy)
    only(verify(copy), path.name, "its purity is")
    outside = codes.copy()
    outside[0, 0, :] = 11
    rewrite_raster(path, values=outside)
    reseal(copy)
    assert verify(copy) == []
    rewrite_raster(path, values=np.where(codes == code, 7, codes))
    reseal(copy)
    only(verify(copy), path.name, f"its majority class is 7, the tracker says {code}")
    forbidden = codes.copy()
    forbidden[0, 3, 3] = 0
    rewrite_raster(path, values=forbidden)
    reseal(copy)
    only(verify(copy), path.name, "holds class 0, which is forbidden")


def test_pictures(copy: Path) -> None:
    path = copy / "s2l2a_000004_20230115.png"
    data = path.read_bytes()
    shutil.copy(copy / "lc2l2_000004_20230120.png", path)
    reseal(copy)
    only(verify(copy), path.name, "is PNG of 10 x 10 px, expected PNG of 30 px")
    path.write_bytes(data[: len(data) // 2])
    reseal(copy)
    only(verify(copy), path.name, "is not a picture that can be read")


TRACKER: dict[str, tuple[str, object, str]] = {
    "date": ("s2l2a_dates", "20230116,20230510", "s2l2a_paths is"),
    "range": ("s1rtc_dates", "20230512,20230117", "s1rtc_paths is"),
    "scene": ("lc2l2_scene_ids", "LC08_L2SP_193028_20230121_02_T1,x", "lc2l2_dates 20230120 is not the day"),
    "lat": ("lat", 9.0, "are not the chip's centre"),
    "category": ("category", "Snow/ice", "category 'Snow/ice'"),
    "color": ("color", "#000000", "color '#000000'"),
    "thumbs": ("s1rtc_thumbs", "a.png", "s1rtc_thumbs is"),
    "status": ("status", "impure", "status is 'impure'"),
    "split": ("split", "val", "split is 'val'"),
    "cell": ("cell", "32632_0_0", "cell 32632_0_0 is not"),
    "purity": ("purity", 0.99, "the tracker says 0.9900"),
    "epsg": ("epsg", 32631, "is not its epsg"),
}


@pytest.mark.parametrize("which", TRACKER)
def test_a_tracker_that_does_not_fit(copy: Path, which: str) -> None:
    name, value, text = TRACKER[which]

    def change(table: gpd.GeoDataFrame) -> None:
        table.loc[7, name] = value

    rewrite_tracker(copy, change)
    found = verify(copy)
    assert any(text in fault.message for fault in found), found
    assert {fault.file for fault in found} & {"gelos_chip_tracker.geojson", "lulc_000007.tif"}


def test_a_footprint_elsewhere(copy: Path) -> None:
    def change(table: gpd.GeoDataFrame) -> None:
        table.loc[3, "geometry"] = table.geometry[3].buffer(0.001)

    rewrite_tracker(copy, change)
    only(verify(copy), "gelos_chip_tracker.geojson", "chip 3: its footprint is not the chip's square")


def test_chips_on_the_antimeridian(tmp_path: Path) -> None:
    east, _ = Transformer.from_crs(4326, 32660, always_xy=True).transform(180, 45.5)
    west = round(east / 240 - 3) * 240
    land = Land({1: 4, 2: 4}, n_aois=1, epsgs=(32660,), west_m=west)
    folder = Path(make_release(working_folder(tmp_path, land)).folder)
    table = read_tracker((folder / "gelos_chip_tracker.geojson").read_bytes())
    assert ((table.bounds["minx"] < 180) & (table.bounds["maxx"] > 180)).any()
    assert verify(folder) == []


def test_items_say_what_the_tracker_says(copy: Path) -> None:
    path = copy / "items.parquet"
    sound = pq.read_table(path)
    assets = sound["assets"].to_pylist()
    assets[5]["dem"]["href"] = "./dem_000004.tif"
    changes = {
        "gelos:lulc": pa.array([1] * len(sound)),
        "end_datetime": sound["start_datetime"],
        "geometry": sound["geometry"].take(pa.array([1, 0, *range(2, len(sound))])),
        "assets": pa.array(assets, sound["assets"].type),
    }
    for name, column in changes.items():
        place = sound.schema.get_field_index(name)
        pq.write_table(sound.set_column(place, sound.schema.field(name), column), path)
        reseal(copy)
        only(verify(copy), path.name, "is not what the tracker says of the chip")
    pq.write_table(sound.slice(0, len(sound) - 1), path)
    reseal(copy)
    only(verify(copy), path.name, "cannot be read, or holds other chips")


@pytest.mark.slow
def test_the_files_of_items_say_what_the_tracker_says(copy: Path) -> None:
    path = copy / "item_000005.json"
    text = path.read_text()
    for old, new, problem in (
        ('"./dem_000005.tif"', '"./dem_000004.tif"', "is not what the tracker says of the chip"),
        ('"./collection.json"', '"https://example.org"', "is not what the tracker says of the chip"),
        ("}]", '}, {"rel": "self", "href": "./item_000004.json"}]', "is not what the tracker says"),
        ('"links"', '"link"', "cannot be read"),
        ("{", "", "cannot be read"),
        ("{", "{" + " " * 5_000_000, "bytes"),
    ):
        assert old in text
        path.write_text(text.replace(old, new, 1))
        reseal(copy)
        only(verify(copy), path.name, problem)
    path.unlink()
    only(verify(copy), path.name, "is missing, though SHA256SUMS names it")
    reseal(copy)
    only(verify(copy), path.name, "is missing, though the tracker stands for it")
    path.write_text(text)
    path.with_name("item_000099.json").write_text(text)
    reseal(copy)
    only(verify(copy), "item_000099.json", "belongs to no chip of the tracker")


def test_the_collection_links_to_all_items_and_nothing_else(copy: Path) -> None:
    path = copy / "collection.json"
    sound = json.loads(path.read_text())
    last = sound["links"].pop()
    assert last["href"].startswith("./item_")
    for links, problem in (
        (sound["links"], f"does not link to {last['href']}, its item"),
        ([*sound["links"], last, {**last, "href": "./item_000099.json"}], "links to what is none of its"),
        ([*sound["links"], last, {**last, "href": 5}], "links to what is none of its documents"),
        ([*sound["links"], {**last, "href": []}], "cannot be read"),
    ):
        path.write_text(json.dumps({**sound, "links": links}))
        reseal(copy)
        only(verify(copy), path.name, problem)


def test_croissant_names_the_tracker_and_nothing_else(copy: Path) -> None:
    path = copy / "croissant.json"
    sound = json.loads(path.read_text())
    for name, text in (
        ("https://example.org/x.csv", "names https://example.org/x.csv, which is no table of the release"),
        ("gelos_chip_tracker.geojson", "does not name gelos_chip_tracker.csv"),
    ):
        raw = json.loads(json.dumps(sound))
        raw["distribution"][0]["contentUrl"] = name
        path.write_text(json.dumps(raw))
        reseal(copy)
        found = verify(copy)
        assert {fault.file for fault in found} == {path.name}
        assert text in [fault.message for fault in found]
    folders = [part for part in sound["distribution"] if part["@id"] == "dem-folder"]
    folders[0]["sha256"] = "0" * 64
    path.write_text(json.dumps(sound))
    sums = {one.name: sha256(one.read_bytes()) for one in copy.iterdir() if one.name != SUMS_NAME}
    (copy / SUMS_NAME).write_bytes(format_sums(sums))
    only(verify(copy), path.name, "gives another sha256 of dem-folder")


def test_a_field_of_another_type_or_name(copy: Path) -> None:
    trackers = ["gelos_chip_tracker.geojson", "gelos_chip_tracker.parquet"]
    rewrite_tracker(copy, lambda table: table.assign(lulc=table["lulc"].astype(int))[list(table.columns)])
    assert verify(copy) == [Fault(name, "field lulc is not all text") for name in trackers]
    rewrite_tracker(copy, lambda table: table.rename(columns={"lulc": "land_cover"}))
    assert verify(copy) == [Fault(name, "its fields are not those of a tracker: lulc") for name in trackers]


def test_the_three_forms_of_the_tracker_are_one_table(copy: Path) -> None:
    path = copy / "gelos_chip_tracker.csv"
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    table.loc[2, "purity"] = "0.5"
    table.to_csv(path, index=False)
    reseal(copy)
    found = {fault.file: fault.message for fault in verify(copy)}
    assert found == {
        path.name: "differs from gelos_chip_tracker.geojson",
        "croissant.json": f"gives another sha256 of {path.name}",
    }


def test_an_unbalanced_class(copy: Path) -> None:
    """A chip of the smallest class is gone, whole, and everything else was made to fit."""
    table = read_tracker((copy / "gelos_chip_tracker.geojson").read_bytes())
    last = len(table) - 1
    for path in copy.glob(f"*_{last:06}*"):
        path.unlink()
    rewrite_tracker(copy, lambda table: table.iloc[:-1])
    messages = [fault.message for fault in verify(copy)]
    assert any(text.startswith(f"class {table['lulc'][last]} has ") for text in messages), messages


def test_config_of_another_kind(copy: Path) -> None:
    (copy / "config.json").write_text("{}")
    reseal(copy)
    only(verify(copy), "config.json", "not a release's (it has no 'layout')")


@pytest.mark.parametrize("key", ["s1rtc", "lc2l2"])
def test_a_sensor_two_pixels_off_is_a_warning(tmp_path: Path, key: str) -> None:
    land = Land({1: 12, 2: 12}, side=480, shift={key: (2, -2)})
    summary = make_release(working_folder(tmp_path, land))
    found = verify(summary.folder)
    step = {"s1rtc": 20, "lc2l2": 60}[key]
    assert {fault.file for fault in found} == {f"{key}_*.tif"}
    assert all(fault.warning for fault in found)
    assert f"lies {step} m south and {-step} m east of Sentinel-2" in found[0].message


def test_a_sensor_in_its_place_is_none(tmp_path: Path) -> None:
    summary = make_release(working_folder(tmp_path, Land({1: 12, 2: 12}, side=480, shift={"s1rtc": (1, 0)})))
    assert verify(summary.folder) == []


def test_the_zip_beside_the_folder(folder: Path, archive: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(folder, tmp_path / VERSION))
    beside = Path(shutil.copy(archive, tmp_path))
    assert verify(copied) == []
    with zipfile.ZipFile(beside, "a") as opened:
        opened.writestr("tiny_v0.1/extra", b"")
    only(verify(copied), beside.name, "is not, byte for byte, the zip that the folder's files make")
    assert {fault.file for fault in verify(beside)} == {"extra", beside.name}


def test_a_zip_and_a_folder_of_the_same_files_have_the_same_faults(copy: Path, tmp_path: Path) -> None:
    (copy / "s2l2a_000001_20230115.tif").write_bytes(b"")
    (copy / "dem_000002.tif").unlink()
    (copy / "lulc_000003.tif").write_bytes((copy / "lulc_000004.tif").read_bytes())
    (copy / "stray.txt").write_text("x")
    rewrite_raster(copy / "lc2l2_000005_20230120.tif", crs="EPSG:32601")
    (copy / "config.json").write_text((copy / "config.json").read_text() + " ")
    names = sorted(path.name for path in copy.iterdir())
    beside = tmp_path / "zip" / "damaged.zip"
    beside.parent.mkdir()
    beside.write_bytes(b"".join(zip_chunks("damaged", names, lambda name: (copy / name).read_bytes())))
    found = verify(copy)
    assert {fault.file for fault in found} == {
        "s2l2a_000001_20230115.tif",
        "dem_000002.tif",
        "lulc_000003.tif",
        "stray.txt",
        "lc2l2_000005_20230120.tif",
        "config.json",
    }
    assert verify(beside) == found
    reseal(copy)
    beside.write_bytes(b"".join(zip_chunks("damaged", names, lambda name: (copy / name).read_bytes())))
    assert verify(beside) == verify(copy) != []


def _damage(rng: np.random.Generator, folder: Path, names: list[str]) -> set[str]:
    """Do one thing to the folder; return the names of which one must be in the finding."""
    path = folder / str(rng.choice(names))
    data = path.read_bytes()
    kind = rng.choice(["flip", "cut", "swap", "extra", "missing", "grow"])
    if kind == "flip":
        place = int(rng.integers(len(data)))
        path.write_bytes(
            data[:place] + bytes([data[place] ^ (1 << int(rng.integers(8)))]) + data[place + 1 :]
        )
    elif kind == "cut":
        path.write_bytes(data[: int(rng.integers(len(data)))])
    elif kind == "grow":
        path.write_bytes(data + b"\0")
    elif kind == "missing":
        path.unlink()
    elif kind == "extra":
        path = folder / f"{path.stem}_{int(rng.integers(1000))}{path.suffix}"
        path.write_bytes(data)
    else:
        other = folder / str(rng.choice([name for name in names if (folder / name).read_bytes() != data]))
        path.write_bytes(other.read_bytes())
        other.write_bytes(data)
        return {path.name, other.name}
    return {path.name}


@pytest.mark.slow  # damages of every kind, one each, are found above
def test_seeded_damages_are_all_found(tmp_path: Path) -> None:
    config = working_folder(tmp_path, Land({1: 2, 2: 2}), {"directory.zip_output": False})
    folder = Path(make_release(config).folder)
    sound = {path.name: path.read_bytes() for path in folder.iterdir()}
    names = sorted(sound)
    for seed in range(DAMAGES):
        rng = np.random.default_rng([7, seed])
        named = _damage(rng, folder, names)
        found = verify(folder, workers=1)
        lines = [str(fault) for fault in found if not fault.warning]
        for name in named:
            assert any(name in line for line in lines), (seed, name, lines)
        assert all("\n" not in line for line in lines)
        for path in folder.iterdir():
            if path.name not in sound:
                path.unlink()
        for name in {*named, *(fault.file for fault in found)} & sound.keys():
            (folder / name).write_bytes(sound[name])
    assert verify(folder) == []


@pytest.mark.slow  # damages of every kind, one each, are found above
def test_seeded_flips_of_a_zip_are_all_found(tmp_path: Path) -> None:
    config = working_folder(tmp_path, Land({1: 1, 2: 1}))
    archive = Path(make_release(config).zip)
    sound = archive.read_bytes()
    rng = np.random.default_rng(3)
    for seed in range(DAMAGES // 2):
        place = int(rng.integers(len(sound)))
        kind = ("flip", "cut")[seed % 2]
        flipped = bytes([sound[place] ^ (1 << int(rng.integers(8)))])
        archive.write_bytes(sound[:place] + (flipped + sound[place + 1 :] if kind == "flip" else b""))
        found = verify(archive, workers=1)
        assert archive.name in {fault.file for fault in found}, (seed, kind, place, found)
    archive.write_bytes(sound)
    assert verify(archive) == []


def test_a_release_that_may_only_be_read(copy: Path) -> None:
    """Even the superuser may not write here, once that power is taken away."""
    for path in (copy, *copy.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    powerless = ["setpriv", "--bounding-set", "-dac_override"] if os.getuid() == 0 else []
    if powerless and shutil.which("setpriv") is None:
        pytest.skip("the superuser may write anywhere, and there is no setpriv")
    script = (
        "import os, sys\n"
        "assert not os.access(sys.argv[1], os.W_OK)\n"
        "from release import open_release, verify\n"
        "assert verify(sys.argv[1]) == []\n"
        "assert open_release(sys.argv[1]).read(0, 's2l2a').any()\n"
    )
    command = [*powerless, sys.executable, "-c", script, str(copy)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
