"""Who works where: one run in a version's folder, and one at a cube that versions share.

On a disk the system's own file lock is held, and let go however the process ends. An object store
has none: there a lock object is created with a conditional put and renewed while the run lasts; one
that has not been renewed for a while belonged to a run that died.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator

from cube.errors import BusyError, StoreError

from .storage import DiskFolder, Folder, disk_errors

_LOG = logging.getLogger(__name__)

_LOCK = ".lock"
_PART = ".lock-of-"
"""What the locks of parts of a folder begin with."""
_WAIT_S = 0.2
_RENEW_S = 20.0
_STALE_S = 3 * _RENEW_S
_SETTLE_S = 1.0
"""What another run may need from its last look at a dead run's lock until it removes it."""
_THIS_RUN = uuid.uuid4().hex
"""Tells this process from an earlier one of the same host and number."""


@contextlib.contextmanager
def hold(folder: Folder) -> Iterator[None]:
    """Hold a folder while the ``with`` statement runs.

    Raises
    ------
    BusyError
        If another run holds it, or works beside others in it (:func:`share`).
    """
    locks = NamedLocks(folder)
    try:
        _take_or_refuse(locks, folder, _LOCK)
        if not isinstance(folder, DiskFolder):
            for part in _parts(folder):  # whoever wrote its lock first is seen by the other
                _refuse(folder, locks.holder(part, patience_s=_STALE_S))
        yield
    finally:
        locks.release_all()


@contextlib.contextmanager
def hold_part(folder: Folder, part: str, if_alone: Callable[[], None]) -> Iterator[None]:
    """Hold a part of a folder while the ``with`` statement runs; other runs may hold other parts.

    Parameters
    ----------
    part
        What the part is called.
    if_alone
        Called at first if no other run holds the folder or a part of it; in an object store, where
        nobody can be sure of that, if none is seen.

    Raises
    ------
    BusyError
        If another run holds the folder, or this part.
    """
    locks, name = NamedLocks(folder), part_lock(part)
    folder.make()
    with contextlib.ExitStack() as stack:
        stack.callback(locks.release_all)
        if isinstance(folder, DiskFolder):
            handle = _open_lock(folder, _LOCK)
            stack.callback(os.close, handle)
            with contextlib.suppress(BlockingIOError):
                _lock(handle, folder, _LOCK, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.ftruncate(handle, 0)  # a killed run's name would be taken for this one's
                if_alone()
            _lock_beside_parts(handle, folder)
            _take_or_refuse(locks, folder, name)
        else:
            _take_or_refuse(locks, folder, name)
            _refuse(folder, locks.holder(_LOCK, patience_s=_STALE_S))
            if _parts(folder) == [name]:
                if_alone()
        yield


def _lock_beside_parts(handle: int, folder: DiskFolder) -> None:
    """Share a folder's lock with runs of other parts; one of them that clears up is waited for.

    Raises
    ------
    BusyError
        If a run holds the folder: it has its name in the lock, which a run of a part never has.
    """
    while True:
        try:
            _lock(handle, folder, _LOCK, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            _refuse(folder, _who_seems(os.pread(handle, 256, 0)))
            time.sleep(_WAIT_S)
        else:
            return


def _take_or_refuse(locks: NamedLocks, folder: Folder, name: str) -> None:
    other = locks.take(name, patience_s=_STALE_S)
    _refuse(folder, other and (who_holds(folder) or other))


def _refuse(folder: Folder, other: str) -> None:
    if other:
        raise BusyError(f"{folder}: another run ({other}) works here; wait for it, or stop it")


def part_lock(part: str) -> str:
    """Return the file name of the lock of a part of a folder."""
    return f"{_PART}{part}"


def parts_held(folder: Folder, *, patience_s: float = _STALE_S) -> list[str]:
    """Return which parts of a folder runs hold, this one's own among them.

    `patience_s` is how long to wait for a sign of life of each, in an object store: without, one
    that died on another host seems to hold its part.
    """
    locks = NamedLocks(folder)
    held = []
    for name in _parts(folder):
        if isinstance(folder, DiskFolder):
            is_held = bool(_who_seems(_read_lock(folder, name))) and _is_locked(folder, name)
        else:
            is_held = bool(locks.holder(name, patience_s=patience_s))
        if is_held:
            held.append(name.removeprefix(_PART))
    return held


def _is_locked(folder: DiskFolder, name: str) -> bool:
    handle = _open_lock(folder, name)
    try:
        _lock(handle, folder, name, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def _parts(folder: Folder) -> list[str]:
    """Return the locks of parts of a folder."""
    return [name for name in folder.names() if name.startswith(_PART)]


@contextlib.contextmanager
def share(folder: Folder, if_alone: Callable[[], None]) -> Iterator[None]:
    """Work in a folder beside other runs while the ``with`` statement runs.

    Parameters
    ----------
    folder
        On a disk nobody can :func:`hold` it meanwhile; an object store has no such lock.
    if_alone
        Called at first if no other run works in the folder or holds it.
    """
    if not isinstance(folder, DiskFolder):
        yield
        return
    folder.make()
    handle = _open_lock(folder, _LOCK)
    try:
        with contextlib.suppress(BlockingIOError):
            _lock(handle, folder, _LOCK, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if_alone()
        _lock(handle, folder, _LOCK, fcntl.LOCK_SH)
        yield
    finally:
        os.close(handle)


def who_holds(folder: Folder) -> str:
    """Return who seems to work in a folder, or nothing; reads only.

    A run of this machine that died is known to be gone. One of another is not: its lock stays until
    the next run takes it over.
    """
    parts = [name.removeprefix(_PART) for name in _parts(folder)]
    whole = _who_seems(_read_lock(folder, _LOCK))
    found = {whole: whole} if whole else {}
    for part in parts:  # of which a run may hold several
        if who := who_holds_part(folder, part):
            found.setdefault(who, f"{who} ({part})")
    others = f", and {len(found) - 1} more" if len(found) > 1 else ""
    return f"{next(iter(found.values()))}{others}" if found else ""


def who_holds_part(folder: Folder, part: str) -> str:
    """Return who seems to hold a part of a folder, or nothing; reads only."""
    return _who_seems(_read_lock(folder, part_lock(part)))


def _who_seems(owner: bytes) -> str:
    try:
        record = json.loads(owner)
        host, process = str(record["host"]), int(record["process"])
    except (ValueError, KeyError, TypeError):
        return ""
    is_gone = host == socket.gethostname() and not _is_running(process)
    return "" if is_gone else f"process {process} on {host}"


class NamedLocks:
    """Locks of one run, called by names of the folder that they lie in.

    Parameters
    ----------
    folder
        Made with the first lock.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._handles: dict[str, int] = {}
        self._objects: set[str] = set()
        self._seen: dict[str, tuple[bytes, float]] = {}
        self._stop: threading.Event | None = None
        self._renewing = threading.Lock()

    def take(self, name: str, *, patience_s: float = 0.0) -> str:
        """Take a lock if nobody has it; return who has it, or nothing once it is this run's.

        Parameters
        ----------
        name
            File name.
        patience_s
            How long to wait for a sign of life from another host's run, in an object store. Without
            patience, ask again later: signs are remembered from one time to the next.
        """
        if name in self._handles or name in self._objects:
            return ""
        self._folder.make()
        if isinstance(self._folder, DiskFolder):
            return self._take_file(self._folder, name)
        return self._patiently(self._take_object, name, patience_s)

    def holder(self, name: str, *, patience_s: float) -> str:
        """Return who holds a lock of an object store, or nothing; a dead run's is removed."""
        return self._patiently(self._look_at_object, name, patience_s)

    def _patiently(self, look: Callable[[str], str], name: str, patience_s: float) -> str:
        holder = look(name)
        deadline = time.monotonic() + patience_s
        while holder and time.monotonic() < deadline:
            time.sleep(max(0.0, min(patience_s / 60, deadline - time.monotonic())))
            if name not in self._seen:  # it has given a sign, or is a process of this host
                break
            holder = look(name)
        return holder

    def _look_at_object(self, name: str) -> str:
        owner = _read_lock(self._folder, name)
        if owner and self._is_alive(name, owner):
            return _who(owner)
        if owner:  # where there was none, another run may have made its own by now
            self._folder.remove(name)
        return ""

    def release(self, name: str) -> None:
        """Let a lock go; one that is not this run's stays."""
        handle = self._handles.pop(name, None)
        if handle is not None:
            if name != _LOCK:  # what others may wait for stays one file
                self._folder.remove(name)
            else:
                os.ftruncate(handle, 0)
            os.close(handle)
        if name in self._objects:
            with self._renewing:
                self._objects.discard(name)
                self._folder.remove(name)

    def release_all(self) -> None:
        """Let all locks of this run go."""
        if self._stop is not None:
            self._stop.set()
        for name in [*self._handles, *self._objects]:
            self.release(name)

    def _take_file(self, folder: DiskFolder, name: str) -> str:
        while True:
            handle = _open_lock(folder, name)
            try:
                _lock(handle, folder, name, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                owner = os.pread(handle, 256, 0)
                os.close(handle)
                return _who(owner)
            except StoreError:
                os.close(handle)
                raise
            if _is_at(handle, folder, name):
                break
            os.close(handle)  # it was let go, and removed, in between
        os.ftruncate(handle, 0)
        os.pwrite(handle, _owner(), 0)
        self._handles[name] = handle
        return ""

    def _take_object(self, name: str) -> str:
        mine = _owner()
        if not self._folder.create(name, mine):
            theirs = _read_lock(self._folder, name)
            if theirs and self._is_alive(name, theirs):
                return _who(theirs)
            if theirs:  # where it was let go, another run may have made its own by now
                self._folder.remove(name)
            if not self._folder.create(name, mine):
                return _who(_read_lock(self._folder, name))
            time.sleep(_SETTLE_S)  # who saw the dead run's lock, too, may remove this one for it
            if (now := _read_lock(self._folder, name)) != mine:
                return _who(now)
        self._seen.pop(name, None)
        self._objects.add(name)
        if self._stop is None:
            self._stop = threading.Event()
            threading.Thread(target=self._renew, args=(self._stop,), daemon=True).start()
        return ""

    def _is_alive(self, name: str, owner: bytes) -> bool:
        """Tell whether a lock's holder lives: it has a process on this host, or renews the lock."""
        try:
            record = json.loads(owner)
            here, process = record["host"] == socket.gethostname(), int(record["process"])
        except (ValueError, KeyError, TypeError):
            return False
        if here and process == os.getpid():  # a container that starts again has the same host and number
            return bool(record.get("run") == _THIS_RUN)
        if here:
            return _is_running(process)
        known, since = self._seen.get(name, (b"", 0.0))
        if known and known != owner:  # renewed since
            del self._seen[name]
            return True
        if not known:
            self._seen[name] = (owner, time.monotonic())
            return True
        return time.monotonic() - since < _STALE_S

    def _renew(self, stop: threading.Event) -> None:
        while not stop.wait(_RENEW_S):
            for name in list(self._objects):
                with self._renewing:
                    if name in self._objects:
                        self._renew_one(name)

    def _renew_one(self, name: str) -> None:
        try:
            self._folder.write(name, _owner())
        except StoreError as error:  # never renewed, it would be taken for a dead run's
            _LOG.warning("the lock was not renewed, which is tried again in %g s: %s", _RENEW_S, error)


def _open_lock(folder: DiskFolder, name: str) -> int:
    with disk_errors(f"{folder}/{name}"):
        return os.open(folder.path / name, os.O_RDWR | os.O_CREAT, 0o666)


def _lock(handle: int, folder: DiskFolder, name: str, how: int) -> None:
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


def _is_at(handle: int, folder: DiskFolder, name: str) -> bool:
    """Tell whether an open file is still the one of a name."""
    try:
        return os.path.samestat(os.fstat(handle), (folder.path / name).stat())
    except FileNotFoundError:
        return False


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # another user's
        return True
    return True


def _owner() -> bytes:
    """Return who holds the lock; new at every renewal."""
    owner = {
        "host": socket.gethostname(),
        "process": os.getpid(),
        "run": _THIS_RUN,
        "renewal": uuid.uuid4().hex,
    }
    return json.dumps(owner).encode()


def _read_lock(folder: Folder, name: str) -> bytes:
    """Return what a lock says, or nothing where there is none."""
    try:
        return folder.read(name) or b"?"
    except FileNotFoundError:
        return b""


def _who(owner: bytes) -> str:
    try:
        record = json.loads(owner)
        return f"process {record['process']} on {record['host']}"
    except (ValueError, KeyError, TypeError):
        return "its owner is unknown"
