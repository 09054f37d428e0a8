"""What blocks note of the files that they were read from: versions, and what those left out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from typing import Any

from cube.scenes.plan import CubePlan
from cube.store.resume import BlockRecords

File = tuple[str, str]
"""Item and asset."""


def changed_files(records: BlockRecords) -> list[File]:
    """Return the files that changed meanwhile: blocks hold different versions; in order."""
    versions: dict[File, set[str]] = defaultdict(set)
    for record in records.values():
        for item, asset, version in record.get("files", ()):
            versions[item, asset].add(version)
    return sorted(file for file, found in versions.items() if len(found) > 1)


def blocks_of_files(records: BlockRecords, files: Collection[File]) -> list[str]:
    """Return the names of the blocks that hold pixels of any of the files, in order."""
    return sorted(
        name
        for name, record in records.items()
        if any((item, asset) in files for item, asset, _ in record.get("files", ()))
    )


def unsaid_by_files(plan: CubePlan, records: BlockRecords) -> dict[str, Any]:
    """Return what the notes of a cube's blocks come to, as attributes of its root.

    Returns
    -------
    dict
        ``placed_by_item``: files whose place only their items know; ``nodata_by_table``: by sensor
        and band, what was taken for nodata where neither file nor item names it. Empty where there
        is nothing to tell.
    """
    placed = {tuple(one) for record in records.values() for one in record.get("placed_by_item", ())}
    nodata: dict[str, dict[str, float]] = {}
    for block in plan.all_blocks:
        if found := records.get(block.name, {}).get("nodata_by_table"):
            nodata.setdefault(block.sensor, {}).update(found)
    return {
        "placed_by_item": [{"item": i, "asset": a, "by_item": facts} for i, a, facts in sorted(placed)],
        "nodata_by_table": {sensor: dict(sorted(bands.items())) for sensor, bands in nodata.items()},
    }
