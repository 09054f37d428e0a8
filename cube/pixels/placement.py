"""Where a file's pixels lie: as the file says, and where it does not, as its item does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import rasterio
from affine import Affine
from rasterio.crs import CRS

from cube.retry import Refused
from cube.scenes.items import AssetRef


@dataclass(frozen=True)
class Placement:
    """CRS and transform of a file, or its ground control points."""

    crs: CRS
    transform: Affine
    gcps: Sequence[Any] = ()
    """Ground control points, which stand in for the transform."""
    by_item: str = ""
    """What only the item says: nothing, ``CRS``, ``transform``, or ``CRS,transform``."""


def placement_of(source: rasterio.DatasetReader, asset: AssetRef) -> Placement:
    """Return where a file lies.

    The file's own word counts. What it does not say is taken from its item's ``proj:code`` (or
    ``proj:epsg``) and ``proj:transform``.

    Raises
    ------
    Refused
        If neither says it, or the item's transform is of another number of pixels.
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
    return Placement(crs, transform, by_item=",".join(by_item))


def _pixels(shape: tuple[int, int]) -> str:
    return f"{shape[0]} x {shape[1]} pixels"
