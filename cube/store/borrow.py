"""Blocks that another cube of the same area holds already: taken from there, not fetched again."""

from __future__ import annotations

from collections.abc import Iterator

from cube.run.layout import Layout, aoi_stem
from cube.run.lock import NamedLocks
from cube.scenes.plan import CubePlan, canonical_json

from .resume import BlockRecords, chunk_paths, read_records
from .template import cube_folder


def borrow_blocks(layout: Layout, plan: CubePlan, kept: BlockRecords, locks: NamedLocks) -> BlockRecords:
    """Copy what other cubes of the plan's area hold of its blocks, and leave their markers.

    Parameters
    ----------
    kept
        Records of the blocks that the plan's cube holds itself.
    locks
        Of this run. A cube that another run has locked is passed over: it may change.

    Returns
    -------
    dict
        The records of the blocks that were copied.
    """
    blocks = {b.name: b for b in plan.all_blocks if b.name not in kept}
    markers, borrowed = layout.markers(plan.cube), BlockRecords()
    for other in _other_cubes(layout, plan):
        if not blocks:
            break
        if locks.take(other):
            continue
        try:
            for name, record in read_records(layout, other).items():
                if name not in blocks or plan.block_fingerprint(blocks[name]) != record["fingerprint"]:
                    continue
                _copy_chunks(layout, other, plan, chunk_paths(plan, blocks.pop(name)))
                markers.write(f"{name}.json", canonical_json(record))
                borrowed[name] = record
        finally:
            locks.release(other)
    return borrowed


def _other_cubes(layout: Layout, plan: CubePlan) -> Iterator[str]:
    for name in layout.cubes.names(".zarr"):
        cube = name.removesuffix(".zarr")
        if cube != plan.cube and cube.startswith(f"{aoi_stem(plan.aoi_index)}_"):
            yield cube


def _copy_chunks(layout: Layout, source: str, plan: CubePlan, paths: list[str]) -> None:
    for path in paths:
        layout.cubes.copy(f"{cube_folder(source)}/{path}", f"{cube_folder(plan.cube)}/{path}")
    (layout.cubes / cube_folder(plan.cube)).sync_files(paths)
