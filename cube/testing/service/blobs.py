"""Blob storage: files of the archive, whole or by byte range."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path

from cube.testing.service.messages import Answer, Call, blob_error

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
_TYPES = {".tif": "image/tiff", ".tiff": "image/tiff", ".xml": "application/xml", ".json": "application/json"}


class RangeError(ValueError):
    """A range outside the blob."""


@dataclass(frozen=True, slots=True)
class Blobs:
    """The files below a folder of ``account/container/path``."""

    root: Path
    """Resolved."""

    def containers(self) -> frozenset[str]:
        """Name each ``account/container``."""
        return frozenset(str(path.relative_to(self.root)) for path in self.root.glob("*/*") if path.is_dir())

    def answer(self, call: Call) -> Answer:
        """Answer a GET or HEAD whose signature was checked."""
        if call.method not in {"GET", "HEAD"}:
            return blob_error(405, "UnsupportedHttpVerb", "The resource doesn't support the HTTP verb.")
        path = Path(os.path.normpath(f"{self.root}{call.path}"))
        if not path.is_relative_to(self.root) or not path.is_file():
            return blob_error(404, "BlobNotFound", "The specified blob does not exist.")
        with path.open("rb", buffering=0) as file:
            return _read(file.fileno(), path, call)


def _read(descriptor: int, path: Path, call: Call) -> Answer:
    stat = os.fstat(descriptor)
    try:
        start, stop = parse_range(call.range, stat.st_size)
    except RangeError:
        refusal = blob_error(416, "InvalidRange", "The range specified is invalid for the resource.")
        headers = (*refusal.headers, ("Content-Range", f"bytes */{stat.st_size}"))
        return Answer(416, refusal.body, refusal.content_type, headers)
    is_part = (start, stop) != (0, stat.st_size) or call.range is not None
    headers = (
        ("Accept-Ranges", "bytes"),
        ("ETag", f'"0x{stat.st_mtime_ns:X}{stat.st_size:X}"'),
        ("Last-Modified", formatdate(stat.st_mtime, usegmt=True)),
        ("x-ms-blob-type", "BlockBlob"),
    )
    if is_part:
        headers = (("Content-Range", f"bytes {start}-{stop - 1}/{stat.st_size}"), *headers)
    body = b"" if call.method == "HEAD" else os.pread(descriptor, stop - start, start)
    content_type = _TYPES.get(path.suffix.lower(), "application/octet-stream")
    return Answer(206 if is_part else 200, body, content_type, headers, length=stop - start)


def parse_range(header: str | None, size: int) -> tuple[int, int]:
    """Turn a Range header into a half-open interval of bytes; one of several ranges means all.

    Raises
    ------
    RangeError
        If no byte of the range exists.
    """
    match = _RANGE.fullmatch(header.strip()) if header else None
    if match is None or match.groups() == ("", ""):
        return 0, size
    first, last = match.groups()
    if not first:
        start, stop = max(0, size - int(last)), size
    else:
        start, stop = int(first), min(size, int(last) + 1 if last else size)
    if start >= stop:
        raise RangeError(f"{header} of {size} bytes")
    return start, stop
