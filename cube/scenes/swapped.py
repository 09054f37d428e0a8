"""Latitude before longitude: suspected where nothing is found, and elsewhere something is."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from shapely import transform

from cube.config.aoi import Aoi
from cube.config.fields import TimeRange
from cube.config.models import Config
from cube.config.sensor_models import PeriodConfig

from .explain import Skipped
from .query import Catalog, Query


@contextlib.contextmanager
def suspecting_swapped(aoi: Aoi, config: Config, catalog: Catalog) -> Iterator[None]:
    """Let the reason of a skip, if not a single scene was seen, say that coordinates seem swapped.

    Raises
    ------
    Skipped
        That of the ``with`` statement, with the suspicion at the end of its reason if the catalog
        has something at the swapped place.
    """
    try:
        yield
    except Skipped as skipped:
        if skipped.scenes_seen or not _has_scenes_if_swapped(aoi, config, catalog):
            raise
        centre = aoi.geometry.centroid
        reason = (
            f"{skipped.reason}; nothing at all is found at longitude {centre.x:.4g}, latitude {centre.y:.4g}, "
            f"but there is at longitude {centre.y:.4g}, latitude {centre.x:.4g}: are they swapped in "
            f"{config.aoi_path.name}? Longitude comes first"
        )
        raise Skipped(reason, skipped.scenes_seen) from None


def _has_scenes_if_swapped(aoi: Aoi, config: Config, catalog: Catalog) -> bool:
    left, _, right, _ = aoi.geometry.bounds
    if left < -90 or right > 90:
        return False
    key = config.series[0] if config.series else "lulc"
    settings = config.sensors[key]
    spans = [TimeRange.parse(settings.year)] if isinstance(settings, PeriodConfig) else config.ranges
    span = TimeRange(min(one.start for one in spans), max(one.end for one in spans))
    swapped = transform(aoi.geometry, lambda y, x: (x, y), interleaved=False)
    return bool(catalog.search(Query((settings.collection,), swapped, span, limit=1, sensor=key)))
