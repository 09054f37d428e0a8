"""Where the sun stands over a scene, to half a degree: enough for an item's record."""

from __future__ import annotations

import math
from datetime import UTC, datetime

from odc.geo.geobox import GeoBox

_TILT_DEG = 23.44


def sun_position(geobox: GeoBox, when: datetime) -> tuple[float, float]:
    """Return the sun's elevation and azimuth (from north, eastward) at a grid's centre, degrees."""
    centre = geobox.extent.centroid.to_crs("EPSG:4326").coords[0]
    time = when.astimezone(UTC)
    day = time.timetuple().tm_yday
    tilt = math.radians(-_TILT_DEG * math.cos(2 * math.pi * (day + 10) / 365.25))
    hours = time.hour + time.minute / 60 + centre[0] / 15 - 12
    turn, latitude = math.radians(15 * hours), math.radians(centre[1])
    height = math.sin(latitude) * math.sin(tilt) + math.cos(latitude) * math.cos(tilt) * math.cos(turn)
    south = math.sin(latitude) * math.cos(turn) - math.cos(latitude) * math.tan(tilt)
    azimuth = math.degrees(math.atan2(math.sin(turn), south)) + 180
    return round(math.degrees(math.asin(height)), 2), round(azimuth % 360, 2)
