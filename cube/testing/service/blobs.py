"""Blob storage: files of the archive, whole or by byte range."""

from __future__ import annotations

import gzip
import os
import re
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path
from urllib.parse import quote, urlencode

from cube.testing.service.faults import Manner
from cube.testing.service.messages import BLOB_DOMAIN, Answer, Call, blob_error

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
_MOVED = "moved"
"""Key in the query of an address that was redirected to."""
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

    def answer(self, call: Call, manner: Manner | None = None) -> Answer:
        """Answer a GET or HEAD whose signature was checked."""
        if call.method not in {"GET", "HEAD"}:
            return blob_error(405, "UnsupportedHttpVerb", "The resource doesn't support the HTTP verb.")
        path = Path(os.path.normpath(f"{self.root}{call.path}"))
        if not path.is_relative_to(self.root) or not path.is_file():
            return blob_error(404, "BlobNotFound", "The specified blob does not exist.")
        if manner is Manner.REDIRECTED and _MOVED not in call.query:
            query = urlencode({**call.query, _MOVED: "1"})
            account, _, rest = call.path.removeprefix("/").partition("/")
            where = f"http://{account}{BLOB_DOMAIN}/{quote(rest)}?{query}"
            return Answer(307, b"", headers=(("Location", where),))
        if manner is Manner.GZIPPED:
            return _part(gzip.compress(path.read_bytes(), mtime=0), call)
        wanted = None if manner is Manner.WHOLE else call.range
        with path.open("rb", buffering=0) as file:
            return _read(file.fileno(), path, call, wanted)


def _part(encoded: bytes, call: Call) -> Answer:
    """Answer with bytes of a blob that is stored gzip-encoded: its ranges are of what is stored."""
    start, stop = parse_range(call.range, len(encoded))
    headers = [("Accept-Ranges", "bytes"), ("Content-Encoding", "gzip")]
    if call.range is not None:
        headers.append(("Content-Range", f"bytes {start}-{stop - 1}/{len(encoded)}"))
    body = b"" if call.method == "HEAD" else encoded[start:stop]
    status = 200 if call.range is None else 206
    return Answer(status, body, "image/tiff", tuple(headers), length=stop - start)


def _read(descriptor: int, path: Path, call: Call, wanted: str | None) -> Answer:
    """Answer with the `wanted` range of a file, or with all of it."""
    stat = os.fstat(descriptor)
    try:
        start, stop = parse_range(wanted, stat.st_size)
    except RangeError:
        refusal = blob_error(416, "InvalidRange", "The range specified is invalid for the resource.")
        headers = (*refusal.headers, ("Content-Range", f"bytes */{stat.st_size}"))
        return Answer(416, refusal.body, refusal.content_type, headers)
    is_part = (start, stop) != (0, stat.st_size) or wanted is not None
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
