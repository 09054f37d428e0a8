"""Finished cubes: which of them a config wants, and whether they were built as it asks."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Sequence
from typing import Any

from cube.config.aoi import aoi_label, load_aois
from cube.config.fields import TimeRange
from cube.config.models import Config
from cube.config.sensor_models import SensorConfig
from cube.config.sensors import SensorTable
from cube.errors import ConfigError, StoreError
from cube.run.layout import Layout
from cube.run.status import AOI_METADATA, AoiState, read_features
from cube.run.storage import Folder
from cube.store.sealed import CubeInfo, SensorInfo, content_sha256, read_cube_info
from cube.store.template import SEAL, cube_folder

_LOG = logging.getLogger(__name__)
_SEALS_AT_ONCE = 64
"""Some 200 kB each."""


@dataclasses.dataclass(frozen=True)
class FinishedCube:
    """An AOI whose cube is finished by the rows of a version; the cube is not looked at."""

    aoi_index: int
    cube: str
    """``aoi_000003_0123456789ab``."""
    aoi_name: str = ""
    """What the version calls the AOI, for messages."""

    @property
    def aoi_label(self) -> str:
        """What people are shown of the AOI."""
        return aoi_label(self.aoi_index, self.aoi_name)

    def read(self, layout: Layout, table: SensorTable) -> CubeInfo | None:
        """Return what the cube says of itself; None where it is gone.

        Raises
        ------
        StoreError
            If it cannot be read.
        """
        info = read_cube_info(layout.cubes, self.cube, table)
        return None if info is None else dataclasses.replace(info, aoi_name=self.aoi_name)

    def warn_of_loss(self) -> None:
        """Say that the cube is gone."""
        text = "AOI %s: its cube %s is gone, and passed over; build it again"
        _LOG.warning(text, self.aoi_label, self.cube)


def finished_cubes(config: Config) -> list[FinishedCube]:
    """Return the AOIs that a config wants and whose cubes are built, by AOI index.

    They are those that the rows of the version name, since other versions' lie beside them. Cubes
    of AOIs that phase one does not call built are passed over, with a warning.

    Raises
    ------
    ConfigError
        If the AOI file is nowhere.
    AoiError
        If it cannot be used.
    StoreError
        If the record of what became of the AOIs cannot be read.
    """
    layout = Layout.of(config)
    wanted = {aoi.index for aoi in load_aois(config)}
    found: list[FinishedCube] = []
    for index, row in sorted(_rows_with_cubes(layout.root).items()):
        if index not in wanted:
            continue
        one = FinishedCube(index, row["cube"], row.get("name") or row.get("id", ""))
        if row["status"] == AoiState.BUILT:
            found.append(one)
        elif layout.cubes.exists(f"{cube_folder(one.cube)}/{SEAL}"):
            text = "AOI %s: its cube is passed over: %s does not call it built"
            _LOG.warning(text, one.aoi_label, AOI_METADATA)
    return found


def contents_of(layout: Layout, cubes: Sequence[FinishedCube]) -> dict[int, str]:
    """Return what tells the pixels of cubes apart, by AOI index; cubes that are gone have no entry.

    It is read from each cube's seal: one that was built again from other files has its name and
    rows as before, and another version may have done so.

    Raises
    ------
    StoreError
        If a seal is damaged.
    """
    found = {}
    for first in range(0, len(cubes), _SEALS_AT_ONCE):
        some = {f"{cube_folder(one.cube)}/{SEAL}": one for one in cubes[first : first + _SEALS_AT_ONCE]}
        for name, seal in layout.cubes.read_files(some).items():
            found[some[name].aoi_index] = content_sha256(seal, f"{layout.cubes}/{name}")
    return found


def sealed_cubes(config: Config) -> list[CubeInfo]:
    """Return what the cubes of :func:`finished_cubes` say of themselves, by AOI index.

    Cubes that are gone are passed over, with a warning.

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
    infos = []
    for one in finished_cubes(config):
        info = one.read(layout, config.table)
        if info is None:
            one.warn_of_loss()
        else:
            infos.append(info)
    return infos


def _rows_with_cubes(root: Folder) -> dict[int, dict[str, Any]]:
    """Return the rows of AOIs that have a cube, or one in the making, by AOI index."""
    try:
        rows = [feature["properties"] for feature in read_features(root)]
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
    ranges = config.ranges
    for key, settings in config.sensors.items():
        if key in info.sensors:
            if not info.sensors[key].is_row:
                raise ConfigError(
                    f"AOI {info.aoi_label}: its cube was built with another row extra_sensors.{key}; "
                    "build it again, or set the row back"
                )
            _check_scaling(config, key, info)
            for name, found, expected in _cube_and_config(config, settings, info.sensors[key], ranges):
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
    config: Config, settings: SensorConfig, info: SensorInfo, ranges: Sequence[TimeRange]
) -> Iterator[tuple[str, object, object]]:
    """Yield key, found and expected value of what a cube and a config both say of a sensor."""
    sensor = info.sensor
    yield "collection", ", ".join(info.collections), settings.collection
    yield "resolution", info.resolution, settings.resolution
    yield "resampling", info.resampling, settings.resampling or sensor.resampling
    yield "harmonize", info.harmonize, config.harmonizes(sensor.key)
    if sensor.is_static:
        return
    expected = ", ".join(map(str, ranges))
    fits = len(info.times) == len(ranges) and all(
        span.start <= time <= span.end for time, span in zip(info.times, ranges, strict=True)
    )
    yield "time_ranges", expected if fits else ", ".join(f"{t:%Y-%m-%d}" for t in info.times), expected
