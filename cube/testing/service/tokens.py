"""Shared access signatures: made for one container and a while, and checked at each read."""

from __future__ import annotations

import base64
import hashlib
import hmac
import math
import secrets
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from urllib.parse import quote

from cube.testing.service.messages import (
    SAS_ROOT,
    Answer,
    Call,
    authentication_failed,
    blob_error,
    gateway_error,
    json_answer,
)

_KEY_HEADER = "ocp-apim-subscription-key"
_VERSION = "2024-05-04"
_OBJECT_ID = "9c8ff44a-6a2c-4dfb-b298-1c9212f64d9a"
_TENANT_ID = "72f988bf-0000-0000-0000-2d7cd011db47"
_START_EARLIER_S = 86_400  # tokens are valid from the day before, so that no client's clock is too slow


class Tokens:
    """The token endpoint, and the judge of what it gave out.

    Parameters
    ----------
    containers
        Every ``account/container``.
    of_collection
        The container of each collection.
    lifetime_s
        How long a token is valid, rounded up to whole seconds as its text holds no smaller ones.
    key_required
        Containers whose tokens are given only to who sends the subscription key.
    subscription_key
        That key.
    clock
        Seconds since 1970.
    """

    def __init__(
        self,
        containers: Collection[str],
        of_collection: Mapping[str, str],
        *,
        lifetime_s: float,
        key_required: Collection[str],
        subscription_key: str,
        clock: Callable[[], float],
    ) -> None:
        self.lifetime_s = lifetime_s
        self._containers = frozenset(containers)
        self._of_collection = dict(of_collection)
        self._key_required = frozenset(key_required)
        self._subscription_key = subscription_key
        self._clock = clock
        self._secret = secrets.token_bytes(16)  # of this service alone: no client's cache mixes two up
        self._retired: list[bytes] = []

    def expire(self) -> None:
        """End the life of every token given so far."""
        self._retired.append(self._secret)
        self._secret = secrets.token_bytes(16)

    def answer(self, call: Call) -> Answer:
        """Give a token for ``/token/{account}/{container}`` or ``/token/{collection}``."""
        name = call.path.removeprefix(f"{SAS_ROOT}/")
        container = self._of_collection.get(name, name)
        if container not in self._containers:
            return gateway_error(404, f"No container {name}")
        if container in self._key_required and (refusal := self._refuse_key(call)):
            return refusal
        start, expiry = self._validity()
        return json_answer({"msft:expiry": expiry, "token": self._token(container, start, expiry)})

    def refuse(self, call: Call) -> Answer | None:
        """Say why a blob may not be read; None if it may."""
        container = "/".join(call.path.split("/")[1:3])
        signature = call.query.get("sig")
        if signature is None:
            return authentication_failed("Public access is not permitted on this storage account.")
        start, expiry = call.query.get("st", ""), call.query.get("se", "")
        if any(_signature(old, container, start, expiry) == signature for old in self._retired):
            return self._refuse_time(start, expiry)
        if _signature(self._secret, container, start, expiry) != signature:
            return authentication_failed("Signature did not match.")
        is_over = datetime.fromisoformat(expiry).timestamp() < self._clock()
        return self._refuse_time(start, expiry) if is_over else None

    def expired(self, call: Call) -> Answer:
        """Refuse a read as one whose token has just run out."""
        return self._refuse_time(call.query.get("st", ""), call.query.get("se", ""))

    def _validity(self) -> tuple[str, str]:
        expiry = math.ceil(self._clock() + self.lifetime_s)
        return _utc(expiry - math.ceil(self.lifetime_s) - _START_EARLIER_S), _utc(expiry)

    def _token(self, container: str, start: str, expiry: str) -> str:
        fields = {
            "st": start,
            "se": expiry,
            "sp": "rl",
            "sv": _VERSION,
            "sr": "c",
            "skoid": _OBJECT_ID,
            "sktid": _TENANT_ID,
            "skt": start,
            "ske": expiry,
            "sks": "b",
            "skv": _VERSION,
            "sig": _signature(self._secret, container, start, expiry),
        }
        return "&".join(f"{name}={quote(value, safe='')}" for name, value in fields.items())

    def _refuse_key(self, call: Call) -> Answer | None:
        key = call.headers.get(_KEY_HEADER)
        if key is None:
            return gateway_error(401, "Access denied due to missing subscription key.")
        if key != self._subscription_key:
            return gateway_error(401, "Access denied due to invalid subscription key.")
        return None

    def _refuse_time(self, start: str, expiry: str) -> Answer:
        now = format_datetime(datetime.fromtimestamp(self._clock(), UTC), usegmt=True)
        return authentication_failed(
            "Signature not valid in the specified time frame: "
            f"Start [{_gmt(start)}] - Expiry [{_gmt(expiry)}] - Current [{now}]"
        )


@dataclass(frozen=True)
class Buckets:
    """Which buckets want a signature, and who pays for reading; signatures are not checked."""

    signed: frozenset[str]
    paid: frozenset[str]

    def refuse(self, call: Call) -> Answer | None:
        """Say why an object may not be read; None if it may."""
        bucket = call.path.split("/")[1]
        # A signature in the address is of GET alone.
        by_query = "X-Amz-Signature" in call.query and call.method == "GET"
        is_signed = by_query or "authorization" in call.headers
        pays = "requester" in (call.query.get("x-amz-request-payer"), call.headers.get("x-amz-request-payer"))
        if (bucket in self.signed | self.paid and not is_signed) or (bucket in self.paid and not pays):
            return blob_error(403, "AccessDenied", "Access Denied")
        return None


def _signature(secret: bytes, container: str, start: str, expiry: str) -> str:
    digest = hmac.digest(secret, f"{container}\n{start}\n{expiry}".encode(), hashlib.sha256)
    return base64.b64encode(digest).decode()


def _utc(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _gmt(text: str) -> str:
    return format_datetime(datetime.fromisoformat(text), usegmt=True) if text else ""
