"""How people open a sealed cube: lazily, in physical units."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import zarr
from numpy.typing import NDArray

from cube.errors import CubeNotSealedError, StoreError
from cube.run.forks import renew_threads_after_forks
from cube.run.status import read_features
from cube.run.storage import Folder, open_folder
from cube.scenes.plan import SCHEMA_VERSION

from .sealed import understanding
from .template import SEAL, cube_folder

if TYPE_CHECKING:
    import xarray as xr


def read_array(cubes: Folder, cube: str, path: str, roi: tuple[slice | int, ...] = ()) -> NDArray[Any]:
    """Return the values of one array of a cube, sealed or not, as they are on disk.

    Parameters
    ----------
    roi
        Which of them, as numpy indexes (default: all).
    """
    array = zarr.open_array(cubes.zarr_store(cube_folder(cube), read_only=True), path=path, mode="r")
    return np.asarray(array[roi or ...])


def find_cube(version: str | os.PathLike[str] | Folder, aoi: int | str, **options: Any) -> Folder:
    """Return the folder of the cube that a version of a dataset has of an AOI.

    Parameters
    ----------
    version
        The version's folder, ``{working}/{version}``, local or in an object store.
    aoi
        Index, name or id of the AOI.
    **options
        fsspec options of an object store.

    Raises
    ------
    CubeNotSealedError
        If the version has no cube of the AOI.
    """
    folder = open_folder(version, options).absolute()
    working = open_folder(folder.url.rstrip("/").rpartition("/")[0], folder.options)
    rows: list[dict[str, Any]] = []
    with contextlib.suppress(FileNotFoundError):
        rows = [feature["properties"] for feature in read_features(folder)]
    for row in rows:
        if row.get("cube") and aoi in (row["aoi_index"], row.get("name"), row.get("id")):
            return working / "cubes" / cube_folder(row["cube"])
    raise CubeNotSealedError(f"{folder}: no cube of AOI {aoi} here; build it with gelos-lc build")


def open_cube(
    path: str | os.PathLike[str] | Folder, aoi: int | str | None = None, **options: Any
) -> xr.DataTree:
    """Open a cube lazily, in physical units.

    Parameters
    ----------
    path
        A cube's folder, ``.../cubes/aoi_000003_0123456789ab.zarr``, local or in an object store;
        with `aoi`, the folder of a dataset's version, ``{working}/{version}``.
    aoi
        Index, name or id of the AOI whose cube the version has.
    **options
        fsspec options of an object store.

    Returns
    -------
    xr.DataTree
        A node per sensor with its bands: ``(time, y, x)``, or ``(y, x)`` for dem and lulc.
        Reflectance, gamma naught (linear power) and elevation (metres) are float32, NaN where there
        is nothing; masks and classes stay integers. ``scene_ids`` lies along ``time``. ``.rio``
        knows CRS and transform, which stay through arithmetic, and nodata. Nothing is read before
        it is used; that may be in a forked child.

    Raises
    ------
    CubeNotSealedError
        If the cube is unfinished or absent.
    StoreError
        If it was written in a form that this version does not know, or is damaged.
    """
    import rioxarray  # noqa: F401  gives arrays their .rio
    import xarray as xr

    renew_threads_after_forks()
    folder = open_folder(path, options) if aoi is None else find_cube(path, aoi, **options)
    if not folder.exists(SEAL):
        raise CubeNotSealedError(
            f"{folder}: no finished cube here; build it, or finish it, with gelos-lc build"
        )
    parent, _, name = folder.url.rstrip("/").rpartition("/")
    store = open_folder(parent or ".", folder.options).zarr_store(name, read_only=True)
    with understanding(str(folder)):
        return _physical_tree(
            xr.open_datatree(store, engine="zarr", chunks={}, mask_and_scale=False, consolidated=True),  # type: ignore[arg-type]
            str(folder),
        )


def _physical_tree(tree: xr.DataTree, folder: str) -> xr.DataTree:
    import xarray as xr

    if tree.attrs.get("schema_version") != SCHEMA_VERSION:
        raise StoreError(
            f"{folder}: has schema_version {tree.attrs.get('schema_version')}; "
            f"this version reads {SCHEMA_VERSION}"
        )
    groups = {key: _physical_dataset(tree[key].to_dataset()) for key in tree.children}
    return xr.DataTree.from_dict({"/": xr.Dataset(attrs=tree.attrs), **groups})


def _physical_dataset(dataset: xr.Dataset) -> xr.Dataset:
    bands = {str(name): _physical_band(array) for name, array in dataset.data_vars.items() if array.ndim >= 2}
    dataset = dataset.assign(bands)
    if "time" in dataset.dims:
        dataset = dataset.assign_coords(scene_ids=("time", list(dataset.attrs["scene_ids"])))
    return dataset


def _physical_band(array: xr.DataArray) -> xr.DataArray:
    attributes = {key: value for key, value in array.attrs.items() if key != "_CRS"}
    if "scale_factor" in attributes:
        scale, offset = np.float32(attributes.pop("scale_factor")), np.float32(attributes.pop("add_offset"))
        array = array.where(array != attributes.pop("_FillValue")).astype("float32") * scale + offset
    array.attrs, array.encoding = attributes, {"grid_mapping": "spatial_ref"}
    is_float = array.dtype.kind == "f"
    return cast("xr.DataArray", array.rio.write_nodata(np.nan)) if is_float else array
