"""Writing a cube: its template, its blocks, and last its seal.

Zarr format 3, a group per sensor. Metadata is written first (the template); blocks come in any
order; the root ``zarr.json`` comes last and at once, with consolidated metadata and a digest of
every array. A cube without a root is unfinished, and nothing can open it.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

import numcodecs
import numpy as np
import rasterio
import zarr
from numpy.typing import NDArray
from shapely.geometry import mapping
from zarr.storage import WrapperStore

from cube.errors import StoreError
from cube.run.storage import Folder, disk_errors
from cube.scenes.plan import SCHEMA_VERSION, CubePlan, canonical_json
from cube.windows.grid import Block

from .template import SEAL, cube_folder, plain_json, sealed_document

_KNOWN_BANDS = 128
"""Opened bands that are remembered: those of the blocks that are being written."""
_OPENING = [threading.Lock() for _ in range(64)]


def write_template(cubes: Folder, cube: str, template: Mapping[str, bytes]) -> None:
    """Write everything of a cube but its chunks and its root, where that differs on disk.

    Its arrays are not forced onto the disk, which :func:`seal` sees to; the names of their folders
    are, since a block's chunks would be lost with them.
    """
    target = cubes / cube_folder(cube)
    there = target.read_files(sorted(set(target.files()) & template.keys()))
    target.write_files({path: data for path, data in template.items() if there.get(path) != data})
    target.sync_files(path for path in template if path.count("/") == 1)


def chunk_keys(block: Block, stored: tuple[int, int], *, is_static: bool) -> Iterator[str]:
    """Names of a block's chunks, or its shard, below the array's ``c``; `stored` is their size."""
    prefix, (height, width) = "" if is_static else f"{block.time}/", stored
    for row in range(block.row // height, -(-(block.row + block.height) // height)):
        for column in range(block.col // width, -(-(block.col + block.width) // width)):
            yield f"{prefix}{row}/{column}"


class _WholeShards(WrapperStore[Any]):
    """A store that gives no chunk away, so that what is written is never laid over what is there.

    Zarr reads a shard before it writes it, even where all of it is given: a request more, of bytes
    that may be those of a build that lost its power.
    """

    async def get(self, key: str, *how: Any, **more: Any) -> Any:
        """Return metadata alone."""
        return await super().get(key, *how, **more) if key.endswith(SEAL) else None


def write_block(
    cubes: Folder, cube: str, block: Block, band: str, values: NDArray[Any], *, is_sharded: bool = False
) -> str:
    """Write one band of a block into an unsealed cube, and see it on disk.

    Parameters
    ----------
    cube, block, band
        Where the values go; the block covers whole chunks, or one shard.
    values
        ``(y, x)`` in the band's dtype, of the block's shape.
    is_sharded
        Whether the cube's template was made so.

    Returns
    -------
    str
        SHA-256 of the values in C order, hexadecimal.

    Raises
    ------
    StoreError
        If the values are not of the block's shape or the band's dtype, the cube has the other form,
        or they cannot be written.
    """
    name, path = cube_folder(cube), f"{block.sensor}/{band}"
    array = _open_band(cubes, name, path, is_sharded=is_sharded, write_empty_chunks=True)
    if (array.shards is not None) != is_sharded:
        raise StoreError(f"{cubes}/{name}/{path}: is being built in another form (store.shards); run again")
    if values.shape != (block.height, block.width) or values.dtype != array.dtype:
        raise StoreError(
            f"{block.name}/{band}: got {values.dtype} {values.shape}; "
            f"expected {array.dtype} {(block.height, block.width)}"
        )
    is_static = array.ndim == len(block.roi)
    roi = block.roi if is_static else (block.time, *block.roi)
    side, (*_, height, width) = array.chunks[-1], array.shards or array.chunks
    # Zarr leaves empty chunks out by comparing every pixel of every chunk; that none is empty is
    # seen sooner. (Array.with_config would do, but came with zarr 3.1.6, which wants numpy 2.)
    if _has_empty_chunk(values, side, array.fill_value):
        array = _open_band(cubes, name, path, is_sharded=is_sharded, write_empty_chunks=False)
    with disk_errors(f"{cubes}/{name}"):
        array[roi] = values
        chunks = cubes / name / block.sensor / band / "c"
        chunks.sync_files(chunk_keys(block, (height, width), is_static=is_static))
    return hashlib.sha256(np.ascontiguousarray(values).data).hexdigest()


def _open_band(
    cubes: Folder, name: str, path: str, *, is_sharded: bool, write_empty_chunks: bool
) -> zarr.Array[Any]:
    """Open a band of an unsealed cube; its metadata follow from the cube's name and form."""
    with _OPENING[hash((name, path)) % len(_OPENING)]:  # else several dates would read them at once
        return _open_band_once(cubes, name, path, is_sharded, write_empty_chunks)


@lru_cache(maxsize=_KNOWN_BANDS)
def _open_band_once(
    cubes: Any,
    name: str,
    path: str,
    is_sharded: bool,  # noqa: FBT001
    write_empty_chunks: bool,  # noqa: FBT001
) -> zarr.Array[Any]:
    store = cubes.zarr_store(name)
    return zarr.open_array(
        _WholeShards(store) if is_sharded else store,
        path=path,
        mode="r+",
        zarr_format=3,
        config={"write_empty_chunks": write_empty_chunks},
    )


def _has_empty_chunk(values: NDArray[Any], side: int, nodata: Any) -> bool:
    """Tell whether a chunk of a block is all nodata; looks at those whose first pixel is."""

    def is_empty(part: NDArray[Any]) -> NDArray[np.bool_]:
        return np.asarray(np.isnan(part) if np.isnan(nodata) else part == nodata)

    candidates = np.argwhere(is_empty(values[::side, ::side])) * side
    return any(is_empty(values[row : row + side, col : col + side]).all() for row, col in candidates)


def seal(
    cubes: Folder,
    plan: CubePlan,
    template: Mapping[str, bytes],
    block_digests: Mapping[str, Mapping[str, str]],
    **extra: Any,
) -> None:
    """Write a cube's root, and so make it one that can be opened.

    Parameters
    ----------
    plan
        The plan whose blocks are all written.
    template
        Its metadata, as they were written.
    block_digests
        SHA-256 by band, by block name; for every block of the plan that was written.
    **extra
        Further root attributes, plain JSON.
    """
    target = cubes / cube_folder(plan.cube)
    target.sync_files(template)
    attributes = plain_json(_root_attributes(plan, block_digests) | extra)
    target.write(SEAL, sealed_document(attributes, template))


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
