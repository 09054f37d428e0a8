"""Decoded samples, kept between epochs: in memory that worker processes share, or in a file.

All samples of a dataset are of one size, so each has a slot of its own and nothing is moved or
forgotten. A slot's checksum tells whether it was filled, and filled to the end: processes may fill
one at once, with the same bytes, and a killed one leaves no half sample that could be read.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import logging
import multiprocessing
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.context import get_spawning_popen
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numcodecs import CRC32C
from numpy.typing import NDArray

from .normalising import Sample

log = logging.getLogger(__name__)
_HEAD_BYTES = 16
"""Before each sample: a mark and a checksum, so aligned that arrays may follow."""
_FILLED = b"GELOSLC1"
_TEXT_BYTES = "S64"


@dataclass(frozen=True)
class SampleCache:
    """Where decoded samples are kept, and how much room they may take.

    In memory, all workers of a loader share one cache, forked or spawned; a dataset that is pickled
    otherwise begins an empty one. On disk, a dataset has a file in the folder, which later runs
    find again; it is called by what the dataset reads, so another release has another. Where there
    is no room for all samples, the first ones are kept and the others read anew each time.
    """

    most_bytes: int
    """Of each dataset; taken at once in memory, and on disk as samples come."""
    folder: str | Path | None = None
    """On disk; None: in memory."""


class Slots(Protocol):
    """Bytes that are read and written at places."""

    def read(self, start: int, size: int) -> bytes:
        """Return bytes."""
        ...

    def write(self, start: int, data: bytes) -> None:
        """Put bytes."""
        ...


class MemorySlots:
    """Memory that processes share."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._shared = multiprocessing.RawArray(ctypes.c_char, size)

    def __getstate__(self) -> dict[str, Any]:
        """Hand the memory on to a process that is being started; only then can it be."""
        return {"_size": self._size} | ({"_shared": self._shared} if get_spawning_popen() else {})

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        """Take the memory, or some of one's own."""
        self.__init__(0)  # type: ignore[misc]
        self._size = state["_size"]
        self._shared = state.get("_shared") or multiprocessing.RawArray(ctypes.c_char, self._size)

    def read(self, start: int, size: int) -> bytes:
        """Return bytes."""
        return bytes(memoryview(self._shared).cast("B")[start : start + size])

    def write(self, start: int, data: bytes) -> None:
        """Put bytes."""
        memoryview(self._shared).cast("B")[start : start + len(data)] = data

    def __str__(self) -> str:
        """Say where it is."""
        return "memory"


class FileSlots:
    """A file that processes share; it is sparse until it is filled."""

    def __init__(self, path: Path, size: int) -> None:
        self._path, self._size = path, size
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        os.ftruncate(self._file, size)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the open file behind."""
        return {"path": self._path, "size": self._size}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        """Open the file again, in another process."""
        self.__init__(state["path"], state["size"])  # type: ignore[misc]

    def __del__(self) -> None:
        """Close the file."""
        if hasattr(self, "_file"):
            os.close(self._file)

    def read(self, start: int, size: int) -> bytes:
        """Return bytes."""
        return os.pread(self._file, size, start)

    def write(self, start: int, data: bytes) -> None:
        """Put bytes."""
        os.pwrite(self._file, data, start)

    def __str__(self) -> str:
        """Say where it is."""
        return str(self._path)


class CachedSamples:
    """Samples of a dataset that were decoded before. Travels to worker processes.

    Parameters
    ----------
    cache
        Where they are kept.
    ids
        Chips that may be asked for, the more important first.
    model
        A sample of the dataset: all are of its shapes and dtypes.
    key
        What the samples are read from and how, for the name of a file.
    """

    def __init__(self, cache: SampleCache, ids: Sequence[int], model: Sample, key: Any) -> None:
        self._names = {name: type(value) for name, value in model.items()}
        self._dtype = np.dtype([(name, *_form(value)) for name, value in model.items()])
        self._slot_bytes = -(-(_HEAD_BYTES + self._dtype.itemsize) // _HEAD_BYTES) * _HEAD_BYTES
        kept = ids[: cache.most_bytes // self._slot_bytes]
        self._places = {chip_id: place for place, chip_id in enumerate(kept)}
        self.bytes = len(kept) * self._slot_bytes
        """What the cache takes when it is full."""
        self._slots: Slots
        if cache.folder is None:
            self._slots = MemorySlots(max(self.bytes, 1))
        else:
            what = json.dumps([key, str(self._dtype), list(ids), self.bytes])
            name = hashlib.sha256(what.encode()).hexdigest()[:32]
            self._slots = FileSlots(Path(cache.folder) / f"{name}.samples", self.bytes)
        said = f"{len(kept)} of {len(ids)} samples, {self.bytes / 1e6:.1f} MB at most"
        log.info("cache: %s, in %s", said, self._slots)

    def get(self, chip_id: int) -> Sample | None:
        """Return a chip's sample, its arrays not to be written to; None if it is not there."""
        if chip_id not in self._places:
            return None
        slot = self._slots.read(self._places[chip_id] * self._slot_bytes, self._slot_bytes)
        content = slot[_HEAD_BYTES : _HEAD_BYTES + self._dtype.itemsize]
        if slot[:_HEAD_BYTES] != _head(content):
            return None
        record = np.frombuffer(content, self._dtype)[0]
        return {name: _restored(record[name], kind) for name, kind in self._names.items()}

    def put(self, chip_id: int, sample: Sample) -> None:
        """Keep a chip's sample, if there is room for it."""
        if chip_id not in self._places:
            return
        record = np.zeros(1, self._dtype)
        for name, value in sample.items():
            record[name] = value
        content = record.tobytes()
        start = self._places[chip_id] * self._slot_bytes
        try:
            self._slots.write(start, _head(content) + content)
        except OSError as error:  # it can be read again
            log.warning("cache: %s cannot be written to (%s)", self._slots, error.strerror)


def _head(content: bytes) -> bytes:
    return _FILLED + int(CRC32C.checksum(content)).to_bytes(_HEAD_BYTES - len(_FILLED), "little")


def _form(value: Any) -> tuple[Any, ...]:
    """Return the dtype and the shape of a sample's value."""
    if isinstance(value, str):
        return (_TEXT_BYTES,)
    array = np.asarray(value)
    return (array.dtype, array.shape)


def _restored(value: Any, kind: type) -> Any:
    if kind is str:
        return bytes(value).decode()
    found: NDArray[Any] = value
    return found if kind is np.ndarray else kind(found.tolist())
