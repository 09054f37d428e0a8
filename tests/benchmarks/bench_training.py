"""What a sample costs a training loop: ``python tests/benchmarks/bench_training.py``.

Four sensors, four dates each, of the demo's release and its exports, beside the plainest code that
reads the same pixels. Processor time, as a loop's workers share the processor with what they feed;
and, where torch is installed, samples a second by the clock with two workers beside none.

    python tests/benchmarks/bench_training.py --release data/demo/processed/demo
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import io
import tarfile
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from figures import Table, add_json_flag, show
from numpy.typing import NDArray

from release import ExportRequest, SampleCache, export_release, open_release, torch_dataset
from release.loading.dataset import Release
from release.loading.samples import SampleReader, open_reader

ROOT = Path(__file__).parents[2]
SENSORS = ("s2l2a", "s1rtc", "lc2l2", "dem")
ROUNDS = 3
WORKERS = 2
BATCH = 16
CACHE_BYTES = 1 << 30
NOTHING_READ = "one sample in memory, again and again"
FOLLOWED = {"the release", "the export to webdataset", "the export to zarr"}
NOTE = (
    "The best epoch, workers started. The last row is what handing samples over costs: whoever reads faster than "
    "workers hand over needs none."
)
Read = Callable[[int], Any]


def by_rasterio(folder: Path, names: dict[int, list[str]], chip_id: int) -> list[NDArray[Any]]:
    """Open each of a chip's files, and read it."""
    images = []
    for name in names[chip_id]:
        with rasterio.open(folder / name) as raster:
            images.append(raster.read())
    return images


def write_tar(release: Release, path: Path) -> dict[int, tuple[int, int]]:
    """Write an npz per chip into a tar; return where each lies."""
    with tarfile.open(path, "w") as archive:
        for chip_id in release.ids_of(None):
            buffer = io.BytesIO()
            np.savez(buffer, **{key: release.read(chip_id, key) for key in SENSORS})
            entry = tarfile.TarInfo(f"{chip_id}.npz")
            entry.size = buffer.tell()
            buffer.seek(0)
            archive.addfile(entry, buffer)
    with tarfile.open(path) as archive:
        return {int(entry.name.split(".")[0]): (entry.offset_data, entry.size) for entry in archive}


def by_numpy(path: Path, places: dict[int, tuple[int, int]], chip_id: int) -> dict[str, NDArray[Any]]:
    """Read an npz of a tar."""
    start, size = places[chip_id]
    with path.open("rb") as file:
        file.seek(start)
        data = file.read(size)
    with np.load(io.BytesIO(data)) as pixels:
        return {key: pixels[key] for key in SENSORS}


def ways(release: Path, folder: Path) -> dict[str, Read]:
    """Return functions that read a chip, by what they read it from."""
    opened = open_release(release)
    ids = opened.ids_of(None)
    names = {one: [name for key in SENSORS for name in opened.paths(one, key)] for one in ids}
    places = write_tar(opened, folder / "plain.tar")
    request = ExportRequest(SENSORS)
    found: dict[str, Read] = {
        "GeoTIFFs, by rasterio": functools.partial(by_rasterio, release, names),
        "a tar of npz, by numpy": functools.partial(by_numpy, folder / "plain.tar", places),
        "the release": reader(release),
    }
    for to in ("webdataset", "zarr"):
        export_release(release, to, folder / to, request, workers=WORKERS)
        found[f"the export to {to}"] = reader(folder / to)
    found["the export to zarr, normalised"] = open_reader(folder / "zarr", SENSORS, None, normalise=True)
    found["the release, cached in memory"] = reader(release).caching(SampleCache(CACHE_BYTES), ids)
    found["the release, cached on disk"] = reader(release).caching(
        SampleCache(CACHE_BYTES, folder / "cache"), ids
    )
    return found


def reader(path: Path) -> SampleReader:
    """Return what reads samples as they are stored."""
    return open_reader(path, SENSORS, None, normalise=False)


def measure_processor(found: Table, read: dict[str, Read], ids: list[int]) -> None:
    """Read all chips by each way in turn, some times over; the least counts, as others may work here."""
    spent = {name: [epoch(one, ids) for _ in range(2)][1] for name, one in read.items()}  # caches are filled
    for _ in range(ROUNDS - 1):
        spent = {name: min(spent[name], epoch(one, ids)) for name, one in read.items()}
    plain = spent["GeoTIFFs, by rasterio"]
    for name, seconds in spent.items():
        found.add(name, f"{seconds / len(ids) * 1e3:.2f}", f"{seconds / plain:.3f}")
        if name in FOLLOWED:
            found.figures[f"a sample from {name}, of rasterio's processor time"] = seconds / plain


def epoch(read: Read, ids: list[int]) -> float:
    """Return the processor time that all chips take."""
    start = time.process_time()
    for chip_id in ids:
        read(chip_id)
    return time.process_time() - start


def measure_workers(found: Table, paths: dict[str, Path], ids: list[int]) -> None:
    """Add samples a second that torch's loader gives, by the clock, after its workers have started."""
    datasets: dict[str, Any] = {
        name: replace(torch_dataset(path, SENSORS), ids=ids) for name, path in paths.items()
    }
    datasets[NOTHING_READ] = [datasets["the release"][0]] * len(ids)
    for name, chips in datasets.items():
        none, some = (samples_a_second(chips, workers) for workers in (0, WORKERS))
        found.add(name, f"{none:.0f}", f"{some:.0f}", f"{some / none:.2f}")


def samples_a_second(chips: Any, workers: int) -> float:
    """Return the best of some epochs."""
    from torch.utils.data import DataLoader

    loader = DataLoader(chips, batch_size=BATCH, num_workers=workers, persistent_workers=workers > 0)
    best = 0.0
    for _ in range(ROUNDS + 1):  # the first one starts workers
        start = time.perf_counter()
        for _ in loader:
            pass
        best = max(best, len(chips) / (time.perf_counter() - start))
    return best


def main() -> None:
    """Measure everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--release", type=Path, default=ROOT / "data/demo/processed/demo")
    parser.add_argument("--chips", type=int, help="only the first so many")
    add_json_flag(parser)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        ids = open_release(arguments.release).ids_of(None)[: arguments.chips]
        note = f"{len(ids)} chips, {', '.join(SENSORS)}; the least of {ROUNDS} epochs, files in memory."
        columns = ["a sample from", "processor, ms", "of rasterio's"]
        processor = Table("What a sample costs a training loop", columns, note)
        measure_processor(processor, ways(arguments.release, Path(folder)), ids)
        show(processor, as_json=arguments.json)
        if importlib.util.find_spec("torch") is None:
            return
        columns = ["samples from", "a second, no worker", f"{WORKERS} workers", "ratio"]
        clock = Table("Samples a second through torch's loader", columns, NOTE)
        measure_workers(
            clock,
            {"the release": arguments.release, **{to: Path(folder) / to for to in ("webdataset", "zarr")}},
            ids,
        )
        show(clock, as_json=arguments.json)


if __name__ == "__main__":
    main()
