"""What a run keeps of a cube on disk, what it clears away, and how the cube is sealed again.

Beside an unfinished cube lies a folder of markers, one per block on disk; beside a sealed one the
same records in one file. Neither is proof of anything without the cube. Versions share cubes, so a
sealed cube that gets further blocks, or another provenance, stays sealed: what its seal promises is
there at every moment.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from cube.errors import StoreError
from cube.run.layout import Layout
from cube.run.storage import Folder
from cube.scenes.plan import CubePlan, canonical_json
from cube.windows.grid import Block, chunk_px

from .sealed import read_seal
from .template import SEAL, cube_folder, make_template
from .write import chunk_keys, seal

BlockRecords = dict[str, dict[str, Any]]
"""By block name: the fingerprint of what made it, and SHA-256 by band."""


def read_records(layout: Layout, cube: str) -> BlockRecords:
    """Return the records of a cube's blocks, sealed or not; none without the cube."""
    if not (layout.cubes / cube_folder(cube)).names():
        return {}
    sealed = layout.blocks.exists(f"{cube}.json") and read_seal(layout.cubes, cube) is not None
    records: BlockRecords = json.loads(layout.blocks.read(f"{cube}.json")) if sealed else {}
    markers = layout.markers(cube)
    return records | {
        name.removesuffix(".json"): json.loads(markers.read(name)) for name in markers.names(".json")
    }


def keep_blocks(layout: Layout, plan: CubePlan) -> BlockRecords:
    """Return the blocks on disk that a plan would make again, and clear everything else away.

    The records of a sealed cube turn into markers. Its seal goes only if it promises what is not
    there.
    """
    markers = layout.markers(plan.cube)
    expected = {block.name: plan.block_fingerprint(block) for block in plan.all_blocks}
    found = read_records(layout, plan.cube)
    kept = {name: record for name, record in found.items() if expected.get(name) == record["fingerprint"]}
    marked = {name.removesuffix(".json") for name in markers.names(".json")}
    for name in kept.keys() - marked:
        markers.write(f"{name}.json", canonical_json(kept[name]))
    for name in marked - kept.keys():
        markers.remove(f"{name}.json")
    if not _promised(layout.cubes, plan) <= kept.keys():
        (layout.cubes / cube_folder(plan.cube)).remove(SEAL)
        layout.blocks.remove(f"{plan.cube}.json")
    _sweep_cube(layout.cubes, plan, set(kept))
    return kept


def drop_blocks(layout: Layout, plan: CubePlan, names: Collection[str]) -> None:
    """Forget blocks of a cube, which are to be made again, and a seal that promises them."""
    if names and read_seal(layout.cubes, plan.cube) is not None:
        (layout.cubes / cube_folder(plan.cube)).remove(SEAL)
        layout.blocks.remove(f"{plan.cube}.json")
    for name in names:
        layout.markers(plan.cube).remove(f"{name}.json")


def _promised(cubes: Folder, plan: CubePlan) -> set[str]:
    """Return the blocks that a seal says are there; what is never there where no seal holds."""
    sealed = read_seal(cubes, plan.cube)
    if sealed is None or sealed["attributes"].get("recipe_sha256") != plan.fingerprint:
        return {""}
    left_out = set(sealed["attributes"].get("not_fetched", ()))
    return {block.name for block in plan.all_blocks} - left_out


def chunk_paths(plan: CubePlan, block: Block) -> list[str]:
    """Return where the chunks of a block lie in its cube, those that are all nodata too."""
    sensor_plan = plan.sensor(block.sensor)
    side = chunk_px(sensor_plan.resolution)
    keys = list(chunk_keys(block, side, is_static=sensor_plan.sensor.is_static))
    return [f"{block.sensor}/{band}/c/{key}" for band in sensor_plan.bands for key in keys]


def _sweep_cube(cubes: Folder, plan: CubePlan, blocks: Collection[str]) -> None:
    """Remove all that is neither the plan's metadata nor a chunk of the named blocks."""
    target = cubes / cube_folder(plan.cube)
    wanted = {SEAL, *make_template(plan)}
    for block in plan.all_blocks:
        if block.name in blocks:
            wanted.update(chunk_paths(plan, block))
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
    _check_markers(layout.markers(plan.cube), records)
    layout.blocks.write(f"{plan.cube}.json", canonical_json(records))
    digests = {block: record["digests"] for block, record in records.items()}
    seal(
        layout.cubes,
        plan,
        digests,
        not_fetched=sorted(left_out),
        **{name: note for name, note in notes.items() if note},
    )
    layout.building.remove_folder(plan.cube)


def _check_markers(markers: Folder, records: Mapping[str, Any]) -> None:
    """See that no other run, such as the tasks of a killed client, wrote over this one's blocks."""
    for name, record in records.items():
        if json.loads(markers.read(f"{name}.json")) != record:
            markers.remove(f"{name}.json")
            raise StoreError(f"block {name} was written by another run as well; run again")
