"""Finished cubes: which of them a config wants, and whether they were built as it asks."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Iterator
from typing import Any

from cube.config.aoi import aoi_label, load_aois
from cube.config.models import Config
from cube.config.sensor_models import SensorConfig
from cube.errors import ConfigError, StoreError
from cube.run.layout import Layout
from cube.run.status import AOI_METADATA, AoiState
from cube.run.storage import Folder
from cube.store.sealed import CubeInfo, SensorInfo, read_cube_info

_LOG = logging.getLogger(__name__)


def sealed_cubes(config: Config) -> list[CubeInfo]:
    """Return the finished cubes of the AOIs that a config wants, by AOI index.

    They are those that the rows of the version name, since other versions' lie beside them. Cubes
    of AOIs that phase one does not call built, and cubes that are gone, are passed over, with a
    warning.

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
    wanted = {aoi.index for aoi in load_aois(config)}
    cubes: list[CubeInfo] = []
    for index, row in sorted(_rows_with_cubes(layout.root).items()):
        if index not in wanted:
            continue
        info = read_cube_info(layout.cubes, row["cube"], config.table)
        name = row.get("name") or row.get("id", "")
        label = aoi_label(index, name)
        if info is None and row["status"] == AoiState.BUILT:
            text = "AOI %s: its cube %s is gone, and passed over; build it again"
            _LOG.warning(text, label, row["cube"])
        elif info is not None and row["status"] != AoiState.BUILT:
            text = "AOI %s: its cube is passed over: %s does not call it built"
            _LOG.warning(text, label, AOI_METADATA)
        elif info is not None:
            cubes.append(dataclasses.replace(info, aoi_name=name))
    return cubes


def _rows_with_cubes(root: Folder) -> dict[int, dict[str, Any]]:
    """Return the rows of AOIs that have a cube, or one in the making, by AOI index."""
    try:
        rows = [feature["properties"] for feature in json.loads(root.read(AOI_METADATA))["features"]]
        return {row["aoi_index"]: row for row in rows if row["status"] and row.get("cube")}
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"{root}/{AOI_METADATA}: cannot be read ({type(error).__name__}: {error}); run gelos-lc build again"
        ) from None


def check_cube(config: Config, info: CubeInfo) -> None:
    """Check that a cube is what a config asks for; it may hold further bands and sensors.

    Raises
    ------
    ConfigError
        Names the AOI, the key, what the cube has and what the config asks for.
    """
    for key, settings in config.sensors.items():
        if key in info.sensors:
            if not info.sensors[key].is_row:
                raise ConfigError(
                    f"AOI {info.aoi_label}: its cube was built with another row extra_sensors.{key}; "
                    "build it again, or set the row back"
                )
            _check_scaling(config, key, info)
            for name, found, expected in _cube_and_config(config, settings, info.sensors[key]):
                if found != expected:
                    raise ConfigError(
                        f"AOI {info.aoi_label}: its cube was built with {key}.{name} {found}, and the config "
                        f"asks for {expected}; build it again, or set {key}.{name} back"
                    )


def _check_scaling(config: Config, key: str, info: CubeInfo) -> None:
    """Compare what numbers mean in a cube and by the sensor's row, whose scale makes no pixels."""
    scaling = info.sensors[key].scaling
    for band in config.table[key].bands:
        found = scaling.get(band.name, (band.scale, band.offset))
        if found != (band.scale, band.offset):
            raise ConfigError(
                f"AOI {info.aoi_label}: its cube was built with scale {found[0]:g} and offset {found[1]:g} of "
                f"{key}'s band {band.name}, and the row extra_sensors.{key} says {band.scale:g} and "
                f"{band.offset:g}; build it again, or set the row back"
            )


def _cube_and_config(
    config: Config, settings: SensorConfig, info: SensorInfo
) -> Iterator[tuple[str, object, object]]:
    """Yield key, found and expected value of what a cube and a config both say of a sensor."""
    sensor = info.sensor
    yield "collection", ", ".join(info.collections), settings.collection
    yield "resolution", info.resolution, settings.resolution
    yield "resampling", info.resampling, settings.resampling or sensor.resampling
    yield "harmonize", info.harmonize, config.harmonizes(sensor.key)
    if sensor.is_static:
        return
    expected = ", ".join(map(str, config.ranges))
    fits = len(info.times) == len(config.ranges) and all(
        span.start <= time <= span.end for time, span in zip(info.times, config.ranges, strict=True)
    )
    yield "time_ranges", expected if fits else ", ".join(f"{t:%Y-%m-%d}" for t in info.times), expected
