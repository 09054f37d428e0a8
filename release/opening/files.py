"""Where a release's files are read from: a folder or a zip, on disk or in an object store."""

from __future__ import annotations

import contextlib
import itertools
import os
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from cube.run.storage import DiskFolder, Folder, open_folder

from .checksums import SUMS_NAME
from .faults import UNREADABLE, BadZipError, ReleaseError, first_line
from .limits import MOST_BYTES, check_is_inside, check_size

_ENTRY_HEADER = struct.Struct("<4s5H3L2H")
"""What stands before each entry's name; the lengths of name and extra fields come last."""
_MOST_HEADER_BYTES = _ENTRY_HEADER.size + 2 * 0xFFFF
"""Of what stands before an entry's content: a fixed part, a name and extra fields."""
_ENCRYPTED = 1
_BAD_ZIP = (zipfile.BadZipFile, EOFError, RuntimeError, struct.error, *UNREADABLE)
"""What :mod:`zipfile` raises at a file that is no zip, or a damaged one."""


class FolderFiles:
    """The files of a release folder, which may be anybody's: what is read never leaves it."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder

    def names(self) -> list[str]:
        """Return all file names, sorted."""
        with _listing_errors(self.folder):
            return list(self.folder.files())

    def check_links(self) -> None:
        """Refuse a folder with a link that leads out of it.

        Raises
        ------
        ReleaseError
            Names the first one.
        """
        if not isinstance(self.folder, DiskFolder):
            return
        folders = [""]
        while folders:
            below = folders.pop()
            with (
                contextlib.suppress(OSError),
                os.scandir(f"{self.folder}/{below}") as entries,
            ):  # names() says it
                for entry in sorted(entries, key=lambda one: one.name):
                    if entry.is_symlink() and (why := self._link_out(f"{below}{entry.name}")):
                        raise ReleaseError(f"{self.folder}/{below}{entry.name}: {why}")
                    if entry.is_dir(follow_symlinks=False):
                        folders.append(f"{below}{entry.name}/")

    def _link_out(self, name: str) -> str:
        """Say that a name leads out of the release by a link; empty where it does not.

        The cache of the Hugging Face hub keeps a data set as links from ``snapshots/REVISION`` to
        ``blobs``: those are followed.
        """
        home = os.path.realpath(self.folder.url)
        place = os.path.realpath(f"{self.folder.url}/{name}")
        snapshots = Path(home).parent
        homes = [Path(home), *([snapshots.parent / "blobs"] if snapshots.name == "snapshots" else [])]
        if any(Path(place).is_relative_to(one) for one in homes):
            return ""
        return "is a link out of the release; a release holds its files itself (cp -rL copies what links lead to)"

    def _size(self, name: str) -> int:
        check_is_inside(name)
        try:
            if isinstance(self.folder, DiskFolder) and (why := self._link_out(name)):
                raise OSError(why)
            if (
                isinstance(self.folder, DiskFolder) and not (self.folder.path / name).is_file()
            ):  # but a device or a pipe
                raise FileNotFoundError(name)
            return self.folder.size(name)
        except ValueError:  # a name that no file has
            raise FileNotFoundError(name) from None

    def read(self, name: str, most: int = MOST_BYTES) -> bytes:
        """Return a file's bytes.

        Raises
        ------
        FileNotFoundError
            If there is none.
        OSError
            If it lies outside the release, cannot be read, or holds more than `most` bytes.
        """
        check_size(self._size(name), most)
        return self.folder.read(name)


class ZipFiles:
    """The files of a zipped release, without the zip's top folder.

    Only where each file lies is kept and nothing is held open: threads and forked processes may
    share one.
    """

    def __init__(self, folder: Folder, name: str) -> None:
        self.folder, self.name = folder, name
        try:
            with folder.open(name) as file, zipfile.ZipFile(file) as archive:
                entries, end = archive.infolist(), archive.start_dir
        except _BAD_ZIP as error:
            raise BadZipError(f"{folder}/{name}: not a zip that can be read ({first_line(error)})") from None
        self.root = _top_folder(entry.filename for entry in entries)
        self._names = sorted(entry.filename.removeprefix(self.root) for entry in entries)
        self._entries = {entry.filename.removeprefix(self.root): entry for entry in entries}
        # An entry ends where the next begins: no byte of a zip can be read as two files.
        self._ends = dict(itertools.pairwise(sorted({end, *(entry.header_offset for entry in entries)})))

    def __reduce__(self) -> tuple[type[ZipFiles], tuple[Folder, str]]:
        """Open the zip again in another process."""
        return ZipFiles, (self.folder, self.name)

    def names(self) -> list[str]:
        """Return all file names, sorted; one may be there several times."""
        return self._names

    def read(self, name: str, most: int = MOST_BYTES) -> bytes:
        """Return a file's bytes; raise as :meth:`FolderFiles.read` does."""
        if name not in self._entries:
            raise FileNotFoundError(name)
        entry = self._entries[name]
        start, size = entry.header_offset, entry.file_size
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & _ENCRYPTED:
            raise OSError("is compressed or encrypted; a release's zip holds its files as they are")
        check_size(size, most)
        room = self._ends.get(start, start) - start
        data = b""
        if size <= room:
            part = self.folder.read_range(self.name, start, min(room, _MOST_HEADER_BYTES + size))
            data = _entry_data(part, size)
        if len(data) != size or zlib.crc32(data) != entry.CRC:
            raise OSError("cannot be read from the zip (its entry is damaged)")
        return data


def _entry_data(entry: bytes, size: int) -> bytes:
    """Return what follows a stored entry's header; less than `size` bytes where it is damaged."""
    if entry[:4] != b"PK\3\4" or len(entry) < _ENTRY_HEADER.size:
        return b""
    *_, name, extra = _ENTRY_HEADER.unpack_from(entry)
    start = _ENTRY_HEADER.size + name + extra
    return entry[start : start + size]


def _top_folder(names: Iterable[str]) -> str:
    """Return the top folder of a zip's names, with its slash: the one that holds ``SHA256SUMS``."""
    found = next((name for name in names if name.endswith(f"/{SUMS_NAME}")), "")
    return found.removesuffix(SUMS_NAME)


def open_files(release: str | Path | Folder) -> FolderFiles | ZipFiles:
    """Open a release folder or zip by its path or URL.

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
    with _listing_errors(folder):
        if name.endswith(".zip") and above.exists(name):
            return ZipFiles(above, name)
        if folder.names():
            return FolderFiles(folder)
    raise ReleaseError(f"{folder}: no release there; expected its folder or its .zip")


@contextlib.contextmanager
def _listing_errors(folder: Folder) -> Iterator[None]:
    """Turn an operating system's refusal to list a folder into one clear line."""
    try:
        yield
    except OSError as error:
        raise ReleaseError(f"{folder}: cannot be listed ({error.strerror or error})") from None
