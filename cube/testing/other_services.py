"""The sample archive as other services hold it: the same scenes, in their items and files.

Made from the Planetary Computer's forms; what a service calls things, and where it keeps them, is
as its own items have it. A folder made here is served by :class:`cube.testing.service.StandIn`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import rasterio

Item = dict[str, Any]

COLLECTION_1, COLLECTION_0 = "sentinel-2-c1-l2a", "sentinel-2-l2a"
"""Earth Search's two collections of Sentinel-2."""
EARTH_SEARCH_ASSETS = {
    "B01": "coastal",
    "B02": "blue",
    "B03": "green",
    "B04": "red",
    "B05": "rededge1",
    "B06": "rededge2",
    "B07": "rededge3",
    "B08": "nir",
    "B8A": "nir08",
    "B09": "nir09",
    "B11": "swir16",
    "B12": "swir22",
    "SCL": "scl",
}
_BUCKETS = {COLLECTION_1: "e84-earth-search-sentinel-data", COLLECTION_0: "sentinel-cogs"}
_REGION = "us-west-2"
_WITH_OFFSET = "04.00"


def write_earth_search(
    archive: Path, folder: Path, *, collection: str = COLLECTION_1, keep: Callable[[Item], bool] = bool
) -> Path:
    """Write an archive's Sentinel-2, Landsat and elevation as Earth Search holds them.

    Parameters
    ----------
    archive
        A sample archive, with hrefs relative to it.
    folder
        Is made; files whose pixels are the same are links into the archive.
    collection
        Of Sentinel-2. Pixels of Collection 1 are as ESA made them; those of the first collection
        have the +1000 of baseline 04.00 taken off, and a flag says so.
    keep
        Tells which items of the archive are taken (default: all).

    Returns
    -------
    pathlib.Path
        The folder, as :class:`cube.testing.service.StandIn` takes it.
    """
    items = []
    taken: Counter[str] = Counter()
    for item in _read(archive, keep):
        match item["collection"]:
            case "sentinel-2-l2a":
                items.append(_earth_search_sentinel2(item, collection, taken))
            case "landsat-c2-l2" | "cop-dem-glo-30":
                items.append(_in_bucket(item))
            case _:
                continue
        for key, asset in items[-1]["assets"].items():
            source = archive / asset.pop("was")
            target = folder / "blobs" / _blob(asset["href"])
            if _is_lowered(items[-1]) and key != "scl":
                _write_lowered(source, target)
            else:
                _link(source, target)
    return _write_items(folder, items)


def write_cdse(archive: Path, folder: Path, *, keep: Callable[[Item], bool] = bool) -> Path:
    """Write an archive's Sentinel-2 as the Copernicus Data Space holds it: STAC 1.1, JPEG 2000.

    Parameters and result are those of :func:`write_earth_search`.
    """
    items = [_cdse(item) for item in _read(archive, keep) if item["collection"] == "sentinel-2-l2a"]
    for item in items:
        for asset in item["assets"].values():
            _write_jpeg2000(archive / asset.pop("was"), folder / "blobs" / _blob(asset["href"]))
    return _write_items(folder, items)


def _read(archive: Path, keep: Callable[[Item], bool]) -> list[Item]:
    items: list[Item] = json.loads((archive / "items.json").read_text(encoding="utf-8"))["features"]
    return [item for item in items if keep(item)]


def _write_items(folder: Path, items: Iterable[Item]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    collection = {"type": "FeatureCollection", "features": list(items)}
    (folder / "items.json").write_text(json.dumps(collection), encoding="utf-8")
    return folder


def _blob(href: str) -> str:
    """Return ``bucket/key`` of an address."""
    if href.startswith("s3://"):
        return href.removeprefix("s3://")
    host, _, key = href.removeprefix("https://").partition("/")
    return f"{host.partition('.')[0]}/{key}"


def _files(item: Item) -> dict[str, dict[str, Any]]:
    """Return the assets that are files."""
    return {name: asset for name, asset in item["assets"].items() if asset["href"].startswith("./blobs/")}


def _earth_search_sentinel2(item: Item, collection: str, taken: Counter[str]) -> Item:
    own = item["properties"]
    tile, when = own["s2:mgrs_tile"], datetime.fromisoformat(own["datetime"])
    satellite, had_offset = f"S2{own['platform'][-1]}", own["s2:processing_baseline"] >= _WITH_OFFSET
    name = f"{satellite}_T{tile}_{when:%Y%m%dT%H%M%S}" if collection == COLLECTION_1 else ""
    name = name or f"{satellite}_{tile}_{when:%Y%m%d}"
    number, taken[name] = taken[name], taken[name] + 1
    identity = f"{name}_L2A" if collection == COLLECTION_1 and not number else f"{name}_{number}_L2A"
    place = f"{int(tile[:2])}/{tile[2]}/{tile[3:]}/{when.year}/{when.month}/{identity}"
    folder = collection if collection == COLLECTION_1 else "sentinel-s2-l2a-cogs"
    root = f"https://{_BUCKETS[collection]}.s3.{_REGION}.amazonaws.com/{folder}/{place}"
    properties = {
        "datetime": own["datetime"],
        "platform": own["platform"].lower(),
        "instruments": ["msi"],
        "constellation": "sentinel-2",
        "eo:cloud_cover": own["eo:cloud_cover"],
        "grid:code": f"MGRS-{tile}",
        "mgrs:utm_zone": int(tile[:2]),
        "mgrs:latitude_band": tile[2],
        "mgrs:grid_square": tile[3:],
        "proj:code": f"EPSG:{own['proj:epsg']}",
        "view:sun_elevation": 40.0,
        **{
            key: own[key]
            for key in (
                "s2:datatake_id",
                "s2:generation_time",
                "s2:nodata_pixel_percentage",
                "s2:processing_baseline",
                "s2:product_uri",
            )
        },
    }
    if collection == COLLECTION_0:
        properties["earthsearch:boa_offset_applied"] = had_offset
    assets = {}
    for band, asset in _files(item).items():
        raster: dict[str, Any] = {"nodata": 0, "data_type": "uint8" if band == "SCL" else "uint16"}
        if band != "SCL":
            raster |= {"bits_per_sample": 15, "scale": 0.0001, "offset": -0.1 if had_offset else 0}
        assets[EARTH_SEARCH_ASSETS[band]] = {
            "href": f"{root}/{band}.tif",
            "was": asset["href"],
            "type": "image/tiff; application=geotiff; profile=cloud-optimized",
            "raster:bands": [raster],
            "proj:shape": asset["proj:shape"],
            "proj:transform": asset["proj:transform"],
            "roles": ["data", "reflectance"],
        }
    return _item(item, identity, collection, properties, assets, "1.0.0")


def _is_lowered(item: Item) -> bool:
    return item["properties"].get("earthsearch:boa_offset_applied") is True


def _in_bucket(item: Item) -> Item:
    """Return a Landsat or elevation item whose files lie in their makers' buckets."""
    assets = {}
    for name, asset in _files(item).items():
        path = asset["href"].removeprefix("./blobs/").split("/", 2)[2]
        if item["collection"] == "landsat-c2-l2":
            href = f"s3://usgs-landsat/collection02/{path}"
        else:
            stem = Path(path).stem
            href = f"s3://copernicus-dem-30m/{stem}/{stem}.tif"
        assets[name] = {**asset, "href": href, "was": asset["href"]}
    properties = dict(item["properties"])
    properties["proj:code"] = f"EPSG:{properties.pop('proj:epsg')}"
    return _item(item, item["id"], item["collection"], properties, assets, "1.0.0")


def _cdse(item: Item) -> Item:
    own = item["properties"]
    tile, baseline = own["s2:mgrs_tile"], own["s2:processing_baseline"]
    product = own["s2:product_uri"]
    when = datetime.fromisoformat(own["datetime"])
    assets = {}
    for band, asset in _files(item).items():
        metres = int(asset["gsd"])
        file = f"T{tile}_{when:%Y%m%dT%H%M%S}_{band}_{metres}m.jp2"
        assets[f"{band}_{metres}m"] = {
            "href": f"s3://eodata/Sentinel-2/MSI/L2A/{when:%Y/%m/%d}/{product}/IMG_DATA/R{metres}m/{file}",
            "was": asset["href"],
            "type": "image/jp2",
            "gsd": metres,
            "nodata": 0,
            "data_type": "uint8" if band == "SCL" else "uint16",
            "bands": [{"name": band}],
            "proj:code": f"EPSG:{own['proj:epsg']}",
            "proj:shape": asset["proj:shape"],
            "proj:transform": [*asset["proj:transform"][:6], 0, 0, 1],
            "roles": ["data"],
        }
        if band != "SCL":
            assets[f"{band}_{metres}m"] |= {
                "raster:scale": 0.0001,
                "raster:offset": -0.1 if baseline >= _WITH_OFFSET else 0,
            }
    properties = {
        "datetime": own["datetime"],
        "start_datetime": own["datetime"],
        "end_datetime": own["datetime"],
        "platform": own["platform"].lower(),
        "constellation": "sentinel-2",
        "grid:code": f"MGRS-{tile}",
        "statistics": {"nodata": own["s2:nodata_pixel_percentage"], "water": 0.0},
        "eo:cloud_cover": own["eo:cloud_cover"],
        "eopf:datatake_id": own["s2:datatake_id"],
        "processing:version": baseline,
        "processing:datetime": own["s2:generation_time"],
        "sat:relative_orbit": own["sat:relative_orbit"],
    }
    return _item(item, product.removesuffix(".SAFE"), "sentinel-2-l2a", properties, assets, "1.1.0")


def _item(
    item: Item,
    identity: str,
    collection: str,
    properties: Mapping[str, Any],
    assets: Mapping[str, Any],
    version: str,
) -> Item:
    return {
        "type": "Feature",
        "stac_version": version,
        "id": identity,
        "collection": collection,
        "geometry": item["geometry"],
        "bbox": item["bbox"],
        "properties": dict(properties),
        "assets": dict(assets),
        "links": [],
    }


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.symlink_to(source.resolve())


def _write_lowered(source: Path, target: Path) -> None:
    """Write a file whose valid DN are 1000 lower, and at least 1."""
    with rasterio.open(source) as file:
        pixels, profile = file.read(), file.profile
    lowered = np.where(pixels == 0, 0, np.maximum(pixels.astype("int32") - 1000, 1))
    target.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(target, "w", **profile) as file:
        file.write(lowered.astype(pixels.dtype))


def _write_jpeg2000(source: Path, target: Path) -> None:
    """Write a file without loss as JPEG 2000, which knows no nodata."""
    with rasterio.open(source) as file:
        pixels, crs, transform = file.read(), file.crs, file.transform
    target.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = pixels.shape
    with rasterio.open(
        target,
        "w",
        driver="JP2OpenJPEG",
        count=count,
        height=height,
        width=width,
        dtype=pixels.dtype,
        crs=crs,
        transform=transform,
        QUALITY="100",
        REVERSIBLE="YES",
        YCBCR420="NO",
    ) as file:
        file.write(pixels)
