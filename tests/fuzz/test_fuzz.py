"""Inputs with seeded faults: one clear line each, never a traceback, never silent nodata, never a hang.

GELOS_FUZZ is how many mutations of each kind are tried; the full proof is GELOS_FUZZ=2000.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pytest
import rasterio
import yaml
import zarr
from mutations import mutated_bytes, mutated_json, mutated_text

from chipping.chip import chip
from chipping.finished import sealed_cubes
from cube.build.run import build_cubes
from cube.config.aoi import load_aois
from cube.config.models import Config
from cube.config.reading import load_config
from cube.errors import GelosError
from cube.run.layout import Layout
from cube.run.status import AoiState
from cube.run.storage import Folder
from cube.run.thread_engine import ThreadEngine
from cube.store.open import open_cube
from cube.testing import Archive
from release import make_release, open_release, verify
from release.opening.checksums import SUMS_NAME, sha256
from release.opening.files import open_files
from release.verify.processes import WatchedFiles

pytestmark = pytest.mark.slow
COUNT = int(os.environ.get("GELOS_FUZZ", "40"))
FIRST = int(os.environ.get("GELOS_FUZZ_SEED", "0"))
LONGEST_S = 60
UNCLEAR = re.compile(
    r"Traceback|\b(Attribute|Key|Type|Index|Value|Name|ZeroDivision|Overflow|Recursion|Assertion|NotImplemented)Error\b"
    r"|NoneType|object at 0x|^'?\w*'?$|validation error"
)
"""What a library says of itself, where a user wants to be told of a file."""


@contextlib.contextmanager
def alarm(seconds: float) -> Iterator[None]:
    def late(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def fault_of(call: Callable[[], str | None]) -> str | None:
    """Return what a call did that no user should meet; what it returns is a fault, too."""
    try:
        with alarm(LONGEST_S), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return call()
    except GelosError as error:
        text = str(error)
        return f"unclear: {text}" if UNCLEAR.search(text) or "\n" in text else None
    except TimeoutError:
        return "hangs"
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # noqa: BLE001  that is what is looked for
        here = error.__traceback__
        where = ""
        while here is not None:
            name = here.tb_frame.f_code.co_filename
            if (
                any(f"/{room}/" in name for room in ("cube", "chipping", "release"))
                and "site-packages" not in name
            ):
                where = f"{name.rsplit('/', 2)[-2]}/{Path(name).name}:{here.tb_lineno}"
            here = here.tb_next
        return f"{type(error).__name__} in {where}: {str(error)[:160]}"


def proof(kind: str, attempt: Callable[[random.Random], tuple[str, Callable[[], str | None]]]) -> None:
    """Try COUNT mutations of a kind; every fault is told with its seed."""
    found = []
    for seed in range(FIRST, FIRST + COUNT):
        what, call = attempt(random.Random(f"{kind} {seed}"))
        started = time.perf_counter()
        fault = fault_of(call)
        took_s = time.perf_counter() - started
        if fault:
            found.append(f"{kind} {seed} ({what}): {fault}")
        if log := os.environ.get("GELOS_FUZZ_LOG"):  # of a run of hours
            with Path(log).open("a") as file:
                file.write(f"{kind} {seed} {took_s:.2f} s {what}: {fault or 'ok'}".replace("\n", " ") + "\n")
    assert found == [], "\n".join(found)


def written(path: Path, data: bytes | str) -> Path:
    path.write_bytes(data if isinstance(data, bytes) else data.encode(errors="replace"))
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, sample_archive: Archive) -> Path:
    """A folder with a small area of the sample archive, its config and its items."""
    folder = tmp_path_factory.mktemp("fuzz")
    areas = json.loads(sample_archive.aois.read_text())
    x, y = np.mean(areas["features"][0]["geometry"]["coordinates"][0][:4], axis=0)
    ring = [[x + dx, y + dy] for dx, dy in ((0, 0), (0.002, 0), (0.002, 0.002), (0, 0.002), (0, 0))]
    areas["features"] = [
        {"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": [ring]}}
    ]
    (folder / "areas.geojson").write_text(json.dumps(areas))
    items = json.loads(sample_archive.items.read_text())
    for item in items["features"]:
        for asset in item["assets"].values():
            asset["href"] = str(sample_archive.items.parent / asset["href"])
    kept = [one for one in items["features"] if one["collection"] in ("sentinel-2-l2a", "io-lulc-annual-v02")]
    (folder / "items.json").write_text(json.dumps(items | {"features": kept}))
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG))
    return folder


CONFIG: dict[str, Any] = {
    "dataset": {"version": "v1", "name": "small"},
    "aoi": {"path": "areas.geojson", "extent": "aoi"},
    "directory": {"working": "work", "output": "out"},
    "catalog": {"url": "items.json", "sign": "none", "retries": 0},
    "compute": {"workers": 0, "read_retries": 0},
    "s2l2a": {
        "time_ranges": ["2023-01-01/2023-03-31", "2023-04-01/2023-06-30"], "bands": ["B04", "SCL"],
        "cloud_band": "SCL", "cloud_cover": 100, "nodata_pixel_percentage": 100,
    },
    "lulc": {"year": "2023-01-02/2023-12-31"},
    "chips": {
        "sample_size": 240, "chip_size": 240, "min_purity": 0.0, "min_valid": 0.0, "min_clear": 0.0,
        "forbidden": [], "classes": [1, 2, 4, 5, 7, 8, 9, 11],
    },
    "release": {"allow_missing_classes": True},
}  # fmt: skip


def config_in(place: Path, into: Path, **files: bytes | str) -> Config:
    """Return the config of a folder of its own, with some files of `place` in another form."""
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir()
    for name in ("areas.geojson", "items.json", "config.yaml"):
        shutil.copy(place / name, into / name)
    for name, data in files.items():
        written(into / name.replace("__", "."), data)
    folders = [f"directory.working={into / 'work'}", f"directory.output={into / 'out'}"]
    return load_config(into / "config.yaml", folders)


def valid_px(config: Config) -> int:
    [cube] = sealed_cubes(config)  # beside it may lie one that a lost scene ended
    place = Layout.of(config).cubes.path / f"{cube.name}.zarr"
    return sum(
        int(np.count_nonzero(zarr.open_array(str(place), path=path, mode="r")[...]))
        for path in ("s2l2a/B04", "lulc/lulc")
    )


def built(config: Config, whole_px: int | None) -> str | None:
    """Build; whatever is called built has all its pixels, and what is not has a clear reason."""
    for row in build_cubes(config, ThreadEngine(1)).rows.values():
        is_silent = row.status is AoiState.BUILT and not row.reason  # a date without pixels is told there
        if is_silent and whole_px is not None and valid_px(config) < whole_px:
            return f"silent nodata: {valid_px(config)} of {whole_px} pixels are valid"
        if row.status is not AoiState.BUILT and (UNCLEAR.search(row.reason) or not row.reason):
            return f"unclear: {row.reason}"
    return None


@pytest.fixture(scope="module")
def clean(place: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, int]:
    """A config whose cube, chips and release are made, and the valid pixels of that cube."""
    config = config_in(place, tmp_path_factory.mktemp("clean") / "c")
    assert built(config, None) is None
    assert chip(config).chips > 0
    make_release(config)
    return config, valid_px(config)


def test_items(place: Path, tmp_path: Path) -> None:
    items = json.loads((place / "items.json").read_text())

    def attempt(rng: random.Random) -> tuple[str, Callable[[], str | None]]:
        features = list(items["features"])
        index = rng.randrange(len(features))
        features[index], what = mutated_json(features[index], rng)
        data = json.dumps(items | {"features": features})
        if rng.random() < 0.1:
            data, what = mutated_text(json.dumps(items, indent=1), rng)
        # A mended item may be passed over for one that has less, and says so.
        return what, lambda: built(config_in(place, tmp_path / "c", items__json=data), None)

    proof("items", attempt)


def test_areas(place: Path, tmp_path: Path) -> None:
    areas = json.loads((place / "areas.geojson").read_text())

    def attempt(rng: random.Random) -> tuple[str, Callable[[], str | None]]:
        if rng.random() < 0.3:
            data, what = mutated_text(json.dumps(areas, indent=1), rng)
        else:
            changed, what = mutated_json(areas, rng)
            data = json.dumps(changed)

        def call() -> None:
            load_aois(config_in(place, tmp_path / "c", areas__geojson=data))

        return what, call

    proof("areas", attempt)


def test_configs(place: Path, tmp_path: Path) -> None:
    def attempt(rng: random.Random) -> tuple[str, Callable[[], str | None]]:
        if rng.random() < 0.5:
            data, what = mutated_text(yaml.safe_dump(CONFIG), rng)
        else:
            changed, what = mutated_json(CONFIG, rng)
            data = yaml.safe_dump(changed)

        def call() -> None:
            load_aois(config_in(place, tmp_path / "c", config__yaml=data))

        return what, call

    proof("configs", attempt)


def test_rasters_of_the_archive(place: Path, clean: tuple[Config, int], tmp_path: Path) -> None:
    """A file whose header is damaged; of a tile's body GDAL checks nothing."""
    items = json.loads((place / "items.json").read_text())
    used = set(
        re.findall(
            r"\S+\.tif",
            json.dumps(next(Path(clean[0].directory.working).rglob("aoi_*.zarr/zarr.json")).read_text()),
        )
    )
    assets = [
        (i, key)
        for i, item in enumerate(items["features"])
        for key, asset in item["assets"].items()
        if key in ("B04", "SCL", "data")
        and any(asset["href"].endswith(Path(one.strip('\\"')).name) for one in used)
    ]
    assert assets

    def attempt(rng: random.Random) -> tuple[str, Callable[[], str | None]]:
        index, key = rng.choice(assets)
        changed = json.loads(json.dumps(items))
        asset = changed["features"][index]["assets"][key]
        data, what = mutated_bytes(Path(asset["href"]).read_bytes(), rng, rng.choice((64, 2000)))
        facts = georeferencing(Path(asset["href"]))
        asset["href"] = str(written(tmp_path / "damaged.tif", data))
        # One that is whole, and says that it lies elsewhere, is not told from an honest one here.
        whole_px = clean[1] if georeferencing(tmp_path / "damaged.tif") in (None, facts) else None
        return f"{key} {what}", lambda: built(
            config_in(place, tmp_path / "c", items__json=json.dumps(changed)), whole_px
        )

    proof("rasters", attempt)


def georeferencing(path: Path) -> tuple[Any, ...] | None:
    """Return where GDAL says that a file lies, and what it says is nodata; None if it reads none of it."""
    with warnings.catch_warnings(), contextlib.suppress(rasterio.errors.RasterioError, ValueError):
        warnings.simplefilter("ignore")
        with rasterio.open(path) as raster:
            return raster.crs, raster.transform, raster.nodata
    return None


def test_cubes(clean: tuple[Config, int], tmp_path: Path) -> None:
    """A cube whose metadata, or one of whose chunks, is damaged: opened, and chipped."""
    config = clean[0]
    source = Path(config.directory.working)

    def attempt(rng: random.Random) -> tuple[str, Callable[[], str | None]]:
        shutil.rmtree(tmp_path / "work", ignore_errors=True)
        shutil.copytree(source, tmp_path / "work")
        shutil.rmtree(tmp_path / "work" / "v1" / "scores", ignore_errors=True)
        cube = next((tmp_path / "work").rglob("aoi_*.zarr"))
        files = sorted(path for path in cube.rglob("*") if path.is_file())
        path = rng.choice([cube / "zarr.json"] * 8 + files)
        if path.name == "zarr.json" and rng.random() < 0.7:
            value, what = mutated_json(json.loads(path.read_text()), rng)
            written(path, json.dumps(value))
        else:
            data, what = mutated_bytes(path.read_bytes(), rng)
            written(path, data)
        moved = config.model_copy(
            update={"directory": config.directory.model_copy(update={"working": str(tmp_path / "work")})}
        )

        def call() -> str | None:
            def opened() -> None:
                for node in open_cube(cube).children.values():
                    with contextlib.suppress(
                        OSError, RuntimeError, ValueError
                    ):  # a chunk: loud, and zarr's own words
                        node.to_dataset().compute()

            return fault_of(opened) or fault_of(lambda: chip(moved) and None)

        return f"{path.relative_to(cube)}: {what}", call

    proof("cubes", attempt)


class CheckedHere:
    """Checks in this process: verify's own take seconds to start."""

    def __init__(self, release: Folder, **_: str) -> None:
        self.files = WatchedFiles(open_files(release), multiprocessing.RawArray("c", 4096), frozenset())

    def run(self, checks: Sequence[Callable[[WatchedFiles], Any]], *_: object, **__: object) -> Iterator[Any]:
        return (check(self.files) for check in checks)


# What rasterio makes of GDAL's messages that are no text; verify's own processes are deaf to it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_releases(clean: tuple[Config, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A release of which a table, the settings, the checksums or a raster are damaged, and sealed again."""
    room = importlib.import_module("release.verify.release")
    monkeypatch.setattr(room, "CheckProcesses", CheckedHere)
    monkeypatch.setattr(room, "limit_memory", lambda _: None)
    source = Path(clean[0].directory.output) / "v1"
    tables = (
        "gelos_chip_tracker.geojson",
        "gelos_chip_tracker.csv",
        "gelos_chip_tracker.parquet",
        "config.json",
    )

    def attempt(rng: random.Random) -> tuple[str, Callable[[], str | None]]:
        shutil.rmtree(tmp_path / "r", ignore_errors=True)
        folder = Path(shutil.copytree(source, tmp_path / "r"))
        rasters = sorted(folder.glob("*.tif"))
        others = sorted(path for path in folder.iterdir() if path.suffix not in (".tif", ".png"))
        path = rng.choice(
            [*(folder / name for name in tables), *[rng.choice(rasters)] * 4, rng.choice(others)]
        )
        if path.suffix in (".json", ".geojson") and rng.random() < 0.7:
            value, what = mutated_json(json.loads(path.read_text()), rng)
            written(path, json.dumps(value))
        elif path.suffix == ".parquet" and path.name.startswith("gelos") and rng.random() < 0.7:
            what = mutate_table(path, rng)
        else:
            data, what = mutated_bytes(path.read_bytes(), rng, rng.choice((64, 2000, 1 << 20)))
            written(path, data)
        if path.name != SUMS_NAME:
            names = sorted(one.name for one in folder.iterdir() if one.name != SUMS_NAME)
            lines = (f"{sha256((folder / name).read_bytes())}  {name}\n" for name in names)
            (folder / SUMS_NAME).write_text("".join(lines))

        def checked() -> str | None:
            unclear = [str(fault) for fault in verify(folder, workers=1) if UNCLEAR.search(fault.message)]
            return f"unclear: {unclear[0]}" if unclear else None

        def opened() -> None:
            release = open_release(folder)
            for image in release.chip(0).values():
                image.to_numpy()
            release.acquisitions(0)

        return f"{path.name}: {what}", lambda: fault_of(opened) or fault_of(checked)

    proof("releases", attempt)


def mutate_table(path: Path, rng: random.Random) -> str:
    """Put an odd value into a tracker, drop, rename or retype a column."""
    table = gpd.read_parquet(path)
    column = rng.choice([name for name in table.columns if name != "geometry"])
    kind = rng.choice(("drop", "rename", "value", "value", "type", "rows"))
    if kind == "drop":
        table = table.drop(columns=column)
    elif kind == "rename":
        table = table.rename(columns={column: f"{column}_"})
    elif kind == "type":
        table[column] = table[column].astype(str) if rng.random() < 0.5 else float("nan")
    elif kind == "rows":
        table = table.iloc[: rng.randrange(len(table))]
    else:
        odd = (
            rng.choice((-1, 0, 2**40, float("inf")))
            if table[column].dtype.kind in "if"
            else rng.choice(("", "x", ",", "../x", "9" * 400))
        )
        table[column] = [odd, *table[column].tolist()[1:]]
    table.to_parquet(path)
    return f"{kind} {column}"
