"""What a run keeps of an unfinished cube, and what it clears away."""

from __future__ import annotations

from collections.abc import Collection

from cube.run.storage import Folder
from cube.scenes.plan import CubePlan
from cube.windows.grid import chunk_px

from .template import SEAL, cube_name, make_template
from .write import chunk_keys

__all__ = ["sweep_cube", "unseal"]


def unseal(cubes: Folder, aoi_index: int) -> None:
    """Take a cube's root away, so that nothing can open it until it is sealed again."""
    (cubes / cube_name(aoi_index)).remove(SEAL)


def sweep_cube(cubes: Folder, plan: CubePlan, blocks: Collection[str]) -> None:
    """Remove from an unsealed cube all that is neither the plan's metadata nor a chunk of the named blocks."""
    target = cubes / cube_name(plan.aoi_index)
    wanted = set(make_template(plan))
    for sensor_plan in plan.sensors:
        side = chunk_px(sensor_plan.resolution)
        for block in plan.blocks(sensor_plan.key):
            if block.name in blocks:
                wanted |= {
                    f"{sensor_plan.key}/{band}/c/{chunk}"
                    for band in sensor_plan.bands
                    for chunk in chunk_keys(block, side, is_static=sensor_plan.sensor.is_static)
                }
    for path in list(target.files()):
        if path not in wanted:
            target.remove(path)
    target.prune()
