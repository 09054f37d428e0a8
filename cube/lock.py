"""One run at a time in a working folder."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator

from .errors import BusyError
from .storage import Folder

__all__ = ["hold"]

_LOCK = ".lock"


@contextlib.contextmanager
def hold(folder: Folder) -> Iterator[None]:
    """Hold a working folder; the system lets go of it when the process ends, however it ends.

    Raises
    ------
    BusyError
        If another run holds it.
    """
    if not folder.is_local:
        yield
        return
    handle = os.open(folder.path / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(handle, 64, 0).decode(errors="replace").strip()
            raise BusyError(f"{folder}: another run ({owner}) works here; wait for it, or stop it") from None
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"process {os.getpid()}".encode(), 0)
        yield
    finally:
        os.close(handle)
