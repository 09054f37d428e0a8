"""Sealed cubes as phase two sees them: what their root file says, and their raw pixels."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from cube.aoi import load_aois
from cube.config import Config, SensorConfig
from cube.errors import ConfigError, StoreError
from cube.grid import Block, Bounds
from cube.items import parse_time
from cube.layout import Layout, aoi_stem
from cube.plan import SCHEMA_VERSION, row_recipe
from cube.sensors import SENSORS, Sensor, SensorTable
from cube.status import AOI_METADATA, AoiState
from cube.storage import Folder
from cube.store import SEAL, cube_name

if TYPE_CHECKING:
    import zarr

__all__ = [
    "BlockDigests",
    "CubeInfo",
    "SensorInfo",
    "check_cube",
    "open_arrays",
    "open_raw",
    "read_block_digests",
    "read_cube_info",
    "reading",
    "sealed_cubes",
]

_LOG = logging.getLogger(__name__)

_CUBE_NAME = re.compile(r"aoi_(\d{6,})\.zarr")


@dataclass(frozen=True)
class SensorInfo:
    """One group of a cube."""

    sensor: Sensor
    bands: tuple[str, ...]
    resolution: int
    times: tuple[datetime, ...]
    """Acquisition times, UTC; the period's first item for layers without dates."""
    scene_ids: tuple[str, ...]
    """Per date, the items of its mosaic joined by ``+``."""
    collections: tuple[str, ...] = ()
    """STAC collections of the items."""
    resampling: str = ""
    harmonize: bool = False
    is_row: bool = True
    """False where a config's own row says other things of the pixels than the one that they were made with."""

    @property
    def dates(self) -> tuple[str, ...]:
        """Days of acquisition, ``YYYYMMDD``."""
        return tuple(f"{time:%Y%m%d}" for time in self.times)


@dataclass(frozen=True)
class CubeInfo:
    """What a sealed cube's root says about it."""

    aoi_index: int
    epsg: int
    bounds: Bounds
    recipe_sha256: str
    """Equal for cubes of the same scenes on the same grid."""
    seal_sha256: str
    """The cube's identity: its root file holds the digests of all pixels beside the recipe."""
    sensors: Mapping[str, SensorInfo]
    not_fetched: tuple[str, ...] = ()
    """Names of the blocks whose imagery was left out."""

    def to_json(self) -> dict[str, Any]:
        """Return the record as plain JSON."""
        return {
            "aoi_index": self.aoi_index,
            "epsg": self.epsg,
            "bounds": [self.bounds.left, self.bounds.bottom, self.bounds.right, self.bounds.top],
            "recipe_sha256": self.recipe_sha256,
            "seal_sha256": self.seal_sha256,
            "not_fetched": list(self.not_fetched),
            "sensors": {
                key: {
                    "bands": list(sensor.bands),
                    "resolution": sensor.resolution,
                    "times": [time.isoformat() for time in sensor.times],
                    "scene_ids": list(sensor.scene_ids),
                    "collections": list(sensor.collections),
                    "resampling": sensor.resampling,
                    "harmonize": sensor.harmonize,
                }
                for key, sensor in self.sensors.items()
            },
        }


def sealed_cubes(config: Config) -> list[CubeInfo]:
    """Return the finished cubes of the AOIs that a config wants, by AOI index; others are passed over.

    Raises
    ------
    ConfigError
        If the AOI file is nowhere.
    AoiError
        If it cannot be used.
    StoreError
        If a cube, or the record of what became of the AOIs, cannot be read.
    """
    layout = Layout.of(config)
    names = layout.cubes.names(".zarr")
    there = sorted(int(found[1]) for name in names if (found := _CUBE_NAME.fullmatch(name)))
    wanted = {aoi.index for aoi in load_aois(config)}
    built = _built(layout.root)
    for index in there:
        if index in wanted and built is not None and index not in built:
            _LOG.warning("AOI %06d: its cube is passed over: %s does not call it built", index, AOI_METADATA)
    chosen = [index for index in there if index in wanted and (built is None or index in built)]
    return [info for index in chosen if (info := read_cube_info(layout.cubes, index, config.table))]


def _built(root: Folder) -> set[int] | None:
    """Return the AOIs that phase one calls built, or None where it has left no record."""
    try:
        rows = [feature["properties"] for feature in json.loads(root.read(AOI_METADATA))["features"]]
        return {row["aoi_index"] for row in rows if row["status"] == AoiState.BUILT}
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"{root}/{AOI_METADATA}: cannot be read ({type(error).__name__}: {error}); run build_cubes.py again"
        ) from None


def check_cube(config: Config, info: CubeInfo) -> None:
    """Check that a cube is one that a config stands for; it may hold more bands and sensors than are wanted.

    Raises
    ------
    ConfigError
        Names the AOI, the key, what the cube has and what the config asks for.
    """
    for key, settings in config.sensors.items():
        if key in info.sensors:
            if not info.sensors[key].is_row:
                raise ConfigError(
                    f"AOI {info.aoi_index}: its cube was built with another row extra_sensors.{key}; "
                    "build it again, or set the row back"
                )
            for name, found, expected in _facts(config, settings, info.sensors[key]):
                if found != expected:
                    raise ConfigError(
                        f"AOI {info.aoi_index}: its cube was built with {key}.{name} {found}, and the config "
                        f"asks for {expected}; build it again, or set {key}.{name} back"
                    )


def _facts(config: Config, settings: SensorConfig, info: SensorInfo) -> Iterator[tuple[str, object, object]]:
    """Yield what a config and a cube say alike of a sensor: a key, what was found, and what was expected."""
    sensor = info.sensor
    harmonize = sensor.baseline_offset and bool(getattr(settings, "harmonize", False))
    yield "collection", ", ".join(info.collections), settings.collection
    yield "resolution", info.resolution, settings.resolution
    yield "resampling", info.resampling, settings.resampling or sensor.resampling
    yield "harmonize", info.harmonize, harmonize
    if sensor.is_static:
        return
    expected = ", ".join(map(str, config.ranges))
    fits = len(info.times) == len(config.ranges) and all(
        span.start <= time <= span.end for time, span in zip(info.times, config.ranges, strict=True)
    )
    yield "time_ranges", expected if fits else ", ".join(f"{t:%Y-%m-%d}" for t in info.times), expected


def read_cube_info(cubes: Folder, aoi_index: int, table: SensorTable) -> CubeInfo | None:
    """Return what a cube's root says of a table's sensors, or None where the cube is unfinished or absent.

    Raises
    ------
    StoreError
        If it was written in a layout that this version does not know.
    """
    try:
        seal = (cubes / cube_name(aoi_index)).read(SEAL)
    except FileNotFoundError:
        return None
    document = json.loads(seal)
    root = document["attributes"]
    if root.get("schema_version") != SCHEMA_VERSION:
        raise StoreError(
            f"{cubes}/{cube_name(aoi_index)}: has schema_version {root.get('schema_version')}; "
            f"this version reads {SCHEMA_VERSION}"
        )
    groups = document["consolidated_metadata"]["metadata"]
    recipe = root["recipe"]
    sensors = {
        key: _sensor_info(sensor, recipe["sensors"][key], groups[key]["attributes"]["items"])
        for key, sensor in table.items()
        if key in recipe["sensors"]
    }
    return CubeInfo(
        root["aoi_index"],
        root["epsg"],
        Bounds(*recipe["bounds"]),
        root["recipe_sha256"],
        hashlib.sha256(seal).hexdigest(),
        sensors,
        tuple(sorted(root.get("not_fetched", ()))),
    )


def _sensor_info(
    sensor: Sensor, recipe: Mapping[str, Any], items: Iterable[list[dict[str, Any]]]
) -> SensorInfo:
    dates = list(items)
    return SensorInfo(
        sensor,
        tuple(recipe["bands"]),
        recipe["resolution"],
        tuple(parse_time(date[0]["datetime"]) for date in dates),
        tuple("+".join(item["id"] for item in date) for date in dates),
        tuple(sorted({item["collection"] for date in dates for item in date})),
        recipe["resampling"],
        recipe["harmonize"],
        sensor.key in SENSORS or _is_row(sensor, recipe),
    )


def _is_row(sensor: Sensor, recipe: Mapping[str, Any]) -> bool:
    """Tell whether a group was made with what a row says of the bands that both have."""
    names = [band.name for band in sensor.bands if band.name in recipe["bands"]]
    row = recipe.get("row", {})
    found = {
        "bands": {name: recipe["bands"][name] for name in names},
        "row": {**row, "bands": {name: row.get("bands", {}).get(name) for name in names}},
    }
    return found == row_recipe(sensor, names)


_START_OVER = "delete its cube, and build it again"


@contextlib.contextmanager
def reading(aoi_index: int, array: str) -> Iterator[None]:
    """Turn what a decoder or the storage says of a chunk into one clear line."""
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        why = " ".join(str(error).split()) or type(error).__name__
        raise StoreError(f"AOI {aoi_index}: {array}: cannot be read ({why}); {_START_OVER}") from error


@dataclass(frozen=True)
class BlockDigests:
    """SHA-256 of a cube's blocks, by block name and band, as they were when they were written.

    Examples
    --------
    >>> block = Block("dem", 0, 0, 0, 1, 1)
    >>> BlockDigests(3, {"dem-0-0-0": {"elevation": "0" * 64}}).check(block, "elevation", np.zeros((1, 1)))
    Traceback (most recent call last):
    cube.errors.StoreError: AOI 3: dem/elevation block dem-0-0-0 differs from what was written; ...
    """

    aoi_index: int
    by_block: Mapping[str, Mapping[str, str]]

    def check(self, block: Block, band: str, values: NDArray[Any]) -> None:
        """Compare a block's values with what was written; a block of which nothing is known passes.

        Raises
        ------
        StoreError
            If they differ.
        """
        expected = self.by_block.get(block.name, {}).get(band)
        if expected is None:
            return
        if hashlib.sha256(np.ascontiguousarray(values).data).hexdigest() != expected:
            raise StoreError(
                f"AOI {self.aoi_index}: {block.sensor}/{band} block {block.name} differs from what was "
                f"written; {_START_OVER}"
            )


def read_block_digests(blocks: Folder, aoi_index: int) -> BlockDigests:
    """Return the digests that phase one has left of a cube's blocks; none where it has left no record.

    Raises
    ------
    StoreError
        If the record cannot be read.
    """
    name = f"{aoi_stem(aoi_index)}.json"
    try:
        records = json.loads(blocks.read(name))
        return BlockDigests(aoi_index, {block: dict(one["digests"]) for block, one in records.items()})
    except FileNotFoundError:
        return BlockDigests(aoi_index, {})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(
            f"AOI {aoi_index}: {blocks}/{name}: cannot be read ({type(error).__name__}: {error}); "
            + _START_OVER
        ) from None


def open_raw(cubes: Folder, aoi_index: int) -> xr.DataTree:
    """Open a cube lazily with the numbers that lie on disk: the archive's integers, masks beside them."""
    store = cubes.zarr_store(cube_name(aoi_index), read_only=True)
    return xr.open_datatree(store, engine="zarr", chunks=None, mask_and_scale=False, consolidated=True)  # type: ignore[arg-type]


def open_arrays(cubes: Folder, aoi_index: int) -> zarr.Group:
    """Open a cube's Zarr arrays, for readers that want many small regions of them."""
    import zarr

    store = cubes.zarr_store(cube_name(aoi_index), read_only=True)
    return zarr.open_group(store, mode="r", zarr_format=3, use_consolidated=True)
