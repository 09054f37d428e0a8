"""What reading costs, beside what is demanded: ``python tests/benchmarks/bench_reads.py``.

Everything goes over real sockets to the stand-in, which runs as a process of its own and answers
after 50 ms. Files are as large as a block and compress as satellite images do; the cube is one of
the sample archive."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.warp
from figures import Table, add_json_flag, show
from odc.geo.geobox import GeoBox
from planetary_computer.settings import Settings

from cube.build.run import build_cubes
from cube.config.reading import load_config
from cube.config.sensors import SENSORS
from cube.pixels.access import Access
from cube.pixels.read import read_scene
from cube.run.layout import Layout
from cube.run.thread_engine import ThreadEngine
from cube.scenes.items import parse_item
from cube.scenes.plan import CubePlan
from cube.testing import make_archive, sentinel2_item, utm_geobox, write_cog

LATENCY_S = 0.05
PROCESSES = 2
WINDOW_PX = 1024
COLD_WINDOWS = 240
CONNECTIONS = 16
GRID = utm_geobox(32633, (300_000, 5_460_000, 341_040, 5_501_040), 10)
ROOT = Path(__file__).parents[2]


class Service:
    """The stand-in in its own process."""

    def __init__(self, addresses: dict[str, Any]) -> None:
        self.url, self.environment = addresses["url"], addresses["environment"]
        self._origin = f"http://{addresses['proxy']}/stand-in"
        self._direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def ask(self, name: str, method: str = "GET") -> Any:
        """Return what the stand-in has on record."""
        request = urllib.request.Request(f"{self._origin}/{name}", method=method)
        with self._direct.open(request) as answer:
            return json.load(answer)


@contextmanager
def serve(archive: Path, latency_s: float) -> Iterator[Service]:
    """Run the stand-in over an archive, and point this process and its children to it."""
    options = ["--latency", str(latency_s), "--lifetime", "900"]
    command = [sys.executable, "-m", "cube.testing.service", str(archive), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        service = Service(json.loads(process.stdout.readline()))
        os.environ.update(service.environment)
        Settings.get.cache_clear()
        try:
            yield service
        finally:
            process.terminate()


def make_window_archive(folder: Path, count: int) -> Path:
    """Make items of one band each, all of which are one file by many names."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[: GRID.height, : GRID.width].astype("float32")
    smooth = 2000 + 800 * np.sin(x / 90) * np.cos(y / 70)
    pixels = (np.round((smooth + rng.normal(0, 60, GRID.shape)) / 8) * 8).astype("uint16")
    first: Path | None = None
    items = []
    for number in range(count):
        when = datetime(2023, 1, 1, 10, tzinfo=UTC) + timedelta(hours=number)
        item = sentinel2_item(GRID, when, assets=("B04",), root="./blobs")
        path = folder / item["assets"]["B04"]["href"]
        path.parent.mkdir(parents=True)
        if first is None:
            first = path
            write_cog(path, pixels, GRID, nodata=0)
        else:
            os.link(first, path)
        items.append(item)
    (folder / "items.json").write_text(json.dumps({"type": "FeatureCollection", "features": items}))
    return folder


def read_window(item: dict[str, Any], corner: int) -> None:
    """Read 1024 px square of an item's one band, not aligned with its tiles."""
    sensor = SENSORS["s2l2a"]
    scene = parse_item(item, sensor, ["B04"])
    grid = GRID[corner : corner + WINDOW_PX, corner : corner + WINDOW_PX]
    access = Access(sign=True, connections=CONNECTIONS)
    read_scene(scene, sensor, sensor.band("B04"), grid, access, resampling="nearest")


def items_at(url: str) -> list[dict[str, Any]]:
    """Return all items of a stand-in, with their addresses there."""
    from pystac_client.item_search import ItemSearch

    search = ItemSearch(f"{url}/search", method="POST", collections=["sentinel-2-l2a"], limit=500)
    return list(search.items_as_dicts())


def work(items: list[dict[str, Any]], start: Any, done: Any, spent: Any) -> None:
    """Read a window of each item, in as many threads as a process has connections."""
    read_window(items[0], 300)  # imports, and a token
    start.wait()
    begun = time.process_time()
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        list(pool.map(lambda item: read_window(item, 300), items[1:]))
    spent.put(time.process_time() - begun)
    done.wait()


def measure_windows(folder: Path, found: Table) -> None:
    """Add requests of a cold window, and windows a second."""
    with serve(make_window_archive(folder, COLD_WINDOWS + PROCESSES + 1), LATENCY_S) as service:
        items = items_at(service.url)
        service.ask("reset", "POST")
        read_window(items.pop(), 300)
        requests = [r for r in service.ask("requests") if r["role"] == "blob"]
        others = [r["path"] for r in requests if not r["path"].endswith("B04_10m.tif")]
        found.add("requests for a cold window", len(requests), "at most 5")
        found.add("... of which for other files than the asset", len(others), "0")
        context = multiprocessing.get_context("spawn")
        start, done, spent = context.Barrier(PROCESSES + 1), context.Barrier(PROCESSES + 1), context.Queue()
        workers = [
            context.Process(target=work, args=(items[n::PROCESSES], start, done, spent))
            for n in range(PROCESSES)
        ]
        for worker in workers:
            worker.start()
        start.wait()
        began = time.perf_counter()
        done.wait()
        rate = COLD_WINDOWS / (time.perf_counter() - began)
        cpu_ms = sum(spent.get() for _ in workers) / COLD_WINDOWS * 1e3
        for worker in workers:
            worker.join()
        found.add(f"cold windows a second, {PROCESSES} processes of {CONNECTIONS}", f"{rate:.0f}", "50")
        found.add("... of CPU a window, without the stand-in's", f"{cpu_ms:.0f} ms", "-")
        found.add(
            "blob requests at once", service.ask("summary")["peak"]["blob"], f"{PROCESSES * CONNECTIONS}"
        )


def measure_cube(archive: Path, working: Path, found: Table) -> None:
    """Add searches and bytes for each AOI of the sample archive, each built by a process's threads."""
    make_archive(archive)
    with serve(archive, LATENCY_S) as service:
        settings = {
            "catalog.url": service.url,
            "catalog.sign": "planetary-computer",
            "aoi.path": str(archive / "map_sample.geojson"),
            "directory.working": str(working),
            "aoi.include_indices": "[0]",
        }
        config = load_config(
            ROOT / "configs/demo.yaml", [f"{key}={value}" for key, value in settings.items()]
        )
        began = time.perf_counter()
        build_cubes(config, ThreadEngine(4))
        elapsed = time.perf_counter() - began
        requests = service.ask("requests")
        plan = json.loads(next(Layout.of(config).plans.path.glob("aoi_000000_*.json")).read_text())["plan"]
        sent = sum(r["sent"] for r in requests if r["role"] == "blob")
        asked = {r["path"] for r in requests if r["role"] == "blob"}
        tiles, headers = demanded_bytes(CubePlan.from_json(plan, SENSORS), archive / "blobs", asked)
        found.add("searches for an AOI", sum(r["role"] == "search" for r in requests), "at most 12")
        found.add("tokens", sum(r["role"] == "token" for r in requests), "one per container: 5")
        found.add("MB fetched for an AOI", f"{sent / 1e6:.1f}", f"{(1.1 * tiles + headers) / 1e6:.1f}")
        found.add("... as a multiple of its tiles, headers apart", f"{(sent - headers) / tiles:.3f}", "1.1")
        found.add("seconds for the AOI", f"{elapsed:.1f}", "-")


def demanded_bytes(plan: CubePlan, blobs: Path, asked: set[str]) -> tuple[int, int]:
    """Return the bytes of all tiles that the plan's blocks touch, and those of the files' headers."""
    tiles, headers = 0, {}
    for sensor in plan.sensors:
        for block in plan.blocks(sensor.key):
            grid = plan.geobox(sensor.key)[block.roi]
            for scene in sensor.dates[block.time].scenes:
                for band in sensor.bands:
                    href = scene.assets[band].href
                    path = "/" + href.split("://")[1].replace(".blob.core.windows.net", "")
                    if path in asked:
                        with rasterio.open(f"{blobs}{path}") as source:
                            tiles += touched_bytes(source, grid)
                            headers[path] = first_tile(source)
    return tiles, sum(headers.values())


def touched_bytes(source: rasterio.DatasetReader, grid: GeoBox) -> int:
    """Add up the tiles of a file that a grid touches."""
    bounds = rasterio.warp.transform_bounds(str(grid.crs), source.crs, *grid.boundingbox.bbox)
    columns, rows = ~source.transform * (np.array(bounds[0::2]), np.array(bounds[3::-2]))
    margin = 0 if str(grid.crs) == str(source.crs) and source.res[0] != 30 else 2  # what a kernel needs
    height, width = source.block_shapes[0]

    def span(low: float, high: float, size: int, tile: int) -> range:
        first, last = max(round(low) - margin, 0), min(round(high) + margin, size) - 1
        return range(first // tile, last // tile + 1) if first <= last else range(0)

    return sum(
        int(source.get_tag_item(f"BLOCK_SIZE_{i}_{j}", "TIFF", bidx=1) or 0)
        for i in span(*sorted(columns), source.width, width)
        for j in span(*sorted(rows), source.height, height)
    )


def first_tile(source: rasterio.DatasetReader) -> int:
    """Return where the first tile of a COG begins: that of its smallest overview."""
    level = f"_{len(source.overviews(1)) - 1}" if source.overviews(1) else ""
    with rasterio.open(source.name, overview_level=len(source.overviews(1)) - 1) if level else source as view:
        return int(view.get_tag_item("BLOCK_OFFSET_0_0", "TIFF", bidx=1) or 0)


def main() -> None:
    """Measure everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--archive", type=Path, help="sample archive (default: made anew)")
    add_json_flag(parser)
    arguments = parser.parse_args()
    found = Table(
        "Reads",
        ["what", "found", "demanded"],
        f"Over sockets, from a stand-in that answers after {LATENCY_S * 1e3:.0f} ms; a window is "
        f"{WINDOW_PX} px square and not aligned with the file's tiles.",
    )
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "windows").mkdir()
        measure_windows(Path(folder) / "windows", found)
        measure_cube(arguments.archive or Path(folder) / "archive", Path(folder) / "working", found)
    show(found, as_json=arguments.json)


if __name__ == "__main__":
    main()
