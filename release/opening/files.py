"""Where a release's files are read from: a folder or a zip, on disk or in an object store."""

from __future__ import annotations

import contextlib
import re
import zlib
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Protocol

import numpy as np

from cube.run.storage import DiskFolder, Folder, open_folder

from .checksums import SUMS_NAME, Names
from .faults import BadZipError, ReleaseError
from .zips import LOCAL_HEADER, list_zip

__all__ = ["MOST_BYTES", "Files", "FolderFiles", "ZipFiles", "open_files"]

MOST_BYTES = 1 << 32
"""No file of a release is larger."""
_MOST_HEADER_BYTES = LOCAL_HEADER.size + 2 * 0xFFFF
"""Of an entry: its fixed part, a name and extra fields."""


class Files(Protocol):
    """Where a release's files are read from. What it reads may be anybody's: it never leaves the release."""

    def names(self) -> Names:
        """All file names; in a zip one may be there several times."""
        ...

    def read(self, name: str, most: int = MOST_BYTES) -> bytes:
        """Bytes of a file; FileNotFoundError if there is none, OSError if it cannot be read or is over `most`."""
        ...


class FolderFiles:
    """The files of a release folder, on disk or in an object store."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder

    def names(self) -> Names:
        """All file names."""
        with _listing(self.folder):
            return Names(self.folder.files())

    def _size(self, name: str) -> int:
        if name.startswith("/") or not {"..", ""}.isdisjoint(re.split(r"[/\\]", name)) or ":" in name:
            raise OSError("lies outside the release")
        try:
            if (
                isinstance(self.folder, DiskFolder) and not (self.folder.path / name).is_file()
            ):  # but a device or a pipe
                raise FileNotFoundError(name)
            return self.folder.size(name)
        except ValueError:  # a name that no file has
            raise FileNotFoundError(name) from None

    def read(self, name: str, most: int = MOST_BYTES) -> bytes:
        """Bytes of a file."""
        _check_size(self._size(name), most)
        return self.folder.read(name)


class ZipFiles:
    """The files of a zipped release, without the zip's top folder.

    Only where each file lies is kept, not the zip's own records of it (for 10,000 chips they take
    hundreds of megabytes), and nothing is held open: threads and forked processes may share one.
    """

    def __init__(self, folder: Folder, name: str) -> None:
        self.folder, self.name = folder, name
        starts, sizes, crcs, stored = array("Q"), array("Q"), array("Q"), bytearray()
        names: list[str] = []
        try:
            with folder.open(name) as file:
                end, entries = list_zip(file)
                for entry in entries:
                    names.append(entry.name)
                    starts.append(entry.start)
                    sizes.append(entry.size)
                    crcs.append(entry.crc)
                    stored.append(entry.is_stored)
        except (ValueError, OverflowError, OSError) as error:
            raise BadZipError(f"{folder}/{name}: not a zip that can be read ({error})") from None
        self.root = _root(names)
        self._names = Names(one.removeprefix(self.root) for one in names)
        given = np.array(self._names.given)
        self._starts, self._sizes, self._crcs, self._stored = (
            np.frombuffer(values, dtype=kind)[given]
            for values, kind in (
                (starts, np.uint64),
                (sizes, np.uint64),
                (crcs, np.uint64),
                (stored, np.bool_),
            )
        )
        # An entry ends where the next begins: no byte of a zip can be read as two files.
        borders = np.append(np.sort(self._starts), np.uint64(max(end, int(self._starts.max(initial=0)))))
        self._ends = borders[np.searchsorted(borders[:-1], self._starts, side="right")]

    def __reduce__(self) -> tuple[type[ZipFiles], tuple[Folder, str]]:
        """Open the zip again in another process."""
        return ZipFiles, (self.folder, self.name)

    def names(self) -> Names:
        """All file names; one may be there several times."""
        return self._names

    def read(self, name: str, most: int = MOST_BYTES) -> bytes:
        """Bytes of a file."""
        place = self._names.place(name)
        if place is None:
            raise FileNotFoundError(name)
        if not self._stored[place]:
            raise OSError("is compressed or encrypted; a release's zip holds its files as they are")
        size, start, end = int(self._sizes[place]), int(self._starts[place]), int(self._ends[place])
        _check_size(size, most)
        data = b""
        if size <= end - start:
            length = min(end - start, _MOST_HEADER_BYTES + size)
            data = _entry_data(self.folder.read_range(self.name, start, length), size)
        if len(data) != size or zlib.crc32(data) != self._crcs[place]:
            raise OSError("cannot be read from the zip (its entry is damaged)")
        return data


def _check_size(size: int, most: int) -> None:
    if size > most:
        raise OSError(f"holds {size:,} bytes, more than the {most:,} that it may")


def _entry_data(entry: bytes, size: int) -> bytes:
    """Return the content of a stored entry, which follows its header; less than `size` where it is damaged."""
    if entry[:4] != b"PK\3\4" or len(entry) < LOCAL_HEADER.size:
        return b""
    *_, name, extra = LOCAL_HEADER.unpack_from(entry)
    start = LOCAL_HEADER.size + name + extra
    return entry[start : start + size]


def _root(names: Iterable[str]) -> str:
    seals = [name for name in names if name.endswith(f"/{SUMS_NAME}")]
    return seals[0].removesuffix(SUMS_NAME) if seals else ""


def open_files(release: str | Path | Folder) -> FolderFiles | ZipFiles:
    """Open a release folder or zip.

    Parameters
    ----------
    release
        Path or URL of the folder or of the ``.zip``.

    Raises
    ------
    ReleaseError
        If there is nothing there, or it cannot be listed.
    BadZipError
        If a zip cannot be read.
    """
    folder = open_folder(release)
    parent, _, name = folder.url.rstrip("/").rpartition("/")
    above = open_folder(parent or ("/" if folder.url.startswith("/") else "."), folder.options)
    with _listing(folder):
        if name.endswith(".zip") and above.exists(name):
            return ZipFiles(above, name)
        if folder.names():
            return FolderFiles(folder)
    raise ReleaseError(f"{folder}: no release there; expected its folder or its .zip")


@contextlib.contextmanager
def _listing(folder: Folder) -> Iterator[None]:
    """Say what cannot be listed."""
    try:
        yield
    except OSError as error:
        raise ReleaseError(f"{folder}: cannot be listed ({error.strerror or error})") from None
