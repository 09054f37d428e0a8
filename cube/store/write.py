"""Writing a cube: its template, its blocks, and last its seal.

Zarr format 3, a group per sensor. Metadata is written first (the template); blocks come in any
order; the root ``zarr.json`` comes last and at once, with consolidated metadata and a digest of
every array. A cube without a root is unfinished, and nothing can open it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import numcodecs
import numpy as np
import rasterio
import zarr
from numpy.typing import NDArray
from shapely.geometry import mapping

from cube.errors import StoreError
from cube.run.storage import Folder, disk_errors
from cube.scenes.plan import SCHEMA_VERSION, CubePlan, canonical_json
from cube.windows.grid import Block

from .template import SEAL, cube_folder, make_template, metadata_nodes, plain_json


def write_template(cubes: Folder, plan: CubePlan) -> None:
    """Write everything of a cube but its chunks and its root, where that differs on disk."""
    target = cubes / cube_folder(plan.cube)
    there = set(target.files())
    for path, data in make_template(plan).items():
        if path not in there or target.read(path) != data:
            target.write(path, data)


def chunk_keys(block: Block, side: int, *, is_static: bool) -> Iterator[str]:
    """Names of a block's chunks below the array's ``c``."""
    prefix = "" if is_static else f"{block.time}/"
    for row in range(block.row // side, -(-(block.row + block.height) // side)):
        for column in range(block.col // side, -(-(block.col + block.width) // side)):
            yield f"{prefix}{row}/{column}"


def write_block(cubes: Folder, cube: str, block: Block, band: str, values: NDArray[Any]) -> str:
    """Write one band of a block into an unsealed cube, and see it on disk.

    Parameters
    ----------
    cube, block, band
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
    name = cube_folder(cube)
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
    # Zarr leaves empty chunks out by comparing every pixel of every chunk; that none is empty is
    # seen sooner.
    writer = array.with_config({"write_empty_chunks": not _may_be_empty(values, side, array.fill_value)})
    with disk_errors(f"{cubes}/{name}"):
        writer[roi] = values
        chunks = cubes / name / block.sensor / band / "c"
        chunks.sync_files(chunk_keys(block, side, is_static=is_static))
    return hashlib.sha256(np.ascontiguousarray(values).data).hexdigest()


def _may_be_empty(values: NDArray[Any], side: int, nodata: Any) -> bool:
    """Tell whether a chunk of a block may be all nodata: its first pixel is."""
    firsts = values[::side, ::side]
    return bool((np.isnan(firsts) if np.isnan(nodata) else firsts == nodata).any())


def seal(cubes: Folder, plan: CubePlan, block_digests: Mapping[str, Mapping[str, str]], **extra: Any) -> None:
    """Write a cube's root, and so make it one that can be opened.

    Parameters
    ----------
    plan
        The plan whose blocks are all written.
    block_digests
        SHA-256 by band, by block name; for every block of the plan that was written.
    **extra
        Further root attributes, plain JSON.
    """
    nodes = {
        path: node if node["node_type"] == "array" else _group_document(node["attributes"], {})
        for path, node in metadata_nodes(make_template(plan)).items()
    }
    root = _group_document(plain_json(_root_attributes(plan, block_digests) | extra), nodes)
    (cubes / cube_folder(plan.cube)).write(SEAL, json.dumps(root, indent=2).encode())


def _group_document(attributes: dict[str, Any], nodes: dict[str, Any]) -> dict[str, Any]:
    """Return a group's document with the metadata of the nodes below it.

    As ``zarr.consolidate_metadata`` writes it, which warns each time that the form is of no
    specification yet; a warning cannot be hidden in one thread alone.
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
        "libraries": _libraries(),
        "digests": _array_digests(plan, block_digests),
    }


def _libraries() -> dict[str, str]:
    """Return the versions of what makes pixels."""
    return {
        "numpy": np.__version__,
        "rasterio": rasterio.__version__,
        "GDAL": rasterio.__gdal_version__,
        "PROJ": rasterio.__proj_version__,
        "zarr": zarr.__version__,
        "numcodecs": numcodecs.__version__,
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
