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


def zip_chunks(root: str, names: Iterable[str], read: Callable[[str], bytes]) -> Iterator[bytes]:
    """Yield a release's zip piece by piece, holding the content of one file at a time.

    Entries are stored as they are (rasters and pictures are compressed already), with one time and
    mode: the bytes follow from the names and contents alone. ZIP64 where it takes it.
    ``SHA256SUMS``, whether it is among the names or not, comes first.

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
            data = read(name)
            is_large = len(data) > zipfile.ZIP64_LIMIT
            with archive.open(entry, "w", force_zip64=is_large) as file:
                file.write(data)
            header = entry.FileHeader(zip64=is_large)
            yield from [header + data] if len(data) < _SMALL_BYTES else [header, data]
        sink.is_kept = True
    yield bytes(sink.kept)


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
