"""Folders that are either on a local disk or in an object store, with the same promises.

A file appears whole or not at all. On disk that is a temporary file, ``fsync`` and a rename; in an
object store a put is atomic by itself. A folder appears whole or not at all, too: on disk it is
staged beside its place and renamed; in an object store, which cannot rename, its seal (a file that
every reader looks for first) is put last and removed first.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from threading import BoundedSemaphore
from typing import IO, TYPE_CHECKING, Any

import fsspec

from cube.errors import DiskFullError, StoreError
from cube.redaction import without_signature

if TYPE_CHECKING:
    from zarr.abc.store import Store

__all__ = ["STAGING_PREFIX", "Folder", "disk_errors"]

STAGING_PREFIX = ".staging-"
"""Names that begin so are unfinished; no reader looks at them, and the next run sweeps them."""

_PUT_THREADS = 8
_PUT_AHEAD = 32
"""Files that wait to be put into an object store; further ones wait outside memory."""


@contextlib.contextmanager
def disk_errors(where: str) -> Iterator[None]:
    """Turn an operating system's refusal to write into one clear line."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFullError(
                f"{where}: no space left; make room and run again, nothing is lost"
            ) from error
        raise StoreError(f"{where}: cannot be written ({error.strerror or error})") from error


@dataclass(frozen=True)
class Folder:
    """A folder, by local path or by URL (``s3://``, ``az://``, ``gs://``, ``memory://``).

    Values of this class are small and travel to workers; nothing is opened before it is used.
    """

    url: str
    options: Mapping[str, Any] = field(default_factory=dict, hash=False, repr=False)
    """fsspec's; may hold a key, and is shown nowhere."""

    def __truediv__(self, name: str) -> Folder:
        """Return the folder `name` inside this one."""
        return Folder(f"{self.url.rstrip('/')}/{name}", self.options)

    def __str__(self) -> str:
        """Return the path or URL, as shown to people."""
        return self.url

    def __getstate__(self) -> dict[str, Any]:
        """Leave the opened filesystem behind."""
        return {"url": self.url, "options": self.options}

    def absolute(self) -> Folder:
        """Return the same folder by an address that holds in any process, whatever its working directory."""
        return Folder(str(self.path.absolute()), self.options) if self.is_local else self

    @property
    def is_local(self) -> bool:
        """True on a local disk."""
        return "://" not in self.url

    @property
    def path(self) -> Path:
        """Local path; only where :attr:`is_local`."""
        assert self.is_local, self.url
        return Path(self.url)

    @cached_property
    def _fs(self) -> tuple[fsspec.AbstractFileSystem, str]:
        try:
            fs, root = fsspec.core.url_to_fs(self.url, **dict(self.options))
        except (ImportError, TypeError, ValueError) as error:
            raise StoreError(
                f"{self.url}: cannot be opened ({error}); look at directory.storage_options"
            ) from None
        return fs, root.rstrip("/")

    def _key(self, name: str) -> str:
        return f"{self._fs[1]}/{name}"

    def make(self) -> None:
        """Create the folder where the storage knows folders.

        Raises
        ------
        StoreError
            If it cannot be made.
        """
        if self.is_local:
            with disk_errors(self.url):
                _make_folders(self.path)
        else:
            _ = self._fs

    def exists(self, name: str) -> bool:
        """Tell whether there is a file called `name`."""
        if self.is_local:
            return (self.path / name).is_file()
        fs, _ = self._fs
        fs.invalidate_cache()
        return bool(fs.isfile(self._key(name)))

    def read(self, name: str) -> bytes:
        """Return a file's bytes.

        Raises
        ------
        FileNotFoundError
            If there is none.
        """
        if self.is_local:
            return (self.path / name).read_bytes()
        return bytes(self._fs[0].cat_file(self._key(name)))

    def read_range(self, name: str, start: int, size: int) -> bytes:
        """Return up to `size` bytes of a file from `start` on; holds nothing open, so any thread or process may.

        Raises
        ------
        FileNotFoundError
            If there is none.
        """
        if self.is_local:
            with (self.path / name).open("rb") as file:
                file.seek(start)
                return file.read(size)
        return bytes(self._fs[0].cat_file(self._key(name), start=start, end=start + size)) if size else b""

    def size(self, name: str) -> int:
        """Return a file's bytes.

        Raises
        ------
        FileNotFoundError
            If there is none.
        """
        return (self.path / name).stat().st_size if self.is_local else int(self._fs[0].size(self._key(name)))

    def write(self, name: str, data: bytes) -> None:
        """Write a file at once: readers see the old content or the new, never a part.

        Raises
        ------
        DiskFullError, StoreError
            If it cannot be written; what was there stays.
        """
        if not self.is_local:
            self._put(name, data)
            return
        target = self.path / name
        with disk_errors(str(target)):
            _make_folders(target.parent)
            handle, temporary = tempfile.mkstemp(prefix=STAGING_PREFIX, dir=target.parent)
            try:
                with os.fdopen(handle, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fchmod(file.fileno(), 0o644)
                    os.fsync(file.fileno())
                Path(temporary).replace(target)
            except BaseException:
                Path(temporary).unlink(missing_ok=True)
                raise
            _fsync_dir(target.parent)

    def _put(self, name: str, data: bytes) -> None:
        with self._service_errors(name):
            self._fs[0].pipe_file(self._key(name), data)

    @contextlib.contextmanager
    def _service_errors(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # every service has errors of its own
            why = " ".join(str(error).split()) or type(error).__name__
            raise StoreError(f"{self.url}/{name}: cannot be written ({without_signature(why)})") from error

    @contextlib.contextmanager
    def stream(self, name: str) -> Iterator[IO[bytes]]:
        """Write a file too large for memory piece by piece; it appears, whole, when the block ends without an error.

        Raises
        ------
        DiskFullError, StoreError
            If it cannot be written; what was there stays.
        """
        self.make()
        staged_in = self.path if self.is_local else None
        with disk_errors(f"{self.url}/{name}"):
            handle, temporary = tempfile.mkstemp(prefix=STAGING_PREFIX, dir=staged_in)
            try:
                with os.fdopen(handle, "wb") as file:
                    yield file
                    file.flush()
                    os.fchmod(file.fileno(), 0o644)
                    os.fsync(file.fileno())
                if self.is_local:
                    Path(temporary).replace(self.path / name)
                    _fsync_dir(self.path)
                else:
                    with self._service_errors(name):
                        self._fs[0].put_file(temporary, self._key(name))
            finally:
                Path(temporary).unlink(missing_ok=True)

    def open(self, name: str) -> IO[bytes]:
        """Open a file for reading piece by piece; seekable.

        Raises
        ------
        FileNotFoundError
            If there is none.
        """
        if self.is_local:
            return (self.path / name).open("rb")
        opened: IO[bytes] = self._fs[0].open(self._key(name), "rb")
        return opened

    def create(self, name: str, data: bytes) -> bool:
        """Write a file only if there is none of that name; return False if there is (decided by the storage)."""
        try:
            if self.is_local:
                with (self.path / name).open("xb") as file:
                    file.write(data)
            else:
                self._fs[0].pipe_file(self._key(name), data, mode="create")
        except OSError as error:
            if isinstance(error, FileExistsError) or getattr(error, "errno", None) in (
                errno.EEXIST,
                errno.EBUSY,
            ):
                return False
            raise
        return True

    def names(self, suffix: str = "") -> list[str]:
        """List names directly inside, sorted; unfinished ones are left out. An absent folder is empty."""
        if self.is_local:
            found = [entry.name for entry in self.path.iterdir()] if self.path.is_dir() else []
        else:
            fs, root = self._fs
            fs.invalidate_cache()
            try:
                found = [str(key).rstrip("/").rsplit("/", 1)[-1] for key in fs.ls(root, detail=False)]
            except FileNotFoundError:
                found = []
        return sorted(n for n in set(found) if n.endswith(suffix) and not n.startswith(STAGING_PREFIX))

    def sizes(self) -> dict[str, int]:
        """Return the bytes of each file directly inside, by name. An absent folder is empty."""
        if self.is_local:
            found = os.scandir(self.path) if self.path.is_dir() else ()
            return {entry.name: entry.stat().st_size for entry in found if entry.is_file()}
        fs, root = self._fs
        fs.invalidate_cache()
        try:
            entries = fs.ls(root, detail=True)
        except FileNotFoundError:
            return {}
        return {
            str(entry["name"]).rsplit("/", 1)[-1]: int(entry["size"])
            for entry in entries
            if entry["type"] == "file"
        }

    def files(self) -> Iterator[str]:
        """Names of all files below, relative and sorted."""
        if self.is_local:
            yield from sorted(_walk(str(self.path)))
            return
        fs, root_key = self._fs
        fs.invalidate_cache()
        yield from sorted(str(key)[len(root_key) + 1 :] for key in fs.find(root_key))

    def remove(self, name: str) -> None:
        """Remove a file; an absent one is no error."""
        if self.is_local:
            (self.path / name).unlink(missing_ok=True)
            return
        with contextlib.suppress(FileNotFoundError):
            self._fs[0].rm_file(self._key(name))

    def prune(self) -> None:
        """Remove empty folders below, where the storage knows folders."""
        if self.is_local:
            for folder in sorted((p for p in self.path.rglob("*") if p.is_dir()), reverse=True):
                with contextlib.suppress(OSError):  # not empty
                    folder.rmdir()

    def remove_folder(self, name: str, seal: str = "") -> None:
        """Remove the folder `name` and all in it, its `seal` first."""
        if seal:
            (self / name).remove(seal)
        if self.is_local:
            shutil.rmtree(self.path / name, ignore_errors=True)
            return
        fs, _ = self._fs
        fs.invalidate_cache()
        with contextlib.suppress(FileNotFoundError):
            fs.rm(self._key(name), recursive=True)

    def write_folder(self, name: str, files: Mapping[str, bytes], seal: str, *, sync: bool = True) -> None:
        """Write a folder of small files that appears whole, in place of one that may be there.

        Parameters
        ----------
        name
            The folder inside this one.
        files
            Content by file name; `seal` among them.
        seal
            The file whose presence says that the folder is whole.
        sync
            False leaves it to :meth:`sync` to see the folder through a loss of power; a killed
            process loses nothing.
        """
        with self.staged(name, seal, sync=sync) as put:
            for file, data in files.items():
                put(file, data)

    @contextlib.contextmanager
    def staged(self, name: str, seal: str, *, sync: bool = True) -> Iterator[Callable[[str, bytes], None]]:
        """Fill the folder `name` file by file; it appears, whole, when the block ends without an error.

        Yields
        ------
        callable
            ``put(file, data)``; may be called from several threads. `seal` is held back until the
            end.
        """
        held: dict[str, bytes] = {}
        if self.is_local:
            yield from self._staged_on_disk(name, seal, held, sync=sync)
        else:
            yield from self._staged_as_objects(name, seal, held)

    def _staged_on_disk(
        self, name: str, seal: str, held: dict[str, bytes], *, sync: bool
    ) -> Iterator[Callable[[str, bytes], None]]:
        self.make()
        with disk_errors(f"{self.url}/{name}"):
            stage = Path(tempfile.mkdtemp(prefix=f"{STAGING_PREFIX}{name}-", dir=self.path))

        def put(file: str, data: bytes) -> None:
            if file == seal:
                held[file] = data
                return
            _write_file(stage / file, data)

        target, old = self.path / name, stage.with_name(f"{stage.name}-old")
        try:
            with disk_errors(f"{self.url}/{name}"):
                yield put
                for file, data in held.items():
                    _write_file(stage / file, data)
                stage.chmod(0o755)
                if sync:
                    os.sync()  # once: a release has hundreds of thousands of files
                if target.exists():
                    target.replace(old)  # at once: a kill must not leave a part of it under its name
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

    def _staged_as_objects(
        self, name: str, seal: str, held: dict[str, bytes]
    ) -> Iterator[Callable[[str, bytes], None]]:
        self.remove_folder(name, seal)
        target = self / name
        room = BoundedSemaphore(_PUT_AHEAD)
        errors: list[BaseException] = []

        def note(future: Future[None]) -> None:
            if (error := future.exception()) is not None:
                errors.append(error)
            room.release()

        with ThreadPoolExecutor(_PUT_THREADS) as pool:

            def put(file: str, data: bytes) -> None:
                if file == seal:
                    held[file] = data
                    return
                if errors:
                    raise errors[0]
                room.acquire()
                pool.submit(target.write, file, data).add_done_callback(note)

            yield put
        if errors:
            raise errors[0]
        for file, data in held.items():
            target.write(file, data)

    def sync(self) -> None:
        """Force all that was written without it onto the disk; object stores have done so already."""
        if self.is_local:
            os.sync()

    def sweep(self) -> None:
        """Remove what a killed run left half-written directly inside."""
        if not self.is_local or not self.path.is_dir():
            return
        for entry in self.path.iterdir():
            if entry.name.startswith(STAGING_PREFIX):
                shutil.rmtree(entry, ignore_errors=True) if entry.is_dir() else entry.unlink(missing_ok=True)

    def free_bytes(self) -> int | None:
        """Room left, or None where the storage has no such notion."""
        if not self.is_local:
            return None
        place = self.path.absolute()
        while not place.exists():
            place = place.parent
        return shutil.disk_usage(place).free

    def zarr_store(self, name: str, *, read_only: bool = False) -> Store:
        """Return a Zarr store on the folder `name`."""
        from zarr.storage import FsspecStore, LocalStore

        target = self / name
        if target.is_local:
            return LocalStore(target.path, read_only=read_only)
        return FsspecStore.from_url(target.url, storage_options=dict(self.options), read_only=read_only)


def _walk(root: str) -> Iterator[str]:
    """Names of the files in a local folder; strings all the way, since there may be hundreds of thousands."""
    folders = [""]
    while folders:
        below = folders.pop()
        with (
            contextlib.suppress(FileNotFoundError, NotADirectoryError),
            os.scandir(f"{root}/{below}") as entries,
        ):
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(f"{below}{entry.name}/")
                elif _is_file(entry):
                    yield f"{below}{entry.name}"


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a link that leads round in circles
        return False


def _write_file(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(data)
        os.fchmod(file.fileno(), 0o644)


def _make_folders(path: Path) -> None:
    """Make a folder and those above it, and force the names of new ones onto the disk."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        _fsync_dir(folder.parent)


def _fsync_dir(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
