"""What a run keeps of a cube on disk, what it clears away, and how the cube is sealed again.

Beside an unfinished cube lies a folder of markers, one per block on disk; beside a sealed one the
same records in one file. Neither is proof of anything without the cube. Versions share cubes, so a
sealed cube that gets further blocks, or another provenance, stays sealed: what its seal promises is
there at every moment.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from cube.errors import StoreError
from cube.run.layout import Layout
from cube.run.storage import Folder
from cube.scenes.plan import CubePlan, canonical_json
from cube.windows.grid import Block, stored_px

from .sealed import read_seal
from .template import SEAL, cube_folder, make_template
from .write import chunk_keys, seal

BlockRecords = dict[str, dict[str, Any]]
"""By block name: the fingerprint of what made it, and SHA-256 by band."""
_SHARDED = "sharded"
"""Key of a record whose block lies in shards."""


@dataclass(frozen=True)
class Resumed:
    """What a run goes on with, of a cube that is new or was begun before."""

    is_sharded: bool
    """Whether a block's chunks lie in one file for each band."""
    template: Mapping[str, bytes]
    """Metadata files, by path."""
    records: BlockRecords
    """Of the blocks that are on disk."""


def is_sharded(record: Mapping[str, Any]) -> bool:
    """Tell whether a record is that of a block in shards."""
    return bool(record.get(_SHARDED))


def in_form(record: Mapping[str, Any], *, sharded: bool) -> dict[str, Any]:
    """Return a block's record as it is where the block lies in shards, or does not."""
    bare = {key: value for key, value in record.items() if key != _SHARDED}
    return {**bare, _SHARDED: True} if sharded else bare


def read_records(layout: Layout, cube: str) -> BlockRecords:
    """Return the records of a cube's blocks, sealed or not; none without the cube."""
    if not (layout.cubes / cube_folder(cube)).names():
        return {}
    sealed = layout.blocks.exists(f"{cube}.json") and read_seal(layout.cubes, cube) is not None
    records: BlockRecords = json.loads(layout.blocks.read(f"{cube}.json")) if sealed else {}
    markers = layout.markers(cube)
    marked = markers.read_files(markers.names(".json"))
    return records | {name.removesuffix(".json"): json.loads(data) for name, data in marked.items()}


def keep_blocks(layout: Layout, plan: CubePlan, *, sharded: bool = False) -> Resumed:
    """Find the blocks on disk that a plan would make again, and clear everything else away.

    The records of a sealed cube turn into markers. Its seal goes only if it promises what is not
    there.

    Parameters
    ----------
    sharded
        The form of a cube that is begun now; one that holds blocks keeps its own.
    """
    markers = layout.markers(plan.cube)
    expected = {block.name: plan.block_fingerprint(block) for block in plan.all_blocks}
    found = read_records(layout, plan.cube)
    kept = {name: record for name, record in found.items() if expected.get(name) == record["fingerprint"]}
    forms = {is_sharded(record) for record in kept.values()}
    form = sharded if len(forms) != 1 else forms.pop()
    kept = {name: record for name, record in kept.items() if is_sharded(record) is form}
    template = make_template(plan, is_sharded=form)
    marked = {name.removesuffix(".json") for name in markers.names(".json")}
    for name in kept.keys() - marked:
        markers.write(f"{name}.json", canonical_json(kept[name]))
    for name in marked - kept.keys():
        markers.remove(f"{name}.json")
    if not _promised(layout.cubes, plan) <= kept.keys():
        (layout.cubes / cube_folder(plan.cube)).remove(SEAL)
        layout.blocks.remove(f"{plan.cube}.json")
    stored = {
        path
        for block in plan.all_blocks
        if block.name in kept
        for path in chunk_paths(plan, block, sharded=form)
    }
    _sweep_cube(layout.cubes, plan, {SEAL, *template, *stored})
    return Resumed(form, template, kept)


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


def chunk_paths(plan: CubePlan, block: Block, *, sharded: bool) -> list[str]:
    """Return where the chunks, or shards, of a block lie in its cube; those all nodata, too."""
    sensor_plan = plan.sensor(block.sensor)
    stored = stored_px(plan.geobox(block.sensor), is_sharded=sharded)
    keys = list(chunk_keys(block, stored, is_static=sensor_plan.sensor.is_static))
    return [f"{block.sensor}/{band}/c/{key}" for band in sensor_plan.bands for key in keys]


def _sweep_cube(cubes: Folder, plan: CubePlan, wanted: Collection[str]) -> None:
    """Remove all files of a plan's cube but those that are wanted."""
    target = cubes / cube_folder(plan.cube)
    for path in list(target.files()):
        if path not in wanted:
            target.remove(path)
    target.prune()


def close_cube(
    layout: Layout,
    plan: CubePlan,
    template: Mapping[str, bytes],
    records: BlockRecords,
    left_out: Collection[str],
    **notes: Any,
) -> None:
    """Seal a cube whose wanted blocks are all on disk, and put their records into one file.

    Parameters
    ----------
    template
        The plan's metadata, as they were written.
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
        template,
        digests,
        not_fetched=sorted(left_out),
        **{name: note for name, note in notes.items() if note},
    )
    layout.building.remove_folder(plan.cube)


def _check_markers(markers: Folder, records: Mapping[str, Any]) -> None:
    """See that no other run, such as the tasks of a killed client, wrote over this one's blocks."""
    there = markers.read_files(f"{name}.json" for name in records)
    for name, record in records.items():
        if json.loads(there.get(f"{name}.json", b"null")) != record:
            markers.remove(f"{name}.json")
            raise StoreError(f"block {name} was written by another run as well; run again")
