"""Sealed cubes made from arrays, for tests of what comes after phase one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray
from shapely import box, transform

from cube.config.aoi import Aoi
from cube.config.models import Config
from cube.run.layout import Layout
from cube.run.status import AoiState, StatusBoard
from cube.run.storage import Folder
from cube.scenes.choose import SceneSet
from cube.scenes.items import AssetRef, Scene
from cube.scenes.plan import CubePlan, plan_cube
from cube.store.template import make_template
from cube.store.write import seal, write_block, write_template
from cube.windows.grid import Bounds

__all__ = ["plan_from_times", "record_cube", "write_cube"]

Arrays = Mapping[str, Mapping[str, NDArray[np.generic]]]


def plan_from_times(
    config: Config, bounds: Bounds, epsg: int, times: Sequence[datetime], aoi_index: int = 0
) -> CubePlan:
    """Return a plan whose scenes are made up, one per sensor and time.

    Parameters
    ----------
    config
        Says which sensors and bands the cube has.
    bounds, epsg
        The cube's box, metres, in a UTM zone; edges on the lattice.
    times
        Acquisition times (UTC), the same for every sensor with dates.
    aoi_index
        Index of the AOI.
    """
    from pyproj import Transformer

    to_lonlat = Transformer.from_crs(epsg, 4326, always_xy=True)
    square = box(bounds.left, bounds.bottom, bounds.right, bounds.top)
    outline = transform(square, to_lonlat.transform, interleaved=False)

    def scene(key: str, time: datetime) -> Scene:
        assets = {
            name: AssetRef(config.table[key].band(name).asset_key, f"./{key}/{name}.tif", epsg)
            for name in config.bands(key)
        }
        identity = f"{key}_{time:%Y%m%dT%H%M%S}"
        return Scene(identity, config.table[key].collection, time, time, time, outline, {}, assets, "")

    period = (datetime(2023, 1, 1, tzinfo=UTC),)
    chosen = {
        key: tuple((scene(key, time),) for time in (period if config.table[key].is_static else times))
        for key in config.sensors
    }
    return plan_cube(aoi_index, outline, epsg, bounds, SceneSet(chosen, ()), config)


def write_cube(cubes: Folder, plan: CubePlan, arrays: Arrays, *, is_sharded: bool = False) -> None:
    """Write and seal a cube.

    Parameters
    ----------
    cubes
        Folder that the cube goes into.
    plan
        Such as :func:`plan_from_times` returns.
    arrays
        By sensor and band: ``(time, y, x)``, or ``(y, x)`` without dates, in the cube's dtypes (see
        the sensor table).
    is_sharded
        Whether its chunks lie in shards.
    """
    template = make_template(plan, is_sharded=is_sharded)
    write_template(cubes, plan.cube, template)
    digests: dict[str, dict[str, str]] = {}
    for sensor_plan in plan.sensors:
        for block in plan.blocks(sensor_plan.key):
            digests[block.name] = {}
            for band in sensor_plan.bands:
                values = arrays[sensor_plan.key][band]
                values = values if values.ndim == 2 else values[block.time]
                digests[block.name][band] = write_block(
                    cubes, plan.cube, block, band, values[block.roi], is_sharded=is_sharded
                )
    seal(cubes, plan, template, digests)


def record_cube(config: Config, plan: CubePlan) -> None:
    """Say that a config's version has built a plan's cube, as phase one says it."""
    board = StatusBoard(Layout.of(config).root, [Aoi(plan.aoi_index, plan.aoi)])
    board.update(plan.aoi_index, status=AoiState.BUILT, done=1.0, cube=plan.cube)
