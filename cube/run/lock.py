"""One run at a time in a working folder.

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
from collections.abc import Iterator

from cube.errors import BusyError, StoreError

from .storage import DiskFolder, Folder, disk_errors

_LOG = logging.getLogger(__name__)

_LOCK = ".lock"
_RENEW_S = 20.0
_STALE_S = 3 * _RENEW_S


@contextlib.contextmanager
def hold(folder: Folder) -> Iterator[None]:
    """Hold a working folder while the ``with`` statement runs.

    Raises
    ------
    BusyError
        If another run holds it.
    """
    with _hold_file(folder) if isinstance(folder, DiskFolder) else _hold_object(folder):
        yield


@contextlib.contextmanager
def _hold_file(folder: DiskFolder) -> Iterator[None]:
    with disk_errors(f"{folder}/{_LOCK}"):
        handle = os.open(folder.path / _LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _busy(folder, os.pread(handle, 256, 0)) from None
        os.ftruncate(handle, 0)
        os.pwrite(handle, _owner(), 0)
        try:
            yield
        finally:
            os.ftruncate(handle, 0)
    finally:
        os.close(handle)


@contextlib.contextmanager
def _hold_object(folder: Folder) -> Iterator[None]:
    if not folder.create(_LOCK, _owner()):
        theirs = _read_lock(folder)
        if _is_alive(folder, theirs):
            raise _busy(folder, theirs)
        folder.remove(_LOCK)
        if not folder.create(_LOCK, _owner()):
            raise _busy(folder, _read_lock(folder))
    stop = threading.Event()
    renewer = threading.Thread(target=_renew, args=(folder, stop), daemon=True)
    renewer.start()
    try:
        yield
    finally:
        stop.set()
        renewer.join()
        folder.remove(_LOCK)


def _renew(folder: Folder, stop: threading.Event) -> None:
    while not stop.wait(_RENEW_S):
        try:
            folder.write(_LOCK, _owner())
        except StoreError as error:  # never renewed, it would be taken for a dead run's
            _LOG.warning("the lock was not renewed, which is tried again in %g s: %s", _RENEW_S, error)


def _owner() -> bytes:
    """Return who holds the lock; new at every renewal."""
    owner = {"host": socket.gethostname(), "process": os.getpid(), "renewal": uuid.uuid4().hex}
    return json.dumps(owner).encode()


def _read_lock(folder: Folder) -> bytes:
    try:
        return folder.read(_LOCK)
    except FileNotFoundError:
        return b""


def _is_alive(folder: Folder, owner: bytes) -> bool:
    """Tell whether a lock's holder lives: it has a process on this host, or renews the lock."""
    try:
        record = json.loads(owner)
        here = record["host"] == socket.gethostname()
    except (ValueError, KeyError):
        return False
    if here:
        try:
            os.kill(record["process"], 0)
        except ProcessLookupError:
            return False
        except PermissionError:  # another user's
            return True
        return True
    time.sleep(_STALE_S)
    return _read_lock(folder) not in (owner, b"")


def _busy(folder: Folder, owner: bytes) -> BusyError:
    try:
        record = json.loads(owner)
        who = f"process {record['process']} on {record['host']}"
    except (ValueError, KeyError):
        who = "its owner is unknown"
    return BusyError(f"{folder}: another run ({who}) works here; wait for it, or stop it")
