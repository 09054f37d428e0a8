"""Runs that share the making of one release: what they leave each other until it is there.

Shards are dealt out. Each run makes its own first, and then whatever shard no run is at, so that
what a killed run leaves, or one that has not begun, holds nobody up; it waits for shards that
others are at. One of the runs then writes what is of the whole, and zips are dealt out as shards
were. What is done is noted in the folder in which the release is made, until all is.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version as program_version
from typing import Any

from cube.errors import BusyError
from cube.run.lock import part_lock, parts_held
from cube.run.named_locks import NamedLocks
from cube.run.shards import Share
from cube.run.storage import DiskFolder, Folder
from cube.run.tasks import Engine, Result
from cube.scenes.plan import canonical_json
from release.opening.checksums import SUMS_NAME, sha256
from release.sharding import ChipShard

from .shards import (
    ROUND_NAME,
    ShardDone,
    ShardedRelease,
    ShardTask,
    ZipTask,
    making_name,
    write_shard,
    zip_shard,
    zips_of,
)

_PART, _LOCK = "release-", ".lock-release-"
"""What parts of the output folder are called that such runs hold, and how their locks begin."""
_NOTES = "notes"
_WRITTEN, _ZIPPED = ".written", ".zipped"
"""What notes of a shard end with."""
_SUMS, _WHOLE = "sums", "whole"
"""Notes of the whole: the SHA-256 of its checksums before it takes its place, and that it has."""
_KEY_DIGITS = 12
_WAIT_S = 1.0

MakeWay = Callable[[bool | None], None]
"""Sees that what is in the release's place may be replaced: a different one (False), or none."""


def share_part(version: str, own: Share) -> str:
    """Name the part of the output folder that the run of a share holds."""
    return f"{_PART}{version}-{own.name}"


def clear_locks(output: Folder) -> None:
    """Remove locks of killed runs; only while no run is at work.

    In an object store, where nobody can be sure of that, they go as a run meets them.
    """
    if isinstance(output, DiskFolder):
        for name in output.names():
            if name.startswith((_LOCK, part_lock(_PART))):
                output.remove(name)


class SharedRelease:
    """A release in shards that this run makes beside others.

    Parameters
    ----------
    made
        What is to be there.
    output
        Holds the release's folder; this run holds its part of it.
    own
        The share of the shards that this run begins with.
    version, stem
        What the release's folder is called, and how the names of its zips begin.
    force
        Replace a different release of this version.
    """

    def __init__(
        self, made: ShardedRelease, output: Folder, own: Share, version: str, stem: str, *, force: bool
    ) -> None:
        self._made, self._output, self._own, self._force = made, output, own, force
        self._version, self._stem, self._zipped = version, stem, made.config.directory.zip_output
        facts = {"program": program_version("gelos-lc"), "zips": self._zipped}
        self._key = sha256(canonical_json({**made.contents.own_sums, **facts}))
        self._making = output / making_name(self._version)
        self._notes = self._making / _NOTES
        self._locks = NamedLocks(output)  # the folder in which it is made may go at any moment

    def write(self, make_way: MakeWay) -> bool:
        """See that the release is there; tell whether this run wrote of it.

        Raises
        ------
        BusyError
            If other runs are at another release of this version.
        """
        try:
            if not self._begin(make_way):
                return False
            written = 0
            if not self._notes.exists(_WHOLE):
                written = self._write_shards()
                written += self._once(_WHOLE, self._write_whole)
            if self._zipped:
                written += self._zip_shards()
            return written + self._once("end", self._end) > 0
        finally:
            self._locks.release_all()

    def _begin(self, make_way: MakeWay) -> bool:
        """Join the runs that are at it, or begin; False: all is there already."""
        release = self._output / self._version
        while True:
            seen, is_alone = _digest_of(release, SUMS_NAME), not self._has_company()
            found = self._made.seems_there(release, self._own) if is_alone else None
            with self._locked("begin"):
                if self._has_company():
                    self._join()
                    return True
                if not is_alone or _digest_of(release, SUMS_NAME) != seen:  # others have ended meanwhile
                    continue
                self._refuse_others()
                if found and (not self._zipped or self._zips_are_there()):
                    self._output.remove_folder(making_name(self._version), ROUND_NAME)
                    return False
                self._begin_anew(make_way, found)
                self._join()
                return True

    def _begin_anew(self, make_way: MakeWay, found: bool | None) -> None:  # noqa: FBT001  three answers
        """Begin, as the first run; `found` tells whether the release is there already.

        What runs have noted that were all killed is not believed: chips may be others by now. Their
        shards are looked at, and kept.
        """
        if not found:
            make_way(found)
        self._making.remove_folder(_NOTES)
        if found:
            self._notes.write(_WHOLE, b"")
        else:
            self._made.make_room(self._output, self._version)
        self._making.write(ROUND_NAME, canonical_json({"key": self._key}))

    def _at_work(self) -> str:
        """Return which release runs are at, or nothing."""
        try:
            return str(json.loads(self._making.read(ROUND_NAME))["key"])
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return ""

    def _is_at_work(self) -> bool:
        """Tell whether runs are at this very release, and have not ended."""
        return self._at_work() == self._key

    def _has_company(self) -> bool:
        """Tell whether other runs are at this very release."""
        if not self._is_at_work():
            return False
        held = parts_held(self._output, patient=False)
        return any(part.startswith(self._part(self._key)) for part in held)

    def _part(self, key: str) -> str:
        return f"{_PART}{self._version}-{key[:_KEY_DIGITS]}-"

    def _join(self) -> None:
        self._locks.take(part_lock(f"{self._part(self._key)}{self._own.name}"))

    def _refuse_others(self) -> None:
        """Refuse to begin while runs are at another release of this version."""
        other = self._at_work()
        held = [part for part in parts_held(self._output) if other and part.startswith(self._part(other))]
        if held:
            names = ", ".join(part.removeprefix(self._part(other)) for part in held)
            raise BusyError(
                f"{self._output}: other runs (shares {names}) make {self._version} of other chips or settings; "
                "wait for them, or stop them"
            )

    def _zips_are_there(self) -> bool:
        return set(self._made.zip_names(self._stem)) <= set(zips_of(self._output, self._stem))

    def _write_shards(self) -> int:
        place, tallies = self._made.places(self._output, self._version)

        def task_of(shard: ChipShard) -> ShardTask:
            return self._made.task_of(shard, place, tallies)

        def note(done: ShardDone) -> dict[str, Any]:
            return {"digest": done.digest, "tally": done.tally}

        return self._do_all(_WRITTEN, "shards", write_shard, task_of, note)

    def _zip_shards(self) -> int:
        place = self._output.absolute()

        def task_of(shard: ChipShard) -> ZipTask:
            return ZipTask.of(shard, place, self._version, self._stem, force=self._force)

        return self._do_all(_ZIPPED, "zips", zip_shard, task_of, lambda written: {"written": written})

    def _do_all(
        self,
        ending: str,
        doing: str,
        function: Callable[[Any], Result],
        task_of: Callable[[ChipShard], Any],
        note: Callable[[Result], dict[str, Any]],
    ) -> int:
        """See that something is done for all shards, by whichever run; return for how many by this.

        Parameters
        ----------
        ending
            Of the notes that tell for which shards it is done.
        doing
            What it is called in the tale of progress.
        function
            Does it with a task; in a worker.
        task_of
            Makes the task of a shard.
        note
            What is noted of what `function` returned.
        """
        in_turn, did = self._own.first_of(self._made.shards), 0
        scope = f"{self._output.url}#{share_part(self._version, self._own)}"
        with self._made.open_engine() as engine:
            engine.wait_for_earlier_tasks(scope)
            while left := self._left(in_turn, ending):
                free = _FreeShards(map(task_of, self._lock_free(left, ending)), engine)
                for outcome in engine.run(function, free, scope):
                    shard = outcome.task.shard
                    self._notes.write(f"{shard.name}{ending}", canonical_json(note(outcome.get())))
                    self._locks.release(self._lock(shard.name))
                    free.at_work -= 1
                    did += 1
                    self._tell(doing, ending)
                if not free.taken:
                    time.sleep(_WAIT_S)
        return did

    def _left(self, shards: Sequence[ChipShard], ending: str) -> list[ChipShard]:
        """Return the shards for which something is not done; none once all is."""
        done = set(self._notes.names(ending))
        left = [shard for shard in shards if f"{shard.name}{ending}" not in done]
        return left if left and self._is_at_work() else []

    def _lock_free(self, shards: Sequence[ChipShard], ending: str) -> Iterator[ChipShard]:
        """Yield the shards that no run is at; this run is, then."""
        for shard in shards:
            if self._locks.take(self._lock(shard.name)):
                continue
            if self._left([shard], ending):
                yield shard
            else:
                self._locks.release(self._lock(shard.name))

    def _tell(self, doing: str, ending: str) -> None:
        if self._made.progress is not None:
            self._made.progress(doing, len(self._notes.names(ending)), len(self._made.shards))

    def _once(self, what: str, do: Callable[[], None]) -> int:
        """Let one of the runs do what concerns all shards; return 1 if it was this one."""
        while self._is_at_work() and not self._notes.exists(what):
            if self._locks.take(self._lock(what)):
                time.sleep(_WAIT_S)
                continue
            try:
                if self._is_at_work() and not self._notes.exists(what):
                    do()
                    return 1
            finally:
                self._locks.release(self._lock(what))
        return 0

    def _write_whole(self) -> None:
        """Write what lies in no shard, and let the release take its place."""
        release = self._output / self._version
        is_in_place = self._notes.exists(_SUMS) and self._notes.read(_SUMS).decode() == _digest_of(
            release, SUMS_NAME
        )
        if not is_in_place:
            done = [self._done(shard) for shard in self._made.shards]
            sums = self._made.write_top(self._output, self._version, done)
            self._notes.write(_SUMS, sha256(sums).encode())
            self._made.show(self._output, self._version)
        self._notes.write(_WHOLE, b"")

    def _done(self, shard: ChipShard) -> ShardDone:
        return ShardDone(shard, **json.loads(self._notes.read(f"{shard.name}{_WRITTEN}")))

    def _end(self) -> None:
        """Zip what lies in no shard, and clear away what runs left each other."""
        if self._zipped:
            self._made.write_top_zip(self._output, self._version, self._stem, force=self._force)
        self._output.remove_folder(making_name(self._version), ROUND_NAME)

    def _lock(self, what: str) -> str:
        return f"{_LOCK}{self._version}-{what}"

    @contextlib.contextmanager
    def _locked(self, what: str) -> Iterator[None]:
        """Let no other run be at something meanwhile."""
        while self._locks.take(self._lock(what)):
            time.sleep(_WAIT_S)
        try:
            yield
        finally:
            self._locks.release(self._lock(what))


class _FreeShards:
    """Gives tasks of shards as they are taken, and not more than can run: others may do the rest.

    Parameters
    ----------
    tasks
        Each of a shard that is locked as the task is drawn.
    engine
        Runs them.
    """

    def __init__(self, tasks: Iterator[Any], engine: Engine) -> None:
        self._tasks, self._engine = tasks, engine
        self.at_work = self.taken = 0

    def take(self, count: int) -> Sequence[Any]:
        """Return the next tasks."""
        room = min(count, self._engine.slots - self.at_work)
        tasks = list(itertools.islice(self._tasks, max(room, 0)))
        self.at_work += len(tasks)
        self.taken += len(tasks)
        return tasks


def _digest_of(folder: Folder, name: str) -> str:
    try:
        return sha256(folder.read(name))
    except FileNotFoundError:
        return ""
