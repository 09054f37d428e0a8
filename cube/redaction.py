"""Signatures and tokens taken out of whatever is kept, logged or printed."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

_TOKENS = frozenset(
    {
        "access_key",
        "access_token",
        "api-key",
        "api_key",
        "apikey",
        "refresh_token",
        "sig",
        "signature",
        "subscription-key",
        "token",
        "x-amz-credential",
        "x-amz-security-token",
        "x-amz-signature",
        "x-goog-credential",
        "x-goog-signature",
    }
)
"""Keys of a query that opens what is closed to others."""

_LOGIN = re.compile(r"\b([A-Za-z][A-Za-z0-9+.-]*://)[^/?#\s@'\"<>]*(?:@[^/?#\s@'\"<>]*)*@")
"""User and password before a host, which may hold ``@`` themselves."""


def unsigned_href(href: str) -> str:
    """Return an href without its token, which must not be stored, and would be stale.

    So it is with a login before the host.

    Examples
    --------
    >>> unsigned_href("https://user:secret@example.org/B04.tif")
    'https://example.org/B04.tif'
    """
    href = _LOGIN.sub(r"\1", href)
    address, _, query = href.partition("?")
    keys = {part.partition("=")[0].lower() for part in query.split("&")}
    return href if keys.isdisjoint(_TOKENS) else address


def unsigned_record(record: Any) -> Any:
    """Return plain JSON, none of whose hrefs carries a token."""
    return _with_texts(record, unsigned_href)


def _with_texts(record: Any, cleaned: Callable[[str], str]) -> Any:
    """Return plain JSON with each of its texts cleaned, however deep it lies."""
    if isinstance(record, str):
        return cleaned(record)
    if isinstance(record, Mapping):
        return {key: _with_texts(value, cleaned) for key, value in record.items()}
    return [_with_texts(value, cleaned) for value in record] if isinstance(record, (list, tuple)) else record


_QUERY = re.compile(r"\?[^\s'\"<>]+")
_SAS = ("se", "st", "skoid", "sktid", "ske", "sks", "skt", "skv", "sp", "sr", "sv")
"""Keys of an Azure token beside its signature."""
_SIGNATURE = re.compile(rf"\b({'|'.join(sorted((*_TOKENS, *_SAS)))})=[^\s&'\"<>]+", re.IGNORECASE)
_HEADER = re.compile(r"\b(Bearer|Basic|AWS4-HMAC-SHA256) [^\s'\"<>]{8,}", re.IGNORECASE)


def without_signature(text: str) -> str:
    """Return a message without what opens anything: queries and logins of URLs, tokens, headers.

    Examples
    --------
    >>> without_signature("GET https://example.org/B04.tif?se=2023&sig=secret: HTTP 403")
    'GET https://example.org/B04.tif HTTP 403'
    >>> without_signature("Authorization: Bearer eyJhbGciOi")
    'Authorization: Bearer ...'
    """
    text = _QUERY.sub("", _LOGIN.sub(r"\1", text))
    return _HEADER.sub(r"\1 ...", _SIGNATURE.sub(r"\1=...", text))


def without_signatures(record: Any) -> Any:
    """Return plain JSON, whose texts are without what opens anything, however deep they lie."""
    return _with_texts(record, without_signature)
