"""Access tokens of the Planetary Computer: one per storage container, for all threads.

The settings are the planetary-computer SDK's (``PC_SDK_SAS_URL``, ``PC_SDK_SUBSCRIPTION_KEY``, its
settings file), and so is the form of the answer. The request is made here because the SDK's own
knows no timeout and no lock: on a silent socket it waits for ever, and a hundred threads ask for a
hundred tokens. A token never leaves the process.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from urllib.parse import urlparse

from cube.certificates import ca_bundle, distrust
from cube.errors import ServiceError
from cube.redaction import without_signature
from cube.retry import (
    PROXY_LOGIN,
    PROXY_LOGIN_STATUS,
    TRANSIENT_STATUS,
    NoConnection,
    RetryPolicy,
    Transient,
    retry_after_s,
    why_unreachable,
)

_MARGIN_S = 120.0
"""A token is renewed this long before it expires, or in the last third of a shorter life."""
_SHORTEST_LIFE_S = 5.0
"""However wrong this machine's clock is, a token is not asked for more often."""
_REFUSAL_HOLDS_S = 10.0
_TIMEOUT_S = 30.0


@dataclass(frozen=True)
class _Token:
    text: str
    """A query string without the question mark."""
    renew_at: float
    """On this process's monotonic clock."""


class _TokenCache:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._locks: dict[tuple[str, str], threading.Lock] = {}
        self._tokens: dict[tuple[str, str], _Token] = {}
        self._refusals: dict[tuple[str, str], tuple[float, str]] = {}

    def token(self, place: tuple[str, str], stale: str | None, policy: RetryPolicy) -> str:
        with self._lock:
            lock = self._locks.setdefault(place, threading.Lock())
        with lock:
            held = self._tokens.get(place)
            if held is None or time.monotonic() >= held.renew_at or held.text == stale:
                held = self._tokens[place] = self._renewed(place, policy)
            return held.text

    def _renewed(self, place: tuple[str, str], policy: RetryPolicy) -> _Token:
        """Ask for a token; threads that waited for it share a refusal, too."""
        until, refusal = self._refusals.get(place, (0.0, ""))
        if time.monotonic() < until:
            raise ServiceError(refusal)
        try:
            return _fetch(*place, policy)
        except ServiceError as refused:
            self._refusals[place] = time.monotonic() + _REFUSAL_HOLDS_S, str(refused)
            raise


_TOKENS = _TokenCache()


def token_for(href: str, *, stale: str | None, policy: RetryPolicy) -> str:
    """Return the token that opens a blob.

    Parameters
    ----------
    href
        Unsigned URL of an asset.
    stale
        A token that the service has refused: if it is still the one held, a new one is asked for.
    policy
        How often a new one is asked for.

    Returns
    -------
    str
        A query string without the question mark; empty where the URL is not one of Azure's or is
        signed already.

    Raises
    ------
    ServiceError
        If no token can be had, whatever is tried.
    """
    from planetary_computer.sas import BLOB_STORAGE_DOMAIN
    from planetary_computer.utils import parse_blob_url

    parsed = urlparse(href)
    if parsed.query or not (parsed.hostname or "").endswith(BLOB_STORAGE_DOMAIN):
        return ""
    account, container = parse_blob_url(parsed)
    return _TOKENS.token((account, container), stale, policy)


def _fetch(account: str, container: str, policy: RetryPolicy) -> _Token:
    import requests
    from planetary_computer.sas import SASToken
    from planetary_computer.settings import Settings

    settings = Settings.get()
    key = settings.subscription_key
    headers = {"Ocp-Apim-Subscription-Key": key} if key else {}

    def attempt(_: int) -> _Token:
        try:
            answer = requests.get(
                f"{settings.sas_url}/{account}/{container}",
                headers=headers,
                timeout=_TIMEOUT_S,
                verify=ca_bundle() or True,
            )
            status = answer.status_code
            token = SASToken(**answer.json()) if status == requests.codes.ok else None
        except requests.RequestException as error:
            text = without_signature(str(error))
            if mend := distrust(text):
                raise ServiceError(f"no token from {settings.sas_url}: {mend}") from None
            if words := why_unreachable(text):
                raise NoConnection(words) from None
            raise Transient("the connection broke off") from None
        except ValueError:
            raise Transient("the answer is no token") from None
        if token is not None:
            life = token.ttl()
            life = max(life - _MARGIN_S, life * 2 / 3, _SHORTEST_LIFE_S)
            return _Token(token.token, time.monotonic() + life)
        if status == PROXY_LOGIN_STATUS:
            raise NoConnection(PROXY_LOGIN)
        if status in TRANSIENT_STATUS:
            raise Transient(f"HTTP {status}", retry_after_s(answer.headers.get("Retry-After")))
        raise ServiceError(_refusal(account, container, status, has_key=bool(key)))

    try:
        return policy.call(attempt, urlparse(settings.sas_url).hostname or settings.sas_url)
    except Transient as failure:
        raise ServiceError(f"no token for {account}/{container}: {failure.cause}") from None


def _refusal(account: str, container: str, status: int, *, has_key: bool) -> str:
    hint = (
        "check PC_SDK_SUBSCRIPTION_KEY"
        if has_key
        else "an account may be needed: set PC_SDK_SUBSCRIPTION_KEY"
    )
    return f"no token for {account}/{container}: HTTP {status}; {hint}"
