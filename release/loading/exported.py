"""Chips of an export, at random: from WebDataset's tars or from Zarr, without their frameworks."""

from __future__ import annotations

import ast
import io
import json
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cube.run.storage import Folder, open_folder
from release.opening.faults import UNREADABLE, ReleaseError, first_line

from .shards import ShardedSamples

EXPORT_NAME = "export.json"
"""What an export was made of and as."""
STORE_NAME = "chips.zarr"
"""The store of an export to zarr."""
_FORMATS = ("webdataset", "zarr")
_NPY_HEAD = 10
"""Bytes before the header of an array in version 1 of numpy's format."""


class ExportedChips:
    """An export, opened; has what samples ask a release for. Travels to worker processes.

    Parameters
    ----------
    path
        The export's folder.

    Raises
    ------
    ReleaseError
        If it is no whole export, or of a format whose own reader is to be used.
    """

    def __init__(self, path: str | Path | Folder) -> None:
        self.path = path
        self._folder = open_folder(path)
        try:
            about = json.loads(self._folder.read(EXPORT_NAME))
            self._format = str(about["format"])
            self._layers = {layer["key"]: layer for layer in about["layers"]}
            self._shards = [(one["split"], one["number"], one["ids"]) for one in about["shards"]]
            self._codes = [int(code) for code in about["classes"]]
        except UNREADABLE as error:
            raise ReleaseError(f"{path}: {EXPORT_NAME} cannot be read ({first_line(error)})") from None
        if self._format not in _FORMATS:
            raise ReleaseError(
                f"{path}: is an export to {self._format}, which its own reader opens; here can be opened "
                f"releases and exports to {', '.join(_FORMATS)}"
            )
        if not self._folder.exists("SHA256SUMS"):
            raise ReleaseError(f"{path}: the export is unfinished; run gelos-lc export to the end")

    def __getstate__(self) -> dict[str, Any]:
        """Leave open files behind."""
        return {"path": self.path}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        """Open the export again, in another process."""
        self.__init__(state["path"])  # type: ignore[misc]

    @property
    def sensors(self) -> tuple[str, ...]:
        """Sensors that the samples have."""
        return tuple(self._layers)

    def band_indexes(self, sensor: str, bands: Sequence[str] = ()) -> list[int]:
        """Return the places of bands, from 1; empty: of all."""
        if sensor not in self._layers:
            raise ReleaseError(f"no sensor {sensor!r} in this export; it has {', '.join(self.sensors)}")
        there = self._layers[sensor]["bands"]
        if unknown := [band for band in bands if band not in there]:
            raise ReleaseError(f"{sensor} has no band {unknown[0]!r}; it has {', '.join(there)}")
        return [there.index(band) + 1 for band in bands or there]

    def ids_of(self, split: str | None) -> list[int]:
        """Return the ids of a split's chips; None: of all."""
        own = self._zarr_ids() if self._format == "zarr" else [(one, ids) for one, _, ids in self._shards]
        found = [int(chip_id) for name, ids in own if split in (None, name) for chip_id in ids]
        if not found:
            there = ", ".join(dict.fromkeys(name for name, _ in own))
            raise ReleaseError(f"no chip in split {split!r}; the export has {there}")
        return found

    def sample(
        self, chip_id: int, sensors: Sequence[str], bands: Mapping[str, Sequence[str]]
    ) -> dict[str, Any]:
        """Read a chip as a sample dict of plain arrays."""
        read = self._read_zarr if self._format == "zarr" else self._read_tar
        pixels, facts = read(chip_id, sensors)
        found: dict[str, Any] = {}
        for sensor in sensors:
            wanted = bands.get(sensor, ())
            places = [index - 1 for index in self.band_indexes(sensor, wanted)]
            found[f"image_{sensor}"] = pixels[sensor][:, places] if wanted else pixels[sensor]
        found |= {"label": int(facts["label"]), "lulc": int(facts["lulc_code"]), "id": int(chip_id)}
        return found | {"crs": f"EPSG:{facts['epsg']}", "bounds": tuple(map(int, facts["bounds"]))}

    @cached_property
    def _entries(self) -> dict[int, dict[str, tuple[str, int, int]]]:
        """Where each chip's files lie: tar, offset and size, by kind."""
        found: dict[int, dict[str, tuple[str, int, int]]] = {}
        for split, number, _ in self._shards:
            name = f"{split}/{split}-{number:06}.tar"
            with self._folder.open(name) as file, tarfile.open(fileobj=file) as archive:
                for entry in archive:
                    stem, _, kind = entry.name.partition(".")
                    found.setdefault(int(stem), {})[kind] = (name, entry.offset_data, entry.size)
        return found

    def _read_tar(
        self, chip_id: int, sensors: Sequence[str]
    ) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        if chip_id not in self._entries:
            raise ReleaseError(f"no chip {chip_id} in this export")
        own = self._entries[chip_id]
        facts = json.loads(self._folder.read_range(*own["json"]))
        return _arrays_of(self._folder.read_range(*own["npz"]), sensors), facts

    @cached_property
    def _root(self) -> Any:
        import zarr

        return zarr.open_group(self._folder.zarr_store(STORE_NAME, read_only=True), mode="r")

    @cached_property
    def _columns(self) -> dict[str, NDArray[Any]]:
        names = ("id", "label", "lulc_code", "epsg", "bounds", "split")
        return {name: self._root[name][...] for name in names}

    @cached_property
    def _images(self) -> dict[str, ShardedSamples]:
        return {key: ShardedSamples(self._folder / STORE_NAME / key / "image") for key in self._layers}

    @cached_property
    def _places(self) -> dict[int, int]:
        return {int(chip_id): place for place, chip_id in enumerate(self._columns["id"])}

    def _zarr_ids(self) -> list[tuple[str, list[int]]]:
        splits = self._root.attrs["split_names"]
        ids, numbers = self._columns["id"], self._columns["split"]
        return [(name, ids[numbers == place].tolist()) for place, name in enumerate(splits)]

    def _read_zarr(
        self, chip_id: int, sensors: Sequence[str]
    ) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        if chip_id not in self._places:
            raise ReleaseError(f"no chip {chip_id} in this export")
        place = self._places[chip_id]
        facts = {name: values[place] for name, values in self._columns.items()}
        return {key: self._images[key][place] for key in sensors}, facts


def _arrays_of(data: bytes, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Return arrays of an npz that is not deflated, without a copy of a number."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: _array_at(data, archive.getinfo(f"{name}.npy")) for name in names}


def _array_at(data: bytes, entry: zipfile.ZipInfo) -> NDArray[Any]:
    names = int.from_bytes(data[entry.header_offset + 26 : entry.header_offset + 28], "little")
    extra = int.from_bytes(data[entry.header_offset + 28 : entry.header_offset + 30], "little")
    start = entry.header_offset + 30 + names + extra
    head = int.from_bytes(data[start + 8 : start + _NPY_HEAD], "little")
    about = ast.literal_eval(data[start + _NPY_HEAD : start + _NPY_HEAD + head].decode("latin1"))
    shape = about["shape"]
    values = np.frombuffer(data, about["descr"], int(np.prod(shape)), start + _NPY_HEAD + head)
    return values.reshape(shape)
