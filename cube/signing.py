"""Access tokens of the Planetary Computer: one per storage container, shared by the threads of a process.

The settings are the planetary-computer SDK's (``PC_SDK_SAS_URL``, ``PC_SDK_SUBSCRIPTION_KEY``, its settings file), and so
is the form of the answer. The request is made here because the SDK's own knows no timeout and no lock: on a silent
socket it waits for ever, and a hundred threads ask for a hundred tokens. A token never leaves the process.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from urllib.parse import urlparse

import requests

from .retry import TRANSIENT_STATUS, RetryPolicy, Transient, retry_after_s, without_signature

__all__ = ["token_for"]

_MARGIN_S = 120.0
"""A token is renewed this long before it expires, or in the last third of a shorter life."""
_TIMEOUT_S = 30.0
_POLICY = RetryPolicy(retries=8, budget_s=300.0)


@dataclass(frozen=True)
class _Token:
    text: str
    """A query string without the question mark."""
    renew_at: float
    """On this process's monotonic clock."""


class _Keeper:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._locks: dict[tuple[str, str], threading.Lock] = {}
        self._tokens: dict[tuple[str, str], _Token] = {}

    def token(self, account: str, container: str, stale: str | None) -> str:
        with self._lock:
            lock = self._locks.setdefault((account, container), threading.Lock())
        with lock:
            held = self._tokens.get((account, container))
            if held is None or time.monotonic() >= held.renew_at or held.text == stale:
                held = self._tokens[account, container] = _fetch(account, container)
            return held.text


_KEEPER = _Keeper()


def token_for(href: str, *, stale: str | None) -> str:
    """Return the token that opens a blob.

    Parameters
    ----------
    href
        Unsigned URL of an asset.
    stale
        A token that the service has refused: if it is still the one held, a new one is asked for.

    Returns
    -------
    str
        A query string without the question mark; empty where the URL is not one of Azure's or is signed already.

    Raises
    ------
    Transient
        If no token can be had.
    """
    from planetary_computer.sas import BLOB_STORAGE_DOMAIN
    from planetary_computer.utils import parse_blob_url

    parsed = urlparse(href)
    if parsed.query or not (parsed.hostname or "").endswith(BLOB_STORAGE_DOMAIN):
        return ""
    return _KEEPER.token(*parse_blob_url(parsed), stale)


def _fetch(account: str, container: str) -> _Token:
    from planetary_computer.sas import SASToken
    from planetary_computer.settings import Settings

    settings = Settings.get()
    key = settings.subscription_key
    headers = {"Ocp-Apim-Subscription-Key": key} if key else {}

    def attempt(_: int) -> _Token:
        try:
            answer = requests.get(
                f"{settings.sas_url}/{account}/{container}", headers=headers, timeout=_TIMEOUT_S
            )
            if answer.status_code in TRANSIENT_STATUS:
                wait = retry_after_s(answer.headers.get("Retry-After"))
                raise Transient(f"no token for {account}/{container}: HTTP {answer.status_code}", wait)
            if answer.status_code != requests.codes.ok:
                raise _Refused(_refusal(account, container, answer.status_code, has_key=bool(key)))
            token = SASToken(**answer.json())
        except (requests.RequestException, ValueError) as error:
            raise Transient(f"no token for {account}/{container}: {without_signature(str(error))}") from None
        life = token.ttl()
        return _Token(token.token, time.monotonic() + max(life - _MARGIN_S, life * 2 / 3))

    try:
        return _POLICY.call(attempt)
    except _Refused as refused:
        raise Transient(str(refused)) from None


class _Refused(Exception):  # noqa: N818  turned into Transient for the caller, but not tried again here
    """The service will not give a token, whatever is tried."""


def _refusal(account: str, container: str, status: int, *, has_key: bool) -> str:
    hint = "check PC_SDK_SUBSCRIPTION_KEY" if has_key else "an account may be needed: set PC_SDK_SUBSCRIPTION_KEY"
    return f"no token for {account}/{container}: HTTP {status}; {hint}"
