"""The rasters of a release as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from release.opening.faults import ReleaseError, first_line
from release.opening.tiff import TiffError, TiffRaster
from release.recipe import RECIPE_NAME, RasterSpec


def decode_raster(name: str, data: bytes, spec: RasterSpec, indexes: Sequence[int] = ()) -> NDArray[Any]:
    """Return a GeoTIFF's pixels, ``(band, height, width)``, as stored.

    Parameters
    ----------
    name
        Of the file, for messages.
    data
        Its bytes, which may be anybody's.
    spec
        What the release says of the sensor's rasters.
    indexes
        Places of the bands wanted, from 1; empty: all.

    Raises
    ------
    ReleaseError
        If it cannot be read, or is another raster than `spec` says.
    """
    raster = TiffRaster(data)
    try:
        found = (raster.descriptions, *raster.size, raster.dtype)
        is_right = found == (spec.bands, spec.size_px, spec.size_px, spec.dtype)
        is_right = is_right and spec.allows_block(*raster.block)
        pixels = raster.read(indexes) if is_right else None
    except (TiffError, MemoryError) as error:
        raise ReleaseError(f"{name}: cannot be read ({first_line(error)}); verify the release") from None
    if pixels is None:
        raise ReleaseError(f"{name}: is not what {RECIPE_NAME} says of it; verify the release")
    return pixels
