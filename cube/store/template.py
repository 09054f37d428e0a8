"""A cube's metadata, written before any pixel; its bytes follow from the plan alone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from odc.geo.geobox import GeoBox
from pyproj import CRS

from cube.config.sensors import Band, BandKind
from cube.scenes.plan import CubePlan, SensorPlan
from cube.windows.grid import chunk_px

if TYPE_CHECKING:
    import zarr
    from zarr.codecs import BloscCodec
    from zarr.storage import MemoryStore

SEAL = "zarr.json"
"""The root's metadata: its presence means that the cube is whole."""
_TIME = {
    "units": "microseconds since 1970-01-01 00:00:00",
    "calendar": "proleptic_gregorian",
    "standard_name": "time",
}
_AXES = {
    name: {"standard_name": f"projection_{name}_coordinate", "units": "m", "axis": name.upper()}
    for name in ("y", "x")
}


def codec_of(band: Band) -> BloscCodec:
    """Return the codec of a band's chunks."""
    from zarr.codecs import BloscCodec

    return BloscCodec(cname=band.compressor, clevel=1, shuffle="bitshuffle")


def cube_folder(cube: str) -> str:
    """Return the folder name of a cube, such as ``aoi_000003_0123456789ab``."""
    return f"{cube}.zarr"


def metadata_nodes(template: Mapping[str, bytes]) -> dict[str, dict[str, Any]]:
    """Return the metadata of a template's groups and arrays, by path, in zarr's own order."""
    nodes = {
        path.removesuffix(f"/{SEAL}"): json.loads(data)
        for path, data in template.items()
        if path.endswith(f"/{SEAL}")
    }
    return dict(sorted(nodes.items(), key=lambda node: (node[0].count("/"), node[0].casefold())))


def node_attributes(plan: CubePlan) -> dict[str, dict[str, Any]]:
    """Return the attributes of a cube's groups and arrays by path, its provenance among them.

    As plain JSON; they follow from the plan alone, and cost much less than the template.
    """
    found: dict[str, Any] = {}
    for sensor_plan in plan.sensors:
        key, geobox = sensor_plan.key, plan.geobox(sensor_plan.key)
        found[key] = _group_attributes(sensor_plan, geobox, plan.epsg)
        found |= {f"{key}/{name}": one for name, one in _AXES.items()}
        found[f"{key}/spatial_ref"] = _grid_mapping(geobox, plan.epsg)
        if not sensor_plan.sensor.is_static:
            found[f"{key}/time"] = _TIME
        for name in sensor_plan.bands:
            found[f"{key}/{name}"] = _band_attributes(sensor_plan.sensor.band(name), plan.epsg)
    return {path: plain_json(attributes) for path, attributes in found.items()}


def make_template(plan: CubePlan) -> dict[str, bytes]:
    """Return a cube's metadata files and coordinate chunks by path, but for the root's.

    The bytes follow from the plan alone.
    """
    import zarr
    from zarr.storage import MemoryStore

    store = MemoryStore()
    root = zarr.open_group(store, mode="w", zarr_format=3)
    attributes = node_attributes(plan)
    for sensor_plan in plan.sensors:
        _template_group(root, sensor_plan, plan.geobox(sensor_plan.key), plan.epsg, attributes)
    return {path: data for path, data in _contents(store).items() if path != SEAL}


def _contents(store: MemoryStore) -> dict[str, bytes]:
    from zarr.core.buffer import default_buffer_prototype

    prototype = default_buffer_prototype()

    async def collect() -> dict[str, bytes]:
        found = {}
        async for key in store.list():
            value = await store.get(key, prototype)
            if value is not None:
                found[key] = value.to_bytes()
        return found

    return dict(sorted(asyncio.run(collect()).items()))


def _template_group(
    root: zarr.Group,
    plan: SensorPlan,
    geobox: GeoBox,
    epsg: int,
    attributes: Mapping[str, dict[str, Any]],
) -> None:
    key = plan.key
    group = root.create_group(key, attributes=attributes[key])
    coordinates = {name: np.asarray(geobox.coordinates[name].values, "float64") for name in _AXES}
    if not plan.sensor.is_static:
        coordinates["time"] = np.array([_microseconds(date.time) for date in plan.dates], "int64")
    for name, values in coordinates.items():
        group.create_array(
            name,
            data=values,
            chunks=values.shape,
            dimension_names=(name,),
            attributes=attributes[f"{key}/{name}"],
            compressors=None,
        )
    reference = group.create_array(
        "spatial_ref", shape=(), dtype="int32", attributes=attributes[f"{key}/spatial_ref"]
    )
    reference[...] = epsg
    dims = ("y", "x") if plan.sensor.is_static else ("time", "y", "x")
    side = chunk_px(plan.resolution)
    shape = (*((len(plan.dates),) if "time" in dims else ()), *geobox.shape)
    chunks = (*((1,) if "time" in dims else ()), side, side)
    for name in plan.bands:
        band = plan.sensor.band(name)
        group.create_array(
            name,
            shape=shape,
            chunks=chunks,
            dtype=band.dtype,
            fill_value=band.np_dtype.type(band.nodata),
            compressors=codec_of(band),
            dimension_names=dims,
            attributes=attributes[f"{key}/{name}"],
            config={"write_empty_chunks": False},
        )


def _microseconds(time: datetime) -> int:
    delta = time - datetime(1970, 1, 1, tzinfo=UTC)
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds


@cache
def _cf_crs(epsg: int) -> Mapping[str, Any]:
    """Return a CRS as CF writes it, its WKT among the attributes."""
    return {key: value for key, value in CRS.from_epsg(epsg).to_cf().items() if value is not None}


def _grid_mapping(geobox: GeoBox, epsg: int) -> dict[str, Any]:
    affine = geobox.affine
    cf = dict(_cf_crs(epsg))
    cf["GeoTransform"] = f"{affine.c:.17g} {affine.a:.17g} 0 {affine.f:.17g} 0 {affine.e:.17g}"
    cf["spatial_ref"] = cf["crs_wkt"]
    cf["epsg"] = epsg
    return cf


def _group_attributes(plan: SensorPlan, geobox: GeoBox, epsg: int) -> dict[str, Any]:
    height, width = geobox.shape
    affine = geobox.affine
    box = geobox.boundingbox
    return {
        "Conventions": "CF-1.11",
        "title": plan.sensor.title,
        "attribution": plan.sensor.attribution,
        "licence": plan.sensor.licence,
        "zarr_conventions": _CONVENTIONS,
        "proj:code": f"EPSG:{epsg}",
        "spatial:dimensions": ["y", "x"],
        "spatial:transform": [affine.a, affine.b, affine.c, affine.d, affine.e, affine.f],
        "spatial:shape": [height, width],
        "spatial:bbox": [box.left, box.bottom, box.right, box.top],
        "spatial:registration": "pixel",
        "resampling": plan.resampling,
        "scene_ids": [",".join(scene.id for scene in date.scenes) for date in plan.dates],
        "items": [_item_record(plan, index) for index in range(len(plan.dates))],
    }


def _convention(name: str, uuid: str, description: str) -> dict[str, str]:
    base = f"https://raw.githubusercontent.com/zarr-conventions/{name}/refs/tags/v0.1/schema.json"
    spec = f"https://github.com/zarr-conventions/{name}/blob/v0.1/README.md"
    return {"name": name, "uuid": uuid, "schema_url": base, "spec_url": spec, "description": description}


_CONVENTIONS = [
    _convention(
        "proj",
        "f17cb550-5864-4468-aeb7-f3180cfb622f",
        "Coordinate reference system information for geospatial data",
    ),
    _convention("spatial", "689b58e2-cf7b-45e0-9fff-9cfc0883d6b4", "Spatial coordinate information"),
]


def _item_record(plan: SensorPlan, index: int) -> list[dict[str, Any]]:
    """Return the provenance of a time step: all items that its pixels can come from, in order."""
    return [
        {
            "id": scene.id,
            "collection": scene.collection,
            "datetime": scene.to_json()["datetime"],
            "platform": scene.properties.get("platform", ""),
            "self": scene.self_href,
            "properties": dict(sorted(scene.properties.items())),
            "assets": {band: asset.href for band, asset in sorted(scene.assets.items())},
        }
        for scene in plan.dates[index].scenes
    ]


def _band_attributes(band: Band, epsg: int) -> dict[str, Any]:
    attributes: dict[str, Any] = {
        "long_name": band.long_name,
        "units": band.units,
        "grid_mapping": "spatial_ref",
        "coordinates": "spatial_ref",
        # The form that GDAL's Zarr driver reads.
        "_CRS": {"wkt": _cf_crs(epsg)["crs_wkt"], "url": f"http://www.opengis.net/def/crs/EPSG/0/{epsg}"},
    }
    if band.kind is BandKind.REFLECTANCE:
        attributes |= {"_FillValue": int(band.nodata), "scale_factor": band.scale, "add_offset": band.offset}
    if band.flags:
        codes = [code for code, _ in band.flags]
        attributes |= {band.flags_key: codes, "flag_meanings": " ".join(m for _, m in band.flags)}
    return attributes


def plain_json(value: object) -> Any:
    """Return a value as it comes back from JSON: tuples are lists then."""
    return json.loads(json.dumps(value))
