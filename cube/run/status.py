"""What has become of every AOI: ``aoi_metadata.geojson``, kept true throughout a run."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any

from shapely.geometry import mapping

from cube.config.aoi import Aoi, aoi_label

from .storage import Folder

AOI_METADATA = "aoi_metadata.geojson"
_WRITE_EVERY_S = 1.0


class AoiState(StrEnum):
    """How far an AOI has come."""

    PENDING = "pending"
    BUILDING = "building"
    BUILT = "built"
    SKIPPED = "skipped"
    """The scenes that it needs do not exist; not a failure."""
    FAILED = "failed"
    """Something went wrong that another run may mend."""


@dataclass(frozen=True)
class AoiStatus:
    """One AOI's row."""

    status: AoiState = AoiState.PENDING
    reason: str = ""
    tries: int = 0
    """Runs that began to build it."""
    done: float = 0.0
    """Share of its blocks that are on disk."""
    epsg: int | None = None
    width_m: int | None = None
    height_m: int | None = None
    chips: Mapping[str, int] = field(default_factory=dict)
    """Windows by verdict, once phase two has run."""
    cube: str = ""
    """The cube that this version has of the AOI, or is building: ``aoi_000003_0123456789ab``."""
    plan: str = ""
    """The plan that it follows, or the record of why it was skipped."""
    name: str = ""
    """The AOI's own, from its file."""
    id: str = ""
    lost: Sequence[Mapping[str, str]] = field(default_factory=list)
    """Scenes that the AOI does without, since their files are missing or broken for good: item,
    asset, cause."""

    def label(self, index: int) -> str:
        """Return what people are shown of the AOI: its number, and its name or id."""
        return aoi_label(index, self.name or self.id)


class StatusBoard:
    """The rows of all AOIs, kept in memory and on disk.

    Parameters
    ----------
    aois
        AOIs of this config; rows of others that are in the file already stay.
    """

    def __init__(self, folder: Folder, aois: Iterable[Aoi]) -> None:
        self._folder = folder
        found = {index: (_at_rest(row), outline) for index, (row, outline) in _read_rows(folder).items()}
        mine = {aoi.index: aoi for aoi in aois}
        self._outlines = {index: outline for index, (_, outline) in found.items()} | {
            index: mapping(aoi.geometry) for index, aoi in mine.items()
        }
        self._rows = {index: AoiStatus() for index in mine} | {
            index: row for index, (row, _) in found.items()
        }
        for index, aoi in mine.items():
            self._rows[index] = replace(self._rows[index], name=aoi.name, id=aoi.id)
        self._lines: dict[int, str] = {}
        """Rows as they are written; of thousands, a change makes one anew."""
        self._written_at = 0.0

    def __getitem__(self, index: int) -> AoiStatus:
        """Return an AOI's row."""
        return self._rows[index]

    @property
    def rows(self) -> dict[int, AoiStatus]:
        """All rows, by AOI index."""
        return dict(sorted(self._rows.items()))

    def update(self, index: int, **changes: Any) -> None:
        """Change an AOI's row; the file follows at once, or in 1 s if only ``done`` moves."""
        row = replace(self._rows[index], **changes)
        if row == self._rows[index] and index in self._lines:  # it stands so in the file
            return
        self._rows[index] = row
        self._lines.pop(index, None)
        if set(changes) != {"done"} or time.monotonic() - self._written_at > _WRITE_EVERY_S:
            self.write()

    def write(self) -> None:
        """Write the file."""
        for index in self._rows.keys() - self._lines.keys():
            self._lines[index] = _compact_json(self._feature(index)).decode()
        lines = ",".join(line for _, line in sorted(self._lines.items()))
        text = f'{{"type":"FeatureCollection","features":[{lines}]}}'
        self._folder.write(AOI_METADATA, text.encode())
        self._written_at = time.monotonic()

    def _feature(self, index: int) -> dict[str, Any]:
        return {
            "type": "Feature",
            "properties": {"aoi_index": index, **asdict(self._rows[index])},
            "geometry": self._outlines[index],
        }


def read_rows(folder: Folder, aois: Iterable[Aoi], *, at_work: bool) -> dict[int, AoiStatus]:
    """Return the rows of AOIs as they are on disk, by index; nothing is written.

    Parameters
    ----------
    aois
        Those of a config; one that no run has met is pending.
    at_work
        Whether a run is at work: without one, no area is being built, whatever its row says.
    """
    found = {index: row for index, (row, _) in _read_rows(folder).items()}
    rows = {}
    for aoi in aois:
        row = replace(found.get(aoi.index, AoiStatus()), name=aoi.name, id=aoi.id)
        rows[aoi.index] = row if at_work else _at_rest(row)
    return rows


def record_chips(folder: Folder, verdicts: Mapping[int, Mapping[str, int]]) -> None:
    """Write each AOI's windows by verdict into ``aoi_metadata.geojson``, if there is one."""
    try:
        document = json.loads(folder.read(AOI_METADATA))
    except FileNotFoundError:
        return
    for feature in document["features"]:
        properties = feature["properties"]
        properties["chips"] = dict(sorted(verdicts.get(properties["aoi_index"], {}).items()))
    folder.write(AOI_METADATA, _compact_json(document))


def _compact_json(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def _read_rows(folder: Folder) -> dict[int, tuple[AoiStatus, Any]]:
    try:
        features = json.loads(folder.read(AOI_METADATA))["features"]
    except (FileNotFoundError, ValueError, KeyError):
        return {}
    rows = {}
    for feature in features:
        properties = dict(feature["properties"])
        index = properties.pop("aoi_index")
        row = AoiStatus(**{**properties, "status": AoiState(properties["status"])})
        rows[index] = (row, feature["geometry"])
    return rows


def _at_rest(row: AoiStatus) -> AoiStatus:
    """Return a row as it is when no run is at work: one that was killed leaves some that build."""
    return replace(row, status=AoiState.PENDING) if row.status is AoiState.BUILDING else row
