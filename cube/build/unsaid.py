"""What the files of a cube did not say, and who was believed instead: a part of its provenance."""

from __future__ import annotations

from typing import Any

from cube.scenes.plan import CubePlan
from cube.store.resume import BlockRecords


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
