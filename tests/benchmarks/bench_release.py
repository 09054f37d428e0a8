"""How long a release of many chips takes to make, to export and to verify, and how much memory.

A few chips are made and repeated: each copy lies elsewhere on Earth and differs in a pixel, so that
all checks are done in earnest. For every chip there are windows that were scored and not taken, as
in a real dataset.

    python tests/benchmarks/bench_release.py --chips 500 2500 10000 --folder /somewhere/with/room
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import shutil
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "release")]

import release_landscape as landscape  # noqa: E402
from figures import Table, add_json_flag, show  # noqa: E402
from release_landscape import VERSION, Land, write_config  # noqa: E402

from cube.config.models import Config  # noqa: E402
from cube.config.reading import load_config  # noqa: E402
from release import export_release, make_release, verify  # noqa: E402
from release.opening.checksums import sha256  # noqa: E402

LAND = Land(dict.fromkeys((1, 2, 5, 7, 8, 11), 4), side=960, n_aois=1, rejected={}, epsgs=(32632,))
SETTINGS = {"release.splits": {"train": 0.8, "val": 0.1, "test": 0.1}}
WINDOWS = 10
"""Scored for every chip; the ratio of the sample archive."""
ACROSS = 400
"""Chips side by side, before the next row of them begins further south."""


def as_in_gelos() -> None:
    """Four dates of each sensor, and twelve and seven optical bands."""
    landscape.RANGES = (
        "2023-01-01/2023-03-31",
        "2023-04-01/2023-06-30",
        "2023-07-01/2023-09-30",
        "2023-10-01/2023-12-31",
    )
    dates = ("20230115", "20230510", "20230801", "20231102")
    landscape.DATES = dict.fromkeys(("s2l2a", "s1rtc", "lc2l2"), dates)
    optical = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
    landsat = ("coastal", "blue", "green", "red", "nir08", "swir16", "swir22")
    landscape.BANDS = {**landscape.BANDS, "s2l2a": optical, "lc2l2": landsat}
    landscape.COMPRESS = "none"  # a pixel can be changed in place


def repeat_chips(root: Path, chips: int, land: Land = LAND, windows: int = WINDOWS) -> Config:
    """Write a working folder of `chips` chips: some made, the others moved copies of them."""
    model_root = root / "model"
    landscape.working_folder(model_root, land, SETTINGS)
    source = model_root / "working" / VERSION
    rows = landscape.read_windows(source).to_dict("records")
    target = root / "working" / VERSION
    models = {row["cell"]: _read(source / "chips" / row["cell"]) for row in rows}

    def moved() -> Iterator[dict[str, Any]]:
        for number in range(chips * windows):
            model = rows[number // windows % len(rows)]
            row = _moved(model, number, land, is_chip=number % windows == 0)
            if row["status"] == "success":
                _write_moved(target / "chips" / row["cell"], models[model["cell"]], row, land)
            yield row

    landscape.write_windows(target, moved())
    shutil.rmtree(model_root)
    return write_config(root, land, SETTINGS)


def _moved(row: Mapping[Any, Any], number: int, land: Land, *, is_chip: bool) -> dict[str, Any]:
    """Return the row of a window elsewhere; of every few one is a chip, the others are too mixed."""
    left, top = 200_640 + (number % ACROSS) * 960, 8_000_000 - (number // ACROSS) * 960
    moved = {**row, "chip_index": number, "aoi_index": number // 576, "left_m": left, "top_m": top}
    if not is_chip:
        moved |= {"status": "impure", "purity": 0.4}
    footprint = landscape._footprint(32632, left, top, land)
    return moved | {"cell": f"32632_{left}_{top}", "chip_footprint": footprint}


def _read(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "chip.json"}


def _write_moved(folder: Path, files: Mapping[str, bytes], row: Mapping[str, Any], land: Land) -> None:
    """Write a chip's files with another tie point, which alone says where it lies, and another first pixel."""
    folder.mkdir(parents=True)
    new = struct.pack("<6d", 0, 0, 0, row["left_m"], row["top_m"], 0)
    digests = {}
    for name, data in files.items():
        written = bytearray(data)
        if name.endswith("tif"):
            place, _ = _tag(data, 33922)
            written[place : place + len(new)] = new
        if name.endswith("tif") and not name.startswith(("lulc", "dem")):
            kind = "<H" if name.startswith("s2l2a") else "<f"
            values = (1 + row["chip_index"] // 5000, 1 + row["chip_index"] % 5000)
            strips, many = _tag(data, 273)
            first = struct.unpack_from("<I", data, strips)[0] if many > 1 else strips
            for band, value in enumerate(values):
                struct.pack_into(kind, written, first + band * struct.calcsize(kind), value)
        (folder / name).write_bytes(written)
        digests[name] = sha256(written)
    left, top, side = row["left_m"], row["top_m"], land.side
    facts = {"cell": row["cell"], "bounds": [left, top - side, left + side, top], "files": digests}
    sensors = {key: {"dates": landscape.DATES.get(key, ())} for key in land.sensors}
    (folder / "chip.json").write_text(json.dumps({**facts, "sensors": sensors}))


def _tag(data: bytes, tag: int) -> tuple[int, int]:
    """Return where a TIFF keeps a tag's values, or the value if there is but one; and how many there are."""
    (place,) = struct.unpack_from("<I", data, 4)
    (tags,) = struct.unpack_from("<H", data, place)
    for number in range(tags):
        found, _, there, values = struct.unpack_from("<HHII", data, place + 2 + 12 * number)
        if found == tag:
            return int(values), int(there)
    raise LookupError(f"no tag {tag}")


def measure(found: Table, chips: int, name: str, function: Callable[[str], str], path: str) -> None:
    """Run in a process of its own; note how long it takes, and the most memory it and its workers take at once."""
    queue: multiprocessing.Queue[str] = _SPAWN.Queue()
    process = _SPAWN.Process(target=_run, args=(queue, function, path))
    start, peak = time.perf_counter(), 0
    process.start()
    watched = psutil.Process(process.pid)
    cpu: dict[int, float] = {}
    while process.is_alive():
        with contextlib.suppress(psutil.NoSuchProcess):
            family = [watched, *watched.children(recursive=True)]
            # PSS: a page that processes share counts once.
            peak = max(peak, sum(one.memory_full_info().pss for one in family))
            cpu |= {one.pid: sum(one.cpu_times()[:2]) for one in family}
        process.join(0.2)
    seconds = time.perf_counter() - start
    found.add(chips, name, f"{seconds:.1f}", f"{sum(cpu.values()):.1f}", f"{peak / 1e6:.0f}", queue.get())
    found.figures[f"{name}, processor ms a chip"] = sum(cpu.values()) / chips * 1e3


_SPAWN = multiprocessing.get_context("spawn")


def _run(queue: multiprocessing.Queue[str], function: Callable[[str], str], path: str) -> None:
    queue.put(function(path)[:100])


def release_of(path: str) -> str:
    """Make the release of a config file."""
    summary = make_release(load_config(path))
    return f"{summary.chips} chips"


def copied_twice(path: str) -> str:
    """Copy a release's folder, and once more."""
    for number in range(2):
        shutil.copytree(path, f"{path}-copy-{number}")
    return "2 copies"


def exported(path: str) -> str:
    """Export a release as a training loop reads it."""
    done = export_release(path, "webdataset", f"{path}-webdataset", workers=2)
    return f"{done.shards} shards"


def faults_of(path: str) -> str:
    """Verify a release."""
    return f"{len(verify(path))} faults"


def remove(folder: Path) -> None:
    """Remove a folder, and let the disk forget it: ext4 spares places of files for half a minute."""
    shutil.rmtree(folder)
    time.sleep(40)


def measure_export(found: Table, chips: int, release: Path) -> None:
    """Export, beside copying the same files twice: what is read and written, and nothing else."""
    for name, function in (("copy the folder twice", copied_twice), ("export to webdataset", exported)):
        measure(found, chips, name, function, str(release))
        for made in release.parent.glob(f"{release.name}-*"):
            remove(made)


def main() -> None:
    """Measure releases of several sizes: memory that is flat is the same for all but for the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chips", type=int, nargs="+", default=[500, 2500, 10_000])
    parser.add_argument("--folder", type=Path, default=None)
    add_json_flag(parser)
    arguments = parser.parse_args()
    as_in_gelos()
    columns = ["chips", "what", "seconds", "processor, seconds", "MB at most", "outcome"]
    note = (
        f"A few chips repeated at other places, 26 files each, and {WINDOWS} windows scored for each; memory is that of "
        "all processes together, a shared page counted once."
    )
    found = Table("Releases", columns, note)
    for chips in arguments.chips:
        root = Path(tempfile.mkdtemp(dir=arguments.folder))
        try:
            config = repeat_chips(root, chips)
            output = Path(config.directory.output)
            measure(found, chips, "make", release_of, str(config.path))
            remove(root / "working")
            measure_export(found, chips, output / VERSION)
            archive = output / f"tiny_{VERSION}.zip"
            measure(found, chips, "verify the zip", faults_of, str(archive))
            archive.unlink()
            measure(found, chips, "verify the folder", faults_of, str(output / VERSION))
        finally:
            shutil.rmtree(root)
    show(found, as_json=arguments.json)


if __name__ == "__main__":
    main()
