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
_RENEW_S = 20.0
_STALE_S = 3 * _RENEW_S
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
        if other := locks.take(_LOCK, patience_s=_STALE_S):
            raise BusyError(f"{folder}: another run ({other}) works here; wait for it, or stop it")
        yield
    finally:
        locks.release_all()


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
        holder = self._take_object(name)
        deadline = time.monotonic() + patience_s
        while holder and time.monotonic() < deadline:
            time.sleep(max(0.0, min(patience_s / 60, deadline - time.monotonic())))
            if name not in self._seen:  # it has given a sign, or is a process of this host
                break
            holder = self._take_object(name)
        return holder

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
        if not self._folder.create(name, _owner()):
            theirs = _read_lock(self._folder, name)
            if theirs and self._is_alive(name, theirs):
                return _who(theirs)
            self._folder.remove(name)
            if not self._folder.create(name, _owner()):
                return _who(_read_lock(self._folder, name))
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
    try:
        return folder.read(name)
    except FileNotFoundError:
        return b""


def _who(owner: bytes) -> str:
    try:
        record = json.loads(owner)
        return f"process {record['process']} on {record['host']}"
    except (ValueError, KeyError, TypeError):
        return "its owner is unknown"
