"""The least that phase one's work can cost: fetch, decode, warp, compress, hash, sync; nothing else.

Writes the chunk files of a plan's cube with rasterio and numcodecs alone: no retries, no checks of
what a file says, no markers, no metadata. Its chunks are, byte for byte, those of phase one, which
``bench_build.py`` sees to.

    python tests/benchmarks/floor.py PLAN.json URL TARGET [--own-pixels]

With ``--own-pixels`` each band of Sentinel-2 keeps the pixels that it was taken with, 20 or 60 m wide
for eight of twelve: what another format of the cube would spare.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import planetary_computer
import rasterio
import rasterio.warp
import rasterio.windows
from numcodecs import Blosc
from numpy.typing import NDArray
from pystac_client import Client
from rasterio.enums import Resampling

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from cube.config.sensors import SENSORS, Band, BandKind  # noqa: E402
from cube.scenes.plan import CubePlan, SensorPlan  # noqa: E402
from cube.windows.grid import Block, chunk_px  # noqa: E402

READERS = 16
WRITERS = 2
OFFSET_DN = 1000
GDAL = {
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_HTTP_MULTIRANGE": "YES",
    "GDAL_INGESTED_BYTES_AT_OPEN": "32768",
}
OWN_STEPS = {
    "s2l2a": dict.fromkeys(("B05", "B06", "B07", "B8A", "B11", "B12", "SCL"), 2)
    | dict.fromkeys(("B01", "B09"), 6)
}
"""Pixels of the cube along a pixel of the band."""
Pixels = NDArray[Any]


def read(
    plan: CubePlan, sensor: SensorPlan, block: Block, band: Band, items: dict[str, Any], step: int
) -> Pixels:
    """Return a band of a block; a pixel is `step` of the cube's wide."""
    box = plan.geobox(sensor.key)[block.roi].zoom_out(step)
    values = np.full(box.shape, band.nodata, band.np_dtype)
    method = "nearest" if band.is_mask else sensor.resampling
    for scene in sensor.dates[block.time].scenes:
        if not band.is_nodata(values).any():
            break
        own = np.full(box.shape, band.nodata, band.np_dtype)
        href = items[scene.id].assets[band.asset_key].href
        with rasterio.open(planetary_computer.sign(href), sharing=False) as file:
            put_onto(file, box, band, method, own)
        if band.kind is BandKind.REFLECTANCE and scene.carries_offset:
            known = own != 0
            np.maximum(own, OFFSET_DN + 1, out=own)
            np.subtract(own, OFFSET_DN, out=own)
            np.multiply(own, known, out=own)
        np.copyto(values, own, where=band.is_nodata(values))
    return values


def put_onto(file: rasterio.DatasetReader, box: Any, band: Band, method: str, values: Pixels) -> None:
    """Copy or warp a file onto a grid."""
    here, there = box.affine, file.transform
    times, start = there.a / here.a, ((here.c - there.c) / here.a, (here.f - there.f) / here.e)
    is_nested = file.crs == box.crs and times % 1 == 0 and start[0] % 1 == 0 and start[1] % 1 == 0
    if is_nested and (times == 1 or method == "nearest"):
        columns, rows = (
            (np.arange(n) + int(first)) // int(times) for n, first in zip(box.shape[::-1], start, strict=True)
        )
        window = rasterio.windows.Window.from_slices(
            (int(rows[0]), int(rows[-1]) + 1), (int(columns[0]), int(columns[-1]) + 1)
        )
        found = file.read(1, window=window)
        values[:] = (
            found.take(rows - rows[0], axis=0).take(columns - columns[0], axis=1) if times > 1 else found
        )
        return
    rasterio.warp.reproject(
        rasterio.band(file, 1), values, src_nodata=file.nodata if file.nodata is not None else band.nodata,
        dst_crs=str(box.crs), dst_transform=here, dst_nodata=band.nodata, resampling=Resampling[method],
    )  # fmt: skip


def write(sensor: SensorPlan, block: Block, band: Band, values: Pixels, target: Path, step: int) -> None:
    """Compress a band's chunks, hash its pixels, and see all of it on disk."""
    codec = Blosc(cname=band.compressor, clevel=1, shuffle=Blosc.BITSHUFFLE)
    side, folders = chunk_px(sensor.resolution) // step, set[Path]()
    date = [] if sensor.sensor.is_static else [str(block.time)]
    for row in range(0, values.shape[0], side):
        for column in range(0, values.shape[1], side):
            chunk = np.full((side, side), band.nodata, band.np_dtype)
            part = values[row : row + side, column : column + side]
            chunk[: part.shape[0], : part.shape[1]] = part
            if band.is_nodata(chunk).all():
                continue
            place = [*date, str((block.row // step + row) // side), str((block.col // step + column) // side)]
            path = target.joinpath(sensor.key, band.name, "c", *place)
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                file.write(codec.encode(chunk))
                file.flush()
                os.fsync(file.fileno())
            folders.add(path.parent)
    hashlib.sha256(values.data).hexdigest()
    for folder in folders:
        handle = os.open(folder, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)


def main() -> None:
    """Read all bands of all blocks at once, and write them as they come."""
    plan_path, url, target, *more = sys.argv[1:]
    steps = OWN_STEPS if more == ["--own-pixels"] else {}
    plan = CubePlan.from_json(json.loads(Path(plan_path).read_text()), SENSORS)
    todo = [
        (sensor, block, sensor.sensor.band(name))
        for sensor in plan.sensors
        for block in plan.blocks(sensor.key)
        for name in sensor.bands
    ]
    client, items = Client.open(url), dict[str, Any]()
    for sensor in plan.sensors:
        ids = [scene.id for scene in sensor.scenes]
        search = client.search(collections=[sensor.sensor.collection], ids=ids)
        items |= {item.id: item for item in search.items()}
    with ThreadPoolExecutor(READERS) as readers, ThreadPoolExecutor(WRITERS) as writers:

        def make(one: tuple[SensorPlan, Block, Band]) -> None:
            sensor, block, band = one
            step = steps.get(sensor.key, {}).get(band.name, 1)
            with rasterio.Env(**GDAL):
                values = read(plan, sensor, block, band, items, step)
            writers.submit(write, sensor, block, band, values, Path(target), step).result()

        list(readers.map(make, todo))


if __name__ == "__main__":
    main()
