"""Coarse looks at scenes, from overviews: how clear they are over an AOI, and how they look."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial
from typing import Any

import numpy as np
import odc.stac
import pystac
import rasterio
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.dtypes import in_dtype_range
from shapely.geometry import mapping
from shapely.geometry.base import BaseGeometry

from cube.config.sensors import SENSORS, Band, BandKind, Sensor
from cube.scenes.acquisition import Acquisition
from cube.scenes.items import Scene
from cube.scenes.plan import CubePlan, DatePlan, SensorPlan
from cube.windows.projection import project, utm_epsg

from .access import Access, read_with_retries
from .onto_grid import read_onto_grid
from .placement import placement_of
from .read import harmonize_dn
from .rendering import render, rendered_bands

_PREVIEW_M = 80
"""Pixel size at which scenes are looked at, metres: of Sentinel-2's bands of 10 m every eighth, of
SCL every fourth. Files are read in whole tiles of 512 px: of full-size ones of noise, true colour
of 10 km takes 1.9 MB and of 30 km 1.1 MB, VV and VH 3.2 and 1.6 MB."""
_PICTURE_PX = 160
"""Longest side of a picture; of larger extents each pixel is wider."""


def clear_share(
    acquisition: Acquisition, aoi: BaseGeometry, *, clear: Collection[int], access: Access
) -> float:
    """Measure how much of an AOI a Sentinel-2 acquisition shows clear, from overviews of its SCL.

    Parameters
    ----------
    acquisition
        Its scenes must carry the asset ``SCL``.
    aoi
        EPSG:4326; its bounding box in the scene's CRS is measured.
    clear
        SCL codes that count as clear.

    Returns
    -------
    float
        Share of clear pixels, 0 to 1; pixels without data are not clear.
    """
    epsg = acquisition.scenes[0].epsg or utm_epsg(aoi)
    geobox = GeoBox.from_bbox(project(aoi, epsg).bounds, epsg, resolution=_PREVIEW_M)
    sensor = SENSORS["s2l2a"]
    best = np.zeros(geobox.shape, np.bool_)
    for scene in acquisition.scenes:
        codes = _read_coarsely(scene, sensor, sensor.band("SCL"), geobox, access)
        best |= np.isin(codes, list(clear))
    return float(best.mean())


def date_picture(plan: CubePlan, one: SensorPlan, date: DatePlan, access: Access) -> NDArray[np.uint8]:
    """Draw a date of a plan as it would be seen over the cube's extent, from overviews.

    Returns
    -------
    numpy.ndarray
        ``(y, x, 4)`` uint8, red green blue alpha (:func:`cube.pixels.rendering.render`).

    Raises
    ------
    ReadError
        If a read failed after its retries; names item and asset.
    ServiceError
        If the trouble is the service's.
    """
    bounds = plan.bounds
    pixel_m = max(_PREVIEW_M, max(bounds.width, bounds.height) / _PICTURE_PX)
    box = (bounds.left, bounds.bottom, bounds.right, bounds.top)
    shape = (round(bounds.height / pixel_m), round(bounds.width / pixel_m))
    geobox = GeoBox.from_bbox(box, plan.epsg, shape=shape)
    bands = {}
    for name in rendered_bands(one.sensor, one.bands):
        band = one.sensor.band(name)
        mosaic = np.full(geobox.shape, band.nodata, band.np_dtype)
        for scene in date.scenes:
            values = _read_coarsely(scene, one.sensor, band, geobox, access)
            if one.harmonize and band.kind is BandKind.REFLECTANCE:
                values = harmonize_dn(values, scene)
            np.copyto(mosaic, values, where=band.is_nodata(mosaic))
        bands[name] = mosaic
    return render(one.sensor, bands)


def _read_coarsely(scene: Scene, sensor: Sensor, band: Band, geobox: GeoBox, access: Access) -> NDArray[Any]:
    """Read a band onto a coarse grid, ``band.nodata`` where there is nothing."""
    read = partial(_read_overview, scene=scene, sensor=sensor, band=band, geobox=geobox)
    return read_with_retries(scene, scene.assets[band.name], access, read)


def _read_overview(url: str, scene: Scene, sensor: Sensor, band: Band, geobox: GeoBox) -> NDArray[Any]:
    """Read a band from the overview that fits a coarse grid."""
    asset, method = scene.assets[band.name], "nearest" if band.is_mask else "average"
    with rasterio.open(url) as source:
        placement, dtype = placement_of(source, scene, asset), source.dtypes[0]
        nodata = next(
            (value for value in (source.nodata, asset.nodata) if value is not None), sensor.nodata_of(band)
        )
        if placement.by_item or placement.gcps:  # which odc-stac cannot be told; there are few such files
            return read_onto_grid(
                source, placement, band, geobox, nodata, method, zero_is_nodata=sensor.zero_is_nodata
            )
    left, bottom, right, top = scene.geometry.bounds
    item = pystac.Item(scene.id, mapping(scene.geometry), [left, bottom, right, top], scene.datetime, {})
    item.add_asset(band.name, pystac.Asset(url, media_type=pystac.MediaType.COG, roles=["data"]))
    if not in_dtype_range(nodata, dtype):
        nodata = 0
    loaded = odc.stac.load([item], band.name, geobox=geobox, dtype=dtype, nodata=nodata, resampling=method)
    values = np.asarray(loaded[band.name][0])
    nothing = np.isnan(values) if np.isnan(nodata) else values == nodata
    if sensor.zero_is_nodata:
        nothing |= values == 0
    values = values.astype(band.np_dtype)
    values[nothing] = band.nodata
    return values
