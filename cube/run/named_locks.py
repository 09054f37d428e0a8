"""Locks by name, each one run's until it lets it go, or is found to have lost it.

On a disk the system's own file lock is held, and let go however the process ends. An object store
has none: there a lock object is created with a conditional put and renewed while the run lasts; one
that has not been renewed for a while belonged to a run that died.

Or to one that slept, as on a laptop that was shut, or had no network. So a run looks, before it
renews a lock and before it goes on after a silence (:func:`stop_if_lost`), whether the lock still
says that it is its own: what another run has taken over is neither written over nor removed. The
same holds of files on a disk, since a network file system may give a silent client's locks away.
Between that look and what follows no storage lets us be sure: object stores heed what is there with
a put of what is new alone. A run that falls asleep right then writes over the other's lock; it is
the other that stops, when it looks next.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from weakref import WeakSet

from cube.errors import BusyError, StoreError

from .storage import DiskFolder, Folder, disk_errors

_LOG = logging.getLogger(__name__)

LOCK = ".lock"
"""The lock of a whole folder; what the names of others in it begin with, too."""
_RENEW_S = 20.0
_SURE_S = 2 * _RENEW_S
"""For so long after it was seen last, a lock is its run's without another look."""
_STALE_S = 3 * _RENEW_S
_SETTLE_S = 1.0
"""What another run may need from its last look at a dead run's lock until it removes it."""
_MOST_BYTES = 1024
"""Of what a lock says."""
_THIS_RUN = uuid.uuid4().hex
"""Tells this process from an earlier one of the same host and number."""


class _Thread(threading.local):
    def __init__(self) -> None:
        self.locks: WeakSet[NamedLocks] = WeakSet()


_THREAD = _Thread()


def stop_if_lost() -> None:
    """End a run between two steps if another has taken over a lock that this thread took.

    Costs nothing while the locks were seen a moment ago, and in threads that took none.

    Raises
    ------
    BusyError
        Says which lock, whose it is now, and what to do.
    """
    for locks in tuple(_THREAD.locks):
        locks.stop_if_lost()


@dataclass(frozen=True)
class Owner:
    """Whose a lock is, as is written in it."""

    host: str
    process: int
    run: str = ""
    """Tells a process from an earlier one of the same host and number."""
    holder: str = ""
    """Tells the locks of a run from those of others in its process."""
    since: str = ""
    """UTC."""

    @classmethod
    def now(cls, holder: str) -> Owner:
        """Return this process as an owner from now on."""
        since = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
        return cls(socket.gethostname(), os.getpid(), _THIS_RUN, holder, since)

    @classmethod
    def read(cls, text: bytes) -> Owner | None:
        """Read a lock; None where it does not say whose it is."""
        try:
            record = json.loads(text)
            others = (str(record.get(name, "")) for name in ("run", "holder", "since"))
            return cls(str(record["host"]), int(record["process"]), *others)
        except (ValueError, KeyError, TypeError, AttributeError):
            return None

    def __str__(self) -> str:
        """Return what people are told."""
        return f"process {self.process} on {self.host}"

    @property
    def is_here(self) -> bool:
        """Whether it is a process of this host."""
        return self.host == socket.gethostname()

    @property
    def is_gone(self) -> bool:
        """Whether it was a process of this host that runs no more."""
        return self.is_here and not _is_running(self.process)

    def to_json(self) -> bytes:
        """Return what is written in the lock; new at every renewal."""
        return json.dumps({**asdict(self), "renewal": uuid.uuid4().hex}).encode()


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


def read_lock(folder: Folder, name: str) -> bytes:
    """Return what a lock says, or nothing where there is none."""
    try:
        return folder.read(name) or b"?"
    except FileNotFoundError:
        return b""


def _who(text: bytes) -> str:
    return str(Owner.read(text) or "its owner is unknown")


@dataclass
class _Held:
    """A lock that is this run's."""

    owner: Owner
    handle: int | None
    """Of the locked file, on a disk."""
    seen_at: float
    """When the last look began that found it so; by the clock, which goes on while one sleeps."""

    @property
    def is_sure(self) -> bool:
        """Whether no other run can have taken it over since."""
        return 0 <= time.time() - self.seen_at < _SURE_S


class NamedLocks:
    """Locks of one run, called by names of the folder that they lie in.

    Parameters
    ----------
    folder
        Made with the first lock.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._holder = uuid.uuid4().hex
        self._held: dict[str, _Held] = {}
        self._loss = ""
        """What to say of the first lock that was lost."""
        self._seen: dict[str, tuple[bytes, float]] = {}
        self._stop: threading.Event | None = None
        self._looking = threading.Lock()

    def take(self, name: str, *, patient: bool = False) -> str:
        """Take a lock if nobody has it; return who has it, or nothing once it is this run's.

        Parameters
        ----------
        name
            File name.
        patient
            Wait for a sign of life from another host's run, in an object store. Without patience,
            ask again later: signs are remembered from one time to the next.

        Raises
        ------
        BusyError
            If this run has lost a lock that it took before.
        """
        stop_if_lost()
        if name in self._held:
            return ""
        self._folder.make()
        if isinstance(self._folder, DiskFolder):
            other = self._take_file(self._folder, name)
        else:
            other = self._patiently(self._take_object, name, patient=patient)
        if not other:
            _THREAD.locks.add(self)
        return other

    def stop_if_lost(self) -> None:
        """End the run between two steps if another has taken over one of these locks."""
        if not all(held.is_sure for held in list(self._held.values())):
            with self._looking:
                for name in [name for name, held in self._held.items() if not held.is_sure]:
                    self._renew_one(name)
        if self._loss:
            raise BusyError(self._loss)

    def holder(self, name: str, *, patient: bool = True) -> str:
        """Return who holds a lock of an object store, or nothing; a dead run's is removed."""
        return self._patiently(self._look_at_object, name, patient=patient)

    def _patiently(self, look: Callable[[str], str], name: str, *, patient: bool) -> str:
        holder = look(name)
        deadline = time.monotonic() + _STALE_S
        while holder and patient and time.monotonic() < deadline:
            time.sleep(max(0.0, min(_STALE_S / 60, deadline - time.monotonic())))
            if name not in self._seen:  # it has given a sign, or is a process of this host
                break
            holder = look(name)
        return holder

    def _look_at_object(self, name: str) -> str:
        owner = read_lock(self._folder, name)
        if owner and self._is_alive(name, owner):
            return _who(owner)
        if owner:  # where there was none, another run may have made its own by now
            self._folder.remove(name)
        return ""

    def release(self, name: str) -> None:
        """Let a lock go; one that is not this run's, or not any more, stays."""
        with self._looking:
            if name in self._held and not self._held[name].is_sure:
                self._renew_one(name)
            held = self._held.pop(name, None)
            if held is None:
                return
            if held.handle is not None and name == LOCK:  # what others may wait for stays one file
                os.ftruncate(held.handle, 0)
            elif held.is_sure:
                self._folder.remove(name)
            if held.handle is not None:
                os.close(held.handle)

    def release_all(self) -> None:
        """Let all locks of this run go."""
        if self._stop is not None:
            self._stop.set()
            self._stop = None
        for name in list(self._held):
            self.release(name)
        _THREAD.locks.discard(self)
        self._loss = ""

    def _take_file(self, folder: DiskFolder, name: str) -> str:
        while True:
            handle = open_lock(folder, name)
            try:
                flock(handle, folder, name, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                theirs = read_handle(handle)
                os.close(handle)
                return _who(theirs)
            except StoreError:
                os.close(handle)
                raise
            if _is_at(handle, folder, name):
                break
            os.close(handle)  # it was let go, and removed, in between
        owner, now = Owner.now(self._holder), time.time()
        try:
            with disk_errors(f"{folder}/{name}"):
                os.ftruncate(handle, 0)
                os.pwrite(handle, owner.to_json(), 0)
        except StoreError:
            os.close(handle)
            raise
        self._held[name] = _Held(owner, handle, now)
        return ""

    def _take_object(self, name: str) -> str:
        owner, now = Owner.now(self._holder), time.time()
        mine = owner.to_json()
        if not self._create(name, mine):
            theirs = read_lock(self._folder, name)
            if theirs and self._is_alive(name, theirs):
                return _who(theirs)
            if theirs:  # where it was let go, another run may have made its own by now
                self._folder.remove(name)
            now = time.time()
            if not self._create(name, mine):
                return _who(read_lock(self._folder, name))
            time.sleep(_SETTLE_S)  # who saw the dead run's lock, too, may remove this one for it
            if (there := read_lock(self._folder, name)) != mine:
                return _who(there)
        self._seen.pop(name, None)
        self._held[name] = _Held(owner, None, now)
        if self._stop is None:
            self._stop = threading.Event()
            threading.Thread(target=self._renew, args=(self._stop,), daemon=True).start()
        return ""

    def _create(self, name: str, mine: bytes) -> bool:
        """Make a lock if there is none.

        A client that loses the answer asks once more, and is refused for what it has made itself.
        """
        return self._folder.create(name, mine) or read_lock(self._folder, name) == mine

    def _is_alive(self, name: str, text: bytes) -> bool:
        """Tell whether a lock's holder lives: it has a process on this host, or renews the lock."""
        owner = Owner.read(text)
        if owner is None:
            return False
        if owner.is_here and owner.process == os.getpid():
            return owner.run == _THIS_RUN  # a container that starts again has the same host and number
        if owner.is_here:
            return not owner.is_gone
        known, since = self._seen.get(name, (b"", 0.0))
        if known and known != text:  # renewed since
            del self._seen[name]
            return True
        if not known:
            self._seen[name] = (text, time.monotonic())
            return True
        return time.monotonic() - since < _STALE_S

    def _renew(self, stop: threading.Event) -> None:
        while not stop.wait(_RENEW_S):
            for name in list(self._held):
                with self._looking:
                    if name in self._held:
                        self._renew_one(name)

    def _renew_one(self, name: str) -> None:
        """Look whether a lock is this run's, and give a sign of life, or note that it is lost."""
        held, now = self._held[name], time.time()
        try:
            there = read_lock(self._folder, name)
            owner = Owner.read(there)
            if owner is None or owner.holder != self._holder:
                self._lose(name, there)
                return
            if held.handle is None:
                self._folder.write(name, held.owner.to_json())
            held.seen_at = now
        except (OSError, StoreError) as error:  # never renewed, it would be taken for a dead run's
            _LOG.warning("the lock was not renewed, which is tried again in %g s: %s", _RENEW_S, error)

    def _lose(self, name: str, there: bytes) -> None:
        """Note that a lock is another run's now, or gone: then another had it, or has others."""
        owner = Owner.read(there) or self._owner_beside(name)
        held = self._held.pop(name)
        if held.handle is not None:
            os.close(held.handle)
        if owner is not None:
            since = f", since {owner.since}" if owner.since else ""
            what = f"another run ({owner}{since}) has taken it over"
            mend = "start again once that run has ended"
        else:
            what = "another run has taken it over, and ended, or somebody has removed it"
            mend = "start again"
        where = f"{self._folder}/{name}"
        self._loss = self._loss or (
            f"{where}: this run gave no sign of life for a while (its machine slept, or had no network), "
            f"and {what}; {mend}"
        )

    def _owner_beside(self, name: str) -> Owner | None:
        """Return whose a folder is whose lock, or a part's, is gone: who holds it removes those."""
        others = [one for one in self._folder.names() if one.startswith(LOCK)] if name == LOCK else [LOCK]
        owners = (Owner.read(read_lock(self._folder, one)) for one in others)
        return next((owner for owner in owners if owner and owner.run != _THIS_RUN), None)


def open_lock(folder: DiskFolder, name: str) -> int:
    """Open the file of a lock, and make it where there is none."""
    with disk_errors(f"{folder}/{name}"):
        return os.open(folder.path / name, os.O_RDWR | os.O_CREAT, 0o666)


def flock(handle: int, folder: DiskFolder, name: str, how: int) -> None:
    """Lock an open file.

    Raises
    ------
    BlockingIOError
        If another run has it, and `how` is not to wait.
    StoreError
        If the file system has no locks.
    """
    try:
        fcntl.flock(handle, how)
    except BlockingIOError:
        raise
    except OSError as error:
        raise StoreError(
            f"{folder}/{name}: this file system knows no locks ({error.strerror}); mount it with them "
            "(NFS: with its lock daemon, or local_lock=flock), or set another directory"
        ) from None


def read_handle(handle: int) -> bytes:
    """Return what an open lock says."""
    return os.pread(handle, _MOST_BYTES, 0)


def _is_at(handle: int, folder: DiskFolder, name: str) -> bool:
    """Tell whether an open file is still the one of a name."""
    try:
        return os.path.samestat(os.fstat(handle), (folder.path / name).stat())
    except FileNotFoundError:
        return False
