"""What a comparison of two releases, A and B, holds; and its JSON."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

SCHEMA_VERSION = 1
_NUMBER = re.compile(r"_\d{4}\.js$")
"""How the names of the browser's files end, of which there may be hundreds."""


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two releases."""

    name: str
    version: str
    chips: int
    fingerprint: str
    """SHA-256 of its ``SHA256SUMS``."""

    @property
    def title(self) -> str:
        """Name and version."""
        return f"{self.name} {self.version}"


@dataclass(frozen=True, slots=True)
class SettingChange:
    """A setting that differs; one side lacks it where it is not among its ``sides``."""

    key: str
    a: Any
    b: Any
    sides: str
    """``ab``, or the one of them that has the key."""


@dataclass(frozen=True, slots=True)
class ClassShift:
    """A class and its chips."""

    code: int
    name: str
    a: int
    b: int
    share_a: float
    share_b: float
    kept: int
    """Chips of A's that B has at the same cell, whatever B calls their class."""
    gone: int
    new: int

    @property
    def shift(self) -> float:
        """By how much the share of all chips grew, from -1 to 1."""
        return self.share_b - self.share_a


@dataclass(frozen=True, slots=True)
class ChipMove:
    """A chip that one of the two has, and why the other has not."""

    cell: str
    id: int
    """In the release that has it."""
    aoi_index: int
    lulc: int
    reason: str
    """A verdict, such as ``impure``, or another word of :mod:`release.compare.reasons`."""
    detail: str
    """What was found, and what the other release asks for."""


@dataclass(frozen=True, slots=True)
class ChipChange:
    """A field of a chip that both have, and that differs."""

    cell: str
    id_a: int
    id_b: int
    field: str
    a: Any
    b: Any


@dataclass(frozen=True, slots=True)
class SceneChange:
    """Other scenes under the chips of an AOI that both have."""

    aoi_index: int
    """In A."""
    sensor: str
    number: int
    """Of the time range, from 1; 0 for a layer without dates."""
    date_a: str
    date_b: str
    """``YYYYMMDD``; empty for a layer without dates."""
    scenes_a: str
    scenes_b: str
    """Ids, those of a mosaic joined by ``+``."""
    chips: int


@dataclass(frozen=True, slots=True)
class RasterChange:
    """A raster of a chip that both have, whose file differs."""

    cell: str
    sensor: str
    number: int
    """Of the time range, from 1; 0 for a layer without dates."""
    file_a: str
    file_b: str
    pixels: int
    """Pixels that differ in a band that both have; where data begins or ends, too."""
    of: int
    nodata: int
    """Of them, pixels that have data on one side alone."""
    bands: tuple[str, ...]
    """Bands that differ."""
    largest: float | None
    mean: float | None
    """Largest and mean difference, absolute, as stored, of what has data on both sides; None of
    classes."""
    note: str = ""
    """Why pixels were not compared, or what else differs."""


@dataclass(frozen=True, slots=True)
class FileChange:
    """A file that differs otherwise: missing, or no raster."""

    file: str
    side: str
    """The one that lacks it; empty where both have it."""
    what: str


@dataclass(frozen=True, slots=True)
class AoiChange:
    """Another state of an AOI, by its index."""

    aoi_index: int
    a: str
    b: str
    """State and reason; empty where the release does not have the AOI."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """All that differs between A and B; chips are the same where their ``cell`` is."""

    a: Side
    b: Side
    settings: tuple[SettingChange, ...]
    fields_gone: tuple[str, ...]
    """Fields of A's table that B's has not."""
    fields_new: tuple[str, ...]
    classes: tuple[ClassShift, ...]
    kept: tuple[str, ...]
    """Cells of the chips that both have."""
    gone: tuple[ChipMove, ...]
    new: tuple[ChipMove, ...]
    changes: tuple[ChipChange, ...]
    """Other values of a field, classes and splits among them."""
    scenes: tuple[SceneChange, ...]
    rasters: tuple[RasterChange, ...]
    files: tuple[FileChange, ...]
    areas: tuple[AoiChange, ...]
    same_rasters: int
    """Rasters of chips that both have, whose bytes are the same."""

    @property
    def differs(self) -> bool:
        """Whether anything does."""
        lists = (self.settings, self.fields_gone, self.fields_new, self.gone, self.new, self.changes)
        more = (self.scenes, self.rasters, self.files, self.areas)
        return any((*lists, *more)) or self.a.fingerprint != self.b.fingerprint

    @property
    def file_lines(self) -> list[tuple[str, str]]:
        """What to tell of files, and of numbered ones together: ``browse_layers_*.js (5)``."""
        members: dict[tuple[str, str], list[str]] = defaultdict(list)
        for one in self.files:
            what = f"{one.what} in {one.side.upper()}" if one.side else one.what
            members[_NUMBER.sub("_*.js", one.file), what].append(one.file)
        return [
            (names[0] if len(names) == 1 else f"{kind} ({len(names)})", what)
            for (kind, what), names in members.items()
        ]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, as the JSON has them."""
        plain = asdict(self)
        shifts = {one.code: one.shift for one in self.classes}
        for one in plain["classes"]:
            one["shift"] = shifts[one["code"]]
        return {"schema_version": SCHEMA_VERSION, "differs": self.differs, **plain}

    def to_json(self) -> bytes:
        """Write JSON; equal releases give equal bytes."""
        return (json.dumps(self.to_dict(), indent=1, ensure_ascii=False) + "\n").encode()


def flattened(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Return nested settings by dotted key; lists stay values.

    Examples
    --------
    >>> flattened({"chips": {"min_clear": {"s2l2a": 1.0}, "classes": [1, 2]}})
    {'chips.min_clear.s2l2a': 1.0, 'chips.classes': [1, 2]}
    """
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{above}.{key}" if above else str(key)
        if isinstance(value, Mapping) and value:
            flat |= flattened(value, name)
        else:
            flat[name] = value
    return flat
