"""Folders on a local disk: temporary file, ``fsync`` and rename, for files and whole folders.

What is made has the modes that the process's umask leaves, and the group of a set-gid folder.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from .folder import disk_errors, is_finished, staging_name

if TYPE_CHECKING:
    from zarr.abc.store import Store


@dataclass(frozen=True)
class DiskFolder:
    """A folder on a local disk; see :class:`cube.run.storage.folder.Folder`."""

    url: str
    """Path."""
    options: Mapping[str, Any] = field(default_factory=dict, hash=False, repr=False)
    """Not used on a disk; kept for folders derived from this one."""

    def __truediv__(self, name: str) -> DiskFolder:
        """Return the folder `name` inside this one."""
        return DiskFolder(f"{self.url.rstrip('/')}/{name}", self.options)

    def __str__(self) -> str:
        """Return the path, as shown to people."""
        return self.url

    @property
    def threads(self) -> int:
        """Few: a disk answers at once, and more than two wait for each other in the interpreter."""
        return 2

    @property
    def path(self) -> Path:
        """The folder as a path."""
        return Path(self.url)

    def absolute(self) -> DiskFolder:
        """Return the same folder by its absolute path."""
        return DiskFolder(str(self.path.absolute()), self.options)

    def make(self) -> None:
        """Create the folder, and those above it."""
        with disk_errors(self.url):
            _make_folders(self.path)

    def exists(self, name: str) -> bool:
        """Tell whether there is a file called `name`."""
        return (self.path / name).is_file()

    def read(self, name: str) -> bytes:
        """Return a file's bytes."""
        with open(f"{self.url}/{name}", "rb", buffering=0) as file:  # noqa: PTH123  very many
            return file.readall()

    def read_range(self, name: str, start: int, size: int) -> bytes:
        """Return up to `size` bytes of a file from `start` on."""
        with self.open(name) as file:
            file.seek(start)
            return file.read(size)

    def size(self, name: str) -> int:
        """Return how many bytes a file has."""
        return (self.path / name).stat().st_size

    def open(self, name: str) -> IO[bytes]:
        """Open a file for reading piece by piece."""
        return (self.path / name).open("rb")

    def write(self, name: str, data: bytes) -> None:
        """Write a file at once."""
        with self._replacing(self.path / name) as file:
            file.write(data)

    def write_files(self, files: Mapping[str, bytes]) -> None:
        """Write many small files; nothing is forced onto the disk yet."""
        for name, data in files.items():
            target = f"{self.url}/{name}"
            temporary = f"{os.path.dirname(target)}/{staging_name()}"  # noqa: PTH120  very many
            with disk_errors(target):
                try:
                    _write_file(temporary, data)
                    os.replace(temporary, target)  # noqa: PTH105
                except BaseException:
                    with contextlib.suppress(OSError):
                        os.unlink(temporary)  # noqa: PTH108
                    raise

    def read_files(self, names: Iterable[str]) -> dict[str, bytes]:
        """Return many small files' bytes; absent ones are not among them."""
        found = {}
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                found[name] = self.read(name)
        return found

    def stream(self, name: str) -> contextlib.AbstractContextManager[IO[bytes]]:
        """Write a file piece by piece; it appears when the ``with`` statement ends well."""
        return self._replacing(self.path / name)

    @contextlib.contextmanager
    def _replacing(self, target: Path) -> Iterator[IO[bytes]]:
        """Give a temporary file that takes the target's place once it is on the disk."""
        with disk_errors(str(target)):
            _make_folders(target.parent)
            temporary = target.parent / staging_name()
            try:
                with temporary.open("xb") as file:
                    yield file
                    file.flush()
                    os.fsync(file.fileno())
                temporary.replace(target)
            finally:
                temporary.unlink(missing_ok=True)
            _fsync_dir(target.parent)

    def create(self, name: str, data: bytes) -> bool:
        """Write a file only if there is none."""
        try:
            with (self.path / name).open("xb") as file:
                file.write(data)
        except FileExistsError:
            return False
        return True

    def names(self, suffix: str = "") -> list[str]:
        """List finished names directly inside, sorted."""
        found = [entry.name for entry in self.path.iterdir()] if self.path.is_dir() else []
        return sorted(name for name in found if name.endswith(suffix) and is_finished(name))

    def sizes(self) -> dict[str, int]:
        """Return the bytes of each file directly inside."""
        found = os.scandir(self.path) if self.path.is_dir() else ()
        return {entry.name: entry.stat().st_size for entry in found if entry.is_file()}

    def files(self, but: str = "") -> Iterator[str]:
        """Names of all files below, but for those in the folder `but`."""
        yield from sorted(_walk(str(self.path), f"{but}/"))

    def remove(self, name: str) -> None:
        """Remove a file."""
        (self.path / name).unlink(missing_ok=True)

    def prune(self) -> None:
        """Remove empty folders below."""
        for folder in sorted((p for p in self.path.rglob("*") if p.is_dir()), reverse=True):
            with contextlib.suppress(OSError):  # not empty
                folder.rmdir()

    def remove_folder(self, name: str, last: str = "") -> None:
        """Remove the folder `name`, first the file that was written `last`."""
        if last:
            (self / name).remove(last)
        shutil.rmtree(self.path / name, ignore_errors=True)

    def move(self, name: str, to: str, last: str = "") -> None:
        """Rename a file or folder below."""
        del last
        source, target = self.path / name, self.path / to
        if not source.exists():
            return
        with disk_errors(str(target)):
            _make_folders(target.parent)
            old = target.parent / staging_name()
            if target.is_dir():
                target.replace(old)  # at once: a kill must leave no part of it
            source.replace(target)
            _fsync_dir(target.parent)
            _fsync_dir(source.parent)
            shutil.rmtree(old, ignore_errors=True)

    def copy(self, name: str, to: str) -> None:
        """Link a file to a second name, or copy it where the disk knows no links."""
        source, target = self.path / name, self.path / to
        if not source.exists():
            return
        with disk_errors(str(target)):
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            try:
                target.hardlink_to(source)
            except OSError:
                shutil.copyfile(source, target)

    @contextlib.contextmanager
    def staged(self, name: str, last: str, *, sync: bool = True) -> Iterator[Callable[[str, bytes], None]]:
        """Fill a folder beside its place, and rename it when the ``with`` statement ends well."""
        self.make()
        held: dict[str, bytes] = {}
        with disk_errors(f"{self.url}/{name}"):
            stage = self.path / staging_name()
            stage.mkdir()

        def put(file: str, data: bytes) -> None:
            if file == last:
                held[file] = data
            else:
                _write_file(f"{stage}/{file}", data)

        target, old = self.path / name, stage.with_name(f"{stage.name}-old")
        try:
            with disk_errors(f"{self.url}/{name}"):
                yield put
                for file, data in held.items():
                    _write_file(f"{stage}/{file}", data)
                if sync:
                    os.sync()  # once: a release has hundreds of thousands of files
                if target.exists():
                    target.replace(old)  # at once: a kill must leave no part of it
                stage.replace(target)
                if sync:
                    _fsync_dir(self.path)
        except BaseException:
            if old.exists() and not target.exists():
                old.replace(target)
            raise
        finally:
            shutil.rmtree(stage, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)

    def sync(self) -> None:
        """Force all that was written onto the disk."""
        os.sync()

    def sync_files(self, names: Iterable[str]) -> None:
        """Force files below, and the folders that name them, onto the disk."""
        folders = {self.url, os.path.dirname(self.url)}  # noqa: PTH120  thousands of names
        for name in names:
            try:
                _force(f"{self.url}/{name}")
            except FileNotFoundError:
                continue
            parts = name.split("/")[:-1]
            folders |= {"/".join([self.url, *parts[: n + 1]]) for n in range(len(parts))}
        for folder in sorted(folders):
            with contextlib.suppress(FileNotFoundError):
                _fsync_dir(Path(folder))

    def sweep(self) -> None:
        """Remove what a killed run left half-written directly inside."""
        for entry in self.path.iterdir() if self.path.is_dir() else ():
            if not is_finished(entry.name):
                shutil.rmtree(entry, ignore_errors=True) if entry.is_dir() else entry.unlink(missing_ok=True)

    def free_bytes(self) -> int | None:
        """Return the room left on the disk."""
        place = self.path.absolute()
        while not place.exists():
            place = place.parent
        return shutil.disk_usage(place).free

    def zarr_store(self, name: str, *, read_only: bool = False) -> Store:
        """Return a Zarr store on the folder `name`."""
        from zarr.storage import LocalStore

        from .chunk_store import ChunkStore

        kind = LocalStore if read_only else ChunkStore
        return kind(self.path / name, read_only=read_only)


def _walk(root: str, but: str) -> Iterator[str]:
    """Yield the names of the files below a folder, as strings: there may be very many."""
    folders = [""]
    while folders:
        below = folders.pop()
        with (
            contextlib.suppress(FileNotFoundError, NotADirectoryError),
            os.scandir(f"{root}/{below}") as entries,
        ):
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    if (name := f"{below}{entry.name}/") != but:
                        folders.append(name)
                elif _is_file(entry):
                    yield f"{below}{entry.name}"


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a link that leads round in circles
        return False


def _write_file(path: str, data: bytes) -> None:
    """Write a file with the fewest calls: a release has hundreds of thousands of them."""
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), exist_ok=True)  # noqa: PTH103, PTH120
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    try:
        left = memoryview(data)
        while left:
            left = left[os.write(file, left) :]
    finally:
        os.close(file)


def _make_folders(path: Path) -> None:
    """Make a folder and those above it, and force the names of new ones onto the disk."""
    missing = list(itertools.takewhile(lambda folder: not folder.exists(), (path, *path.parents)))
    if not missing:
        return
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        _fsync_dir(folder.parent)


def _fsync_dir(path: Path) -> None:
    """Force a folder's names onto the disk; some network file systems can do so for files alone."""
    try:
        _force(str(path))
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EBADF):
            raise


def _force(path: str) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
