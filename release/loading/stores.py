"""Where exports keep the pixels of a chip, read at random and without their frameworks."""

from __future__ import annotations

import ast
import io
import json
import re
import tarfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numcodecs import Blosc
from numpy.typing import NDArray

from cube.run.storage import Folder
from release.recipe import RasterSpec

from .rasters import decode_raster
from .shards import ShardedSamples

STORE_NAME = "chips.zarr"
"""The store of an export to zarr."""
TERRATORCH_DATA = "chips"
"""Folder of all samples of an export to terratorch, and of nothing else: TerraTorch takes every
folder in it for a class."""
_NPY_HEAD = 10
"""Bytes before the header of an array in version 1 of numpy's format."""

Pixels = dict[str, NDArray[Any]]
"""By sensor, ``(time, band, height, width)``."""
Entry = tuple[str, int, int]
"""Where a file lies in a tar: the tar, offset and size."""


class PixelStore(Protocol):
    """What reads the pixels of one format, chip by chip, in any order.

    Parameters
    ----------
    folder
        Of the export.
    about
        Its ``export.json``.
    """

    def __init__(self, folder: Folder, about: Mapping[str, Any]) -> None: ...

    def read(self, chip_id: int, sensors: Sequence[str]) -> Pixels:
        """Read a chip that is there."""
        ...


class WebdatasetStore:
    """Tars of ``{id}.npz``."""

    def __init__(self, folder: Folder, about: Mapping[str, Any]) -> None:
        self._folder, self._shards = folder, about["shards"]

    @cached_property
    def _entries(self) -> dict[str, Entry]:
        names = [f"{one['split']}/{one['split']}-{one['number']:06}.tar" for one in self._shards]
        return {entry: place for name in names for entry, place in _tar_entries(self._folder, name)}

    def read(self, chip_id: int, sensors: Sequence[str]) -> Pixels:
        """Read a chip's npz."""
        return _arrays_of(self._folder.read_range(*self._entries[f"{chip_id:06}.npz"]), sensors)


class ZarrStore:
    """One sharded Zarr, whose chunks are samples, in the order of shards."""

    def __init__(self, folder: Folder, about: Mapping[str, Any]) -> None:
        ids = [int(chip_id) for shard in about["shards"] for chip_id in shard["ids"]]
        self._places = {chip_id: place for place, chip_id in enumerate(ids)}
        self._folder, self._images = folder, dict[str, ShardedSamples]()

    def read(self, chip_id: int, sensors: Sequence[str]) -> Pixels:
        """Read a chip's chunks."""
        for key in sensors:
            if key not in self._images:
                self._images[key] = ShardedSamples(self._folder / STORE_NAME / key / "image")
        return {key: self._images[key][self._places[chip_id]] for key in sensors}


class TerratorchStore:
    """A GeoTIFF per sensor and date, in folders of classes."""

    def __init__(self, folder: Folder, about: Mapping[str, Any]) -> None:
        self._folder, self._names = folder, list(about["classes"].values())
        self._labels = {
            int(chip_id): int(label)
            for shard in about["shards"]
            for chip_id, label in zip(shard["ids"], shard["labels"], strict=True)
        }
        self._dates = {layer["key"]: len(layer["dates"]) for layer in about["layers"]}
        self._specs = {layer["key"]: _raster_spec(layer) for layer in about["layers"]}

    def read(self, chip_id: int, sensors: Sequence[str]) -> Pixels:
        """Read a chip's files."""
        return {key: np.stack([*self._dates_of(chip_id, key)]) for key in sensors}

    def _dates_of(self, chip_id: int, key: str) -> Iterator[NDArray[Any]]:
        label = self._labels[chip_id]
        for date in range(self._dates[key]):
            folder, name = terratorch_sample(label, self._names[label], chip_id, date)
            path = f"{TERRATORCH_DATA}/{folder}{name}_{key}.tif"
            yield decode_raster(path, self._folder.read(path), self._specs[key])


class TerrameshStore:
    """Tars of a zipped Zarr per date, one tar for each sensor; in TerraMesh's units."""

    def __init__(self, folder: Folder, about: Mapping[str, Any]) -> None:
        self._folder, self._shards = folder, about["shards"]
        self._dates = {layer["key"]: len(layer["dates"]) for layer in about["layers"]}

    @cached_property
    def _entries(self) -> dict[str, dict[str, Entry]]:
        return {
            key: {
                entry: place
                for one in self._shards
                for entry, place in _tar_entries(
                    self._folder, f"{one['split']}/{key.upper()}/majortom_shard_{one['number'] + 1:06}.tar"
                )
            }
            for key in self._dates
        }

    def read(self, chip_id: int, sensors: Sequence[str]) -> Pixels:
        """Read a chip's samples."""
        return {
            key: np.concatenate(
                [
                    _zarr_bands(self._folder.read_range(*self._entries[key][f"{chip_id:06}_{date}.zarr.zip"]))
                    for date in range(self._dates[key])
                ]
            )
            for key in sensors
        }


def terratorch_sample(label: int, class_name: str, chip_id: int, date: int) -> tuple[str, str]:
    """Return a sample's folder, below that of all, and how names of files in it begin."""
    kind, name = re.sub(r"\W+", "_", class_name), f"chip{chip_id:06}_{date}"
    return f"{label:02}_{kind}/{name}/", name


def _raster_spec(layer: Mapping[str, Any]) -> RasterSpec:
    nodata = None if layer["nodata"] is None else float(layer["nodata"])
    return RasterSpec(tuple(layer["bands"]), layer["dtype"], nodata, 0, int(layer["size_px"]), (), None)


def _tar_entries(folder: Folder, name: str) -> Iterator[tuple[str, Entry]]:
    with folder.open(name) as file, tarfile.open(fileobj=file) as archive:
        for entry in archive:
            yield entry.name, (name, entry.offset_data, entry.size)


def _zarr_bands(data: bytes) -> NDArray[Any]:
    """Return ``bands`` of a zipped Zarr of one chunk, ``(1, band, height, width)``."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        about, chunk = json.loads(archive.read("bands/.zarray")), archive.read("bands/0.0.0.0")
    return np.frombuffer(Blosc().decode(chunk), about["dtype"]).reshape(about["shape"])


def _arrays_of(data: bytes, names: Sequence[str]) -> Pixels:
    """Return arrays of an npz that is not deflated, without a copy of a number."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: _array_at(data, archive.getinfo(f"{name}.npy")) for name in names}


def _array_at(data: bytes, entry: zipfile.ZipInfo) -> NDArray[Any]:
    start = _content_start(data, entry.header_offset)
    head = int.from_bytes(data[start + 8 : start + _NPY_HEAD], "little")
    about = ast.literal_eval(data[start + _NPY_HEAD : start + _NPY_HEAD + head].decode("latin1"))
    shape = about["shape"]
    values = np.frombuffer(data, about["descr"], int(np.prod(shape)), start + _NPY_HEAD + head)
    return values.reshape(shape)


def _content_start(data: bytes, offset: int) -> int:
    """Return where a zip's entry has its content."""
    names = int.from_bytes(data[offset + 26 : offset + 28], "little")
    extra = int.from_bytes(data[offset + 28 : offset + 30], "little")
    return offset + 30 + names + extra
