"""Turns rows of the scenario into files and items: what each sensor's ground segment does."""

from __future__ import annotations

from datetime import timedelta
from itertools import product
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np
import shapely
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from rasterio import Affine

from cube.testing import radiometry
from cube.testing.assets import S2_ASSETS, landsat_files
from cube.testing.items import dem_item, landsat_item, lulc_item, sentinel1_item, sentinel2_item
from cube.testing.landscape import (
    AREA_M,
    EPSG,
    MASTER_M,
    Cover,
    make_cover,
    make_landscape,
    make_terrain,
    warp,
)
from cube.testing.rasters import coarser, covered, footprint_4326, half_plane, utm_geobox, write_cog
from cube.testing.scenario import (
    LANDSAT_PATHS,
    LEAN,
    LULC_TILES,
    LULC_YEARS,
    MIDDLE_Y_M,
    TILES,
    Bounds,
    LandsatDate,
    Sentinel1Pass,
    Sentinel2Scene,
)

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from cube.testing.items import Item
    from cube.testing.landscape import Landscape
    from cube.testing.noise import Floats

T = TypeVar("T", bound=np.generic)

ROOT = "./blobs"
"""What hrefs of the archive start with, relative to its items file."""

S1_NODATA = -32768.0
S2_OFFSET, S2_OFFSET_BASELINE = 1000, "04.00"
"""Numbers of products from this baseline on are ``10000 * reflectance + 1000`` (ESA's
BOA_ADD_OFFSET)."""
VISIBLE = ("B01", "B02", "B03", "B04")
S2_STEP = {True: 12, False: 32}
"""Numbers are whole multiples of this (visible, others), so that files are small; sensor noise is
larger."""
LANDSAT_STEP = 32

SLICE_OVERLAP_M = 300.0
ROW_OVERLAP_M = 800.0
SLICE_GAIN = 1.02
"""The second slice of a pass reads a little higher, so that it shows which of two slices a mosaic
took."""

SCL_SHARES = {
    "s2:water_percentage": (6,),
    "s2:snow_ice_percentage": (11,),
    "s2:vegetation_percentage": (4,),
    "s2:not_vegetated_percentage": (5,),
    "s2:cloud_shadow_percentage": (3,),
    "s2:medium_proba_clouds_percentage": (8,),
    "s2:high_proba_clouds_percentage": (9,),
    "s2:thin_cirrus_percentage": (10,),
    "s2:unclassified_percentage": (7,),
    "eo:cloud_cover": (8, 9, 10),
}
"""Item properties that are shares of SCL codes among the valid pixels."""


def write_sentinel2(root: Path, scene: Sentinel2Scene, seed: int) -> list[Item]:
    """Write one Sentinel-2 product: reflectance at 10, 20 and 60 m and its scene classification."""
    tile = TILES[scene.tile]
    geobox = utm_geobox(tile.epsg, tile.small_m if scene.small else tile.bounds_m, 10)
    swath = None if scene.west_edge_m is None else _east_of(scene.west_edge_m, LEAN)
    day = scene.when.timetuple().tm_yday
    land = make_landscape(seed).on(geobox)
    hidden = radiometry.opacity(geobox, scene.clouds, seed + day)
    shaded = radiometry.shadow(hidden)
    # Nodata is decided on the coarsest grid, so that the bands of all resolutions agree on it.
    valid_60 = covered(coarser(geobox, 60), swath)
    offset = S2_OFFSET if scene.baseline >= S2_OFFSET_BASELINE else 0
    ground = radiometry.reflectance(land, day, radiometry.BANDS)
    bands: dict[str, NDArray[np.generic]] = {}
    seen: dict[str, Floats] = {}
    for name in radiometry.BANDS:
        metres = S2_ASSETS[name][0]
        seen[name] = _block_mean(radiometry.through_clouds(name, ground[name], hidden, shaded), metres // 10)
        valid = _repeat(valid_60, 60 // metres)
        bands[name] = _sentinel2_numbers(seen[name], S2_STEP[name in VISIBLE], offset, valid)
    nir, red = _block_mean(seen["B08"], 2), _block_mean(seen["B04"], 2)
    scl = radiometry.scene_classes(
        _block_mean((land.cover == Cover.WATER).astype(np.float32), 2) > 0.5,
        (nir - red) / (nir + red),
        _block_max(hidden, 2),
        _block_max(shaded, 2),
        _repeat(valid_60, 3),
    )
    bands["SCL"] = scl
    item = sentinel2_item(
        geobox,
        scene.when,
        tile=scene.tile,
        relative_orbit=scene.relative_orbit,
        baseline=scene.baseline,
        generated=scene.generated,
        nodata_percentage=round(100 * float((scl == 0).mean()), 6),
        properties=_scl_shares(scl),
        footprint=footprint_4326(geobox, swath),
        root=ROOT,
    )
    for name, array in bands.items():
        grid = coarser(geobox, S2_ASSETS[name][0])
        _write(root, item, name, array, grid, nodata=0, overviews=name == "SCL")
    return [item]


def write_sentinel1(root: Path, flight: Sentinel1Pass, seed: int) -> list[Item]:
    """Write all slices of one Sentinel-1 pass."""
    items = []
    for number, swath in enumerate(_slices(flight)):
        geobox = _trim(EPSG, flight.small_m or AREA_M, swath, 10)
        if geobox is None:
            continue
        when = flight.when + timedelta(seconds=25 * number)
        item = sentinel1_item(
            geobox,
            when,
            relative_orbit=flight.relative_orbit,
            orbit_state=flight.orbit_state,
            polarizations=flight.polarizations,
            slice_number=number + 1,
            datatake=0x5E100 + flight.when.timetuple().tm_yday,
            footprint=footprint_4326(geobox, swath),
            root=ROOT,
        )
        values = _gamma(flight, geobox, seed)
        valid = covered(geobox, swath)
        for name, value in zip(flight.polarizations, values, strict=False):
            gained = radiometry.shorten(value * np.float32(SLICE_GAIN if number else 1))
            array = np.where(valid, gained, np.float32(S1_NODATA))
            _write(root, item, name.lower(), array, geobox, nodata=S1_NODATA, overviews=False)
        items.append(item)
    return items


def write_landsat(root: Path, date: LandsatDate, seed: int) -> list[Item]:
    """Write the two rows of one Landsat path on one date."""
    bounds, west, east = LANDSAT_PATHS[date.path]
    path_swath = _east_of(west, LEAN).intersection(_west_of(east, LEAN))
    whole = utm_geobox(EPSG, date.small_m or bounds, 30)
    bands, water, hidden, shaded = _landsat_view(date, whole, seed)
    items = []
    for row, swath, correction in zip(("025", "026"), _rows(path_swath), date.corrections, strict=True):
        geobox = _trim(EPSG, date.small_m or bounds, swath, 30)
        if geobox is None:
            continue
        roi = _roi(whole, geobox)
        valid = covered(geobox, swath)
        quality = radiometry.pixel_quality(water[roi], hidden[roi], shaded[roi], valid)
        item = landsat_item(
            geobox,
            date.when + timedelta(seconds=24 * (row == "026")),
            platform=date.platform,
            path=date.path,
            row=row,
            tier=date.tier,
            correction=correction,
            cloud_cover=round(100 * float((quality[valid] == radiometry.QA_CLOUD).mean()), 2),
            footprint=footprint_4326(geobox, swath),
            root=ROOT,
        )
        for name in landsat_files(date.platform, correction):
            array = quality if name == "qa_pixel" else np.where(valid, bands[name][roi], 0).astype(np.uint16)
            is_mask = name == "qa_pixel"
            _write(root, item, name, array, geobox, nodata=1 if is_mask else 0, overviews=is_mask)
        items.append(item)
    return items


def write_dem(root: Path, tile: tuple[int, int], seed: int) -> list[Item]:
    """Write one tile of the elevation model, cut to the sample area."""
    geobox = dem_geobox(*tile)
    heights, terrain = make_terrain(seed)
    item = dem_item(geobox, latitude=tile[0], longitude=tile[1], root=ROOT)
    _write(root, item, "data", warp(heights, terrain, geobox), geobox, nodata=None, resampling="average")
    return [item]


def write_lulc(root: Path, tile: str, seed: int) -> list[Item]:
    """Write the land cover maps of all years for one UTM zone, which ends at 12 E."""
    epsg, bounds = LULC_TILES[tile]
    geobox = utm_geobox(epsg, bounds, 10)
    to_zone = Transformer.from_crs("EPSG:4326", f"EPSG:{epsg}", always_xy=True)
    (x0, y0), (x1, y1) = to_zone.transform(12, 49.9), to_zone.transform(12, 50.1)
    ahead = 1 if tile == "32U" else -1
    swath = half_plane((x0, y0), (ahead * (x1 - x0), ahead * (y1 - y0)))
    items = []
    for year in LULC_YEARS:
        master = utm_geobox(EPSG, MASTER_M, 10)
        cover = make_cover(seed, year)
        here = cover[_roi(master, geobox)] if epsg == EPSG else warp(cover, master, geobox)
        item = lulc_item(geobox, year, tile=tile, footprint=footprint_4326(geobox, swath), root=ROOT)
        _write(
            root, item, "data", np.where(covered(geobox, swath), here, 0).astype(np.uint8), geobox, nodata=0
        )
        items.append(item)
    return items


def dem_geobox(latitude: int, longitude: int) -> GeoBox:
    """Return the part of a Copernicus GLO-30 tile that the archive holds, 0.06 degrees from 50 N.

    Spacing is 1" by 1" up to 50 N and 1.5" in longitude from there (Copernicus DEM Product
    Handbook). Pixels are points on whole seconds, hence tile edges half a pixel west and north of
    the whole degree.
    """
    second = 1 / 3600
    step = 1.5 * second if latitude >= 50 else second
    rows = 216
    columns = round((0.14 if longitude < 12 else 0.63) / step)
    top = 50 + second / 2 + (rows * second if latitude >= 50 else 0)
    left = 12 - step / 2 - (columns * step if longitude < 12 else 0)
    return GeoBox((rows, columns), Affine(step, 0, left, 0, -second, top), "EPSG:4326")


def _write(
    root: Path,
    item: Item,
    asset: str,
    array: NDArray[np.generic],
    geobox: GeoBox,
    *,
    nodata: float | None,
    overviews: bool = True,
    resampling: Literal["nearest", "average"] = "nearest",
) -> None:
    path = root / item["assets"][asset]["href"]
    write_cog(path, array, geobox, nodata=nodata, overviews=overviews, resampling=resampling)


def _east_of(x_m: float, lean: float) -> shapely.Polygon:
    return half_plane((x_m, MIDDLE_Y_M), (-lean, -1))


def _west_of(x_m: float, lean: float) -> shapely.Polygon:
    return half_plane((x_m, MIDDLE_Y_M), (lean, 1))


def _slices(flight: Sentinel1Pass) -> tuple[shapely.Polygon, shapely.Polygon]:
    """Return what the two slices of a pass see, in the order they were taken."""
    lean = LEAN if flight.orbit_state == "descending" else -LEAN
    swath = _east_of(flight.west_edge_m, lean)
    x = 303000 if flight.orbit_state == "descending" else 319000
    north = half_plane((x, MIDDLE_Y_M - SLICE_OVERLAP_M / 2), (1, -lean))
    south = half_plane((x, MIDDLE_Y_M + SLICE_OVERLAP_M / 2), (-1, lean))
    parts = (north, south) if flight.orbit_state == "descending" else (south, north)
    return swath.intersection(parts[0]), swath.intersection(parts[1])


def _rows(swath: shapely.Polygon) -> tuple[shapely.Polygon, shapely.Polygon]:
    """Return what the northern and the southern WRS row see."""
    north = half_plane((306000, MIDDLE_Y_M - ROW_OVERLAP_M / 2), (1, -LEAN))
    south = half_plane((306000, MIDDLE_Y_M + ROW_OVERLAP_M / 2), (-1, LEAN))
    return swath.intersection(north), swath.intersection(south)


def _trim(epsg: int, bounds: Bounds, swath: shapely.Polygon, resolution: int) -> GeoBox | None:
    """Return the smallest grid on the lattice of ``bounds`` that holds all of the swath."""
    seen = shapely.box(*bounds).intersection(swath)
    if seen.area < (10 * resolution) ** 2:
        return None
    left, bottom, right, top = seen.bounds
    return utm_geobox(
        epsg,
        (
            bounds[0] + (left - bounds[0]) // resolution * resolution,
            bounds[1] + (bottom - bounds[1]) // resolution * resolution,
            bounds[2] - (bounds[2] - right) // resolution * resolution,
            bounds[3] - (bounds[3] - top) // resolution * resolution,
        ),
        resolution,
    )


def _roi(whole: GeoBox, part: GeoBox) -> tuple[slice, slice]:
    """Return where a grid lies within another of the same lattice, ``(y, x)``."""
    metres = whole.transform.a
    column = round((part.transform.c - whole.transform.c) / metres)
    row = round((whole.transform.f - part.transform.f) / metres)
    return slice(row, row + part.height), slice(column, column + part.width)


def _gamma(flight: Sentinel1Pass, geobox: GeoBox, seed: int) -> tuple[Floats, Floats]:
    if flight.flat:
        flat = np.full(geobox.shape, 0.0625, dtype=np.float32)
        return flat, flat
    land = make_landscape(seed).on(geobox)
    return radiometry.backscatter(land, flight.when.timetuple().tm_yday, seed)


def _landsat_view(
    date: LandsatDate, geobox: GeoBox, seed: int
) -> tuple[dict[str, NDArray[np.uint16]], NDArray[np.bool_], Floats, NDArray[np.bool_]]:
    """Return digital numbers by asset, water, cloud opacity and shadow, on a 30 m grid."""
    day = date.when.timetuple().tm_yday
    left, bottom, right, top = geobox.boundingbox.bbox
    fine = utm_geobox(EPSG, (left - 5, bottom - 5, right + 5, top + 5), 10)
    land: Landscape = make_landscape(seed).on(fine)
    hidden = radiometry.opacity(fine, date.clouds, seed + day)
    shaded = radiometry.shadow(hidden)
    names = radiometry.LANDSAT_BANDS
    ground = radiometry.reflectance(land, day, tuple(names.values()))
    bands = {}
    for asset, name in names.items():
        value = _thirty(radiometry.through_clouds(name, ground[name], hidden, shaded))
        number = (value - radiometry.LANDSAT_OFFSET) / radiometry.LANDSAT_SCALE
        bands[asset] = (np.round(number / LANDSAT_STEP) * LANDSAT_STEP).astype(np.uint16)
    warmth = 288 - 14 * np.cos((day - 20) / 365.25 * 2 * np.pi)
    kelvin = warmth - 30 * _thirty(hidden)
    bands["lwir11"] = np.round((kelvin - 149) / 0.00341802 / 256).astype(np.uint16) * np.uint16(256)
    water = _thirty((land.cover == Cover.WATER).astype(np.float32)) > 0.5
    return bands, water, _thirty(hidden), _thirty(shaded.astype(np.float32)) > 0


def _thirty(fine: Floats) -> Floats:
    """Return the area means of 30 m pixels, of a 10 m grid that begins half a pixel before them."""
    half, third = np.float32(0.5), np.float32(1 / 3)
    columns = (half * fine[:, 0:-1:3] + fine[:, 1:-1:3] + fine[:, 2:-1:3] + half * fine[:, 3::3]) * third
    return (half * columns[0:-1:3] + columns[1:-1:3] + columns[2:-1:3] + half * columns[3::3]) * third


def _sentinel2_numbers(value: Floats, step: int, offset: int, valid: NDArray[np.bool_]) -> NDArray[np.uint16]:
    numbers = np.maximum(np.round(value * (10000 / step)) * step, step) + offset
    return np.where(valid, numbers, 0).astype(np.uint16)


def _scl_shares(scl: NDArray[np.uint8]) -> dict[str, float]:
    counts = np.bincount(scl.ravel(), minlength=12)
    valid = max(int(counts[1:].sum()), 1)
    return {
        name: round(100 * int(counts[list(codes)].sum()) / valid, 6) for name, codes in SCL_SHARES.items()
    }


def _block_mean(array: Floats, factor: int) -> Floats:
    if factor == 1:
        return array
    total = np.zeros((array.shape[0] // factor, array.shape[1] // factor), dtype=np.float32)
    for row, column in product(range(factor), repeat=2):
        total += array[row::factor, column::factor]
    return total * np.float32(1 / factor**2)


def _block_max(array: NDArray[T], factor: int) -> NDArray[T]:
    parts = [array[row::factor, column::factor] for row, column in product(range(factor), repeat=2)]
    largest: NDArray[T] = np.maximum.reduce(parts)
    return largest


def _repeat(mask: NDArray[np.bool_], factor: int) -> NDArray[np.bool_]:
    return mask.repeat(factor, axis=0).repeat(factor, axis=1)
