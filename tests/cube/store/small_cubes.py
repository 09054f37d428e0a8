"""Plans of cubes that no catalog knows, and pixels for them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cube.config.models import Config
from cube.config.reading import load_config
from cube.scenes.plan import CubePlan
from cube.testing.cubes import plan_from_times
from cube.windows.grid import Bounds

Arrays = dict[str, dict[str, NDArray[np.generic]]]
_SENSORS = {
    "s2l2a": {
        "time_ranges": ["2023-01-01/2023-03-31", "2023-04-01/2023-06-30"],
        "bands": ["B02"],
        "cloud_band": "SCL",
    },
    "s1rtc": {"bands": ["vv"]},
    "lc2l2": {"bands": ["red"], "cloud_band": "qa_pixel"},
    "dem": {},
    "lulc": {"year": "2023-01-02/2023-12-31"},
}
"""A band or two of each."""


def small_config(folder: Path, without: Sequence[str] = ()) -> Config:
    """Write and load a config of few bands, in two time ranges."""
    path = folder / "c.yaml"
    text = {
        "dataset": {"version": "t"},
        "aoi": {"path": "a.geojson"},
        "directory": {"working": "w", "output": "o"},
        **{key: section for key, section in _SENSORS.items() if key not in without},
    }
    path.write_text(json.dumps(text))
    return load_config(path)


def small_plan(config: Config, bounds: Bounds, times: Sequence[datetime]) -> CubePlan:
    """Return the plan of an area's cube in UTM zone 33."""
    return plan_from_times(config, bounds, 32633, times, aoi_index=7)


def made_up(plan: CubePlan, low: int, high: int) -> Arrays:
    """Return pixels of a plan's bands: numbers from `low` to below `high`, and classes from 1 to 11."""
    rng = np.random.default_rng(0)
    made: Arrays = {}
    for sensor in plan.sensors:
        shape = tuple(plan.geobox(sensor.key).shape)
        full = shape if sensor.sensor.is_static else (len(sensor.dates), *shape)
        bands = {name: sensor.sensor.band(name) for name in sensor.bands}
        made[sensor.key] = {
            name: (rng.integers(1, 12, full) if band.is_mask else rng.integers(low, high, full)).astype(
                band.dtype
            )
            for name, band in bands.items()
        }
    return made
