"""Export: chosen windows become folders of GeoTIFFs and pictures, whole or not at all.

Windows are taken chunk by chunk of the cube: the chunks under a group of windows are read once, all
dates and bands, and every chip of the group is cut from them in memory. Groups run in parallel; a
group's memory does not depend on the cube's extent.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from affine import Affine

from cube.config.models import Config
from cube.config.sensors import Sensor
from cube.pixels.rendering import RENDERING_VERSION, encode_png, render
from cube.run.storage import Folder, write_folder
from cube.scenes.plan import canonical_json
from cube.store.sealed import CubeInfo, SensorInfo, open_arrays, reading
from cube.windows.grid import CHUNK_M, Bounds
from cube.windows.lattice import WindowGeometry

from .geotiff import Array, Compression, RasterSettings, encode_tiff, gdal_tags, raster_settings, to_exported

CHIP_RECORD = "chip.json"
"""Written last; its presence means that the chip is whole."""
_EXPORT_VERSION = 3
"""Of the files in a chip's folder; chips with another are made again."""


@dataclass(frozen=True)
class ExportSettings:
    """Everything that a chip's bytes depend on beside the cube and the window's place."""

    sample_m: int
    chip_m: int
    rasters: tuple[RasterSettings, ...]
    compress: Compression

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the settings: chips that carry it need not be written again."""
        record = {
            "version": _EXPORT_VERSION,
            "thumbnails": RENDERING_VERSION,
            "sample_m": self.sample_m,
            "chip_m": self.chip_m,
            "compress": self.compress,
            "rasters": [
                {
                    "sensor": _sensor_record(raster.sensor, raster.bands),
                    "bands": raster.bands,
                    "dtype": raster.dtype,
                    "nodata": str(raster.nodata),
                }
                for raster in self.rasters
            ],
        }
        return hashlib.sha256(canonical_json(record)).hexdigest()


def _sensor_record(sensor: Sensor, bands: Iterable[str]) -> dict[str, Any]:
    """Return what a sensor's row, which may be a config's own, adds to its chips."""
    return {
        "key": sensor.key,
        "title": sensor.title,
        "attribution": sensor.attribution,
        "true_color": sensor.true_color,
        "bands": [
            (band.kind, band.units, band.scale, band.offset, str(band.nodata))
            for band in map(sensor.band, bands)
        ],
    }


def export_settings(config: Config) -> ExportSettings:
    """Return how a config wants chips written.

    Raises
    ------
    ConfigError
        If a dtype cannot hold its sensor's nodata.
    """
    rasters = tuple(
        raster_settings(config.table[key], settings, config.chip_bands(key))
        for key, settings in config.sensors.items()
    )
    return ExportSettings(config.chips.sample_size, config.chips.chip_size, rasters, config.chips.compress)


@dataclass(frozen=True)
class ChipWindow:
    """A window that was chosen."""

    cell: str
    left_m: int
    top_m: int
    lulc: int
    purity: float


@dataclass(frozen=True)
class ExportTask:
    """Chosen windows of one cube that lie on the same chunks; travels to workers."""

    cubes: Folder
    chips: Folder
    cube: CubeInfo
    settings: ExportSettings
    windows: tuple[ChipWindow, ...]
    verify: bool = False
    """True: a chip that is already there is kept only if its files are what its record says."""


@dataclass(frozen=True)
class ExportResult:
    """What became of a task's windows."""

    written: int
    kept: int


def group_windows(cube: Bounds, windows: Iterable[ChipWindow]) -> Iterator[tuple[ChipWindow, ...]]:
    """Yield windows together that begin on the same chunk of a cube with these bounds, in order."""
    groups: dict[tuple[int, int], list[ChipWindow]] = {}
    for window in windows:
        place = (cube.top - window.top_m) // CHUNK_M, (window.left_m - cube.left) // CHUNK_M
        groups.setdefault(place, []).append(window)
    for _, group in sorted(groups.items()):
        yield tuple(group)


def export_chips(task: ExportTask) -> ExportResult:
    """Write those chips of a task that are not there yet with the same cube and settings."""
    due = [window for window in task.windows if not _is_kept(task, window)]
    if due:
        geometry = WindowGeometry(task.settings.sample_m, task.settings.chip_m, task.settings.sample_m)
        chips = [geometry.bounds("chip", window.left_m, window.top_m) for window in due]
        patch = _read_patch(task, _bounds_of_all(chips))
        for window, bounds in zip(due, chips, strict=True):
            files = _chip_files(task, patch, bounds)
            sample = geometry.bounds("sample", window.left_m, window.top_m)
            files[CHIP_RECORD] = _chip_record(task, window, bounds, sample, files)
            write_folder(task.chips, window.cell, files, CHIP_RECORD, sync=False)
    return ExportResult(len(due), len(task.windows) - len(due))


def _is_kept(task: ExportTask, window: ChipWindow) -> bool:
    folder = task.chips / window.cell
    try:
        record = json.loads(folder.read(CHIP_RECORD))
    except (FileNotFoundError, ValueError):
        return False
    if not isinstance(record, dict):
        return False
    expected = {
        "aoi_index": task.cube.aoi_index,
        "cube": task.cube.content_sha256,
        "export": task.settings.digest,
    }
    if any(record.get(name) != value for name, value in expected.items()):
        return False
    sizes = folder.sizes()
    sizes.pop(CHIP_RECORD, None)
    if sizes != record.get("sizes"):
        return False
    return not task.verify or _is_whole(folder, record.get("files"))


def _is_whole(folder: Folder, digests: object) -> bool:
    if not isinstance(digests, dict):
        return False
    try:
        return all(_sha256(folder.read(name)) == digest for name, digest in digests.items())
    except FileNotFoundError:
        return False


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _bounds_of_all(boxes: Sequence[Bounds]) -> Bounds:
    return Bounds(
        min(box.left for box in boxes),
        min(box.bottom for box in boxes),
        max(box.right for box in boxes),
        max(box.top for box in boxes),
    )


@dataclass(frozen=True)
class _Layers:
    """All exported bands of one sensor over a patch of the cube."""

    info: SensorInfo
    settings: RasterSettings
    raw: Mapping[str, Array]
    """By band, ``(date, y, x)``, as in the cube."""
    exported: Array
    """``(date, band, y, x)``, as in the files."""


@dataclass(frozen=True)
class _Patch:
    bounds: Bounds
    sensors: Mapping[str, _Layers]

    def roi(self, bounds: Bounds, resolution: int) -> tuple[slice, slice]:
        """Return the ``(y, x)`` pixels of a box."""
        row = (self.bounds.top - bounds.top) // resolution
        col = (bounds.left - self.bounds.left) // resolution
        return (
            slice(row, row + bounds.height // resolution),
            slice(col, col + bounds.width // resolution),
        )


def _read_patch(task: ExportTask, bounds: Bounds) -> _Patch:
    root = open_arrays(task.cubes, task.cube.name)
    cube = _Patch(task.cube.bounds, {})
    sensors = {}
    for settings in task.settings.rasters:
        key, sensor = settings.sensor.key, settings.sensor
        info = task.cube.sensors[key]
        roi = cube.roi(bounds, info.resolution)
        raw = {name: _read_band(root, task.cube, f"{key}/{name}", roi) for name in settings.bands}
        bands = [sensor.band(name) for name in settings.bands]
        dates, height, width = raw[settings.bands[0]].shape
        exported = np.empty((dates, len(bands), height, width), settings.dtype)
        for index, band in enumerate(bands):
            exported[:, index] = to_exported(raw[band.name], band, settings)
        sensors[key] = _Layers(info, settings, raw, exported)
    return _Patch(bounds, sensors)


def _read_band(root: Any, cube: CubeInfo, path: str, roi: tuple[slice, slice]) -> Array:
    with reading(cube.aoi_label, path):
        values: Array = np.asarray(root[path][(..., *roi)])
    return values if values.ndim == 3 else values[np.newaxis]


def _chip_files(task: ExportTask, patch: _Patch, bounds: Bounds) -> dict[str, bytes]:
    """Return the GeoTIFFs and pictures of one chip, by name."""
    files = {}
    for key, layers in patch.sensors.items():
        sensor = layers.settings.sensor
        roi = patch.roi(bounds, layers.info.resolution)
        resolution = layers.info.resolution
        transform = Affine(resolution, 0, bounds.left, 0, -resolution, bounds.top)
        for index, date in enumerate(layers.info.dates):
            name = key if sensor.is_static else f"{key}_{date}"
            values = np.ascontiguousarray(layers.exported[(index, slice(None), *roi)])
            tags = gdal_tags(layers.settings, task.cube.epsg, tuple(_tags(layers, index).items()))
            files[f"{name}.tif"] = encode_tiff(values, tags, transform, task.settings.compress)
            if not sensor.is_static:
                bands = {band: values[(index, *roi)] for band, values in layers.raw.items()}
                files[f"{name}.png"] = encode_png(render(sensor, bands))
    return files


def _tags(layers: _Layers, index: int) -> dict[str, str]:
    sensor = layers.settings.sensor
    return {
        "scene_ids": layers.info.scene_ids[index],
        "datetime": layers.info.times[index].isoformat().replace("+00:00", "Z"),
        "units": ",".join(sorted({sensor.band(name).units for name in layers.settings.bands})),
        "sensor": sensor.title,
        "attribution": sensor.attribution,
    }


def _chip_record(
    task: ExportTask, window: ChipWindow, chip: Bounds, sample: Bounds, files: Mapping[str, bytes]
) -> bytes:
    record = {
        "cell": window.cell,
        "aoi_index": task.cube.aoi_index,
        "epsg": task.cube.epsg,
        "bounds": [chip.left, chip.bottom, chip.right, chip.top],
        "sample_bounds": [sample.left, sample.bottom, sample.right, sample.top],
        "lulc": window.lulc,
        "purity": window.purity,
        "sensors": {
            raster.sensor.key: {
                "dates": () if raster.sensor.is_static else task.cube.sensors[raster.sensor.key].dates,
                "scene_ids": task.cube.sensors[raster.sensor.key].scene_ids,
            }
            for raster in task.settings.rasters
        },
        "cube": task.cube.content_sha256,
        "recipe": task.cube.recipe_sha256,
        "export": task.settings.digest,
        "files": {name: _sha256(data) for name, data in sorted(files.items())},
        "sizes": {name: len(data) for name, data in sorted(files.items())},
    }
    return json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False).encode()
