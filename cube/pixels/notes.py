"""What is noted of files while a block is read: their versions, and what they leave unsaid."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from typing import Any

import rasterio

_VERSION_DIGITS = 12


@dataclass
class ReadNotes:
    """Notes of the reads of one block, from several threads."""

    placed_by_item: set[tuple[str, str, str]] = field(default_factory=set)
    """Item, asset, and what of its place the file does not say and the item does."""
    nodata_by_table: dict[str, float] = field(default_factory=dict)
    """By band: what was taken for nodata where neither file nor item names it."""
    files: set[tuple[str, str, str]] = field(default_factory=set)
    """Item, asset and version of each file that was opened."""

    def to_json(self) -> dict[str, Any]:
        """Return the notes as plain JSON, without those that are empty."""
        notes: dict[str, Any] = {
            "placed_by_item": sorted(map(list, self.placed_by_item)),
            "nodata_by_table": dict(sorted(self.nodata_by_table.items())),
            "files": sorted(map(list, self.files)),
        }
        return {name: note for name, note in notes.items() if note}

    def nodata(self, band: str, value: float) -> float:
        """Note that a band's nodata is the sensor table's, and return it; NaN needs no word."""
        if not math.isnan(value):
            self.nodata_by_table[band] = value
        return value


def version_of(source: rasterio.DatasetReader) -> str:
    """Return what tells a file from another that is put in its place, as far as its header does.

    Of a TIFF it is, beside size, dtype, place and nodata, where its last tile lies and how long it
    is: what is compressed otherwise lies elsewhere. It takes no request of its own, and no clock.
    """
    height, width = source.block_shapes[0]
    last = f"{(source.width - 1) // width}_{(source.height - 1) // height}"
    facts = (
        source.shape,
        source.dtypes[0],
        tuple(source.transform),
        source.nodata,
        *(source.get_tag_item(f"BLOCK_{fact}_{last}", "TIFF", bidx=1) for fact in ("OFFSET", "SIZE")),
    )
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:_VERSION_DIGITS]
