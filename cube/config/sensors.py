"""The sensor table: every fact about a collection that the program relies on, as rows of data.

A sixth sensor is a row, in a config's ``extra_sensors`` (see :mod:`cube.config.extra_sensors`),
and, if none of the rules fits, a rule in :mod:`cube.scenes` (which dates) or :mod:`chipping.masks`
(what counts as clear).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray


class BandKind(StrEnum):
    """What the numbers of a band are; decides scaling, resampling, and whether it is exported."""

    REFLECTANCE = "reflectance"
    BACKSCATTER = "backscatter"
    ELEVATION = "elevation"
    CLASSES = "classes"
    FLAGS = "flags"


class ChoiceRule(StrEnum):
    """How a sensor's scenes are chosen (see :mod:`cube.scenes`)."""

    TILE = "tile"
    """One scene per time range, all of one MGRS tile, least cloudy first."""
    ORBIT = "orbit"
    """One pass per time range, all of one relative orbit, nearest in time first."""
    PATH = "path"
    """One date per time range, all of one WRS path, least cloudy first."""
    PERIOD = "period"
    """Every item of the period; no time axis."""


class MaskRule(StrEnum):
    """What makes a valid pixel a clear one."""

    NONE = "none"
    CODES = "codes"
    """The mask band's code is among those that count as clear."""
    BITS = "bits"
    """None of the given bits is set, here and in the buffer around."""


@dataclass(frozen=True, slots=True)
class Band:
    """One layer of a sensor, as it lies in the archive and in the cube."""

    name: str
    kind: BandKind
    dtype: str
    """dtype in the cube; the archive's, but for float64 and the like."""
    nodata: float
    """What the cube holds where the archive has nothing (NaN for float bands)."""
    units: str
    long_name: str
    asset: str = ""
    """STAC asset key; the name where empty."""
    scale: float = 1.0
    offset: float = 0.0
    flags: tuple[tuple[int, str], ...] = ()
    """CF ``flag_values`` (codes) or ``flag_masks`` (bit fields) and their meanings."""
    pixel_m: int | None = None
    """Pixel size of the archive's files, metres (None: the sensor's default resolution)."""

    @property
    def asset_key(self) -> str:
        """STAC asset key of the band."""
        return self.asset or self.name

    @property
    def is_mask(self) -> bool:
        """True for layers that stay integers: codes of classes, and bit fields."""
        return self.kind in (BandKind.CLASSES, BandKind.FLAGS)

    @property
    def flags_key(self) -> str:
        """Name that CF has for the numbers of its flags."""
        return "flag_masks" if self.kind is BandKind.FLAGS else "flag_values"

    @property
    def np_dtype(self) -> np.dtype[np.generic]:
        """Dtype in the cube."""
        return np.dtype(self.dtype)

    def is_nodata(self, values: NDArray[Any]) -> NDArray[np.bool_]:
        """Return where `values` of this band are nodata; bit fields have a fill bit for it."""
        if self.kind is BandKind.FLAGS:
            return np.asarray((values & int(self.nodata)) != 0)
        return np.asarray(np.isnan(values) if np.isnan(self.nodata) else values == self.nodata)

    @property
    def compressor(self) -> Literal["lz4", "zstd"]:
        """What Blosc compresses its chunks with, after a bit shuffle.

        On real pixels, lz4 makes floats 3 % larger than zstd and writes and reads them three times
        as fast; it makes integers half as large again.
        """
        return "lz4" if self.np_dtype.kind == "f" else "zstd"


@dataclass(frozen=True, slots=True)
class Sensor:
    """A row of the table: one collection and how this program treats it."""

    key: str
    title: str
    collection: str
    choice: ChoiceRule
    mask: MaskRule
    resolution: int
    """Default grid resolution, metres."""
    bands: tuple[Band, ...]
    source_nodata: float | None
    """Nodata of the archive's files where neither item nor file says so (None: what the cube holds
    for it)."""
    zero_is_nodata: bool = False
    """True where the archive leaves unmarked zeros outside the swath (Sentinel-1 RTC)."""
    baseline_offset: bool = False
    """True where DN of processing baseline 04.00 and later carry +1000 (Sentinel-2)."""
    required: tuple[str, ...] = ()
    """Properties that an item must have: the choice, or the meaning of the pixels, hangs on
    them."""
    attribution: str = ""
    licence: str = ""
    resampling: str = "bilinear"
    """GDAL resampling of continuous bands where the grids differ; masks and classes are nearest."""
    true_color: tuple[str, ...] = ()
    """Bands that pictures show as red, green and blue."""
    years: tuple[int, int] | None = None
    """First and last year of a collection that is finished (None: it has no end)."""

    def exported(self, names: Iterable[str], *, masks: bool = False) -> tuple[str, ...]:
        """Return the named bands that chips hold: images, and, if asked for, masks after them.

        A layer of classes without a time axis is an image, not a mask.
        """
        images = [name for name in names if not self.is_mask(name)]
        return (*images, *(name for name in names if masks and self.is_mask(name)))

    def is_mask(self, name: str) -> bool:
        """Tell whether the band called `name` says of the others where they can be trusted."""
        return not self.is_static and self.band(name).is_mask

    def nodata_of(self, band: Band) -> float:
        """Return the nodata of a band's files where neither item nor file says so."""
        return band.nodata if self.source_nodata is None else self.source_nodata

    @property
    def is_static(self) -> bool:
        """True where the sensor has no time axis."""
        return self.choice is ChoiceRule.PERIOD

    def band(self, name: str) -> Band:
        """Return the band called `name`; KeyError if the row has none."""
        for band in self.bands:
            if band.name == name:
                return band
        raise KeyError(name)


class SensorTable(Mapping[str, Sensor]):
    """Sensors by key, in order; frozen, so what a config adds makes another table.

    Plans, cubes, chips and releases hold their own rows, so that any number of configs can be in
    use at once.
    """

    def __init__(self, rows: Iterable[Sensor]) -> None:
        self._rows = {row.key: row for row in rows}

    def extended(self, rows: Iterable[Sensor]) -> SensorTable:
        """Return a table with further rows after these."""
        return SensorTable((*self.values(), *rows))

    def __getitem__(self, key: str) -> Sensor:
        """Return the row called `key`."""
        return self._rows[key]

    def __iter__(self) -> Iterator[str]:
        """Go through the keys."""
        return iter(self._rows)

    def __len__(self) -> int:
        """Return the number of sensors."""
        return len(self._rows)

    @property
    def series(self) -> tuple[str, ...]:
        """Keys of the sensors with dates."""
        return tuple(key for key, sensor in self.items() if not sensor.is_static)

    @property
    def static(self) -> tuple[str, ...]:
        """Keys of the sensors without a time axis."""
        return tuple(key for key, sensor in self.items() if sensor.is_static)


CLASS_NAMES: dict[int, str] = {
    0: "No data",
    1: "Water",
    2: "Trees",
    4: "Flooded vegetation",
    5: "Crops",
    7: "Built area",
    8: "Bare ground",
    9: "Snow/ice",
    10: "Clouds",
    11: "Rangeland",
}
"""Codes of the Impact Observatory annual map, version 2."""


def class_codes(value: object) -> object:
    """Return class codes for what a config says: codes or names, one, a list, or ``1,2,5``.

    Raises
    ------
    ValueError
        At what is no class; lists them.
    """
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",") if part.strip()]
    elif isinstance(value, int) and not isinstance(value, bool):
        value = [value]
    return tuple(map(_class_code, value)) if isinstance(value, (list, tuple)) else value or ()


def _class_code(given: object) -> object:
    code = given
    if isinstance(given, str):
        name = given.strip().casefold().replace("_", " ")
        codes = {text.casefold(): code for code, text in CLASS_NAMES.items()}
        begins = [code for text, code in codes.items() if name and text.startswith(name)]
        code = int(name) if name.isdecimal() else codes.get(name, begins[0] if len(begins) == 1 else given)
    if isinstance(code, str) or (isinstance(code, int) and code not in CLASS_NAMES):
        known = ", ".join(f"{code} {text}" for code, text in CLASS_NAMES.items())
        msg = f"found {given!r}; expected codes or names of classes: {known}"
        raise ValueError(msg)
    return code


CLASS_COLORS: dict[int, str] = {
    1: "#419bdf",
    2: "#397d49",
    4: "#7a87c6",
    5: "#e49635",
    7: "#c4281b",
    8: "#a59b8f",
    9: "#b39fe1",
    11: "#e3e2c3",
}
"""The map's own colours."""

_SCL_FLAGS = (
    (0, "no_data"),
    (1, "saturated_or_defective"),
    (2, "dark_area"),
    (3, "cloud_shadow"),
    (4, "vegetation"),
    (5, "not_vegetated"),
    (6, "water"),
    (7, "unclassified"),
    (8, "cloud_medium_probability"),
    (9, "cloud_high_probability"),
    (10, "thin_cirrus"),
    (11, "snow_or_ice"),
)
_QA_FLAGS = (
    (1 << 0, "fill"),
    (1 << 1, "dilated_cloud"),
    (1 << 2, "cirrus"),
    (1 << 3, "cloud"),
    (1 << 4, "cloud_shadow"),
    (1 << 5, "snow"),
    (1 << 6, "clear"),
    (1 << 7, "water"),
)

_S2_NAMES = {
    "B01": "coastal aerosol, 443 nm",
    "B02": "blue, 492 nm",
    "B03": "green, 560 nm",
    "B04": "red, 665 nm",
    "B05": "red edge 1, 704 nm",
    "B06": "red edge 2, 741 nm",
    "B07": "red edge 3, 783 nm",
    "B08": "near infrared, 833 nm",
    "B8A": "narrow near infrared, 865 nm",
    "B09": "water vapour, 945 nm",
    "B11": "short-wave infrared 1, 1614 nm",
    "B12": "short-wave infrared 2, 2202 nm",
}
_S2_PIXEL_M = dict.fromkeys(("B01", "B09"), 60) | dict.fromkeys(
    ("B05", "B06", "B07", "B8A", "B11", "B12", "SCL"), 20
)
_LANDSAT_NAMES = {
    "coastal": "coastal aerosol, 443 nm",
    "blue": "blue, 482 nm",
    "green": "green, 561 nm",
    "red": "red, 655 nm",
    "nir08": "near infrared, 865 nm",
    "swir16": "short-wave infrared 1, 1609 nm",
    "swir22": "short-wave infrared 2, 2201 nm",
}


def _reflectance(name: str, long_name: str, scale: float, offset: float = 0.0) -> Band:
    pixel_m = _S2_PIXEL_M.get(name)
    return Band(
        name, BandKind.REFLECTANCE, "uint16", 0, "1", long_name, scale=scale, offset=offset, pixel_m=pixel_m
    )


SENSORS = SensorTable(
    (
        Sensor(
            key="s2l2a",
            title="Sentinel-2 L2A",
            collection="sentinel-2-l2a",
            choice=ChoiceRule.TILE,
            mask=MaskRule.CODES,
            resolution=10,
            # Sentinel-2 products: reflectance = DN / 10000 once the baseline's offset is taken off.
            bands=(
                *(_reflectance(name, text, 1e-4) for name, text in _S2_NAMES.items()),
                Band(
                    "SCL",
                    BandKind.CLASSES,
                    "uint8",
                    0,
                    "1",
                    "scene classification",
                    flags=_SCL_FLAGS,
                    pixel_m=_S2_PIXEL_M["SCL"],
                ),
            ),
            source_nodata=0,
            baseline_offset=True,
            required=("s2:mgrs_tile", "s2:processing_baseline"),
            resampling="nearest",
            true_color=("B04", "B03", "B02"),
            attribution="Contains modified Copernicus Sentinel data",
            licence="Copernicus Sentinel data: free, full and open",
        ),
        Sensor(
            key="s1rtc",
            title="Sentinel-1 RTC",
            collection="sentinel-1-rtc",
            choice=ChoiceRule.ORBIT,
            mask=MaskRule.NONE,
            resolution=10,
            bands=(
                Band("vv", BandKind.BACKSCATTER, "float32", np.nan, "1", "gamma naught, VV, linear power"),
                Band("vh", BandKind.BACKSCATTER, "float32", np.nan, "1", "gamma naught, VH, linear power"),
            ),
            source_nodata=-32768,
            zero_is_nodata=True,
            required=("sat:relative_orbit",),
            attribution="Contains modified Copernicus Sentinel data, terrain-corrected by Catalyst",
            licence="CC BY 4.0",
        ),
        Sensor(
            key="lc2l2",
            title="Landsat Collection 2 Level-2",
            collection="landsat-c2-l2",
            choice=ChoiceRule.PATH,
            mask=MaskRule.BITS,
            resolution=30,
            # Landsat Collection 2 Level-2 Science Product Guide: DN * 0.0000275 - 0.2.
            bands=(
                *(_reflectance(name, text, 2.75e-5, -0.2) for name, text in _LANDSAT_NAMES.items()),
                Band("qa_pixel", BandKind.FLAGS, "uint16", 1, "1", "pixel quality bits", flags=_QA_FLAGS),
            ),
            source_nodata=0,
            required=("platform", "landsat:wrs_path"),
            resampling="cubic",
            true_color=("red", "green", "blue"),
            attribution="Landsat Level-2 products courtesy of the U.S. Geological Survey",
            licence="Public domain",
        ),
        Sensor(
            key="dem",
            title="Copernicus DEM GLO-30",
            collection="cop-dem-glo-30",
            choice=ChoiceRule.PERIOD,
            mask=MaskRule.NONE,
            resolution=30,
            bands=(
                Band(
                    "elevation",
                    BandKind.ELEVATION,
                    "float32",
                    np.nan,
                    "m",
                    "height above the EGM2008 geoid",
                    asset="data",
                ),
            ),
            source_nodata=np.nan,
            attribution="Copernicus DEM: (c) DLR e.V. 2010-2014 and (c) Airbus Defence and Space GmbH "
            "2014-2018 provided under COPERNICUS by the European Union and ESA; all rights reserved",
            licence="Copernicus DEM licence: free of charge, attribution required",
        ),
        Sensor(
            key="lulc",
            title="Impact Observatory annual land cover",
            collection="io-lulc-annual-v02",
            choice=ChoiceRule.PERIOD,
            mask=MaskRule.NONE,
            resolution=10,
            bands=(
                Band(
                    "lulc",
                    BandKind.CLASSES,
                    "uint8",
                    0,
                    "1",
                    "land cover class",
                    asset="data",
                    flags=tuple((code, name.lower().replace(" ", "_")) for code, name in CLASS_NAMES.items()),
                ),
            ),
            source_nodata=0,
            resampling="nearest",
            years=(2017, 2023),
            attribution="Impact Observatory, Microsoft and Esri annual land use land cover",
            licence="CC BY 4.0",
        ),
    )
)
