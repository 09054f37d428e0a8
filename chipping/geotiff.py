"""Chips as GeoTIFF: numbers in the exported dtype, and all that GDAL and QGIS ask of them."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import tifffile
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.io import MemoryFile

from cube.config.sensor_models import SensorConfig
from cube.config.sensors import Band, BandKind, Sensor
from cube.errors import ConfigError

Compression = Literal["deflate", "zstd", "none"]
Array = NDArray[np.generic]

_COMPRESSION: dict[Compression, dict[str, Any]] = {
    "deflate": {"compression": "adobe_deflate", "compressionargs": {"level": 1}},
    "zstd": {"compression": "zstd", "compressionargs": {"level": 3}},
    "none": {},
}
"""Measured on real chips: after the predictor, deflate at 1 is as small as at 6 and a fifth faster;
zstd beyond 3 gains less than a hundredth of the size."""


@dataclass(frozen=True)
class RasterSettings:
    """How one sensor's chips are written."""

    sensor: Sensor
    bands: tuple[str, ...]
    dtype: str
    nodata: float
    """What the file names as nodata, and holds where the cube has nothing."""

    @property
    def is_integer(self) -> bool:
        """True where the archive's integers are exported, not physical values."""
        return np.dtype(self.dtype).kind in "iu"

    @property
    def scales(self) -> tuple[float, ...]:
        """What each band's exported numbers are to be multiplied with."""
        return tuple(self.sensor.band(name).scale if self.is_integer else 1.0 for name in self.bands)

    @property
    def offsets(self) -> tuple[float, ...]:
        """What is to be added to each band's numbers, once scaled."""
        return tuple(self.sensor.band(name).offset if self.is_integer else 0.0 for name in self.bands)


def raster_settings(sensor: Sensor, settings: SensorConfig, bands: Sequence[str]) -> RasterSettings:
    """Return how a config wants a sensor's chips written; `bands` are exported in this order.

    Raises
    ------
    ConfigError
        If the dtype has no number for the archive's nodata, and none is given.
    """
    key = sensor.key
    nodata = exported_nodata(sensor, bands, settings.dtype, settings.na_value if settings.fill_na else None)
    if np.dtype(settings.dtype).kind in "iu" and math.isnan(nodata):
        raise ConfigError(
            f"{key}.dtype {settings.dtype} cannot hold the archive's nodata, NaN; "
            f"set {key}.fill_na: true and a na_value"
        )
    return RasterSettings(sensor, tuple(bands), settings.dtype, nodata)


def exported_nodata(sensor: Sensor, bands: Sequence[str], dtype: str, fill: float | None) -> float:
    """Return what a sensor's files name as nodata.

    `fill` is what the config wants instead of the archive's nodata; None: that, or NaN where
    integers with dates become floats.
    """
    if fill is not None:
        return fill
    keeps_archive = np.dtype(dtype).kind in "iu" or sensor.is_static
    return sensor.band(bands[0]).nodata if keeps_archive else math.nan


def to_exported(values: Array, band: Band, settings: RasterSettings) -> Array:
    """Turn the cube's numbers, ``(..., y, x)`` of one band, into exported ones.

    An integer dtype holds the cube's integers, saturated; a float dtype holds physical values.
    Masks stay what they are: a code or a bit of theirs says where there is no data.

    Examples
    --------
    >>> from cube.config.sensors import SENSORS
    >>> dn, s2l2a = np.array([[0, 1500, 65535]], "uint16"), SENSORS["s2l2a"]
    >>> to_exported(dn, s2l2a.band("B04"), RasterSettings(s2l2a, ("B04",), "int16", 0)).tolist()
    [[0, 1500, 32767]]
    >>> physical = RasterSettings(s2l2a, ("B04",), "float32", math.nan)
    >>> to_exported(dn, s2l2a.band("B04"), physical).round(2).tolist()
    [[nan, 0.15000000596046448, 6.550000190734863]]
    """
    dtype = np.dtype(settings.dtype)
    if settings.sensor.is_mask(band.name):
        return values.astype(dtype)
    out = _saturated(values, dtype) if settings.is_integer else _physical_values(values, band, dtype)
    if not _same_number(settings.nodata, band.nodata) or not settings.is_integer:
        out = np.where(band.is_nodata(values), dtype.type(settings.nodata), out)
    return out


def _same_number(one: float, two: float) -> bool:
    return one == two or (math.isnan(one) and math.isnan(two))


def _saturated(values: Array, dtype: np.dtype[Any]) -> Array:
    info = np.iinfo(dtype.name)
    if values.dtype.kind == "f":
        return np.clip(np.rint(np.nan_to_num(values)), info.min, info.max).astype(dtype)
    held = np.iinfo(values.dtype.name)
    if held.min < info.min or held.max > info.max:
        values = np.clip(values, max(info.min, held.min), min(info.max, held.max))
    return values.astype(dtype)


def _physical_values(values: Array, band: Band, dtype: np.dtype[Any]) -> Array:
    out = values.astype(dtype)
    if band.kind is BandKind.REFLECTANCE:
        out = out * dtype.type(band.scale) + dtype.type(band.offset)
    return out


TiffTag = tuple[int, int, int, Any, bool]
"""Code, type, count and value of a TIFF tag, and True: as ``tifffile`` takes further ones."""

_GEO_AND_GDAL_TAGS = (34735, 34736, 34737, 42112, 42113)
"""The keys of the CRS with their numbers and texts, GDAL's metadata and nodata."""
_PIXEL_SCALE, _TIEPOINT = 33550, 33922
_DOUBLE = 12


@lru_cache(maxsize=1024)
def gdal_tags(settings: RasterSettings, epsg: int, tags: tuple[tuple[str, str], ...]) -> tuple[TiffTag, ...]:
    """Return the TIFF tags by which GDAL tells all of a raster but its pixels and its place.

    GDAL itself writes them, into a file of one pixel; the files of a date differ by their place
    alone, and creating each through GDAL costs more than compressing it.

    Parameters
    ----------
    settings
        Names, units, scaling and nodata of the bands.
    epsg
        The CRS.
    tags
        Of the file, in pairs of name and value.
    """
    profile = {
        "driver": "GTiff",
        "dtype": "float64",  # tells nodata as every dtype does
        "count": len(settings.bands),
        "height": 1,
        "width": 1,
        "crs": CRS.from_epsg(epsg),
        "transform": Affine(1, 0, 0, 0, -1, 1),
        "nodata": settings.nodata,
    }
    with MemoryFile() as memory:
        with memory.open(**profile) as file:
            _write_band_facts(file, settings)
            file.update_tags(AREA_OR_POINT="Area", **dict(tags))
        with tifffile.TiffFile(io.BytesIO(memory.getbuffer())) as written:
            found = written.pages.first.tags
            return tuple(
                (tag.code, int(tag.dtype), tag.count, _bytes_of_text(tag.value), True)
                for tag in (found.get(code) for code in _GEO_AND_GDAL_TAGS)
                if tag is not None
            )


def _bytes_of_text(value: Any) -> Any:
    """Return texts as UTF-8, which GDAL reads; as ``str`` they could be ASCII alone."""
    return value.encode() if isinstance(value, str) else value


def encode_tiff(
    values: Array,
    tags: Iterable[TiffTag],
    transform: Affine,
    compress: Compression,
) -> bytes:
    """Return a GeoTIFF's bytes; equal arguments give equal bytes.

    `values` are ``(band, y, x)`` in the exported dtype, `tags` are :func:`gdal_tags`, `transform`
    leads from the pixels of a north-up grid to metres. A band is one strip; differences of
    neighbours are coded (predictor 2, or 3 for floats).
    """
    place: list[TiffTag] = [
        (_PIXEL_SCALE, _DOUBLE, 3, (transform.a, -transform.e, 0.0), True),
        (_TIEPOINT, _DOUBLE, 6, (0.0, 0.0, 0.0, transform.c, transform.f, 0.0), True),
    ]
    several = len(values) > 1
    buffer = io.BytesIO()
    tifffile.imwrite(
        buffer,
        values if several else values[0],
        byteorder="<",
        photometric="minisblack",
        planarconfig="separate" if several else None,
        rowsperstrip=values.shape[1],
        predictor=compress != "none",
        metadata=None,  # the description would be the array's shape
        software=False,
        extratags=[*place, *tags],
        **_COMPRESSION[compress],
    )
    return buffer.getvalue()


def _write_band_facts(file: Any, settings: RasterSettings) -> None:
    bands = [settings.sensor.band(name) for name in settings.bands]
    for index, band in enumerate(bands, start=1):
        if settings.sensor.is_mask(band.name) and band.flags:
            codes, meanings = zip(*band.flags, strict=True)
            flags = {band.flags_key: ",".join(map(str, codes)), "flag_meanings": " ".join(meanings)}
            file.update_tags(index, **flags)
    file.descriptions = settings.bands
    units = [band.units for band in bands]
    if set(settings.scales) != {1.0} or set(settings.offsets) != {0.0}:
        file.scales, file.offsets = settings.scales, settings.offsets
    if any(unit != "1" for unit in units):
        file.units = units
