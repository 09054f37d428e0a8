"""Processes of bounded memory and time that read a release's files, which may be anybody's.

A file that kills the process that checks it (more memory than it may take, more time, a crash
within a library) is read again in another process, alone: a machine may have been short of memory.
One that kills twice is not read any more: its checks meet an OSError that says so.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import multiprocessing
import os
import resource
import signal
import sys
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from ctypes import Array, c_char
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import pyarrow as pa

from cube.run.storage import Folder
from release.opening.faults import ReleaseError
from release.opening.files import FilesBelow, FolderFiles, ZipFiles, open_files
from release.opening.limits import MOST_BYTES
from release.sharding import SHARDS_FOLDER

_MEMORY_BYTES = 4 << 30
"""What a process may take beyond what it has as it starts; several times what an honest release
of 1,000 chips needs, libraries' threads included."""
_SECONDS = 120
"""What the check of a file may take; a hundredth of a second more for each file of the release."""
_FILES_PER_SECOND = 100
_MOST_NAME_BYTES = 4096
_MOST_DEADLY = 10
_CHECKS_AHEAD = 4
"""Per process."""
_DEADLY = "cannot be checked: it takes more memory or time than it may, or crashes what reads it"

Result = TypeVar("Result")


class DeadlyFileError(ReleaseError):
    """A check cannot go on: a file kills each process that looks at it, or too many files do."""

    def __init__(self, file: str) -> None:
        super().__init__(_DEADLY)
        self.file = file


@dataclass(frozen=True)
class WatchedFiles:
    """A release's files, of which the one being checked is noted, and bounded in time."""

    files: FolderFiles | ZipFiles | FilesBelow
    note: Array[c_char]
    """Name of the file that was read last."""
    deadly: frozenset[str]
    """Files that are not read."""
    folder: str = ""
    """Where these files lie in the release, with a slash; they are called by their names there."""
    further: int = 0
    """Files beside these that a check may have to do with."""

    def names(self) -> list[str]:
        """Return all file names, sorted; in a zip one may be there several times."""
        return self.files.names()

    def top_names(self) -> list[str]:
        """Return the names of the files that lie in no shard."""
        return self.names() if isinstance(self.files, FilesBelow) else self.files.top_names()

    def shard_names(self) -> list[str]:
        """Return the names of the shards there are, sorted."""
        return [] if isinstance(self.files, FilesBelow) else self.files.shard_names()

    def shard(self, name: str) -> WatchedFiles:
        """Return the files of a shard; raise as :meth:`ZipFiles.shard` does."""
        assert not isinstance(self.files, FilesBelow)
        self._note(f"{SHARDS_FOLDER}/{name}/")
        return replace(self, files=self.files.shard(name), folder=f"{SHARDS_FOLDER}/{name}/")

    @cached_property
    def _seconds(self) -> int:
        return _SECONDS + (len(self.top_names()) + self.further) // _FILES_PER_SECOND

    def _note(self, name: str) -> None:
        self.note.value = name.encode(errors="surrogatepass")[: _MOST_NAME_BYTES - 1]

    def read(self, name: str, most: int = MOST_BYTES) -> bytes:
        """Return a file's bytes, and give this process so long to check them.

        Raises
        ------
        FileNotFoundError
            If there is none.
        OSError
            If it cannot be read, kills who checks it, or holds more than `most` bytes.
        """
        if self.folder + name in self.deadly:
            raise OSError(_DEADLY)
        self._note(self.folder + name)
        signal.alarm(0)  # a slow disk or network is nobody's fault
        try:
            return self.files.read(name, most)
        finally:
            signal.alarm(self._seconds)


Check = Callable[[WatchedFiles], Result]
"""What a process does with a release's files; travels to it."""


@dataclass(frozen=True)
class CheckProcesses:
    """Runs checks of a release in processes, which a file may kill without harm to others."""

    release: Folder
    imported: str
    """Module that is imported before processes are forked; what it imports, none imports again."""
    deadly: set[str] = field(default_factory=set)
    _suspected: set[str] = field(default_factory=set)

    def run(self, checks: Sequence[Check[Result]], workers: int, more_bytes: int = 0) -> Iterator[Result]:
        """Run checks side by side, without the files that kill them; yield results in order.

        Each is called with the release's files, and may take `more_bytes` beyond the usual.

        Raises
        ------
        DeadlyFileError
            If a check dies whatever is left out.
        ReleaseError
            If no process can be started.
        """
        while checks:
            note = multiprocessing.RawArray("c", _MOST_NAME_BYTES)
            done = 0
            with contextlib.suppress(BrokenProcessPool):
                for result in self._results(checks, workers, note, more_bytes):
                    done += 1
                    yield result
                return
            checks = checks[done:]
            if workers == 1:
                self._suspect(note.value.decode(errors="surrogatepass"))
            else:  # the death was of one of those that were under way
                under_way = 1 + _CHECKS_AHEAD * workers
                yield from self.run(checks[:under_way], 1, more_bytes)
                checks = checks[under_way:]

    def _suspect(self, file: str) -> None:
        """Note that a process died over a file."""
        if not file:
            raise ReleaseError(
                f"{self.release}: no process can be started to check it; call verify() from the main "
                'module under `if __name__ == "__main__":`'
            )
        if file in self.deadly or len(self.deadly) >= _MOST_DEADLY:
            raise DeadlyFileError(file)
        (self.deadly if file in self._suspected else self._suspected).add(file)

    def _start_method(self) -> multiprocessing.context.BaseContext:
        # A fork needs no guard in the caller's script and starts at once, but must not be made
        # beside running threads: then a server is started that has none, and it forks the others.
        # What lies in this process's memory is seen by its forks alone.
        if threading.active_count() == 1 or self.release.url.startswith("memory://"):
            return multiprocessing.get_context("fork")
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([self.imported])
        return context

    def _results(
        self, checks: Sequence[Check[Result]], workers: int, note: Array[c_char], more_bytes: int
    ) -> Iterator[Result]:
        if multiprocessing.current_process().daemon:
            raise ReleaseError(
                f"{self.release}: is checked in processes of its own, which a process of a "
                "multiprocessing.Pool may not start; call verify() from the main process"
            )
        settings = (self.release, note, frozenset(self.deadly), more_bytes)
        others = set(multiprocessing.active_children())
        with (
            warnings.catch_warnings(),
            ProcessPoolExecutor(workers, self._start_method(), _start_process, settings) as pool,
        ):
            # Idle threads of numerical libraries, which they take care of themselves.
            warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
            try:
                ahead: deque[Future[Result]] = deque()
                for check in checks:
                    ahead.append(pool.submit(_run_check, check))
                    if len(ahead) > _CHECKS_AHEAD * workers:
                        yield ahead.popleft().result()
                while ahead:
                    yield ahead.popleft().result()
            except BaseException:  # Ctrl-C waits for nothing, least of all for the zip
                for worker in set(multiprocessing.active_children()) - others:
                    worker.terminate()
                raise


_open: Callable[[], WatchedFiles]
"""Opens what a process reads from, once."""


def _start_process(release: Folder, note: Array[c_char], deadly: frozenset[str], more_bytes: int) -> None:
    global _open  # noqa: PLW0603  a process's own
    logging.getLogger("rasterio").setLevel(logging.CRITICAL)  # what GDAL finds, the faults say
    sys.unraisablehook = lambda _: None  # rasterio stumbles over its messages that are no text
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets it, too, and ends this process
    for number in (signal.SIGTERM, signal.SIGALRM):
        signal.signal(number, signal.SIG_DFL)  # a fork has its parent's
    pa.set_cpu_count(1)  # each thread would take some hundred megabytes of what a process may have
    limit_memory(more_bytes)
    note.value = release.url.rstrip("/").rpartition("/")[2].encode()[: _MOST_NAME_BYTES - 1]
    _open = functools.cache(lambda: WatchedFiles(open_files(release), note, deadly))


def _run_check(check: Check[Result]) -> Result:
    try:
        return check(_open())
    except MemoryError:
        os._exit(1)  # as a process does that has not enough left to raise it
    finally:
        signal.alarm(0)


def limit_memory(more_bytes: int = 0) -> None:
    """Bound what this process may take beyond what it has, where the system knows how.

    `more_bytes` are beyond what any check may take.
    """
    with contextlib.suppress(OSError, ValueError):
        has = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        most = has + _MEMORY_BYTES + more_bytes
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(resource.RLIMIT_AS, (most, hard))
