"""A cube's metadata, written before any pixel; its bytes follow from the plan alone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj import CRS

from cube.config.sensors import Band, BandKind
from cube.scenes.items import isoformat
from cube.scenes.plan import CubePlan, SensorPlan
from cube.windows.grid import chunk_px, stored_px

if TYPE_CHECKING:
    from zarr.codecs import BloscCodec
    from zarr.storage import MemoryStore

SEAL = "zarr.json"
"""The root's metadata: its presence means that the cube is whole."""
_KNOWN_BANDS = 1024
"""Metadata of bands that is remembered, 2 kB each."""
_INDEX_LOCATION = "start"
"""Where a shard says what lies in it: not at its end, which the client of Azure's store cannot ask
for."""
_KNOWN_GRIDS = 16
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


def node_attributes(plan: CubePlan) -> dict[str, dict[str, Any]]:
    """Return the attributes of a cube's groups and arrays by path, its provenance among them.

    As plain JSON; they follow from the plan alone, and cost much less than the template.
    """
    found: dict[str, Any] = {}
    for sensor_plan in plan.sensors:
        key, geobox = sensor_plan.key, plan.geobox(sensor_plan.key)
        found[key] = plain_json(_group_attributes(sensor_plan, geobox, plan.epsg))
        found.update({f"{key}/{name}": one for name, one in _AXES.items()})
        found[f"{key}/spatial_ref"] = _grid_mapping(geobox, plan.epsg)
        if not sensor_plan.sensor.is_static:
            found[f"{key}/time"] = _TIME
        for name in sensor_plan.bands:
            found[f"{key}/{name}"] = _band_attributes(sensor_plan.sensor.band(name), plan.epsg)
    return found


def make_template(plan: CubePlan, *, is_sharded: bool = False) -> dict[str, bytes]:
    """Return a cube's metadata files and coordinate chunks by path, but for the root's.

    The bytes are those that zarr itself writes, and follow from the plan and its form alone.

    Parameters
    ----------
    is_sharded
        True: the chunks of a block are one file for each band, a shard.
    """
    files: dict[str, bytes] = {}
    for sensor_plan in plan.sensors:
        key, geobox = sensor_plan.key, plan.geobox(sensor_plan.key)
        attributes = _group_attributes(sensor_plan, geobox, plan.epsg)
        files[f"{key}/{SEAL}"] = _as_written({**_group_document(), "attributes": attributes})
        files |= {f"{key}/{name}": data for name, data in _grid_files(geobox, plan.epsg).items()}
        if not sensor_plan.sensor.is_static:
            times = np.array([_microseconds(date.time) for date in sensor_plan.dates], "<i8")
            files |= {f"{key}/{name}": data for name, data in _coordinate("time", times)}
        files |= _bands(sensor_plan, geobox, plan.epsg, is_sharded=is_sharded)
    return dict(sorted(files.items()))


@lru_cache(_KNOWN_GRIDS)
def _grid_files(geobox: GeoBox, epsg: int) -> Mapping[str, bytes]:
    """Return what tells where a group's pixels lie; groups of one resolution share it."""
    files = dict(_coordinate("y", np.asarray(geobox.coordinates["y"].values, "<f8")))
    files |= _coordinate("x", np.asarray(geobox.coordinates["x"].values, "<f8"))
    mapping = _grid_mapping(geobox, epsg)
    files[f"spatial_ref/{SEAL}"] = _array_metadata(_reference_document(), (), (), mapping)
    files["spatial_ref/c"] = _reference_chunk(epsg)
    return files


def _coordinate(name: str, values: NDArray[Any]) -> Iterator[tuple[str, bytes]]:
    yield f"{name}/{SEAL}", _coordinate_metadata(values.dtype.name, name, values.size)
    yield f"{name}/c/0", values.tobytes()


def _bands(plan: SensorPlan, geobox: GeoBox, epsg: int, *, is_sharded: bool) -> Iterator[tuple[str, bytes]]:
    """Yield where the metadata of a sensor's bands lies, and the bytes."""
    dates, date = ((), ()) if plan.sensor.is_static else ((len(plan.dates),), (1,))
    side = chunk_px(plan.resolution)
    shape, chunks = (*dates, *geobox.shape), (*date, side, side)
    shards = (*date, *stored_px(geobox, is_sharded=True)) if is_sharded else None
    for name in plan.bands:
        metadata = _band_metadata(plan.sensor.band(name), epsg, shape, chunks, shards)
        yield f"{plan.key}/{name}/{SEAL}", metadata


@lru_cache(_KNOWN_BANDS)
def _band_metadata(
    band: Band, epsg: int, shape: tuple[int, ...], chunks: tuple[int, ...], shards: tuple[int, ...] | None
) -> bytes:
    """Return a band's metadata; areas of one size in one zone share it."""
    document = _band_document(band, chunks, shards)
    return _array_metadata(document, shape, shards or chunks, _band_attributes(band, epsg))


@lru_cache(_KNOWN_BANDS)
def _coordinate_metadata(dtype: str, dim: str, size: int) -> bytes:
    attributes = _TIME if dim == "time" else _AXES[dim]
    return _array_metadata(_coordinate_document(dtype, dim), (size,), (size,), attributes)


def _array_metadata(
    document: Mapping[str, Any],
    shape: tuple[int, ...],
    chunks: tuple[int, ...],
    attributes: Mapping[str, Any],
) -> bytes:
    """Return an array's metadata: zarr's own for its kind, with a shape, chunks and attributes."""
    grid = {"name": "regular", "configuration": {"chunk_shape": list(chunks)}}
    return _as_written({**document, "shape": list(shape), "chunk_grid": grid, "attributes": attributes})


def _as_written(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, indent=2).encode()


@cache
def _group_document() -> Mapping[str, Any]:
    import zarr
    from zarr.storage import MemoryStore

    store = MemoryStore()
    zarr.open_group(store, mode="w", zarr_format=3)
    return _read_document(store)


@cache
def _coordinate_document(dtype: str, dim: str) -> Mapping[str, Any]:
    return _document_of(shape=(1,), dtype=dtype, dimension_names=(dim,), compressors=None)


@cache
def _reference_document() -> Mapping[str, Any]:
    return _document_of(shape=(), dtype="int32")


@cache
def _band_document(band: Band, chunks: tuple[int, ...], shards: tuple[int, ...] | None) -> Mapping[str, Any]:
    dims = ("time", "y", "x")[-len(chunks) :]
    return _document_of(
        shape=(1,) * len(dims),
        chunks=chunks,
        shards={"shape": shards, "index_location": _INDEX_LOCATION} if shards else None,
        dtype=band.dtype,
        fill_value=band.np_dtype.type(band.nodata),
        compressors=codec_of(band),
        dimension_names=dims,
    )


def without_shards(document: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return an array's metadata as they would be if its chunks did not lie in shards."""
    codecs = document.get("codecs", ())
    if not codecs or codecs[0]["name"] != "sharding_indexed":
        return document
    inner = codecs[0]["configuration"]
    grid = {"name": "regular", "configuration": {"chunk_shape": inner["chunk_shape"]}}
    return {**document, "chunk_grid": grid, "codecs": inner["codecs"]}


def _document_of(**kind: Any) -> Mapping[str, Any]:
    """Return the metadata that zarr writes for a kind of array."""
    import zarr
    from zarr.storage import MemoryStore

    store = MemoryStore()
    zarr.create_array(store, zarr_format=3, **kind)
    return _read_document(store)


def _read_document(store: MemoryStore) -> Mapping[str, Any]:
    return cast("Mapping[str, Any]", json.loads(_contents(store)[SEAL]))


@cache
def _reference_chunk(epsg: int) -> bytes:
    """Return the one chunk of the grid mapping's variable, which holds the EPSG code."""
    import zarr
    from zarr.storage import MemoryStore

    store = MemoryStore()
    zarr.create_array(store, shape=(), dtype="int32", zarr_format=3)[...] = epsg
    return _contents(store)["c"]


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

    return asyncio.run(collect())


def sealed_document(attributes: Mapping[str, Any], template: Mapping[str, bytes]) -> bytes:
    """Return a cube's root document, with the metadata of all nodes below it.

    As ``zarr.consolidate_metadata`` writes it, which warns each time that the form is of no
    specification yet; a warning cannot be hidden in one thread alone. The nodes are put in as the
    texts that they are: to encode them once more would cost more than all else of a small cube.
    """
    nodes = {
        path.removesuffix(f"/{SEAL}"): data.decode()
        for path, data in template.items()
        if path.endswith(f"/{SEAL}")
    }
    in_order = sorted(nodes, key=lambda path: (path.count("/"), path.casefold()))
    lines = [f'"{path}": {nodes[path] if "/" in path else _consolidated(nodes[path])}' for path in in_order]
    root = _as_written({**_group_document(), "attributes": attributes}).decode()
    return _consolidated(root, lines).encode()


def _consolidated(group: str, nodes: Sequence[str] = ()) -> str:
    """Return a group's document with the texts of nodes, such as ``"dem": {...}``, put into it."""
    inner = ",\n".join(nodes).replace("\n", f"\n{' ' * 6}")
    metadata = f"{{\n      {inner}\n    }}" if nodes else "{}"
    found = f"""  "consolidated_metadata": {{
    "kind": "inline",
    "must_understand": false,
    "metadata": {metadata}
  }},
"""
    head, end, tail = group.rpartition('  "node_type"')
    return head + found + end + tail


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
            "datetime": isoformat(scene.datetime),
            "platform": scene.properties.get("platform", ""),
            "self": scene.self_href,
            "properties": dict(sorted(scene.properties.items())),
            "assets": {band: asset.href for band, asset in sorted(scene.assets.items())},
        }
        for scene in plan.dates[index].scenes
    ]


@lru_cache(_KNOWN_BANDS)
def _band_attributes(band: Band, epsg: int) -> Mapping[str, Any]:
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
