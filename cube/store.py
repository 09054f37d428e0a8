"""The cube on disk: its template, its blocks, its seal, and how it is opened.

Zarr format 3, a group per sensor. Metadata is written first (the template); blocks come in any order; the root
``zarr.json`` comes last and at once, with consolidated metadata and a digest of every array. A cube without a root is
unfinished, and nothing can open it.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, cast

import numpy as np
import xarray as xr
import zarr
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj import CRS
from shapely.geometry import mapping
from zarr.codecs import BloscCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import MemoryStore

from .errors import CubeNotSealedError, StoreError
from .grid import Block, chunk_px
from .plan import SCHEMA_VERSION, CubePlan, SensorPlan, canonical_json
from .sensors import Band, BandKind
from .storage import Folder, disk_errors

__all__ = [
    "SEAL",
    "cube_name",
    "open_cube",
    "read_seal",
    "seal",
    "sweep_cube",
    "unseal",
    "write_block",
    "write_template",
]

SEAL = "zarr.json"
"""The root's metadata: its presence means that the cube is whole."""

_TIME_UNITS = "microseconds since 1970-01-01 00:00:00"
_LIBRARIES = ("numpy", "odc-geo", "odc-loader", "odc-stac", "rasterio", "xarray", "zarr", "numcodecs")


def codec_of(band: Band) -> BloscCodec:
    """Return the codec of a band's chunks."""
    return BloscCodec(cname=band.compressor, clevel=1, shuffle="bitshuffle")


def cube_name(aoi_index: int) -> str:
    """Return the folder name of an AOI's cube."""
    return f"aoi_{aoi_index:06}.zarr"


def read_seal(cubes: Folder, aoi_index: int) -> dict[str, Any] | None:
    """Return the root document of a sealed cube, or None where there is no seal."""
    try:
        document = json.loads((cubes / cube_name(aoi_index)).read(SEAL))
    except FileNotFoundError:
        return None
    return cast("dict[str, Any]", document)


def describes(seal_document: Mapping[str, Any], plan: CubePlan) -> bool:
    """Tell whether a sealed cube's metadata, provenance included, are those that a plan would give."""
    attributes = seal_document["attributes"]
    if attributes.get("recipe_sha256") != plan.fingerprint or attributes.get("aoi") != _plain(
        mapping(plan.aoi)
    ):
        return False
    nodes = seal_document["consolidated_metadata"]["metadata"]
    expected = {path: node["attributes"] for path, node in _nodes(make_template(plan)).items()}
    return {path: node["attributes"] for path, node in nodes.items()} == expected


def _nodes(template: Mapping[str, bytes]) -> dict[str, dict[str, Any]]:
    """Return the metadata of every group and array of a template, by path, in the order in which zarr consolidates."""
    nodes = {
        path.removesuffix(f"/{SEAL}"): json.loads(data)
        for path, data in template.items()
        if path.endswith(f"/{SEAL}")
    }
    return dict(sorted(nodes.items(), key=lambda node: (node[0].count("/"), node[0].casefold())))


def _plain(value: object) -> Any:
    return json.loads(json.dumps(value))


def read_array(cubes: Folder, aoi_index: int, path: str) -> NDArray[Any]:
    """Return all values of one array of a cube, sealed or not, as they are on disk."""
    array = zarr.open_array(cubes.zarr_store(cube_name(aoi_index), read_only=True), path=path, mode="r")
    return np.asarray(array[...])


def make_template(plan: CubePlan) -> dict[str, bytes]:
    """Return every metadata file and coordinate chunk of a plan's cube, by path, without the root's.

    The bytes follow from the plan alone.
    """
    store = MemoryStore()
    root = zarr.open_group(store, mode="w", zarr_format=3)
    for sensor_plan in plan.sensors:
        _template_group(root, sensor_plan, plan.geobox(sensor_plan.key), plan.epsg)
    return {path: data for path, data in _contents(store).items() if path != SEAL}


def _contents(store: MemoryStore) -> dict[str, bytes]:
    prototype = default_buffer_prototype()

    async def collect() -> dict[str, bytes]:
        found = {}
        async for key in store.list():
            value = await store.get(key, prototype)
            if value is not None:
                found[key] = value.to_bytes()
        return found

    return dict(sorted(asyncio.run(collect()).items()))


def _template_group(root: zarr.Group, plan: SensorPlan, geobox: GeoBox, epsg: int) -> None:
    group = root.create_group(plan.key, attributes=_group_attributes(plan, geobox, epsg))
    _coordinate(group, "y", geobox.coordinates["y"].values, "projection_y_coordinate", "m")
    _coordinate(group, "x", geobox.coordinates["x"].values, "projection_x_coordinate", "m")
    reference = group.create_array(
        "spatial_ref", shape=(), dtype="int32", attributes=_grid_mapping(geobox, epsg)
    )
    reference[...] = epsg
    dims: tuple[str, ...] = ("y", "x")
    if not plan.sensor.is_static:
        dims = ("time", *dims)
        times = np.array([_microseconds(date.time) for date in plan.dates], "int64")
        attributes: dict[str, Any] = {
            "units": _TIME_UNITS,
            "calendar": "proleptic_gregorian",
            "standard_name": "time",
        }
        group.create_array(
            "time",
            data=times,
            chunks=times.shape,
            dimension_names=("time",),
            attributes=attributes,
            compressors=None,
        )
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
            attributes=_band_attributes(band, epsg),
            config={"write_empty_chunks": False},
        )


def _coordinate(group: zarr.Group, name: str, values: NDArray[Any], standard_name: str, units: str) -> None:
    group.create_array(
        name,
        data=np.asarray(values, "float64"),
        chunks=values.shape,
        dimension_names=(name,),
        attributes={"standard_name": standard_name, "units": units, "axis": name.upper()},
        compressors=None,
    )


def _microseconds(time: datetime) -> int:
    delta = time - datetime(1970, 1, 1, tzinfo=UTC)
    return (delta.days * 86_400 + delta.seconds) * 1_000_000 + delta.microseconds


def _grid_mapping(geobox: GeoBox, epsg: int) -> dict[str, Any]:
    affine = geobox.affine
    cf = {key: value for key, value in CRS.from_epsg(epsg).to_cf().items() if value is not None}
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
    """Return the provenance of one time step: every item that its pixels can come from, first wins."""
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
        "_CRS": {"wkt": CRS.from_epsg(epsg).to_wkt(), "url": f"http://www.opengis.net/def/crs/EPSG/0/{epsg}"},
    }
    if band.kind is BandKind.REFLECTANCE:
        attributes |= {"_FillValue": int(band.nodata), "scale_factor": band.scale, "add_offset": band.offset}
    if band.flags:
        key = "flag_masks" if band.kind is BandKind.FLAGS else "flag_values"
        attributes |= {key: [v for v, _ in band.flags], "flag_meanings": " ".join(m for _, m in band.flags)}
    return attributes


def write_template(cubes: Folder, plan: CubePlan) -> None:
    """Write everything of a cube but its chunks and its root; what is there already and equal is left alone."""
    target = cubes / cube_name(plan.aoi_index)
    there = set(target.files())
    for path, data in make_template(plan).items():
        if path not in there or target.read(path) != data:
            target.write(path, data)


def unseal(cubes: Folder, aoi_index: int) -> None:
    """Take a cube's root away, so that nothing can open it until it is sealed again."""
    (cubes / cube_name(aoi_index)).remove(SEAL)


def sweep_cube(cubes: Folder, plan: CubePlan, blocks: Collection[str]) -> None:
    """Remove from an unsealed cube all that is neither the plan's metadata nor a chunk of the named blocks."""
    target = cubes / cube_name(plan.aoi_index)
    wanted = set(make_template(plan))
    for sensor_plan in plan.sensors:
        side = chunk_px(sensor_plan.resolution)
        for block in plan.blocks(sensor_plan.key):
            if block.name in blocks:
                wanted |= {
                    f"{sensor_plan.key}/{band}/c/{chunk}"
                    for band in sensor_plan.bands
                    for chunk in _chunk_keys(block, side, is_static=sensor_plan.sensor.is_static)
                }
    for path in list(target.files()):
        if path not in wanted:
            target.remove(path)
    target.prune()


def _chunk_keys(block: Block, side: int, *, is_static: bool) -> Iterator[str]:
    """Names of a block's chunks below the array's ``c``."""
    prefix = "" if is_static else f"{block.time}/"
    for row in range(block.row // side, -(-(block.row + block.height) // side)):
        for column in range(block.col // side, -(-(block.col + block.width) // side)):
            yield f"{prefix}{row}/{column}"


def write_block(cubes: Folder, aoi_index: int, block: Block, band: str, values: NDArray[Any]) -> str:
    """Write one band of a block into an unsealed cube, and see it on disk.

    Parameters
    ----------
    cubes
        Folder of the cubes.
    aoi_index, block, band
        Where the values go; the block covers whole chunks.
    values
        ``(y, x)`` in the band's dtype, of the block's shape.

    Returns
    -------
    str
        SHA-256 of the values in C order, hexadecimal.

    Raises
    ------
    StoreError
        If the values are not of the block's shape or the band's dtype, or cannot be written.
    """
    name = cube_name(aoi_index)
    store = cubes.zarr_store(name)
    array = zarr.open_array(store, path=f"{block.sensor}/{band}", mode="r+", zarr_format=3)
    if values.shape != (block.height, block.width) or values.dtype != array.dtype:
        raise StoreError(
            f"{block.name}/{band}: got {values.dtype} {values.shape}; "
            f"expected {array.dtype} {(block.height, block.width)}"
        )
    is_static = array.ndim == len(block.roi)
    roi = block.roi if is_static else (block.time, *block.roi)
    side = array.chunks[-1]
    # Zarr leaves hollow chunks out by comparing every pixel of every chunk; that none is hollow is seen sooner.
    writer = array.with_config({"write_empty_chunks": not _may_be_hollow(values, side, array.fill_value)})
    with disk_errors(f"{cubes}/{name}"):
        writer[roi] = values
        if cubes.is_local:
            base = f"{cubes.path / name / block.sensor / band}/c"
            _sync(base, _chunk_keys(block, side, is_static=is_static))
    return hashlib.sha256(np.ascontiguousarray(values).data).hexdigest()


def _may_be_hollow(values: NDArray[Any], side: int, nodata: Any) -> bool:
    """Tell whether a chunk of a block may be all nodata: its first pixel is."""
    firsts = values[::side, ::side]
    return bool((np.isnan(firsts) if np.isnan(nodata) else firsts == nodata).any())


def _sync(base: str, chunks: Iterable[str]) -> None:
    """Force chunks, and the folders that name them, onto the disk."""
    folders = {base, base.removesuffix("/c")}
    for chunk in chunks:
        try:
            handle = os.open(f"{base}/{chunk}", os.O_RDONLY)
        except FileNotFoundError:  # all nodata
            continue
        _force(handle)
        parts = chunk.split("/")[:-1]
        folders |= {"/".join([base, *parts[: n + 1]]) for n in range(len(parts))}
    for folder in sorted(folders):
        with suppress(FileNotFoundError):
            _force(os.open(folder, os.O_RDONLY))


def _force(handle: int) -> None:
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def seal(cubes: Folder, plan: CubePlan, block_digests: Mapping[str, Mapping[str, str]], **extra: Any) -> None:
    """Write a cube's root, and so make it one that can be opened.

    Parameters
    ----------
    cubes
        Folder of the cubes.
    plan
        The plan whose blocks are all written.
    block_digests
        SHA-256 by band, by block name; for every block of the plan that was written.
    **extra
        Further root attributes, plain JSON.
    """
    nodes = {
        path: node if node["node_type"] == "array" else _group(node["attributes"], {})
        for path, node in _nodes(make_template(plan)).items()
    }
    root = _group(_plain(_root_attributes(plan, block_digests) | extra), nodes)
    (cubes / cube_name(plan.aoi_index)).write(SEAL, json.dumps(root, indent=2).encode())


def _group(attributes: dict[str, Any], nodes: dict[str, Any]) -> dict[str, Any]:
    """Return a group's document with the metadata of the nodes below it.

    As ``zarr.consolidate_metadata`` writes it, which warns each time that the form is of no specification yet; a
    warning cannot be hidden in one thread alone.
    """
    consolidated = {"kind": "inline", "must_understand": False, "metadata": nodes}
    return {
        "attributes": attributes,
        "zarr_format": 3,
        "consolidated_metadata": consolidated,
        "node_type": "group",
    }


def _root_attributes(plan: CubePlan, block_digests: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "aoi_index": plan.aoi_index,
        "aoi": mapping(plan.aoi),
        "epsg": plan.epsg,
        "recipe": json.loads(canonical_json(plan.recipe)),
        "recipe_sha256": plan.fingerprint,
        "libraries": {name: version(name) for name in _LIBRARIES},
        "digests": _array_digests(plan, block_digests),
    }


def _array_digests(plan: CubePlan, block_digests: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """Return one SHA-256 per array: over the digests of its blocks, in order."""
    digests = {}
    for sensor_plan in plan.sensors:
        names = [block.name for block in plan.blocks(sensor_plan.key) if block.name in block_digests]
        for band in sensor_plan.bands:
            lines = "".join(f"{name} {block_digests[name][band]}\n" for name in names)
            digests[f"{sensor_plan.key}/{band}"] = hashlib.sha256(lines.encode()).hexdigest()
    return digests


def open_cube(path: str | os.PathLike[str] | Folder, **options: Any) -> xr.DataTree:
    """Open a cube lazily, in physical units.

    Parameters
    ----------
    path
        A cube's folder, ``.../cubes/aoi_000003.zarr``, local or in an object store.
    **options
        fsspec options of an object store.

    Returns
    -------
    xr.DataTree
        A node per sensor with its bands: ``(time, y, x)``, or ``(y, x)`` for dem and lulc. Reflectance, gamma naught
        (linear power) and elevation (metres) are float32, NaN where there is nothing; masks and classes stay
        integers. ``scene_ids`` lies along ``time``. Nothing is read before it is used.

    Raises
    ------
    CubeNotSealedError
        If the cube is unfinished or absent.
    StoreError
        If it was written in a layout that this version does not know.
    """
    folder = path if isinstance(path, Folder) else Folder(os.fspath(path), options)
    if not folder.exists(SEAL):
        raise CubeNotSealedError(
            f"{folder}: no finished cube here; build it, or finish it, with build_cubes.py"
        )
    parent, _, name = folder.url.rstrip("/").rpartition("/")
    store = Folder(parent or ".", folder.options).zarr_store(name, read_only=True)
    tree = xr.open_datatree(store, engine="zarr", chunks={}, mask_and_scale=False, consolidated=True)  # type: ignore[arg-type]
    if tree.attrs.get("schema_version") != SCHEMA_VERSION:
        raise StoreError(
            f"{folder}: has schema_version {tree.attrs.get('schema_version')}; this version reads {SCHEMA_VERSION}"
        )
    groups = {key: _physical(tree[key].to_dataset()) for key in tree.children}
    return xr.DataTree.from_dict({"/": xr.Dataset(attrs=tree.attrs), **groups})


def _physical(dataset: xr.Dataset) -> xr.Dataset:
    bands = {str(name): _decode(array) for name, array in dataset.data_vars.items() if array.ndim >= 2}
    dataset = dataset.assign(bands)
    if "time" in dataset.dims:
        dataset = dataset.assign_coords(scene_ids=("time", list(dataset.attrs["scene_ids"])))
    return dataset


def _decode(array: xr.DataArray) -> xr.DataArray:
    attributes = {key: value for key, value in array.attrs.items() if key != "_CRS"}
    encoding = {"grid_mapping": "spatial_ref"}
    if "scale_factor" in attributes:
        scale, offset = np.float32(attributes.pop("scale_factor")), np.float32(attributes.pop("add_offset"))
        array = array.where(array != attributes.pop("_FillValue")).astype("float32") * scale + offset
    array.attrs, array.encoding = attributes, encoding
    return array
