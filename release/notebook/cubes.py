"""All cubes of a dataset version as one table, whose rows open lazily."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import geopandas as gpd
import numpy as np

from chipping.finished import sealed_cubes
from cube.config.aoi import load_aois
from cube.config.models import Config
from cube.config.reading import load_config
from cube.config.sensors import CLASS_NAMES
from cube.run.layout import Layout
from cube.run.storage import Folder
from cube.store.open import open_cube, read_array
from cube.store.sealed import CubeInfo
from cube.store.template import cube_folder
from cube.windows.grid import geobox_for

if TYPE_CHECKING:
    import xarray as xr


@dataclass(frozen=True)
class LazyCube:
    """A finished cube that is opened when it is asked for; travels to workers."""

    folder: Folder

    def open(self) -> xr.DataTree:
        """Open it, as :func:`cube.open_cube` does: nothing is read before it is used."""
        return open_cube(self.folder)

    def __repr__(self) -> str:
        """Return its place; the storage's options may hold a key."""
        return f"LazyCube({self.folder.url})"


def open_cubes(
    config: Config | str | Path, settings: tuple[str, ...] = (), *, shares: bool = True
) -> gpd.GeoDataFrame:
    """Return the finished cubes of a dataset version, a row each.

    Parameters
    ----------
    config
        The config, or its YAML file.
    settings
        ``key=value`` each, laid over the file.
    shares
        Whether land cover is read, for the share of each class: a small file a cube. No other pixel
        is read.

    Returns
    -------
    GeoDataFrame
        By ``aoi_index``: ``name`` (of the AOI file's feature; empty if it has none), ``epsg``,
        ``width_m`` and ``height_m``, ``{sensor}_dates`` and ``{sensor}_scene_ids`` (lists, one per
        time range; the scenes of a mosaic joined by ``+``), ``share_{code}`` of the classes that
        some cube has (0 to 1, of pixels that have a class), ``cube``, whose ``open()`` gives the
        ``xr.DataTree``, and ``geometry``, the cube's outline in EPSG:4326.

    Raises
    ------
    ConfigError, AoiError, StoreError
        If the config, its AOI file, or a cube cannot be used.

    Examples
    --------
    NDVI by area and season::

        for aoi, row in open_cubes("config.yaml").iterrows():
            s2 = row["cube"].open()["s2l2a"]
            ndvi = (s2["B08"] - s2["B04"]) / (s2["B08"] + s2["B04"])
            print(aoi, ndvi.mean(("y", "x")).compute().values)
    """
    loaded = config if isinstance(config, Config) else load_config(config, settings)
    names = {aoi.index: aoi.name for aoi in load_aois(loaded)}
    cubes = Layout.of(loaded).cubes
    rows = [_row(info, cubes, names, shares=shares) for info in sealed_cubes(loaded)]
    columns = ["aoi_index", "name", "epsg", "width_m", "height_m", "cube", "geometry"]
    table = gpd.GeoDataFrame(rows, columns=None if rows else columns, geometry="geometry", crs=4326)
    found = [f"share_{code}" for code in CLASS_NAMES if f"share_{code}" in table]
    table[found] = table[found].fillna(0.0)
    others = [name for name in table if name not in (*found, "cube", "geometry")]
    return table[[*others, *found, "cube", "geometry"]].set_index("aoi_index")


def _row(info: CubeInfo, cubes: Folder, names: Mapping[int, str], *, shares: bool) -> dict[str, Any]:
    geobox = geobox_for(info.bounds, info.epsg, 10)
    row: dict[str, Any] = {
        "aoi_index": info.aoi_index,
        "name": names[info.aoi_index],
        "epsg": info.epsg,
        "width_m": info.bounds.width,
        "height_m": info.bounds.height,
        "cube": LazyCube(cubes / cube_folder(info.name)),
        "geometry": geobox.geographic_extent.geom,
    }
    for key, sensor in info.sensors.items():
        if not sensor.sensor.is_static:
            row[f"{key}_dates"] = list(sensor.dates)
        row[f"{key}_scene_ids"] = list(sensor.scene_ids)
    return row | (_shares(info, cubes) if shares else {})


def _shares(info: CubeInfo, cubes: Folder) -> dict[str, float]:
    """Return the share of each class among the pixels that have one."""
    counts = np.bincount(read_array(cubes, info.name, "lulc/lulc").ravel(), minlength=256)
    known = {code: int(counts[code]) for code in CLASS_NAMES if code and counts[code]}
    total = sum(known.values())
    return {f"share_{code}": count / total for code, count in known.items()}
