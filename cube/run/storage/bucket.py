"""Folders in an object store, through fsspec: a folder is whole once its last file is put."""

from __future__ import annotations

import contextlib
import errno
import io
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property
from threading import BoundedSemaphore
from typing import IO, TYPE_CHECKING, Any, cast

import fsspec

from cube.errors import DiskFullError, StoreError
from cube.redaction import without_signature

from .folder import NO_ROOM, STAGING_PREFIX, disk_errors, is_finished

if TYPE_CHECKING:
    from zarr.abc.store import Store

_THREADS = 8
_S3 = ("s3://", "s3a://")
_PUT_AHEAD = 32
"""Files that wait to be put; further ones wait outside memory."""

_EXTRAS = {
    "s3": "s3",
    "s3a": "s3",
    "az": "azure",
    "abfs": "azure",
    "abfss": "azure",
    "adl": "azure",
    "gs": "gcs",
    "gcs": "gcs",
}
"""The project's extra that brings the library of a scheme."""
_OPTIONS = "directory.storage_options"
_MENDS = (
    (NO_ROOM, "no space left; make room and run again, nothing is lost"),
    (
        r"NoCredentials|PartialCredentials|locate credentials|DefaultCredentials|connection_string|Anonymous caller",
        (
            "no credentials; set the service's variables (of S3: AWS_PROFILE, or AWS_ACCESS_KEY_ID and "
            f"AWS_SECRET_ACCESS_KEY), or key and secret in {_OPTIONS}"
        ),
    ),
    (
        (
            r"InvalidAccessKeyId|AWS Access Key Id|SignatureDoesNotMatch|signature we calculated|ExpiredToken|"
            r"token.{0,20}expired"
        ),
        "the credentials are not accepted; look at their key and secret, and at this machine's clock",
    ),
    (
        r"AccessDenied|Access Denied|PermissionError|Forbidden|\b403\b",
        "the credentials may not do this; ask for the rights to list, read, write and delete there",
    ),
    (
        r"NoSuchBucket|bucket does not exist|ContainerNotFound|container does not exist|FileNotFoundError",
        "there is no such bucket; make it, or look at its name in the config",
    ),
    (
        (
            r"PermanentRedirect|AuthorizationHeaderMalformed|IllegalLocationConstraint|region .{1,30} is wrong|"
            r"addressed using the specified endpoint|NoRegion"
        ),
        f"the bucket lies in another region; set AWS_DEFAULT_REGION, or client_kwargs: {{region_name: ...}} in {_OPTIONS}",
    ),
    (
        r"CERTIFICATE_VERIFY_FAILED|SSLError",
        "its certificate is not vouched for; set AWS_CA_BUNDLE to a file that holds the authority",
    ),
    (
        r"EndpointConnection|ConnectTimeout|Invalid endpoint|Cannot connect|ClientConnector|ConnectionRefused",
        (
            f"no service answers; look at endpoint_url in {_OPTIONS} (https://HOST), or at AWS_ENDPOINT_URL "
            "where a command takes no config, and at the network"
        ),
    ),
    (r"unexpected keyword argument", f"look at its name in {_OPTIONS}"),
)
"""What to do, by what a service or its client raised: type and text."""


def _cause_and_mend(error: Exception) -> tuple[str, str]:
    """Return what a store's client met, without any token, and what to do if that is known."""
    text = without_signature(" ".join(str(error).split())) or type(error).__name__
    if found := re.search(r"unexpected keyword argument '(\w+)'", text):
        text = f"unknown option {found[1]!r}"
    causes = f"{type(error).__name__}: {error}"
    return text, next((mend for pattern, mend in _MENDS if re.search(pattern, causes)), "")


@dataclass(frozen=True)
class BucketFolder:
    """A folder in an object store; see :class:`cube.run.storage.folder.Folder`.

    A store cannot rename, so a folder is whole once its last file is there: that file is put last
    and removed first.
    """

    url: str
    """``s3://``, ``az://``, ``gs://``, ``memory://`` ..."""
    options: Mapping[str, Any] = field(default_factory=dict, hash=False, repr=False)
    """fsspec's; may hold a key, and is shown nowhere."""

    @property
    def threads(self) -> int:
        """Several: each waits for a service."""
        return _THREADS

    def __truediv__(self, name: str) -> BucketFolder:
        """Return the folder `name` inside this one."""
        return BucketFolder(f"{self.url.rstrip('/')}/{name}", self.options)

    def __str__(self) -> str:
        """Return the URL, as shown to people."""
        return self.url

    def __getstate__(self) -> dict[str, Any]:
        """Leave the opened filesystem behind."""
        return {"url": self.url, "options": self.options}

    @cached_property
    def _opened(self) -> tuple[fsspec.AbstractFileSystem, str]:
        try:
            fs, root = fsspec.core.url_to_fs(self.url, **self._all_options)
        except ImportError as error:
            scheme = self.url.partition("://")[0]
            extra = _EXTRAS.get(scheme)
            mend = f"type: pip install 'gelos-lc[{extra}]'" if extra else str(error)
            raise StoreError(
                f"{self.url}: {scheme}:// needs a library that is not installed; {mend}"
            ) from None
        except (TypeError, ValueError) as error:
            cause, mend = _cause_and_mend(error)
            raise StoreError(
                f"{self.url}: cannot be opened ({cause}); {mend or f'look at {_OPTIONS}'}"
            ) from None
        return fs, root.rstrip("/")

    @property
    def _all_options(self) -> dict[str, Any]:
        # Asked for several parts of a file at once, s3fs asks how large it is, each time.
        whole = {"max_concurrency": 1} if self.url.startswith(_S3) else {}
        return {**whole, **self.options}

    @property
    def _fs(self) -> fsspec.AbstractFileSystem:
        return self._opened[0]

    @property
    def _listed(self) -> fsspec.AbstractFileSystem:
        """The filesystem without what it remembers of listings."""
        self._fs.invalidate_cache()
        return self._fs

    def _key(self, name: str) -> str:
        return f"{self._opened[1]}/{name}"

    def absolute(self) -> BucketFolder:
        """Return this folder: its URL holds everywhere."""
        return self

    def make(self) -> None:
        """See that the store can be opened; it knows no folders."""
        _ = self._opened

    def exists(self, name: str) -> bool:
        """Tell whether there is a file called `name`."""
        try:
            with self._service_errors(name):
                return bool(self._listed.info(self._key(name))["type"] == "file")
        except FileNotFoundError:
            return False

    def read(self, name: str) -> bytes:
        """Return a file's bytes."""
        with self._service_errors(name):
            return bytes(self._fs.cat_file(self._key(name)))

    def read_range(self, name: str, start: int, size: int) -> bytes:
        """Return up to `size` bytes of a file from `start` on."""
        with self._service_errors(name):
            return bytes(self._fs.cat_file(self._key(name), start=start, end=start + size)) if size else b""

    def size(self, name: str) -> int:
        """Return how many bytes a file has."""
        with self._service_errors(name):
            return int(self._fs.size(self._key(name)))

    def open(self, name: str) -> IO[bytes]:
        """Open a file for reading piece by piece."""
        with self._service_errors(name):
            opened: IO[bytes] = self._fs.open(self._key(name), "rb")
            return opened

    def write(self, name: str, data: bytes) -> None:
        """Put a file."""
        with self._writing_errors(name):
            self._fs.pipe_file(self._key(name), data)

    def write_files(self, files: Mapping[str, bytes]) -> None:
        """Put many small files at once."""
        with self._writing_errors(""):
            self._fs.pipe({self._key(name): data for name, data in files.items()})

    def read_files(self, names: Iterable[str]) -> dict[str, bytes]:
        """Return many small files' bytes; absent ones are not among them."""
        keys = {self._key(name): name for name in names}
        with self._service_errors():
            found = self._fs.cat([*keys], on_error="return") if keys else {}
            for answer in found.values():
                if isinstance(answer, Exception) and not isinstance(answer, FileNotFoundError):
                    raise answer
        return {keys[key]: data for key, data in found.items() if isinstance(data, bytes)}

    @contextlib.contextmanager
    def stream(self, name: str) -> Iterator[IO[bytes]]:
        """Put a file in pieces; it is there when the ``with`` statement ends well.

        S3 takes it part by part as it is written. Elsewhere a temporary file is filled first.
        """
        self.make()
        if self.url.startswith(_S3):
            with self._parts(name) as parts:
                yield parts
            return
        with disk_errors(f"{self.url}/{name}"), tempfile.NamedTemporaryFile(prefix=STAGING_PREFIX) as file:
            yield file
            file.flush()
            with self._writing_errors(name):
                self._fs.put_file(file.name, self._key(name))

    @contextlib.contextmanager
    def _parts(self, name: str) -> Iterator[IO[bytes]]:
        """Give a file whose parts are put as it is written, and made one at the end."""
        with self._writing_errors(name):
            file = self._fs.open(self._key(name), "wb", autocommit=False)
        try:
            yield cast("IO[bytes]", _PartsFile(file, lambda: self._writing_errors(name)))
            with self._writing_errors(name):
                file.close()
                file.commit()
        except BaseException:
            file.closed = True  # or it would be closed, and put, when it is forgotten
            with contextlib.suppress(Exception):  # what stays is no file, and the store's to clear away
                file.discard()
            raise

    @contextlib.contextmanager
    def _service_errors(self, name: str = "") -> Iterator[None]:
        """Turn what a service or its client raises into one clear line; what is absent stays so."""
        try:
            yield
        except (FileNotFoundError, StoreError):
            raise
        except Exception as error:  # every service has errors of its own
            raise self._failure(name, error, "read") from error

    @contextlib.contextmanager
    def _writing_errors(self, name: str) -> Iterator[None]:
        """Do the same where what is absent is the bucket."""
        try:
            yield
        except StoreError:
            raise
        except Exception as error:
            raise self._failure(name, error, "written") from error

    def _failure(self, name: str, error: Exception, done: str) -> StoreError:
        kind = DiskFullError if NO_ROOM.search(str(error)) else StoreError
        place = f"{self.url}/{name}".rstrip("/")
        cause, mend = _cause_and_mend(error)
        return kind(f"{place}: cannot be {done} ({cause}){mend and f'; {mend}'}")

    def create(self, name: str, data: bytes) -> bool:
        """Put a file only if there is none."""
        try:
            with self._writing_errors(name):
                self._fs.pipe_file(self._key(name), data, mode="create")
        except StoreError as error:
            cause = error.__cause__
            if isinstance(cause, OSError) and (
                isinstance(cause, FileExistsError) or cause.errno in (errno.EEXIST, errno.EBUSY)
            ):
                return False
            raise
        return True

    def names(self, suffix: str = "") -> list[str]:
        """List finished names directly inside, sorted."""
        found = {str(entry["name"]).rstrip("/").rsplit("/", 1)[-1] for entry in self._entries()}
        return sorted(name for name in found if name.endswith(suffix) and is_finished(name))

    def sizes(self) -> dict[str, int]:
        """Return the bytes of each file directly inside."""
        files = (entry for entry in self._entries() if entry["type"] == "file")
        return {str(entry["name"]).rsplit("/", 1)[-1]: int(entry["size"]) for entry in files}

    def _entries(self) -> list[dict[str, Any]]:
        try:
            with self._service_errors():
                return list(self._listed.ls(self._opened[1], detail=True))
        except FileNotFoundError:
            return []

    def files(self, but: str = "") -> Iterator[str]:
        """Names of all files below, but for those in the folder `but`."""
        root = self._opened[1]
        if but:
            files = set(self.sizes())
            below = [
                f"{folder}/{name}"
                for folder in set(self.names()) - files - {but}
                for name in (self / folder).files()
            ]
            yield from sorted([*files, *below])
            return
        with self._service_errors():
            keys = self._listed.find(root)
        yield from sorted(str(key)[len(root) + 1 :] for key in keys)

    def remove(self, name: str) -> None:
        """Remove a file."""
        with contextlib.suppress(FileNotFoundError), self._service_errors(name):
            self._fs.rm_file(self._key(name))

    def prune(self) -> None:
        """Do nothing: an object store has no empty folders."""

    def remove_folder(self, name: str, last: str = "") -> None:
        """Remove all objects of the folder `name`, first the one that was put `last`."""
        if last:
            (self / name).remove(last)
        with contextlib.suppress(FileNotFoundError), self._service_errors(name):
            self._listed.rm(self._key(name), recursive=True)

    def move(self, name: str, to: str, last: str = "") -> None:
        """Copy the objects of a file or folder within the store, and remove the first ones."""
        if self.exists(name):
            self.copy(name, to)
            self.remove(name)
            return
        below = sorted((self / name).files(), key=lambda file: file == last)
        for file in below:
            self.copy(f"{name}/{file}", f"{to}/{file}")
        if below:
            self.remove_folder(name, last)

    def copy(self, name: str, to: str) -> None:
        """Copy a file within the store."""
        with self._service_errors(to), contextlib.suppress(FileNotFoundError):
            self._fs.cp_file(self._key(name), self._key(to))

    @contextlib.contextmanager
    def staged(self, name: str, last: str, *, sync: bool = True) -> Iterator[Callable[[str, bytes], None]]:
        """Put a folder's files as they come, and `last` when the ``with`` statement ends well."""
        del sync  # a store has seen to it once a put returns
        self.remove_folder(name, last)
        target, held = self / name, dict[str, bytes]()
        room, errors = BoundedSemaphore(_PUT_AHEAD), list[BaseException]()

        def note(future: Future[None]) -> None:
            if (error := future.exception()) is not None:
                errors.append(error)
            room.release()

        with ThreadPoolExecutor(_THREADS) as pool:

            def put(file: str, data: bytes) -> None:
                if file == last:
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
        """Do nothing: what was put is there."""

    def sync_files(self, names: Iterable[str]) -> None:
        """Do nothing: what was put is there."""

    def sweep(self) -> None:
        """Do nothing: a put is whole or not there."""

    def free_bytes(self) -> int | None:
        """Return None: an object store has no end."""
        return None

    def zarr_store(self, name: str, *, read_only: bool = False) -> Store:
        """Return a Zarr store on the folder `name`."""
        from zarr.storage import FsspecStore

        url = (self / name).url
        return FsspecStore.from_url(url, storage_options=self._all_options, read_only=read_only)


class _PartsFile(io.RawIOBase):
    """A file that is put part by part; what a store raises is one clear line."""

    def __init__(self, file: Any, errors: Callable[[], AbstractContextManager[None]]) -> None:
        self._file, self._errors = file, errors

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return int(self._file.tell())

    def write(self, data: Any, /) -> int:
        with self._errors():
            return int(self._file.write(data))
