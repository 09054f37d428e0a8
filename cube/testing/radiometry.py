"""What each sensor measures of the landscape: reflectance, backscatter, clouds, and their masks."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from cube.testing.landscape import AREA_M, EPSG, Cover
from cube.testing.noise import axis_centres, octaves, smooth_noise

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from odc.geo.geobox import GeoBox

    from cube.testing.landscape import Landscape
    from cube.testing.noise import Floats

BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12")
"""Sentinel-2 names of the wavelengths below, 443 nm to 2190 nm."""

SPECTRA: dict[int, tuple[tuple[float, ...], tuple[float, ...]]] = {
    Cover.WATER: (
        (0.035, 0.040, 0.042, 0.028, 0.022, 0.016, 0.014, 0.012, 0.010, 0.009, 0.006, 0.004),
        (0.035, 0.040, 0.042, 0.028, 0.022, 0.016, 0.014, 0.012, 0.010, 0.009, 0.006, 0.004),
    ),
    Cover.TREES: (
        (0.030, 0.038, 0.050, 0.060, 0.080, 0.110, 0.125, 0.140, 0.150, 0.150, 0.170, 0.110),
        (0.018, 0.024, 0.042, 0.026, 0.072, 0.200, 0.250, 0.270, 0.290, 0.280, 0.140, 0.065),
    ),
    Cover.FLOODED: (
        (0.030, 0.035, 0.045, 0.040, 0.050, 0.070, 0.075, 0.080, 0.080, 0.080, 0.050, 0.030),
        (0.020, 0.030, 0.055, 0.040, 0.080, 0.180, 0.220, 0.230, 0.240, 0.230, 0.100, 0.050),
    ),
    Cover.CROPS: (
        (0.050, 0.065, 0.095, 0.125, 0.150, 0.165, 0.180, 0.200, 0.210, 0.215, 0.280, 0.240),
        (0.020, 0.030, 0.070, 0.035, 0.110, 0.330, 0.410, 0.440, 0.460, 0.450, 0.190, 0.090),
    ),
    Cover.BUILT: (
        (0.090, 0.110, 0.130, 0.145, 0.160, 0.170, 0.180, 0.195, 0.200, 0.200, 0.230, 0.210),
        (0.030, 0.045, 0.070, 0.055, 0.100, 0.220, 0.270, 0.290, 0.310, 0.300, 0.190, 0.110),
    ),
    Cover.BARE: (
        (0.075, 0.095, 0.125, 0.155, 0.175, 0.190, 0.205, 0.220, 0.230, 0.235, 0.310, 0.290),
        (0.035, 0.045, 0.075, 0.070, 0.110, 0.220, 0.270, 0.290, 0.310, 0.300, 0.230, 0.140),
    ),
    Cover.RANGELAND: (
        (0.040, 0.050, 0.080, 0.095, 0.120, 0.160, 0.180, 0.200, 0.215, 0.215, 0.270, 0.190),
        (0.025, 0.035, 0.065, 0.050, 0.100, 0.230, 0.280, 0.300, 0.320, 0.315, 0.200, 0.110),
    ),
}
"""Surface reflectance by class, without and with green leaves, in the order of :data:`BANDS`.

Round numbers of the size that spectral libraries give for these surfaces. What the map calls snow
or cloud looks like rangeland. """

CLOUD_REFLECTANCE = (0.52, 0.53, 0.54, 0.55, 0.56, 0.57, 0.58, 0.58, 0.58, 0.50, 0.36, 0.25)

SEASON_DAYS = (1, 45, 130, 170, 210, 245, 285, 330, 365)
CROP_GREEN = (
    (0.30, 0.35, 0.95, 0.70, 0.08, 0.05, 0.25, 0.30, 0.30),
    (0.02, 0.03, 0.12, 0.60, 0.95, 0.80, 0.10, 0.03, 0.02),
    (0.25, 0.30, 0.85, 0.50, 0.05, 0.20, 0.40, 0.30, 0.25),
    (0.30, 0.40, 0.90, 0.80, 0.70, 0.70, 0.60, 0.40, 0.30),
)
"""Share of green leaves on :data:`SEASON_DAYS`: winter grain, maize, rape, grass leys."""
DECIDUOUS_GREEN = (0.05, 0.08, 0.85, 0.95, 0.95, 0.90, 0.55, 0.10, 0.05)
GRASS_GREEN = (0.30, 0.35, 0.75, 0.70, 0.45, 0.45, 0.45, 0.35, 0.30)
GARDEN_GREEN = (0.06, 0.08, 0.25, 0.28, 0.25, 0.22, 0.15, 0.08, 0.06)

BACKSCATTER = {
    Cover.WATER: (0.008, 0.0012),
    Cover.TREES: (0.130, 0.0330),
    Cover.FLOODED: (0.090, 0.0150),
    Cover.CROPS: (0.065, 0.0090),
    Cover.BUILT: (0.300, 0.0450),
    Cover.BARE: (0.035, 0.0045),
    Cover.RANGELAND: (0.075, 0.0150),
}
"""Mean gamma nought of C band by class, ``(VV, VH)``, linear power."""
LOOKS = 4.4
"""Equivalent number of looks of a Sentinel-1 IW GRDH product."""

LANDSAT_BANDS = {
    "coastal": "B01",
    "blue": "B02",
    "green": "B03",
    "red": "B04",
    "nir08": "B8A",
    "swir16": "B11",
    "swir22": "B12",
}
"""Landsat's reflective bands, and the wavelength of :data:`BANDS` nearest to each."""
LANDSAT_SCALE, LANDSAT_OFFSET = 2.75e-05, -0.2
"""Reflectance of a Collection 2 Level-2 number: USGS, Landsat 8-9 C2 L2 Science Product Guide."""

QA_FILL, QA_LAND, QA_WATER, QA_CLOUD, QA_SHADOW, QA_DILATED = 1, 21824, 21952, 22280, 23888, 21762
"""Values of the Collection 2 pixel quality band that are common in real scenes."""

SCL_NODATA, SCL_SHADOW, SCL_VEGETATION, SCL_BARE, SCL_WATER = 0, 3, 4, 5, 6
SCL_MEDIUM_CLOUD, SCL_HIGH_CLOUD, SCL_CIRRUS = 8, 9, 10
"""Codes of the Sentinel-2 scene classification."""
VEGETATION_NDVI = 0.38

SHADOW_OFFSET_PX = (-32, -14)
"""``(rows, columns)`` at 10 m from a cloud to its shadow: the sun stands in the
south-south-east."""


class Blob(NamedTuple):
    """A cloud: its centre in km from the sample area's south-west corner, and its radius in km."""

    x_km: float
    y_km: float
    r_km: float


def green_share(land: Landscape, day: int) -> Floats:
    """Return the share of green leaves on a day of the year, ``(y, x)`` float32, 0 to 1."""
    crop = np.stack([np.interp(day, SEASON_DAYS, row) for row in CROP_GREEN])
    deciduous, grass, garden = (
        np.interp(day, SEASON_DAYS, row) for row in (DECIDUOUS_GREEN, GRASS_GREEN, GARDEN_GREEN)
    )
    sorts = np.clip((land.kind * len(crop)).astype(np.uint8), 0, len(crop) - 1)
    table = np.zeros((12, len(crop)), dtype=np.float32)
    table[Cover.CROPS] = crop
    table[[Cover.RANGELAND, Cover.SNOW, Cover.CLOUDS]] = grass
    table[Cover.FLOODED] = 0.3 + 0.6 * deciduous
    table[Cover.BUILT] = garden
    table[Cover.BARE] = 0.02
    green = table[land.cover, sorts]
    trees = 0.85 + land.kind * np.float32(deciduous - 0.85)
    mixed: Floats = np.where(land.cover == Cover.TREES, trees, green).astype(np.float32)
    return mixed


def sunlight(land: Landscape, day: int) -> Floats:
    """Return how much brighter than flat ground slopes are, around 1; stronger in winter."""
    low_sun = 0.5 - 0.25 * np.cos((day - 355) / 365.25 * 2 * np.pi - np.pi)
    light: Floats = np.clip(1 + np.float32(low_sun) * 2 * (land.slope_y - 0.35 * land.slope_x), 0.6, 1.4)
    return light


def reflectance(land: Landscape, day: int, bands: Sequence[str]) -> dict[str, Floats]:
    """Return surface reflectance by band (names of :data:`BANDS`), ``(y, x)`` float32, unitless."""
    green = green_share(land, day)
    light = sunlight(land, day) * land.tone
    codes = np.where(np.isin(land.cover, list(SPECTRA)), land.cover, Cover.RANGELAND)
    out: dict[str, Floats] = {}
    for band in bands:
        n = BANDS.index(band)
        without, with_ = np.zeros(12, dtype=np.float32), np.zeros(12, dtype=np.float32)
        for code, (bare, leaves) in SPECTRA.items():
            without[code], with_[code] = bare[n], leaves[n]
        out[band] = (without[codes] + green * (with_ - without)[codes]) * light
    return out


def opacity(geobox: GeoBox, clouds: Sequence[Blob], seed: int) -> Floats:
    """Return how much the clouds hide, ``(y, x)`` float32: 0 where none is, 1 in their middle."""
    total = np.zeros(geobox.shape, dtype=np.float32)
    if not clouds:
        return total
    xs, ys = axis_centres(geobox)
    origin_x, origin_y = _cloud_origin(geobox)
    edges = octaves(geobox, (600, 200, 70), seed + 41)
    for blob in clouds:
        dx, dy = (xs - origin_x) / 1000 - blob.x_km, (ys - origin_y) / 1000 - blob.y_km
        distance = np.hypot(dx[np.newaxis, :], dy[:, np.newaxis]) / blob.r_km + 0.12 * edges
        total = np.maximum(total, np.clip((1 - distance) * 2.5, 0, 1)).astype(np.float32)
    return total


def shadow(hidden: Floats) -> NDArray[np.bool_]:
    """Return where the clouds' shadow falls, beside the clouds."""
    rows, columns = SHADOW_OFFSET_PX
    cast = np.zeros(hidden.shape, dtype=bool)
    cast[:rows, :columns] = (hidden > 0)[-rows:, -columns:]
    beside: NDArray[np.bool_] = cast & (hidden == 0)
    return beside


def through_clouds(band: str, ground: Floats, hidden: Floats, shaded: NDArray[np.bool_]) -> Floats:
    """Return the reflectance seen through the clouds, and in their shadow."""
    top = np.float32(CLOUD_REFLECTANCE[BANDS.index(band)]) * (0.7 + 0.3 * hidden)
    lit = np.where(shaded, ground * np.float32(0.4), ground)
    return lit + hidden * (top - lit)


def scene_classes(
    cover_water: NDArray[np.bool_],
    ndvi: Floats,
    hidden: Floats,
    shaded: NDArray[np.bool_],
    valid: NDArray[np.bool_],
) -> NDArray[np.uint8]:
    """Return the scene classification (SCL), ``(y, x)`` uint8, all inputs on its 20 m grid."""
    scl = np.where(ndvi > VEGETATION_NDVI, SCL_VEGETATION, SCL_BARE)
    scl[cover_water] = SCL_WATER
    scl[shaded] = SCL_SHADOW
    scl[hidden > 0] = SCL_CIRRUS
    scl[hidden > 0.2] = SCL_MEDIUM_CLOUD
    scl[hidden > 0.7] = SCL_HIGH_CLOUD
    scl[~valid] = SCL_NODATA
    return scl.astype(np.uint8)


def backscatter(land: Landscape, day: int, seed: int) -> tuple[Floats, Floats]:
    """Return gamma nought ``(VV, VH)`` with speckle, each ``(y, x)`` float32, linear power."""
    green = green_share(land, day)
    rough = 1 + 0.25 * smooth_noise(land.geobox, 350, 61) + 0.4 * (land.tone - 1)
    growth = np.where(np.isin(land.cover, (Cover.CROPS, Cover.RANGELAND)), 0.6 + 0.9 * green, 1.0)
    towers = np.where((land.cover == Cover.BUILT) & (land.tone > 1.22), 2.5, 1.0)
    rng = np.random.default_rng([seed, day])
    out = []
    for n in range(2):
        mean = np.full(12, BACKSCATTER[Cover.RANGELAND][n], dtype=np.float32)
        for code, values in BACKSCATTER.items():
            mean[code] = values[n]
        speckle = rng.standard_gamma(LOOKS, land.geobox.shape, dtype=np.float32) / np.float32(LOOKS)
        value = mean[land.cover] * np.clip(rough * growth * towers, 0.3, 6) * speckle
        out.append(np.maximum(value, 1e-5).astype(np.float32))
    return out[0], out[1]


def pixel_quality(
    water: NDArray[np.bool_], hidden: Floats, shaded: NDArray[np.bool_], valid: NDArray[np.bool_]
) -> NDArray[np.uint16]:
    """Return Landsat's qa_pixel, ``(y, x)`` uint16, all inputs on its 30 m grid."""
    qa = np.where(water, QA_WATER, QA_LAND)
    qa[shaded] = QA_SHADOW
    qa[hidden > 0] = QA_DILATED
    qa[hidden > 0.25] = QA_CLOUD
    qa[~valid] = QA_FILL
    return qa.astype(np.uint16)


def _cloud_origin(geobox: GeoBox) -> tuple[float, float]:
    """Return the point clouds are placed from: the area's corner, or a file's in another zone."""
    if geobox.crs is not None and geobox.crs.epsg == EPSG:
        return AREA_M[0], AREA_M[1]
    box = geobox.boundingbox
    return box.left, box.bottom


def shorten(values: Floats) -> Floats:
    """Round float32 numbers to five bits of fraction, 1.6 percent at most: far below speckle."""
    short: Floats = ((values.view(np.uint32) + np.uint32(1 << 17)) & np.uint32(0xFFFC0000)).view(np.float32)
    return short
