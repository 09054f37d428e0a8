"""The plan of a cube: scenes, grids and blocks, decided before a pixel is read.

A plan is a value: it prints, travels to workers, goes to JSON and back, and two plans can be
compared. What makes the cube's pixels is its *recipe*; everything else (folders, catalog,
thresholds, cores) is left out of it, so that the same scenes on the same grid are the same cube
wherever and whenever it is built.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Any

from odc.geo.geobox import GeoBox
from shapely.geometry import mapping, shape
from shapely.geometry.base import BaseGeometry

from cube.config.models import Config
from cube.config.sensors import SENSORS, Sensor, SensorTable
from cube.html.pieces import html_facts, html_sections, html_table
from cube.run.layout import recipe_stem
from cube.windows.grid import BLOCK_M, CHUNK_M, Block, Bounds, blocks_of, geobox_for

from .choose import SceneSet
from .explain import SceneOutcome
from .facts import OFFSET_FLAG
from .items import Scene, parse_time

SCHEMA_VERSION = 1
"""Version of the cube's form on disk; a reader refuses a number that it does not know."""


@dataclass(frozen=True)
class DatePlan:
    """One time step of a sensor: the scenes that are mosaicked into it, first wins."""

    time: datetime
    scenes: tuple[Scene, ...]


@dataclass(frozen=True)
class SensorPlan:
    """The scenes, bands and grid of one sensor, which is a group of the cube."""

    sensor: Sensor
    bands: tuple[str, ...]
    resolution: int
    resampling: str
    """GDAL resampling of continuous bands; masks and classes are always nearest."""
    harmonize: bool
    dates: tuple[DatePlan, ...]
    catalog: str = ""
    """The file that the items were found in, as the config named it then, if hrefs are relative to
    it."""

    @property
    def key(self) -> str:
        """Name of the group."""
        return self.sensor.key

    @property
    def scenes(self) -> Iterator[Scene]:
        """All scenes, in order of time."""
        for date in self.dates:
            yield from date.scenes


@dataclass(frozen=True)
class CubePlan:
    """Everything that has to be known to build one AOI's cube."""

    aoi_index: int
    aoi: BaseGeometry
    """EPSG:4326."""
    epsg: int
    bounds: Bounds
    extent: str
    sensors: tuple[SensorPlan, ...]
    scenes_seen: tuple[SceneOutcome, ...] = ()
    """Every scene that was seen, and why it was chosen or lost."""

    def sensor(self, key: str) -> SensorPlan:
        """Return the group called `key`."""
        return next(plan for plan in self.sensors if plan.key == key)

    def geobox(self, key: str) -> GeoBox:
        """Return the grid of a group."""
        return geobox_for(self.bounds, self.epsg, self.sensor(key).resolution)

    def blocks(self, key: str) -> list[Block]:
        """Return the blocks of a group, in order."""
        return [block for block in self.all_blocks if block.sensor == key]

    @cached_property
    def all_blocks(self) -> tuple[Block, ...]:
        """The blocks of all groups, in order."""
        return tuple(
            block
            for plan in self.sensors
            for block in blocks_of(plan.key, len(plan.dates), self.geobox(plan.key))
        )

    def _repr_html_(self) -> str:
        facts = {
            f"EPSG:{self.epsg}": "",
            "km wide": self.bounds.width / 1000,
            "km high": self.bounds.height / 1000,
            "blocks": len(self.all_blocks),
        }
        rows = [
            (plan.key, f"{date.time:%Y-%m-%d}", ", ".join(scene.id for scene in date.scenes))
            for plan in self.sensors
            for date in plan.dates
        ]
        lost = [(one.id, one.reason) for one in self.scenes_seen if not one.chosen]
        tables = {"chosen": html_table(["sensor", "date", "scenes"], rows)}
        if lost:
            tables["passed over"] = html_table(["scene", "why"], lost)
        return html_facts(f"AOI {self.aoi_index}", facts) + html_sections(tables)

    @cached_property
    def recipe(self) -> dict[str, Any]:
        """What makes the cube's pixels, as plain JSON."""
        return {
            "schema_version": SCHEMA_VERSION,
            "epsg": self.epsg,
            "bounds": [self.bounds.left, self.bounds.bottom, self.bounds.right, self.bounds.top],
            "extent": self.extent,
            "block_m": BLOCK_M,
            "chunk_m": CHUNK_M,
            "sensors": {plan.key: _sensor_recipe(plan) for plan in self.sensors},
        }

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the recipe, hexadecimal."""
        return _digest(self.recipe)

    @property
    def cube(self) -> str:
        """Name of the cube, which belongs to its recipe: ``aoi_000003_0123456789ab``."""
        return recipe_stem(self.aoi_index, self.fingerprint)

    def block_fingerprint(self, block: Block) -> str:
        """Return the SHA-256 of what makes a block's pixels; equal ones may share the block."""
        recipe = dict(self.recipe["sensors"][block.sensor])
        recipe["dates"] = recipe["dates"][block.time]
        grid = {key: self.recipe[key] for key in ("schema_version", "epsg", "bounds", "block_m", "chunk_m")}
        return _digest({**grid, "sensor": recipe, "block": block.name})

    def to_json(self) -> dict[str, Any]:
        """Return the plan as plain JSON; hrefs are unsigned."""
        return {
            "aoi_index": self.aoi_index,
            "aoi": mapping(self.aoi),
            "epsg": self.epsg,
            "bounds": [self.bounds.left, self.bounds.bottom, self.bounds.right, self.bounds.top],
            "extent": self.extent,
            "fingerprint": self.fingerprint,
            "sensors": [
                {
                    "key": plan.key,
                    "bands": plan.bands,
                    "resolution": plan.resolution,
                    "resampling": plan.resampling,
                    "harmonize": plan.harmonize,
                    **({"catalog": plan.catalog} if plan.catalog else {}),
                    "dates": [
                        {
                            "time": date.time.isoformat().replace("+00:00", "Z"),
                            "scenes": [scene.to_json() for scene in date.scenes],
                        }
                        for date in plan.dates
                    ],
                }
                for plan in self.sensors
            ],
            # The key is older than the word, and stays: plans on disk have it.
            "candidates": [outcome.to_json() for outcome in self.scenes_seen],
        }

    @classmethod
    def from_json(cls, record: Mapping[str, Any], table: SensorTable) -> CubePlan:
        """Read back what :meth:`to_json` wrote; sensors are rows of `table`."""
        return cls(
            record["aoi_index"],
            shape(record["aoi"]),
            record["epsg"],
            Bounds(*record["bounds"]),
            record["extent"],
            tuple(
                SensorPlan(
                    table[plan["key"]],
                    tuple(plan["bands"]),
                    plan["resolution"],
                    plan["resampling"],
                    plan["harmonize"],
                    tuple(
                        DatePlan(parse_time(date["time"]), tuple(map(Scene.from_json, date["scenes"])))
                        for date in plan["dates"]
                    ),
                    plan.get("catalog", ""),
                )
                for plan in record["sensors"]
            ),
            tuple(map(SceneOutcome.from_json, record["candidates"])),
        )


def _sensor_recipe(plan: SensorPlan) -> dict[str, Any]:
    return row_recipe(plan.sensor, plan.bands) | {
        "resolution": plan.resolution,
        "resampling": plan.resampling,
        "harmonize": plan.harmonize,
        "dates": [
            [
                {
                    "collection": scene.collection,
                    "id": scene.id,
                    "baseline": scene.properties.get("s2:processing_baseline"),
                    "nodata": {name: str(asset.nodata) for name, asset in scene.assets.items()},
                    **({"offset_applied": True} if scene.properties.get(OFFSET_FLAG) else {}),
                }
                for scene in date.scenes
            ]
            for date in plan.dates
        ],
    }


def row_recipe(sensor: Sensor, names: Iterable[str]) -> dict[str, Any]:
    """Return what a row of the table says of the pixels of some bands, as plain JSON.

    Of a config's own row it is all that makes them; the rest of a built-in one is part of the
    program.
    """
    bands = [sensor.band(name) for name in names]
    stored = {b.name: {"dtype": b.dtype, "asset": b.asset_key, "compressor": b.compressor} for b in bands}
    if sensor.key in SENSORS:
        return {"bands": stored}
    row = {
        "bands": {band.name: [str(band.kind), str(band.nodata)] for band in bands},
        "nodata": [str(sensor.source_nodata), sensor.zero_is_nodata],
        "static": sensor.is_static,
    }
    return {"bands": stored, "row": row}


def plan_cube(
    aoi_index: int, aoi: BaseGeometry, epsg: int, bounds: Bounds, scene_set: SceneSet, config: Config
) -> CubePlan:
    """Put together what was chosen for an AOI (EPSG:4326), its cube's zone and its lattice box."""
    return CubePlan(
        aoi_index=aoi_index,
        aoi=aoi,
        epsg=epsg,
        bounds=bounds,
        extent=str(config.aoi.extent),
        sensors=tuple(_plan_sensor(key, config, scene_set) for key in config.sensors),
        scenes_seen=scene_set.scenes_seen,
    )


def _plan_sensor(key: str, config: Config, scene_set: SceneSet) -> SensorPlan:
    sensor, settings, source = config.table[key], config.sensors[key], config.source(key)
    dates = tuple(DatePlan(scenes[0].datetime, scenes) for scenes in scene_set.chosen[key])
    hrefs = (a.href for date in dates for scene in date.scenes for a in scene.assets.values())
    is_beside = not source.is_api and any("://" not in href and not href.startswith("/") for href in hrefs)
    return SensorPlan(
        sensor=sensor,
        bands=config.bands(key),
        resolution=settings.resolution,
        resampling=settings.resampling or sensor.resampling,
        harmonize=config.harmonizes(key),
        dates=dates,
        catalog=source.url if is_beside else "",
    )


def canonical_json(value: object) -> bytes:
    """Return the one JSON text of a value: sorted keys, no spaces, no NaN."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def _digest(value: object) -> str:
    return hashlib.sha256(canonical_json(value)).hexdigest()
