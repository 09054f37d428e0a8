"""Rows of the sensor table from a config's ``extra_sensors``: YAML in, checked :class:`cube.sensors.Sensor` values out."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from .sensors import SENSORS, Band, BandKind, ChoiceRule, MaskRule, Sensor

__all__ = ["SensorRow", "sensor_rows"]

_KEY = re.compile(r"[a-z][a-z0-9]*")
"""Keys become names of groups, files and columns; an underscore parts them from what follows there."""
_REQUIRED = {
    ChoiceRule.ORBIT: ("sat:relative_orbit",),
    ChoiceRule.PATH: ("eo:cloud_cover", "landsat:wrs_path"),
    ChoiceRule.PERIOD: (),
}
"""Properties that each rule chooses by."""


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
    """What the cube holds where the archive has nothing (.nan for floats; of flags, the fill bit)."""
    units: str = "1"
    """CF units."""
    long_name: str = ""
    """For people (empty: the name)."""
    scale: float = 1.0
    """physical = scale * number + offset"""
    offset: float = 0.0
    """As scale."""
    flags: dict[int, str] = {}
    """Meaning of every class code, or of every bit mask."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        is_float = np.dtype(self.dtype).kind == "f"
        if is_float != math.isnan(self.nodata):
            msg = (
                f"nodata {self.nodata:g} does not fit dtype {self.dtype}; floats have .nan, integers a number"
            )
            raise ValueError(msg)
        if not is_float:
            info = np.iinfo(self.dtype)
            if not (info.min <= self.nodata <= info.max and self.nodata.is_integer()):
                msg = f"nodata {self.nodata:g} does not fit dtype {self.dtype} ({info.min}..{info.max})"
                raise ValueError(msg)
        if self.kind in (BandKind.CLASSES, BandKind.FLAGS) and is_float:
            msg = f"kind {self.kind} has integer codes, not dtype {self.dtype}"
            raise ValueError(msg)
        return self

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
            tuple(self.flags.items()),
        )


class SensorRow(_Row):
    """A further sensor: one collection, and how it is treated."""

    title: str
    """For people."""
    collection: str
    """STAC collection."""
    choice: Literal[ChoiceRule.ORBIT, ChoiceRule.PATH, ChoiceRule.PERIOD]
    """How scenes are chosen: period (all items of a period, no dates), orbit (as Sentinel-1) or path (as Landsat)."""
    resolution: Annotated[int, Field(gt=0)]
    """Default pixel size of the cube, metres."""
    bands: Annotated[tuple[BandRow, ...], Field(min_length=1)]
    """Its bands, masks among them."""
    source_nodata: float = 0.0
    """Nodata of the archive's files where neither item nor file says so."""
    mask: Literal[MaskRule.NONE, MaskRule.BITS] = MaskRule.NONE
    """none, or bits: a band of flags tells what is clear (name it as cloud_band; path rule only)."""
    zero_is_nodata: bool = False
    """true where the archive leaves unmarked zeros outside a swath."""
    resampling: Literal["nearest", "bilinear", "cubic", "cubic_spline", "lanczos", "average"] = "bilinear"
    """GDAL resampling of continuous bands where grids differ; classes and flags are nearest."""
    attribution: str = ""
    """Goes into chips and the release's card."""
    licence: str = ""
    """Goes into the release's card."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        names = [band.name for band in self.bands]
        if twice := [name for name in names if names.count(name) > 1]:
            msg = f"band {twice[0]} is named twice"
            raise ValueError(msg)
        has_flags = any(band.kind is BandKind.FLAGS for band in self.bands)
        if self.mask is MaskRule.BITS and not (has_flags and self.choice is ChoiceRule.PATH):
            msg = "mask bits needs a band of kind flags, and choice path"
            raise ValueError(msg)
        return self

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
        If a key is a built-in sensor's or cannot be a name; pydantic's ValidationError if a row is wrong.
    """
    for key in section:
        if key in SENSORS:
            msg = f"{key} is the name of a sensor already; choose another"
            raise ValueError(msg)
        if not _KEY.fullmatch(key):
            msg = f"{key!r} cannot be a sensor's name; use small letters and digits, such as worldcover"
            raise ValueError(msg)
    return tuple(SensorRow.model_validate(row).sensor(key) for key, row in section.items())
