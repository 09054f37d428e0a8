"""Small pictures of the scenes that were chosen, for the page of a plan."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

from PIL import Image

from cube.build.plans import access_of
from cube.config.models import Config
from cube.errors import GelosError, ServiceError
from cube.scenes.plan import CubePlan, DatePlan, SensorPlan

_THREADS = 8
_RETRIES = 1
"""A picture is not worth the patience that a block is."""
_QUALITY = 80


@dataclass(frozen=True)
class Picture:
    """A picture of a date, or why there is none."""

    webp: str = ""
    """Base64."""
    error: str = ""


Pictures = Mapping[tuple[str, int], Picture]
"""By sensor and index of the date."""


class PictureReader:
    """Draws the chosen dates of plans; a service that lets nobody read is not asked again."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._refused: dict[str, str] = {}
        """What a sensor's service said."""

    def read(self, plan: CubePlan) -> Pictures:
        """Draw all dates of a plan; what cannot be read says why, and is no error."""
        dates = [(one, index) for one in plan.sensors for index in range(len(one.dates))]
        with ThreadPoolExecutor(_THREADS) as pool:
            pictures = pool.map(lambda date: self._picture(plan, date[0], date[0].dates[date[1]]), dates)
            return {(one.key, index): picture for (one, index), picture in zip(dates, pictures, strict=True)}

    def _picture(self, plan: CubePlan, one: SensorPlan, date: DatePlan) -> Picture:
        from cube.pixels.preview import date_picture

        if one.key in self._refused:
            return Picture(error=self._refused[one.key])
        access = replace(access_of(self._config, one.key, one.catalog), retries=_RETRIES)
        try:
            pixels = date_picture(plan, one, date, access)
        except ServiceError as error:
            self._refused[one.key] = str(error)
            return Picture(error=str(error))
        except GelosError as error:
            return Picture(error=str(error))
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "WEBP", quality=_QUALITY)
        return Picture(base64.b64encode(buffer.getvalue()).decode())
