"""The config: one YAML file describes a dataset version whole.

Everything a user can set is a field here, with its default and its limits; ``docs`` and the README's table are made
from these fields. Text becomes typed, frozen values once, in :func:`load_config`; nothing else parses settings.
"""

from __future__ import annotations

import difflib
import itertools
import posixpath
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import cached_property
from pathlib import Path, PurePath, PurePosixPath
from types import NoneType
from typing import Annotated, Any, Literal, NamedTuple, Self, get_args

import numpy as np
import yaml
from dask.utils import parse_bytes
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo

from .errors import ConfigError
from .rows import SensorRow, sensor_rows
from .sensors import CLASS_NAMES, SENSORS, BandKind, ChoiceRule, MaskRule, Sensor, SensorTable
from .shipped import CONFIGS

__all__ = [
    "PC_STAC_URL",
    "AoiConfig",
    "CatalogConfig",
    "ChipsConfig",
    "ComputeConfig",
    "Config",
    "DirectoryConfig",
    "ReleaseConfig",
    "SensorConfig",
    "TimeRange",
    "load_config",
]

PC_STAC_URL = "https://planetarycomputer.microsoft.com/api/stac/v1"
LATTICE_M = 960
"""Side of a cell of the lattice that every cube's edges lie on, metres (10, 20, 30 and 60 m divide it)."""
_LARGEST_DN = 65_535
"""Of a reflectance band; 0 is nodata."""


class TimeRange(NamedTuple):
    """A closed interval of days, ``2023-01-01/2023-03-31``: from the first day's start to the last day's end, UTC."""

    start: datetime
    end: datetime

    @classmethod
    def parse(cls, text: str) -> TimeRange:
        """Read ``start/end``; a bare day stands for all of it (as STAC clients read it)."""
        try:
            first, last = (part.strip() for part in text.split("/"))
            start, end = _utc(first), _utc(last)
            if len(last) == len("2023-01-01"):
                end += timedelta(days=1) - timedelta(seconds=1)
        except (ValueError, OverflowError):
            msg = f"{text!r} is not a time range; expected start/end such as 2023-01-01/2023-03-31"
            raise ValueError(msg) from None
        if end < start:
            msg = f"time range {text!r} ends before it starts"
            raise ValueError(msg)
        return cls(start, end)

    @property
    def middle(self) -> datetime:
        """The instant half-way."""
        return self.start + (self.end - self.start) / 2

    def __str__(self) -> str:
        """Return the range as the config writes it."""
        return f"{self.start:%Y-%m-%d}/{self.end:%Y-%m-%d}"


def _utc(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)


def _none_to_empty(value: object) -> object:
    return () if value is None else value


def _number_to_text(value: object) -> object:
    return str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value


def _one_or_many(value: object) -> object:
    return (
        (value,) if isinstance(value, (str, int)) and not isinstance(value, bool) else _none_to_empty(value)
    )


IndexList = Annotated[tuple[Annotated[int, Field(ge=0)], ...], BeforeValidator(_one_or_many)]
Share = Annotated[float, Field(ge=0, le=1)]
Percent = Annotated[float, Field(ge=0, le=100)]
Metres = Annotated[int, Field(gt=0)]
FolderName = Annotated[str, Field(min_length=1)]
Shares = Share | tuple[Share, ...]
"""One share for every date, or one per time range."""


def _explain_shares(value: object, validate: ValidatorFunctionWrapHandler) -> object:
    """Put the findings on every branch of the union into one sentence."""
    try:
        return validate(value)
    except ValidationError:
        msg = f"found {value!r}; expected a share from 0 to 1, a list of one per time range, or either by sensor"
        raise ValueError(msg) from None


Thresholds = Annotated[Shares | dict[str, Shares], WrapValidator(_explain_shares)]


class _Section(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False, strict=False
    )


class DatasetConfig(_Section):
    """What is made."""

    version: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    """Version of the dataset; names the folders under working and output."""
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] = "gelos-lc"
    """Name of the dataset; the zip is called {name}_{version}.zip."""


class Extent(StrEnum):
    """How much of an AOI a cube covers."""

    OVERLAP = "overlap"
    AOI = "aoi"


class AoiConfig(_Section):
    """Where."""

    version: str = ""
    """map_{version}.geojson is looked for beside the config, in configs/aois and in data/."""
    path: str = ""
    """A GeoJSON file, relative to the config file; wins over aoi.version."""
    include_indices: IndexList = ()
    """Only these AOIs (empty: all)."""
    exclude_indices: IndexList = ()
    """Not these AOIs."""
    extent: Extent = Extent.OVERLAP
    """overlap: all that the chosen scenes share; aoi: the AOI's bounding box."""
    max_side_m: Metres | None = None
    """Caps an overlap extent, centred on the AOI, metres."""
    fetch: Literal["all", "candidates"] = "all"
    """candidates: land cover is read first, and imagery only where a window could be chosen."""
    candidate_purity: Share | None = None
    """Purity that fetch: candidates asks of a window (chips.min_purity where empty)."""

    @model_validator(mode="after")
    def _named(self) -> Self:
        if not self.version and not self.path:
            msg = "give aoi.version (a map_{version}.geojson) or aoi.path (a GeoJSON file)"
            raise ValueError(msg)
        return self


class DirectoryConfig(_Section):
    """Where things go: folders, relative to the working folder of the process, or object-store URLs."""

    working: FolderName
    """Cubes, scores and chips."""
    output: FolderName
    """Releases."""
    zip_output: bool = True
    """Also write {name}_{version}.zip of the release."""
    storage_options: dict[str, Any] = {}
    """fsspec options of an object store, such as endpoint_url."""


class CatalogConfig(_Section):
    """Where scenes are searched."""

    url: str = PC_STAC_URL
    """A STAC API, or the path of a STAC ItemCollection (.json) or stac-geoparquet (.parquet), relative to the config."""
    sign: Literal["planetary-computer", "none"] = "planetary-computer"
    """Who signs hrefs before they are read."""
    cache: str = ""
    """A folder where answers are kept, so that a rerun asks nothing twice."""
    timeout_s: Annotated[float, Field(gt=0)] = 60
    """Seconds before a search request is given up, and tried again."""
    retries: Annotated[int, Field(ge=0)] = 8
    """Further tries of a search request that failed in passing (timeouts, resets, 429, 5xx)."""
    retry_budget_s: Annotated[float, Field(gt=0)] = 900
    """Seconds after which a failing search is given up whatever tries are left."""
    page_size: Annotated[int, Field(gt=0, le=1000)] = 250
    """Items asked for per page."""


class SensorConfig(_Section):
    """Keys that every sensor takes."""

    collection: str
    """STAC collection."""
    bands: Annotated[tuple[str, ...], BeforeValidator(_one_or_many)] = ()
    """Bands wanted (empty: all that the sensor table lists)."""
    resolution: Metres
    """Pixel size of the cube, metres."""
    native_crs: bool = False
    """true for s2l2a alone: a cube has one CRS, Sentinel-2's."""
    fill_na: bool = False
    """true: nodata becomes na_value in exported chips; false: the archive's nodata."""
    na_value: float = -999
    """What nodata becomes with fill_na."""
    dtype: Literal["int8", "uint8", "int16", "uint16", "int32", "uint32", "float32", "float64"] = "float32"
    """Exported dtype: integers hold the archive's numbers, floats physical values."""
    resampling: Literal["nearest", "bilinear", "cubic", "cubic_spline", "lanczos", "average"] | None = None
    """GDAL resampling of continuous bands where grids differ (empty: the sensor table's)."""

    @model_validator(mode="after")
    def _na_value_fits(self) -> Self:
        dtype = np.dtype(self.dtype)
        if self.fill_na and dtype.kind in "iu":
            info = np.iinfo(dtype)
            if not (info.min <= self.na_value <= info.max and float(self.na_value).is_integer()):
                msg = f"na_value {self.na_value:g} does not fit dtype {self.dtype} ({info.min}..{info.max})"
                raise ValueError(msg)
        return self


class SeriesConfig(SensorConfig):
    """Keys of a sensor with dates."""

    time_ranges: Annotated[tuple[str, ...], BeforeValidator(_one_or_many)] = ()
    """One date is chosen per range (other sensors: empty means Sentinel-2's)."""

    @field_validator("time_ranges")
    @classmethod
    def _ordered(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        ranges = [TimeRange.parse(text) for text in value]
        for (one, before), (two, after) in itertools.pairwise(zip(value, ranges, strict=True)):
            if after.start <= before.end:
                msg = f"time ranges must follow one another; {two!r} starts before {one!r} ends"
                raise ValueError(msg)
            if after.start.date() == before.end.date():
                msg = f"time ranges must not share a day (UTC): {one!r} and {two!r}; files are named by day"
                raise ValueError(msg)
        return value


class Sentinel2Config(SeriesConfig):
    """Sentinel-2 L2A: one scene per time range, all of one MGRS tile."""

    collection: str = "sentinel-2-l2a"
    """STAC collection."""
    resolution: Metres = 10
    """Pixel size of the cube, metres."""
    native_crs: bool = True
    """The cube's CRS is the Sentinel-2 tile's."""
    dtype: Literal["int8", "uint8", "int16", "uint16", "int32", "uint32", "float32", "float64"] = "int16"
    """Exported dtype: integers hold harmonised DN, floats reflectance."""
    cloud_cover: Percent = 30
    """Scenes must lie below this eo:cloud_cover, percent."""
    nodata_pixel_percentage: Percent = 5
    """Scenes must lie below this s2:nodata_pixel_percentage, percent."""
    cloud_band: str | None = None
    """The scene classification band (SCL); without it there is no cloud rule."""
    harmonize: bool = True
    """Take the +1000 offset off DN of processing baseline 04.00 and later."""
    rank: Literal["scene", "aoi"] = "scene"
    """Least cloudy by the item's cloud cover, or by the clear share over the AOI (SCL overviews of the best few)."""
    clear: tuple[Annotated[int, Field(ge=1, le=11)], ...] = (2, 4, 5, 6, 11)
    """SCL codes that count as clear."""


class Sentinel1Config(SeriesConfig):
    """Sentinel-1 RTC: one pass per time range, all of one relative orbit."""

    collection: str = "sentinel-1-rtc"
    """STAC collection."""
    resolution: Metres = 10
    """Pixel size of the cube, metres."""
    delta_days: Annotated[float, Field(ge=0)] = 12
    """Most days between the pass and the Sentinel-2 scene of its range."""
    nodata_pixel_percentage: Percent | None = None
    """Accepted, not used: the collection has no such property."""


class LandsatConfig(SeriesConfig):
    """Landsat Collection 2 Level-2: one date per time range, all of one WRS path."""

    collection: str = "landsat-c2-l2"
    """STAC collection."""
    resolution: Metres = 30
    """Pixel size of the cube, metres."""
    platforms: Annotated[tuple[str, ...], BeforeValidator(_one_or_many)] = ("landsat-8", "landsat-9")
    """Platforms that are candidates."""
    delta_days: Annotated[float, Field(ge=0)] = 91
    """Most days between the date and the Sentinel-2 scene of its range."""
    cloud_cover: Percent = 50
    """Scenes must lie below this eo:cloud_cover, percent."""
    cloud_band: str | None = None
    """The quality band (qa_pixel); without it there is no cloud rule."""
    cloud_bits: tuple[Annotated[int, Field(ge=0, le=15)], ...] = (1, 2, 3, 4)
    """Bits of the quality band that make a pixel cloudy."""
    cloud_buffer_px: Annotated[int, Field(ge=0, le=10)] = 1
    """A pixel is clear only if all pixels this far around are (qa_pixel is nearest-resampled)."""


class PeriodConfig(SensorConfig):
    """A layer without dates: all items of a period, mosaicked."""

    year: str
    """Period whose items are used, start/end."""

    @field_validator("year")
    @classmethod
    def _is_range(cls, value: str) -> str:
        TimeRange.parse(value)
        return value


class DemConfig(PeriodConfig):
    """Copernicus DEM."""

    collection: str = "cop-dem-glo-30"
    """STAC collection."""
    year: str = "2021-01-02/2021-12-31"
    """Period whose items are used, start/end."""
    resolution: Metres = 30
    """Pixel size of the cube, metres."""


class LandCoverConfig(PeriodConfig):
    """Impact Observatory annual land cover."""

    collection: str = "io-lulc-annual-v02"
    """STAC collection."""
    resolution: Metres = 10
    """Pixel size of the cube, metres."""
    na_value: float = 0
    """What nodata becomes with fill_na."""
    dtype: Literal["int8", "uint8", "int16", "uint16", "int32", "uint32", "float32", "float64"] = "uint8"
    """Exported dtype."""
    sampling_factor: Annotated[int, Field(ge=1)] | None = None
    """The largest class holds at most this many times the smallest (empty: no balancing)."""


class ChipsConfig(_Section):
    """Which windows become chips, and how they are written."""

    sample_size: Metres = LATTICE_M
    """Side of the window whose land cover is judged, metres."""
    chip_size: Metres = LATTICE_M
    """Side of the chip around it, metres."""
    stride: Metres | None = None
    """Distance of windows, metres (empty: sample_size)."""
    min_purity: Share = 1.0
    """Share of the sample window's pixels in its majority class."""
    classes: tuple[Annotated[int, Field(ge=1, le=11)], ...] = (1, 2, 5, 7, 8, 11)
    """Majority classes kept."""
    forbidden: Annotated[tuple[Annotated[int, Field(ge=0, le=11)], ...], BeforeValidator(_one_or_many)] = (
        0,
        4,
        9,
        10,
    )
    """A window with a single such pixel is rejected."""
    max_per_class: Annotated[int, Field(ge=1)] | None = 400
    """Most chips of a class and AOI (empty: no cap)."""
    min_clear: Thresholds = {"s2l2a": 1.0, "lc2l2": 0.95}
    """Clear share per optical date within the sample window; by sensor, and by time range if a list."""
    min_valid: Thresholds = 1.0
    """Valid share per sensor and date within the whole chip; by sensor, and by time range if a list."""
    compress: Literal["deflate", "zstd", "none"] = "deflate"
    """Compression of the GeoTIFFs."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.chip_size < self.sample_size:
            msg = f"chips.chip_size {self.chip_size} is smaller than chips.sample_size {self.sample_size}"
            raise ValueError(msg)
        if both := sorted(set(self.classes) & set(self.forbidden)):
            msg = f"chips.classes and chips.forbidden both name {', '.join(map(str, both))}; drop it from one"
            raise ValueError(msg)
        if unknown := sorted((set(self.classes) | set(self.forbidden)) - set(CLASS_NAMES)):
            known = ", ".join(f"{k} {v}" for k, v in CLASS_NAMES.items())
            msg = f"chips.classes or chips.forbidden name class {unknown[0]}; the map has {known}"
            raise ValueError(msg)
        return self

    @property
    def stride_m(self) -> int:
        """Distance of windows, metres."""
        return self.stride or self.sample_size

    @property
    def margin_m(self) -> int:
        """Context around the sample window on each side, metres."""
        return (self.chip_size - self.sample_size) // 2

    def threshold(self, which: Literal["min_clear", "min_valid"], sensor: str, index: int) -> float:
        """Return the share asked of a sensor at its `index`-th time range (0 for layers without dates)."""
        value: Shares | Mapping[str, Shares] = getattr(self, which)
        if isinstance(value, Mapping):
            default = type(self).model_fields[which].default
            value = value.get(sensor, default.get(sensor, 1.0) if isinstance(default, dict) else default)
        return value[index] if isinstance(value, tuple) else value


class ReleaseConfig(_Section):
    """What leaves the program."""

    seed: int = 0
    """Seed of every choice by lot."""
    thumbnail_url: str = ""
    """Prefix put before thumbnail names; empty: relative paths."""
    splits: dict[str, Share] | None = None
    """Such as {train: .8, val: .1, test: .1}, by spatial block; empty: none."""
    block_m: Metres = 10 * LATTICE_M
    """Side of a split's spatial block, metres."""
    allow_missing_classes: bool = False
    """true: a kept class without chips is a warning, not an error."""

    @field_validator("splits")
    @classmethod
    def _sum_to_one(cls, value: dict[str, float] | None) -> dict[str, float] | None:
        if value is not None and abs(sum(value.values()) - 1) > 1e-6:
            msg = f"release.splits add up to {sum(value.values()):g}, not to 1"
            raise ValueError(msg)
        if value is not None and "none" in value:
            msg = "release.splits names a split 'none'; chips without a split are called that, so rename it"
            raise ValueError(msg)
        return value


class ComputeConfig(_Section):
    """Engine. Nothing here changes a byte of what is made."""

    workers: Annotated[int, Field(ge=0)] | None = None
    """Worker processes (empty: one per two cores; 0: threads of this process)."""
    threads: Annotated[int, Field(ge=1)] | None = None
    """Threads per worker (empty: 4, since reads wait on the network)."""
    memory_limit: Annotated[str, BeforeValidator(_number_to_text)] = "auto"
    """Memory limit per worker, as Dask writes it."""
    scheduler: str = ""
    """Address of a running Dask scheduler."""
    max_connections: Annotated[int, Field(ge=1)] = 16
    """Reads that one process has open at once."""
    read_retries: Annotated[int, Field(ge=0)] = 8
    """Further tries of a read that failed, before its block fails."""

    @field_validator("memory_limit")
    @classmethod
    def _is_memory(cls, value: str) -> str:
        try:
            known = value == "auto" or (value.strip() != "" and parse_bytes(value) >= 0)
        except ValueError:
            known = False
        if not known:
            msg = f"found {value!r}; expected auto, a size such as 4GiB, or a share of the memory such as 0.5"
            raise ValueError(msg)
        return value


_SENSOR_MODELS: dict[str, type[SensorConfig]] = {
    "s2l2a": Sentinel2Config,
    "s1rtc": Sentinel1Config,
    "lc2l2": LandsatConfig,
    "dem": DemConfig,
    "lulc": LandCoverConfig,
}
_RULE_MODELS: dict[ChoiceRule, type[SensorConfig]] = {
    ChoiceRule.TILE: Sentinel2Config,
    ChoiceRule.ORBIT: Sentinel1Config,
    ChoiceRule.PATH: LandsatConfig,
    ChoiceRule.PERIOD: PeriodConfig,
}
_MASK_KINDS = {MaskRule.CODES: BandKind.CLASSES, MaskRule.BITS: BandKind.FLAGS}
_FORMER_NAMES = {
    "sentinel_2": "s2l2a",
    "sentinel_1": "s1rtc",
    "landsat": "lc2l2",
    "land_cover": "lulc",
    "working_dir": "directory.working",
    "output_dir": "directory.output",
}


class Config(_Section):
    """A dataset version whole."""

    dataset: DatasetConfig
    aoi: AoiConfig
    directory: DirectoryConfig
    log_errors: bool = True
    """Write the reasons of failures into a log file in the working folder."""
    catalog: CatalogConfig = CatalogConfig()
    extra_sensors: dict[str, SensorRow] = {}
    """Further rows of the sensor table, by key; each key is then a section like the built-in sensors' (docs/add-a-sensor.md)."""
    sensors: dict[str, SensorConfig] = Field(default_factory=dict, exclude=False)
    chips: ChipsConfig = ChipsConfig()
    release: ReleaseConfig = ReleaseConfig()
    compute: ComputeConfig = ComputeConfig()
    path: Path = Path()
    """The file that this config was read from."""

    @cached_property
    def table(self) -> SensorTable:
        """The sensor table: the built-in rows, and this config's own after them."""
        return SENSORS.extended(sensor_rows(self.extra_sensors))

    @property
    def ranges(self) -> tuple[TimeRange, ...]:
        """Time ranges of the series sensors."""
        for settings in self.sensors.values():
            if isinstance(settings, SeriesConfig) and settings.time_ranges:
                return tuple(TimeRange.parse(text) for text in settings.time_ranges)
        return ()

    @property
    def series(self) -> tuple[str, ...]:
        """Keys of the configured sensors with dates, in table order."""
        return tuple(key for key in self.sensors if not self.table[key].is_static)

    def bands(self, key: str) -> tuple[str, ...]:
        """Bands that the cube holds of a sensor: those wanted and its cloud band, in table order."""
        bands = self.table[key].bands
        wanted = set(self.sensors[key].bands or (band.name for band in bands))
        cloud_band = getattr(self.sensors[key], "cloud_band", None)
        return tuple(b.name for b in bands if b.name in wanted or b.name == cloud_band)

    @property
    def aoi_path(self) -> Path:
        """The AOI file.

        Raises
        ------
        ConfigError
            If it is nowhere; names the places tried.
        """
        if self.aoi.path:
            places = [self.path.parent / self.aoi.path]
        else:
            name = f"map_{self.aoi.version}.geojson"
            places = [
                self.path.parent / name,
                self.path.parent / "aois" / name,
                CONFIGS / "aois" / name,
                Path("configs/aois") / name,
                Path("data") / name,
            ]
        for place in places:
            if place.is_file():
                return place
        tried = ", ".join(dict.fromkeys(str(place) for place in places))
        key = "aoi.path" if self.aoi.path else "aoi.version"
        raise ConfigError(f"{self.path}: {key}: the AOI file is nowhere; tried {tried}")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        for problem in itertools.chain(
            _sensor_problems(self),
            _size_problems(self),
            _threshold_problems(self),
            _folder_problems(self),
        ):
            raise ValueError(problem)
        return self


def _sensor_problems(config: Config) -> Iterator[str]:
    if "lulc" not in config.sensors:
        yield "section lulc is missing: chips are chosen by land cover"
    if config.series and not config.ranges:
        yield f"{config.series[0]}.time_ranges is missing: a date is chosen per time range"
    for key, settings in config.sensors.items():
        yield from _band_problems(config, key, settings)
        yield from _number_problems(config.table[key], settings)
        if settings.native_crs and config.table[key].choice is not ChoiceRule.TILE:
            yield f"{key}.native_crs: true is possible for s2l2a alone; a cube has one CRS, Sentinel-2's"
        given = settings.time_ranges if isinstance(settings, SeriesConfig) else ()
        if given and tuple(map(TimeRange.parse, given)) != config.ranges:
            yield f"{key}.time_ranges differ from the other sensors'; give them once, under s2l2a"


def _band_problems(config: Config, key: str, settings: SensorConfig) -> Iterator[str]:
    sensor = config.table[key]
    names = [band.name for band in sensor.bands]
    for band in settings.bands:
        if band not in names:
            yield f"{key}.bands: {band!r} is not a band of {sensor.title}; it has {', '.join(names)}"
    if settings.bands and not sensor.exported(settings.bands):
        yield f"{key}.bands: {', '.join(settings.bands)} is a mask, and masks are not exported; add a band"
    cloud_band = getattr(settings, "cloud_band", None)
    masks = [band.name for band in sensor.bands if band.kind is _MASK_KINDS.get(sensor.mask)]
    if cloud_band is not None and cloud_band not in masks:
        there = ", ".join(masks) or f"none, since its row says mask: {sensor.mask}"
        yield f"{key}.cloud_band: {cloud_band!r} is not a mask of {sensor.title}; it has {there}"
    elif cloud_band is not None:
        last = 8 * sensor.band(cloud_band).np_dtype.itemsize - 1
        if beyond := [bit for bit in getattr(settings, "cloud_bits", ()) if bit > last]:
            yield f"{key}.cloud_bits: {cloud_band} has bits 0 to {last}, found {beyond[0]}"
    ranked = isinstance(settings, Sentinel2Config) and settings.rank == "aoi"
    if ranked and not set(masks) & set(config.bands(key)):
        yield f"{key}.rank: aoi needs {key}.cloud_band: {masks[0]}"


def _number_problems(sensor: Sensor, settings: SensorConfig) -> Iterator[str]:
    """Find exported numbers that would not mean what they say."""
    key, kinds = sensor.key, {band.kind for band in sensor.bands}
    if np.dtype(settings.dtype).kind not in "iu":
        return
    if BandKind.BACKSCATTER in kinds:
        yield f"{key}.dtype {settings.dtype} would turn linear power, mostly below 1, into 0; use float32 or float64"
    if BandKind.REFLECTANCE in kinds and settings.fill_na and 1 <= settings.na_value <= _LARGEST_DN:
        yield f"{key}.na_value {settings.na_value:g} is a valid number of {key}; use 0 or one below, or above {_LARGEST_DN}"


def _folder_problems(config: Config) -> Iterator[str]:
    version = config.dataset.version
    cubes, release = (_place(f"{f}/{version}") for f in (config.directory.working, config.directory.output))
    if cubes.is_relative_to(release) or release.is_relative_to(cubes):
        yield (
            f"directory.working and directory.output put the cubes into {cubes} and the release into {release}; "
            "neither may hold the other, or a release would replace the cubes"
        )


def _place(folder: str) -> PurePath:
    """Return where a folder lies, so that two ways to write it compare equal."""
    scheme, separator, rest = folder.partition("://")
    if separator and scheme != "file":
        return PurePosixPath(scheme, posixpath.normpath(rest))
    return Path(rest if separator else folder).resolve()


def _size_problems(config: Config) -> Iterator[str]:
    chips = config.chips
    sizes = {
        "chips.sample_size": chips.sample_size,
        "chips.stride": chips.stride_m,
        "(chips.chip_size - chips.sample_size) / 2": (chips.chip_size - chips.sample_size) / 2,
    }
    for key, settings in config.sensors.items():
        if LATTICE_M % settings.resolution:
            yield f"{key}.resolution {settings.resolution} does not divide the lattice's {LATTICE_M} m"
        for name, size in sizes.items():
            if size % settings.resolution:
                yield f"{name} = {size:g} m is not a multiple of {key}.resolution {settings.resolution} m"
    if config.release.splits and config.release.block_m < chips.chip_size:
        yield f"release.block_m {config.release.block_m} is smaller than chips.chip_size {chips.chip_size}"
    side = config.aoi.max_side_m
    if side is not None and side < max(LATTICE_M, chips.chip_size):
        yield f"aoi.max_side_m {side} is smaller than a chip or a lattice cell ({max(LATTICE_M, chips.chip_size)} m)"


def _threshold_problems(config: Config) -> Iterator[str]:
    for which in ("min_clear", "min_valid"):
        value = getattr(config.chips, which)
        by_sensor = value if isinstance(value, Mapping) else {"": value}
        for sensor, share in by_sensor.items():
            if sensor and sensor not in config.table:
                yield f"chips.{which}.{sensor} is no sensor; there are {', '.join(config.table)}"
            if isinstance(share, tuple) and len(share) != len(config.ranges):
                yield (
                    f"chips.{which} gives {len(share)} shares for {len(config.ranges)} time ranges; "
                    "give one share, or one per range"
                )


class _StrictLoader(yaml.SafeLoader):
    """SafeLoader that refuses a key given twice, and one that is no text."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002  PyYAML's own
        seen: set[object] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise yaml.constructor.ConstructorError(
                    None,
                    None,
                    f"key {key!r} is no text; expected a name, or quotes around it",
                    key_node.start_mark,
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"key {key!r} is given twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep)


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read, check and freeze a config.

    Parameters
    ----------
    path
        YAML file (see DESIGN, or the README's table of keys).
    overrides
        ``key=value`` pairs with dotted keys and YAML values, laid over the file. An empty value stands for the
        default, and of a sensor (``lc2l2=``) for doing without it.

    Returns
    -------
    Config
        Typed and complete; every default is filled in.

    Raises
    ------
    ConfigError
        Names the file, the key, the value and what is allowed.
    """
    path = Path(path)
    data = _read_yaml(path)
    further = data.get("extra_sensors")
    sensors = {*SENSORS, *(further if isinstance(further, dict) else ())}
    data = {key: {} if value is None and key in sensors else value for key, value in data.items()}
    for override in overrides:
        _apply_override(data, override)
    data = {key: value for key, value in data.items() if value is not None}
    try:
        return _parse(data, path)
    except ValidationError as error:
        raise ConfigError(f"{path}: {_explain(error, Config)}") from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _parse(data: Mapping[str, Any], path: Path) -> Config:
    known = Config.model_fields.keys() - {"path", "sensors"}
    table = SENSORS.extended(_further_rows(data.get("extra_sensors", {}), Config.model_fields.keys()))
    sections = {
        key: _given(value, _model_at(Config, [key])) for key, value in data.items() if key not in table
    }
    for name in sections:
        if name not in known:
            raise ConfigError(_unknown(name, [*sorted(known), *table]))
    sensors = {key: _parse_section(key, sensor, data[key]) for key, sensor in table.items() if key in data}
    return Config(**{**sections, "sensors": sensors, "path": path})


def _further_rows(section: object, known: Iterable[str]) -> Iterator[Sensor]:
    """Yield a config's own rows of the sensor table."""
    if not isinstance(section, Mapping):
        raise ConfigError(f"extra_sensors: found {section!r}; expected a section of sensors by key")
    for key, row in section.items():
        if key in known:
            raise ConfigError(f"extra_sensors.{key} is the name of a section already; choose another")
        try:
            yield from sensor_rows({key: row})
        except ValidationError as error:
            raise ConfigError(_explain(error, SensorRow, f"extra_sensors.{key}")) from None
        except ValueError as error:
            raise ConfigError(f"extra_sensors.{error}") from None


def sensor_model(sensor: Sensor) -> type[SensorConfig]:
    """Return the settings that a sensor takes: its own, or those of its choice rule."""
    return _SENSOR_MODELS.get(sensor.key, _RULE_MODELS[sensor.choice])


def _parse_section(key: str, sensor: Sensor, section: object) -> SensorConfig:
    model = sensor_model(sensor)
    if not isinstance(section, Mapping):
        raise ConfigError(f"{key}: found {section!r}; expected a section of keys")
    given: dict[str, Any] = {
        "collection": sensor.collection,
        "resolution": sensor.resolution,
        **_dtype(sensor),
    }
    given |= _given(section, model)
    try:
        return model(**given)
    except ValidationError as error:
        raise ConfigError(_explain(error, model, key)) from None


def _dtype(sensor: Sensor) -> dict[str, str]:
    """Return the dtype of class codes, which are exported as they are; other sensors have their model's default."""
    dtypes = {band.dtype for band in sensor.bands if band.kind is BandKind.CLASSES}
    is_map = sensor.is_static and len(sensor.bands) == len(dtypes) == 1
    return {"dtype": dtypes.pop()} if is_map and sensor.key not in SENSORS else {}


def _given(section: Any, model: type[BaseModel]) -> Any:
    """Leave the empty keys of a section out, so that they mean the default; but where empty is a value of its own."""
    if not isinstance(section, Mapping):
        return section
    fields = model.model_fields
    return {k: v for k, v in section.items() if v is not None or k not in fields or _may_be_empty(fields[k])}


def _may_be_empty(field: FieldInfo) -> bool:
    return NoneType in get_args(field.annotation)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=_StrictLoader)  # noqa: S506  a SafeLoader
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such config file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from None
    except ValueError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"{path}: not valid YAML{where}: {getattr(error, 'problem', error)}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: found no keys; expected sections such as dataset, aoi, directory, lulc")
    return data


def _apply_override(data: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key.strip():
        raise ConfigError(f"--set {override!r}: expected key=value, such as chips.min_purity=0.9")
    try:
        value = yaml.load(text, Loader=_StrictLoader)  # noqa: S506  a SafeLoader
    except (yaml.YAMLError, ValueError):
        raise ConfigError(f"--set {override!r}: the value is not valid YAML") from None
    *parents, last = key.strip().split(".")
    node = data
    for parent in parents:
        if not isinstance(node.get(parent), dict):
            node[parent] = {}
        node = node[parent]
    node[last] = value


def _unknown(key: str, known: Sequence[str], prefix: str = "") -> str:
    full = f"{prefix}.{key}" if prefix else key
    if not prefix and key in _FORMER_NAMES:
        return f"unknown key {full}; it is called {_FORMER_NAMES[key]} now"
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
    return f"unknown key {full}; did you mean {f'{prefix}.{near[0]}' if prefix else near[0]}?"


def _explain(error: ValidationError, model: type[BaseModel], prefix: str = "") -> str:
    """Put pydantic's findings into one line that names keys as the user writes them."""
    parts = []
    found = error.errors()
    for problem in found:
        place = problem["loc"]
        if any(other["loc"][: len(place)] == place != other["loc"] for other in found):
            continue  # a list whose entry is wrong counts as too short, too
        location = [str(part) for part in place]
        key = ".".join([prefix, *location] if prefix else location)
        if problem["type"] == "extra_forbidden":
            owner = _model_at(model, location[:-1])
            parent = ".".join(([prefix] if prefix else []) + location[:-1])
            parts.append(_unknown(location[-1], [*owner.model_fields], parent))
        elif problem["type"] == "missing":
            parts.append(f"{key} is missing")
        elif problem["type"] == "value_error":
            text = problem["msg"].removeprefix("Value error, ")
            parts.append(text if not key or text.startswith(key.split(".")[0] + ".") else f"{key}: {text}")
        else:
            text = problem["msg"][:1].lower() + problem["msg"][1:]
            parts.append(f"{key}: found {problem['input']!r}; {text}")
    return "; ".join(dict.fromkeys(parts))


def _model_at(model: type[BaseModel], location: Sequence[str]) -> type[BaseModel]:
    for name in location:
        annotation = model.model_fields[name].annotation if name in model.model_fields else None
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            model = annotation
    return model
