"""Pixels: the one module that reads assets. Hrefs are signed here, at the moment of the read, in the process that reads.

A band of a block is read from each scene of its date in turn; the first scene wins and the next fills its nodata. Where
the grid nests in the file's, pixels are copied; otherwise GDAL warps them onto the block's own grid. A read
that fails for good is a :class:`cube.errors.ReadError`; it never becomes nodata.
"""

from __future__ import annotations

import itertools
import threading
import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any, TypeVar, cast

import numpy as np
import rasterio
import rasterio.warp
import rasterio.windows
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from odc.geo.warp import resampling_s2rio
from rasterio._err import CPLE_BaseError
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from shapely.geometry.base import BaseGeometry

from .errors import ReadError
from .grid import project
from .items import AssetRef, Scene
from .retry import RetryPolicy, Transient, without_signature
from .scenes import Acquisition
from .sensors import Band, BandKind, Sensor
from .signing import token_for

__all__ = ["Access", "check_access", "clear_share", "harmonize_dn", "read_band", "read_scene"]

_BASELINE_WITH_OFFSET = (4, 0)
_OFFSET_DN = 1000
"""ESA: since processing baseline 04.00 DN = reflectance * 10000 + 1000 (BOA_ADD_OFFSET -1000)."""

_GDAL_OPTIONS: dict[str, Any] = {
    # No directory listings and no probes for sidecar files: a COG is one file.
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_PAM_ENABLED": False,
    # The header of a COG lies in its first bytes; then neighbouring tiles are asked for together.
    "GDAL_INGESTED_BYTES_AT_OPEN": 32768,
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": True,
    "GDAL_HTTP_MULTIPLEX": True,
    # What passes by itself is tried again at once; above it, the block is.
    "GDAL_HTTP_MAX_RETRY": 2,
    "GDAL_HTTP_RETRY_DELAY": 0.5,
    # Without these GDAL waits for ever on a silent socket.
    "GDAL_HTTP_CONNECTTIMEOUT": 15,
    "GDAL_HTTP_TIMEOUT": 120,
    "GDAL_HTTP_LOW_SPEED_TIME": 20,
    "GDAL_HTTP_LOW_SPEED_LIMIT": 1000,
    # Bounded per process, whatever the machine has.
    "GDAL_CACHEMAX": 128,
    "VSI_CACHE": False,
}
_READ_BUDGET_S = 1800.0
_SNAP = 1e-4
"""Grids that agree to this part of a pixel are one grid (records round their coordinates)."""
_OVERVIEW = 4
"""SCL is looked at with every fourth pixel (80 m) when scenes are ranked over an AOI."""

Result = TypeVar("Result")


@dataclass(frozen=True)
class Access:
    """How a process gets at assets."""

    base: str = ""
    """Folder that relative hrefs are resolved against."""
    sign: bool = False
    """Sign hrefs with the planetary-computer SDK's settings."""
    connections: int = 16
    """Reads that this process has open at once."""
    retries: int = 5
    """Further tries of a read that failed."""

    def resolve(self, href: str) -> str:
        """Return an href that can be opened, unsigned."""
        if "://" in href or href.startswith("/"):
            return href
        return str(PurePosixPath(self.base) / href)


def read_band(
    scenes: tuple[Scene, ...],
    sensor: Sensor,
    band: Band,
    geobox: GeoBox,
    access: Access,
    *,
    resampling: str,
    harmonize: bool,
) -> NDArray[Any]:
    """Read one band of one date onto a grid.

    Parameters
    ----------
    scenes
        In mosaic order: the first wins, the next fills its nodata.
    sensor, band
        Rows of the sensor table.
    geobox
        Grid of the block, in the cube's CRS.
    access
        How to get at the files.
    resampling
        GDAL resampling where grids differ; masks and classes are nearest whatever it says.
    harmonize
        Take the +1000 offset off the DN of scenes of processing baseline 04.00 and later.

    Returns
    -------
    numpy.ndarray
        ``(y, x)`` in the band's dtype; ``band.nodata`` where no scene has anything.

    Raises
    ------
    ReadError
        If a read failed after its retries; names item and asset.
    """
    mosaic: NDArray[Any] | None = None
    for scene in scenes:
        if mosaic is not None and not _empty(mosaic, band).any():
            break
        values = read_scene(scene, sensor, band, geobox, access, resampling=resampling)
        if harmonize and band.kind is BandKind.REFLECTANCE:
            values = harmonize_dn(values, scene)
        if mosaic is None:
            mosaic = values
        else:
            np.copyto(mosaic, values, where=_empty(mosaic, band))
    if mosaic is None:
        mosaic = np.full(geobox.shape, band.nodata, band.np_dtype)
    return mosaic


def harmonize_dn(values: NDArray[Any], scene: Scene) -> NDArray[Any]:
    """Take the +1000 offset off a Sentinel-2 scene's DN where its processing baseline says that it is there.

    Parameters
    ----------
    values
        ``(y, x)`` uint16 DN; 0 is nodata and stays 0.
    scene
        ``s2:processing_baseline`` decides, never the date.

    Returns
    -------
    numpy.ndarray
        uint16 DN of reflectance * 10000, valid pixels at least 1.
    """
    baseline = str(scene.properties.get("s2:processing_baseline", "00.00"))
    if tuple(int(part) for part in baseline.split(".")) < _BASELINE_WITH_OFFSET:
        return values
    lowered = np.maximum(values, _OFFSET_DN + 1) - _OFFSET_DN
    return cast("NDArray[Any]", np.where(values == 0, 0, lowered).astype(values.dtype))


def _empty(values: NDArray[Any], band: Band) -> NDArray[np.bool_]:
    if values.dtype.kind == "f":
        return np.isnan(values)
    if band.kind is BandKind.FLAGS:
        return (values & int(band.nodata)) != 0
    return cast("NDArray[np.bool_]", values == band.nodata)


def read_scene(
    scene: Scene, sensor: Sensor, band: Band, geobox: GeoBox, access: Access, *, resampling: str
) -> NDArray[Any]:
    """Read one band of one scene onto a grid, trying again on any read error.

    Returns
    -------
    numpy.ndarray
        ``(y, x)`` in the band's dtype, ``band.nodata`` outside the file and where the file has nothing.

    Raises
    ------
    ReadError
        After the last try.
    """
    asset = scene.assets[band.name]
    method = "nearest" if band.is_mask else resampling
    fallback = sensor.source_nodata if asset.nodata is None else asset.nodata
    if band.kind is BandKind.FLAGS:
        fallback = band.nodata

    def read(url: str) -> NDArray[Any]:
        return _read_file(url, band, geobox, fallback, method, zero_is_nodata=sensor.zero_is_nodata)

    return _patiently(scene, asset, access, read)


def _patiently(scene: Scene, asset: AssetRef, access: Access, read: Callable[[str], Result]) -> Result:
    """Read an asset, trying again on any error; each try holds one of the process's connections."""
    _hush_rasterio()
    opener = _Opener(asset, access)

    def attempt(number: int) -> Result:
        with _connections(access.connections), rasterio.Env(**_GDAL_OPTIONS):
            try:
                return read(opener.url(number))
            except (RasterioError, CPLE_BaseError, OSError) as error:
                cause = without_signature(" ".join(str(error).split()))
                opener.refuse(cause)
                raise Transient(cause) from None

    retries = access.retries if _is_http(access.resolve(asset.href)) else 0
    try:
        return RetryPolicy(retries, _READ_BUDGET_S).call(attempt)
    except Transient as failure:
        raise ReadError(scene.id, asset.key, failure.cause) from None


def _read_file(
    url: str, band: Band, geobox: GeoBox, nodata_fallback: float, method: str, *, zero_is_nodata: bool
) -> NDArray[Any]:
    with rasterio.open(url, sharing=False) as source:
        nodata = source.nodata if source.nodata is not None else nodata_fallback
        values = _onto_grid(source, band, geobox, nodata, method)
        if zero_is_nodata and (values == 0).any():
            values[_zero_filled(source, band, geobox, nodata, method)] = band.nodata
    return values


def _onto_grid(
    source: rasterio.DatasetReader, band: Band, geobox: GeoBox, nodata: float, method: str
) -> NDArray[Any]:
    """Copy pixels where the grid nests in the file's, else warp onto the whole grid."""
    values = np.full(geobox.shape, band.nodata, band.np_dtype)
    nested = _nested_pixels(source, geobox, method)
    if nested is not None:
        _copy_nested(source, band, nodata, nested, values)
        return values
    rasterio.warp.reproject(
        rasterio.band(source, 1),
        values,
        src_nodata=nodata,
        dst_crs=str(geobox.crs),
        dst_transform=geobox.transform,
        dst_nodata=band.nodata,
        resampling=resampling_s2rio(method),
    )
    return values


def _nested_pixels(
    source: rasterio.DatasetReader, geobox: GeoBox, method: str
) -> tuple[NDArray[np.intp], NDArray[np.intp]] | None:
    """Return the file's row of every grid row, and its column of every grid column, if each grid pixel lies in one.

    That is so where both have one CRS and no rotation, the file's pixels are 1, 2, ... grid pixels wide, and its edges are
    edges of the grid. A wider pixel then fills its block, which is what nearest means; other methods warp. The file's
    own georeferencing counts, not the item's: they are known to disagree for Sentinel-1 RTC.
    """
    here, there = geobox.affine, source.transform
    if geobox.crs != source.crs or not (here.is_rectilinear and there.is_rectilinear):
        return None
    ratio = np.array([there.a / here.a, there.e / here.e])
    start = np.array([(here.c - there.c) / here.a, (here.f - there.f) / here.e])
    whole = np.round(ratio), np.round(start)
    if (np.abs(ratio - whole[0]) > _SNAP).any() or (np.abs(start - whole[1]) > _SNAP).any() or whole[0].min() < 1:
        return None
    if whole[0].max() > 1 and method != "nearest":
        return None
    columns, rows = (
        (np.arange(count) + int(first)) // int(step)
        for count, first, step in zip(geobox.shape[::-1], whole[1], whole[0], strict=True)
    )
    return rows, columns


def _copy_nested(
    source: rasterio.DatasetReader,
    band: Band,
    nodata: float,
    pixels: tuple[NDArray[np.intp], NDArray[np.intp]],
    values: NDArray[Any],
) -> None:
    inside = [(index >= 0) & (index < size) for index, size in zip(pixels, source.shape, strict=True)]
    rows, columns = (index[keep] for index, keep in zip(pixels, inside, strict=True))
    if not (rows.size and columns.size):
        return
    window = rasterio.windows.Window(
        columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1
    )
    found = source.read(1, window=window)
    if not _same(nodata, band.nodata):
        found = np.where(_is_nodata(found, nodata), band.nodata, found)
    found = found.astype(band.np_dtype, copy=False)
    if found.shape != (rows.size, columns.size):
        found = found[np.ix_(rows - rows[0], columns - columns[0])]
    values[np.ix_(*inside)] = found


def _zero_filled(
    source: rasterio.DatasetReader, band: Band, geobox: GeoBox, nodata: float, method: str
) -> NDArray[np.bool_]:
    """Where zeros stand for nothing; after a warp a pixel around, too, since the warp has mixed them in."""
    zero = _onto_grid(source, band, geobox, nodata, "nearest") == 0
    if _nested_pixels(source, geobox, method) is None:
        for axis in (0, 1):
            padded = np.pad(zero, [(1, 1) if axis == a else (0, 0) for a in (0, 1)])
            zero = sum(np.take(padded, range(k, k + zero.shape[axis]), axis) for k in range(3)) > 0
    return zero


def _is_nodata(values: NDArray[Any], nodata: float) -> NDArray[np.bool_]:
    return np.isnan(values) if np.isnan(nodata) else cast("NDArray[np.bool_]", values == nodata)


def _same(one: float, other: float) -> bool:
    return one == other or (np.isnan(one) and np.isnan(other))


@lru_cache(maxsize=1)
def _hush_rasterio() -> None:
    """Hide a warning that rasterio means to hide itself, but lets through when several threads warp at once."""
    warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)


@lru_cache(maxsize=8)
def _connections(count: int) -> threading.BoundedSemaphore:
    """Return the process's connections, which its threads take turns to hold."""
    return threading.BoundedSemaphore(count)


def _is_http(href: str) -> bool:
    return href.startswith(("http://", "https://"))


class _Opener:
    """Gives GDAL a URL for each attempt at one asset: signed, and never one that has failed before.

    GDAL remembers a failed URL for the life of the process, so a further attempt adds a number to the query.
    """

    def __init__(self, asset: AssetRef, access: Access) -> None:
        self._href = access.resolve(asset.href)
        self._sign = access.sign
        self._refused: str | None = None
        self._used: str | None = None

    def url(self, attempt: int) -> str:
        """Return what to open."""
        href = self._href
        if not _is_http(href):
            return href
        if self._sign:
            self._used = token_for(href, stale=self._refused)
            href = f"{href}?{self._used}" if self._used else href
        if attempt:
            href += f"{'&' if '?' in href else '?'}attempt={next(_ATTEMPTS)}"
        return href

    def refuse(self, cause: str) -> None:
        """Take note that the service refused the last URL's token."""
        if any(code in cause for code in _REFUSALS):
            self._refused = self._used


_ATTEMPTS = itertools.count(1)
_REFUSALS = ("401", "403", "409")


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
        seen = _patiently(scene, asset, access, lambda url: _clear_overview(url, aoi, clear))
        best = seen if best is None or best.shape != seen.shape else best | seen
    return 0.0 if best is None else float(best.mean())


def _clear_overview(url: str, aoi: BaseGeometry, clear: Collection[int]) -> NDArray[np.bool_]:
    with rasterio.open(url, sharing=False) as source:
        window = rasterio.windows.from_bounds(*project(aoi, source.crs.to_epsg()).bounds, source.transform)
        shape = (max(round(window.height / _OVERVIEW), 1), max(round(window.width / _OVERVIEW), 1))
        codes = source.read(1, window=window, out_shape=shape, boundless=True, fill_value=0)
    return np.isin(codes, list(clear))


def check_access(href: str, access: Access) -> str:
    """Try to get a token for an asset's container, and say in one line what is wrong if there is none.

    Called in the first minute of a run for every container of its first plan, so that a missing account shows then, not
    hours later.
    """
    if not access.sign or not _is_http(access.resolve(href)):
        return ""
    try:
        token_for(access.resolve(href), stale=None)
    except Transient as failure:
        return failure.cause
    return ""
