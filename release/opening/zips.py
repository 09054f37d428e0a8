"""The zip of a release, whose bytes follow from its files alone: made in pieces, compared."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterable, Iterator
from typing import IO, TYPE_CHECKING

from .checksums import SUMS_NAME

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

_ENTRY_DATE = (1980, 1, 1, 0, 0, 0)
_UNIX = 3
_MODE = 0o100644 << 16
_SMALL_BYTES = 1 << 20
"""Files that may be copied, so that they go out in one piece."""
_PIECE_BYTES = 1 << 23


def _read_whole(name: str) -> None:
    """Say of every file that it may be held."""


def zip_chunks(
    root: str,
    names: Iterable[str],
    read: Callable[[str], bytes],
    open_large: Callable[[str], IO[bytes] | None] = _read_whole,
) -> Iterator[bytes]:
    """Yield a release's zip piece by piece, holding the content of one file at a time.

    Entries are stored as they are (rasters and pictures are compressed already), with one time and
    mode: the bytes follow from the names and contents alone. ZIP64 where it takes it.
    ``SHA256SUMS``, whether it is among the names or not, comes first.

    Parameters
    ----------
    root
        The folder in the zip that holds the files.
    names
        Of the files.
    read
        Gives the content of one.
    open_large
        Opens one that is too large to be held, and is read twice; None of others.

    Raises
    ------
    ValueError, struct.error
        If a zip cannot hold a name.
    """
    sink = _Sink()
    with zipfile.ZipFile(sink, "w") as archive:
        for name in dict.fromkeys([SUMS_NAME, *names]):
            entry = zipfile.ZipInfo(f"{root}/{name}", _ENTRY_DATE)
            entry.create_system, entry.external_attr = _UNIX, _MODE
            large = open_large(name)
            if large is not None:
                with large:
                    yield from _large_entry(archive, entry, large)
                continue
            data = read(name)
            header = _add(archive, entry, len(data), [data])
            yield from [header + data] if len(data) < _SMALL_BYTES else [header, data]
        sink.is_kept = True
    yield bytes(sink.kept)


def _add(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, size: int, pieces: Iterable[bytes]) -> bytes:
    """Add an entry of so many bytes; return its header."""
    needs_zip64 = size > zipfile.ZIP64_LIMIT
    with archive.open(entry, "w", force_zip64=needs_zip64) as file:
        for piece in pieces:
            file.write(piece)
    return entry.FileHeader(zip64=needs_zip64)


def _large_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, file: IO[bytes]) -> Iterator[bytes]:
    """Yield an entry's header, and its content in pieces."""
    size = file.seek(0, io.SEEK_END)
    for is_first in (True, False):
        file.seek(0)
        pieces = iter(lambda: file.read(_PIECE_BYTES), b"")
        yield from [_add(archive, entry, size, pieces)] if is_first else pieces


class _Sink(io.RawIOBase):
    """Counts the bytes of a zip, and keeps those of its end alone, where the entries are listed."""

    def __init__(self) -> None:
        super().__init__()
        self._place = 0
        self.is_kept = False
        self.kept = bytearray()

    def writable(self) -> bool:
        """Tell that it takes bytes."""
        return True

    def seekable(self) -> bool:
        """Tell that an entry's header may be written again, once its checksum is known."""
        return True

    def tell(self) -> int:
        """Return the place in the zip."""
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Go to a place in the zip, counted from its beginning."""
        assert whence == io.SEEK_SET
        self._place = offset
        return offset

    def write(self, data: ReadableBuffer, /) -> int:
        """Take bytes."""
        if self.is_kept:
            self.kept += data
        size = memoryview(data).nbytes
        self._place += size
        return size


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
