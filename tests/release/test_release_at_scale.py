"""A release of 12,000 chips in shards: read as a stranger would, and damaged a hundred times."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rasterio
import rioxarray
from release_changes import rewrite_raster
from release_landscape import VERSION
from repeated_chips import write_repeated_chips

from cube.config.reading import load_config
from cube.run.shards import Share
from release import Fault, make_release, torch_dataset, verify
from release.opening.checksums import SUMS_NAME, format_sums, sha256

CHIPS, SHARD = 12_000, 200
TRACKER = "gelos_chip_tracker.parquet"
Expected = tuple[str, str]
"""A file of the release, and what is to be said of it."""
Once = Callable[[str, Callable[[Path], object]], Path]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def made(once: Once) -> Path:
    """The folder of chips and release, which is made once. Not to be changed, but in links of one's own."""

    def fill(folder: Path) -> None:
        path = write_repeated_chips(folder, CHIPS)
        make_release(load_config(path, [f"release.shard_chips={SHARD}", "compute.workers=0"]))

    return once("many", fill) / "released"


@pytest.fixture
def damaged(made: Path, tmp_path: Path) -> Path:
    """A copy of the release and its zips whose files are links until they are replaced."""
    output = shutil.copytree(made / "output", tmp_path / "output", copy_function=_link)
    return Path(output) / VERSION


def _link(source: str, target: str) -> str:
    Path(target).hardlink_to(source)
    return target


def replace(path: Path, data: bytes) -> None:
    """Write a file anew; others that are linked to it stay."""
    path.unlink()
    path.write_bytes(data)


def some(count: int, seed: int) -> list[int]:
    return sorted(np.random.default_rng(seed).choice(CHIPS, count, replace=False).tolist())


def shard_of(chip: int) -> str:
    return f"{chip - chip % SHARD:06}"


def gelos_image(folder: Path, row: pd.Series, sensor: str) -> np.ndarray:
    """Read a sensor's dates as GELOS's data module does: ``(time, band, y, x)``."""
    images = []
    for name in row[f"{sensor}_paths"].split(","):
        with rioxarray.open_rasterio(folder / name, masked=False) as opened:
            images.append(opened.to_numpy())
    return np.stack(images)


def phase_two_image(made: Path, row: pd.Series, sensor: str) -> np.ndarray:
    """Read the same from the chip's folder, where phase two left it."""
    dates = row.get(f"{sensor}_dates")
    names = [f"{sensor}_{date}.tif" for date in dates.split(",")] if dates else [f"{sensor}.tif"]
    images = []
    for name in names:
        with rasterio.open(made / "working" / VERSION / "chips" / row["cell"] / name) as raster:
            images.append(raster.read())
    return np.stack(images)


def test_a_reader_of_gelos_has_the_pixels_of_phase_two(made: Path) -> None:
    folder = made / "output" / VERSION
    table = gpd.read_parquet(folder / TRACKER).set_index("id")
    assert len(table) == CHIPS
    assert not table["cell"].duplicated().any()
    first = set()
    for chip in some(60, seed=1):
        row = table.loc[chip]
        for sensor in ("s2l2a", "lulc"):
            pixels = gelos_image(folder, row, sensor)
            np.testing.assert_array_equal(pixels, phase_two_image(made, row, sensor))
            assert row[f"{sensor}_paths"].startswith(f"chips/{shard_of(chip)}/")
        first.add(gelos_image(folder, row, "s2l2a").tobytes())
        with rasterio.open(folder / row["lulc_paths"]) as raster:
            left, bottom, right, top = raster.bounds
            assert (raster.crs.to_epsg(), left, top) == (row["epsg"], row["left_m"], row["top_m"])
            values, counts = np.unique(raster.read(), return_counts=True)
        assert values[counts.argmax()] == int(row["lulc"])
        outline = gpd.GeoSeries([row["geometry"]], crs=4326).to_crs(row["epsg"]).iloc[0]
        assert np.allclose(outline.bounds, (left, bottom, right, top), atol=0.1)
    assert len(first) == 60  # no chip is another's


def test_torch_has_them_too(made: Path) -> None:
    pytest.importorskip("torch")
    folder = made / "output" / VERSION
    table = pq.read_table(folder / TRACKER).to_pandas()
    data = torch_dataset(folder, ("s2l2a", "lulc"))
    assert len(data) == CHIPS
    for chip in some(40, seed=2):
        sample = data[chip]
        for sensor in ("s2l2a", "lulc"):
            found = sample[f"image_{sensor}"].numpy()
            np.testing.assert_array_equal(found, gelos_image(folder, table.loc[chip], sensor))


def files_of(folder: Path, shard: int, form: str, count: int, rng: np.random.Generator) -> list[Path]:
    """Draw files of a shard, all of different chips."""
    found = sorted((folder / "chips" / f"{shard * SHARD:06}").glob(form))
    return [found[place] for place in sorted(rng.choice(len(found), count, replace=False))]


def flip(path: Path, rng: np.random.Generator) -> None:
    """Change a bit."""
    data = bytearray(path.read_bytes())
    data[int(rng.integers(len(data)))] ^= 1 << int(rng.integers(8))
    replace(path, bytes(data))


def seal_shard(folder: Path, shard: int) -> None:
    """Write checksums of a shard that fit, so that its contents alone can give a damage away."""
    place = folder / "chips" / f"{shard * SHARD:06}"
    sums = {path.name: sha256(path.read_bytes()) for path in place.iterdir() if path.name != SUMS_NAME}
    replace(place / SUMS_NAME, format_sums(sums))


def seal_top(folder: Path) -> None:
    """Do the same for the release."""
    files = [path for path in folder.iterdir() if path.is_file() and path.name != SUMS_NAME]
    files += folder.glob(f"chips/*/{SUMS_NAME}")
    sums = {str(path.relative_to(folder)): sha256(path.read_bytes()) for path in files}
    replace(folder / SUMS_NAME, format_sums(sums))


def rewrite_item(path: Path, key: str, value: object) -> None:
    item = json.loads(path.read_text())
    item["properties"][key] = value
    replace(path, (json.dumps(item) + "\n").encode())


def swap(one: Path, other: Path) -> None:
    data = one.read_bytes()
    replace(one, other.read_bytes())
    replace(other, data)


def plant_bits(folder: Path, rng: np.random.Generator, shards: Iterable[int]) -> Iterator[Expected]:
    """A bit of a picture, a raster or an item."""
    for shard in shards:
        for form in ("s2l2a_*.tif", "lulc_*.tif", "*.png", "item_*.json"):
            [path] = files_of(folder, shard, form, 1, rng)
            flip(path, rng)
            yield path.name, "sha256 is not the one"


def plant_sums(folder: Path, rng: np.random.Generator, shards: Iterable[int]) -> Iterator[Expected]:
    """A digit of a line of a shard's checksums; the release's own fit."""
    for shard in shards:
        [path] = files_of(folder, shard, "lulc_*.tif", 1, rng)
        sums = path.with_name(SUMS_NAME)
        lines = sums.read_text().splitlines(keepends=True)
        place = next(number for number, line in enumerate(lines) if line.endswith(f"  {path.name}\n"))
        lines[place] = ("1" if lines[place][0] == "0" else "0") + lines[place][1:]
        replace(sums, "".join(lines).encode())
        yield path.name, "sha256 is not the one"


def plant_missing(folder: Path, rng: np.random.Generator, shards: Iterable[int]) -> Iterator[Expected]:
    for shard in shards:
        for path in files_of(folder, shard, "*_*.tif", 5, rng):
            path.unlink()
            yield path.name, "is missing, though SHA256SUMS names it"


def plant_extra(folder: Path, rng: np.random.Generator, shards: Iterable[int]) -> Iterator[Expected]:
    for shard in shards:
        for number, path in enumerate(files_of(folder, shard, "*.png", 4, rng)):
            extra = path.with_name(f"{path.stem}_{number}.png")
            extra.write_bytes(path.read_bytes())
            yield extra.name, "is not named in SHA256SUMS"


def plant_cut(folder: Path, rng: np.random.Generator, shards: Iterable[int]) -> Iterator[Expected]:
    """Half a picture, with checksums that fit."""
    for shard in shards:
        for path in files_of(folder, shard, "*.png", 3, rng):
            replace(path, path.read_bytes()[: path.stat().st_size // 2])
            yield path.name, ""
        seal_shard(folder, shard)


def plant_swapped(folder: Path, rng: np.random.Generator, shards: Iterable[int]) -> Iterator[Expected]:
    """Rasters of two chips in each other's place, with checksums that fit."""
    for shard in shards:
        one, other, *_ = files_of(folder, shard, "s2l2a_*.tif", 2, rng)
        swap(one, other)
        yield one.name, "place is"
        yield other.name, "place is"
        seal_shard(folder, shard)


def plant_items(folder: Path, rng: np.random.Generator, shards: Iterable[int]) -> Iterator[Expected]:
    """Another class, purity, place or split in an item, with checksums that fit."""
    changes = {"gelos:lulc": 4, "gelos:purity": 0.1, "gelos:cell": "32632_0_0", "gelos:split": "test"}
    for shard in shards:
        for path, (key, value) in zip(
            files_of(folder, shard, "item_*.json", 4, rng), changes.items(), strict=True
        ):
            rewrite_item(path, key, value)
            yield path.name, ""
        seal_shard(folder, shard)


def plant_classes(folder: Path, rng: np.random.Generator, shards: Iterable[int]) -> Iterator[Expected]:
    """Land cover of another class, with checksums that fit."""
    for shard in shards:
        for path in files_of(folder, shard, "lulc_*.tif", 4, rng):
            with rasterio.open(path) as raster:
                values = raster.read()
            own = path.with_name(".own.tif")
            shutil.copy(path, own)
            rewrite_raster(own, values=np.where(values == 5, 2, 5))
            own.replace(path)
            yield path.name, ""
        seal_shard(folder, shard)


def plant_grids(folder: Path, rng: np.random.Generator, shards: Iterable[int]) -> Iterator[Expected]:
    """Another CRS, dtype, nodata and band name, with checksums that fit."""
    changes: list[tuple[dict[str, object], str]] = [
        ({"crs": "EPSG:32633"}, "CRS"),
        ({"dtype": "uint16"}, "uint16"),
        ({"nodata": 7}, "nodata"),
        ({"bands": ("B02", "B03", "B04", "B05")}, "B05"),
    ]
    for shard in shards:
        for path, (change, text) in zip(files_of(folder, shard, "s2l2a_*.tif", 4, rng), changes, strict=True):
            own = path.with_name(".own.tif")
            shutil.copy(path, own)
            rewrite_raster(own, **change)
            own.replace(path)
            yield path.name, text
        seal_shard(folder, shard)


def plant_rows(folder: Path, rng: np.random.Generator, shards: Iterable[int]) -> Iterator[Expected]:
    """Values of the tracker, a chip of each shard, with checksums that fit."""
    table = pq.read_table(folder / TRACKER)
    changes: dict[str, object] = {
        "category": "Snow/ice",
        "color": "#000000",
        "lat": 1.5,
        "lon": -1.5,
        "s2l2a_paths": "chips/000000/s2l2a_000000_20230115.tif",
        "status": "impure",
        "lulc_paths": "lulc_000000.tif",
        "s2l2a_thumbs": "",
    }
    for shard, (name, value) in zip(shards, changes.items(), strict=True):
        values = table.column(name).to_pylist()
        values[shard * SHARD + int(rng.integers(SHARD))] = value
        place = table.column_names.index(name)
        table = table.set_column(place, table.field(name), pa.array(values, table.field(name).type))
        yield TRACKER, name
    (folder / TRACKER).unlink()
    pq.write_table(table, folder / TRACKER, row_group_size=SHARD, compression="zstd")


def plant_zips(folder: Path, rng: np.random.Generator, shards: Iterable[int]) -> Iterator[Expected]:
    """A bit of a zip; and of each second no zip at all."""
    for shard in shards:
        path = folder.parent / f"tiny_{VERSION}_{shard * SHARD:06}.zip"
        if shard % 2:
            path.unlink()
            yield path.name, "is missing, though there is a zip of the release"
        else:
            flip(path, rng)
            yield path.name, "is not, byte for byte, the zip that the folder's files make"


PLANTED: list[tuple[Callable[..., Iterator[Expected]], range]] = [
    (plant_bits, range(3)),
    (plant_sums, range(3, 9)),
    (plant_missing, range(9, 11)),
    (plant_extra, range(11, 13)),
    (plant_cut, range(13, 15)),
    (plant_swapped, range(15, 18)),
    (plant_items, range(18, 20)),
    (plant_classes, range(20, 22)),
    (plant_grids, range(22, 24)),
    (plant_rows, range(24, 32)),
    (plant_zips, range(32, 44)),
]


def unfound(expected: Iterable[Expected], faults: Iterable[Fault]) -> list[Expected]:
    """Return what no fault tells of."""
    told = [(fault.file.rpartition("/")[2], fault.message) for fault in faults if not fault.warning]
    return [
        (file, text)
        for file, text in expected
        if not any(file == name and text in said for name, said in told)
    ]


def test_ninety_two_damages_in_shards_are_found_in_one_check(damaged: Path) -> None:
    rng = np.random.default_rng(23)
    expected = [one for plant, shards in PLANTED for one in plant(damaged, rng, shards)]
    seal_top(damaged)
    assert len(expected) == 92
    found = verify(damaged)
    assert unfound(expected, found) == []
    assert all("\n" not in str(fault) for fault in found)
    untouched = {f"{shard * SHARD:06}" for shard in range(44, CHIPS // SHARD)}
    named = {part for fault in found for part in fault.file.split("/") if part in untouched}
    assert named == set()


def test_eight_damages_of_the_whole_are_found(damaged: Path) -> None:
    rng = np.random.default_rng(24)
    statistics = json.loads((damaged / "statistics.json").read_text())
    statistics["sensors"]["s2l2a"]["bands"]["B02"]["mean"] *= 1.5
    replace(damaged / "statistics.json", (json.dumps(statistics, indent=1) + "\n").encode())
    collection = json.loads((damaged / "collection.json").read_text())
    del collection["links"][int(rng.integers(3, CHIPS))]
    replace(damaged / "collection.json", (json.dumps(collection, indent=2) + "\n").encode())
    csv = (damaged / "gelos_chip_tracker.csv").read_bytes()
    replace(damaged / "gelos_chip_tracker.csv", csv.replace(b"success", b"failure", 1))
    (damaged / "stray.txt").write_text("x")
    seal_top(damaged)
    for name in ("report.html", "catalog.json", "items.parquet"):
        flip(damaged / name, rng)
    flip(damaged.parent / f"tiny_{VERSION}.zip", rng)
    expected = [
        ("statistics.json", ""),
        ("collection.json", ""),
        ("gelos_chip_tracker.csv", f"differs from {TRACKER}"),
        ("stray.txt", "belongs to no chip of the tracker"),
        *((name, "sha256 is not the one") for name in ("report.html", "catalog.json", "items.parquet")),
        (f"tiny_{VERSION}.zip", "is not, byte for byte, the zip that the folder's files make"),
    ]
    assert unfound(expected, verify(damaged, shard=Share(1, CHIPS // SHARD))) == []


def test_without_damage_nothing_is_said(made: Path) -> None:
    assert [fault for fault in verify(made / "output" / VERSION) if not fault.warning] == []
