"""Small cubes with arbitrary pixels, and a slow, obvious recount of what phase two says about them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from shapely.geometry import box, mapping

from cube.config.models import Config
from cube.config.reading import load_config
from cube.config.sensors import SENSORS, BandKind
from cube.run.layout import Layout
from cube.run.storage import Folder, open_folder
from cube.store.open import find_cube
from cube.testing.cubes import plan_from_times, record_cube, write_cube
from cube.windows.grid import Bounds

RANGES = ("2023-01-01/2023-06-30", "2023-07-01/2023-12-31")
TIMES = (datetime(2023, 2, 3, 10, 11, 12, tzinfo=UTC), datetime(2023, 8, 9, 10, 11, 12, tzinfo=UTC))

Arrays = dict[str, dict[str, NDArray[Any]]]


def make_config(
    folder: Path, working: str = "", sensors: Sequence[str] = tuple(SENSORS), **chips: Any
) -> Config:
    """Write and load a config with few bands and small windows."""
    sections: dict[str, Any] = {
        "s2l2a": {"bands": ["B02", "B03", "B04"], "cloud_band": "SCL"},
        "s1rtc": {"bands": ["vv", "vh"]},
        "lc2l2": {"bands": ["blue", "green", "red"], "cloud_band": "qa_pixel"},
        "dem": {},
        "lulc": {"year": "2023-01-02/2023-12-31"},
    }
    for key in sensors[:1]:
        if not SENSORS[key].is_static:
            sections[key]["time_ranges"] = list(RANGES)
    record = {
        "dataset": {"version": "v1"},
        "aoi": {"path": "aoi.geojson"},
        "directory": {"working": working or str(folder / "working"), "output": str(folder / "output")},
        **{key: sections[key] for key in sensors},
        "chips": {"sample_size": 480, "chip_size": 480, **chips},
    }
    path = folder / "config.yaml"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(record))
    write_aois(folder / "aoi.geojson", 10)
    return load_config(path)


def write_aois(path: Path, count: int) -> None:
    """Write an AOI file; where the cubes lie does not follow from it."""
    features = [
        {"type": "Feature", "properties": {}, "geometry": mapping(box(index, 50, index + 1, 51))}
        for index in range(count)
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))


def cubes_folder(config: Config) -> Folder:
    """Return where the cubes of a config go."""
    return open_folder(config.directory.working) / "cubes"


def cube_path(config: Config, aoi_index: int = 0) -> Path:
    """Return the folder of the cube that a config's version has of an AOI."""
    return Path(find_cube(Layout.of(config).root, aoi_index).url)


def clean_arrays(config: Config, bounds: Bounds, rng: np.random.Generator, lulc: int = 5) -> Arrays:
    """Return pixels without a fault: valid, clear, one class."""
    arrays: Arrays = {}
    for key, settings in config.sensors.items():
        shape = (bounds.height // settings.resolution, bounds.width // settings.resolution)
        if not SENSORS[key].is_static:
            shape = (len(TIMES), *shape)
        arrays[key] = {}
        for name in config.bands(key):
            arrays[key][name] = _clean_band(key, name, shape, rng, lulc)
    return arrays


def _clean_band(
    key: str, name: str, shape: tuple[int, ...], rng: np.random.Generator, lulc: int
) -> NDArray[Any]:
    band = SENSORS[key].band(name)
    if key == "lulc":
        return np.full(shape, lulc, np.uint8)
    if name == "SCL":
        return np.full(shape, 4, np.uint8)
    if name == "qa_pixel":
        return np.full(shape, 64, np.uint16)
    if band.kind is BandKind.REFLECTANCE:
        return rng.integers(1, 40_000, shape).astype(np.uint16)
    return rng.uniform(0.001, 300, shape).astype(np.float32)


def put_cube(
    config: Config, bounds: Bounds, arrays: Mapping[str, Any], aoi_index: int = 0, epsg: int = 32632
) -> None:
    """Write a sealed cube into a config's working folder."""
    plan = plan_from_times(config, bounds, epsg, TIMES, aoi_index)
    write_cube(cubes_folder(config), plan, arrays)
    record_cube(config, plan)


def put_block_records(config: Config, arrays: Mapping[str, Any], aoi_index: int = 0) -> None:
    """Leave the record of what was written that phase one leaves of a cube of one block per sensor and date."""
    records = {}
    for key, bands in arrays.items():
        for date in range(1 if SENSORS[key].is_static else len(TIMES)):
            digests = {
                name: hashlib.sha256((values if values.ndim == 2 else values[date]).tobytes()).hexdigest()
                for name, values in bands.items()
            }
            records[f"{key}-{date}-0-0"] = {"fingerprint": "", "digests": digests}
    Layout.of(config).blocks.write(f"{cube_path(config, aoi_index).stem}.json", json.dumps(records).encode())


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder, by relative path."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
