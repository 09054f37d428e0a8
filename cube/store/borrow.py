"""Blocks that another cube of the same area holds already: taken from there, not fetched again."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from cube.errors import StoreError
from cube.run.layout import Layout, index_of
from cube.run.named_locks import NamedLocks
from cube.scenes.plan import CubePlan, canonical_json
from cube.windows.grid import Block

from .open import read_array
from .resume import BlockRecords, Resumed, chunk_paths, in_form, is_sharded, read_records
from .sealed import reading
from .template import cube_folder
from .write import write_block


def cubes_by_aoi(layout: Layout) -> defaultdict[int, set[str]]:
    """Return what the cubes of each area are called, by one listing."""
    found: defaultdict[int, set[str]] = defaultdict(set)
    for name in layout.cubes.names(".zarr"):
        cube = name.removesuffix(".zarr")
        if (index := index_of(cube)) is not None:
            found[index].add(cube)
    return found


def borrow_blocks(
    layout: Layout, plan: CubePlan, resumed: Resumed, others: Iterable[str], locks: NamedLocks
) -> BlockRecords:
    """Copy what other cubes of the plan's area hold of its blocks, and leave their markers.

    Between cubes of one form files are copied; else pixels are, and are written as a read's.

    Parameters
    ----------
    resumed
        The plan's cube, with the records of the blocks that it holds itself; its metadata are on
        disk.
    others
        What the area's cubes are called.
    locks
        Of this run. A cube that another run has locked is passed over: it may change.

    Returns
    -------
    dict
        The records of the blocks that were copied.
    """
    blocks = {b.name: b for b in plan.all_blocks if b.name not in resumed.records}
    markers, borrowed = layout.markers(plan.cube), BlockRecords()
    for other in sorted(set(others) - {plan.cube}):
        if not blocks:
            break
        if locks.take(other):
            continue
        try:
            for name, record in read_records(layout, other).items():
                if name not in blocks or plan.block_fingerprint(blocks[name]) != record["fingerprint"]:
                    continue
                if not _take_block(layout, other, record, plan, blocks[name], resumed):
                    continue
                del blocks[name]
                borrowed[name] = in_form(record, sharded=resumed.is_sharded)
                markers.write(f"{name}.json", canonical_json(borrowed[name]))
        finally:
            locks.release(other)
    return borrowed


def _take_block(
    layout: Layout, source: str, record: Mapping[str, Any], plan: CubePlan, block: Block, resumed: Resumed
) -> bool:
    """Let a block of another cube be the plan's, too; False if it is not what was written once."""
    if is_sharded(record) is resumed.is_sharded:
        _copy_chunks(layout, source, plan, chunk_paths(plan, block, sharded=resumed.is_sharded))
        return True
    static = plan.sensor(block.sensor).sensor.is_static
    roi = block.roi if static else (block.time, *block.roi)
    for band, digest in record["digests"].items():
        path = f"{block.sensor}/{band}"
        try:
            with reading(source, path):
                values = read_array(layout.cubes, source, path, roi)
        except StoreError:
            return False
        form = resumed.is_sharded
        if write_block(layout.cubes, plan.cube, block, band, values, is_sharded=form) != digest:
            return False
    return True


def _copy_chunks(layout: Layout, source: str, plan: CubePlan, paths: list[str]) -> None:
    for path in paths:
        layout.cubes.copy(f"{cube_folder(source)}/{path}", f"{cube_folder(plan.cube)}/{path}")
    (layout.cubes / cube_folder(plan.cube)).sync_files(paths)
