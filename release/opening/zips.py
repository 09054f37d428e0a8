"""A release as a zip whose bytes follow from its files alone: written, compared and listed piece by piece.

The format is that of PKWARE's APPNOTE.TXT, with the choices that Python's ``zipfile`` makes for
entries stored as they are (but it begins with ZIP64 at files of 1.9 GiB, this at 2 GiB). That
module keeps up to a kilobyte of every entry, of which a large release has hundreds of thousands.
"""

from __future__ import annotations

import io
import struct
import zlib
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import IO, NamedTuple

from .checksums import SUMS_NAME

__all__ = ["LOCAL_HEADER", "ZipEntry", "list_zip", "zip_chunks", "zip_equals"]

LOCAL_HEADER = struct.Struct("<4s5H3L2H")
"""What stands before each entry's name; the lengths of name and extra fields come last."""

_LIMIT = (1 << 31) - 1
"""Sizes and offsets beyond it are written in ZIP64's fields."""
_ENTRIES_LIMIT = (1 << 16) - 1
_IN_ZIP64 = 0xFFFFFFFF
_MOST_COMMENT = (1 << 16) - 1
_ENCRYPTED = 1
_STORED = 0
_VERSION, _ZIP64_VERSION = 20, 45
_UNIX = 3
_MODE = 0o100644
_UTF8 = 1 << 11
_DATE = (1980 - 1980) << 9 | 1 << 5 | 1
_EXTRA = "<HH"
_CENTRAL = "<4s4B4H3L5H2L"
_END = "<4s4H2LH"
_ZIP64_END = "<4sQ2H2L4Q"
_ZIP64_LOCATOR = "<4sLQL"


def zip_chunks(root: str, names: Collection[str], read: Callable[[str], bytes]) -> Iterator[bytes]:
    """Yield a release's zip piece by piece, holding one file at a time.

    Entries are stored as they are (rasters and pictures are compressed already), with one time and
    mode: the bytes follow from the names and contents alone. ZIP64 where it takes it.

    Parameters
    ----------
    root
        Top folder within the zip.
    names
        The release's files, in order; ``SHA256SUMS``, whether it is among them or not, comes first.
    read
        Gives a file's bytes.

    Raises
    ------
    ValueError
        If a zip cannot hold a name.
    """
    crcs, sizes, offset = array("I"), array("Q"), 0
    for name in _seal_first(names):
        data = read(name)
        crcs.append(zlib.crc32(data))
        sizes.append(len(data))
        header = _local_header(f"{root}/{name}", crcs[-1], sizes[-1])
        yield header
        yield data
        offset += len(header) + len(data)
    start, at = offset, 0
    for name, crc, size in zip(_seal_first(names), crcs, sizes, strict=True):
        entry = f"{root}/{name}"
        record = _central_header(entry, crc, size, at)
        yield record
        at += len(_local_header(entry, crc, size)) + size
        offset += len(record)
    yield _end(len(sizes), offset - start, start)


def _seal_first(names: Iterable[str]) -> Iterator[str]:
    yield SUMS_NAME
    yield from (name for name in names if name != SUMS_NAME)


def _encoded(name: str) -> tuple[bytes, int]:
    """Return an entry's name, and the flags that go with it."""
    encoded = name.encode()
    if len(encoded) >= 1 << 16:
        raise ValueError(f"the name {name[:40]}... is too long for a zip")
    return encoded, 0 if name.isascii() else _UTF8


def _local_header(name: str, crc: int, size: int) -> bytes:
    encoded, flags = _encoded(name)
    extra = b""
    version = _VERSION
    if size > _LIMIT:
        extra = struct.pack(f"{_EXTRA}QQ", 1, 16, size, size)
        size, version = _IN_ZIP64, _ZIP64_VERSION
    fixed = (version, flags, 0, 0, _DATE, crc, size, size, len(encoded), len(extra))
    return LOCAL_HEADER.pack(b"PK\3\4", *fixed) + encoded + extra


def _central_header(name: str, crc: int, size: int, offset: int) -> bytes:
    encoded, flags = _encoded(name)
    large = []
    if size > _LIMIT:
        large += [size, size]
        size = _IN_ZIP64
    if offset > _LIMIT:
        large.append(offset)
        offset = _IN_ZIP64
    extra = struct.pack(f"{_EXTRA}{len(large)}Q", 1, 8 * len(large), *large) if large else b""
    version = _ZIP64_VERSION if large else _VERSION
    record = struct.pack(
        _CENTRAL,
        b"PK\1\2",
        *(version, _UNIX, version, 0),
        *(flags, 0, 0, _DATE),
        *(crc, size, size),
        *(len(encoded), len(extra), 0, 0, 0),
        *(_MODE << 16, offset),
    )
    return record + encoded + extra


def _end(entries: int, size: int, start: int) -> bytes:
    """Write what closes a zip: how many entries there are, and where their list is."""
    zip64 = b""
    if entries > _ENTRIES_LIMIT or start > _LIMIT or size > _LIMIT:
        versions = (_ZIP64_VERSION, _ZIP64_VERSION)
        zip64 = struct.pack(
            _ZIP64_END, b"PK\6\6", 44, *versions, 0, 0, entries, entries, size, start
        ) + struct.pack(_ZIP64_LOCATOR, b"PK\6\7", 0, start + size, 1)
    count = min(entries, _ENTRIES_LIMIT)
    size, start = min(size, _IN_ZIP64), min(start, _IN_ZIP64)
    return zip64 + struct.pack(_END, b"PK\5\6", 0, 0, count, count, size, start, 0)


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


class ZipEntry(NamedTuple):
    """What a zip's list says of a file."""

    name: str
    start: int
    """Where its header is."""
    size: int
    """Bytes, once it is unpacked."""
    crc: int
    is_stored: bool
    """False where it is compressed or encrypted."""


def list_zip(file: IO[bytes]) -> tuple[int, Iterator[ZipEntry]]:
    """Read a zip's own list of its files, entry by entry.

    Returns
    -------
    int, iterator
        Where the list begins, and so the files end; and what it says.

    Raises
    ------
    ValueError
        If it is no zip, or its list is damaged or not where it should be; while the entries are
        read, too.
    """
    start, size = _find_list(file)
    return start, _entries(file, start, size)


def _find_list(file: IO[bytes]) -> tuple[int, int]:
    """Return where the list of a zip's files begins, and its size in bytes."""
    end, locator, zip64 = (struct.Struct(one) for one in (_END, _ZIP64_LOCATOR, _ZIP64_END))
    length = file.seek(0, io.SEEK_END)
    file.seek(max(0, length - end.size - _MOST_COMMENT - locator.size))
    tail = file.read()
    at = tail.rfind(b"PK\5\6")
    if at < 0 or len(tail) < at + end.size:
        raise ValueError("no list of files at its end")
    *_, size, start, comment = end.unpack_from(tail, at)
    stop = length - len(tail) + at
    if length != stop + end.size + comment:
        raise ValueError("something follows its list of files")
    if at >= locator.size and tail[at - locator.size :].startswith(b"PK\6\7"):
        _, _, stop, _ = locator.unpack_from(tail, at - locator.size)
        file.seek(min(stop, length))
        record = file.read(zip64.size)
        if len(record) < zip64.size or not record.startswith(b"PK\6\6"):
            raise ValueError("the list of its files is not where it says")
        *_, size, start = zip64.unpack(record)
    if start + size != stop:
        raise ValueError("the list of its files is not where it says")
    return start, size


def _entries(file: IO[bytes], start: int, size: int) -> Iterator[ZipEntry]:
    central = struct.Struct(_CENTRAL)
    file.seek(start)
    while size:  # some programs write a wrong number of entries
        fixed = file.read(central.size)
        if len(fixed) < central.size or not fixed.startswith(b"PK\1\2"):
            raise ValueError("the list of its files is damaged")
        values = central.unpack(fixed)
        flags, method, crc, packed, unpacked, offset = (values[i] for i in (5, 6, 9, 10, 11, 18))
        lengths = values[12:15]
        rest = file.read(sum(lengths))
        size -= len(fixed) + len(rest)
        if len(rest) < sum(lengths) or size < 0:
            raise ValueError("the list of its files is damaged")
        name, extra = rest[: lengths[0]], rest[lengths[0] : lengths[0] + lengths[1]]
        unpacked, packed, offset = _in_zip64(extra, unpacked, packed, offset)
        if offset > start:
            raise ValueError("its list of files names one beyond them")
        is_stored = method == _STORED and not flags & _ENCRYPTED and packed == unpacked
        text = name.decode("utf-8" if flags & _UTF8 else "cp437")
        yield ZipEntry(text, offset, unpacked, crc, is_stored)


def _in_zip64(extra: bytes, *values: int) -> Iterator[int]:
    """Yield values, those that are too large for their fields from the extra field that holds them."""
    large, at, head = b"", 0, struct.Struct(_EXTRA)
    while at + head.size <= len(extra):
        kind, length = head.unpack_from(extra, at)
        at += head.size + length
        if kind == 1:
            large = extra[at - length : at]
    for value in values:
        if value != _IN_ZIP64:
            yield value
            continue
        if len(large) < 8:
            raise ValueError("the list of its files is damaged")
        yield int.from_bytes(large[:8], "little")
        large = large[8:]
