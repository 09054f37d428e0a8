"""Where a file's pixels lie: as the file says, and where it does not, as its item does."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS
from shapely import get_coordinates

from cube.retry import Refused
from cube.scenes.items import AssetRef, Scene
from cube.windows.projection import from_lonlat

_SHARED = 0.5
"""Share of the smaller of file and footprint, as boxes, that both must see: a file ends raggedly
within its tile, and a record rounds, but neither lies half a scene off."""


@dataclass(frozen=True)
class Placement:
    """CRS and transform of a file, or its ground control points."""

    crs: CRS
    transform: Affine
    gcps: Sequence[Any] = ()
    """Ground control points, which stand in for the transform."""
    by_item: str = ""
    """What only the item says: nothing, ``CRS``, ``transform``, or ``CRS,transform``."""


def placement_of(source: rasterio.DatasetReader, scene: Scene, asset: AssetRef) -> Placement:
    """Return where a file lies.

    The file's own word counts. What it does not say is taken from its item's ``proj:code`` (or
    ``proj:epsg``) and ``proj:transform``.

    Raises
    ------
    Refused
        If neither says it, if the item's transform is of another number of pixels, or if the file
        comes to lie elsewhere than the item's footprint, and the item's transform denies it, too.
    """
    gcps, gcps_crs = source.gcps
    if gcps and gcps_crs is not None and (source.crs is None or source.transform.is_identity):
        return Placement(gcps_crs, source.transform, gcps=gcps)
    crs, transform, by_item = source.crs, source.transform, []
    if crs is None:
        if asset.epsg is None:
            raise Refused("the file names no CRS, and neither does its item")
        crs, by_item = CRS.from_epsg(asset.epsg), ["CRS"]
    if transform.is_identity:
        if asset.transform is None:
            raise Refused("the file has no geotransform, and neither has its item")
        if asset.shape is not None and asset.shape != source.shape:
            raise Refused(
                f"the file has no geotransform, and its item's is of {_pixels(asset.shape)}; "
                f"the file has {_pixels(source.shape)}"
            )
        transform = Affine(*asset.transform)
        by_item.append("transform")
    place = Placement(crs, transform, by_item=",".join(by_item))
    if transform.is_degenerate or not (_agrees(asset, place) or _lies_at(scene, place, source.shape)):
        raise Refused("its CRS and geotransform put the file elsewhere than its item's footprint")
    return place


def _agrees(asset: AssetRef, place: Placement) -> bool:
    """Tell whether an item's own transform puts its file where the file does, to the pixel."""
    if asset.transform is None or asset.epsg != place.crs.to_epsg():
        return False
    there, here = Affine(*asset.transform), place.transform
    pixels = (there.a, there.b, there.d, there.e), (here.a, here.b, here.d, here.e)
    origins = (there.c, there.f), (here.c, here.f)
    step = max(map(abs, pixels[1]))
    return np.allclose(*pixels, rtol=1e-6, atol=0) and np.allclose(*origins, rtol=0, atol=step)


def _lies_at(scene: Scene, place: Placement, shape: tuple[int, int]) -> bool:
    """Tell whether a file lies where its item's footprint does, both taken for boxes of pixels."""
    crs, transform = place.crs, place.transform
    lonlat = get_coordinates(scene.geometry)
    x, y = from_lonlat(str(crs)).transform(*lonlat.T)
    columns, rows = apply_affine(~transform, x, y)
    if crs.is_geographic:  # a meridian has two names; what counts is the one near the file
        around = 360 / abs(transform.a)
        columns = (columns - shape[1] / 2 + around / 2) % around - around / 2 + shape[1] / 2
    known = np.isfinite(columns) & np.isfinite(rows)
    if not known.any():
        return False
    shares = (
        _shared(float(part[known].min()), float(part[known].max()), size)
        for part, size in ((rows, shape[0]), (columns, shape[1]))
    )
    return math.prod(shares) >= _SHARED


def _shared(low: float, high: float, size: int) -> float:
    """Return how much of the shorter of ``low`` to ``high`` and 0 to `size` is in both."""
    return max(min(high, size) - max(low, 0), 0) / max(min(high - low, size), 1e-9)


def _pixels(shape: tuple[int, int]) -> str:
    return f"{shape[0]} x {shape[1]} pixels"


def apply_affine(affine: Affine, x: NDArray[Any], y: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return points ``(x, y)`` where an affine maps them."""
    return affine.a * x + affine.b * y + affine.c, affine.d * x + affine.e * y + affine.f
