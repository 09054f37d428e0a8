"""Coarse looks at scenes, from their overviews."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import rasterio
import rasterio.warp
import rasterio.windows
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from cube.scenes.explain import Acquisition
from cube.windows.projection import project

from .access import Access, patiently

__all__ = ["clear_share"]

_OVERVIEW = 4
"""SCL is looked at with every fourth pixel (80 m) when scenes are ranked over an AOI."""


def clear_share(
    acquisition: Acquisition, aoi: BaseGeometry, *, clear: Collection[int], access: Access
) -> float:
    """Measure how much of an AOI a Sentinel-2 acquisition shows clear, from overviews of its SCL.

    Parameters
    ----------
    acquisition
        Its scenes must carry the asset ``SCL``.
    aoi
        EPSG:4326; its bounding box in the scene's CRS is looked at.
    clear
        SCL codes that count as clear.
    access
        How to get at the files.

    Returns
    -------
    float
        Share of clear pixels, 0 to 1; pixels without data are not clear.
    """
    best: NDArray[np.bool_] | None = None
    for scene in acquisition.scenes:
        asset = scene.assets["SCL"]
        seen = patiently(scene, asset, access, lambda url: _clear_overview(url, aoi, clear))
        best = seen if best is None or best.shape != seen.shape else best | seen
    return 0.0 if best is None else float(best.mean())


def _clear_overview(url: str, aoi: BaseGeometry, clear: Collection[int]) -> NDArray[np.bool_]:
    with rasterio.open(url, sharing=False) as source:
        window = rasterio.windows.from_bounds(*project(aoi, source.crs.to_epsg()).bounds, source.transform)
        shape = (max(round(window.height / _OVERVIEW), 1), max(round(window.width / _OVERVIEW), 1))
        codes = source.read(1, window=window, out_shape=shape, boundless=True, fill_value=0)
    return np.isin(codes, list(clear))
