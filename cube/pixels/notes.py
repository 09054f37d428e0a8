"""What is noted of files while a block is read from them: all that they left to others to say."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any


@dataclass
class ReadNotes:
    """Notes of the reads of one block, from several threads."""

    placed_by_item: set[tuple[str, str, str]] = field(default_factory=set)
    """Item, asset, and what of its place the file does not say and the item does."""
    nodata_by_table: dict[str, float] = field(default_factory=dict)
    """By band: what was taken for nodata where neither file nor item names it."""

    def to_json(self) -> dict[str, Any]:
        """Return the notes as plain JSON, without those that are empty."""
        notes: dict[str, Any] = {
            "placed_by_item": sorted(map(list, self.placed_by_item)),
            "nodata_by_table": dict(sorted(self.nodata_by_table.items())),
        }
        return {name: note for name, note in notes.items() if note}

    def nodata(self, band: str, value: float) -> float:
        """Note that a band's nodata is the sensor table's, and return it; NaN needs no word."""
        if not math.isnan(value):
            self.nodata_by_table[band] = value
        return value
