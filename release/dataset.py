"""A release in memory: its table, its chips as lazy xarray, and a torch dataset of them."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from rasterio.errors import RasterioError
from rasterio.io import MemoryFile
from rasterio.transform import from_origin

from chipping.views import parse_views
from cube.run.forks import survive_forks
from cube.run.storage import Folder
from cube.windows.grid import Bounds

from .opening.checksums import MIN_SUMS_LINE_BYTES, SUMS_NAME
from .opening.faults import ReleaseError, first_line
from .opening.files import open_files
from .opening.limits import MOST_BYTES
from .opening.table import read_parquet
from .recipe import RECIPE_NAME, RasterSpec, Recipe, parse_recipe
from .select import dates_fit
from .tracker import PARQUET_NAME, image_names
from .verify.tracker import table_problems

Sample = dict[str, Any]
_MOST_RECIPE_BYTES = 1 << 26
_MOST_SUMS_BYTES = 1 << 28
"""What two million files take."""
_WIDER_DTYPES = {"uint16": "int32", "uint32": "int64"}
"""dtypes that torch can hardly compute with, and the next wider one."""


class Release:
    """A release, opened: a table, and pixels when they are asked for. Travels to worker processes.

    Parameters
    ----------
    path
        The release's folder or its zip.
    """

    def __init__(self, path: str | Path | Folder) -> None:
        survive_forks()
        self.path = path
        self._files = open_files(path)
        self.recipe: Recipe = parse_recipe(self._read(RECIPE_NAME, _MOST_RECIPE_BYTES))
        lines = io.BytesIO(self._read(SUMS_NAME, _MOST_SUMS_BYTES))
        most_chips = sum(len(line) >= MIN_SUMS_LINE_BYTES for line in lines)  # each has several
        self.table: gpd.GeoDataFrame = _read_table(self.read_file(PARQUET_NAME), most_chips, self.recipe)

    def __getstate__(self) -> dict[str, Any]:
        """Leave open files behind."""
        return {"path": self.path}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        """Open the release again, in another process."""
        self.__init__(state["path"])  # type: ignore[misc]

    def __len__(self) -> int:
        """Return how many chips there are."""
        return len(self.table)

    @property
    def sensors(self) -> tuple[str, ...]:
        """Sensors that the chips have."""
        return tuple(self.recipe.rasters)

    def bounds(self, chip_id: int) -> Bounds:
        """Return the chip's box in its UTM zone, metres."""
        return self.recipe.bounds(self.row(chip_id))

    def row(self, chip_id: int) -> Mapping[str, Any]:
        """Return the chip's row of the table."""
        if chip_id not in self.table.index:
            raise ReleaseError(f"no chip {chip_id} in this release; it has 0 to {len(self) - 1}")
        found: Mapping[str, Any] = self.table.loc[chip_id].to_dict()
        return found

    def paths(self, chip_id: int, sensor: str) -> list[str]:
        """Return the names of a sensor's rasters, one per date."""
        self._raster_spec(sensor)
        row = self.row(chip_id)
        if sensor in self.recipe.series and not dates_fit(row[f"{sensor}_dates"], self.recipe.ranges):
            raise ReleaseError(
                f"chip {chip_id}: {sensor}_dates {row[f'{sensor}_dates']!r} are not one per time range; "
                "verify the release"
            )
        names = image_names(row, sensor, self.recipe)
        if row[f"{sensor}_paths"] != ",".join(names):
            raise ReleaseError(
                f"chip {chip_id}: {sensor}_paths is {row[f'{sensor}_paths']!r}, expected {','.join(names)!r}; "
                "verify the release"
            )
        return names

    def read(self, chip_id: int, sensor: str, bands: Sequence[str] = ()) -> NDArray[Any]:
        """Read a sensor's pixels.

        Parameters
        ----------
        chip_id
            ``id`` of the chip.
        sensor
            Such as ``s2l2a``.
        bands
            Names, in the order wanted; empty: all.

        Returns
        -------
        ndarray
            ``(time, band, height, width)``, as stored; nodata is not masked.
        """
        indexes, spec = self.band_indexes(sensor, bands), self._raster_spec(sensor)
        return np.stack(
            [_decode(name, self.read_file(name), indexes, spec) for name in self.paths(chip_id, sensor)]
        )

    def _raster_spec(self, sensor: str) -> RasterSpec:
        if sensor not in self.recipe.rasters:
            raise ReleaseError(f"no sensor {sensor!r} in this release; it has {', '.join(self.sensors)}")
        return self.recipe.rasters[sensor]

    def read_file(self, name: str) -> bytes:
        """Read a file of the release."""
        return self._read(name, MOST_BYTES)

    def _read(self, name: str, most: int) -> bytes:
        try:
            return self._files.read(name, most)
        except MemoryError:
            raise ReleaseError(f"{self.path}: {name} does not fit into memory") from None
        except FileNotFoundError:
            raise ReleaseError(
                f"{self.path}: {name} is missing; this is no release, or not all of it"
            ) from None
        except OSError as error:
            raise ReleaseError(f"{self.path}: {name} {error}; verify the release") from None

    def band_indexes(self, sensor: str, bands: Sequence[str] = ()) -> list[int]:
        """Return the places of bands in a sensor's rasters, from 1; empty: of all."""
        there = self._raster_spec(sensor).bands
        if unknown := [band for band in bands if band not in there]:
            raise ReleaseError(f"{sensor} has no band {unknown[0]!r}; it has {', '.join(there)}")
        return [there.index(band) + 1 for band in bands or there]

    def chip(self, chip_id: int) -> dict[str, xr.DataArray]:
        """Open a chip lazily.

        Returns
        -------
        dict
            By sensor: ``(time, band, y, x)``, or ``(band, y, x)`` without dates; read when
            computed. ``.rio`` knows the CRS and the transform, which stay through arithmetic, and
            the value that the files set aside for no data, which does not (pixels are as stored).
            ``attrs`` holds ``crs``, ``nodata`` and ``scene_ids``. Along ``time`` lies what
            :meth:`acquisitions` tells of each date. Masks, where the release has them, are the last
            bands.
        """
        return {sensor: self._open_lazily(chip_id, sensor) for sensor in self.sensors}

    def acquisitions(self, chip_id: int) -> pd.DataFrame:
        """Return how a chip's images were taken, a row per sensor and date.

        Returns
        -------
        DataFrame
            ``sensor``, ``date`` (datetime64), ``scene_ids``, ``orbit_state`` (text), and as floats
            ``sun_elevation``, ``sun_azimuth``, ``view_off_nadir``, ``view_incidence``,
            ``view_azimuth`` (degrees, of a mosaic's first scene) and ``cloud_share`` (of the sample
            window); NaN or empty where the scene's record, or the release, does not say.
        """
        row, parts = self.row(chip_id), []
        for sensor in self.recipe.series:
            facts: dict[str, Any] = {
                "sensor": sensor,
                "date": pd.to_datetime(row[f"{sensor}_dates"].split(","), format="%Y%m%d"),
                "scene_ids": row[f"{sensor}_scene_ids"].split(","),
            }
            parts.append(pd.DataFrame(facts | self._views(row, sensor)))
        return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()

    def _views(self, row: Mapping[str, Any], sensor: str) -> dict[str, list[Any]]:
        try:
            return parse_views(row, sensor, len(self.recipe.ranges))
        except ValueError as error:
            raise ReleaseError(f"chip {row['id']}: {sensor}: {error}; verify the release") from None

    def _open_lazily(self, chip_id: int, sensor: str) -> xr.DataArray:
        import dask.array
        import rioxarray  # noqa: F401  gives arrays their .rio
        from dask.delayed import delayed

        spec, bounds = self.recipe.rasters[sensor], self.bounds(chip_id)
        names, size = self.paths(chip_id, sensor), spec.size_px
        indexes = self.band_indexes(sensor)
        layers = [
            dask.array.from_delayed(
                delayed(_read_and_decode)(self, name, indexes, spec),
                (len(spec.bands), size, size),
                spec.dtype,
            )
            for name in names
        ]
        row, is_static = self.row(chip_id), self.recipe.table[sensor].is_static
        centres = (np.arange(size) + 0.5) * spec.resolution
        coords: dict[str, Any] = {
            "band": list(spec.bands),
            "y": bounds.top - centres,
            "x": bounds.left + centres,
        }
        if not is_static:
            dates = pd.to_datetime(row[f"{sensor}_dates"].split(","), format="%Y%m%d")
            coords["time"] = dates.to_numpy("datetime64[ns]")
            coords |= {name: ("time", found) for name, found in self._views(row, sensor).items()}
        attrs = {
            "crs": f"EPSG:{row['epsg']}",
            "nodata": spec.nodata,
            "scene_ids": row[f"{sensor}_scene_ids"],
        }
        stack = layers[0] if is_static else dask.array.concatenate([layer[np.newaxis] for layer in layers])
        dims = ("band", "y", "x") if is_static else ("time", "band", "y", "x")
        image: xr.DataArray = xr.DataArray(stack, coords, dims, sensor).rio.write_crs(row["epsg"])
        image = image.rio.write_transform(from_origin(bounds.left, bounds.top, *[spec.resolution] * 2))
        if spec.nodata is not None:
            image = image.rio.write_nodata(spec.nodata)
        return image.assign_attrs(attrs)


def _read_table(data: bytes, most_rows: int, recipe: Recipe) -> gpd.GeoDataFrame:
    try:
        table = read_parquet(data, most_rows)
    except ValueError as error:
        raise ReleaseError(f"{PARQUET_NAME}: cannot be read ({error}); verify the release") from None
    if problem := next(table_problems(table, recipe), None):
        raise ReleaseError(f"{PARQUET_NAME}: {problem}; verify the release")
    return table.set_index("id", drop=False)


def _read_and_decode(opened: Release, name: str, indexes: list[int], spec: RasterSpec) -> NDArray[Any]:
    return _decode(name, opened.read_file(name), indexes, spec)


def _decode(name: str, data: bytes, indexes: list[int], spec: RasterSpec) -> NDArray[Any]:
    if not data:  # rasterio would take it for a raster that is to be written
        raise ReleaseError(f"{name}: is empty; verify the release")
    try:
        with MemoryFile(data) as memory, memory.open(driver="GTiff") as raster:
            found = (raster.descriptions, raster.width, raster.height, set(raster.dtypes))
            expected = (spec.bands, spec.size_px, spec.size_px, {spec.dtype})
            is_right = found == expected and spec.allows_block(*raster.block_shapes[0])
            pixels: NDArray[Any] | None = raster.read(indexes) if is_right else None
    except (RasterioError, ValueError, MemoryError) as error:
        raise ReleaseError(f"{name}: cannot be read ({first_line(error)}); verify the release") from None
    if pixels is None:
        raise ReleaseError(f"{name}: is not what {RECIPE_NAME} says of it; verify the release")
    return pixels


def open_release(path: str | Path | Folder) -> Release:
    """Open a release folder or zip.

    Raises
    ------
    ReleaseError
        If there is none at `path`.
    """
    return Release(path)


def chip_arrays(
    opened: Release, chip_id: int, sensors: Sequence[str], bands: Mapping[str, Sequence[str]] | None = None
) -> Sample:
    """Return a chip as a sample dict of plain arrays, which :func:`torch_dataset` makes tensors of.

    Parameters
    ----------
    opened
        The release.
    chip_id
        ``id`` of the chip.
    sensors
        Which images the sample holds.
    bands
        Names of the bands wanted, by sensor; all but masks where a sensor is not named.

    Returns
    -------
    dict
        ``image_{sensor}`` ``(time, band, height, width)``; where the release has masks,
        ``mask_{sensor}`` ``(time, height, width)``, codes or bits as the archive has them;
        ``label``, the position of the class among the release's classes; ``lulc``, its code;
        ``id``; ``crs``, as text; ``bounds``, west, south, east, north in metres.
    """
    row = opened.row(chip_id)
    classes = sorted(opened.recipe.chips.classes)
    box = opened.bounds(chip_id)
    sample: Sample = {}
    for sensor in sensors:
        sample |= _images_and_mask(opened, chip_id, sensor, (bands or {}).get(sensor, ()))
    code = int(row["lulc"])
    sample |= {"label": classes.index(code), "lulc": code, "id": int(chip_id)}
    return sample | {"crs": f"EPSG:{row['epsg']}", "bounds": (box.left, box.bottom, box.right, box.top)}


def _images_and_mask(opened: Release, chip_id: int, sensor: str, bands: Sequence[str]) -> Sample:
    opened.band_indexes(sensor)
    wanted = tuple(bands) or opened.recipe.image_bands(sensor)
    masks = opened.recipe.mask_bands(sensor)
    pixels = opened.read(chip_id, sensor, (*wanted, *masks))
    found = {f"image_{sensor}": pixels[:, : len(wanted)]}
    if masks:
        stored = opened.recipe.table[sensor].band(masks[0]).dtype
        found[f"mask_{sensor}"] = pixels[:, len(wanted)].astype(stored)
    return found


@dataclass(frozen=True)
class ChipDataset:
    """Chips as samples of tensors: a map-style dataset, as torch's loaders take it."""

    release: Release
    ids: Sequence[int]
    """Of the chips, in the order of samples."""
    sensors: tuple[str, ...]
    bands: Mapping[str, Sequence[str]] | None = None
    transform: Callable[[Sample], Sample] | None = None

    def __len__(self) -> int:
        """Return how many samples there are."""
        return len(self.ids)

    def __getitem__(self, index: int) -> Sample:
        """Return sample `index`."""
        import torch

        sample = chip_arrays(self.release, self.ids[index], self.sensors, self.bands)
        arrays = {name: value for name, value in sample.items() if isinstance(value, np.ndarray)}
        for name, pixels in arrays.items():
            wider = _WIDER_DTYPES.get(str(pixels.dtype), pixels.dtype)
            sample[name] = torch.from_numpy(np.ascontiguousarray(pixels, dtype=wider))
        if len(self.sensors) == 1:
            for kind in ("image", "mask"):
                if f"{kind}_{self.sensors[0]}" in sample:
                    sample[kind] = sample[f"{kind}_{self.sensors[0]}"]
        sample["label"] = torch.tensor(sample["label"])
        sample["lulc"] = torch.tensor(sample["lulc"])
        sample["bounds"] = torch.tensor(sample["bounds"], dtype=torch.float64)
        return sample if self.transform is None else self.transform(sample)


def torch_dataset(
    path: str | Path | Folder | Release,
    sensors: Sequence[str] = ("s2l2a",),
    bands: Mapping[str, Sequence[str]] | None = None,
    split: str | None = None,
    transform: Callable[[Sample], Sample] | None = None,
) -> ChipDataset:
    """Return a map-style torch dataset in the sample-dict form that torchgeo uses.

    Parameters
    ----------
    path
        A release's folder, its zip, or what :func:`open_release` returned.
    sensors
        Which images a sample holds.
    bands
        Names of the bands wanted, by sensor; all but masks where a sensor is not named.
    split
        Only chips of this split; None: all.
    transform
        Called with every sample.

    Returns
    -------
    ChipDataset
        For ``torch.utils.data.DataLoader``. Samples hold ``image_{sensor}`` tensors
        ``(time, band, height, width)`` (and ``image``, the same tensor, where one sensor is asked
        for; ``mask_{sensor}`` and ``mask`` where the release has masks), ``label`` (position among
        the release's classes, sorted by code), ``lulc``, ``id``, ``crs`` (text) and ``bounds`` (a
        tensor: west, south, east, north, metres).

    Raises
    ------
    ReleaseError
        If a sensor, band or split is not there, or torch is not installed.
    """
    opened = path if isinstance(path, Release) else Release(path)
    ids = _ids_of_split(opened, split)
    for sensor in sensors:
        opened.band_indexes(sensor, (bands or {}).get(sensor, ()))
    if importlib.util.find_spec("torch") is None:
        raise ReleaseError("torch_dataset needs torch: install the extra gelos-lc[torch]")
    return ChipDataset(opened, ids, tuple(sensors), bands, transform)


def _ids_of_split(opened: Release, split: str | None) -> list[int]:
    table = opened.table
    chosen = table if split is None else table[table["split"] == split]
    if chosen.empty:
        there = ", ".join(sorted(set(table["split"]) - {""})) or "no splits"
        raise ReleaseError(f"no chip in split {split!r}; the release has {there}")
    return [int(chip_id) for chip_id in chosen.index]
