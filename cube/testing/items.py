"""STAC items of the five collections, as the Planetary Computer's API answers, as plain dicts.

The hrefs are the Planetary Computer's own addresses unless ``root`` is given: then they are
``{root}/{storage account}/{container}/{path}``, which is how the sample archive lays its files out.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from shapely.geometry import mapping

from cube.testing.assets import (
    COG,
    LULC_CLASSES,
    S2_ASSETS,
    landsat_asset,
    landsat_files,
    sentinel1_asset,
    sentinel2_asset,
    tile_assets,
    transform_of,
)
from cube.testing.rasters import footprint_4326
from cube.testing.sun import sun_position

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import shapely
    from odc.geo.geobox import GeoBox

Item = dict[str, Any]

API = "https://planetarycomputer.microsoft.com/api/stac/v1"
EXTENSIONS = "https://stac-extensions.github.io"


def sentinel2_item(
    geobox: GeoBox,
    when: datetime,
    *,
    tile: str = "33UUR",
    relative_orbit: int = 22,
    platform: str = "Sentinel-2A",
    baseline: str = "05.09",
    generated: datetime | None = None,
    cloud_cover: float = 0.0,
    nodata_percentage: float = 0.0,
    properties: Mapping[str, Any] | None = None,
    footprint: shapely.Polygon | None = None,
    assets: Sequence[str] = tuple(S2_ASSETS),
    root: str | None = None,
    hrefs: Mapping[str, str] | None = None,
) -> Item:
    """Return an item of ``sentinel-2-l2a``. As recorded, it states neither dtype nor nodata.

    Parameters
    ----------
    geobox
        The 10 m grid of the scene, UTM. The 20 m and 60 m assets share its corner.
    when
        Acquisition, with time zone.
    tile
        MGRS tile without the leading ``T``.
    relative_orbit, platform
        As in the properties; ``Sentinel-2A`` or ``Sentinel-2B``.
    baseline
        Processing baseline such as ``05.09``; from ``04.00`` on digital numbers carry +1000.
    generated
        When the product was made; by default five hours after the acquisition. Part of the id.
    cloud_cover, nodata_percentage
        Percent; cloud of the valid pixels, nodata of all pixels.
    properties
        Further properties, which win over the ones made here.
    footprint
        Valid data in degrees; by default the outline of the geobox.
    assets
        Names of :data:`S2_ASSETS` to list.
    root, hrefs
        See the module; ``hrefs`` names the address of single assets.
    """
    generated = generated or when + timedelta(hours=5)
    satellite = "S2" + platform[-1]
    taken, made = f"{when:%Y%m%dT%H%M%S}", f"{generated:%Y%m%dT%H%M%S}"
    absolute = (when - datetime(2023, 1, 1, tzinfo=UTC)).days * 14 + 39300
    product = (
        f"{satellite}_MSIL2A_{taken}_N{baseline.replace('.', '')}_R{relative_orbit:03}_T{tile}_{made}.SAFE"
    )
    granule = f"{product}/GRANULE/L2A_T{tile}_A{absolute:06}_{taken}/IMG_DATA"
    folder = f"{tile[:2]}/{tile[2]}/{tile[3:]}/{when:%Y/%m/%d}/{granule}"
    entries = {}
    for name in assets:
        metres = S2_ASSETS[name][0]
        path = f"{folder}/R{metres}m/T{tile}_{taken}_{name}_{metres}m.tif"
        entries[name] = sentinel2_asset(name, geobox, _href("sentinel2l2a01", "sentinel2-l2", path, root))
    sun_height, sun_azimuth = sun_position(geobox, when)
    own = {
        "datetime": _instant(when),
        "platform": platform,
        "proj:epsg": _epsg(geobox),
        "instruments": ["msi"],
        "s2:mgrs_tile": tile,
        "constellation": "Sentinel 2",
        "s2:granule_id": f"{satellite}_OPER_MSI_L2A_TL_2BPS_{made}_A{absolute:06}_T{tile}_N{baseline}",
        "eo:cloud_cover": cloud_cover,
        "s2:datatake_id": f"G{satellite}_{taken}_{absolute:06}_N{baseline}",
        "s2:product_uri": product,
        "s2:datastrip_id": f"{satellite}_OPER_MSI_L2A_DS_2BPS_{made}_S{taken}_N{baseline}",
        "s2:product_type": "S2MSI2A",
        "sat:orbit_state": "descending",
        "s2:mean_solar_zenith": round(90 - sun_height, 2),
        "s2:mean_solar_azimuth": sun_azimuth,
        "s2:datatake_type": "INS-NOBS",
        "s2:generation_time": _instant(generated),
        "sat:relative_orbit": relative_orbit,
        "s2:processing_baseline": baseline,
        "s2:nodata_pixel_percentage": nodata_percentage,
        "s2:degraded_msi_data_percentage": 0.0,
        "s2:saturated_defective_pixel_percentage": 0.0,
    }
    return _item(
        f"{satellite}_MSIL2A_{taken}_R{relative_orbit:03}_T{tile}_{made}",
        "sentinel-2-l2a",
        footprint or footprint_4326(geobox),
        {**own, **(properties or {})},
        {
            **entries,
            **tile_assets(
                "sentinel-2-l2a", f"{satellite}_MSIL2A_{taken}_R{relative_orbit:03}_T{tile}_{made}"
            ),
        },
        hrefs,
        ("eo/v1.0.0", "sat/v1.0.0", "projection/v1.0.0"),
    )


def sentinel1_item(
    geobox: GeoBox,
    when: datetime,
    *,
    relative_orbit: int = 168,
    orbit_state: str = "descending",
    polarizations: Sequence[str] = ("VV", "VH"),
    slice_number: int = 1,
    datatake: int = 0x5E1A7,
    duration_s: float = 25.0,
    footprint: shapely.Polygon | None = None,
    root: str | None = None,
    hrefs: Mapping[str, str] | None = None,
) -> Item:
    """Return an item of ``sentinel-1-rtc``: float32 linear gamma nought, an asset per polarisation.

    Parameters
    ----------
    geobox
        The 10 m grid of the slice, UTM.
    when
        Middle of the slice, with time zone.
    relative_orbit, orbit_state
        Track number, and ``ascending`` or ``descending``.
    polarizations
        Upper case; decides the assets (``vv``, ``vh``, ...) and the mode letters of the id.
    slice_number, datatake
        Which slice of which pass.
    duration_s
        Length of the slice in time, seconds.
    footprint
        Valid data in degrees; by default the outline of the geobox.
    root, hrefs
        See the module; ``hrefs`` names the address of single assets.
    """
    start, end = when - timedelta(seconds=duration_s / 2), when + timedelta(seconds=duration_s / 2)
    mode = ("D" if len(polarizations) > 1 else "S") + polarizations[0][0]
    absolute = (when - datetime(2014, 4, 3, tzinfo=UTC)).days * 175 // 12
    scene = f"S1A_IW_GRDH_1S{mode}_{start:%Y%m%dT%H%M%S}_{end:%Y%m%dT%H%M%S}_{absolute:06}_{datatake:06X}"
    folder = f"GRD/{when.year}/{when.month}/{when.day}/IW/{mode}/{scene}_{datatake % 0xFFFF:04X}/measurement"
    entries = {
        name.lower(): sentinel1_asset(
            name,
            _href("sentinel1euwestrtc", "sentinel1-grd-rtc", f"{folder}/iw-{name.lower()}.rtc.tiff", root),
        )
        for name in sorted(polarizations)
    }
    height, width = geobox.shape
    properties = {
        "datetime": _instant(when),
        "platform": "SENTINEL-1A",
        "s1:shape": [width, height],
        "proj:bbox": list(geobox.boundingbox.bbox),
        "proj:epsg": _epsg(geobox),
        "proj:shape": [height, width],
        "end_datetime": str(end),
        "constellation": "Sentinel-1",
        "s1:resolution": "high",
        "proj:transform": [*transform_of(geobox), 0.0, 0.0, 1.0],
        "s1:datatake_id": str(datatake),
        "start_datetime": str(start),
        "s1:orbit_source": "RESORB",
        "s1:slice_number": str(slice_number),
        "s1:total_slices": "20",
        "sar:looks_range": 5,
        "sat:orbit_state": orbit_state,
        "sar:product_type": "GRD",
        "sar:looks_azimuth": 1,
        "sar:polarizations": list(polarizations),
        "sar:frequency_band": "C",
        "sat:absolute_orbit": absolute,
        "sat:relative_orbit": relative_orbit,
        "s1:processing_level": "1",
        "sar:instrument_mode": "IW",
        "sar:center_frequency": 5.405,
        "sar:resolution_range": 20,
        "s1:product_timeliness": "Fast-24h",
        "sar:resolution_azimuth": 22,
        "sar:pixel_spacing_range": 10,
        "sar:observation_direction": "right",
        "sar:pixel_spacing_azimuth": 10,
        "sar:looks_equivalent_number": 4.4,
        "s1:instrument_configuration_ID": "7",
        "sat:platform_international_designator": "2014-016A",
    }
    return _item(
        f"{scene}_rtc",
        "sentinel-1-rtc",
        footprint or footprint_4326(geobox),
        properties,
        {**entries, **tile_assets("sentinel-1-rtc", f"{scene}_rtc")},
        hrefs,
        ("sar/v1.0.0", "sat/v1.0.0", "projection/v1.1.0", "file/v2.0.0", "raster/v1.1.0"),
    )


def landsat_item(
    geobox: GeoBox,
    when: datetime,
    *,
    platform: str = "landsat-8",
    path: str = "193",
    row: str = "025",
    tier: str = "T1",
    correction: str = "L2SP",
    cloud_cover: float = 0.0,
    footprint: shapely.Polygon | None = None,
    root: str | None = None,
    hrefs: Mapping[str, str] | None = None,
) -> Item:
    """Return an item of ``landsat-c2-l2``: uint16, scale and offset in ``raster:bands``, nodata 0.

    Parameters
    ----------
    geobox
        The 30 m grid of the scene, UTM, corners 15 m off the multiples of 30 m.
    when
        Acquisition, with time zone.
    platform
        ``landsat-7``, ``landsat-8`` or ``landsat-9``.
    path, row
        WRS-2, three digits each.
    tier
        ``T1`` or ``T2``.
    correction
        ``L2SP``, or ``L2SR`` for a scene without surface temperature.
    cloud_cover
        Percent of the valid pixels.
    footprint
        Valid data in degrees; by default the outline of the geobox.
    root, hrefs
        See the module; ``hrefs`` names the address of single assets.
    """
    sensor, number = ("LE" if platform == "landsat-7" else "LC"), platform[-1]
    made = when + timedelta(days=9)
    scene = f"{sensor}0{number}_{correction}_{path}{row}_{when:%Y%m%d}"
    product, identifier = f"{scene}_{made:%Y%m%d}_02_{tier}", f"{scene}_02_{tier}"
    instrument = "etm" if platform == "landsat-7" else "oli-tirs"
    folder = f"level-2/standard/{instrument}/{when.year}/{path}/{row}/{product}/{product}"
    entries = {
        name: landsat_asset(name, _href("landsateuwest", "landsat-c2", f"{folder}_{suffix}.TIF", root))
        for name, suffix in landsat_files(platform, correction).items()
    }
    sun_height, sun_azimuth = sun_position(geobox, when)
    properties = {
        "gsd": 30,
        "created": _instant(made + timedelta(hours=9)),
        "sci:doi": "10.5066/P9OGBGM6",
        "datetime": _instant(when),
        "platform": platform,
        "proj:epsg": _epsg(geobox),
        "proj:shape": list(geobox.shape),
        "description": "Landsat Collection 2 Level-2",
        "instruments": ["etm+"] if platform == "landsat-7" else ["oli", "tirs"],
        "eo:cloud_cover": cloud_cover,
        "proj:transform": transform_of(geobox),
        "view:off_nadir": 0,
        "view:sun_azimuth": sun_azimuth,
        "view:sun_elevation": sun_height,
        "landsat:wrs_row": row,
        "landsat:scene_id": f"{sensor}{number}{path}{row}{when:%Y%j}LGN00",
        "landsat:wrs_path": path,
        "landsat:wrs_type": "2",
        "landsat:correction": correction,
        "landsat:cloud_cover_land": cloud_cover,
        "landsat:collection_number": "02",
        "landsat:collection_category": tier,
    }
    landsat_extension = "https://landsat.usgs.gov/stac/landsat-extension/v1.1.1/schema.json"
    names = ("raster/v1.1.0", "eo/v1.0.0", "view/v1.0.0", "projection/v1.1.0", "classification/v1.0.0")
    item = _item(
        identifier,
        "landsat-c2-l2",
        footprint or footprint_4326(geobox),
        properties,
        {**entries, **tile_assets("landsat-c2-l2", identifier)},
        hrefs,
        (*names, "scientific/v1.0.0"),
    )
    item["stac_extensions"].insert(4, landsat_extension)
    return item


def dem_item(
    geobox: GeoBox,
    *,
    latitude: int = 50,
    longitude: int = 12,
    root: str | None = None,
    hrefs: Mapping[str, str] | None = None,
) -> Item:
    """Return an item of ``cop-dem-glo-30``, named by its tile's south-west corner in whole degrees.

    Parameters
    ----------
    geobox
        Grid of the file, EPSG:4326, 1/3600 degree in latitude.
    latitude, longitude
        South-west corner of the tile, whole degrees.
    root, hrefs
        See the module; ``hrefs`` names the address of single assets.
    """
    north = f"{'N' if latitude >= 0 else 'S'}{abs(latitude):02}_00"
    east = f"{'E' if longitude >= 0 else 'W'}{abs(longitude):03}_00"
    name = f"Copernicus_DSM_COG_10_{north}_{east}_DEM"
    asset = {
        "href": _href("elevationeuwest", "copernicus-dem", f"COP30_hh/{name}.tif", root),
        "title": f"{north}_{east}",
        "type": COG,
        "roles": ["data"],
    }
    properties = {
        "gsd": 30,
        "datetime": "2021-04-22T00:00:00Z",
        "platform": "TanDEM-X",
        "proj:epsg": 4326,
        "proj:shape": list(geobox.shape),
        "proj:transform": transform_of(geobox),
    }
    assets = {"data": asset, **tile_assets("cop-dem-glo-30", name)}
    return _item(
        name, "cop-dem-glo-30", footprint_4326(geobox), properties, assets, hrefs, ("projection/v1.0.0",)
    )


def lulc_item(
    geobox: GeoBox,
    year: int = 2023,
    *,
    tile: str = "33U",
    footprint: shapely.Polygon | None = None,
    root: str | None = None,
    hrefs: Mapping[str, str] | None = None,
) -> Item:
    """Return an item of ``io-lulc-annual-v02``: class codes; it ends where the next year starts.

    Parameters
    ----------
    geobox
        The 10 m grid, in the UTM zone of the tile.
    year
        The year mapped.
    tile
        UTM zone and latitude band.
    footprint
        Valid data in degrees; by default the outline of the geobox.
    root, hrefs
        See the module; ``hrefs`` names the address of single assets.
    """
    asset = {
        "href": _href(
            "ai4edataeuwest", "io-lulc", f"io-annual-lulc-v02/{tile}_{year}0101-{year + 1}0101.tif", root
        ),
        "raster:bands": [{"nodata": 0, "spatial_resolution": 10}],
        "type": COG,
        "roles": ["data"],
        "file:values": [{"values": [code], "summary": name} for code, name in LULC_CLASSES.items()],
    }
    properties = {
        "datetime": None,
        "proj:bbox": list(geobox.boundingbox.bbox),
        "proj:epsg": _epsg(geobox),
        "supercell": tile,
        "io:tile_id": tile,
        "proj:shape": list(geobox.shape),
        "end_datetime": f"{year + 1}-01-01T00:00:00Z",
        "proj:transform": transform_of(geobox),
        "start_datetime": f"{year}-01-01T00:00:00Z",
    }
    return _item(
        f"{tile}-{year}",
        "io-lulc-annual-v02",
        footprint or footprint_4326(geobox),
        properties,
        {"data": asset, **tile_assets("io-lulc-annual-v02", f"{tile}-{year}")},
        hrefs,
        ("projection/v1.1.0", "file/v2.0.0", "raster/v1.1.0"),
    )


def _item(
    identifier: str,
    collection: str,
    footprint: shapely.Polygon,
    properties: dict[str, Any],
    assets: dict[str, dict[str, Any]],
    hrefs: Mapping[str, str] | None,
    extensions: Sequence[str],
) -> Item:
    for name, href in (hrefs or {}).items():
        assets[name]["href"] = href
    parent = f"{API}/collections/{collection}"
    links = [
        {"rel": "collection", "type": "application/json", "href": parent},
        {"rel": "parent", "type": "application/json", "href": parent},
        {"rel": "root", "type": "application/json", "href": f"{API}/"},
        {"rel": "self", "type": "application/geo+json", "href": f"{parent}/items/{identifier}"},
    ]
    geometry = mapping(footprint)
    return {
        "id": identifier,
        "bbox": list(footprint.bounds),
        "type": "Feature",
        "links": links,
        "assets": assets,
        "geometry": {
            "type": geometry["type"],
            "coordinates": [[list(point) for point in ring] for ring in geometry["coordinates"]],
        },
        "collection": collection,
        "properties": properties,
        "stac_extensions": [f"{EXTENSIONS}/{name}/schema.json" for name in extensions],
        "stac_version": "1.0.0",
    }


def _href(account: str, container: str, path: str, root: str | None) -> str:
    if root is None:
        return f"https://{account}.blob.core.windows.net/{container}/{path}"
    return f"{root}/{account}/{container}/{path}"


def _instant(when: datetime) -> str:
    return f"{when.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%f}Z"


def _epsg(geobox: GeoBox) -> int | None:
    return None if geobox.crs is None else geobox.crs.epsg
