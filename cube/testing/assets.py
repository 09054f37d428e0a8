"""Assets of the five collections, worded as the Planetary Computer words them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cube.testing.rasters import coarser

if TYPE_CHECKING:
    from collections.abc import Sequence

    from odc.geo.geobox import GeoBox

DATA_API = "https://planetarycomputer.microsoft.com/api/data/v1/item"
COG = "image/tiff; application=geotiff; profile=cloud-optimized"

S2_ASSETS: dict[str, tuple[int, str, str | None, float | None, float | None]] = {
    "B01": (60, "Band 1 - Coastal aerosol", "coastal", 0.443, 0.027),
    "B02": (10, "Band 2 - Blue", "blue", 0.49, 0.098),
    "B03": (10, "Band 3 - Green", "green", 0.56, 0.045),
    "B04": (10, "Band 4 - Red", "red", 0.665, 0.038),
    "B05": (20, "Band 5 - Vegetation red edge 1", "rededge", 0.704, 0.019),
    "B06": (20, "Band 6 - Vegetation red edge 2", "rededge", 0.74, 0.018),
    "B07": (20, "Band 7 - Vegetation red edge 3", "rededge", 0.783, 0.028),
    "B08": (10, "Band 8 - NIR", "nir", 0.842, 0.145),
    "B09": (60, "Band 9 - Water vapor", None, 0.945, 0.026),
    "B11": (20, "Band 11 - SWIR (1.6)", "swir16", 1.61, 0.143),
    "B12": (20, "Band 12 - SWIR (2.2)", "swir22", 2.19, 0.242),
    "B8A": (20, "Band 8A - Vegetation red edge 4", "rededge", 0.865, 0.033),
    "SCL": (20, "Scene classfication map (SCL)", None, None, None),
}
"""Sentinel-2 assets: resolution in metres, description, common name, centre and width in
micrometres.

The title of SCL is spelt as the Planetary Computer spells it.
"""

LANDSAT_ASSETS: dict[str, tuple[str, str, str, float, float]] = {
    "coastal": ("SR_B1", "Coastal/Aerosol Band", "Coastal/Aerosol", 0.44, 0.02),
    "blue": ("SR_B2", "Blue Band", "Visible blue", 0.48, 0.06),
    "green": ("SR_B3", "Green Band", "Visible green", 0.56, 0.06),
    "red": ("SR_B4", "Red Band", "Visible red", 0.65, 0.04),
    "nir08": ("SR_B5", "Near Infrared Band 0.8", "Near infrared", 0.87, 0.03),
    "swir16": ("SR_B6", "Short-wave Infrared Band 1.6", "Short-wave infrared", 1.61, 0.09),
    "swir22": ("SR_B7", "Short-wave Infrared Band 2.2", "Short-wave infrared", 2.2, 0.19),
}
"""Landsat assets: file suffix, title, description, centre and width in micrometres."""

QA_FIELDS = (
    ("fill", 0, 1, "Image or fill data", ("not_fill", "fill")),
    ("dilated_cloud", 1, 1, "Dilated cloud", ("not_dilated", "dilated")),
    ("cirrus", 2, 1, "Cirrus mask", ("not_cirrus", "cirrus")),
    ("cloud", 3, 1, "Cloud mask", ("not_cloud", "cloud")),
    ("cloud_shadow", 4, 1, "Cloud shadow mask", ("not_shadow", "shadow")),
    ("snow", 5, 1, "Snow/Ice mask", ("not_snow", "snow")),
    ("clear", 6, 1, "Clear mask", ("not_clear", "clear")),
    ("water", 7, 1, "Water mask", ("not_water", "water")),
    ("cloud_confidence", 8, 2, "Cloud confidence levels", ("not_set", "low", "medium", "high")),
    (
        "cloud_shadow_confidence",
        10,
        2,
        "Cloud shadow confidence levels",
        ("not_set", "low", "reserved", "high"),
    ),
    ("snow_confidence", 12, 2, "Snow/Ice confidence levels", ("not_set", "low", "reserved", "high")),
    ("cirrus_confidence", 14, 2, "Cirrus confidence levels", ("not_set", "low", "reserved", "high")),
)
"""Bit fields of Landsat's qa_pixel: name, first bit, length, description, names of the values."""

LULC_CLASSES = {
    0: "No Data",
    1: "Water",
    2: "Trees",
    4: "Flooded vegetation",
    5: "Crops",
    7: "Built area",
    8: "Bare ground",
    9: "Snow/ice",
    10: "Clouds",
    11: "Rangeland",
}

POLARISATIONS = {"V": "vertical", "H": "horizontal"}


def landsat_files(platform: str = "landsat-8", correction: str = "L2SP") -> dict[str, str]:
    """Return the assets of a Landsat product in this archive, and the suffixes of their files.

    Landsat 7 has no coastal band, and numbers its bands one lower.
    """
    files = {name: row[0] for name, row in LANDSAT_ASSETS.items()}
    if platform == "landsat-7":
        numbers = {"blue": 1, "green": 2, "red": 3, "nir08": 4, "swir16": 5, "swir22": 7}
        files = {name: f"SR_B{number}" for name, number in numbers.items()}
    elif correction == "L2SP":
        files["lwir11"] = "ST_B10"
    return {**files, "qa_pixel": "QA_PIXEL"}


def tile_assets(collection: str, identifier: str) -> dict[str, dict[str, Any]]:
    """Return the two assets of every item of the Planetary Computer that are no files."""
    query = f"collection={collection}&item={identifier}&format=png"
    return {
        "tilejson": {
            "title": "TileJSON with default rendering",
            "href": f"{DATA_API}/tilejson.json?{query}",
            "type": "application/json",
            "roles": ["tiles"],
        },
        "rendered_preview": {
            "title": "Rendered preview",
            "rel": "preview",
            "href": f"{DATA_API}/preview.png?{query}",
            "roles": ["overview"],
            "type": "image/png",
        },
    }


def sentinel2_asset(name: str, geobox: GeoBox, href: str) -> dict[str, Any]:
    """Return a Sentinel-2 asset; the grid is that of its 10 m bands."""
    metres, description, common_name, centre, width = S2_ASSETS[name]
    grid = coarser(geobox, metres)
    asset: dict[str, Any] = {
        "href": href,
        "proj:bbox": list(grid.boundingbox.bbox),
        "proj:shape": list(grid.shape),
        "proj:transform": transform_of(grid),
        "gsd": float(metres),
        "type": COG,
        "roles": ["data"],
        "title": description if centre is None else f"{description} - {metres}m",
    }
    if centre is not None:
        band: dict[str, Any] = {"name": name}
        if common_name is not None:
            band["common_name"] = common_name
        band |= {"description": description, "center_wavelength": centre, "full_width_half_max": width}
        asset["eo:bands"] = [band]
    return asset


def sentinel1_asset(name: str, href: str) -> dict[str, Any]:
    """Return a Sentinel-1 asset by its polarisation, upper case."""
    transmit, receive = (POLARISATIONS[letter] for letter in name)
    return {
        "href": href,
        "type": COG,
        "roles": ["data"],
        "title": f"{name}: {transmit} transmit, {receive} receive",
        "description": (
            f"Terrain-corrected gamma naught values of signal transmitted with {transmit} polarization and "
            f"received with {receive} polarization with radiometric terrain correction applied."
        ),
        "raster:bands": [{"nodata": -32768, "data_type": "float32", "spatial_resolution": 10.0}],
    }


def landsat_asset(name: str, href: str) -> dict[str, Any]:
    """Return a Landsat asset, as landsat-8 and landsat-9 have them."""
    asset: dict[str, Any] = {"href": href, "type": COG}
    if name == "qa_pixel":
        asset["title"] = "Pixel Quality Assessment Band"
        asset["roles"] = ["cloud", "cloud-shadow", "snow-ice", "water-mask"]
        asset["classification:bitfields"] = [_bitfield(*row) for row in QA_FIELDS]
        raster: dict[str, Any] = {"unit": "bit index", "nodata": 1}
    elif name == "lwir11":
        asset["title"] = "Surface Temperature Band"
        asset["roles"] = ["data", "temperature"]
        asset["gsd"] = 100
        asset["eo:bands"] = [{"name": "TIRS_B10", "common_name": "lwir11", "center_wavelength": 10.9}]
        raster = {"unit": "kelvin", "scale": 0.00341802, "nodata": 0, "offset": 149.0}
    else:
        suffix, asset["title"], description, centre, width = LANDSAT_ASSETS[name]
        asset["roles"] = ["data", "reflectance"]
        asset["eo:bands"] = [
            {
                "name": f"OLI_{suffix[3:]}",
                "center_wavelength": centre,
                "full_width_half_max": width,
                "common_name": name,
                "description": description,
            }
        ]
        raster = {"scale": 2.75e-05, "nodata": 0, "offset": -0.2}
    asset["raster:bands"] = [{**raster, "data_type": "uint16", "spatial_resolution": 30}]
    return asset


def _bitfield(name: str, first: int, length: int, description: str, values: Sequence[str]) -> dict[str, Any]:
    classes = [{"name": value, "value": n, "description": value} for n, value in enumerate(values)]
    return {"name": name, "length": length, "offset": first, "classes": classes, "description": description}


def transform_of(geobox: GeoBox) -> list[float]:
    """Return the six numbers of ``proj:transform``."""
    return [float(value) for value in tuple(geobox.transform)[:6]]
