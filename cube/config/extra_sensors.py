"""Further rows of the sensor table, as a config's ``extra_sensors`` describes them."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from .sensors import SENSORS, Band, BandKind, ChoiceRule, MaskRule, Sensor

_KEY = re.compile(r"[a-z][a-z0-9]*")
"""Keys become names of groups, files and columns; an underscore parts them from what follows
there."""
_TAKEN = frozenset({"x", "y", "time", "spatial_ref", "scene_ids"})
"""Names of a group's coordinates."""
_WORD = re.compile(r"[A-Za-z0-9_./+-]+")
_REQUIRED = {
    ChoiceRule.ORBIT: ("sat:relative_orbit",),
    ChoiceRule.PATH: ("platform", "landsat:wrs_path"),
    ChoiceRule.PERIOD: (),
}
"""Properties that each rule chooses by."""
_DTYPES = {
    BandKind.REFLECTANCE: ("uint8", "uint16"),
    BandKind.BACKSCATTER: ("float32",),
    BandKind.ELEVATION: ("float32",),
    BandKind.CLASSES: ("uint8", "int16", "uint16", "int32", "uint32"),
    BandKind.FLAGS: ("uint8", "uint16", "uint32"),
}
"""What the numbers of each kind may be in the cube."""


class _Row(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, ser_json_inf_nan="strings"
    )


class BandRow(_Row):
    """One band of a further sensor."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")]
    """Name in the cube."""
    asset: str = ""
    """Key of the STAC asset (empty: the name)."""
    kind: BandKind
    """reflectance, backscatter, elevation, classes or flags."""
    dtype: Literal["uint8", "int16", "uint16", "int32", "uint32", "float32"]
    """dtype in the cube."""
    nodata: float
    """What the cube holds where the archive has nothing (.nan for floats; of flags, the fill
    bit)."""
    units: str = "1"
    """CF units."""
    long_name: str = ""
    """For people (empty: the name)."""
    scale: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    """Of reflectance: physical = scale * number + offset."""
    offset: Annotated[float, Field(allow_inf_nan=False)] = 0.0
    """Of reflectance: what is added to scale * number."""
    flags: dict[int, str] = {}
    """Meaning of every class code, or of every bit mask."""
    pixel_m: Annotated[int, Field(gt=0)] | None = None
    """Pixel size of the archive's files, metres, for the estimate of costs (empty: the sensor's
    resolution)."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if problem := next(self._problems(), None):
            raise ValueError(problem)
        return self

    def _problems(self) -> Iterator[str]:
        if self.dtype not in _DTYPES[self.kind]:
            yield f"kind {self.kind} cannot be dtype {self.dtype}; use {' or '.join(_DTYPES[self.kind])}"
        elif not _dtype_holds(self.dtype, self.nodata):
            yield (
                f"nodata {self.nodata:g} does not fit dtype {self.dtype}; "
                "floats have .nan, integers a number of theirs"
            )
        elif self.kind is BandKind.FLAGS and int(self.nodata).bit_count() != 1:
            yield (
                f"nodata {self.nodata:g} is no single bit; "
                "of flags it is the mask of the bit that says fill, such as 1"
            )
        if self.name in _TAKEN:
            yield f"name {self.name} is that of a coordinate of the cube; choose another"
        if self.kind is not BandKind.REFLECTANCE and (self.scale, self.offset) != (1.0, 0.0):
            yield f"scale and offset are those of reflectance; kind {self.kind} is stored as it is"
        if self.flags and self.kind not in (BandKind.CLASSES, BandKind.FLAGS):
            yield f"flags are meanings of classes or of bits, which kind {self.kind} has not"
        for code, meaning in self.flags.items():
            if not _dtype_holds(self.dtype, code):
                yield f"flags: {code} does not fit dtype {self.dtype}"
            if not _WORD.fullmatch(meaning):
                yield (
                    f"flags: {code} means {meaning!r}; "
                    "write it as one word, such as tree_cover (CF parts them by blanks)"
                )

    def band(self) -> Band:
        """Return the table's form."""
        return Band(
            self.name,
            self.kind,
            self.dtype,
            self.nodata,
            self.units,
            self.long_name or self.name,
            self.asset,
            self.scale,
            self.offset,
            tuple(sorted(self.flags.items())),
            self.pixel_m,
        )


def _dtype_holds(dtype: str, value: float) -> bool:
    """Tell whether a dtype has a number, or NaN for a float."""
    if np.dtype(dtype).kind == "f":
        return math.isnan(value)
    info = np.iinfo(dtype)
    return info.min <= value <= info.max and float(value).is_integer()


class SensorRow(_Row):
    """A further sensor: one collection, and how it is treated."""

    title: str
    """For people."""
    collection: str
    """STAC collection."""
    choice: Literal[ChoiceRule.ORBIT, ChoiceRule.PATH, ChoiceRule.PERIOD]
    """How scenes are chosen: period (all items of a period, no dates), orbit (as Sentinel-1) or
    path (as Landsat)."""
    resolution: Annotated[int, Field(gt=0)]
    """Default pixel size of the cube, metres."""
    bands: Annotated[tuple[BandRow, ...], Field(min_length=1)]
    """Its bands, masks among them."""
    source_nodata: float | None = None
    """Nodata of the archive's files where neither item nor file says so (empty: the band's
    nodata)."""
    mask: Literal[MaskRule.NONE, MaskRule.BITS] = MaskRule.NONE
    """none, or bits: a band of flags tells what is clear (name it as cloud_band; path rule
    only)."""
    zero_is_nodata: bool = False
    """true where the archive leaves unmarked zeros outside a swath."""
    resampling: Literal["nearest", "bilinear", "cubic", "cubic_spline", "lanczos", "average"] = "bilinear"
    """GDAL resampling of continuous bands where grids differ; classes and flags are nearest."""
    true_color: tuple[str, ...] = ()
    """Bands that pictures show as red, green and blue (empty: the first band, grey)."""
    attribution: str = ""
    """Goes into chips and the release's card."""
    licence: str = ""
    """Goes into the release's card."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if problem := next(self._problems(), None):
            raise ValueError(problem)
        return self

    def _problems(self) -> Iterator[str]:
        names = Counter(band.name for band in self.bands)
        if twice := [name for name, count in names.items() if count > 1]:
            yield f"band {twice[0]} is named twice"
        kinds = {band.kind for band in self.bands}
        if self.mask is MaskRule.BITS and not (BandKind.FLAGS in kinds and self.choice is ChoiceRule.PATH):
            yield "mask bits needs a band of kind flags, and choice path"
        if self.choice is not ChoiceRule.PERIOD and kinds <= {BandKind.CLASSES, BandKind.FLAGS}:
            yield (
                "all bands are masks, which are not exported where there are dates; "
                f"add a band, or use choice {ChoiceRule.PERIOD}"
            )
        reflectance = [band.name for band in self.bands if band.kind is BandKind.REFLECTANCE]
        if self.true_color and (len(self.true_color) != 3 or not set(self.true_color) <= set(reflectance)):
            yield f"true_color is {', '.join(self.true_color)}; expected three bands of kind reflectance"

    def sensor(self, key: str) -> Sensor:
        """Return the table's form."""
        return Sensor(
            key=key,
            title=self.title,
            collection=self.collection,
            choice=self.choice,
            mask=self.mask,
            resolution=self.resolution,
            bands=tuple(band.band() for band in self.bands),
            source_nodata=self.source_nodata,
            zero_is_nodata=self.zero_is_nodata,
            required=_REQUIRED[self.choice],
            attribution=self.attribution,
            licence=self.licence,
            resampling=self.resampling,
            true_color=self.true_color,
        )


def sensor_rows(section: Mapping[str, Any]) -> tuple[Sensor, ...]:
    """Return rows of the table, in the section's order.

    Parameters
    ----------
    section
        :class:`SensorRow` values, or what they are read from, by key.

    Raises
    ------
    ValueError
        If a key is a built-in sensor's or cannot be a name; pydantic's ValidationError if a row is
        wrong.
    """
    for key in section:
        if key in SENSORS:
            msg = f"{key} is the name of a sensor already; choose another"
            raise ValueError(msg)
        if not _KEY.fullmatch(key):
            msg = f"{key!r} cannot be a sensor's name; use small letters and digits, such as worldcover"
            raise ValueError(msg)
    return tuple(SensorRow.model_validate(row).sensor(key) for key, row in section.items())
