"""What a plan will cost: bytes to fetch, bytes to store, and time, by a stated model.

The model knows no file: it multiplies pixels by what files of each kind were seen to take.
Sentinel-1's share is that of the recorded ``file:size``; the others are round figures from the
collections' files.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from cube.config.models import Config
from cube.config.sensors import Band, BandKind, Sensor
from cube.windows.grid import Block, Bounds, blocks_of, geobox_for

from .plan import CubePlan

_SOURCE_SHARE = {
    BandKind.REFLECTANCE: 0.55,
    BandKind.BACKSCATTER: 0.75,
    BandKind.ELEVATION: 0.7,
    BandKind.CLASSES: 0.06,
    BandKind.FLAGS: 0.06,
}
"""Compressed bytes per raw byte in the archive's files."""
_STORE_SHARE = {
    BandKind.REFLECTANCE: 0.65,
    BandKind.BACKSCATTER: 0.85,
    BandKind.ELEVATION: 0.7,
    BandKind.CLASSES: 0.06,
    BandKind.FLAGS: 0.06,
}
"""Compressed bytes per raw byte in the cube."""
_TILE_PX = 512
"""Side of a COG's tile: reads come in whole tiles."""
_RATE = 25e6
"""Bytes a second that one machine fetches and writes."""
MODEL = (
    "model: archive files take 0.55 (reflectance), 0.75 (backscatter), 0.7 (elevation), 0.06 "
    "(classes) of their raw bytes, read in whole tiles of 512 px; 25 MB/s"
)


@dataclass(frozen=True)
class Cost:
    """Expected cost of one cube, or of several added up."""

    fetch_bytes: float = 0.0
    store_bytes: float = 0.0

    def __add__(self, other: Cost) -> Cost:
        """Add two costs up."""
        return Cost(self.fetch_bytes + other.fetch_bytes, self.store_bytes + other.store_bytes)

    @property
    def seconds(self) -> float:
        """Time on one machine."""
        return self.fetch_bytes / _RATE


def estimate_cost(plan: CubePlan) -> Cost:
    """Return what a plan is expected to cost."""
    total = Cost()
    for one in plan.sensors:
        bands = [one.sensor.band(name) for name in one.bands]
        total += _sensor_cost(one.sensor, bands, one.resolution, plan.blocks(one.key))
    return total


def estimate_extent(config: Config, bounds: Bounds, epsg: int) -> Cost:
    """Return what a cube of an extent is expected to cost, before anything is searched."""
    total = Cost()
    for key, settings in config.sensors.items():
        sensor = config.table[key]
        dates = 1 if sensor.is_static else len(config.ranges)
        blocks = blocks_of(key, dates, geobox_for(bounds, epsg, settings.resolution))
        bands = [sensor.band(name) for name in config.bands(key)]
        total += _sensor_cost(sensor, bands, settings.resolution, blocks)
    return total


def _sensor_cost(sensor: Sensor, bands: Collection[Band], resolution: int, blocks: Iterable[Block]) -> Cost:
    total = Cost()
    for block in blocks:
        for band in bands:
            total += _band_cost(resolution / (band.pixel_m or sensor.resolution), block, band)
    return total


def _band_cost(zoom: float, block: Block, band: Band) -> Cost:
    """Return a block's cost; `zoom` is how many of the file's pixels one of the cube's is wide."""
    size = band.np_dtype.itemsize
    height, width = block.height * zoom, block.width * zoom
    fetched = (height + _TILE_PX) * (width + _TILE_PX) * size * _SOURCE_SHARE[band.kind]
    stored = block.height * block.width * size * _STORE_SHARE[band.kind]
    return Cost(fetched, stored)
