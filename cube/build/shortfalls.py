"""What a cube holds, against what the footprints of its scenes promise."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from odc.geo.geobox import GeoBox
from shapely import box, transform, union_all
from shapely.geometry.base import BaseGeometry

from cube.scenes.plan import CubePlan, DatePlan, SensorPlan
from cube.store.resume import BlockRecords
from cube.windows.projection import split_at_antimeridian, to_lonlat

_KNOWN_OUTLINES = 256
_FEW = 0.5
"""Share of the pixels that footprints promise below which it is said: swaths end raggedly."""


def shortfalls_of(plan: CubePlan, records: BlockRecords) -> list[str]:
    """Say which dates of which sensors hold no valid pixel, or far fewer than was promised.

    Parameters
    ----------
    records
        Of the blocks that were written; those of blocks that were left out are not missed.

    Returns
    -------
    list of str
        A line per sensor and date, such as ``s2l2a 2023-02-01, B04: no valid pixel of 100 %``.
    """
    return [
        line
        for sensor_plan in plan.sensors
        for index, date in enumerate(sensor_plan.dates)
        for line in _shortfall(plan, sensor_plan, date, index, records)
    ]


def _shortfall(
    plan: CubePlan, sensor_plan: SensorPlan, date: DatePlan, index: int, records: BlockRecords
) -> Iterator[str]:
    """Yield a line for the band of a date that has the fewest valid pixels, if they are few."""
    blocks = [
        block
        for block in plan.blocks(sensor_plan.key)
        if block.time == index and "valid" in records.get(block.name, ())
    ]
    pixels = sum(block.height * block.width for block in blocks)
    if not pixels:
        return
    valid = {band: sum(records[block.name]["valid"][band] for block in blocks) for band in sensor_plan.bands}
    band = min(valid, key=lambda name: valid[name])
    if valid[band] >= _FEW * pixels:  # footprints promise no more than all, and are not looked at
        return
    footprint = union_all([scene.geometry for scene in date.scenes])
    geobox = plan.geobox(sensor_plan.key)
    promised = sum(block.height * block.width * _covered(geobox[block.roi], footprint) for block in blocks)
    if valid[band] and valid[band] >= _FEW * promised:
        return
    what = sensor_plan.key if sensor_plan.sensor.is_static else f"{sensor_plan.key} {date.time:%Y-%m-%d}"
    found = f"{100 * valid[band] / pixels:.2g} % valid" if valid[band] else "no valid pixel"
    yield f"{what}, {band}: {found}; its scenes' footprints promise {100 * promised / pixels:.0f} %"


def _covered(geobox: GeoBox, footprint: BaseGeometry) -> float:
    """Return the share of a grid that lies within a footprint (EPSG:4326)."""
    place = _outline(geobox)
    return 1.0 if footprint.covers(place) else float(place.intersection(footprint).area / place.area)


@lru_cache(_KNOWN_OUTLINES)
def _outline(geobox: GeoBox) -> BaseGeometry:
    """Return a grid's outline in degrees; all dates of a block have the same."""
    outline = box(*geobox.boundingbox.bbox).segmentize(geobox.boundingbox.span_x / 8)
    crs = geobox.crs
    assert crs is not None
    return split_at_antimeridian(transform(outline, to_lonlat(str(crs)).transform, interleaved=False))
