"""``config.json``: what a release was made with, and what its rasters are; no path, host or clock."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from PIL import Image
from rasterio.errors import RasterioError
from rasterio.io import MemoryFile

from cube.config import Config, TimeRange
from cube.sensors import SENSORS

from .errors import ReleaseError

__all__ = ["RECIPE_NAME", "Recipe", "SensorLayout", "layout_of", "make_recipe", "parse_recipe"]

RECIPE_NAME = "config.json"
_SCHEMA_VERSION = 1
_NEEDED = {
    "chips": ("min_purity", "classes", "forbidden"),
    "release": ("seed", "splits", "block_m", "thumbnail_url"),
    "lulc": ("year",),
}
"""Settings that readers of a release rely on, beside those that :class:`Recipe` has properties for."""
_NO_PART = {"directory", "compute", "catalog", "log_errors", "path", "sensors"}


@dataclass(frozen=True, slots=True)
class SensorLayout:
    """What every raster of a sensor is."""

    bands: tuple[str, ...]
    dtype: str
    nodata: float | None
    """NaN for float rasters that say so; None where no value is set aside."""
    resolution: int
    size_px: int
    """Side of the chip, pixels."""
    min_valid: tuple[float, ...]
    """Valid share asked of each date (one value for a layer without dates)."""
    thumbnail_px: int | None
    """Side of the pictures, pixels; None for a layer without pictures."""

    def is_nodata(self, values: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Where there is no value."""
        if self.nodata is None:
            return np.zeros(values.shape, dtype=bool)
        empty = np.isnan(values) if math.isnan(self.nodata) else values == self.nodata
        return np.asarray(empty, dtype=bool)


@dataclass(frozen=True, slots=True)
class Recipe:
    """What :mod:`release.verify` and :mod:`release.dataset` need to know of a release."""

    name: str
    version: str
    config: Mapping[str, Any]
    """Settings as the config file groups them, without directories, catalog and compute."""
    layout: Mapping[str, SensorLayout]
    before: Mapping[int, int]
    """Chips per class before balancing."""

    @property
    def sample_size(self) -> int:
        """Side of the window whose land cover is judged, metres."""
        return int(self.config["chips"]["sample_size"])

    @property
    def chip_size(self) -> int:
        """Side of a chip, metres."""
        return int(self.config["chips"]["chip_size"])

    @property
    def margin_m(self) -> int:
        """Context around the sample window, metres."""
        return (self.chip_size - self.sample_size) // 2

    @property
    def series(self) -> tuple[str, ...]:
        """Sensors with dates."""
        return tuple(key for key in self.layout if not SENSORS[key].is_static)

    @property
    def ranges(self) -> tuple[TimeRange, ...]:
        """Time ranges, one date of each sensor in each."""
        return tuple(TimeRange.parse(text) for text in self.config["time_ranges"])

    @property
    def sampling_factor(self) -> int | None:
        """The largest class holds at most this many times the smallest."""
        factor = self.config["lulc"].get("sampling_factor")
        return None if factor is None else int(factor)

    def to_json(self) -> bytes:
        """Write ``config.json``."""
        layout = {
            key: {**asdict(one), "nodata": _nodata_text(one.nodata)} for key, one in self.layout.items()
        }
        data = {
            "schema_version": _SCHEMA_VERSION,
            "name": self.name,
            "version": self.version,
            "config": self.config,
            "layout": layout,
            "chips_per_class_before_balancing": {str(code): count for code, count in self.before.items()},
        }
        return (json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def make_recipe(config: Config, layout: Mapping[str, SensorLayout], before: Mapping[int, int]) -> Recipe:
    """Gather what a release was made with."""
    settings: dict[str, Any] = config.model_dump(mode="json", exclude=_NO_PART)
    settings["aoi"]["path"] = config.aoi.path.rsplit("/", 1)[-1]
    for key, sensor in config.sensors.items():
        settings[key] = {**sensor.model_dump(mode="json"), "bands": list(config.bands(key))}
    settings["time_ranges"] = [str(one) for one in config.ranges]
    return Recipe(config.dataset.name, config.dataset.version, settings, dict(layout), dict(before))


def parse_recipe(data: bytes) -> Recipe:
    """Read ``config.json``.

    Raises
    ------
    ReleaseError
        If it is not one.
    """
    try:
        raw = json.loads(data)
        layout = {
            key: SensorLayout(
                tuple(one["bands"]),
                str(np.dtype(one["dtype"])),
                _nodata_value(one["nodata"]),
                int(one["resolution"]),
                int(one["size_px"]),
                tuple(one["min_valid"]),
                one["thumbnail_px"],
            )
            for key, one in raw["layout"].items()
            if key in SENSORS
        }
        before = {int(code): int(n) for code, n in raw["chips_per_class_before_balancing"].items()}
        recipe = Recipe(str(raw["name"]), str(raw["version"]), raw["config"], layout, before)
        _ = (recipe.margin_m, recipe.ranges, recipe.sampling_factor)
        for section, keys in _NEEDED.items():
            for key in keys:
                _ = recipe.config[section][key]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ReleaseError(f"{RECIPE_NAME}: not a release's ({type(error).__name__}: {error})") from None
    return recipe


def _nodata_text(value: float | None) -> float | str | None:
    return "nan" if value is not None and math.isnan(value) else value


def _nodata_value(value: Any) -> float | None:
    return None if value is None else float(value)


def layout_of(key: str, data: bytes, thumbnail: bytes | None, config: Config, where: str) -> SensorLayout:
    """Return what a sensor's rasters are, from the config, one of its files and that one's picture.

    Raises
    ------
    ReleaseError
        If the file is not what the config asks for: it was exported with other settings.
    """
    settings = config.sensors[key]
    bands = SENSORS[key].exported(config.bands(key))
    size = config.chips.chip_size // settings.resolution
    try:
        with MemoryFile(data) as memory, memory.open() as raster:
            found = (tuple(raster.descriptions), raster.dtypes[0], raster.width)
            nodata = raster.nodata
    except RasterioError as error:
        raise ReleaseError(f"{where}: not a raster ({error}); remove it and run chip.py again") from None
    if found != (bands, settings.dtype, size):
        raise ReleaseError(
            f"{where}: found bands, dtype and size {found}, expected {(bands, settings.dtype, size)}; "
            "run chip.py again with this config"
        )
    min_valid = _min_valid(key, config)
    picture = None if thumbnail is None else _side_px(thumbnail, where)
    return SensorLayout(bands, settings.dtype, nodata, settings.resolution, size, min_valid, picture)


def _side_px(thumbnail: bytes, where: str) -> int:
    try:
        with Image.open(io.BytesIO(thumbnail)) as picture:
            return int(picture.width)
    except OSError as error:
        raise ReleaseError(f"{where}: its picture cannot be read ({error}); run chip.py again") from None


def _min_valid(key: str, config: Config) -> tuple[float, ...]:
    dates = 1 if SENSORS[key].is_static else len(config.ranges)
    return tuple(config.chips.threshold("min_valid", key, index) for index in range(dates))
