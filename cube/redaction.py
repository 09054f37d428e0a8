"""Signatures and tokens taken out of whatever is kept, logged or printed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_TOKENS = frozenset(
    {
        "access_key",
        "access_token",
        "api-key",
        "api_key",
        "apikey",
        "sig",
        "signature",
        "subscription-key",
        "token",
        "x-amz-security-token",
        "x-amz-signature",
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
    if isinstance(record, str):
        return unsigned_href(record)
    if isinstance(record, Mapping):
        return {key: unsigned_record(value) for key, value in record.items()}
    return [unsigned_record(value) for value in record] if isinstance(record, (list, tuple)) else record


_QUERY = re.compile(r"\?[^\s'\"<>]+")
_SIGNATURE = re.compile(r"\b(sig|se|st|skoid|sktid|ske|sks|skt|skv|sp|sr|sv)=[^\s&'\"<>]+")


def without_signature(text: str) -> str:
    """Return a message without the query strings and logins of its URLs, where secrets live.

    Examples
    --------
    >>> without_signature("GET https://example.org/B04.tif?se=2023&sig=secret: HTTP 403")
    'GET https://example.org/B04.tif HTTP 403'
    """
    return _SIGNATURE.sub(r"\1=...", _QUERY.sub("", _LOGIN.sub(r"\1", text)))
