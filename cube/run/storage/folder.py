"""A folder by contract: what every place for files promises, on a disk as in an object store.

A file appears whole or not at all, and so does a folder. Names that are being written begin with
:data:`STAGING_PREFIX`; no reader looks at them.
"""

from __future__ import annotations

import contextlib
import errno
import re
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from typing import IO, TYPE_CHECKING, Any, Protocol

from cube.errors import DiskFullError, StoreError

if TYPE_CHECKING:
    from zarr.abc.store import Store

NO_ROOM = re.compile(
    r"quota ?exceeded|exceeded.{0,30}quota|storage ?full|insufficient.?storage", re.IGNORECASE
)
"""What object stores say where a disk would be full."""
STAGING_PREFIX = ".staging-"
"""Names that begin so are unfinished; no reader looks at them, and the next run sweeps them."""


def staging_name() -> str:
    """Return a name that nobody has; unlike ``tempfile``, what bears it heeds the umask."""
    return f"{STAGING_PREFIX}{uuid.uuid4().hex}"


def is_finished(name: str) -> bool:
    """Tell whether a name is that of a whole file or folder."""
    return not name.startswith(STAGING_PREFIX)


@contextlib.contextmanager
def disk_errors(where: str) -> Iterator[None]:
    """Turn an operating system's refusal to write into one clear line.

    Parameters
    ----------
    where
        What was to be written, as shown to people.

    Raises
    ------
    DiskFullError, StoreError
        In place of an OSError.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT) or NO_ROOM.search(str(error)):
            raise DiskFullError(
                f"{where}: no space left; make room and run again, nothing is lost"
            ) from error
        raise StoreError(f"{where}: cannot be written ({error.strerror or error})") from error


class Folder(Protocol):
    """A folder on a disk or in an object store; small, so that it can be sent to workers.

    Writing raises DiskFullError or StoreError, and leaves what was there; reading what is not there
    raises FileNotFoundError.
    """

    def __hash__(self) -> int:
        """Folders of one place are one."""
        ...

    @property
    def url(self) -> str:
        """Path or URL."""
        ...

    @property
    def options(self) -> Mapping[str, Any]:
        """fsspec's; may hold a key, and is shown nowhere."""
        ...

    @property
    def threads(self) -> int:
        """Threads by which many small files are read or written soonest."""
        ...

    def __truediv__(self, name: str) -> Folder:
        """Return the folder `name` inside this one."""
        ...

    def absolute(self) -> Folder:
        """Return the same folder by an address that holds in any working directory."""
        ...

    def make(self) -> None:
        """Create the folder where the storage knows folders."""
        ...

    def exists(self, name: str) -> bool:
        """Tell whether there is a file called `name`."""
        ...

    def read(self, name: str) -> bytes:
        """Return a file's bytes."""
        ...

    def read_range(self, name: str, start: int, size: int) -> bytes:
        """Return up to `size` bytes of a file from `start` on; nothing is held open."""
        ...

    def size(self, name: str) -> int:
        """Return how many bytes a file has."""
        ...

    def open(self, name: str) -> IO[bytes]:
        """Open a file for reading piece by piece; seekable."""
        ...

    def write(self, name: str, data: bytes) -> None:
        """Write a file at once: readers see the old content or the new, never a part."""
        ...

    def write_files(self, files: Mapping[str, bytes]) -> None:
        """Write many small files, each at once, in any order; :meth:`sync_files` forces them."""
        ...

    def read_files(self, names: Iterable[str]) -> dict[str, bytes]:
        """Return many small files' bytes; absent ones are not among them."""
        ...

    def stream(self, name: str) -> AbstractContextManager[IO[bytes]]:
        """Write a large file in pieces; it appears whole when the ``with`` statement ends well."""
        ...

    def create(self, name: str, data: bytes) -> bool:
        """Write a file only if there is none, as the storage decides; return False if there is."""
        ...

    def names(self, suffix: str = "") -> list[str]:
        """List finished names directly inside, sorted. An absent folder is empty."""
        ...

    def sizes(self) -> dict[str, int]:
        """Return the bytes of each file directly inside, by name. An absent folder is empty."""
        ...

    def files(self, but: str = "") -> Iterator[str]:
        """Names of all files below, relative and sorted; but for those in the folder `but`."""
        ...

    def remove(self, name: str) -> None:
        """Remove a file; an absent one is no error."""
        ...

    def prune(self) -> None:
        """Remove empty folders below, where the storage knows folders."""
        ...

    def remove_folder(self, name: str, last: str = "") -> None:
        """Remove the folder `name` and all in it, first the file that was written `last`."""
        ...

    def move(self, name: str, to: str, last: str = "") -> None:
        """Give a file or folder below another place below, and what is there up for it.

        What is not there to be moved is no error, and changes nothing.

        On a disk it is renamed, which is done or not done. A store cannot rename: there each object
        is copied by the store and then removed, `last` after all others, and a folder that was
        moved in part is moved again as if nothing had been.
        """
        ...

    def copy(self, name: str, to: str) -> None:
        """Let a file below be found under a second name, too; what is not there is no error.

        Neither is ever changed in place, so on a disk both may be one.
        """
        ...

    def staged(
        self, name: str, last: str, *, sync: bool = True
    ) -> AbstractContextManager[Callable[[str, bytes], None]]:
        """Fill a folder file by file; it appears whole when the ``with`` statement ends well.

        Parameters
        ----------
        name
            The folder inside this one; one that is there is replaced.
        last
            The file whose presence says that the folder is whole; it is held back until the end.
        sync
            False leaves it to :meth:`sync` to see the folder through a loss of power; a killed
            process loses nothing.

        Yields
        ------
        callable
            ``put(file, data)``; may be called from several threads.
        """
        ...

    def sync(self) -> None:
        """Force all that was written without it onto the disk."""
        ...

    def sync_files(self, names: Iterable[str]) -> None:
        """Force files below and their folders onto the disk; absent ones are no error."""
        ...

    def sweep(self) -> None:
        """Remove what a killed run left half-written directly inside."""
        ...

    def free_bytes(self) -> int | None:
        """Return the room left, or None where the storage has no such notion."""
        ...

    def zarr_store(self, name: str, *, read_only: bool = False) -> Store:
        """Return a Zarr store on the folder `name`."""
        ...


_PROBES = 5
"""Tries to write a file, each of which another run may sweep away."""


def check_writable(folder: Folder) -> None:
    """Write a file and remove it: rights, mounts and quotas show in no other way.

    Raises
    ------
    DiskFullError, StoreError
        If it cannot be done; says what to do.
    """
    name = f"{STAGING_PREFIX}probe-{uuid.uuid4().hex}"
    try:
        for tries_left in range(_PROBES - 1, -1, -1):
            try:
                folder.write(name, b"probe")
                break
            except StoreError as error:
                # Another run sweeps the folder as it begins, and what is half-written with it.
                if not tries_left or not isinstance(error.__cause__, FileNotFoundError):
                    raise
        folder.remove(name)
    except StoreError as error:
        found = str(error).replace(f"/{name}", "")
        mend = "" if ";" in found else "; let this user write there, or set another folder"
        raise type(error)(found + mend) from None


def write_folder(
    parent: Folder, name: str, files: Mapping[str, bytes], last: str, *, sync: bool = True
) -> None:
    """Write a folder of small files that appears whole, in place of one that may be there.

    Parameters
    ----------
    parent, name
        Where it goes, and what it is called.
    files
        Content by file name.
    last
        The file of them whose presence says that the folder is whole.
    sync
        False leaves it to :meth:`Folder.sync` to see it through a loss of power.
    """
    with parent.staged(name, last, sync=sync) as put:
        for file, data in files.items():
            put(file, data)
