"""A release in shards holds what one in a piece holds, and is read, verified, resumed and repeated as well."""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
import signal
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pystac
import pytest
import rasterio
import rioxarray
from release_changes import only, rewrite_raster
from release_landscape import DATES, LAND, SETTINGS, VERSION, Land, working_folder, write_config
from test_release_kills import DIES, RUN, run
from test_release_verb import digests

from cube.config.models import Config
from cube.errors import ConfigError
from cube.run.shards import Share
from cube.run.storage import open_folder
from cube.run.thread_engine import ThreadEngine
from release import (
    ReleaseError,
    chip_arrays,
    compare_releases,
    export_release,
    make_release,
    open_release,
    torch_dataset,
    verify,
)
from release.make import check_output
from release.opening.checksums import SUMS_NAME, format_sums, sha256
from release.packing import shards

SHARDED = {**SETTINGS, "release.shard_chips": 4}
SERIES = ("s2l2a", "s1rtc", "lc2l2")
TRACKER = "gelos_chip_tracker"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Config:
    """The chips of the shared release, four to a shard. Not to be changed."""
    config = working_folder(tmp_path_factory.mktemp("sharded"), LAND, SHARDED)
    make_release(config, engine=ThreadEngine(1))
    return config


@pytest.fixture(scope="module")
def sharded(made: Config) -> Path:
    """Its folder. Not to be changed."""
    return Path(made.directory.output) / VERSION


@pytest.fixture
def damaged(sharded: Path, tmp_path: Path) -> Path:
    """A copy of its folder, without the zips beside it."""
    return Path(shutil.copytree(sharded, tmp_path / VERSION))


def by_hand(folder: Path, row: pd.Series, key: str) -> np.ndarray:
    """Read a sensor's pixels as GELOS's reader does: the tracker's paths, joined to the folder."""
    images = []
    for path in row[f"{key}_paths"].split(","):
        with rioxarray.open_rasterio(folder / path) as image:
            images.append(image.to_numpy())
    return np.stack(images)


def reseal_shard(folder: Path, shard: str) -> None:
    """Write the checksums of a shard, and of the release, that fit."""
    for place in (folder / "chips" / shard, folder):
        sums = {path.name: sha256(path.read_bytes()) for path in place.iterdir() if path.is_file()}
        sums.pop(SUMS_NAME, None)
        if place == folder:
            own = folder.glob(f"chips/*/{SUMS_NAME}")
            sums |= {str(path.relative_to(folder)): sha256(path.read_bytes()) for path in own}
        (place / SUMS_NAME).write_bytes(format_sums(sums))


def test_the_tracker_leads_to_the_same_chips_as_that_of_a_release_in_one_piece(
    folder: Path, sharded: Path
) -> None:
    one, other = (gpd.read_parquet(path / f"{TRACKER}.parquet") for path in (folder, sharded))
    fields = [name for name in one.columns if not name.endswith(("_paths", "_thumbs"))]
    pd.testing.assert_frame_equal(pd.DataFrame(one[fields]), pd.DataFrame(other[fields]))
    for (_, a), (_, b) in zip(one.iterrows(), other.iterrows(), strict=True):
        shard = f"chips/{b['id'] - b['id'] % 4:06}"
        for key in (*SERIES, "dem", "lulc"):
            for kind in ("paths", "thumbs") if key in SERIES else ("paths",):
                names = a[f"{key}_{kind}"].split(",")
                assert b[f"{key}_{kind}"] == ",".join(f"{shard}/{name}" for name in names)
                for name in names:
                    assert (folder / name).read_bytes() == (sharded / shard / name).read_bytes()
    assert (folder / "statistics.json").read_bytes() == (sharded / "statistics.json").read_bytes()


def test_each_table_says_the_same(sharded: Path) -> None:
    table = gpd.read_parquet(sharded / f"{TRACKER}.parquet")
    csv = pd.read_csv(sharded / f"{TRACKER}.csv", dtype={"lulc": str})
    features = gpd.read_file(sharded / f"{TRACKER}.geojson")
    for key in SERIES:
        assert csv[f"{key}_paths"].tolist() == table[f"{key}_paths"].tolist()
        assert features[f"{key}_paths"].tolist() == table[f"{key}_paths"].tolist()
    groups = pq.ParquetFile(sharded / f"{TRACKER}.parquet").metadata
    assert [groups.row_group(n).num_rows for n in range(groups.num_row_groups)] == [4, 4, 4, 2]


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_it_is_read_as_rasterio_reads_it(sharded: Path, kind: str) -> None:
    opened = open_release(sharded if kind == "folder" else sharded.parent / f"tiny_{VERSION}.zip")
    table = gpd.read_parquet(sharded / f"{TRACKER}.parquet")
    assert len(opened) == len(table) == 14
    for _, row in table.iterrows():
        sample = chip_arrays(opened, row["id"], [*SERIES, "lulc"])
        for key in (*SERIES, "lulc"):
            np.testing.assert_array_equal(sample[f"image_{key}"], by_hand(sharded, row, key))
        with rasterio.open(sharded / row["lulc_paths"]) as raster:
            assert sample["crs"] == str(raster.crs)
            assert sample["bounds"] == tuple(raster.bounds)
    assert opened.table["cell"].tolist() == table["cell"].tolist()
    assert opened.row(13)["cell"] == table["cell"].iloc[13]
    np.testing.assert_array_equal(opened.chip(9)["s1rtc"].to_numpy(), by_hand(sharded, table.loc[9], "s1rtc"))
    assert set(opened.file_names()) == {
        str(path.relative_to(sharded)) for path in sharded.rglob("*") if path.is_file()
    }


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="torch is not installed")
def test_torch_has_its_pixels(sharded: Path) -> None:
    table = gpd.read_parquet(sharded / f"{TRACKER}.parquet")
    data = torch_dataset(sharded, SERIES)
    assert len(data) == len(table)
    for (_, row), sample in zip(table.iterrows(), map(data.__getitem__, range(len(data))), strict=True):
        for key in SERIES:
            np.testing.assert_array_equal(sample[f"image_{key}"].numpy(), by_hand(sharded, row, key))


def test_sha256sum_accepts_all_checksums(sharded: Path) -> None:
    if shutil.which("sha256sum") is None:
        pytest.skip("no sha256sum")
    shards = sorted(path for path in (sharded / "chips").iterdir())
    assert [path.name for path in shards] == ["000000", "000004", "000008", "000012"]
    for place in (sharded, *shards):
        command = ["sha256sum", "--check", "--strict", "--quiet", SUMS_NAME]
        subprocess.run(command, cwd=place, check=True)
        named = {line.split("  ", 1)[1] for line in (place / SUMS_NAME).read_text().splitlines()}
        files = {path.name for path in place.iterdir() if path.is_file()} - {SUMS_NAME}
        assert named - {f"chips/{shard.name}/{SUMS_NAME}" for shard in shards} == files
    top = (sharded / SUMS_NAME).read_text()
    assert [f"  chips/{shard.name}/{SUMS_NAME}" in top for shard in shards] == [True] * 4


def test_the_zips_together_are_the_folder(sharded: Path, tmp_path: Path) -> None:
    zips = sorted(path.name for path in sharded.parent.glob("*.zip"))
    firsts = ("000000", "000004", "000008", "000012")
    assert zips == sorted([f"tiny_{VERSION}.zip", *(f"tiny_{VERSION}_{first}.zip" for first in firsts)])
    for name in zips:
        with zipfile.ZipFile(sharded.parent / name) as opened:
            opened.extractall(tmp_path)
    assert digests(tmp_path / f"tiny_{VERSION}") == digests(sharded)


def test_verify_has_nothing_to_say(sharded: Path) -> None:
    assert verify(sharded) == []
    assert verify(sharded.parent / f"tiny_{VERSION}.zip", workers=2) == []


def test_pystac_finds_all_items_and_their_files(sharded: Path) -> None:
    catalog = pystac.Catalog.from_file(str(sharded / "catalog.json"))
    items = list(catalog.get_items(recursive=True))
    assert [item.properties["gelos:id"] for item in items] == list(range(14))
    for item in items:
        assert item.get_collection() is not None
        for asset in item.assets.values():
            assert Path(str(asset.get_absolute_href())).is_file()
    for hrefs in pq.read_table(sharded / "items.parquet").column("assets").to_pylist():
        assert all((sharded / asset["href"]).is_file() for asset in hrefs.values())


def test_the_browser_and_the_report_know_where_files_lie(sharded: Path) -> None:
    page = (sharded / "browse.html").read_text()
    assert "`${folderOf(chip)}${key}_" in page
    layers = (sharded / "chips" / "000008" / "browse_layers_0000.js").read_text()
    assert layers.startswith('gelos("chips/000008/browse_layers_0000.js",[{"dem_000008":"')
    assert f"chips/000000/s2l2a_000000_{DATES['s2l2a'][0]}.png" in (sharded / "report.html").read_text()


@pytest.mark.slow
def test_exports_and_comparison_see_the_same_chips(folder: Path, sharded: Path, tmp_path: Path) -> None:
    found = compare_releases(folder, sharded)
    assert (found.changes, found.rasters, found.gone, found.new) == ((), (), (), ())
    assert found.same_rasters == 14 * 8
    for name, release in (("one", folder), ("many", sharded)):
        export_release(release, "webdataset", tmp_path / name)
    one, many = (
        {path: digest for path, digest in digests(tmp_path / name).items() if path.endswith(".tar")}
        for name in ("one", "many")
    )
    assert one == many != {}


@pytest.mark.parametrize("threads", [pytest.param(1, marks=pytest.mark.slow), 5])
def test_who_writes_it_changes_no_byte(sharded: Path, tmp_path: Path, threads: int) -> None:
    config = working_folder(tmp_path, LAND, SHARDED)
    first = make_release(config, engine=ThreadEngine(threads))
    assert first.written
    assert digests(Path(config.directory.output)) == digests(sharded.parent)
    assert not make_release(config, engine=ThreadEngine(threads)).written


@pytest.mark.slow
def test_a_cluster_changes_no_byte(sharded: Path, tmp_path: Path) -> None:
    config = working_folder(tmp_path, LAND, {**SHARDED, "compute.workers": 2})
    make_release(config)
    assert digests(Path(config.directory.output)) == digests(sharded.parent)


@pytest.mark.parametrize(
    ("module", "name", "call"),
    [
        ("cube.run.storage.disk", "_write_file", 150),  # in the second shard
        # before a shard takes its place
        pytest.param("pathlib", "Path.replace", 2, marks=pytest.mark.slow),
        # before its share of the statistics does
        pytest.param("release.packing.shards", "np.savez_compressed", 3, marks=pytest.mark.slow),
        # as documents are made
        pytest.param("release.packing.contents", "make_card", 1, marks=pytest.mark.slow),
        # before the release takes its place
        pytest.param("cube.run.storage.disk", "DiskFolder.move", 1, marks=pytest.mark.slow),
        # as the zips are written
        pytest.param("release.packing.shards", "write_zip", 3, marks=pytest.mark.slow),
    ],
)
def test_killed_it_goes_on_with_the_shards_that_are_whole(
    sharded: Path, tmp_path: Path, module: str, name: str, call: int
) -> None:
    config = working_folder(tmp_path, LAND, {**SHARDED, "compute.workers": 0, "compute.threads": 1})
    output = Path(config.directory.output)
    code = f"{DIES}\n{RUN}make_release(load_config(sys.argv[1]))"
    died = run(code, config.path, module, name, call)
    assert died.returncode == -signal.SIGKILL, died.stderr
    if (output / VERSION).exists():
        assert digests(output / VERSION) == digests(sharded)
    whole = sorted((output / f".making-{VERSION}" / "tallies").glob("*.npz"))
    before = {path.name.partition("-")[0]: path.stat().st_mtime_ns for path in whole}
    kept = {
        shard: (output / f".making-{VERSION}/release/chips/{shard}/{SUMS_NAME}").stat().st_mtime_ns
        for shard in before
    }
    make_release(config)
    assert digests(output) == digests(sharded.parent)
    for shard, time in kept.items():
        assert (output / VERSION / "chips" / shard / SUMS_NAME).stat().st_mtime_ns == time


def test_a_bucket_is_filled_where_a_run_was_stopped(
    sharded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = f"memory://{tmp_path.name}"
    config = working_folder(tmp_path, LAND, {**SHARDED, "directory.output": place})
    output, real, calls = open_folder(place), shards.write_chips, list[int]()

    def stopped(*arguments: object, **options: object) -> object:
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(shards, "write_chips", stopped)
    with pytest.raises(KeyboardInterrupt):
        make_release(config, engine=ThreadEngine(1))
    with pytest.raises(ReleaseError, match="is missing; this is no release, or not all of it"):
        open_release(output / VERSION)
    check_output(config, force=False)
    assert make_release(config, engine=ThreadEngine(1)).written
    assert len(calls) == 5  # two shards were whole
    found = {name: sha256(output.read(name)) for name in output.files() if name != ".lock"}
    assert found == {name: digest for name, digest in digests(sharded.parent).items() if name != ".lock"}
    assert not make_release(config, engine=ThreadEngine(1)).written
    assert verify(output / VERSION) == []


@pytest.mark.filterwarnings("ignore:ConjunctiveGraph:DeprecationWarning")  # of mlcroissant's own rdflib
@pytest.mark.filterwarnings("ignore:The inplace keyword")
def test_croissant_has_every_picture_with_its_label(sharded: Path) -> None:
    mlcroissant = pytest.importorskip("mlcroissant")
    dataset = mlcroissant.Dataset(str(sharded / "croissant.json"))
    table = gpd.read_parquet(sharded / f"{TRACKER}.parquet")
    records = list(dataset.records("s2l2a-images"))
    assert len(records) == 2 * len(table)
    for record in records:
        chip_id = int(record["s2l2a-images/number"])
        assert record["s2l2a-images/label"] == table["label"].iloc[chip_id]


@pytest.mark.slow
def test_another_division_is_another_release_and_replaces_the_first_by_force(
    folder: Path, tmp_path: Path
) -> None:
    config = working_folder(tmp_path, LAND, SHARDED)
    output = Path(config.directory.output)
    make_release(config)
    other = write_config(tmp_path, LAND, {**SETTINGS, "release.shard_chips": 7})
    before = digests(output)
    with pytest.raises(ReleaseError, match="a different release of this version is there; give --force"):
        make_release(other)
    assert digests(output) == before
    make_release(other, force=True)
    assert sorted(path.name for path in (output / VERSION / "chips").iterdir()) == ["000000", "000007"]
    assert len(list(output.glob("*.zip"))) == 3
    assert verify(output / VERSION) == []
    make_release(write_config(tmp_path, LAND, SETTINGS), force=True)
    assert digests(output) == digests(folder.parent)


SMALLER = {
    "whole": {"release.shard_chips": None},
    "without zips": {"release.shard_chips": None, "directory.zip_output": False},
    "in larger shards": {"release.shard_chips": 7},
}


@pytest.mark.parametrize(
    ("settings", "share"), [*((name, None) for name in SMALLER), ("in larger shards", Share(1, 1))]
)
def test_zips_that_are_left_of_a_release_are_no_part_of_the_next(
    made: Config, tmp_path: Path, settings: str, share: Share | None
) -> None:
    shutil.copytree(made.path.parent, tmp_path, dirs_exist_ok=True)
    config = write_config(tmp_path, LAND, {**SHARDED, **SMALLER[settings]})
    output = Path(config.directory.output)
    shutil.rmtree(output / VERSION)
    before = digests(output)
    assert len(before) > 4
    with pytest.raises(
        ReleaseError, match=r"tiny_v0\.1.*\.zip, and \d more: left of another release of this version"
    ):
        make_release(config, shard=share)
    if settings == "without zips":  # which `run` can tell before it builds anything
        with pytest.raises(ReleaseError, match="left of another release of this version"):
            check_output(config, force=False)
    check_output(config, force=True)
    assert digests(output) == before
    summary = make_release(config, shard=share, force=True)
    assert verify(summary.folder) == []
    firsts = ("000000", "000007") if settings == "in larger shards" else ()
    wanted = {f"tiny_{VERSION}.zip", *(f"tiny_{VERSION}_{first}.zip" for first in firsts)}
    zips = {path.name for path in output.glob("*.zip")}
    assert zips == (set() if settings == "without zips" else wanted)
    if zips:
        assert verify(output / f"tiny_{VERSION}.zip") == []


def test_zips_of_the_very_release_stay_where_its_folder_went(made: Config, tmp_path: Path) -> None:
    shutil.copytree(made.path.parent, tmp_path, dirs_exist_ok=True)
    config = write_config(tmp_path, LAND, SHARDED)
    output = Path(config.directory.output)
    before, zips = digests(output), {path: path.stat().st_ino for path in output.glob("*.zip")}
    shutil.rmtree(output / VERSION)
    make_release(config, engine=ThreadEngine(1))
    assert digests(output) == before
    assert {path: path.stat().st_ino for path in output.glob("*.zip")} == zips


def test_a_long_tracker_is_parquet_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.import_module("release.packing.contents"), "MOST_TEXT_ROWS", 13)
    config = working_folder(tmp_path, LAND, SHARDED)
    made = Path(make_release(config).folder)
    assert not {f"{TRACKER}.csv", f"{TRACKER}.geojson"} & {path.name for path in made.iterdir()}
    assert len(open_release(made)) == 14
    # It is not long in earnest, and both are asked for.
    assert [str(fault) for fault in verify(made)] == [
        f"{SUMS_NAME}: does not name {TRACKER}.{ending}" for ending in ("csv", "geojson")
    ]


def test_no_chips_in_a_shard_is_an_error_of_the_config(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"release\.shard_chips"):
        write_config(tmp_path, LAND, {"release.shard_chips": 0})


def damage(rng: np.random.Generator, path: Path) -> Path:
    """Do one thing to a file; return the one that is to be named."""
    data = path.read_bytes()
    kind = rng.choice(["flip", "cut", "extra", "missing", "grow"])
    if kind == "flip":
        place = int(rng.integers(len(data)))
        flipped = data[place] ^ (1 << int(rng.integers(8)))
        path.write_bytes(data[:place] + bytes([flipped]) + data[place + 1 :])
    elif kind == "cut":
        path.write_bytes(data[: int(rng.integers(len(data)))])
    elif kind == "grow":
        path.write_bytes(data + b"\0")
    elif kind == "missing":
        path.unlink()
    else:
        path = path.with_name(f"{path.stem}_{int(rng.integers(1000))}{path.suffix}")
        path.write_bytes(data)
    return path


def test_a_hundred_seeded_damages_are_found_at_once(damaged: Path) -> None:
    rng = np.random.default_rng(17)
    files = sorted(path for path in damaged.glob("chips/*/*") if path.name != SUMS_NAME)
    chosen = rng.choice(len(files), 100, replace=False)
    named = {str(damage(rng, files[place]).relative_to(damaged)) for place in chosen}
    found = verify(damaged, workers=1)
    assert len(named) == 100
    assert named - {fault.file for fault in found} == set()
    assert all("\n" not in str(fault) for fault in found)


@pytest.mark.slow
def test_seeded_damages_of_any_file_are_found_one_by_one(sharded: Path, tmp_path: Path) -> None:
    names = sorted(str(path.relative_to(sharded)) for path in sharded.rglob("*") if path.is_file())
    for seed in range(int(os.environ.get("GELOS_DAMAGES", "30"))):
        rng = np.random.default_rng([18, seed])
        copied = Path(shutil.copytree(sharded, tmp_path / str(seed)))
        named = damage(rng, copied / str(rng.choice(names)))
        found = [fault for fault in verify(copied, workers=1) if not fault.warning]
        assert any(named.name in str(fault) for fault in found), (seed, named, found)
        shutil.rmtree(copied)


Change = Callable[[Path], object]
PLANTED: dict[str, tuple[Change, str, str, str]] = {
    "a shard that is gone": (
        lambda folder: shutil.rmtree(folder / "chips/000004"),
        "chips/000004/SHA256SUMS",
        "is missing, though SHA256SUMS names it",
        "",
    ),
    "a shard too many": (
        lambda folder: shutil.copytree(folder / "chips/000004", folder / "chips/000016"),
        "chips/000016/SHA256SUMS",
        "is not named in SHA256SUMS",
        "",
    ),
    "a file among the shards": (
        lambda folder: (folder / "chips/stray.txt").write_text("x"),
        "chips/stray.txt",
        "is not named in SHA256SUMS",
        "",
    ),
    "a raster of another place": (
        lambda folder: rewrite_raster(folder / "chips/000004/dem_000005.tif", crs="EPSG:32601"),
        "chips/000004/dem_000005.tif",
        "CRS is 32601, expected",
        "000004",
    ),
    "checksums that are not those of the release": (
        lambda folder: (folder / "chips/000008" / SUMS_NAME).write_bytes(
            (folder / "chips/000008" / SUMS_NAME).read_bytes() + b"\n"
        ),
        "chips/000008/SHA256SUMS",
        "its sha256 is not the one in SHA256SUMS",
        "",
    ),
}


@pytest.mark.parametrize("which", PLANTED)
def test_what_is_wrong_is_named_where_it_lies(damaged: Path, which: str) -> None:
    change, file, text, resealed = PLANTED[which]
    change(damaged)
    if resealed:
        reseal_shard(damaged, resealed)
    found = [fault for fault in verify(damaged, workers=1) if fault.file != "croissant.json"]
    assert (file, True) in {(fault.file, text in fault.message) for fault in found}, found
    assert {fault.file.rpartition("/")[0] for fault in found} <= {file.rpartition("/")[0]}


def test_equal_images_of_two_shards_are_found(damaged: Path) -> None:
    one, other = (
        damaged / f"chips/{a}/s2l2a_{b}_20230115.tif" for a, b in (("000000", "000001"), ("000008", "000009"))
    )
    with rasterio.open(one) as raster:
        values = raster.read()
    rewrite_raster(other, values=values)
    reseal_shard(damaged, "000008")
    found = [fault for fault in verify(damaged, workers=1) if fault.file.startswith("chips/")]
    only(
        found, "chips/000008/s2l2a_000009_20230115.tif", "holds the same pixels as chips/000000/s2l2a_000001_"
    )


def test_a_zip_that_lacks_a_shard_says_so(sharded: Path, tmp_path: Path) -> None:
    for path in sharded.parent.glob("*.zip"):
        shutil.copy(path, tmp_path)
    (tmp_path / f"tiny_{VERSION}_000004.zip").unlink()
    archive = tmp_path / f"tiny_{VERSION}.zip"
    assert "chips/000004/SHA256SUMS: is missing, though SHA256SUMS names it" in map(str, verify(archive))
    opened = open_release(archive)
    opened.read(3, "dem")
    with pytest.raises(ReleaseError, match=r"chips/000004/dem_000005\.tif is missing"):
        opened.read(5, "dem")
    broken = tmp_path / f"tiny_{VERSION}_000008.zip"
    broken.write_bytes(broken.read_bytes()[:-30])
    assert f"{broken.name}: is not a zip that can be read" in map(str, verify(archive))
    with pytest.raises(ReleaseError, match="not a zip that can be read"):
        opened.read(9, "dem")


def test_a_link_out_of_a_shard_is_refused(damaged: Path, tmp_path: Path) -> None:
    path = damaged / "chips/000004/dem_000005.tif"
    path.rename(tmp_path / "elsewhere.tif")
    path.symlink_to(tmp_path / "elsewhere.tif")
    with pytest.raises(ReleaseError, match="is a link out of the release"):
        verify(damaged)
    with pytest.raises(ReleaseError, match="is a link out of the release"):
        open_release(damaged).read(5, "dem")


def test_rows_are_not_bought_by_large_shards(damaged: Path) -> None:
    path = damaged / f"{TRACKER}.parquet"
    table = pq.read_table(path)
    pq.write_table(table.take(np.zeros(100_000, np.int64)), path, compression="zstd")
    config = damaged / "config.json"
    config.write_text(config.read_text().replace('"shard_chips": 4', '"shard_chips": 999999999'))
    reseal_shard(damaged, "000000")
    with pytest.raises(ReleaseError, match=r"100,000 rows, where [\d,]+ are the most"):
        open_release(damaged)
    assert any("100,000 rows, where " in str(fault) for fault in verify(damaged, workers=1))


@pytest.mark.slow
def test_many_more_chips_than_a_shard_holds(tmp_path: Path) -> None:
    """Some chips more than fill whole files of layers, and shards that end within one."""
    config = working_folder(
        tmp_path, Land({1: 60, 2: 50}, side=120), {"release.shard_chips": 53, "directory.zip_output": False}
    )
    made = Path(make_release(config, engine=ThreadEngine(2)).folder)
    assert sorted(path.name for path in made.glob("chips/*/browse_layers_*")) == [
        "browse_layers_0000.js",
        "browse_layers_0000.js",
        "browse_layers_0000.js",
        "browse_layers_0001.js",
        "browse_layers_0001.js",
    ]
    assert [str(fault) for fault in verify(made, workers=2) if not fault.warning] == []


def test_a_version_that_is_called_as_anothers_shard_keeps_its_zip(made: Config, tmp_path: Path) -> None:
    other = f"{VERSION}_20240101"
    output = Path(write_config(tmp_path, LAND, {**SHARDED, "dataset.version": other}).directory.output)
    shutil.copytree(made.path.parent, tmp_path, dirs_exist_ok=True)
    shutil.copytree(output / VERSION, output / other)
    its = output / f"tiny_{other}.zip"
    its.write_bytes(b"of another version")
    shutil.rmtree(output / VERSION)
    make_release(write_config(tmp_path, LAND, SHARDED), force=True)
    assert its.read_bytes() == b"of another version"
