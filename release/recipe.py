"""``config.json``: what a release was made with, and what its rasters are."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np
from PIL import Image
from pydantic import ValidationError

from chipping.geotiff import RasterSettings, exported_nodata
from cube.config.extra_sensors import sensor_rows
from cube.config.fields import TimeRange
from cube.config.models import ChipsConfig, Config, DatasetConfig, ReleaseConfig
from cube.config.profiles import DEFAULT_PROFILE
from cube.config.sensors import CLASS_NAMES, SENSORS, Sensor, SensorTable
from cube.windows.grid import Bounds
from cube.windows.lattice import WindowGeometry

from .opening.faults import UNREADABLE, ReleaseError, first_line
from .opening.limits import check_dtype
from .opening.tiff import TiffError, TiffRaster
from .sharding import folder_of

RECIPE_NAME = "config.json"
_SCHEMA_VERSION = 1
_NO_PART = {"directory", "store", "compute", "catalog", "profiles", "log_errors", "path", "sensors"}
_BLOCK_PX = 512**2
"""Of a storage block, where the raster itself is smaller."""
_MOST_RASTER_BYTES = 1 << 30
_MOST_ROWS = 100
"""Of further sensors; and of the bands of each, ten times as many."""
_MOST_THUMBNAIL_PX = 1 << 13
_MOST_IDS = 10**12
_MOST_SPLITS = 100
"""Blocks are weighed against each of them."""

Section = TypeVar("Section", ChipsConfig, ReleaseConfig)


@dataclass(frozen=True, slots=True)
class RasterSpec:
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

    @property
    def raster_bytes(self) -> int:
        """Memory that a raster takes."""
        return len(self.bands) * self.size_px**2 * np.dtype(self.dtype).itemsize

    def allows_block(self, height: int, width: int) -> bool:
        """Tell whether a raster may have blocks of this size, pixels: GDAL unpacks whole ones."""
        return height * width <= max(self.size_px**2, _BLOCK_PX)

    def is_nodata(self, values: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Return where pixels have no value."""
        if self.nodata is None:
            return np.zeros(values.shape, dtype=bool)
        empty = np.isnan(values) if math.isnan(self.nodata) else values == self.nodata
        return np.asarray(empty, dtype=bool)


@dataclass(frozen=True, slots=True)
class Recipe:
    """What :mod:`release.verify` and :mod:`release.loading` need to know of a release."""

    name: str
    version: str
    config: Mapping[str, Any]
    """Settings as the config file groups them, without directories, catalog and compute."""
    chips: ChipsConfig
    release: ReleaseConfig
    ranges: tuple[TimeRange, ...]
    """Time ranges, one date of each sensor in each."""
    year: TimeRange
    """Of the land cover."""
    sampling_factor: int | None
    """The largest class holds at most this many times the smallest."""
    rasters: Mapping[str, RasterSpec]
    before: Mapping[int, int]
    """Chips per class before balancing."""
    table: SensorTable
    """Rows of the sensors, those of the release's own config among them."""
    shard_chips: int | None = None
    """Chips of a shard; None where all files lie side by side."""

    def folder_of(self, chip_id: int) -> str:
        """Return where a chip's files lie in the release: a folder with a slash, or nothing."""
        return folder_of(chip_id, self.shard_chips)

    def bounds(self, row: Mapping[str, Any]) -> Bounds:
        """Return the box of the chip in a row of the tracker, metres in its UTM zone."""
        geometry = WindowGeometry.from_config(self.chips)
        return geometry.bounds("chip", int(row["left_m"]), int(row["top_m"]))

    def raster_settings(self, key: str) -> RasterSettings:
        """Return how a sensor's rasters were written."""
        spec = self.rasters[key]
        nodata = math.nan if spec.nodata is None else spec.nodata
        return RasterSettings(self.table[key], spec.bands, spec.dtype, nodata)

    def image_bands(self, key: str) -> tuple[str, ...]:
        """Return the bands of a sensor's rasters that are images; masks come after them."""
        return tuple(name for name in self.rasters[key].bands if not self.table[key].is_mask(name))

    def mask_bands(self, key: str) -> tuple[str, ...]:
        """Return the bands of a sensor's rasters that are masks, the last ones."""
        return self.rasters[key].bands[len(self.image_bands(key)) :]

    @property
    def series(self) -> tuple[str, ...]:
        """Sensors with dates."""
        return tuple(key for key in self.rasters if not self.table[key].is_static)

    def to_json(self) -> bytes:
        """Write ``config.json``."""
        specs = {
            key: {**asdict(one), "nodata": _nodata_json(one.nodata)} for key, one in self.rasters.items()
        }
        data = {
            "schema_version": _SCHEMA_VERSION,
            "name": self.name,
            "version": self.version,
            "config": self.config,
            "layout": specs,
            "label_names": [CLASS_NAMES.get(code, str(code)) for code in sorted(self.chips.classes)],
            "chips_per_class_before_balancing": {str(code): count for code, count in self.before.items()},
        }
        if self.shard_chips is not None:
            data["shard_chips"] = self.shard_chips
        return (json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def settings_of(config: Config) -> dict[str, Any]:
    """Return what a release says of its settings: JSON values, and no path, host or clock.

    How it is packed is none of them; of the catalog, what decides which scenes there are.
    """
    settings: dict[str, Any] = config.model_dump(mode="json", exclude=_NO_PART)
    del settings["release"]["shard_chips"]
    settings["aoi"]["path"] = config.aoi.path.rsplit("/", 1)[-1]
    # A row writes its NaN, which JSON has not, as text; but only into JSON text.
    settings["extra_sensors"] = {
        key: json.loads(row.model_dump_json()) for key, row in config.extra_sensors.items()
    }
    for key, sensor in config.sensors.items():
        settings[key] = {
            **sensor.model_dump(mode="json", exclude={"catalog"}),
            "bands": list(config.bands(key)),
        }
    settings["time_ranges"] = [str(one) for one in config.ranges]
    if catalog := _catalog_settings(config):
        settings["catalog"] = catalog
    return settings


def _catalog_settings(config: Config) -> dict[str, Any]:
    """Return the items that are no candidates, and profiles other than the default, by sensor."""
    settings: dict[str, Any] = {}
    if config.catalog.exclude_items:
        settings["exclude_items"] = sorted(config.catalog.exclude_items)
    profiles = {key: config.source(key).profile for key in config.sensors}
    if others := {key: name for key, name in profiles.items() if name != DEFAULT_PROFILE}:
        settings["profile"] = others
    return settings


def make_recipe(
    config: Config,
    specs: Mapping[str, RasterSpec],
    before: Mapping[int, int],
    shard_chips: int | None = None,
) -> Recipe:
    """Gather what a release was made with: no path, host or clock.

    Parameters
    ----------
    config
        The dataset version.
    specs
        What each sensor's rasters are.
    before
        Chips per class before balancing.
    shard_chips
        Chips of a shard; None: all files lie side by side.

    Raises
    ------
    ReleaseError
        If readers would refuse it.
    """
    recipe = _parse_settings(config.dataset, settings_of(config), specs, before, shard_chips)
    if problem := next(_problems(recipe), None):
        raise ReleaseError(f"{config.path}: no release can be made of this ({problem})")
    return recipe


def _parse_settings(
    dataset: DatasetConfig,
    settings: Mapping[str, Any],
    specs: Mapping[str, RasterSpec],
    before: Mapping[int, int],
    shard_chips: int | None,
) -> Recipe:
    """Read the settings that readers of a release rely on, by the config's own rules."""
    lulc = settings["lulc"]
    return Recipe(
        dataset.name,
        dataset.version,
        settings,
        _known_settings(ChipsConfig, settings["chips"]),
        _known_settings(ReleaseConfig, settings["release"]),
        tuple(TimeRange.parse(text) for text in settings["time_ranges"]),
        TimeRange.parse(lulc["year"]),
        None if lulc.get("sampling_factor") is None else int(lulc["sampling_factor"]),
        specs,
        before,
        _sensor_table(settings),
        shard_chips,
    )


def _sensor_table(settings: Mapping[str, Any]) -> SensorTable:
    return SENSORS.extended(sensor_rows(settings.get("extra_sensors", {})))


def _check_rows(rows: Mapping[str, Any]) -> None:
    if len(rows) > _MOST_ROWS or any(len(row["bands"]) > 10 * _MOST_ROWS for row in rows.values()):
        msg = f"extra_sensors: more than {_MOST_ROWS} rows, or {10 * _MOST_ROWS} bands in one"
        raise ValueError(msg)


def _known_settings(model: type[Section], settings: Mapping[str, Any]) -> Section:
    """Leave out keys that a later version may have added."""
    return model.model_validate({key: settings[key] for key in settings if key in model.model_fields})


def parse_recipe(data: bytes) -> Recipe:
    """Read ``config.json``, which may be anybody's.

    Raises
    ------
    ReleaseError
        If it is not one, or its numbers do not fit together.
    """
    try:
        raw = json.loads(data)
        _check_rows(raw.get("config", {}).get("extra_sensors", {}))
        known = _sensor_table(raw.get("config", {}))
        specs = {key: _parse_spec(one) for key, one in raw["layout"].items() if key in known}
        before = {int(code): int(n) for code, n in raw["chips_per_class_before_balancing"].items()}
        dataset = DatasetConfig(name=raw["name"], version=raw["version"])
        shard_chips = None if raw.get("shard_chips") is None else int(raw["shard_chips"])
        recipe = _parse_settings(dataset, raw["config"], specs, before, shard_chips)
        problem = next(_problems(recipe), None)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ReleaseError(f"{RECIPE_NAME}: not a release's ({where}: {first['msg']})") from None
    except UNREADABLE as error:
        raise ReleaseError(f"{RECIPE_NAME}: not a release's ({first_line(error)})") from None
    if problem:
        raise ReleaseError(f"{RECIPE_NAME}: not a release's ({problem})")
    return recipe


def _parse_spec(raw: Mapping[str, Any]) -> RasterSpec:
    check_dtype(raw["dtype"])
    return RasterSpec(
        tuple(map(str, raw["bands"])),
        raw["dtype"],
        _nodata_value(raw["nodata"]),
        int(raw["resolution"]),
        int(raw["size_px"]),
        tuple(map(float, raw["min_valid"])),
        None if raw["thumbnail_px"] is None else int(raw["thumbnail_px"]),
    )


def _problems(recipe: Recipe) -> Iterator[str]:
    """Say where numbers of a recipe do not fit together, or would take too much memory."""
    chips, settings = recipe.chips, recipe.release
    if "lulc" not in recipe.rasters:
        yield "it has no layer lulc"
    if unknown := sorted(set(recipe.before) - set(chips.classes)):
        yield f"class {unknown[0]} is counted, but not kept"
    if uncounted := sorted(set(chips.classes) - set(recipe.before)):
        yield f"class {uncounted[0]} is kept, but not counted"
    if recipe.sampling_factor is not None and recipe.sampling_factor < 1:
        yield f"sampling_factor is {recipe.sampling_factor}"
    if settings.splits and settings.block_m < chips.chip_size:
        yield f"block_m {settings.block_m} is smaller than a chip"
    if recipe.shard_chips is not None and not 1 <= recipe.shard_chips < _MOST_IDS:
        yield f"shard_chips is {recipe.shard_chips}"
    if len(settings.splits or {}) > _MOST_SPLITS:
        yield f"there are {len(settings.splits or {})} splits, more than {_MOST_SPLITS}"
    if lacking := sorted(key for key in recipe.table if (key in recipe.config) != (key in recipe.rasters)):
        yield f"{lacking[0]} is not in both its config and its layout"
    for key, spec in recipe.rasters.items():
        yield from (f"{key}: {text}" for text in _spec_problems(key, spec, recipe))


def _spec_problems(key: str, spec: RasterSpec, recipe: Recipe) -> Iterator[str]:
    sensor = recipe.table[key]
    chip_m, dates = recipe.chips.chip_size, 1 if sensor.is_static else len(recipe.ranges)
    if spec.resolution < 1 or spec.resolution * spec.size_px != chip_m:
        yield f"{spec.size_px} px of {spec.resolution} m are no chip of {chip_m} m"
    if spec.raster_bytes > _MOST_RASTER_BYTES or (spec.thumbnail_px or 0) > _MOST_THUMBNAIL_PX:
        yield f"a raster of {spec.raster_bytes:,} bytes, a picture of {spec.thumbnail_px} px a side"
    if len(spec.min_valid) != dates:
        yield f"{len(spec.min_valid)} valid shares for {dates} dates"
    if unknown := sorted(set(spec.bands) - {band.name for band in sensor.bands}):
        yield f"there is no band {unknown[0]}"
    for name, found, expected in _spec_and_settings(key, spec, recipe):
        if found != expected:
            yield f"{name} is {found}, its config stands for {expected}"


def _spec_and_settings(key: str, spec: RasterSpec, recipe: Recipe) -> Iterator[tuple[str, object, object]]:
    """Yield a name, what the rasters are, and what the settings that made them stand for."""
    sensor, settings = recipe.table[key], recipe.config[key]
    bands = sensor.exported(settings["bands"], masks=recipe.chips.masks)
    yield "bands", spec.bands, bands
    yield "dtype", spec.dtype, settings["dtype"]
    yield "resolution", spec.resolution, settings["resolution"]
    na_value = settings["na_value"] if settings["fill_na"] else None
    nodata = exported_nodata(sensor, bands, spec.dtype, na_value)
    yield "nodata", "none" if spec.nodata is None else f"{spec.nodata:g}", f"{nodata:g}"
    yield "min_valid", spec.min_valid, _min_valid(sensor, recipe.chips, len(recipe.ranges))


def _nodata_json(value: float | None) -> float | str | None:
    return "nan" if value is not None and math.isnan(value) else value


def _nodata_value(value: Any) -> float | None:
    return None if value is None else float(value)


def raster_spec_of(key: str, data: bytes, thumbnail: bytes | None, config: Config, where: str) -> RasterSpec:
    """Return what a sensor's rasters are, by one GeoTIFF and its picture, if it has one.

    `where` names the GeoTIFF in messages.

    Raises
    ------
    ReleaseError
        If the file is not what the config asks for: it was exported with other settings.
    """
    settings = config.sensors[key]
    bands = config.chip_bands(key)
    size = config.chips.chip_size // settings.resolution
    raster = TiffRaster(data)
    try:
        found = (raster.descriptions, raster.dtype, raster.size[0])
        nodata = raster.nodata
    except TiffError as error:
        raise ReleaseError(
            f"{where}: not a raster ({error}); remove it and run gelos-lc chip again"
        ) from None
    if found != (bands, settings.dtype, size):
        raise ReleaseError(
            f"{where}: found bands, dtype and size {found}, expected {(bands, settings.dtype, size)}; "
            "run gelos-lc chip again with this config"
        )
    min_valid = _min_valid(config.table[key], config.chips, len(config.ranges))
    picture = None if thumbnail is None else _side_px(thumbnail, where)
    return RasterSpec(bands, settings.dtype, nodata, settings.resolution, size, min_valid, picture)


def _side_px(thumbnail: bytes, where: str) -> int:
    try:
        with Image.open(io.BytesIO(thumbnail)) as picture:
            return int(picture.width)
    except OSError as error:
        raise ReleaseError(
            f"{where}: its picture cannot be read ({error}); run gelos-lc chip again"
        ) from None


def _min_valid(sensor: Sensor, chips: ChipsConfig, ranges: int) -> tuple[float, ...]:
    dates = 1 if sensor.is_static else ranges
    return tuple(chips.threshold("min_valid", sensor.key, index) for index in range(dates))
