"""Runs that share the areas of a version: what they leave each other until all chips are there.

Areas are dealt out as `count` shares. Each run does its own share first, and then whatever share no
run is at, so that what a killed run leaves, or one that has not begun, holds nobody up; it waits
for shares that others are at. All shares are scored before any window is chosen. Whoever ends last
writes the tables of all, and clears away their folder ``choosing-...``.
"""

from __future__ import annotations

import io
import json
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cube.errors import BusyError, StoreError
from cube.run.layout import EXPORTING, Layout
from cube.run.lock import part_lock, parts_held
from cube.run.named_locks import NamedLocks
from cube.run.shards import Share
from cube.run.storage import Folder
from cube.scenes.plan import canonical_json

from .areas import Candidates
from .records import read_choice

PART = "chip-"
"""What the locks of such runs begin with."""
_FOLDER = "choosing-"
_LOCK = f".lock-{_FOLDER}"
_BEGINNING = ".lock-beginning"
_KEY_DIGITS = 12
_WAIT_S = 1.0
_BEGUN, _SCORED, _DONE = ".begun", ".parquet", ".json"
_LAST = "end"


@dataclass(frozen=True)
class ShareRecord:
    """What became of the windows of a share's areas."""

    verdicts: Mapping[int, Mapping[str, int]] = field(default_factory=dict)
    """Windows by AOI index and verdict."""
    classes: Mapping[int, int] = field(default_factory=dict)
    """Chips by land-cover class."""
    cells: tuple[str, ...] = ()
    """Names of the chips."""
    written: int = 0
    kept: int = 0

    def to_json(self) -> bytes:
        """Return the record as it is written."""
        return canonical_json(vars(self))

    @classmethod
    def from_json(cls, data: bytes) -> ShareRecord:
        """Read a record."""
        record: dict[str, Any] = json.loads(data)
        return cls(
            {int(index): found for index, found in record["verdicts"].items()},
            {int(code): count for code, count in record["classes"].items()},
            tuple(record["cells"]),
            record["written"],
            record["kept"],
        )


def _folder_name(found: Mapping[str, Any]) -> str:
    """Name the folder of a round: another one of the same key may follow while its runs end."""
    return f"{_FOLDER}{found['round'][:_KEY_DIGITS]}-{found['shares']}-{found['id']}"


def clear_rounds(layout: Layout, held: Collection[str] = ()) -> None:
    """Remove what runs of a share that were cut off have left; only while none is at work.

    `held` are parts of the folder that runs hold: some may be ending an earlier round.
    """
    in_use = set(map(part_lock, held))
    for name in layout.root.names():
        if name.startswith(_FOLDER):
            layout.root.remove_folder(name)
        elif name.startswith((_LOCK, part_lock(_FOLDER))) and name not in in_use:
            layout.root.remove(name)


class Round:
    """One time of choosing, which several runs share.

    Parameters
    ----------
    layout
        Of the version.
    key
        Digest of what is chosen from, and how: the same for all runs.
    own
        The share of this run.
    """

    def __init__(self, layout: Layout, key: str, own: Share) -> None:
        self._layout = layout
        self._key = key
        self._own = own
        self.shares = [Share(number, own.count) for number in range(1, own.count + 1)]
        self._record: dict[str, Any] = {}
        """Of this very round, as long as it is not at its end."""
        self._locks = NamedLocks(layout.root)  # the round's folder may go at any moment
        self.verify = False
        """Whether chips that are there are read before they are believed: an earlier run was cut
        off."""

    def begin(self) -> bool:
        """Join the round, or begin it; False: its chips are all there already.

        Raises
        ------
        BusyError
            If other runs are at another one.
        """
        beginning = NamedLocks(self._layout.root)
        try:
            while beginning.take(_BEGINNING):
                time.sleep(_WAIT_S)
            return self._join()
        finally:
            beginning.release_all()

    def _join(self) -> bool:
        root, mine = self._layout.root, {"round": self._key, "shares": self._own.count}
        found = self._found()
        if found is None and self._is_chosen() and self._chips_are_there():
            return False
        if found is None or any(found.get(name) != value for name, value in mine.items()):
            held = set(parts_held(root))
            self._refuse_others(found or {}, held)
            clear_rounds(self._layout, held)
            found = {**mine, "id": uuid.uuid4().hex[:_KEY_DIGITS], "verify": found is not None}
            root.write(EXPORTING, canonical_json(found))
        self._record = found
        self._locks.take(part_lock(f"{self._name}-{self._own.name}"), patient=True)
        self.verify = bool(found["verify"])
        return True

    @property
    def _name(self) -> str:
        return _folder_name(self._record)

    @property
    def _folder(self) -> Folder:
        return self._layout.root / self._name

    def _found(self) -> dict[str, Any] | None:
        """Return which round is not at its end; nothing is known of one of a single run."""
        try:
            found = dict(json.loads(self._layout.root.read(EXPORTING) or b"{}"))
        except FileNotFoundError:
            return None
        return found if "id" in found else {}

    def _refuse_others(self, found: Mapping[str, Any], held: Collection[str]) -> None:
        """Refuse to begin beside runs of another kind, and runs of the round that was found."""
        like_this = {f"{PART}{share.name}" for share in self.shares}
        others = {part for part in held if not part.startswith(_FOLDER)} - like_this
        if found:
            name = f"{_folder_name(found)}-"
            others |= {f"{PART}{part.removeprefix(name)}" for part in held if part.startswith(name)}
        if others:
            raise BusyError(
                f"{self._layout.root}: other runs ({', '.join(sorted(others))}) are at other cubes, settings "
                "or shares; wait for them, or stop them"
            )

    def close(self) -> None:
        """Leave the round: what this run was at is free for others."""
        self._locks.release_all()

    def is_at_work(self) -> bool:
        """Tell whether the round is not at its end; the next may have begun by then."""
        return self._found() == self._record

    def _is_chosen(self) -> bool:
        """Tell whether what there is was chosen as this round would."""
        try:
            return read_choice(self._layout.windows).key == self._key
        except (FileNotFoundError, StoreError):
            return False

    def _chips_are_there(self) -> bool:
        """Tell whether no chip of a round that is over went since."""
        chosen = read_choice(self._layout.windows).classes
        return len(self._layout.chips.names()) == sum(chosen.values())

    def score(self, find: Callable[[Share], list[Candidates]]) -> list[Candidates]:
        """See that all shares are scored; return the candidates of all areas, by AOI index.

        None of them once the round is over.
        """

        def do(share: Share) -> None:
            self._folder.write(f"{share.name}{_SCORED}", _to_parquet(find(share)))

        self._do_all(_SCORED, do)
        try:
            found = [self._folder.read(f"{share.name}{_SCORED}") for share in self.shares]
        except FileNotFoundError:
            if self.is_at_work():
                raise
            return []
        candidates = (one for data in found for one in _from_parquet(data))
        return sorted(candidates, key=lambda one: one.aoi_index)

    def cut(self, make: Callable[[Share, bool], ShareRecord]) -> tuple[int, int]:
        """See that the chips of all shares are there; return how many this run wrote and kept.

        `make` is told whether chips that are there have to be read.
        """
        written = kept = 0

        def do(share: Share) -> None:
            nonlocal written, kept
            begun = f"{share.name}{_BEGUN}"
            was_cut_off = self._folder.exists(begun)
            self._folder.write(begun, b"")
            record = make(share, self.verify or was_cut_off)
            written, kept = written + record.written, kept + record.kept
            self._folder.write(f"{share.name}{_DONE}", record.to_json())

        self._do_all(_DONE, do)
        return written, kept

    def end(self, finish: Callable[[Iterable[ShareRecord]], int]) -> int:
        """Let one of the runs finish what concerns all shares; return what that returns, or 0.

        Raises
        ------
        BusyError
            If other runs have ended the round to begin another one.
        """
        found = 0
        while self.is_at_work():
            if self._locks.take(self._lock(_LAST)):
                time.sleep(_WAIT_S)
                continue
            try:
                if self.is_at_work():
                    found = finish([self._done(share) for share in self.shares])
            finally:
                self._locks.release(self._lock(_LAST))
        self._layout.root.remove_folder(self._name)
        if not self._is_chosen():
            raise BusyError(
                f"{self._layout.root}: other runs have begun to choose anew, with other cubes, settings or shares; "
                "run this one again once they have ended"
            )
        return found

    def _lock(self, what: str) -> str:
        return f"{_LOCK}{self._name.removeprefix(_FOLDER)}-{what}"

    def _done(self, share: Share) -> ShareRecord:
        return ShareRecord.from_json(self._folder.read(f"{share.name}{_DONE}"))

    def _do_all(self, ending: str, do: Callable[[Share], None]) -> None:
        """Do, of all shares, what is not done; return once all are done, by whomever."""
        in_turn = [*self.shares[self._own.number - 1 :], *self.shares[: self._own.number - 1]]
        while left := list(self._left(in_turn, ending)):
            for share in left:
                if self._do_if_free(share, ending, do):
                    break
            else:
                time.sleep(_WAIT_S)

    def _left(self, shares: Iterable[Share], ending: str) -> Iterator[Share]:
        """Yield the shares that are not done; none once the round is over."""
        done = set(self._folder.names(ending))
        left = [share for share in shares if f"{share.name}{ending}" not in done]
        if left and self.is_at_work():
            yield from left

    def _do_if_free(self, share: Share, ending: str, do: Callable[[Share], None]) -> bool:
        """Do a share unless another run is at it; tell whether it is done now."""
        if self._locks.take(self._lock(share.name)):
            return False
        try:
            if list(self._left([share], ending)):
                do(share)
        finally:
            self._locks.release(self._lock(share.name))
        return True


def _to_parquet(found: Iterable[Candidates]) -> bytes:
    """Return candidates as a Parquet file: places, and in its header whose they are."""
    import pyarrow as pa
    from pyarrow import parquet

    areas = list(found)
    header = [[one.aoi_index, one.cube, one.epsg, one.windows, len(one.left_m)] for one in areas]
    columns = {
        name: pa.chunked_array([getattr(one, name) for one in areas], pa.int32())
        for name in ("left_m", "top_m")
    }
    table = pa.table(columns).replace_schema_metadata({"areas": json.dumps(header)})
    buffer = io.BytesIO()
    parquet.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def _from_parquet(data: bytes) -> Iterator[Candidates]:
    import pyarrow as pa
    from pyarrow import parquet

    table = parquet.read_table(pa.BufferReader(data), use_threads=False)
    areas = json.loads(table.schema.metadata[b"areas"])
    left, top = (table.column(name).to_numpy() for name in ("left_m", "top_m"))
    ends = np.cumsum([count for *_, count in areas]).tolist()
    for (index, cube, epsg, windows, count), end in zip(areas, ends, strict=True):
        own = slice(end - count, end)
        yield Candidates(index, cube, epsg, windows, left[own], top[own])
