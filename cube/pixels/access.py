"""How assets are reached: signed at the moment of the read, tried again, in bounded threads.

All reads of a process happen in as many threads as it may have connections, one request at a time
in each: that bounds what a service is asked at once, and GDAL, which keeps connections by thread,
has them open for the next read.
"""

from __future__ import annotations

import logging
import re
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any, cast

import rasterio
import rasterio.warp
import rasterio.windows
from rasterio._err import CPLE_BaseError
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from cube.errors import ReadError
from cube.redaction import without_signature
from cube.retry import Refused, Result, RetryPolicy, Transient
from cube.scenes.items import AssetRef, Scene

from .signing import token_for

_GDAL_OPTIONS: dict[str, Any] = {
    # No directory listings and no probes for sidecar files: a COG is one file.
    "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
    "GDAL_PAM_ENABLED": False,
    # The header of a COG lies in its first bytes, and is kept for the next block; then neighbouring
    # tiles are asked for together. A request for one tile is rounded to whole chunks: small ones,
    # but not so small that the long offset table of a whole zone's land cover takes several.
    "GDAL_INGESTED_BYTES_AT_OPEN": 16384,
    "CPL_VSIL_CURL_CHUNK_SIZE": 8192,
    "CPL_VSIL_CURL_CACHE_SIZE": 64 << 20,
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": True,
    # What passes by itself is tried again at once; above it, the read is.
    "GDAL_HTTP_MAX_RETRY": 2,
    "GDAL_HTTP_RETRY_DELAY": 0.5,
    # Without these GDAL waits for ever on a silent socket.
    "GDAL_HTTP_CONNECTTIMEOUT": 15,
    "GDAL_HTTP_TIMEOUT": 120,
    "GDAL_HTTP_LOW_SPEED_TIME": 20,
    "GDAL_HTTP_LOW_SPEED_LIMIT": 1000,
    # Bounded per process, whatever the machine has.
    "GDAL_CACHEMAX": 256,
    "VSI_CACHE": False,
}
_READ_BUDGET_S = 1800.0


@dataclass(frozen=True)
class Access:
    """How a process finds, signs and retries the assets that it reads."""

    base: str = ""
    """Folder that relative hrefs are resolved against."""
    sign: bool = False
    """Sign hrefs with the planetary-computer SDK's settings."""
    connections: int = 16
    """Reads that this process has open at once."""
    retries: int = 8
    """Further tries of a read that failed."""

    def resolve(self, href: str) -> str:
        """Return an href that can be opened, unsigned."""
        if "://" in href or href.startswith("/"):
            return href
        return str(PurePosixPath(self.base) / href)


def read_with_retries(scene: Scene, asset: AssetRef, access: Access, read: Callable[[str], Result]) -> Result:
    """Read an asset, trying again on any error."""
    _install_log_filters()
    opener = _Opener(asset, access)
    readers = _readers(access.connections)

    def attempt(_: int) -> Result:
        url = opener.url()
        result, failure = readers.submit(_try, read, url).result()
        if failure is None:
            return cast("Result", result)
        opener.note_failure(failure)
        raise Transient(failure.cause)

    try:
        return RetryPolicy(access.retries if opener.is_http else 0, _READ_BUDGET_S).call(attempt)
    except (Transient, Refused) as last:
        error = ReadError(scene.id, asset.key, str(last))
    raise error  # outside the handler: nothing that was caught, and may hold a token, comes along


@dataclass(frozen=True)
class _Failure:
    """What went wrong with one attempt, without any signature."""

    cause: str
    status: int | None
    """The last HTTP status that was no success, where GDAL told of one."""


def _try(read: Callable[[str], Result], url: str) -> tuple[Result | None, _Failure | None]:
    _LAST_STATUS.status = None
    with rasterio.Env(**_GDAL_OPTIONS):
        try:
            return read(url), None
        except (RasterioError, CPLE_BaseError, OSError, ValueError) as error:
            cause = _error_chain_text(error)
        except ArithmeticError:  # what Python says of it names no file
            cause = "its georeferencing lies beyond all bounds"
    found = _STATUS.search(cause)
    status = int(found[1]) if found else _LAST_STATUS.status
    if status is not None and not found:
        cause = f"{cause} (HTTP {status})"
    return None, _Failure(cause, status)


def _error_chain_text(error: BaseException) -> str:
    """Put an error and what led to it into one line, without any signature."""
    texts: list[str] = []
    link: BaseException | None = error
    while link is not None:
        text = without_signature(" ".join(str(link).split())).removesuffix(
            " See previous exception for details."
        )
        if text and text not in texts:
            texts.append(text)
        link = link.__cause__ or link.__context__
    return ": ".join(texts) or type(error).__name__


@lru_cache(maxsize=8)
def _readers(connections: int) -> ThreadPoolExecutor:
    """Return the threads in which all reads of this process happen."""
    return ThreadPoolExecutor(connections, thread_name_prefix="reader")


class _LastStatus(threading.local):
    """The last HTTP status that GDAL warned this thread of; errors of ranges do not name it."""

    status: int | None = None


_LAST_STATUS = _LastStatus()
_STATUS = re.compile(r"(?:HTTP response code: |HTTP error code: |response_code=)(\d+)")


class _SignatureFilter(logging.Filter):
    """Takes signatures out of what rasterio logs, and notes HTTP statuses."""

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        for status in _STATUS.findall(text):
            if not 200 <= int(status) < 300 and int(status):
                _LAST_STATUS.status = int(status)
        record.msg, record.args = without_signature(text), ()
        return True


@lru_cache(maxsize=1)
def _install_log_filters() -> None:
    """Keep tokens out of the log; hide a warning that comes up when several threads warp."""
    warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)
    theirs = [name for name in logging.root.manager.loggerDict if name.startswith("rasterio")]
    for name in (*theirs, "odc.loader._rio"):
        logging.getLogger(name).addFilter(_SignatureFilter())


def _is_http(href: str) -> bool:
    return href.startswith(("http://", "https://"))


_REFUSALS = frozenset({401, 403})
_FAILED_READS: dict[str, int] = {}
"""Failed reads in this process, by href: GDAL must not see a URL again that has failed.

It remembers a failed open, and keeps a broken body as good, for the life of the process; another
query is another URL. """


class _Opener:
    """Gives GDAL the URL of an asset: signed, and never one that has failed before."""

    def __init__(self, asset: AssetRef, access: Access) -> None:
        self._href = access.resolve(asset.href)
        self._sign = access.sign
        self._refused: str | None = None
        self._used = ""
        self._failed_reads = 0

    @property
    def is_http(self) -> bool:
        """True where the asset is read over a network."""
        return _is_http(self._href)

    def url(self) -> str:
        """Return what to open.

        Raises
        ------
        Refused
            If no token can be had.
        """
        if not self.is_http:
            return self._href
        if self._sign:
            self._used = token_for(self._href, stale=self._refused)
        self._failed_reads = _FAILED_READS.get(self._href, 0)
        nonce = f"attempt={self._failed_reads}" if self._failed_reads else ""
        query = "&".join(part for part in (self._used, nonce) if part)
        return f"{self._href}{'&' if '?' in self._href else '?'}{query}" if query else self._href

    def note_failure(self, failure: _Failure) -> None:
        """Let the next attempt have another URL, and another token if this one was refused."""
        if failure.status in _REFUSALS:
            self._refused = self._used
        _FAILED_READS[self._href] = max(_FAILED_READS.get(self._href, 0), self._failed_reads + 1)


def check_access(href: str, access: Access) -> str:
    """Return why there is no token for an asset's container, in one line; empty if there is one.

    Called for every container of a plan before its first block, so that a missing account shows in
    the first minute of a run, not hours later.
    """
    if not access.sign or not _is_http(access.resolve(href)):
        return ""
    try:
        token_for(access.resolve(href), stale=None)
    except Refused as refused:
        return str(refused)
    return ""
