"""Rasters, STAC items and a whole sample archive to test with, offline."""

from __future__ import annotations

from cube.testing.archive import Archive, make_archive
from cube.testing.items import dem_item, landsat_item, lulc_item, sentinel1_item, sentinel2_item
from cube.testing.rasters import footprint_4326, utm_geobox, write_cog

__all__ = [
    "Archive",
    "dem_item",
    "footprint_4326",
    "landsat_item",
    "lulc_item",
    "make_archive",
    "sentinel1_item",
    "sentinel2_item",
    "utm_geobox",
    "write_cog",
]
