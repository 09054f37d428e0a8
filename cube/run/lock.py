"""Who works where: one run in a version's folder, and one at a cube that versions share.

Runs of parts of a folder work beside each other, but not beside one of the whole.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Callable, Iterator

from cube.errors import BusyError

from .named_locks import LOCK, NamedLocks, Owner, flock, open_lock, read_handle, read_lock
from .storage import DiskFolder, Folder

_PART = f"{LOCK}-of-"
"""What the locks of parts of a folder begin with."""
_WAIT_S = 0.2


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
        _take_or_refuse(locks, folder, LOCK)
        for part in _parts(folder):
            if isinstance(folder, DiskFolder):  # left by a run that died, or lost its lock
                folder.remove(part)
            else:  # whoever wrote its lock first is seen by the other
                _refuse(folder, locks.holder(part))
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
            handle = open_lock(folder, LOCK)
            stack.callback(os.close, handle)
            with contextlib.suppress(BlockingIOError):
                flock(handle, folder, LOCK, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.ftruncate(handle, 0)  # a killed run's name would be taken for this one's
                if_alone()
            _lock_beside_parts(handle, folder)
            _take_or_refuse(locks, folder, name)
        else:
            _take_or_refuse(locks, folder, name)
            _refuse(folder, locks.holder(LOCK))
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
            flock(handle, folder, LOCK, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            _refuse(folder, _who_seems(read_handle(handle)))
            time.sleep(_WAIT_S)
        else:
            return


def _take_or_refuse(locks: NamedLocks, folder: Folder, name: str) -> None:
    other = locks.take(name, patient=True)
    _refuse(folder, other and (who_holds(folder) or other))


def _refuse(folder: Folder, other: str) -> None:
    if other:
        raise BusyError(f"{folder}: another run ({other}) works here; wait for it, or stop it")


def part_lock(part: str) -> str:
    """Return the file name of the lock of a part of a folder."""
    return f"{_PART}{part}"


def parts_held(folder: Folder, *, patient: bool = True) -> list[str]:
    """Return which parts of a folder runs hold, this one's own among them.

    `patient` is whether a sign of life of each is waited for, in an object store: without, one that
    died on another host seems to hold its part.
    """
    locks = NamedLocks(folder)
    held = []
    for name in _parts(folder):
        if isinstance(folder, DiskFolder):
            is_held = bool(_who_seems(read_lock(folder, name))) and _is_locked(folder, name)
        else:
            is_held = bool(locks.holder(name, patient=patient))
        if is_held:
            held.append(name.removeprefix(_PART))
    return held


def _is_locked(folder: DiskFolder, name: str) -> bool:
    handle = open_lock(folder, name)
    try:
        flock(handle, folder, name, fcntl.LOCK_SH | fcntl.LOCK_NB)
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
    handle = open_lock(folder, LOCK)
    try:
        with contextlib.suppress(BlockingIOError):
            flock(handle, folder, LOCK, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if_alone()
        flock(handle, folder, LOCK, fcntl.LOCK_SH)
        yield
    finally:
        os.close(handle)


def who_holds(folder: Folder) -> str:
    """Return who seems to work in a folder, or nothing; reads only.

    A run of this machine that died is known to be gone. One of another is not: its lock stays until
    the next run takes it over.
    """
    parts = [name.removeprefix(_PART) for name in _parts(folder)]
    whole = _who_seems(read_lock(folder, LOCK))
    found = {whole: whole} if whole else {}
    for part in parts:  # of which a run may hold several
        if who := who_holds_part(folder, part):
            found.setdefault(who, f"{who} ({part})")
    others = f", and {len(found) - 1} more" if len(found) > 1 else ""
    return f"{next(iter(found.values()))}{others}" if found else ""


def who_holds_part(folder: Folder, part: str) -> str:
    """Return who seems to hold a part of a folder, or nothing; reads only."""
    return _who_seems(read_lock(folder, part_lock(part)))


def _who_seems(text: bytes) -> str:
    owner = Owner.read(text)
    return "" if owner is None or owner.is_gone else str(owner)
