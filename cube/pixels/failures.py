"""What a failed read was: passing, lasting, or a trouble of the service; in the program's words.

GDAL tells the reason of a failed read in English sentences, some in the error and some in warnings
before it. They are judged here, once; nothing else looks at them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from cube.retry import PROXY_LOGIN, PROXY_LOGIN_STATUS, Lasting, NoConnection, Transient, why_unreachable

_MISSING_STATUS = frozenset({404, 410})
_REFUSALS = frozenset({401, 403, 409})
"""409 is what Azure answers to a read without a token where there is no public access."""
_BEYOND_THE_END = 416
_CUT_SHORT_TRIES = 4
"""A file that ends too soon looks like a transfer that broke off: it is believed later."""


class FailureKind(StrEnum):
    """What is to be done about a failed read."""

    PASSING = "passing"
    """Another try may mend it."""
    UNREACHABLE = "unreachable"
    """There was no connection."""
    REFUSED = "refused"
    """The service wants another token, or lets nobody in."""
    LASTING = "lasting"
    """The file is missing, or cannot be used."""
    CUT_SHORT = "cut short"
    """Lasting, if it is so on every try."""
    STORE = "store"
    """The store as a whole cannot be used."""


@dataclass(frozen=True)
class Failure:
    """What went wrong with one attempt, without any signature."""

    kind: FailureKind
    cause: str
    """In our words: the same for the same trouble."""
    detail: str
    """What the library said."""
    tries: int = 2
    """Attempts that must fail so before what seems to last is believed."""

    def signal(self) -> Exception:
        """Return what tells a retry policy about it."""
        if self.kind is FailureKind.UNREACHABLE:
            return NoConnection(self.cause)
        if self.kind is FailureKind.LASTING:
            return Lasting(self.cause, self.tries)
        if self.kind is FailureKind.CUT_SHORT:
            return Lasting(self.cause, _CUT_SHORT_TRIES)
        return Transient(self.cause)


_IGNORES_RANGE = re.compile(r"Range downloading not supported")
_BY_TEXT = tuple(
    (re.compile(pattern, re.IGNORECASE), kind, cause)
    for pattern, kind, cause in (
        (r"specified bucket does not exist|NoSuchBucket", FailureKind.STORE, "there is no such bucket"),
        (
            r"(?:AWS|GS)_SECRET_ACCESS_KEY|InvalidAccessKeyId|InvalidCredentials|NoCredential|AZURE_STORAGE",
            FailureKind.STORE,
            "there are no credentials for it, or wrong ones",
        ),
        (r"Permission denied|AccessDenied", FailureKind.STORE, "its files may not be read"),
        (
            r"No such file or directory|specified key does not exist|NoSuchKey|does not exist in the file system",
            FailureKind.LASTING,
            "the file is missing",
        ),
        (r"not recognized as being in a supported file format", FailureKind.LASTING, "the file is no raster"),
        (
            r"Read error|got \d+ bytes|Cannot read TIFF header|reading TIFF directory|unexpected end",
            FailureKind.CUT_SHORT,
            "the file is cut short",
        ),
        (
            r"Decod(?:e|ing)|IReadBlock|TIFF|inflate|JP2|JPEG|LZW|ZSTD|corrupt|invalid",
            FailureKind.LASTING,
            "the file cannot be decoded",
        ),
    )
)
"""What GDAL says of a file, where the transfer itself went well; the first that is found counts."""


def judge(text: str, status: int | None = None, *, broke_off: bool = False) -> Failure:
    """Judge a failed read by what the library said.

    Parameters
    ----------
    text
        The error and what led to it, without signatures.
    status
        The last HTTP status that was no success, where one was told.
    broke_off
        True where a transfer ended before its last byte.
    """
    if status is not None:
        return _judge_status(status, text)
    return _judge_transfer(text, broke_off=broke_off) or _judge_file(text)


def _judge_transfer(text: str, *, broke_off: bool) -> Failure | None:
    """Judge what went wrong on the way; None where nothing did."""
    if _IGNORES_RANGE.search(text):
        return Failure(
            FailureKind.STORE, "it sends whole files where parts are asked for (Range is ignored)", text
        )
    if "CURL" in text and (words := why_unreachable(text)):
        return Failure(FailureKind.UNREACHABLE, words, text)
    if "Operation too slow" in text or "timed out" in text:
        return Failure(FailureKind.PASSING, "no data came for too long", text)
    if broke_off or "CURL error" in text:
        return Failure(FailureKind.PASSING, "the transfer broke off", text)
    return None


def _judge_file(text: str) -> Failure:
    for pattern, kind, cause in _BY_TEXT:
        if pattern.search(text):
            return Failure(kind, cause, text)
    return Failure(FailureKind.PASSING, f"it cannot be read ({text})", text)


def _judge_status(status: int, text: str) -> Failure:
    if status in _MISSING_STATUS:
        return Failure(FailureKind.LASTING, f"the file is missing (HTTP {status})", text)
    if status == PROXY_LOGIN_STATUS:
        return Failure(FailureKind.UNREACHABLE, PROXY_LOGIN, text)
    if status in _REFUSALS:
        return Failure(FailureKind.REFUSED, f"HTTP {status}", text)
    if status == _BEYOND_THE_END:
        return Failure(FailureKind.LASTING, "the file is cut short", text)
    return Failure(FailureKind.PASSING, f"HTTP {status}", text)


def unusable(cause: str) -> Failure:
    """Return the failure of a file that can be read, but not used: another read mends nothing."""
    return Failure(FailureKind.LASTING, cause, cause, tries=1)


def fault_of_library(error: Exception) -> Failure:
    """Return the failure of a read that ended in an error which no library should raise."""
    words = f"the file cannot be decoded ({type(error).__name__})"
    return Failure(FailureKind.LASTING, words, f"{type(error).__name__}: {error}")
