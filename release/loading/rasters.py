"""The rasters of a release as arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import rasterio
from numpy.typing import NDArray
from rasterio.errors import RasterioError
from rasterio.io import MemoryFile

from release.opening.faults import ReleaseError, first_line
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
    if not data:  # rasterio would take it for a raster that is to be written
        raise ReleaseError(f"{name}: is empty; verify the release")
    try:
        # An environment of its own spares GDAL the set-up that rasterio makes for each file.
        with rasterio.Env(), MemoryFile(data) as memory, memory.open(driver="GTiff") as raster:
            found = (raster.descriptions, raster.width, raster.height, set(raster.dtypes))
            expected = (spec.bands, spec.size_px, spec.size_px, {spec.dtype})
            is_right = found == expected and spec.allows_block(*raster.block_shapes[0])
            pixels: NDArray[Any] | None = raster.read(list(indexes) or None) if is_right else None
    except (RasterioError, ValueError, MemoryError) as error:
        raise ReleaseError(f"{name}: cannot be read ({first_line(error)}); verify the release") from None
    if pixels is None:
        raise ReleaseError(f"{name}: is not what {RECIPE_NAME} says of it; verify the release")
    return pixels
