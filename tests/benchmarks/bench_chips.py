"""Phase two against the clock: ``python tests/benchmarks/bench_chips.py [--cubes N]``; 0: the sample archive's.

Export stands beside a tight loop that only writes the same files with rasterio and Pillow from
pixels in memory, in the same process and on the same number of cores; ratios therefore hold on a
busy machine too."""

from __future__ import annotations

import argparse
import importlib
import io
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import rasterio
import yaml
from figures import Table, add_json_flag, show
from numpy.typing import NDArray
from PIL import Image
from rasterio.io import MemoryFile

from chipping.chip import chip, score_cubes
from chipping.choose import ScoreSet
from chipping.masks import MaskSettings
from chipping.scores import ScoreTable
from chipping.sweep import sweep_scores
from cube.build.run import build_cubes
from cube.config.models import ChipsConfig, Config
from cube.config.reading import load_config
from cube.config.sensor_models import CloudRule
from cube.config.sensors import SENSORS
from cube.run.layout import Layout
from cube.run.thread_engine import ThreadEngine
from cube.store.sealed import CubeInfo, SensorInfo
from cube.testing import make_archive
from cube.testing.cubes import plan_from_times, record_cube, write_cube
from cube.windows.grid import Block, Bounds
from cube.windows.landcover import count_classes, land_cover_columns
from cube.windows.lattice import WindowGeometry, WindowLattice

RANGES = ["2023-01-01/2023-03-31", "2023-04-01/2023-06-30", "2023-07-01/2023-09-30", "2023-10-01/2023-12-31"]
TIMES = [datetime(2023, month, 10, 10, 30, tzinfo=UTC) for month in (2, 5, 8, 11)]
CODES = np.array([0, 1, 2, 4, 5, 7, 8, 9, 10, 11], np.uint8)


def main() -> None:
    """Run all benchmarks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--cubes", type=int, default=0, help="cubes of 7.68 km (0: those of the sample archive)"
    )
    add_json_flag(parser)
    arguments = parser.parse_args()
    found = Table(
        "Phase two",
        ["what", "how many", "seconds", "processor, seconds", "beside"],
        "The tight loop only writes the same files with rasterio and Pillow from pixels in memory, in the same process.",
    )
    bench_export(arguments.cubes, found)
    bench_scores(found)
    bench_sweep(found)
    show(found, as_json=arguments.json)


def bench_export(cubes: int, found: Table) -> None:
    """Compare chips a second with the tight loop's; processor time tells them apart on a busy machine."""
    slots = ThreadEngine().slots
    with tempfile.TemporaryDirectory() as name:
        config = make_cubes(Path(name), cubes) if cubes else sample_cubes(Path(name))
        importlib.import_module("xbatcher")
        importlib.import_module("pyarrow.parquet")
        scores, seconds, cpu = timed(lambda: score_cubes(config, ThreadEngine()))
        add(found, "scores, with the check of every pixel", f"{len(scores)} windows", seconds, cpu)
        summary, seconds, cpu = timed(lambda: chip(config))
        export = f"{summary.chips / seconds:.1f} chips/s"
        add(
            found, f"export, {slots} threads, choice included", f"{summary.chips} chips", seconds, cpu, export
        )
        files = decoded(Layout.of(config).chips.path)
        for threads in (1, slots):
            _, loop, loop_cpu = timed(lambda t=threads: tight_loop(files, Path(name) / f"loop{t}", t))
            share = f"export takes {seconds / loop:.2f} of it, {cpu / loop_cpu:.2f} by processor time"
            add(found, f"tight loop, {threads} threads", f"{len(files)} chips", loop, loop_cpu, share)
        found.figures["export of a chip, of the tight loop's processor time"] = cpu / loop_cpu
        rerun, seconds, cpu = timed(lambda: chip(config))
        kept = f"{rerun.kept} kept, {rerun.written} written"
        add(found, "export again, nothing changed", f"{rerun.chips} chips", seconds, cpu, kept)
        other = config.model_copy(update={"chips": config.chips.model_copy(update={"max_per_class": 5})})
        capped, seconds, cpu = timed(lambda: chip(other))
        add(
            found,
            "export again, another cap",
            f"{capped.chips} chips",
            seconds,
            cpu,
            f"{capped.removed} removed",
        )


def add(found: Table, what: str, many: str, seconds: float, cpu: float, beside: str = "") -> None:
    """Add a row."""
    found.add(what, many, f"{seconds:.2f}", f"{cpu:.2f}", beside)


def sample_cubes(folder: Path) -> Config:
    """Build the demo's cubes from the sample archive."""
    archive = make_archive(folder / "archive")
    config = load_config(
        Path(__file__).parents[2] / "configs" / "demo.yaml",
        [
            f"catalog.url={archive.items}",
            f"aoi.path={archive.aois}",
            f"directory.working={folder / 'work'}",
            f"directory.output={folder / 'out'}",
        ],
    )
    build_cubes(config, ThreadEngine())
    return config


def make_cubes(folder: Path, count: int) -> Config:
    """Build cubes of 7.68 km with five sensors and four dates, of pixels as compressible as real ones."""
    record: dict[str, Any] = {
        "dataset": {"version": "v1"},
        "aoi": {"path": "aoi.geojson"},
        "directory": {"working": str(folder / "working"), "output": str(folder / "output")},
        "s2l2a": {"time_ranges": RANGES, "cloud_band": "SCL"},
        "s1rtc": {},
        "lc2l2": {"cloud_band": "qa_pixel"},
        "dem": {},
        "lulc": {"year": "2023-01-02/2023-12-31"},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(record))
    config = load_config(folder / "config.yaml")
    square = {"type": "Polygon", "coordinates": [[[8, 54], [9, 54], [9, 55], [8, 55], [8, 54]]]}
    aois = [{"type": "Feature", "properties": {}, "geometry": square}] * count
    (folder / "aoi.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": aois}))
    for index in range(count):
        left = 480_000 + index * 9600
        plan = plan_from_times(config, Bounds(left, 5_990_400, left + 7680, 5_998_080), 32632, TIMES, index)
        rng = np.random.default_rng(index)
        arrays = {
            sensor.key: {
                name: pixels(rng, sensor.key, name, plan.geobox(sensor.key).shape) for name in sensor.bands
            }
            for sensor in plan.sensors
        }
        write_cube(Layout.of(config).cubes, plan, arrays)
        record_cube(config, plan)
    return config


def pixels(rng: np.random.Generator, key: str, name: str, shape: tuple[int, int]) -> NDArray[Any]:
    """Return one band: a smooth field with the noise of its sensor."""
    band = SENSORS[key].band(name)
    if key == "lulc":
        return np.kron(rng.choice(CODES[[1, 2, 4, 5, 6, 9]], (8, 8)), np.ones((96, 96), np.uint8))
    dates = () if SENSORS[key].is_static else (len(TIMES),)
    if band.is_mask:
        return np.full((*dates, *shape), 4 if name == "SCL" else 64, band.np_dtype)
    y, x = np.mgrid[: shape[0], : shape[1]]
    field = 0.5 + 0.25 * np.sin(x / rng.uniform(9, 60)) + 0.25 * np.cos(y / rng.uniform(9, 60))
    noise = rng.normal(size=(*dates, *shape))
    if band.dtype == "float32":
        return (field * (100 if key == "dem" else 0.1) * np.exp(0.5 * noise)).astype(np.float32)
    low = 8000 if key == "lc2l2" else 300
    return (low + 2000 * field + 25 * noise).astype(np.uint16)


Raster = tuple[str, dict[str, Any], NDArray[Any], Sequence[str], dict[str, str]]
Picture = tuple[str, NDArray[np.uint8]]


def decoded(chips: Path) -> list[tuple[str, list[Raster], list[Picture], bytes]]:
    """Read every chip back into memory, as the loop's input."""
    out = []
    for folder in sorted(chips.iterdir()):
        rasters: list[Raster] = []
        for path in sorted(folder.glob("*.tif")):
            with rasterio.open(path) as file:
                keep = ("driver", "dtype", "count", "height", "width", "crs", "transform", "nodata")
                profile = {key: file.profile[key] for key in keep}
                rasters.append((path.name, profile, file.read(), file.descriptions, file.tags()))
        pictures = [(path.name, np.asarray(Image.open(path))) for path in sorted(folder.glob("*.png"))]
        out.append((folder.name, rasters, pictures, (folder / "chip.json").read_bytes()))
    return out


def tight_loop(chips: list[Any], target: Path, threads: int) -> None:
    """Write the same files from memory: rasterio, Pillow, nothing else."""
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda part: write_plainly(part, target), [chips[n::threads] for n in range(threads)]))


def write_plainly(chips: list[Any], target: Path) -> None:
    """Write chips one after the other."""
    with rasterio.Env():
        for name, rasters, pictures, record in chips:
            folder = target / name
            folder.mkdir(parents=True)
            for file_name, profile, values, descriptions, tags in rasters:
                predictor = 3 if values.dtype.kind == "f" else 2
                options = {
                    "compress": "deflate", "zlevel": 1, "predictor": predictor, "interleave": "band",
                    "blockysize": values.shape[1], "photometric": "minisblack",
                }  # fmt: skip
                with MemoryFile() as memory:
                    with memory.open(**profile, **options) as file:
                        file.write(values)
                        file.descriptions = descriptions
                        file.update_tags(**tags)
                    (folder / file_name).write_bytes(memory.getbuffer())
            for file_name, picture in pictures:
                buffer = io.BytesIO()
                Image.fromarray(picture).save(buffer, "PNG")
                (folder / file_name).write_bytes(buffer.getvalue())
            (folder / "chip.json").write_bytes(record)
            json.loads(record)


def bench_scores(found: Table) -> None:
    """Score the land cover of 100,000 windows in memory, side by side and overlapping."""
    rng = np.random.default_rng(0)
    side = 317 * 96
    lulc = np.tile(rng.choice(CODES, (96 * 20, side)), (16, 1))[: 316 * 96]
    for stride in (960, 320):
        lattice = WindowLattice(WindowGeometry(960, 960, stride), Bounds(0, 0, side * 10, 316 * 960), 32632)
        _, seconds, cpu = timed(lambda lattice=lattice: score(lulc, lattice))
        speed = f"{cpu / len(lattice) * 100_000:.2f} s of processor per 100,000"
        add(found, f"land cover, stride {stride} m", f"{len(lattice)} windows", seconds, cpu, speed)


def score(lulc: NDArray[np.uint8], lattice: WindowLattice) -> dict[str, NDArray[np.int32]]:
    """Count classes as the scores do."""
    return count_classes([(Block("lulc", 0, 0, 0, *lulc.shape), lulc)], lattice, 10, max(lulc.shape))


def bench_sweep(found: Table) -> None:
    """Sweep 100 settings over 100,000 windows of five sensors."""
    scores = ScoreSet(list(tables(100, 32)), SENSORS)
    grid = {
        "chips.min_purity": [0.8, 0.85, 0.9, 0.95, 1.0],
        "chips.min_valid": [0.9, 0.95, 0.98, 0.99, 1.0],
        "chips.min_clear.lc2l2": [0.8, 0.9, 0.95, 1.0],
    }
    result, seconds, cpu = timed(lambda: sweep_scores(scores, ChipsConfig(), grid))
    settings = f"{len(result.settings)} settings"
    add(found, "sweep over five sensors", f"{len(scores)} windows", seconds, cpu, settings)


def tables(count: int, side: int) -> Iterator[ScoreTable]:
    """Yield random score tables of five sensors."""
    rng = np.random.default_rng(0)
    for index in range(count):
        left = 200_000 + 960 * (side - 1) * (index % 20)
        bottom = 3_000_000 // 960 * 960 + 960 * side * (index // 20)
        bounds = Bounds(left // 960 * 960, bottom, left // 960 * 960 + side * 960, bottom + side * 960)
        lattice = WindowLattice(WindowGeometry(960, 960, 960), bounds, 32632)
        size = len(lattice)
        left_m, top_m = lattice.corners()
        main, rest = rng.choice(CODES, size), rng.choice(CODES[1:3], size)
        share = rng.choice([9216, 9216, 9000, 8000, 7000], size)
        counts = {int(c): (main == c) * share + (rest == c) * (9216 - share) for c in CODES}
        columns: dict[str, Any] = {"left_m": left_m, "top_m": top_m, **land_cover_columns(counts, size)}
        sensors, masks = {}, []
        for key, sensor in SENSORS.items():
            dates = 1 if sensor.is_static else 4
            pixels_ = (960 // sensor.resolution) ** 2
            sensors[key] = SensorInfo(sensor, ("x",), sensor.resolution, tuple(TIMES[:dates]), ("a",) * dates)
            masks.append(MaskSettings(key, ("x",), CloudRule("m") if key in ("s2l2a", "lc2l2") else None))
            columns[f"{key}_not_fetched"] = np.zeros(size, np.bool_)
            for date in range(dates):
                for which in ("valid", "clear"):
                    columns[f"{key}_{date}_{which}_px"] = (
                        pixels_ * rng.choice([1, 1, 1, 0.97], size)
                    ).astype(int)
        yield ScoreTable(
            CubeInfo(index, 32632, bounds, "0" * 64, "0" * 64, sensors),
            lattice.geometry,
            tuple(masks),
            4,
            columns,
        )


def timed(function: Callable[[], Any]) -> tuple[Any, float, float]:
    """Return what a function returns, and the seconds of clock and processor it took."""
    start, cpu = time.perf_counter(), time.process_time()
    value = function()
    return value, time.perf_counter() - start, time.process_time() - cpu


if __name__ == "__main__":
    main()
