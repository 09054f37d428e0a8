"""How clear scenes are over an AOI, by overviews of their scene classification."""

from __future__ import annotations

from collections.abc import Collection
from functools import partial

import numpy as np
import odc.stac
import pystac
import rasterio
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from shapely.geometry import mapping
from shapely.geometry.base import BaseGeometry

from cube.config.sensors import SENSORS
from cube.scenes.acquisition import Acquisition
from cube.scenes.items import Scene
from cube.windows.projection import project, utm_epsg

from .access import Access, read_with_retries
from .onto_grid import read_onto_grid
from .placement import placement_of

_PREVIEW_M = 80
"""Pixel size at which SCL is read to rank scenes over an AOI, metres: every fourth of its own."""


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
    best = np.zeros(geobox.shape, np.bool_)
    for scene in acquisition.scenes:
        read = partial(_read_codes, scene=scene, geobox=geobox)
        best |= np.isin(read_with_retries(scene, scene.assets["SCL"], access, read), list(clear))
    return float(best.mean())


def _read_codes(url: str, scene: Scene, geobox: GeoBox) -> NDArray[np.uint8]:
    """Read SCL onto a coarse grid, 0 where there is nothing, from the overview that fits."""
    with rasterio.open(url) as source:
        placement = placement_of(source, scene, scene.assets["SCL"])
        if placement.by_item or placement.gcps:  # which odc-stac cannot be told; there are few such files
            band = SENSORS["s2l2a"].band("SCL")
            return read_onto_grid(source, placement, band, geobox, 0, "nearest", zero_is_nodata=False)
    left, bottom, right, top = scene.geometry.bounds
    item = pystac.Item(scene.id, mapping(scene.geometry), [left, bottom, right, top], scene.datetime, {})
    item.add_asset("SCL", pystac.Asset(url, media_type=pystac.MediaType.COG, roles=["data"]))
    preview = odc.stac.load([item], "SCL", geobox=geobox, dtype="uint8", nodata=0, resampling="nearest")
    return np.asarray(preview["SCL"][0])
