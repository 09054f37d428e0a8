"""What has become of every AOI: ``aoi_metadata.geojson``, kept true throughout a run.

It is written anew at a change, but for no more than a twentieth of the time, and at the end. A run
that does a share of the areas keeps theirs in a file of its own, which is as true until it ends,
and then becomes part of the one.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any

from shapely.geometry import mapping
from shapely.geometry.base import BaseGeometry

from cube.config.aoi import Aoi, aoi_label

from .lock import who_holds_part
from .named_locks import NamedLocks, stop_if_lost
from .shards import Share
from .storage import Folder

_LOG = logging.getLogger(__name__)

AOI_METADATA = "aoi_metadata.geojson"
_UNREADABLE = ".unreadable"
_SHARDS = "shards"
"""Folder of the rows that runs of a share keep."""
_MERGING = ".lock-merging"
_WAIT_S = 0.2
_WRITE_EVERY_S = 1.0
_MOST_SHARE = 20
"""Times as long as a write took, nothing is written after it but at the end."""


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
    seen: str = ""
    """Digest of all that the cube was found to follow: while it is the same, nobody looks again."""
    lost: Sequence[Mapping[str, str]] = field(default_factory=list)
    """Scenes that the AOI does without, since their files are missing or broken for good: item,
    asset, cause."""

    def label(self, index: int) -> str:
        """Return what people are shown of the AOI: its number, and its name or id."""
        return aoi_label(index, self.name or self.id)


class StatusBoard:
    """The rows of AOIs, kept in memory and on disk.

    Parameters
    ----------
    aois
        AOIs of this config; rows of others that are in the file already stay.
    shard
        The share of a run that is one of several: `aois` are its own.
    """

    def __init__(self, folder: Folder, aois: Iterable[Aoi], shard: Share | None = None) -> None:
        self._folder = folder
        self._file = AOI_METADATA if shard is None else f"{_SHARDS}/{shard.name}.geojson"
        mine = {aoi.index: aoi for aoi in aois}
        found = _rows_or_none(folder)
        if shard is not None:
            found = {index: found[index] for index in mine.keys() & found.keys()}
        self._outlines: dict[int, BaseGeometry | Mapping[str, Any]] = {
            index: outline for index, (_, outline) in found.items()
        }
        self._outlines |= {index: aoi.geometry for index, aoi in mine.items()}
        self._rows = {index: AoiStatus() for index in mine}
        self._rows |= {index: _at_rest(row) for index, (row, _) in found.items()}
        for index, aoi in mine.items():
            self._rows[index] = replace(self._rows[index], name=aoi.name, id=aoi.id)
        self._lines: dict[int, str] = {}
        """Rows as they are written; of thousands, a change makes one anew."""
        self._next_write = self._next_done = 0.0

    def __getitem__(self, index: int) -> AoiStatus:
        """Return an AOI's row."""
        return self._rows[index]

    @property
    def rows(self) -> dict[int, AoiStatus]:
        """All rows, by AOI index."""
        return dict(sorted(self._rows.items()))

    def update(self, index: int, **changes: Any) -> None:
        """Change an AOI's row; the file follows soon."""
        row = replace(self._rows[index], **changes)
        if row == self._rows[index] and index in self._lines:  # it stands so in the file
            return
        self._rows[index] = row
        self._lines.pop(index, None)
        if time.monotonic() >= (self._next_done if set(changes) == {"done"} else self._next_write):
            self.write()

    def write(self) -> None:
        """Write the file, which is another run's once it has taken over.

        Raises
        ------
        BusyError
            If it has.
        """
        stop_if_lost()
        began = time.monotonic()
        for index in self._rows.keys() - self._lines.keys():
            self._lines[index] = _compact_json(self._feature(index)).decode()
        lines = ",".join(line for _, line in sorted(self._lines.items()))
        text = f'{{"type":"FeatureCollection","features":[{lines}]}}'
        self._folder.write(self._file, text.encode())
        ended = time.monotonic()
        self._next_write = ended + _MOST_SHARE * (ended - began)
        self._next_done = max(ended + _WRITE_EVERY_S, self._next_write)

    def close(self) -> None:
        """Write the file for the last time; one of a share becomes part of the one."""
        self.write()
        if self._file != AOI_METADATA:
            merge_shard(self._folder, self._file)

    def _feature(self, index: int) -> dict[str, Any]:
        outline = self._outlines[index]
        return {
            "type": "Feature",
            "properties": {"aoi_index": index, **asdict(self._rows[index])},
            "geometry": mapping(outline) if isinstance(outline, BaseGeometry) else outline,
        }


def read_features(folder: Folder) -> list[dict[str, Any]]:
    """Return the rows of a version's folder as GeoJSON features, by AOI index; reads only.

    Where runs share the areas, each has its own in a file until it ends.

    Raises
    ------
    FileNotFoundError
        If there are none.
    ValueError, KeyError, TypeError
        If a file is not what it should be.
    """
    shards = [f"{_SHARDS}/{name}" for name in (folder / _SHARDS).names(".geojson")]
    found: dict[int, dict[str, Any]] = {}
    for name in (*shards, AOI_METADATA):  # a share that ends meanwhile is in the last by then
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            found = _laid_over(_features_in(folder, name), found)
    if not found and not folder.exists(AOI_METADATA):
        raise FileNotFoundError(AOI_METADATA)
    return [feature for _, feature in sorted(found.items())]


def merge_shard(folder: Folder, name: str) -> None:
    """Make the rows that a run of a share leaves part of the one file; others may do so, too.

    A file that cannot be read stays, under a name that nobody reads.
    """
    locks = NamedLocks(folder)
    try:
        while locks.take(_MERGING):
            time.sleep(_WAIT_S)
        try:
            rows = _features_in(folder, name)
        except FileNotFoundError:  # another run has done so
            return
        except (ValueError, KeyError, TypeError) as error:
            folder.move(name, f"{name}{_UNREADABLE}")
            _LOG.warning(
                "%s/%s: cannot be read (%s), and stays there as %s; its areas are looked at by the next run",
                *(folder, name, error, f"{name}{_UNREADABLE}"),
            )
            return
        found: dict[int, dict[str, Any]] = {}
        with contextlib.suppress(FileNotFoundError, ValueError, KeyError, TypeError):
            found = _features_in(folder, AOI_METADATA)
        folder.write(AOI_METADATA, _collection(_laid_over(found, rows)))
        folder.remove(name)
    finally:
        locks.release_all()


def merge_left_shards(folder: Folder) -> None:
    """Do so with what killed runs of a share left; only while the folder is held.

    What they left half-written is removed.
    """
    (folder / _SHARDS).sweep()
    for name in (folder / _SHARDS).names(".geojson"):
        merge_shard(folder, f"{_SHARDS}/{name}")


def cut_off_shards(folder: Folder) -> list[Share]:
    """Return the shares whose runs have left rows and are at work no more; reads only."""
    found = []
    for name in sorted((folder / _SHARDS).names(".geojson")):
        with contextlib.suppress(ValueError):  # nothing of ours
            found.append(Share.named(name.removesuffix(".geojson")))
    return [shard for shard in found if not who_holds_part(folder, shard.name)]


def read_rows(folder: Folder, aois: Iterable[Aoi], *, at_work: bool) -> dict[int, AoiStatus]:
    """Return the rows of AOIs as they are on disk, by index; nothing is written.

    Parameters
    ----------
    aois
        Those of a config; one that no run has met is pending.
    at_work
        Whether a run is at work: without one, no area is being built, whatever its row says.
    """
    found = {index: row for index, (row, _) in _rows_or_none(folder).items()}
    rows = {}
    for aoi in aois:
        row = replace(found.get(aoi.index, AoiStatus()), name=aoi.name, id=aoi.id)
        rows[aoi.index] = row if at_work else _at_rest(row)
    return rows


def record_chips(folder: Folder, verdicts: Mapping[int, Mapping[str, int]]) -> None:
    """Write each AOI's windows by verdict into ``aoi_metadata.geojson``, if there is one."""
    try:
        found = _features_in(folder, AOI_METADATA)
    except FileNotFoundError:
        return
    for index, feature in found.items():
        feature["properties"]["chips"] = dict(sorted(verdicts.get(index, {}).items()))
    folder.write(AOI_METADATA, _collection(found))


def _features_in(folder: Folder, name: str) -> dict[int, dict[str, Any]]:
    features = json.loads(folder.read(name))["features"]
    return {feature["properties"]["aoi_index"]: feature for feature in features}


def _laid_over(
    below: dict[int, dict[str, Any]], rows: dict[int, dict[str, Any]]
) -> dict[int, dict[str, Any]]:
    """Return a share's rows laid over others, but for those that a later run has come further with.

    A killed run of 1/2 may have left older ones than those that runs of thirds have made since.
    """
    newer = {
        index: row
        for index, row in rows.items()
        if index not in below or _progress(row) >= _progress(below[index])
    }
    return below | newer


def _progress(feature: Mapping[str, Any]) -> tuple[int, bool]:
    """Return how often an area was begun, and whether it came to an end."""
    row = feature["properties"]
    return row.get("tries", 0), row.get("status") not in (AoiState.PENDING, AoiState.BUILDING)


def _collection(features: Mapping[int, Mapping[str, Any]]) -> bytes:
    in_order = [feature for _, feature in sorted(features.items())]
    return _compact_json({"type": "FeatureCollection", "features": in_order})


def _compact_json(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def _rows_or_none(folder: Folder) -> dict[int, tuple[AoiStatus, Any]]:
    """Return rows and outlines by index; none where there are none that can be read."""
    try:
        features = read_features(folder)
    except (FileNotFoundError, ValueError, KeyError, TypeError):
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
