"""Where a release's files are read from: a folder or a zip, on disk or in an object store."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path

from cube.run.storage import DiskFolder, Folder, open_folder
from release.sharding import SHARDS_FOLDER

from .checksums import SUMS_NAME
from .faults import UNREADABLE, BadZipError, ReleaseError, first_line
from .limits import MOST_BYTES, check_is_inside, check_size

EXPORT_NAME = "export.json"
"""What an export was made of and as; no release has it."""
_ENTRY_HEADER = struct.Struct("<4s5H3L2H")
"""What stands before each entry's name; the lengths of name and extra fields come last."""
_MOST_HEADER_BYTES = _ENTRY_HEADER.size + 2 * 0xFFFF
"""Of what stands before an entry's content: a fixed part, a name and extra fields."""
_OPEN_SHARDS = 8
"""Zips of shards of which is remembered where each file lies, some megabytes for each."""
_ENCRYPTED = 1
_BAD_ZIP = (zipfile.BadZipFile, EOFError, RuntimeError, struct.error, *UNREADABLE)
"""What :mod:`zipfile` raises at a file that is no zip, or a damaged one."""


class FolderFiles:
    """The files of a release folder, which may be anybody's: what is read never leaves it."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        self._own = {"": True}

    def names(self) -> list[str]:
        """Return all file names, sorted."""
        with _listing_errors(self.folder):
            return list(self.folder.files())

    def top_names(self) -> list[str]:
        """Return the names of the files that lie in no shard, sorted."""
        with _listing_errors(self.folder):
            beside = [f"{SHARDS_FOLDER}/{name}" for name in (self.folder / SHARDS_FOLDER).sizes()]
            return sorted([*self.folder.files(but=SHARDS_FOLDER), *beside])

    def shard_names(self) -> list[str]:
        """Return the names of the shards there are, sorted."""
        with _listing_errors(self.folder):
            shards = self.folder / SHARDS_FOLDER
            return sorted(set(shards.names()) - set(shards.sizes()))

    def shard(self, name: str) -> FilesBelow:
        """Return the files of a shard."""
        return FilesBelow(self, f"{SHARDS_FOLDER}/{name}/")

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

    def read(self, name: str, most: int = MOST_BYTES) -> bytes:
        """Return a file's bytes.

        Raises
        ------
        FileNotFoundError
            If there is none.
        OSError
            If it lies outside the release, cannot be read, or holds more than `most` bytes.
        """
        check_is_inside(name)
        try:
            if isinstance(self.folder, DiskFolder):
                return self._read_from_disk(name, most)
            check_size(self.folder.size(name), most)
        except ValueError:  # a name that no file has
            raise FileNotFoundError(name) from None
        return self.folder.read(name)

    def _is_own(self, below: str) -> bool:
        """Tell whether a folder below lies in the release, and no link leads to it."""
        if below not in self._own:
            path = f"{self.folder.url}/{below}"
            home = os.path.realpath(self.folder.url)
            self._own[below] = os.path.realpath(path) == f"{home}/{below}".rstrip("/")
        return self._own[below]

    def _read_from_disk(self, name: str, most: int) -> bytes:
        """Open a file once, see that it is one, and read it."""
        path = f"{self.folder.url}/{name}"
        handle = -1
        if self._is_own(name.rpartition("/")[0]):
            with contextlib.suppress(OSError):  # it is a link, or not there
                handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
        if handle < 0:
            if why := self._link_out(name):
                raise OSError(why)
            handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe is not waited for
        with os.fdopen(handle, "rb", buffering=0) as file:
            status = os.fstat(handle)
            if not stat.S_ISREG(status.st_mode):  # but a device, a pipe or a folder
                raise FileNotFoundError(name)
            check_size(status.st_size, most)
            return file.read()


class FilesBelow:
    """The files of a folder within a release folder, by their names there."""

    def __init__(self, files: FolderFiles, prefix: str) -> None:
        self._files, self._prefix = files, prefix

    def names(self) -> list[str]:
        """Return all file names, sorted."""
        folder = self._files.folder / self._prefix.rstrip("/")
        with _listing_errors(folder):
            return list(folder.files())

    def read(self, name: str, most: int = MOST_BYTES) -> bytes:
        """Return a file's bytes; raise as :meth:`FolderFiles.read` does."""
        check_is_inside(name)
        return self._files.read(self._prefix + name, most)


class ZipFiles:
    """The files of a zipped release, without the zip's top folder.

    Those of shards are read from the zips beside, which are opened when they are asked for. Only
    where each file lies is kept and nothing is held open: threads and forked processes may
    share one.
    """

    def __init__(self, folder: Folder, name: str) -> None:
        self.folder, self.name = folder, name
        self._shards: dict[str, ZipFiles] = {}
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
        """Return the zip's own file names, sorted; one may be there several times."""
        return self._names

    def top_names(self) -> list[str]:
        """Return the names of the files that lie in no shard's zip, sorted."""
        return self._names

    @cached_property
    def _shard_zips(self) -> dict[str, str]:
        """The zips beside this one that are called as those of its shards, by shard."""
        form = re.compile(rf"{re.escape(self.name.removesuffix('.zip'))}_([0-9]{{6,12}})\.zip")
        with _listing_errors(self.folder):
            found = map(form.fullmatch, self.folder.names(".zip"))
        return {match[1]: match[0] for match in found if match}

    def shard_names(self) -> list[str]:
        """Return the names of the shards there are, sorted."""
        return sorted(self._shard_zips)

    def shard(self, name: str) -> ZipFiles:
        """Return the files of a shard.

        Raises
        ------
        FileNotFoundError
            If it has no zip beside this one.
        BadZipError
            If its zip cannot be read.
        """
        if name not in self._shard_zips:
            raise FileNotFoundError(f"{SHARDS_FOLDER}/{name}")
        if name not in self._shards:
            if len(self._shards) >= _OPEN_SHARDS:
                self._shards.pop(next(iter(self._shards)), None)
            self._shards[name] = ZipFiles(self.folder, self._shard_zips[name])
        return self._shards[name]

    def _of_shard(self, name: str) -> tuple[ZipFiles, str]:
        """Return the zip of a shard that a file is in, and the file's name there."""
        first, _, rest = name.partition("/")
        shard, _, file = rest.partition("/")
        if first != SHARDS_FOLDER or not file:
            raise FileNotFoundError(name)
        return self.shard(shard), file

    def read(self, name: str, most: int = MOST_BYTES) -> bytes:
        """Return a file's bytes; raise as :meth:`FolderFiles.read` does."""
        if name not in self._entries:
            try:
                zipped, file = self._of_shard(name)
            except BadZipError as error:
                raise OSError(str(error)) from None
            return zipped.read(file, most)
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
