"""Requests and answers as values, and the error answers of each role."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit
from xml.sax.saxutils import escape

BLOB_DOMAIN = ".blob.core.windows.net"
STAC_ROOT = "/api/stac/v1"
SAS_ROOT = "/api/sas/v1/token"
CONTROL_ROOT = "/stand-in"
S3_ROOT = "/s3"
"""Below it lie buckets, as on a store that is not Amazon's."""

SAS_PARAMETERS = frozenset(
    {"st", "se", "sp", "sv", "sr", "skoid", "sktid", "skt", "ske", "sks", "skv", "sig"},
)


class Role(StrEnum):
    """What part of the service a request speaks to."""

    SEARCH = "search"
    """A STAC search, or the items of a collection: a page of items."""
    CATALOG = "catalog"
    """Any other STAC document."""
    TOKEN = "token"  # noqa: S105 - a name
    BLOB = "blob"
    OTHER = "other"
    """A request which the real service would never see."""


@dataclass(frozen=True, slots=True)
class Call:
    """A request as it came in."""

    method: str
    path: str
    """Percent-decoded; that of a blob is ``/account/container/...``."""
    query: Mapping[str, str]
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes = b""
    role: Role = Role.OTHER
    is_s3: bool = False
    """True for a blob that is read as an object of a bucket."""

    @classmethod
    def of(cls, method: str, target: str, headers: Mapping[str, str], body: bytes) -> Call:
        """Read a request line's target: absolute, as for proxies, or a path with a Host header."""
        if method == "CONNECT":  # a tunnel to https, which is not to be had here
            return cls(method, target, {}, headers)
        url = urlsplit(target)
        host = (url.netloc or headers.get("host", "")).partition(":")[0]
        if host.endswith(BLOB_DOMAIN):
            path, role = f"/{host.removesuffix(BLOB_DOMAIN)}{url.path}", Role.BLOB
        else:
            path, role = url.path, _api_role(url.path)
        is_s3 = path.startswith(f"{S3_ROOT}/")
        path, role = (path.removeprefix(S3_ROOT), Role.BLOB) if is_s3 else (path, role)
        return cls(method, unquote(path), dict(parse_qsl(url.query)), headers, body, role, is_s3)

    @property
    def range(self) -> str | None:
        """The bytes asked for, as the header says it."""
        return self.headers.get("range")

    @property
    def public_query(self) -> str:
        """The query without any signature."""
        public = {name: value for name, value in self.query.items() if name not in SAS_PARAMETERS}
        return "&".join(f"{name}={quote(value)}" for name, value in public.items())


@dataclass(frozen=True, slots=True)
class Answer:
    """A response, before any fault."""

    status: int
    body: bytes = b""
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()
    length: int | None = None
    """What Content-Length says; the body's own length if None."""

    def head(self) -> bytes:
        """Write the status line and headers."""
        length = len(self.body) if self.length is None else self.length
        lines = [
            f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}",
            f"Content-Type: {self.content_type}",
            f"Content-Length: {length}",
            *(f"{name}: {value}" for name, value in self.headers),
        ]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


def json_answer(value: Any, status: int = 200, content_type: str = "application/json") -> Answer:
    """Answer with a JSON document."""
    return Answer(status, json.dumps(value, separators=(",", ":")).encode(), content_type)


def api_error(status: int, code: str, description: str) -> Answer:
    """Refuse as the STAC API does."""
    return json_answer({"code": code, "description": description}, status)


def gateway_error(status: int, message: str) -> Answer:
    """Refuse as the gateway before the APIs does."""
    return json_answer({"statusCode": status, "message": message}, status)


def blob_error(status: int, code: str, message: str, detail: str = "") -> Answer:
    """Refuse as blob storage does: XML, and the code again in a header."""
    more = f"<AuthenticationErrorDetail>{escape(detail)}</AuthenticationErrorDetail>" if detail else ""
    xml = (
        '\ufeff<?xml version="1.0" encoding="utf-8"?>'
        f"<Error><Code>{code}</Code><Message>{escape(message)}</Message>{more}</Error>"
    )
    return Answer(status, xml.encode(), "application/xml", (("x-ms-error-code", code),))


def authentication_failed(detail: str) -> Answer:
    """Refuse a read that is unsigned, or signed for another time or container."""
    return blob_error(
        403,
        "AuthenticationFailed",
        "Server failed to authenticate the request. Make sure the value of Authorization header is formed "
        "correctly including the signature.",
        detail,
    )


def failure(role: Role, status: int, retry_after_s: int) -> Answer:
    """Answer a request with a status of its own accord, in the words of its role."""
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        message = f"Rate limit is exceeded. Try again in {retry_after_s} seconds."
        return _with_header(gateway_error(status, message), "Retry-After", str(retry_after_s))
    if role is not Role.BLOB:
        return gateway_error(status, HTTPStatus(status).phrase)
    code, message = _BLOB_ERRORS.get(status, ("InternalError", HTTPStatus(status).phrase))
    if status == HTTPStatus.FORBIDDEN:
        return authentication_failed("Signature did not match.")
    return blob_error(status, code, message)


def _with_header(answer: Answer, name: str, value: str) -> Answer:
    return Answer(answer.status, answer.body, answer.content_type, (*answer.headers, (name, value)))


def _api_role(path: str) -> Role:
    if path.startswith(f"{SAS_ROOT}/"):
        return Role.TOKEN
    if path.startswith(STAC_ROOT):
        return Role.SEARCH if path.endswith(("/search", "/items")) else Role.CATALOG
    return Role.OTHER


_BLOB_ERRORS = {
    404: ("BlobNotFound", "The specified blob does not exist."),
    500: ("InternalError", "The server encountered an internal error. Please retry the request."),
    503: ("ServerBusy", "Egress is over the account limit."),
}
