"""The pixels of a block: bands of one date, read from its scenes onto the block's grid.

A band of a block is read from each scene of its date in turn; the first scene wins and the next
fills its nodata. Where the grid nests in the file's, pixels are copied; otherwise GDAL warps them
onto the block's own grid. A read that fails for good is a :class:`cube.errors.ReadError`; it never
becomes nodata.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import rasterio
import rasterio.warp
import rasterio.windows
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from rasterio.dtypes import in_dtype_range
from rasterio.enums import ColorInterp

from cube.config.sensors import Band, BandKind, Sensor
from cube.retry import Refused, heed, heeded
from cube.scenes.items import AssetRef, Scene

from .access import Access, read_with_retries
from .notes import ReadNotes, version_of
from .onto_grid import fits, read_onto_grid, read_window
from .placement import apply_affine, placement_of

_OFFSET_DN = 1000
_BANDS_AHEAD = 4
"""Bands of a block that are read at once."""


def read_bands(
    scenes: tuple[Scene, ...],
    sensor: Sensor,
    names: Iterable[str],
    geobox: GeoBox,
    access: Access,
    *,
    resampling: str,
    harmonize: bool,
    notes: ReadNotes | None = None,
) -> Iterator[tuple[str, NDArray[Any]]]:
    """Read bands of one date onto a grid, a few ahead of the one that is asked for.

    Parameters
    ----------
    scenes
        In mosaic order: the first with every band of a pixel wins, or else the first with any.
    geobox
        Grid of the block, in the cube's CRS.
    resampling
        GDAL resampling where grids differ; masks and classes are nearest whatever it says.
    harmonize
        Take the +1000 offset off the DN of scenes of processing baseline 04.00 and later.
    notes
        Are told what the files leave to others to say.

    Yields
    ------
    name, values
        In the order of `names`; each ``(y, x)`` in the band's dtype, ``band.nodata`` where
        no scene has anything; all bands of a pixel come from one scene.

    Raises
    ------
    ReadError
        If a read failed after its retries; names item and asset.
    """
    names = tuple(names)

    def read(name: str, some: tuple[Scene, ...] = scenes) -> NDArray[Any]:
        band = sensor.band(name)
        return read_band(
            some,
            sensor,
            band,
            geobox,
            access,
            resampling=resampling,
            harmonize=harmonize,
            notes=notes,
        )

    with ThreadPoolExecutor(_BANDS_AHEAD, initializer=heed, initargs=(heeded(),)) as pool:
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

    The first scene with every band wins; where none has, the first with any. Band by band, the
    colours of one scene could end up under the clear mask of another.
    """
    mosaic: dict[str, NDArray[Any]] = {}
    whole: NDArray[np.bool_] | None = None
    partly: NDArray[np.bool_] | None = None
    for scene in scenes:
        if whole is not None and whole.all():
            break
        layers = dict(zip(names, pool.map(lambda name, one=scene: read(name, (one,)), names), strict=True))
        filled = [~sensor.band(name).is_nodata(values) for name, values in layers.items()]
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
    notes: ReadNotes | None = None,
) -> NDArray[Any]:
    """Read one band of one date onto a grid.

    Parameters
    ----------
    scenes
        In mosaic order: the first wins, the next fills its nodata.
    geobox
        Grid of the block, in the cube's CRS.
    resampling
        GDAL resampling where grids differ; masks and classes are nearest whatever it says.
    harmonize
        Take the +1000 offset off the DN of scenes of processing baseline 04.00 and later.
    notes
        Are told what the files leave to others to say.

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
        if mosaic is not None and not band.is_nodata(mosaic).any():
            break
        values = read_scene(scene, sensor, band, geobox, access, resampling=resampling, notes=notes)
        if harmonize and band.kind is BandKind.REFLECTANCE:
            values = harmonize_dn(values, scene)
        if mosaic is None:
            mosaic = values
        else:
            np.copyto(mosaic, values, where=band.is_nodata(mosaic))
    if mosaic is None:
        mosaic = np.full(geobox.shape, band.nodata, band.np_dtype)
    if band.kind is BandKind.ELEVATION and len(scenes) > 1:
        _close_seams(mosaic, scenes, band, geobox, access)
    return mosaic


def harmonize_dn(values: NDArray[Any], scene: Scene) -> NDArray[Any]:
    """Take the +1000 offset off a Sentinel-2 scene's DN if its processing baseline has it.

    Parameters
    ----------
    values
        ``(y, x)`` uint16 DN; 0 is nodata and stays 0. Changed in place.
    scene
        ``s2:processing_baseline`` decides, never the date.

    Returns
    -------
    numpy.ndarray
        uint16 DN of reflectance * 10000, valid pixels at least 1.
    """
    if not scene.carries_offset:
        return values
    known = values != 0
    np.maximum(values, _OFFSET_DN + 1, out=values)
    np.subtract(values, _OFFSET_DN, out=values)
    np.multiply(values, known, out=values)
    return values


def read_scene(
    scene: Scene,
    sensor: Sensor,
    band: Band,
    geobox: GeoBox,
    access: Access,
    *,
    resampling: str,
    notes: ReadNotes | None = None,
) -> NDArray[Any]:
    """Read one band of one scene onto a grid, trying again what may pass.

    Returns
    -------
    numpy.ndarray
        ``(y, x)`` in the band's dtype, ``band.nodata`` outside the file and where the file has
        nothing.

    Raises
    ------
    ReadError
        After the last try; LostSceneError if the file cannot be used for good.
    """
    asset = scene.assets[band.name]
    method = "nearest" if band.is_mask else resampling
    noted = notes or ReadNotes()

    def nodata_of(source: rasterio.DatasetReader) -> float:
        if source.nodata is not None:
            return float(source.nodata)
        if band.kind is BandKind.FLAGS:
            return band.nodata
        if asset.nodata is not None and in_dtype_range(asset.nodata, source.dtypes[0]):
            return asset.nodata
        return noted.nodata(band.name, sensor.nodata_of(band))

    def read(url: str) -> NDArray[Any]:
        with rasterio.open(url, sharing=False) as source:
            if problem := _why_other(source, band) or _why_scaled(source, band, sensor, scene):
                raise Refused(problem)
            placement = placement_of(source, scene, asset)
            if placement.by_item:
                noted.placed_by_item.add((scene.id, asset.key, placement.by_item))
            noted.files.add((scene.id, asset.key, version_of(source)))
            zero_is_nodata = sensor.zero_is_nodata
            nodata = nodata_of(source)
            return read_onto_grid(
                source, placement, band, geobox, nodata, method, zero_is_nodata=zero_is_nodata
            )

    return read_with_retries(scene, asset, access, read)


def _why_other(source: rasterio.DatasetReader, band: Band) -> str:
    """Say why a file's numbers are not a band's; nothing where they are."""
    if not fits(np.dtype(source.dtypes[0]), band.np_dtype):
        return f"the file is {source.dtypes[0]}, whose numbers {band.dtype} cannot all hold"
    layers = sum(meaning is not ColorInterp.alpha for meaning in source.colorinterp)
    if layers > 1:
        return f"the file has {layers} bands where one is expected"
    return ""


def _why_scaled(source: rasterio.DatasetReader, band: Band, sensor: Sensor, scene: Scene) -> str:
    """Say why a file's own scale and offset are not what table and item say of it.

    A file that names neither (GDAL then tells of 1 and 0) leaves it to them. One that names them
    says, of Sentinel-2, whether its DN are 1000 too high: if that is not what its item says, an
    offset would be taken off twice, or stay.
    """
    scale, offset = source.scales[0], source.offsets[0]
    if (scale, offset) == (1, 0):
        return ""
    if not math.isclose(scale, band.scale, rel_tol=1e-6):
        return f"the file's scale is {scale:g}; expected {band.scale:g}, or none"
    expected, why = band.offset, ""
    if sensor.baseline_offset and band.kind is BandKind.REFLECTANCE:
        expected = -_OFFSET_DN * band.scale if scene.carries_offset else 0.0
        why = f" by its item ({scene.offset_in_words})"
    if not math.isclose(offset, expected, rel_tol=1e-6, abs_tol=1e-12):
        return f"the file's offset is {offset:g}; expected {expected:g}{why}"
    return ""


def _close_seams(
    mosaic: NDArray[Any], scenes: tuple[Scene, ...], band: Band, geobox: GeoBox, access: Access
) -> None:
    """Fill pixels between two files, within a pixel of both, with the mean of their edges.

    Tiles of an elevation model have their pixels on whole seconds: where one ends and the next
    begins, up to a pixel may belong to neither.
    """
    rows, columns = np.nonzero(band.is_nodata(mosaic))
    if not rows.size:
        return
    points = np.stack(apply_affine(geobox.affine, columns + 0.5, rows + 0.5))
    total, count = np.zeros(rows.size), np.zeros(rows.size, int)
    for scene in scenes:
        asset = scene.assets[band.name]
        read = partial(_edge_values, scene=scene, asset=asset, points=points, crs=str(geobox.crs))
        found = read_with_retries(scene, asset, access, read)
        near = np.isfinite(found)
        total[near] += found[near]
        count[near] += 1
    between = count > 1
    mosaic[rows[between], columns[between]] = total[between] / count[between]


def _edge_values(url: str, scene: Scene, asset: AssetRef, points: NDArray[Any], crs: str) -> NDArray[Any]:
    """Return a file's nearest pixel to each point ``(x, y)``; NaN if it is farther than a pixel."""
    values = np.full(points.shape[1], np.nan)
    with rasterio.open(url, sharing=False) as source:
        place = placement_of(source, scene, asset)
        x, y = (np.array(part) for part in rasterio.warp.transform(crs, place.crs, *points))
        if place.crs.is_geographic:  # the same meridian has two names
            middle = apply_affine(place.transform, np.array(source.width / 2), np.array(source.height / 2))[0]
            x = (x - middle + 180) % 360 - 180 + middle
        places = apply_affine(~place.transform, x, y)
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
            values[near] = read_window(source, window)[rows - north, columns - west]
    return values
