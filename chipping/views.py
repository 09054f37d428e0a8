"""How the scenes behind a chip were taken: fields of the tables, written and read.

A field holds an entry per date, comma-joined as GELOS joins dates; an entry is empty where the
scene's record does not say, and the whole field where none does. Angles are those of the first
scene of a date's mosaic, in degrees.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cube.config.sensors import SensorTable

ORBIT_STATES = ("ascending", "descending")


@dataclass(frozen=True, slots=True)
class ViewField:
    """A field of the tables; its column is ``{sensor}_{name}s``."""

    name: str
    note: str
    """What it is, for the dataset card."""
    low: float = -math.inf
    high: float = math.inf
    properties: tuple[str, ...] = ()
    """STAC properties that say it, the first that is there."""

    def column(self, sensor: str) -> str:
        """Return the name of a sensor's column."""
        return f"{sensor}_{self.name}s"

    def is_right(self, entry: str) -> bool:
        """Tell whether an entry of the column can be what it says, or is empty."""
        if self is ORBIT_STATE:
            return entry in ("", *ORBIT_STATES)
        try:
            return not entry or self.low <= float(entry) <= self.high
        except ValueError:
            return False


ORBIT_STATE = ViewField(
    "orbit_state", "`ascending` or `descending`, one per date", properties=("sat:orbit_state",)
)
CLOUD_SHARE = ViewField(
    "cloud_share", "share of the sample window that its cloud rule does not call clear, one per date", 0, 1
)
SUN_ELEVATION = ViewField(
    "sun_elevation", "height of the sun, degrees, one per date", -90, 90, ("view:sun_elevation",)
)
VIEW_FIELDS = (
    ORBIT_STATE,
    SUN_ELEVATION,
    ViewField(
        "sun_azimuth",
        "direction of the sun, degrees from north, one per date",
        0,
        360,
        ("view:sun_azimuth", "s2:mean_solar_azimuth"),
    ),
    ViewField("view_off_nadir", "angle at the satellite, degrees, one per date", 0, 90, ("view:off_nadir",)),
    ViewField(
        "view_incidence", "angle at the ground, degrees, one per date", 0, 90, ("view:incidence_angle",)
    ),
    ViewField(
        "view_azimuth",
        "direction of the satellite, degrees from north, one per date",
        0,
        360,
        ("view:azimuth",),
    ),
    CLOUD_SHARE,
)
"""All fields, in the order of their columns."""
_ZENITH = "s2:mean_solar_zenith"


def view_columns(sensors: SensorTable) -> list[str]:
    """Return the columns of every sensor with dates."""
    return [field.column(key) for key in sensors.series for field in VIEW_FIELDS]


def scene_entries(field: ViewField, scenes: Sequence[Mapping[str, Any]]) -> str:
    """Return a field that all windows of a cube share, from the properties of each date's scene."""
    return _joined(_entry(field, properties) for properties in scenes)


def _entry(field: ViewField, properties: Mapping[str, Any]) -> str:
    found = next((properties[name] for name in field.properties if name in properties), None)
    if found is None and field is SUN_ELEVATION and _is_number(properties.get(_ZENITH)):
        found = 90 - properties[_ZENITH]
    text = f"{found:.6g}" if _is_number(found) else str(found or "")
    return text if field.is_right(text) else ""


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _joined(entries: Iterable[str]) -> str:
    found = list(entries)
    return ",".join(found) if any(found) else ""


def cloud_entries(clear_px: Sequence[NDArray[np.integer]], window_px: int) -> list[str]:
    """Return the cloud shares of windows, from each date's clear pixels of every window."""
    return list(map(",".join, zip(*(_share_texts(clear, window_px) for clear in clear_px), strict=True)))


def _share_texts(clear_px: NDArray[np.integer], window_px: int) -> list[str]:
    """Return one date's cloud share of every window; many windows have the same."""
    different, places = np.unique(clear_px, return_inverse=True)
    shares = (window_px - different) / np.float64(window_px)
    texts = [f"{share:.10g}" for share in shares.tolist()]
    return [texts[place] for place in places.tolist()]


def parse_views(row: Mapping[str, Any], sensor: str, dates: int) -> dict[str, list[Any]]:
    """Return a sensor's fields of a table's row, a value per date: texts, and numbers or NaN.

    A table that an older version wrote lacks the columns; what is not known is NaN or ``""``.

    Raises
    ------
    ValueError
        If a field has another number of values than there are dates, or one that is no number.
    """
    parsed: dict[str, list[Any]] = {}
    for field in VIEW_FIELDS:
        entries = str(row.get(field.column(sensor)) or "," * (dates - 1)).split(",")
        if len(entries) != dates:
            msg = f"{field.column(sensor)} has {len(entries)} values for {dates} dates"
            raise ValueError(msg)
        is_text = field is ORBIT_STATE
        parsed[field.name] = entries if is_text else [float(entry or "nan") for entry in entries]
    return parsed
