"""Phase one beside plain loads of the same scenes: wall time, peak memory, bytes and requests.

Everything is read over real sockets from the stand-in, a process of its own, at 0 and at 60 ms
latency. The references are ``odc.stac.load`` of the same items, bands and GeoBox into memory and a
Zarr with the same chunks and codec, and stackstac the same way (where it is installed)::

    python tests/benchmarks/bench_build.py [--only reference workers growth size write candidates]
    [--json]
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import itertools
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT))

from square import make_square, make_squares  # noqa: E402

SIDE_M = 23_040
LATENCIES_S = (0.0, 0.06)
THREADS = 4
"""Of a worker, and of odc.stac.load's pool for each core."""
RUNS = 5
OURS, FLOOR = "phase one, default settings", "the floor"
OWN_PIXELS = "the floor, Sentinel-2 at its bands' own pixels"
CUBES = 4
"""That are written side by side."""


@dataclass(frozen=True)
class Cost:
    """What a command took."""

    seconds: float
    cpu_s: float
    """Of the processor, by all its processes."""
    peak_mib: int
    """Resident memory of all its processes together, at its highest."""
    largest_mib: int
    """That of the largest process."""
    megabytes: float
    """Sent by the stand-in for it."""
    requests: int


class Service:
    """The stand-in in a process of its own."""

    def __init__(self, archive: Path, latency_s: float) -> None:
        command = [sys.executable, "-m", "cube.testing.service", str(archive), "--latency", str(latency_s)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        assert self._process.stdout is not None
        addresses = json.loads(self._process.stdout.readline())
        self.url, self.environment = addresses["url"], addresses["environment"]
        self._origin = f"http://{addresses['proxy']}/stand-in"
        self._direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def ask(self, name: str, method: str = "GET") -> Any:
        """Return what it has on record."""
        with self._direct.open(urllib.request.Request(f"{self._origin}/{name}", method=method)) as answer:
            return json.load(answer)

    def stop(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait()


@contextmanager
def serve(archive: Path, latency_s: float) -> Iterator[Service]:
    """Run the stand-in over an archive."""
    service = Service(archive, latency_s)
    try:
        yield service
    finally:
        service.stop()


def measure(command: list[str], service: Service | None = None, **more: str) -> Cost:
    """Run a command from start to end, and watch it."""
    if service is not None:
        service.ask("reset", "POST")
    environment = os.environ | (service.environment if service else {}) | more
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    with subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        peaks: list[tuple[int, int]] = [(0, 0)]
        stop = threading.Event()
        watcher = threading.Thread(target=_watch, args=(psutil.Process(process.pid), peaks, stop))
        watcher.start()
        _, errors = process.communicate()
        seconds = time.perf_counter() - began
        stop.set()
        watcher.join()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}: {errors[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    summary = service.ask("summary") if service else {"bytes_sent": {}, "counts": {}}
    sent, asked = sum(summary["bytes_sent"].values()), sum(summary["counts"].values())
    together, largest = (max(peak[i] for peak in peaks) >> 20 for i in range(2))
    return Cost(seconds, cpu_s, together, largest, sent / 1e6, asked)


def _watch(process: psutil.Process, peaks: list[tuple[int, int]], stop: threading.Event) -> None:
    while not stop.wait(0.05):
        try:
            sizes = [one.memory_info().rss for one in (process, *process.children(recursive=True))]
            peaks.append((sum(sizes), max(sizes)))
        except psutil.Error:
            continue


def build_command(archive: Path, catalog: str, working: Path, workers: int | None, *more: str) -> list[str]:
    """Return phase one's command on a square; without `workers`, compute is as the program has it."""
    settings = {
        "catalog.url": catalog,
        "catalog.sign": "planetary-computer" if catalog.startswith("http") else "none",
        "aoi.path": archive / "aois.geojson",
        "directory.working": working,
        "directory.output": working / "out",
    }
    if workers is not None:
        settings |= {"compute.workers": workers, "compute.threads": THREADS}
    pairs = [f"{key}={value}" for key, value in settings.items()] + list(more)
    sets = [part for pair in pairs for part in ("--set", pair)]
    return [sys.executable, "scripts/build_cubes.py", "-c", "configs/demo.yaml", *sets]


def fresh(folder: Path) -> Path:
    """Return a folder that is not there yet."""
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def median(costs: list[Cost]) -> Cost:
    """Return the costs of the run that took the middle time."""
    return sorted(costs, key=lambda cost: cost.seconds)[len(costs) // 2]


def plan_of(archive: Path, folder: Path) -> Path:
    """Plan the square once, from the files, and return the plan's file; references load what it names."""
    from cube.build.plans import plan_cubes
    from cube.config.reading import load_config
    from cube.scenes.plan import CubePlan

    command = build_command(archive, str(archive / "items.json"), folder / "plan", 0)
    overrides = [part for part in command if "=" in part]
    [(_, plan)] = plan_cubes(load_config(ROOT / "configs/demo.yaml", overrides))
    assert isinstance(plan, CubePlan)
    (folder / "plan.json").write_text(json.dumps(plan.to_json()))
    return folder / "plan.json"


def compare_references(folder: Path) -> list[dict[str, Any]]:
    """Phase one, odc.stac.load and stackstac on a 23 km square, in turn."""
    archive = folder / "square"
    make_square(archive, SIDE_M)
    plan = plan_of(archive, folder)
    me = str(Path(__file__).resolve())
    contenders: dict[str, Callable[[Service], list[str]]] = {
        OURS: lambda s: build_command(archive, s.url, fresh(folder / "ours"), None),
        "phase one, 1 worker": lambda s: build_command(archive, s.url, fresh(folder / "theirs"), 1),
        FLOOR: lambda s: [
            sys.executable, str(HERE / "floor.py"), str(plan), s.url, str(fresh(folder / "floor"))
        ],
        OWN_PIXELS: lambda s: [
            sys.executable, str(HERE / "floor.py"), str(plan), s.url, str(fresh(folder / "own")), "--own-pixels"
        ],
        "odc.stac.load, then Zarr": lambda s: [
            sys.executable, me, "--load", "odc", str(plan), s.url, str(fresh(folder / "theirs"))
        ],
    }  # fmt: skip
    if importlib.util.find_spec("stackstac"):
        contenders["stackstac, then Zarr"] = lambda s: [
            sys.executable, me, "--load", "stackstac", str(plan), s.url, str(fresh(folder / "theirs"))
        ]  # fmt: skip
    rows, figures = [], {}
    for latency_s in LATENCIES_S:
        with serve(archive, latency_s) as service:
            costs: dict[str, list[Cost]] = {name: [] for name in contenders}
            for _ in range(RUNS):
                for name, command in contenders.items():
                    costs[name].append(measure(command(service), service))
            made = _chunks(next((folder / "ours" / "cubes").iterdir())), _chunks(folder / "floor")
            same = sum(made[0].get(path) == data for path, data in made[1].items())
        plain = costs["odc.stac.load, then Zarr"]
        for name, found in costs.items():
            pairs = list(zip(found, plain, strict=True))
            wall = statistics.median(one.seconds / other.seconds for one, other in pairs)
            cpu = statistics.median(one.cpu_s / other.cpu_s for one, other in pairs)
            cells = [*_cells(median(found)), f"{wall:.2f}", f"{cpu:.2f}"]
            latency = f"{latency_s * 1000:.0f} ms"
            rows.append([latency, name, *cells])
            if name in (OURS, FLOOR):
                figures[f"{name}, {latency}: wall / odc.stac.load"] = wall
                figures[f"{name}, {latency}: processor / odc.stac.load"] = cpu
    beside = ["wall / odc.stac.load", "processor / odc.stac.load"]
    columns = ["latency", "who", *_COLUMNS, *beside]
    title = f"A square of {SIDE_M / 1000:g} km, five sensors, four dates, from an empty folder to the end of the process"
    note = (
        f"Median of {RUNS} runs in turn. The floor only fetches, decodes, warps, compresses, hashes and syncs; "
        f"{same} of its {len(made[1])} chunk files are, byte for byte, phase one's {len(made[0])}. Not beside them: "
        "lazycogs (0.7) resamples by nearest alone, and async-geotiff (0.5) not at all. A cube of bands at their own "
        "pixels would spare a fifth of the processor's time and 2 % of the bytes; its form stays, one grid a sensor: "
        "tools are written for it, and in another zone than the tile's, pixels would come out elsewhere."
    )
    return [{"title": title, "columns": columns, "rows": rows, "note": note, "figures": figures}]


def _chunks(cube: Path) -> dict[str, str]:
    """Return a digest of each chunk of a cube's bands."""
    return {
        str(path.relative_to(cube)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in cube.glob("*/*/c/**/*")
        if path.is_file() and path.relative_to(cube).parts[1] not in {"x", "y", "time", "spatial_ref"}
    }


def compare_workers(folder: Path) -> list[dict[str, Any]]:
    """One worker and two, at 60 ms latency, on eight small AOIs."""
    archive = folder / "workers"
    make_squares(archive, 4800, 8)
    rows = []
    with serve(archive, LATENCIES_S[-1]) as service:
        for threads, connections in ((1, 1), (1, 4), (4, 16)):
            found: dict[int, list[Cost]] = {1: [], 2: []}
            more = (f"compute.threads={threads}", f"compute.max_connections={connections}")
            for _ in range(1 if connections == 1 else RUNS):  # minutes
                for workers, costs in found.items():
                    command = build_command(archive, service.url, fresh(folder / "w"), workers, *more)
                    costs.append(measure(command, service))
            ratio = statistics.median(
                one.seconds / two.seconds for one, two in zip(found[1], found[2], strict=True)
            )
            rows += [
                [
                    threads,
                    connections,
                    workers,
                    *_cells(median(costs)),
                    f"{ratio:.2f}" if workers == 2 else "",
                ]
                for workers, costs in found.items()
            ]
    columns = [
        "threads each",
        "connections each",
        "workers",
        *_COLUMNS,
        "speed-up",
    ]
    title = "One worker and two at 60 ms latency: eight AOIs of 4.8 km, each of its own items, started processes included"
    return [
        {
            "title": title,
            "columns": columns,
            "rows": rows,
            "note": f"Median of {RUNS} runs in turn, but for one connection.",
        }
    ]


def growth(folder: Path) -> list[dict[str, Any]]:
    """From 1 to 16 AOIs of 4.8 km."""
    archive = folder / "growth"
    make_square(archive, 24_000, [(x * 4800, y * 4800, 4800) for y in range(4) for x in range(4)])
    rows = []
    with serve(archive, LATENCIES_S[-1]) as service:
        for count in (1, 2, 4, 8, 16):
            command = build_command(archive, service.url, fresh(folder / "g"), 2)
            cost = measure([*command, "--aoi", *map(str, range(count))], service)
            rows.append([count, *_cells(cost), f"{cost.seconds / count:.2f}"])
    columns = ["AOIs", *_COLUMNS, "seconds an AOI"]
    note = "Started processes included."
    return [
        {
            "title": "From 1 to 16 AOIs of 4.8 km, 2 workers, 60 ms",
            "columns": columns,
            "rows": rows,
            "note": note,
        }
    ]


def sizes(folder: Path) -> list[dict[str, Any]]:
    """From 5 to 110 km, from files, so that the stand-in takes no processor time."""
    rows = []
    for side_m in (4_800, 11_520, 23_040, 46_080, 109_440):
        archive = fresh(folder / "size")
        make_square(archive, side_m)
        working = fresh(folder / "s")
        cost = measure(build_command(archive, str(archive / "items.json"), working, 2))
        raw = (side_m / 10) ** 2 * (4 * (12 * 2 + 1 + 8) + 1) + (side_m / 30) ** 2 * (4 * 16 + 4)
        stored = sum(path.stat().st_size for path in working.rglob("*") if path.is_file())
        rows.append(
            [
                f"{side_m / 1000:g} km",
                f"{cost.seconds:.1f}",
                cost.largest_mib,
                f"{raw / 1e9:.2f}",
                f"{stored / 1e9:.2f}",
                f"{raw / 1e6 / cost.seconds:.0f}",
            ]
        )
    columns = ["side", "seconds", "MiB, largest worker", "GB raw", "GB stored", "MB raw a second"]
    note = f"Two workers of {THREADS} threads; peak resident memory."
    return [{"title": "From 5 to 110 km, read from files", "columns": columns, "rows": rows, "note": note}]


def candidates(folder: Path) -> list[dict[str, Any]]:
    """The sample archive with ``aoi.fetch: all`` and ``candidates``: bytes, and whether the chips are the same."""
    from cube.testing import make_archive

    archive = folder / "sample"
    if not archive.exists():
        make_archive(archive)
        (archive / "aois.geojson").symlink_to("map_sample.geojson")
    rows = []
    for classes in ("[1, 2, 5, 7, 8, 11]", "[7, 8]", "[8]"):
        made: dict[str, dict[str, bytes]] = {}
        costs: dict[str, Cost] = {}
        for fetch in ("all", "candidates"):
            more = (
                f"aoi.fetch={fetch}",
                f"chips.classes={classes}",
                "chips.sample_size=960",
                "chips.chip_size=960",
            )
            working = fresh(folder / fetch)
            with serve(archive, 0) as service:
                command = build_command(archive, service.url, working, 0, *more)
                costs[fetch] = measure(command, service)
                measure(["scripts/chip.py" if part == "scripts/build_cubes.py" else part for part in command])
            chips = working / "demo" / "chips"
            made[fetch] = {str(p.relative_to(chips)): p.read_bytes() for p in chips.rglob("*.tif")}
        rows.append(
            [
                classes,
                f"{costs['all'].megabytes:.1f}",
                f"{costs['candidates'].megabytes:.1f}",
                f"{costs['candidates'].megabytes / costs['all'].megabytes:.2f}",
                len({name.split("/")[0] for name in made["all"]}),
                "yes" if made["all"] == made["candidates"] else "NO",
            ]
        )
    columns = ["chips.classes", "MB, all", "MB, candidates", "ratio", "chips", "the same"]
    note = "Chips of 960 m; GeoTIFFs compared byte by byte."
    return [{"title": "aoi.fetch on the sample archive", "columns": columns, "rows": rows, "note": note}]


def writing(folder: Path) -> list[dict[str, Any]]:
    """Blocks written by two processes, fsync and markers included, reading left out."""
    archive = folder / "square"
    if not archive.exists():
        make_square(archive, SIDE_M)
    plan = plan_of(archive, folder)
    rows = []
    for form, (processes, threads) in itertools.product(
        ("none", "block"), ((1, 1), (1, THREADS), (2, THREADS))
    ):
        target = fresh(folder / "written")
        with ProcessPoolExecutor(processes, initializer=_get_ready, initargs=(plan,)) as pool:
            list(pool.map(time.sleep, [0.5] * processes * 4))  # until all are there
            _template(plan, target, form)
            began = time.perf_counter()
            shares = [(target, form, n, processes, threads) for n in range(processes)]
            raw, cpu_s = map(sum, zip(*pool.map(_write_share, shares), strict=True))
            seconds = time.perf_counter() - began
        sizes = [path.stat().st_size for path in (target / "cubes").rglob("*") if path.is_file()]
        stored = f"{sum(sizes) / 1e6:.0f}"
        speed, files = f"{raw / 1e6 / seconds:.0f}", len(sizes) // CUBES
        rows.append([form, processes, threads, f"{raw / 1e6:.0f}", stored, speed, f"{cpu_s:.1f}", files])
    columns = ["store.shards", "processes", "threads each", "MB raw", "MB stored", "MB raw a second"]
    columns += ["processor, seconds", "files a cube"]
    title = f"Writing the blocks of {CUBES} cubes of 23 km: Zarr, fsync of chunks and folders, markers"
    note = "The disk's own speed, and what else it does, count."
    return [{"title": title, "columns": columns, "rows": rows, "note": note}]


def _read_plan(path: Path) -> Any:
    from cube.config.sensors import SENSORS
    from cube.scenes.plan import CubePlan

    return CubePlan.from_json(json.loads(path.read_text()), SENSORS)


def _template(plan: Path, target: Path, form: str) -> None:
    from cube.run.storage import open_folder
    from cube.store.template import make_template
    from cube.store.write import write_template

    for index in range(CUBES):
        cube = replace(_read_plan(plan), aoi_index=index)
        template = make_template(cube, is_sharded=form == "block")
        write_template(open_folder(str(target / "cubes")), cube.cube, template)


_ready: tuple[Any, dict[tuple[Any, ...], Any]]
"""The plan, and pixels by dtype and shape, of a process that writes."""


def _get_ready(path: Path) -> None:
    """Make the pixels of the square before the clock runs."""
    global _ready  # noqa: PLW0603  a process's own
    import numpy as np
    from square import pixels

    plan, made = _read_plan(path), {}
    for sensor in plan.sensors:
        for block in plan.blocks(sensor.key):
            for dtype in {sensor.sensor.band(band).dtype for band in sensor.bands}:
                whole = np.tile(pixels(dtype), (3, 3))
                made[dtype, block.height, block.width] = whole[: block.height, : block.width].copy()
    _ready = plan, made


def _write_share(share: tuple[Path, str, int, int, int]) -> tuple[int, float]:
    """Write every n-th block with pixels of the square, and its marker; return raw bytes and seconds."""
    from cube.run.storage import open_folder
    from cube.scenes.plan import canonical_json
    from cube.store.write import write_block

    target, form, number, of, threads = share
    plan, pixels = _ready
    cubes, markers = open_folder(str(target / "cubes")), open_folder(str(target / "markers"))
    names = [replace(plan, aoi_index=cube).cube for cube in range(CUBES)]
    blocks = [block for s in plan.sensors for block in plan.blocks(s.key)]
    tasks = [(cube, block) for cube in range(CUBES) for block in blocks][number::of]

    def write(task: tuple[int, Any]) -> int:
        cube, block = task
        sensor, digests, raw = plan.sensor(block.sensor), {}, 0
        for band in sensor.bands:
            values = pixels[sensor.sensor.band(band).dtype, block.height, block.width]
            digests[band] = write_block(cubes, names[cube], block, band, values, is_sharded=form == "block")
            raw += values.nbytes
        record = {"fingerprint": plan.block_fingerprint(block), "digests": digests}
        (markers / str(cube)).write(f"{block.name}.json", canonical_json(record))
        return raw

    began = time.process_time()
    with ThreadPoolExecutor(threads) as pool:
        return sum(pool.map(write, tasks)), time.process_time() - began


def load_plainly(how: str, plan_path: Path, url: str, target: Path) -> None:
    """Load what a plan names with another library into memory, and write it; runs in a process of its own."""
    import planetary_computer
    from pystac_client import Client

    from cube.store.template import codec_of

    plan = _read_plan(plan_path)
    client = Client.open(url)
    for sensor_plan in plan.sensors:
        sensor, geobox = sensor_plan.sensor, plan.geobox(sensor_plan.key)
        ids = [scene.id for scene in sensor_plan.scenes]
        items = list(client.search(collections=[sensor.collection], ids=ids).items())
        bands = {sensor.band(name).asset_key: sensor.band(name) for name in sensor_plan.bands}
        load = _load_odc if how == "odc" else _load_stackstac
        dataset = load(items, bands, geobox, sensor_plan.resampling, planetary_computer.sign)
        side = 768 if sensor_plan.resolution == 10 else 256
        encoding = {
            str(name): {"chunks": (1, side, side), "compressors": (codec_of(bands[str(name)]),)}
            for name in dataset.data_vars
        }
        for variable in dataset.variables.values():
            variable.attrs.clear()
        dataset.to_zarr(
            target, group=sensor_plan.key, encoding=encoding, mode="a", zarr_format=3, consolidated=False
        )


def _load_odc(items: list[Any], bands: dict[str, Any], geobox: Any, resampling: str, sign: Any) -> Any:
    import odc.stac

    odc.stac.configure_rio(cloud_defaults=True)
    types = {name: str(band.np_dtype) for name, band in bands.items()}
    config = {
        "*": {"assets": {n: {"data_type": t, "nodata": float(bands[n].nodata)} for n, t in types.items()}}
    }
    return odc.stac.load(
        items,
        bands=list(bands),
        geobox=geobox,
        dtype=types,
        resampling={"*": resampling} | {n: "nearest" for n, band in bands.items() if band.is_mask},
        stac_cfg=config,
        patch_url=sign,
        pool=THREADS * (os.cpu_count() or 1),
    )


def _load_stackstac(items: list[Any], bands: dict[str, Any], geobox: Any, resampling: str, sign: Any) -> Any:
    import dask
    import numpy as np
    import stackstac
    import xarray as xr
    from rasterio.enums import Resampling

    box = geobox.boundingbox.bbox
    arrays = {}
    for name, band in bands.items():
        arrays[name] = (
            stackstac.stack(
                [sign(item) for item in items],
                assets=[name],
                epsg=geobox.crs.epsg,
                bounds=tuple(box),
                resolution=int(geobox.resolution.x),
                dtype=band.np_dtype,
                fill_value=band.np_dtype.type(0 if band.np_dtype.kind in "iu" else np.nan),
                rescale=False,
                resampling=Resampling.nearest if band.is_mask else Resampling[resampling],
            )
            .isel(band=0, drop=True)
            .reset_coords(drop=True)
            .drop_vars("id", errors="ignore")
        )
    with dask.config.set(scheduler="threads", num_workers=THREADS * (os.cpu_count() or 1)):
        return xr.Dataset(arrays).compute()


_COLUMNS = ["seconds", "processor, seconds", "peak MiB", "MB fetched", "requests"]
"""Of :func:`_cells`."""


def _cells(cost: Cost) -> list[Any]:
    return [f"{cost.seconds:.1f}", f"{cost.cpu_s:.1f}", cost.peak_mib, f"{cost.megabytes:.0f}", cost.requests]


PARTS = {
    "reference": compare_references,
    "workers": compare_workers,
    "growth": growth,
    "size": sizes,
    "write": writing,
    "candidates": candidates,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--json", action="store_true", help="print tables as JSON")
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder)")
    parser.add_argument("--load", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.load:
        how, plan, url, target = arguments.load
        load_plainly(how, Path(plan), url, Path(target))
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        for name in arguments.only:
            for table in PARTS[name](Path(folder)):
                show(table, as_json=arguments.json)


def show(table: dict[str, Any], *, as_json: bool) -> None:
    """Print a table, for people or for the benchmark page."""
    if as_json:
        print(json.dumps(table), flush=True)
        return
    lines = [table["columns"], *table["rows"]]
    widths = [max(len(str(line[i])) for line in lines) for i in range(len(table["columns"]))]
    print(f"\n{table['title']}")
    for line in lines:
        print("  ".join(str(cell).rjust(width) for cell, width in zip(line, widths, strict=True)), flush=True)


if __name__ == "__main__":
    main()
