"""The config sections of sensors: what each can be told."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import BeforeValidator, Field, field_validator, model_validator

from .fields import Metres, Percent, Section, TimeRange, number_to_text, one_or_many
from .paths import PathText
from .sensors import ChoiceRule, Sensor


@dataclass(frozen=True)
class CloudRule:
    """What makes a valid pixel clear, as a sensor's mask band tells."""

    band: str
    """Name of the mask band."""
    clear_codes: tuple[int, ...] = ()
    """Of a classification: codes that count as clear."""
    cloudy_bits: tuple[int, ...] = ()
    """Of a bit field: bits that make a pixel cloudy."""
    buffer_px: int = 0
    """A pixel is clear only if all pixels this far around are."""


class SensorConfig(Section):
    """Keys that every sensor takes."""

    collection: str
    """STAC collection."""
    catalog: PathText | None = None
    """A profile, STAC API or file of its own for this sensor (empty: as catalog says)."""
    bands: Annotated[tuple[str, ...], BeforeValidator(one_or_many)] = ()
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

    @property
    def cloud_rule(self) -> CloudRule | None:
        """The rule of this sensor; None where clear means valid."""
        return None

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

    time_ranges: Annotated[tuple[str, ...], BeforeValidator(one_or_many)] = ()
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
    """Least cloudy by the item's cloud cover, or by the clear share over the AOI (SCL overviews of
    the best few)."""
    clear: tuple[Annotated[int, Field(ge=1, le=11)], ...] = (2, 4, 5, 6, 11)
    """SCL codes that count as clear."""

    @property
    def cloud_rule(self) -> CloudRule | None:
        """SCL's codes; None without ``cloud_band``."""
        band = self.cloud_band
        return None if band is None else CloudRule(band, clear_codes=tuple(sorted(self.clear)))


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
    platforms: Annotated[tuple[str, ...], BeforeValidator(one_or_many)] = ("landsat-8", "landsat-9")
    """Platforms whose scenes may be chosen."""
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

    @property
    def cloud_rule(self) -> CloudRule | None:
        """The quality band's bits; None without ``cloud_band``."""
        if self.cloud_band is None:
            return None
        bits, buffer = tuple(sorted(self.cloud_bits)), self.cloud_buffer_px
        return CloudRule(self.cloud_band, cloudy_bits=bits, buffer_px=buffer)


class PeriodConfig(SensorConfig):
    """A layer without dates: all items of a period, mosaicked."""

    year: Annotated[str, BeforeValidator(number_to_text)]
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
    year: Annotated[str, BeforeValidator(number_to_text)] = "2021-01-02/2021-12-31"
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


def sensor_model(sensor: Sensor) -> type[SensorConfig]:
    """Return the settings that a sensor takes: its own, or those of its choice rule."""
    return _SENSOR_MODELS.get(sensor.key, _RULE_MODELS[sensor.choice])
