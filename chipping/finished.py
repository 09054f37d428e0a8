"""Finished cubes: which of them a config wants, and whether they were built as it asks."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator

from cube.config.aoi import load_aois
from cube.config.models import Config
from cube.config.sensor_models import SensorConfig
from cube.errors import ConfigError, StoreError
from cube.run.layout import Layout
from cube.run.status import AOI_METADATA, AoiState
from cube.run.storage import Folder
from cube.store.sealed import CubeInfo, SensorInfo, read_cube_info

_LOG = logging.getLogger(__name__)


_CUBE_NAME = re.compile(r"aoi_(\d{6,})\.zarr")


def sealed_cubes(config: Config) -> list[CubeInfo]:
    """Return the finished cubes of the AOIs that a config wants, by AOI index.

    Cubes of AOIs that phase one does not call built are passed over, with a warning.

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
    built = _built_aois(layout.root)
    for index in there:
        if index in wanted and built is not None and index not in built:
            _LOG.warning("AOI %06d: its cube is passed over: %s does not call it built", index, AOI_METADATA)
    chosen = [index for index in there if index in wanted and (built is None or index in built)]
    return [info for index in chosen if (info := read_cube_info(layout.cubes, index, config.table))]


def _built_aois(root: Folder) -> set[int] | None:
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
                    f"AOI {info.aoi_index}: its cube was built with another row extra_sensors.{key}; "
                    "build it again, or set the row back"
                )
            _check_scaling(config, key, info)
            for name, found, expected in _cube_and_config(config, settings, info.sensors[key]):
                if found != expected:
                    raise ConfigError(
                        f"AOI {info.aoi_index}: its cube was built with {key}.{name} {found}, and the config "
                        f"asks for {expected}; build it again, or set {key}.{name} back"
                    )


def _check_scaling(config: Config, key: str, info: CubeInfo) -> None:
    """Compare what numbers mean in a cube and by the sensor's row, whose scale makes no pixels."""
    scaling = info.sensors[key].scaling
    for band in config.table[key].bands:
        found = scaling.get(band.name, (band.scale, band.offset))
        if found != (band.scale, band.offset):
            raise ConfigError(
                f"AOI {info.aoi_index}: its cube was built with scale {found[0]:g} and offset {found[1]:g} of "
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
