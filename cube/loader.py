"""Pixels: the one module that reads assets. Hrefs are signed here, at the moment of the read, in the process that reads.

A band of a block is read from each scene of its date in turn; the first scene wins and the next fills its nodata. Where
the grid nests in the file's, pixels are copied; otherwise GDAL warps them onto the block's own grid. A read
that fails for good is a :class:`cube.errors.ReadError`; it never becomes nodata.

All reads of a process happen in as many threads as it may have connections, one request at a time in each: that bounds what
a service is asked at once, and GDAL, which keeps connections by thread, has them open for the next read.
"""

from __future__ import annotations

import logging
import re
import threading
import warnings
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any, TypeVar, cast

import numpy as np
import rasterio
import rasterio.warp
import rasterio.windows
from affine import Affine
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from odc.geo.warp import resampling_s2rio
from rasterio._err import CPLE_BaseError
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from shapely.geometry.base import BaseGeometry

from .errors import ReadError
from .grid import project
from .items import AssetRef, Scene
from .retry import Refused, RetryPolicy, Transient, without_signature
from .scenes import Acquisition
from .sensors import Band, BandKind, Sensor
from .signing import token_for

__all__ = ["Access", "check_access", "clear_share", "harmonize_dn", "read_band", "read_bands", "read_scene"]

_BASELINE_WITH_OFFSET = (4, 0)
_OFFSET_DN = 1000
"""ESA: since processing baseline 04.00 DN = reflectance * 10000 + 1000 (BOA_ADD_OFFSET -1000)."""

_GDAL_OPTIONS: dict[str, Any] = {
    # No directory listings and no probes for sidecar files: a COG is one file.
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_PAM_ENABLED": False,
    # The header of a COG lies in its first bytes, and is kept for the next block; then neighbouring tiles are asked for
    # together. A request for one tile is rounded to whole chunks: small ones, but not so small that the long offset
    # table of a whole zone's land cover takes several.
    "GDAL_INGESTED_BYTES_AT_OPEN": 16384,
    "CPL_VSIL_CURL_CHUNK_SIZE": 8192,
    "CPL_VSIL_CURL_CACHE_SIZE": 64 << 20,
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": True,
    # What passes by itself is tried again at once; above it, the read is.
    "GDAL_HTTP_MAX_RETRY": 2,
    "GDAL_HTTP_RETRY_DELAY": 0.5,
    # Without these GDAL waits for ever on a silent socket.
    "GDAL_HTTP_CONNECTTIMEOUT": 15,
    "GDAL_HTTP_TIMEOUT": 120,
    "GDAL_HTTP_LOW_SPEED_TIME": 20,
    "GDAL_HTTP_LOW_SPEED_LIMIT": 1000,
    # Bounded per process, whatever the machine has.
    "GDAL_CACHEMAX": 256,
    "VSI_CACHE": False,
}
_READ_BUDGET_S = 1800.0
_SNAP = 1e-4
"""Grids that agree to this part of a pixel are one grid (records round their coordinates)."""
_WARP_MARGIN_PX = 4
"""Pixels of the file that a warp wants around its grid; cubic takes two."""
_REQUEST_PX = 512
"""Rows that a request is made for at least, where the file's own tiles are lower."""
_BANDS_AHEAD = 4
"""Bands of a block that are read at once."""
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
    retries: int = 8
    """Further tries of a read that failed."""

    def resolve(self, href: str) -> str:
        """Return an href that can be opened, unsigned."""
        if "://" in href or href.startswith("/"):
            return href
        return str(PurePosixPath(self.base) / href)


def read_bands(
    scenes: tuple[Scene, ...],
    sensor: Sensor,
    names: Iterable[str],
    geobox: GeoBox,
    access: Access,
    *,
    resampling: str,
    harmonize: bool,
) -> Iterator[tuple[str, NDArray[Any]]]:
    """Read bands of one date onto a grid, a few ahead of the one that is asked for.

    Parameters
    ----------
    scenes, sensor, geobox, access, resampling, harmonize
        As for :func:`read_band`.
    names
        Names of the bands wanted.

    Yields
    ------
    name, values
        In the order of `names`; values as of :func:`read_band`, but that all bands of a pixel come from one scene.

    Raises
    ------
    ReadError
        If a read failed after its retries; names item and asset.
    """
    names = tuple(names)

    def read(name: str, some: tuple[Scene, ...] = scenes) -> NDArray[Any]:
        band = sensor.band(name)
        return read_band(some, sensor, band, geobox, access, resampling=resampling, harmonize=harmonize)

    with ThreadPoolExecutor(_BANDS_AHEAD) as pool:
        try:
            if len(scenes) > 1 and len(names) > 1:
                yield from _mosaic(scenes, sensor, names, pool, read)
                return
            waiting: deque[tuple[str, Future[NDArray[Any]]]] = deque()
            for name in names:
                waiting.append((name, pool.submit(read, name)))
                if len(waiting) == _BANDS_AHEAD:
                    yield _next(waiting)
            while waiting:
                yield _next(waiting)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _mosaic(
    scenes: tuple[Scene, ...],
    sensor: Sensor,
    names: tuple[str, ...],
    pool: ThreadPoolExecutor,
    read: Callable[[str, tuple[Scene, ...]], NDArray[Any]],
) -> Iterator[tuple[str, NDArray[Any]]]:
    """Put scenes together so that all bands of a pixel, its mask among them, come from one scene.

    The first scene with every band wins; where none has, the first with any. Band by band, the colours of one scene
    could end up under the clear mask of another.
    """
    mosaic: dict[str, NDArray[Any]] = {}
    whole: NDArray[np.bool_] | None = None
    partly: NDArray[np.bool_] | None = None
    for scene in scenes:
        if whole is not None and whole.all():
            break
        layers = dict(zip(names, pool.map(lambda name, one=scene: read(name, (one,)), names), strict=True))
        filled = [~_empty(values, sensor.band(name)) for name, values in layers.items()]
        every, some = np.logical_and.reduce(filled), np.logical_or.reduce(filled)
        if whole is None or partly is None:
            mosaic, whole, partly = layers, every, some
            continue
        better = (every & ~whole) | (some & ~partly)
        for name, values in layers.items():
            np.copyto(mosaic[name], values, where=better)
        whole, partly = whole | every, partly | some
    yield from mosaic.items()


def _next(waiting: deque[tuple[str, Future[NDArray[Any]]]]) -> tuple[str, NDArray[Any]]:
    name, values = waiting.popleft()
    return name, values.result()


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
    if band.kind is BandKind.ELEVATION and len(scenes) > 1:
        _close_seams(mosaic, scenes, band, geobox, access)
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
    return np.where(values == 0, 0, lowered).astype(values.dtype)


def _empty(values: NDArray[Any], band: Band) -> NDArray[np.bool_]:
    if values.dtype.kind == "f":
        return cast("NDArray[np.bool_]", np.isnan(values))
    if band.kind is BandKind.FLAGS:
        return np.asarray(values & int(band.nodata), bool)
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
    """Read an asset, trying again on any error."""
    _quieten()
    opener = _Opener(asset, access)
    readers = _readers(access.connections)

    def attempt(_: int) -> Result:
        url = opener.url()
        result, failure = readers.submit(_try, read, url).result()
        if failure is None:
            return cast("Result", result)
        opener.note_failure(failure)
        raise Transient(failure.cause)

    try:
        return RetryPolicy(access.retries if opener.is_http else 0, _READ_BUDGET_S).call(attempt)
    except (Transient, Refused) as last:
        error = ReadError(scene.id, asset.key, str(last))
    raise error  # outside the handler: nothing that was caught, and may hold a token, comes along


@dataclass(frozen=True)
class _Failure:
    """What went wrong with one attempt, without any signature."""

    cause: str
    status: int | None
    """The last HTTP status that was no success, where GDAL told of one."""


def _try(read: Callable[[str], Result], url: str) -> tuple[Result | None, _Failure | None]:
    _HEARD.status = None
    with rasterio.Env(**_GDAL_OPTIONS):
        try:
            return read(url), None
        except (RasterioError, CPLE_BaseError, OSError, ValueError) as error:
            cause = _describe(error)
    found = _STATUS.search(cause)
    status = int(found[1]) if found else _HEARD.status
    if status is not None and not found:
        cause = f"{cause} (HTTP {status})"
    return None, _Failure(cause, status)


def _describe(error: BaseException) -> str:
    """Put an error and what led to it into one line, without any signature."""
    texts: list[str] = []
    link: BaseException | None = error
    while link is not None:
        text = without_signature(" ".join(str(link).split())).removesuffix(
            " See previous exception for details."
        )
        if text and text not in texts:
            texts.append(text)
        link = link.__cause__ or link.__context__
    return ": ".join(texts) or type(error).__name__


def _read_file(
    url: str, band: Band, geobox: GeoBox, nodata_fallback: float, method: str, *, zero_is_nodata: bool
) -> NDArray[Any]:
    with rasterio.open(url, sharing=False) as source:
        if not _fits(np.dtype(source.dtypes[0]), band.np_dtype):
            raise Refused(f"the file is {source.dtypes[0]}, whose numbers {band.dtype} cannot all hold")
        nodata = source.nodata if source.nodata is not None else nodata_fallback
        values = _onto_grid(source, band, geobox, nodata, method)
        if zero_is_nodata and (values == 0).any():
            values[_zero_filled(source, band, geobox, nodata, method, values)] = band.nodata
    return values


def _fits(there: np.dtype[Any], here: np.dtype[Any]) -> bool:
    """Tell whether numbers of a file keep their meaning in a band: no integer may wrap or be cut off."""
    return there.kind in "iuf" if here.kind == "f" else np.can_cast(there, here)


def _onto_grid(
    source: rasterio.DatasetReader, band: Band, geobox: GeoBox, nodata: float, method: str
) -> NDArray[Any]:
    """Copy pixels where the grid nests in the file's, else warp onto the whole grid."""
    values = np.full(geobox.shape, band.nodata, band.np_dtype)
    nested = _nested_pixels(source, geobox, method)
    if nested is not None:
        _copy_nested(source, band, nodata, nested, values)
        return values
    _fill_cache(source, geobox)
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
    if (
        (np.abs(ratio - whole[0]) > _SNAP).any()
        or (np.abs(start - whole[1]) > _SNAP).any()
        or whole[0].min() < 1
    ):
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
    inside = [_within(index, size) for index, size in zip(pixels, source.shape, strict=True)]
    rows, columns = (index[keep] for index, keep in zip(pixels, inside, strict=True))
    if not (rows.size and columns.size):
        return
    window = rasterio.windows.Window(
        int(columns[0]), int(rows[0]), int(columns[-1] - columns[0]) + 1, int(rows[-1] - rows[0]) + 1
    )
    found = _read_window(source, window)
    if not _same(nodata, band.nodata):
        empty = _is_nodata(found, nodata)
        found = found.astype(band.np_dtype, copy=False)
        found[empty] = band.nodata
    if found.shape != (rows.size, columns.size):
        found = found[np.ix_(rows - rows[0], columns - columns[0])]
    values[tuple(inside)] = found


def _within(index: NDArray[np.intp], size: int) -> slice:
    """Return which of ascending pixel numbers are those of a file of a size."""
    first, stop = np.searchsorted(index, [0, size])
    return slice(int(first), int(stop))


def _read_window(source: rasterio.DatasetReader, window: rasterio.windows.Window) -> NDArray[Any]:
    """Read pixels by rows of tiles, which lie together in the file: GDAL then sends one request after the other."""
    values = np.empty((window.height, window.width), source.dtypes[0])
    for strip in _strips(source, window):
        part = values[strip.row_off - window.row_off :][: strip.height]
        source.read(1, window=strip, out=part)
    return values


def _strips(
    source: rasterio.DatasetReader, window: rasterio.windows.Window
) -> Iterator[rasterio.windows.Window]:
    tile_height, tile_width = source.block_shapes[0]
    first, last = window.col_off // tile_width, (window.col_off + window.width - 1) // tile_width
    if (
        first == 0 and last == (source.width - 1) // tile_width
    ):  # whole rows of tiles: all of it lies together
        yield window
        return
    step = max(_REQUEST_PX // tile_height, 1) * tile_height if tile_width >= source.width else tile_height
    stop = window.row_off + window.height
    for row in range(window.row_off // step * step, stop, step):
        top = max(row, window.row_off)
        yield rasterio.windows.Window(window.col_off, top, window.width, min(row + step, stop) - top)


def _fill_cache(source: rasterio.DatasetReader, geobox: GeoBox) -> None:
    """Read what a warp will ask for, so that it finds the tiles in GDAL's cache: it would ask for all of them at once."""
    window = _window_of(source, geobox)
    if window is not None:
        for strip in _strips(source, window):
            source.read(1, window=strip)


def _window_of(source: rasterio.DatasetReader, geobox: GeoBox) -> rasterio.windows.Window | None:
    """Return the file's pixels around a grid, or None where the grid is beyond the file or what its CRS can tell."""
    if source.crs is None or not source.transform.is_rectilinear:
        return None
    box: Any = geobox.boundingbox
    left, bottom, right, top = rasterio.warp.transform_bounds(str(geobox.crs), source.crs, *box.bbox)
    if not np.isfinite([left, bottom, right, top]).all() or left >= right:
        return None
    columns, rows = _apply(~source.transform, np.array([left, right]), np.array([top, bottom]))
    (west, east), (north, south) = (
        np.clip([np.floor(c.min()) - _WARP_MARGIN_PX, np.ceil(c.max()) + _WARP_MARGIN_PX], 0, size).astype(
            int
        )
        for c, size in ((columns, source.width), (rows, source.height))
    )
    if west >= east or north >= south:
        return None
    return rasterio.windows.Window(west, north, east - west, south - north)


def _zero_filled(
    source: rasterio.DatasetReader,
    band: Band,
    geobox: GeoBox,
    nodata: float,
    method: str,
    values: NDArray[Any],
) -> NDArray[np.bool_]:
    """Where zeros stand for nothing; after a warp a pixel around, too, since the warp has mixed them in."""
    if _nested_pixels(source, geobox, method) is not None:
        return cast("NDArray[np.bool_]", values == 0)
    zero: NDArray[np.bool_] = _onto_grid(source, band, geobox, nodata, "nearest") == 0
    for axis in (0, 1):
        padded = np.pad(zero, [(1, 1) if axis == a else (0, 0) for a in (0, 1)])
        zero = np.any([np.take(padded, range(k, k + zero.shape[axis]), axis) for k in range(3)], axis=0)
    return zero


def _close_seams(
    mosaic: NDArray[Any], scenes: tuple[Scene, ...], band: Band, geobox: GeoBox, access: Access
) -> None:
    """Fill pixels that no file holds but that lie within a pixel of two of them, with the mean of their edges.

    Tiles of an elevation model have their pixels on whole seconds: where one ends and the next begins, up to a pixel may
    belong to neither.
    """
    rows, columns = np.nonzero(_empty(mosaic, band))
    if not rows.size:
        return
    points = np.stack(_apply(geobox.affine, columns + 0.5, rows + 0.5))
    total, count = np.zeros(rows.size), np.zeros(rows.size, int)
    for scene in scenes:
        asset = scene.assets[band.name]
        found = _patiently(scene, asset, access, lambda url: _edge_values(url, points, str(geobox.crs)))
        near = np.isfinite(found)
        total[near] += found[near]
        count[near] += 1
    between = count > 1
    mosaic[rows[between], columns[between]] = total[between] / count[between]


def _apply(affine: Affine, x: NDArray[Any], y: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    return affine.a * x + affine.b * y + affine.c, affine.d * x + affine.e * y + affine.f


def _edge_values(url: str, points: NDArray[Any], crs: str) -> NDArray[Any]:
    """Return the nearest pixel of a file for every point ``(x, y)``, and NaN for those farther than a pixel."""
    values = np.full(points.shape[1], np.nan)
    with rasterio.open(url, sharing=False) as source:
        x, y = (np.array(part) for part in rasterio.warp.transform(crs, source.crs, *points))
        if source.crs.is_geographic:  # the same meridian has two names
            middle = (source.bounds.left + source.bounds.right) / 2
            x = (x - middle + 180) % 360 - 180 + middle
        places = _apply(~source.transform, x, y)
        near = np.all(
            [
                (p >= -1) & (p <= size + 1)
                for p, size in zip(places, (source.width, source.height), strict=True)
            ],
            axis=0,
        )
        if near.any():
            columns, rows = (
                np.clip(np.floor(p[near]), 0, size - 1).astype(int)
                for p, size in zip(places, (source.width, source.height), strict=True)
            )
            west, north = int(columns.min()), int(rows.min())
            window = rasterio.windows.Window(
                west, north, int(columns.max()) - west + 1, int(rows.max()) - north + 1
            )
            values[near] = _read_window(source, window)[rows - north, columns - west]
    return values


def _is_nodata(values: NDArray[Any], nodata: float) -> NDArray[np.bool_]:
    return np.isnan(values) if np.isnan(nodata) else cast("NDArray[np.bool_]", values == nodata)


def _same(one: float, other: float) -> bool:
    return one == other or (np.isnan(one) and np.isnan(other))


@lru_cache(maxsize=8)
def _readers(connections: int) -> ThreadPoolExecutor:
    """Return the threads in which all reads of this process happen."""
    return ThreadPoolExecutor(connections, thread_name_prefix="reader")


class _Heard(threading.local):
    """What GDAL said to this thread in passing: the status of a failed range is in its warnings, not in its errors."""

    status: int | None = None


_HEARD = _Heard()
_STATUS = re.compile(r"(?:HTTP response code: |HTTP error code: |response_code=)(\d+)")


class _Strip(logging.Filter):
    """Takes signatures out of what rasterio logs for GDAL, whoever listens, and notes the HTTP status."""

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        for status in _STATUS.findall(text):
            if not 200 <= int(status) < 300 and int(status):
                _HEARD.status = int(status)
        record.msg, record.args = without_signature(text), ()
        return True


@lru_cache(maxsize=1)
def _quieten() -> None:
    """Keep tokens out of the log, and hide a warning that rasterio lets through when several threads warp at once."""
    warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)
    for name in [name for name in logging.root.manager.loggerDict if name.startswith("rasterio")]:
        logging.getLogger(name).addFilter(_Strip())


def _is_http(href: str) -> bool:
    return href.startswith(("http://", "https://"))


_REFUSALS = frozenset({401, 403})
_GENERATIONS: dict[str, int] = {}
"""How often the reads of an href have failed in this process: GDAL must not see a URL again that has failed.

It remembers a failed open, and keeps a broken body as good, for the life of the process; another query is another URL.
"""


class _Opener:
    """Gives GDAL the URL of an asset: signed, and never one that has failed before."""

    def __init__(self, asset: AssetRef, access: Access) -> None:
        self._href = access.resolve(asset.href)
        self._sign = access.sign
        self._refused: str | None = None
        self._used = ""
        self._generation = 0

    @property
    def is_http(self) -> bool:
        """True where the asset is read over a network."""
        return _is_http(self._href)

    def url(self) -> str:
        """Return what to open.

        Raises
        ------
        Refused
            If no token can be had.
        """
        if not self.is_http:
            return self._href
        if self._sign:
            self._used = token_for(self._href, stale=self._refused)
        self._generation = _GENERATIONS.get(self._href, 0)
        nonce = f"attempt={self._generation}" if self._generation else ""
        query = "&".join(part for part in (self._used, nonce) if part)
        return f"{self._href}{'&' if '?' in self._href else '?'}{query}" if query else self._href

    def note_failure(self, failure: _Failure) -> None:
        """Let the next attempt have another URL, and another token if this one was refused."""
        if failure.status in _REFUSALS:
            self._refused = self._used
        _GENERATIONS[self._href] = max(_GENERATIONS.get(self._href, 0), self._generation + 1)


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

    Called for every container of a plan before its first block, so that a missing account shows in the first minute of a
    run, not hours later.
    """
    if not access.sign or not _is_http(access.resolve(href)):
        return ""
    try:
        token_for(access.resolve(href), stale=None)
    except Refused as refused:
        return str(refused)
    return ""
