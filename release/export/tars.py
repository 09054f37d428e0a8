"""Tar archives whose bytes follow from what is in them."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable
from typing import IO

_MODE = 0o644


def write_tar(file: IO[bytes], entries: Iterable[tuple[str, bytes]]) -> None:
    """Write names and contents, in order, holding one at a time: no clock, no owner, one mode."""
    with tarfile.open(fileobj=file, mode="w|", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in entries:
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(data), _MODE
            archive.addfile(entry, io.BytesIO(data))
