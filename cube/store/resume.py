"""What a run keeps of a cube on disk, what it clears away, and how the cube is sealed again.

Beside an unfinished cube lies a folder of markers, one per block on disk; beside a sealed one the
same records in one file. Neither is proof of anything without the cube.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from cube.errors import StoreError
from cube.run.layout import Layout, aoi_stem
from cube.run.storage import Folder
from cube.scenes.plan import CubePlan, canonical_json
from cube.windows.grid import chunk_px

from .sealed import read_seal
from .template import SEAL, cube_name, make_template
from .write import chunk_keys, seal

BlockRecords = dict[str, dict[str, Any]]
"""By block name: the fingerprint of what made it, and SHA-256 by band."""


def reopen_cube(layout: Layout, aoi_index: int) -> None:
    """Make a sealed cube an unfinished one: the records of its blocks turn into markers first."""
    markers, name = layout.markers(aoi_index), f"{aoi_stem(aoi_index)}.json"
    if read_seal(layout.cubes, aoi_index) is not None and layout.blocks.exists(name):
        for block, record in json.loads(layout.blocks.read(name)).items():
            markers.write(f"{block}.json", canonical_json(record))
    (layout.cubes / cube_name(aoi_index)).remove(SEAL)
    layout.blocks.remove(name)


def keep_blocks(layout: Layout, plan: CubePlan) -> BlockRecords:
    """Return the blocks on disk that a plan would make again, and clear everything else away.

    A sealed cube is reopened.
    """
    markers = layout.markers(plan.aoi_index)
    reopen_cube(layout, plan.aoi_index)
    expected = {block.name: plan.block_fingerprint(block) for block in plan.all_blocks}
    found = {name.removesuffix(".json"): json.loads(markers.read(name)) for name in markers.names(".json")}
    is_there = (layout.cubes / cube_name(plan.aoi_index)).names() != []
    kept = {name: r for name, r in found.items() if is_there and expected.get(name) == r["fingerprint"]}
    for name in found.keys() - kept.keys():
        markers.remove(f"{name}.json")
    _sweep_cube(layout.cubes, plan, set(kept))
    return kept


def _sweep_cube(cubes: Folder, plan: CubePlan, blocks: Collection[str]) -> None:
    """Remove all that is neither the plan's metadata nor a chunk of the named blocks."""
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


def close_cube(
    layout: Layout, plan: CubePlan, records: BlockRecords, left_out: Collection[str], **notes: Any
) -> None:
    """Seal a cube whose wanted blocks are all on disk, and put their records into one file.

    Parameters
    ----------
    records
        The records of all blocks that were written.
    left_out
        Names of the blocks that were not written.
    **notes
        Further attributes of the cube, plain JSON; empty ones are left out.

    Raises
    ------
    StoreError
        If another run has written over a block.
    """
    name = aoi_stem(plan.aoi_index)
    _check_markers(layout.markers(plan.aoi_index), records)
    layout.blocks.write(f"{name}.json", canonical_json(records))
    digests = {block: record["digests"] for block, record in records.items()}
    seal(
        layout.cubes,
        plan,
        digests,
        not_fetched=sorted(left_out),
        **{name: note for name, note in notes.items() if note},
    )
    layout.building.remove_folder(name)


def _check_markers(markers: Folder, records: Mapping[str, Any]) -> None:
    """See that no other run, such as the tasks of a killed client, wrote over this one's blocks."""
    for name, record in records.items():
        if json.loads(markers.read(f"{name}.json")) != record:
            markers.remove(f"{name}.json")
            raise StoreError(f"block {name} was written by another run as well; run again")
