"""A release as files: a folder or a zip, its checksums, and a zip whose bytes follow from its content."""

from __future__ import annotations

import hashlib
import io
import itertools
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np

from cube.storage import Folder

from .errors import BadZipError, ReleaseError

__all__ = [
    "MOST_BYTES",
    "SUMS_NAME",
    "Files",
    "FolderFiles",
    "ZipFiles",
    "format_sums",
    "open_files",
    "parse_sums",
    "sha256",
    "zip_chunks",
    "zip_equals",
]

SUMS_NAME = "SHA256SUMS"
"""The seal of a release: written last, and read first."""

_ZIP_TIME = (1980, 1, 1, 0, 0, 0)
_ZIP_MODE = 0o100644
_ZIP_UNIX = 3
_ZIP_HEADER = 30
_ZIP_ENCRYPTED = 1
_SUMS_LINE = re.compile(r"([0-9a-f]{64})  ([^/\0][^\0]*)")


MOST_BYTES = 1 << 32
"""No file of a release is larger."""


class Files(Protocol):
    """Where a release's files are read from. What it reads may be anybody's: it never leaves the release."""

    def names(self) -> list[str]:
        """All file names, sorted."""
        ...

    def read(self, name: str, most: int = MOST_BYTES) -> bytes:
        """Bytes of a file; FileNotFoundError if there is none, OSError if it cannot be read or is over `most`."""
        ...


class FolderFiles:
    """The files of a release folder, on disk or in an object store."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder

    def names(self) -> list[str]:
        """All file names, sorted."""
        return list(self.folder.files())

    def read(self, name: str, most: int = MOST_BYTES) -> bytes:
        """Bytes of a file."""
        if name.startswith("/") or ".." in name.split("/"):
            raise OSError("lies outside the release")
        _check_size(self.folder.size(name), most)
        return self.folder.read(name)


class ZipFiles:
    """The files of a zipped release, without the zip's top folder.

    Only where each file lies is kept, not the zip's own records of it (for 10,000 chips they take hundreds of
    megabytes), and nothing is held open: threads and forked processes may share one.
    """

    def __init__(self, folder: Folder, name: str) -> None:
        self.folder, self.name = folder, name
        try:
            with folder.open(name) as file, zipfile.ZipFile(file) as archive:
                entries, end = archive.infolist(), archive.start_dir
            self._starts = np.array([entry.header_offset for entry in entries], dtype=np.int64)
            self._sizes = np.array([entry.file_size for entry in entries], dtype=np.int64)
        except (
            zipfile.BadZipFile,
            ArithmeticError,
            ValueError,
            EOFError,
            OSError,
            NotImplementedError,
        ) as error:
            raise BadZipError(f"{folder}/{name}: not a zip that can be read ({error})") from None
        self._crcs = np.array([entry.CRC for entry in entries], dtype=np.uint32)
        self._stored = np.array([_is_stored(entry) for entry in entries], dtype=bool)
        # An entry ends where the next begins: no byte of a zip can be read as two files.
        borders = np.append(np.sort(self._starts), max(end, int(self._starts.max(initial=0))))
        self._ends = borders[np.searchsorted(borders[:-1], self._starts, side="right")]
        self.root = _root(entry.filename for entry in entries)
        self._names = [entry.filename.removeprefix(self.root) for entry in entries]
        self._places = {name: place for place, name in enumerate(self._names)}

    def __reduce__(self) -> tuple[type[ZipFiles], tuple[Folder, str]]:
        """Open the zip again in another process."""
        return ZipFiles, (self.folder, self.name)

    def names(self) -> list[str]:
        """All file names, sorted."""
        return sorted(self._names)

    def read(self, name: str, most: int = MOST_BYTES) -> bytes:
        """Bytes of a file."""
        if name not in self._places:
            raise FileNotFoundError(name)
        place = self._places[name]
        if not self._stored[place]:
            raise OSError("is compressed or encrypted; a release's zip holds its files as they are")
        size, start, end = int(self._sizes[place]), int(self._starts[place]), int(self._ends[place])
        _check_size(size, most)
        data = b""
        if size <= end - start:
            data = _entry_data(self.folder.read_range(self.name, start, end - start), size)
        if len(data) != size or zlib.crc32(data) != self._crcs[place]:
            raise OSError("cannot be read from the zip (its entry is damaged)")
        return data


def _check_size(size: int, most: int) -> None:
    if size > most:
        raise OSError(f"holds {size:,} bytes, more than the {most:,} that it may")


def _is_stored(entry: zipfile.ZipInfo) -> bool:
    return entry.compress_type == zipfile.ZIP_STORED and not entry.flag_bits & _ZIP_ENCRYPTED


def _entry_data(entry: bytes, size: int) -> bytes:
    """Return the content of a stored entry, which follows its header; less than `size` where it is damaged."""
    if entry[:4] != b"PK\3\4" or len(entry) < _ZIP_HEADER:
        return b""
    name, extra = struct.unpack_from("<HH", entry, _ZIP_HEADER - 4)
    start = _ZIP_HEADER + name + extra
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
        If there is nothing there.
    BadZipError
        If a zip cannot be read.
    """
    folder = release if isinstance(release, Folder) else Folder(str(release))
    parent, _, name = folder.url.rstrip("/").rpartition("/")
    above = Folder(parent or ("/" if folder.url.startswith("/") else "."), folder.options)
    if name.endswith(".zip") and above.exists(name):
        return ZipFiles(above, name)
    if not folder.names():
        raise ReleaseError(f"{folder}: no release there; expected its folder or its .zip")
    return FolderFiles(folder)


def sha256(data: bytes) -> str:
    """Return the SHA-256 of `data`, hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def format_sums(sums: Mapping[str, str]) -> bytes:
    """Write checksums as ``sha256sum`` does, sorted by name."""
    buffer = io.BytesIO()
    buffer.writelines(f"{sums[name]}  {name}\n".encode() for name in sorted(sums))
    return buffer.getvalue()


def parse_sums(data: bytes) -> tuple[dict[str, str], list[str]]:
    """Read ``SHA256SUMS``.

    Returns
    -------
    dict, list
        Checksum by name; and what is wrong with the file itself.
    """
    sums: dict[str, str] = {}
    wrong: list[str] = []
    if not data.endswith(b"\n"):
        wrong.append("ends within a line")
    for number, line in enumerate(io.BytesIO(data), start=1):
        match = _SUMS_LINE.fullmatch(line.decode("utf-8", errors="replace").removesuffix("\n"))
        if match is None:
            wrong.append(f"line {number} is not a checksum and a name")
        elif match[2] in sums:
            wrong.append(f"line {number} names {match[2]} again")
        else:
            sums[match[2]] = match[1]
    if any(one > other for one, other in itertools.pairwise(sums)):
        wrong.append("names are not in order")
    return sums, wrong


class _Spool(io.RawIOBase):
    """The end of a stream that ZipFile writes to: it goes back to an entry's header, never beyond."""

    def __init__(self) -> None:
        super().__init__()
        self._taken, self._at, self._data = 0, 0, bytearray()

    def tell(self) -> int:
        return self._taken + self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        assert whence == io.SEEK_SET
        self._at = offset - self._taken
        return offset

    def write(self, data: Any) -> int:
        piece = bytes(data)
        self._data[self._at : self._at + len(piece)] = piece
        self._at += len(piece)
        return len(piece)

    def take(self) -> bytes:
        """Return what was written since the last time."""
        piece = bytes(self._data)
        self._taken, self._at, self._data = self._taken + len(piece), 0, bytearray()
        return piece


def zip_chunks(root: str, names: Iterable[str], read: Callable[[str], bytes]) -> Iterator[bytes]:
    """Yield a zip piece by piece, holding one file at a time.

    Entries are stored as they are (rasters and pictures are compressed already), with one time and mode: the
    bytes follow from the names and contents alone. ZIP64 where it takes it.

    Parameters
    ----------
    root
        Top folder within the zip.
    names
        Files, in the order they are to have.
    read
        Gives a file's bytes.
    """
    spool = _Spool()
    with zipfile.ZipFile(spool, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for name in names:
            entry = zipfile.ZipInfo(f"{root}/{name}", _ZIP_TIME)
            entry.create_system = _ZIP_UNIX
            entry.external_attr = _ZIP_MODE << 16
            archive.writestr(entry, read(name))
            yield spool.take()
    yield spool.take()


def zip_equals(archive: IO[bytes], chunks: Iterable[bytes]) -> bool:
    """Tell whether a zip has exactly the bytes of `chunks`."""
    position = 0
    for chunk in chunks:
        archive.seek(position)  # the chunks may be made from this very file
        if archive.read(len(chunk)) != chunk:
            return False
        position += len(chunk)
    archive.seek(position)
    return not archive.read(1)
