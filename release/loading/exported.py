"""An export opened: its chips at random, as samples ask a release for them."""

from __future__ import annotations

import json
import re
import tarfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cube.run.storage import Folder, open_folder
from release.opening.faults import UNREADABLE, ReleaseError, first_line
from release.opening.files import EXPORT_NAME
from release.statistics import STATISTICS_NAME

from .normalising import read_statistics
from .stores import PixelStore, TerrameshStore, TerratorchStore, WebdatasetStore, ZarrStore

_STORES: dict[str, type[PixelStore]] = {
    "webdataset": WebdatasetStore,
    "zarr": ZarrStore,
    "terratorch": TerratorchStore,
    "terramesh": TerrameshStore,
}
_DECIBELS = "terramesh"
"""The format whose backscatter is in dB."""
_TAR = re.compile(r"(?P<home>.*)/[^/]+/(?P<split>[^/]+)-(?P<number>\d{6})\.tar")


class ExportedChips:
    """An export, opened; has what samples ask a release for. Travels to worker processes.

    Parameters
    ----------
    path
        The export's folder, or one tar of an export to webdataset.

    Raises
    ------
    ReleaseError
        If it is no whole export, or of a format that is not read at random.
    """

    def __init__(self, path: str | Path | Folder) -> None:
        self.path = path
        tar = _TAR.fullmatch(str(path))
        self._folder = open_folder(tar["home"] if tar else path)
        try:
            about = json.loads(self._folder.read(EXPORT_NAME))
            self._format = str(about["format"])
            self._layers = {layer["key"]: layer for layer in about["layers"]}
            self._masks = {key: dict(layer["masks"]) for key, layer in self._layers.items()}
            self._codes = [int(code) for code in about["classes"]]
            self.class_names = [str(name) for name in about["classes"].values()]
            if tar:
                wanted = (tar["split"], int(tar["number"]))
                about["shards"] = [one for one in about["shards"] if (one["split"], one["number"]) == wanted]
            self._chips = {chip.id: chip for shard in about["shards"] for chip in _chips_of(shard)}
        except UNREADABLE as error:
            raise ReleaseError(f"{path}: {EXPORT_NAME} cannot be read ({first_line(error)})") from None
        if self._format not in _STORES:
            raise ReleaseError(
                f"{path}: is an export to {self._format}, which is not read at random; its own reader opens it, "
                f"and here releases and exports to {', '.join(_STORES)} are opened"
            )
        if not self._folder.exists("SHA256SUMS"):
            raise ReleaseError(f"{path}: the export is unfinished; run gelos-lc export to the end")
        self._store = _STORES[self._format](self._folder, about)

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

    @property
    def splits(self) -> tuple[str, ...]:
        """Splits that chips are in, in the order of the export."""
        return tuple(dict.fromkeys(chip.split for chip in self._chips.values()))

    def nodata(self, sensor: str) -> float | None:
        """Return the value that a sensor's rasters set aside for no data; None: none."""
        self.band_indexes(sensor)
        value = self._layers[sensor]["nodata"]
        return None if value is None else float(value)

    def image_bands(self, sensor: str, bands: Sequence[str] = ()) -> tuple[str, ...]:
        """Return the bands of a sample's image: those named, or all but masks."""
        self.band_indexes(sensor, bands)
        there = [name for name in self._layers[sensor]["bands"] if name not in self._masks[sensor]]
        return tuple(bands or there)

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
        found = [chip.id for chip in self._chips.values() if split in (None, chip.split)]
        if not found:
            raise ReleaseError(f"no chip in split {split!r}; the export has {', '.join(self.splits)}")
        return found

    def labels_of(self, ids: Sequence[int]) -> list[int]:
        """Return the positions of chips' classes among the classes."""
        return [self._chips[chip_id].label for chip_id in ids]

    def read_file(self, name: str) -> bytes:
        """Read a file of the export."""
        try:
            return self._folder.read(name)
        except OSError as error:
            raise ReleaseError(f"{self.path}: {name} cannot be read ({first_line(error)})") from None

    def statistics(self) -> dict[str, Any]:
        """Read ``statistics.json``, in the units of the export."""
        found = read_statistics(self.path, self.read_file(STATISTICS_NAME))
        for sensor in found["sensors"].values() if self._format == _DECIBELS else ():
            sensor["bands"] = {name: one | one.get("decibels", {}) for name, one in sensor["bands"].items()}
        return found

    def sample(
        self, chip_id: int, sensors: Sequence[str], bands: Mapping[str, Sequence[str]]
    ) -> dict[str, Any]:
        """Read a chip as a sample dict of plain arrays; see :func:`release.chip_arrays`."""
        if chip_id not in self._chips:
            raise ReleaseError(f"no chip {chip_id} in this export")
        try:
            pixels = self._store.read(chip_id, sensors)
        except (tarfile.TarError, zipfile.BadZipFile, *UNREADABLE) as error:
            raise ReleaseError(
                f"{self.path}: chip {chip_id} cannot be read ({first_line(error)}); export it again"
            ) from None
        found: dict[str, Any] = {}
        for sensor in sensors:
            names, masks = self.image_bands(sensor, bands.get(sensor, ())), self._masks[sensor]
            own = pixels[sensor]
            is_all = list(names) == self._layers[sensor]["bands"]
            found[f"image_{sensor}"] = own if is_all else own[:, self._places(sensor, names)]
            for name, dtype in list(masks.items())[:1]:
                found[f"mask_{sensor}"] = own[:, self._places(sensor, [name])[0]].astype(dtype)
        chip = self._chips[chip_id]
        found |= {"label": chip.label, "lulc": self._codes[chip.label], "id": int(chip_id)}
        return found | {"crs": f"EPSG:{chip.epsg}", "bounds": chip.bounds}

    def _places(self, sensor: str, bands: Sequence[str]) -> list[int]:
        return [index - 1 for index in self.band_indexes(sensor, bands)]


@dataclass(frozen=True, slots=True)
class _Chip:
    """What a sample tells beside its pixels."""

    id: int
    split: str
    label: int
    epsg: int
    bounds: tuple[int, ...]


def _chips_of(shard: Mapping[str, Any]) -> Iterator[_Chip]:
    columns = (shard[name] for name in ("ids", "splits", "labels", "epsg", "bounds"))
    for chip_id, split, label, epsg, bounds in zip(*columns, strict=True):
        yield _Chip(int(chip_id), str(split), int(label), int(epsg), tuple(map(int, bounds)))
