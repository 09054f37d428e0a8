"""The zip of a release, whose bytes follow from its files alone: made in pieces, compared."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Iterable, Iterator
from typing import IO

from .checksums import SUMS_NAME

_ENTRY_DATE = (1980, 1, 1, 0, 0, 0)
_UNIX = 3
_MODE = 0o100644 << 16


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
    tail = _Tail()
    with zipfile.ZipFile(tail, "w") as archive:
        for name in dict.fromkeys([SUMS_NAME, *names]):
            entry = zipfile.ZipInfo(f"{root}/{name}", _ENTRY_DATE)
            entry.create_system, entry.external_attr = _UNIX, _MODE
            data = read(name)
            with archive.open(entry, "w", force_zip64=len(data) > zipfile.ZIP64_LIMIT) as file:
                file.write(data)
            yield tail.take()
    yield tail.take()


class _Tail(io.BytesIO):
    """The end of a file that is being written, of which the beginning was taken away."""

    def __init__(self) -> None:
        super().__init__()
        self._start = 0

    def tell(self) -> int:
        """Return the place in the whole file."""
        return self._start + super().tell()

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Go to a place in the whole file."""
        return self._start + super().seek(offset - self._start, whence)

    def take(self) -> bytes:
        """Return what was written since the last time, and forget it."""
        data = self.getvalue()
        self._start += len(data)
        super().seek(0)
        self.truncate()
        return data


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
