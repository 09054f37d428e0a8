"""Which pixels are valid, and which are clear."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cube.config.models import Config
from cube.config.sensor_models import CloudRule
from cube.config.sensors import MaskRule, Sensor

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class MaskSettings:
    """What makes a pixel of one sensor valid and clear; all that a config can change about it."""

    sensor: str
    bands: tuple[str, ...]
    """Exported bands; a pixel is valid if none of them is nodata."""
    cloud_rule: CloudRule | None = None
    """None where clear means valid."""


def mask_settings(config: Config) -> tuple[MaskSettings, ...]:
    """Return the mask settings of every sensor of a config, in the order of the sensor table."""
    return tuple(
        MaskSettings(key, config.table[key].exported(config.bands(key)), settings.cloud_rule)
        for key, settings in config.sensors.items()
    )


def clear_pixels(mask: NDArray[np.integer], rule: CloudRule, sensor: Sensor) -> Mask:
    """Return where a cloud band, ``(y, x)``, says that the ground is seen.

    Codes are clear, or bits are not, as `rule` says, here and in the buffer around; pixels beyond
    the array's edge cloud nothing. Of bits, the band's nodata is the one of fill.
    """
    if sensor.mask is MaskRule.CODES:
        table = np.zeros(256, np.bool_)
        table[list(rule.clear_codes)] = True
        clear: Mask = table[mask]
        return clear
    cloudy: Mask = (mask & sum(1 << bit for bit in rule.cloudy_bits)) != 0
    filled = sensor.band(rule.band).is_nodata(mask)
    return ~(_grown(cloudy, rule.buffer_px) | filled)


def _grown(mask: Mask, buffer: int) -> Mask:
    """Spread True over the square of `buffer` pixels around it."""
    height, width = mask.shape
    around = np.pad(mask, buffer)
    shifts = range(2 * buffer + 1)
    rows = np.logical_or.reduce([around[shift : shift + height] for shift in shifts])
    grown: Mask = np.logical_or.reduce([rows[:, shift : shift + width] for shift in shifts])
    return grown
