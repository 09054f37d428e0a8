"""Which pixels are valid, and which are clear."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cube.config.models import Config
from cube.config.sensors import MaskRule, Sensor

__all__ = ["MaskSettings", "clear_pixels", "mask_settings"]

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class MaskSettings:
    """What makes a pixel of one sensor valid and clear; all that a config can change about it."""

    sensor: str
    bands: tuple[str, ...]
    """Exported bands; a pixel is valid if none of them is nodata."""
    cloud_band: str | None = None
    clear_codes: tuple[int, ...] = ()
    cloud_bits: tuple[int, ...] = ()
    cloud_buffer_px: int = 0

    @property
    def has_cloud_rule(self) -> bool:
        """False where clear means valid."""
        return self.cloud_band is not None


def mask_settings(config: Config) -> tuple[MaskSettings, ...]:
    """Return the mask settings of every sensor of a config, in the order of the sensor table."""
    return tuple(_mask_settings(config, key) for key in config.sensors)


def _mask_settings(config: Config, key: str) -> MaskSettings:
    sensor, settings = config.table[key], config.sensors[key]
    bands = sensor.exported(config.bands(key))
    cloud_band = getattr(settings, "cloud_band", None)
    if cloud_band is None:
        return MaskSettings(key, bands)
    if sensor.mask is MaskRule.CODES:
        return MaskSettings(key, bands, cloud_band, clear_codes=tuple(sorted(getattr(settings, "clear", ()))))
    bits, buffer = getattr(settings, "cloud_bits", ()), getattr(settings, "cloud_buffer_px", 0)
    return MaskSettings(key, bands, cloud_band, cloud_bits=tuple(sorted(bits)), cloud_buffer_px=buffer)


def clear_pixels(mask: NDArray[np.integer], settings: MaskSettings, sensor: Sensor) -> Mask:
    """Return where a mask band says that the ground is seen.

    Parameters
    ----------
    mask
        ``(y, x)`` of the cloud band.
    settings
        Codes that are clear, or bits that are not, here and in the buffer around; pixels beyond the
        array's edge cloud nothing.
    sensor
        Says which of the two; of bits, the band's nodata is the one of fill.
    """
    if sensor.mask is MaskRule.CODES:
        table = np.zeros(256, np.bool_)
        table[list(settings.clear_codes)] = True
        clear: Mask = table[mask]
        return clear
    cloudy: Mask = (mask & sum(1 << bit for bit in settings.cloud_bits)) != 0
    assert settings.cloud_band is not None
    filled = sensor.band(settings.cloud_band).is_nodata(mask)
    return ~(_grown(cloudy, settings.cloud_buffer_px) | filled)


def _grown(mask: Mask, buffer: int) -> Mask:
    """Spread True over the square of `buffer` pixels around it."""
    height, width = mask.shape
    around = np.pad(mask, buffer)
    shifts = range(2 * buffer + 1)
    rows = np.logical_or.reduce([around[shift : shift + height] for shift in shifts])
    grown: Mask = np.logical_or.reduce([rows[:, shift : shift + width] for shift in shifts])
    return grown
