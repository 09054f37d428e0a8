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

from cube.certificates import gdal_trust
from cube.config.profiles import S3Access
from cube.errors import LostSceneError, ReadError, ServiceError
from cube.redaction import without_signature
from cube.retry import Lasting, Refused, Result, RetryPolicy, Transient
from cube.run.logs import event
from cube.scenes.items import AssetRef, Scene

from .failures import Failure, FailureKind, fault_of_library, judge, unusable
from .s3 import address_of, signed_address
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
_PUBLIC = S3Access()
_DISK_WAIT = 0.25
"""How much shorter a disk is waited for than a network, before what it lacks is asked for again."""
_TOKEN_BUDGET_S = 300.0
_TOKEN_RETRIES = 8
"""However few tries a read has: without a token the run stops."""
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Access:
    """How a process finds, signs and retries the assets that it reads."""

    base: str = ""
    """Folder that relative hrefs are resolved against."""
    sign: bool = False
    """Sign hrefs with the planetary-computer SDK's settings."""
    s3: S3Access = _PUBLIC
    """How s3:// hrefs are read."""
    connections: int = 16
    """Reads that this process has open at once."""
    retries: int = 8
    """Further tries of a read that failed in passing."""
    wait_s: float = 0.5
    """Longest wait before the second try; it doubles with each."""
    longest_wait_s: float = 60.0
    """No wait is longer."""

    def resolve(self, href: str) -> str:
        """Return an href that can be opened, unsigned, or an s3:// one that has to be signed."""
        if href.startswith("s3://") and self.s3.access == "public":
            return address_of(href, self.s3)
        if "://" in href or href.startswith("/"):
            return href
        return str(PurePosixPath(self.base) / href)

    def token(self, href: str, *, stale: str | None) -> str:
        """Return the token that opens an href; `stale` is one that was refused.

        Raises
        ------
        ServiceError
            If none can be had.
        """
        retries = max(self.retries, _TOKEN_RETRIES)
        policy = RetryPolicy(retries, _TOKEN_BUDGET_S, self.wait_s, self.longest_wait_s)
        return token_for(href, stale=stale, policy=policy)


def read_with_retries(scene: Scene, asset: AssetRef, access: Access, read: Callable[[str], Result]) -> Result:
    """Read an asset, trying again what may pass.

    Parameters
    ----------
    read
        Is given a URL; raises :class:`cube.retry.Refused` where the file can be read, but not used.

    Raises
    ------
    ReadError
        If the read still failed at the last try.
    LostSceneError
        If the file is missing, or cannot be used, for good.
    ServiceError
        If the trouble is the service's: no connection, no token, a store that lets nobody in.
    """
    _install_log_filters()
    opener = _Opener(asset, access)
    readers = _readers(access.connections)

    def attempt(_: int) -> Result:
        url = opener.url()
        result, failure = readers.submit(_try, read, url).result()
        if failure is None:
            return cast("Result", result)
        opener.note_failure(failure)
        raise failure.signal()

    try:
        return opener.policy.call(attempt, opener.service)
    except Lasting as last:
        error: ReadError = LostSceneError(scene.id, asset.key, last.cause)
    except Transient as last:
        error = ReadError(scene.id, asset.key, last.cause)
    _LOG.info("%s: %s", error, opener.last_detail, extra=event("read", item=scene.id, asset=asset.key))
    raise error  # outside the handler: nothing that was caught, and may hold a token, comes along


def _try(read: Callable[[str], Result], url: str) -> tuple[Result | None, Failure | None]:
    _TOLD.status, _TOLD.broke_off = None, False
    with rasterio.Env(**_GDAL_OPTIONS, **gdal_trust()):
        try:
            return read(url), None
        except Refused as refusal:
            return None, unusable(str(refusal))
        except (RasterioError, CPLE_BaseError, OSError, ValueError) as error:
            text = _error_chain_text(error)
        except ArithmeticError:  # what Python says of it names no file
            return None, unusable("its georeferencing lies beyond all bounds")
        except Exception as error:  # noqa: BLE001  whatever a library makes of a broken file
            _LOG.debug("a library failed", exc_info=True)
            return None, fault_of_library(error)
    _TOLD.hear(text)
    return None, judge(text, _TOLD.status, broke_off=_TOLD.broke_off)


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


class _Told(threading.local):
    """What GDAL warned this thread of during a read; errors of ranges do not name it."""

    status: int | None = None
    """The last HTTP status that was no success."""
    broke_off: bool = False
    """True where a transfer ended before its last byte."""

    def hear(self, text: str) -> None:
        """Note what a message tells of HTTP."""
        for status in map(int, _STATUS.findall(text)):
            if 200 <= status < 300 or not status:
                self.broke_off = True
            else:
                self.status = status


_TOLD = _Told()
_STATUS = re.compile(r"(?:HTTP response code: |HTTP error code: |response_code=)(\d+)")


class _SignatureFilter(logging.Filter):
    """Takes signatures out of what rasterio logs, and notes what GDAL warns of."""

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        _TOLD.hear(text)
        record.msg, record.args = without_signature(text), ()
        return True


@lru_cache(maxsize=1)
def _install_log_filters() -> None:
    """Keep tokens out of the log; hide a warning that comes up when several threads warp."""
    warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)
    theirs = [name for name in logging.root.manager.loggerDict if name.startswith("rasterio")]
    for name in (*theirs, "odc.loader._rio"):
        logging.getLogger(name).addFilter(_SignatureFilter())


def _is_remote(href: str) -> bool:
    return href.startswith(("http://", "https://", "s3://"))


_SIGNED_REFUSALS = 3
"""Fresh tokens in a row that a container must refuse before it is believed."""
_UNSIGNED_REFUSALS = 2
_FAILED_READS: dict[str, int] = {}
"""Failed reads in this process, by href: GDAL must not see a URL again that has failed.

It remembers a failed open, and keeps a broken body as good, for the life of the process; another
query is another URL. """


def read_past_caches(href: str, access: Access) -> None:
    """Let this process read an asset anew, whatever GDAL has kept of it."""
    href = access.resolve(href)
    _FAILED_READS[href] = _FAILED_READS.get(href, 0) + 1


class _Opener:
    """Gives GDAL the URL of an asset: signed, and never one that has failed before."""

    def __init__(self, asset: AssetRef, access: Access) -> None:
        self._href = access.resolve(asset.href)
        self._access = access
        self._refused: str | None = None
        self._refusals = 0
        self._used = ""
        self._failed_reads = 0
        self.last_detail = ""
        """What the library said of the last failure."""

    @property
    def is_remote(self) -> bool:
        """True where the asset is read over a network."""
        return _is_remote(self._href)

    @property
    def service(self) -> str:
        """Whom the asset is read from, as people know it: a host, a bucket, a folder."""
        scheme, separator, rest = self._href.partition("://")
        if not separator:
            return str(PurePosixPath(self._href).parent)
        host = rest.partition("/")[0]
        return host if scheme in ("http", "https") else f"{scheme}://{host}"

    @property
    def policy(self) -> RetryPolicy:
        """How often a read is tried; on a disk nothing passes by itself."""
        access = self._access
        if "://" in self._href:
            return RetryPolicy(access.retries, _READ_BUDGET_S, access.wait_s, access.longest_wait_s)
        return RetryPolicy(0, _READ_BUDGET_S, access.wait_s * _DISK_WAIT, access.longest_wait_s)

    def url(self) -> str:
        """Return what to open.

        Raises
        ------
        ServiceError
            If no token, or no key to sign with, can be had.
        """
        if not self.is_remote:
            return self._href
        self._failed_reads = _FAILED_READS.get(self._href, 0)
        if self._href.startswith("s3://"):
            return signed_address(self._href, self._access.s3, self._failed_reads)
        if self._access.sign:
            self._used = self._access.token(self._href, stale=self._refused)
        nonce = f"attempt={self._failed_reads}" if self._failed_reads else ""
        query = "&".join(part for part in (self._used, nonce) if part)
        return f"{self._href}{'&' if '?' in self._href else '?'}{query}" if query else self._href

    def note_failure(self, failure: Failure) -> None:
        """Let the next attempt have another URL, and another token if this one was refused.

        Raises
        ------
        ServiceError
            If fresh tokens are refused, too.
        """
        self.last_detail = failure.detail
        _FAILED_READS[self._href] = max(_FAILED_READS.get(self._href, 0), self._failed_reads + 1)
        if failure.kind not in (FailureKind.REFUSED, FailureKind.STORE):
            self._refusals = 0
            return
        self._refusals += 1
        if failure.kind is FailureKind.REFUSED:
            self._refused = self._used
            if self._refusals >= (_SIGNED_REFUSALS if self._used else _UNSIGNED_REFUSALS):
                how = "even with a fresh token" if self._used else "without a token; see catalog.sign"
                raise ServiceError(
                    f"{self._place} lets nobody read ({failure.cause}, {how}); nothing of it is to be had "
                    "now: check the account, or run again later"
                )
        elif self._refusals >= (_UNSIGNED_REFUSALS if self.is_remote else 1):
            raise ServiceError(f"{self._place}: {failure.cause}; that is no item's fault, and stops the run")

    @property
    def _place(self) -> str:
        """The container that the asset lies in, or the folder."""
        container = self._href.partition("://")[2].split("/")[1:-1][:1]
        return "/".join([self.service, *container])


def check_access(href: str, access: Access) -> None:
    """Get the token of an asset's container, or the key of its bucket, if it needs one.

    Called for every container of a plan before its first block, so that a missing account shows in
    the first minute of a run, not hours later.

    Raises
    ------
    ServiceError
        If there is none to be had.
    """
    href = access.resolve(href)
    if href.startswith("s3://"):
        signed_address(href, access.s3, 0)
    elif access.sign and _is_remote(href):
        access.token(href, stale=None)
