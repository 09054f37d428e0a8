"""Memory and speed of phase one on a large square of repeated pixels: peak memory of each worker, bytes, seconds.

Run it: ``python tests/benchmarks/bench_memory.py [--side-km 30.72] [--workers 2] [--threads 4]``.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import psutil
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from shapely.geometry import box, mapping

sys.path.insert(0, str(Path(__file__).parents[2]))

from figures import Table, add_json_flag, show

from cube.build import build_cubes
from cube.config import load_config
from cube.engine import open_engine
from cube.layout import Layout
from cube.testing import (
    dem_item,
    landsat_item,
    lulc_item,
    sentinel1_item,
    sentinel2_item,
    utm_geobox,
    write_cog,
)

LEFT, BOTTOM = 960 * 320, 960 * 5720
SEASONS = [datetime(2023, month, 10, 10, tzinfo=UTC) for month in (2, 5, 8, 11)]


def make_archive(root: Path, side_m: int) -> None:
    """Write one file of noise per pixel size and kind, repeated by every item."""
    rng = np.random.default_rng(0)
    bounds = (LEFT, BOTTOM, LEFT + side_m, BOTTOM + side_m)

    def cog(name: str, grid: GeoBox, tile: np.ndarray, nodata: float | None) -> str:
        repeats = [-(-n // m) for n, m in zip(grid.shape, tile.shape, strict=True)]
        values = np.tile(tile, repeats)[: grid.shape[0], : grid.shape[1]]
        write_cog(root / name, values, grid, nodata=nodata, overviews=False)
        return f"./{name}"

    grids = {res: utm_geobox(32633, bounds, res) for res in (10, 20, 60)}
    s2 = {
        res: cog(f"s2_{res}.tif", grid, rng.integers(1, 9000, (256, 256)).astype("uint16"), 0)
        for res, grid in grids.items()
    }
    scl = cog("scl.tif", grids[20], np.full((256, 256), 4, "uint8"), 0)
    s1 = cog("s1.tif", grids[10], rng.random((256, 256), "float32") + 0.01, -32768)
    grid_30 = utm_geobox(32633, (LEFT - 45, BOTTOM - 45, LEFT + side_m + 45, BOTTOM + side_m + 45), 30)
    landsat = cog("lc.tif", grid_30, rng.integers(8000, 20000, (256, 256)).astype("uint16"), 0)
    qa = cog("qa.tif", grid_30, np.full((256, 256), 21824, "uint16"), 1)
    lulc = cog("lulc.tif", grids[10], np.full((256, 256), 2, "uint8"), 0)
    to_lonlat = Transformer.from_crs(32633, 4326, always_xy=True)
    west, south, east, north = to_lonlat.transform_bounds(*bounds)
    dem_grid = GeoBox.from_bbox(
        (west - 0.01, south - 0.01, east + 0.01, north + 0.01), "EPSG:4326", resolution=1 / 3600
    )
    dem = cog("dem.tif", dem_grid, rng.random((256, 256), "float32") * 100, None)
    coarse = {"B01": 60, "B09": 60, "B02": 10, "B03": 10, "B04": 10, "B08": 10, "SCL": 0}
    names = [f"B{n:02}" for n in (*range(1, 10), 11, 12)] + ["B8A", "SCL"]
    hrefs = {name: scl if name == "SCL" else s2[coarse.get(name, 20)] for name in names}
    reflectance = ("coastal", "blue", "green", "red", "nir08", "swir16", "swir22")
    items = [
        *(sentinel2_item(grids[10], when, hrefs=hrefs) for when in SEASONS),
        *(sentinel1_item(grids[10], when, hrefs={"vv": s1, "vh": s1}) for when in SEASONS),
        *(
            landsat_item(grid_30, when, hrefs={**dict.fromkeys(reflectance, landsat), "qa_pixel": qa})
            for when in SEASONS
        ),
        dem_item(dem_grid, hrefs={"data": dem}),
        lulc_item(grids[10], hrefs={"data": lulc}),
    ]
    (root / "items.json").write_text(json.dumps({"type": "FeatureCollection", "features": items}))
    margin = 1500
    inner = to_lonlat.transform_bounds(*(b + s * margin for b, s in zip(bounds, (1, 1, -1, -1), strict=True)))
    aoi = {"type": "Feature", "properties": {}, "geometry": mapping(box(*inner))}
    (root / "aois.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [aoi]}))


def watch(peaks: dict[int, int], stop: threading.Event) -> None:
    """Note the largest resident size of every child process."""
    me = psutil.Process()
    while not stop.wait(0.1):
        for child in me.children(recursive=True):
            try:
                peaks[child.pid] = max(peaks.get(child.pid, 0), child.memory_info().rss)
            except psutil.Error:
                continue


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side-km", type=float, default=30.72)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--threads", type=int, default=4)
    add_json_flag(parser)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_archive(root, round(arguments.side_km * 1000 / 960) * 960)
        config = load_config(
            Path(__file__).parents[2] / "configs" / "demo.yaml",
            [
                f"catalog.url={root / 'items.json'}",
                f"aoi.path={root / 'aois.geojson'}",
                f"directory.working={root / 'work'}",
                "aoi.extent=overlap",
                f"compute.workers={arguments.workers}",
                f"compute.threads={arguments.threads}",
            ],
        )
        peaks: dict[int, int] = {}
        stop = threading.Event()
        watcher = threading.Thread(target=watch, args=(peaks, stop))
        watcher.start()
        start = time.perf_counter()
        with open_engine(config.compute) as engine:
            summary = build_cubes(config, engine)
        seconds = time.perf_counter() - start
        stop.set()
        watcher.join()
        row = summary.rows[0]
        stored = sum(p.stat().st_size for p in Layout.of(config).cubes.path.rglob("*") if p.is_file())
        found = Table(
            "Memory of phase one",
            [
                "extent",
                "workers",
                "threads each",
                "seconds",
                "blocks",
                "MB stored",
                "peak of each process, MiB",
            ],
            "Five sensors, four seasons, files of noise on this disk: the processor's share, without a network's.",
        )
        extent = f"{(row.width_m or 0) / 1000:g} x {(row.height_m or 0) / 1000:g} km"
        highest = ", ".join(str(peak // 2**20) for peak in sorted(peaks.values(), reverse=True))
        assert row.status == "built", row.reason
        found.add(
            extent,
            arguments.workers,
            arguments.threads,
            f"{seconds:.1f}",
            summary.fetched_blocks,
            f"{stored / 1e6:.0f}",
            highest,
        )
        show(found, as_json=arguments.json)


if __name__ == "__main__":
    main()
