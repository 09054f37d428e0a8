"""Reading sealed cubes: what the root document says, and pixels checked by their digests."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray
from shapely.geometry import mapping

from cube.config.aoi import aoi_label
from cube.config.sensors import SENSORS, Sensor, SensorTable
from cube.errors import StoreError
from cube.run.layout import recipe_stem
from cube.run.storage import Folder
from cube.scenes.items import parse_time
from cube.scenes.plan import SCHEMA_VERSION, CubePlan, canonical_json, row_recipe
from cube.windows.grid import Block, Bounds

from .template import SEAL, cube_folder, node_attributes, plain_json, without_shards

if TYPE_CHECKING:
    import xarray as xr
    import zarr


_START_OVER = "delete its cube, and build it again"


@contextlib.contextmanager
def understanding(cube: str) -> Iterator[None]:
    """Turn whatever damaged metadata make a library say into one clear line."""
    try:
        yield
    except (
        ArithmeticError,
        AssertionError,
        AttributeError,
        LookupError,
        MemoryError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        raise StoreError(f"{cube}: its metadata cannot be understood; {_START_OVER}") from error


def read_seal(cubes: Folder, cube: str) -> dict[str, Any] | None:
    """Return the root document of a sealed cube, or None where there is no seal."""
    try:
        seal = (cubes / cube_folder(cube)).read(SEAL)
    except FileNotFoundError:
        return None
    with understanding(f"{cubes}/{cube_folder(cube)}"):
        return cast("dict[str, Any]", json.loads(seal))


def describes(seal_document: Mapping[str, Any], plan: CubePlan) -> bool:
    """Tell whether a sealed cube has the metadata, provenance included, of a plan."""
    attributes = seal_document["attributes"]
    if attributes.get("recipe_sha256") != plan.fingerprint or attributes.get("aoi") != plain_json(
        mapping(plan.aoi)
    ):
        return False
    nodes = seal_document["consolidated_metadata"]["metadata"]
    return {path: node["attributes"] for path, node in nodes.items()} == node_attributes(plan)


@dataclass(frozen=True)
class SensorInfo:
    """What a sealed cube says of one sensor."""

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
    properties: tuple[Mapping[str, Any], ...] = ()
    """Per date, what its first item says of how it was taken."""
    is_row: bool = True
    """False where a config's own row says other things of the pixels than the one that they were
    made with."""
    scaling: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Scale and offset that a band's numbers have in the cube, of those that have any."""
    cloud_cover: tuple[tuple[float, ...], ...] = ()
    """Per date, percent by the items; 0 where they have none."""
    nodata: tuple[float, ...] = ()
    """Per date, percent of the tile without data, by the items."""

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
    content_sha256: str
    """The cube's identity: SHA-256 of its root document, which holds the digests of all pixels
    beside recipe and provenance, but for the versions of libraries."""
    sensors: Mapping[str, SensorInfo]
    not_fetched: tuple[str, ...] = ()
    """Names of the blocks whose imagery was left out."""
    aoi_name: str = field(default="", compare=False)
    """What a version calls the AOI, for messages; no part of the cube, which versions share."""

    @property
    def aoi_label(self) -> str:
        """What people are shown of the AOI."""
        return aoi_label(self.aoi_index, self.aoi_name)

    @property
    def name(self) -> str:
        """What the cube is called: ``aoi_000003_0123456789ab``."""
        return recipe_stem(self.aoi_index, self.recipe_sha256)

    def to_json(self) -> dict[str, Any]:
        """Return the record as plain JSON."""
        return {
            "aoi_index": self.aoi_index,
            "epsg": self.epsg,
            "bounds": [self.bounds.left, self.bounds.bottom, self.bounds.right, self.bounds.top],
            "recipe_sha256": self.recipe_sha256,
            "content_sha256": self.content_sha256,
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


def read_cube_info(cubes: Folder, cube: str, table: SensorTable) -> CubeInfo | None:
    """Return what a cube's root says of a table's sensors, or None where there is no sealed cube.

    Raises
    ------
    StoreError
        If it was written in a form that this version does not know, or is damaged.
    """
    try:
        seal = (cubes / cube_folder(cube)).read(SEAL)
    except FileNotFoundError:
        return None
    with understanding(f"{cubes}/{cube_folder(cube)}"):
        return _cube_info(json.loads(seal), f"{cubes}/{cube_folder(cube)}", table)


def content_sha256(seal: bytes, where: str) -> str:
    """Return the identity of the cube that a root document is of; see :class:`CubeInfo`.

    Raises
    ------
    StoreError
        If it is damaged.
    """
    with understanding(where):
        return _content_sha256(json.loads(seal))


def _cube_info(document: dict[str, Any], where: str, table: SensorTable) -> CubeInfo:
    root = document["attributes"]
    if root.get("schema_version") != SCHEMA_VERSION:
        raise StoreError(
            f"{where}: has schema_version {root.get('schema_version')}; this version reads {SCHEMA_VERSION}"
        )
    groups = document["consolidated_metadata"]["metadata"]
    recipe = root["recipe"]
    sensors = {
        key: _sensor_info(sensor, recipe["sensors"][key], groups)
        for key, sensor in table.items()
        if key in recipe["sensors"]
    }
    return CubeInfo(
        root["aoi_index"],
        root["epsg"],
        Bounds(*recipe["bounds"]),
        root["recipe_sha256"],
        _content_sha256(document),
        sensors,
        tuple(sorted(root.get("not_fetched", ()))),
    )


def _content_sha256(document: dict[str, Any]) -> str:
    """Hash a root document without what makes no other pixels: libraries' versions, and shards.

    Where another version does make other ones, the digests of the pixels differ.
    """
    facts = {name: value for name, value in document["attributes"].items() if name != "libraries"}
    consolidated = document["consolidated_metadata"]
    nodes = {path: without_shards(node) for path, node in consolidated["metadata"].items()}
    same = {"attributes": facts, "consolidated_metadata": {**consolidated, "metadata": nodes}}
    return hashlib.sha256(canonical_json(document | same)).hexdigest()


def _sensor_info(sensor: Sensor, recipe: Mapping[str, Any], groups: Mapping[str, Any]) -> SensorInfo:
    dates: list[list[dict[str, Any]]] = groups[sensor.key]["attributes"]["items"]
    return SensorInfo(
        sensor,
        tuple(recipe["bands"]),
        recipe["resolution"],
        tuple(parse_time(date[0]["datetime"]) for date in dates),
        tuple("+".join(item["id"] for item in date) for date in dates),
        tuple(sorted({item["collection"] for date in dates for item in date})),
        recipe["resampling"],
        recipe["harmonize"],
        tuple(date[0]["properties"] for date in dates),
        sensor.key in SENSORS or _is_row(sensor, recipe),
        dict(_scaling(sensor.key, recipe["bands"], groups)),
        tuple(tuple(_percent(item, "eo:cloud_cover") for item in date) for date in dates),
        tuple(
            max(100.0 - sum(100.0 - _percent(item, "s2:nodata_pixel_percentage") for item in date), 0.0)
            for date in dates
        ),
    )


def _scaling(
    key: str, bands: Iterable[str], groups: Mapping[str, Any]
) -> Iterator[tuple[str, tuple[float, float]]]:
    for band in bands:
        attributes = groups[f"{key}/{band}"]["attributes"]
        if "scale_factor" in attributes:
            yield band, (float(attributes["scale_factor"]), float(attributes["add_offset"]))


def _percent(item: Mapping[str, Any], name: str) -> float:
    return float(item["properties"].get(name) or 0.0)


def _is_row(sensor: Sensor, recipe: Mapping[str, Any]) -> bool:
    """Tell whether a group was made with what a row says of the bands that both have."""
    names = [band.name for band in sensor.bands if band.name in recipe["bands"]]
    row = recipe.get("row", {})
    found = {
        "bands": {name: recipe["bands"][name] for name in names},
        "row": {**row, "bands": {name: row.get("bands", {}).get(name) for name in names}},
    }
    return found == row_recipe(sensor, names)


@contextlib.contextmanager
def reading(aoi: str, array: str) -> Iterator[None]:
    """Turn what a decoder or the storage says of a chunk into one clear line; `aoi` is a label."""
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        why = " ".join(str(error).split()) or type(error).__name__
        raise StoreError(f"AOI {aoi}: {array}: cannot be read ({why}); {_START_OVER}") from error


@dataclass(frozen=True)
class BlockDigests:
    """SHA-256 of a cube's blocks, by block name and band, as they were when they were written.

    Examples
    --------
    >>> block = Block("dem", 0, 0, 0, 1, 1)
    >>> digests = BlockDigests("000003", {"dem-0-0-0": {"elevation": "0" * 64}})
    >>> digests.check(block, "elevation", np.zeros((1, 1)))
    Traceback (most recent call last):
    cube.errors.StoreError: AOI 000003: dem/elevation block dem-0-0-0 differs from ...
    """

    aoi: str
    """What people are shown of the AOI."""
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
                f"AOI {self.aoi}: {block.sensor}/{band} block {block.name} differs from what was "
                f"written; {_START_OVER}"
            )


def read_block_digests(blocks: Folder, info: CubeInfo) -> BlockDigests:
    """Return the digests that a build has left of a cube's blocks; none without a record.

    Raises
    ------
    StoreError
        If the record cannot be read.
    """
    name, aoi = f"{info.name}.json", info.aoi_label
    try:
        records = json.loads(blocks.read(name))
        return BlockDigests(aoi, {block: dict(one["digests"]) for block, one in records.items()})
    except FileNotFoundError:
        return BlockDigests(aoi, {})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(
            f"AOI {aoi}: {blocks}/{name}: cannot be read ({type(error).__name__}: {error}); " + _START_OVER
        ) from None


def open_raw(cubes: Folder, cube: str) -> xr.DataTree:
    """Open a cube lazily with the numbers on disk: the archive's integers, masks beside them."""
    import xarray as xr

    store = cubes.zarr_store(cube_folder(cube), read_only=True)
    with understanding(f"{cubes}/{cube_folder(cube)}"):
        return xr.open_datatree(store, engine="zarr", chunks=None, mask_and_scale=False, consolidated=True)  # type: ignore[arg-type]


def open_arrays(cubes: Folder, cube: str) -> zarr.Group:
    """Open a cube's Zarr arrays, for readers that want many small regions of them."""
    import zarr

    store = cubes.zarr_store(cube_folder(cube), read_only=True)
    with understanding(f"{cubes}/{cube_folder(cube)}"):
        return zarr.open_group(store, mode="r", zarr_format=3, use_consolidated=True)
