"""A release opened: its table, and its chips as arrays and lazy xarray."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import geopandas as gpd
import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from rasterio.transform import from_origin

from chipping.views import parse_views
from cube.config.sensors import CLASS_NAMES
from cube.run.command import counted
from cube.run.storage import Folder
from cube.windows.grid import Bounds
from release.opening.checksums import MIN_SUMS_LINE_BYTES, SUMS_NAME, parse_sums
from release.opening.faults import ReleaseError
from release.opening.files import open_files
from release.opening.limits import MOST_BYTES
from release.recipe import RECIPE_NAME, RasterSpec, Recipe, parse_recipe
from release.select import dates_fit
from release.sharding import SHARDS_FOLDER, is_shard_sums
from release.statistics import STATISTICS_NAME
from release.tracker import PARQUET_NAME, image_names

from .normalising import read_statistics
from .rasters import decode_raster
from .rows import TrackerRows

if TYPE_CHECKING:
    from release.notebook.views import Chip
_MOST_RECIPE_BYTES = 1 << 26
_MOST_SUMS_BYTES = 1 << 30
"""What eight million files take."""


class Release:
    """A release, opened: a table, and pixels when they are asked for. Travels to worker processes.

    Parameters
    ----------
    path
        The release's folder or its zip.
    """

    def __init__(self, path: str | Path | Folder) -> None:
        self.path = path
        self._files = open_files(path)
        self.recipe: Recipe = parse_recipe(self._read(RECIPE_NAME, _MOST_RECIPE_BYTES))
        lines = io.BytesIO(self._read(SUMS_NAME, _MOST_SUMS_BYTES))
        # Each chip has several; in a release in shards each line may stand for one of those.
        most_chips = sum(len(line) >= MIN_SUMS_LINE_BYTES for line in lines) * (self.recipe.shard_chips or 1)
        self._last_row: tuple[int, Mapping[str, Any]] = (-1, {})
        """A chip's id and row: a sample asks for it once for each sensor."""
        self._rows = TrackerRows(self.read_file(PARQUET_NAME), most_chips, self.recipe)

    def __getstate__(self) -> dict[str, Any]:
        """Leave open files behind."""
        return {"path": self.path}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        """Open the release again, in another process."""
        self.__init__(state["path"])  # type: ignore[misc]

    def __len__(self) -> int:
        """Return how many chips there are."""
        return len(self._rows)

    def __repr__(self) -> str:
        """Return what it is in a line: name, version, chips, classes, sensors."""
        what = f"{self.recipe.name} {self.recipe.version}: {counted(len(self), 'chip')}"
        return f"<Release {what} of {', '.join(self.class_names)}; {', '.join(self.sensors)}>"

    @property
    def table(self) -> gpd.GeoDataFrame:
        """The tracker, a row per chip; read whole when it is asked for."""
        return self._rows.table

    @property
    def sensors(self) -> tuple[str, ...]:
        """Sensors that the chips have."""
        return tuple(self.recipe.rasters)

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, in the order of labels."""
        return [CLASS_NAMES.get(code, str(code)) for code in sorted(self.recipe.chips.classes)]

    @property
    def splits(self) -> tuple[str, ...]:
        """Splits that chips are in; empty where there are none."""
        return tuple(sorted(set(self.chip_splits) - {""}))

    @property
    def chip_splits(self) -> pd.Series:
        """The split of each chip, by its id; an empty text without splits."""
        return self._rows.narrow["split"]

    def nodata(self, sensor: str) -> float | None:
        """Return the value that a sensor's rasters set aside for no data; None: none."""
        return self._raster_spec(sensor).nodata

    def image_bands(self, sensor: str, bands: Sequence[str] = ()) -> tuple[str, ...]:
        """Return the bands of a sample's image: those named, or all but masks."""
        self.band_indexes(sensor, bands)
        return tuple(bands) or self.recipe.image_bands(sensor)

    def labels_of(self, ids: Sequence[int]) -> list[int]:
        """Return the positions of chips' classes among the classes."""
        codes = sorted(self.recipe.chips.classes)
        return [codes.index(int(code)) for code in self._rows.narrow.loc[list(ids), "lulc"]]

    def bounds(self, chip_id: int) -> Bounds:
        """Return the chip's box in its UTM zone, metres."""
        return self.recipe.bounds(self.row(chip_id))

    def row(self, chip_id: int) -> Mapping[str, Any]:
        """Return the chip's row of the table."""
        asked, found = self._last_row
        if asked != chip_id:
            if chip_id not in self._rows.narrow.index:
                raise ReleaseError(f"no chip {chip_id} in this release; it has 0 to {len(self) - 1}")
            found = self._rows.row(int(chip_id))
            self._last_row = (chip_id, found)
        return found

    def paths(self, chip_id: int, sensor: str) -> list[str]:
        """Return the names of a sensor's rasters, one per date."""
        self._raster_spec(sensor)
        return self.row_paths(self.row(chip_id), sensor)

    def row_paths(self, row: Mapping[str, Any], sensor: str) -> list[str]:
        """Return the names of a sensor's rasters that a row of the table stands for."""
        chip_id = row["id"]
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

    def read(
        self, chip_id: int, sensor: str, bands: Sequence[str] = (), dates: Sequence[int] | None = None
    ) -> NDArray[Any]:
        """Read a sensor's pixels.

        Parameters
        ----------
        chip_id
            ``id`` of the chip.
        sensor
            Such as ``s2l2a``.
        bands
            Names, in the order wanted; empty: all.
        dates
            Numbers of the time ranges wanted, from 0; None: all.

        Returns
        -------
        ndarray
            ``(time, band, height, width)``, as stored; nodata is not masked.
        """
        names = self.paths(chip_id, sensor)
        wanted = names if dates is None else [names[date] for date in dates]
        return np.stack([self.read_raster(name, sensor, bands) for name in wanted])

    def read_raster(self, name: str, sensor: str, bands: Sequence[str] = ()) -> NDArray[Any]:
        """Read one raster, ``(band, height, width)``, by its file's name, as stored."""
        spec, indexes = self._raster_spec(sensor), self.band_indexes(sensor, bands)
        return decode_raster(name, self.read_file(name), spec, indexes)

    def ids_of(self, split: str | None) -> list[int]:
        """Return the ids of a split's chips; None: of all."""
        table = self._rows.narrow
        chosen = table if split is None else table[table["split"] == split]
        if chosen.empty:
            there = ", ".join(self.splits) or "no splits"
            raise ReleaseError(f"no chip in split {split!r}; the release has {there}")
        return [int(chip_id) for chip_id in chosen.index]

    def statistics(self) -> dict[str, Any]:
        """Read ``statistics.json``."""
        return read_statistics(self.path, self.read_file(STATISTICS_NAME))

    def sample(
        self, chip_id: int, sensors: Sequence[str], bands: Mapping[str, Sequence[str]]
    ) -> dict[str, Any]:
        """Read a chip as a sample dict of plain arrays; see :func:`release.chip_arrays`."""
        row = self.row(chip_id)
        box = self.bounds(chip_id)
        found: dict[str, Any] = {}
        for sensor in sensors:
            found |= self._image_and_mask(chip_id, sensor, bands.get(sensor, ()))
        code = int(row["lulc"])
        label = sorted(self.recipe.chips.classes).index(code)
        found |= {"label": label, "lulc": code, "id": int(chip_id)}
        return found | {"crs": f"EPSG:{row['epsg']}", "bounds": (box.left, box.bottom, box.right, box.top)}

    def _image_and_mask(self, chip_id: int, sensor: str, bands: Sequence[str]) -> dict[str, Any]:
        wanted, masks = self.image_bands(sensor, bands), self.recipe.mask_bands(sensor)
        pixels = self.read(chip_id, sensor, (*wanted, *masks))
        found = {f"image_{sensor}": pixels[:, : len(wanted)]}
        if masks:
            stored = self.recipe.table[sensor].band(masks[0]).dtype
            found[f"mask_{sensor}"] = pixels[:, len(wanted)].astype(stored)
        return found

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

    def _raster_spec(self, sensor: str) -> RasterSpec:
        if sensor not in self.recipe.rasters:
            raise ReleaseError(f"no sensor {sensor!r} in this release; it has {', '.join(self.sensors)}")
        return self.recipe.rasters[sensor]

    def file_names(self) -> list[str]:
        """Return the names of all files there are, sorted."""
        if self.recipe.shard_chips is None:
            return self._files.names()
        below = [
            f"{SHARDS_FOLDER}/{shard}/{name}"
            for shard in self._files.shard_names()
            for name in self._files.shard(shard).names()
        ]
        return sorted([*self._files.top_names(), *below])

    def sums(self) -> dict[str, str]:
        """Return the SHA-256 of each file by name, by ``SHA256SUMS`` and those of shards."""
        found, _ = parse_sums(self.read_file(SUMS_NAME))
        for name in [name for name in found if is_shard_sums(name)]:
            own, _ = parse_sums(self.read_file(name))
            found |= {name.removesuffix(SUMS_NAME) + file: digest for file, digest in own.items()}
        return found

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

    def chip(self, chip_id: int) -> Chip:
        """Open a chip lazily.

        Returns
        -------
        Chip
            A dict, which a notebook shows as pictures. By sensor: ``(time, band, y, x)``, or
            ``(band, y, x)`` without dates; read when computed. ``.rio`` knows the CRS and the
            transform, which stay through arithmetic, and the value that the files set aside for no
            data, which does not (pixels are as stored). ``attrs`` holds ``crs``, ``nodata`` and
            ``scene_ids``. Along ``time`` lies what :meth:`acquisitions` tells of each date. Masks,
            where the release has them, are the last bands.
        """
        from cube.run.forks import renew_threads_after_forks
        from release.notebook.views import Chip

        renew_threads_after_forks()
        images = {sensor: self._open_lazily(chip_id, sensor) for sensor in self.sensors}
        return Chip(self, chip_id, images)

    def explore(self, **options: Any) -> Any:
        """Return a folium map of the chips; see :func:`release.notebook.views.explore_release`."""
        from release.notebook.views import explore_release

        return explore_release(self, **options)

    def _repr_html_(self) -> str:
        from release.notebook.views import release_html

        return release_html(self)

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


def _read_and_decode(opened: Release, name: str, indexes: list[int], spec: RasterSpec) -> NDArray[Any]:
    return decode_raster(name, opened.read_file(name), spec, indexes)


def open_release(path: str | Path | Folder) -> Release:
    """Open a release folder or zip.

    Raises
    ------
    ReleaseError
        If there is none at `path`.
    """
    return Release(path)
