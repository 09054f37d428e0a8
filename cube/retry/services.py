"""Services that cannot be reached: said at once, waited for together, and given up together."""

from __future__ import annotations

import logging
import re
import threading
import time
from dataclasses import dataclass, field

from cube.errors import ServiceError

_LOG = logging.getLogger(__name__)

MOST_FAILURES = 5
"""Equal failures to connect in a row, with no success between them, after which a run stops."""
_FIRST_WAIT_S = (1.0, 2.0)
_GROWTH = (2.0, 4.0)
"""Of the waits between them: for a service that has never answered (it may be a wrong address; 15 s
in all), and for one that has (it may come back; 100 s in all)."""
_SAID_ONCE_S = 60.0
UNREACHABLE = "unreachable"
"""Event of the log record that says so."""

PROXY_LOGIN_STATUS = 407
PROXY_LOGIN = f"the proxy wants another login (HTTP {PROXY_LOGIN_STATUS}; look at HTTPS_PROXY)"
"""What an answer of this status says: a proxy's own, whatever service was asked."""
_WORDS = tuple(
    (re.compile(pattern, re.IGNORECASE), words)
    for pattern, words in (
        (r"resolve proxy", "the name of the proxy is not known"),
        (r"(?:tunnel|proxy).*\b407\b", PROXY_LOGIN),
        (
            r"resolve host|failed to resolve|getaddrinfo|name or service not known|NameResolution",
            "its name is not known",
        ),
        (
            r"certificate|CERT_|SSLCertVerification|SSL peer",
            "its certificate is not trusted (behind a proxy that inspects, set REQUESTS_CA_BUNDLE)",
        ),
        (r"\bSSL\b|\bTLS\b|SSLError", "no encrypted connection can be made"),
        (r"unable to connect to proxy|ProxyError|CONNECT tunnel", "the proxy lets nothing through"),
        (r"unreachable|no route to host", "there is no way to it from here"),
        (r"connection timed out|connect timeout|Timeout was reached|ConnectTimeout", "it does not answer"),
        (r"connection refused|failed to connect|could(?:n't| not) connect", "the connection is refused"),
    )
)
"""What clients (curl, urllib3) say where no connection came about, and that in our words."""


def why_unreachable(text: str) -> str | None:
    """Return in words why no connection came about; None where a client's text tells of no such."""
    return next((words for pattern, words in _WORDS if pattern.search(text)), None)


@dataclass
class _Service:
    """What is known of one service's connections."""

    has_answered: bool = False
    failures: int = 0
    cause: str = ""
    noted_at: float = 0.0
    next_try_at: float = 0.0
    given_up_at: float = -1.0
    given_up_for: str = ""


@dataclass
class ServiceWatch:
    """Counts, over all threads of a process, how often services were not reached in a row."""

    _services: dict[str, _Service] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def answered(self, name: str) -> None:
        """Note that a service was reached, whatever it answered."""
        with self._lock:
            service = self._services.setdefault(name, _Service())
            service.has_answered, service.failures = True, 0

    def hold_s(self, name: str, since: float) -> float:
        """Return how long to wait before a service is spoken to at all: others wait for it, too.

        Parameters
        ----------
        since
            When the work began; what began before the service was given up is given up with it.

        Raises
        ------
        ServiceError
            If it was.
        """
        with self._lock:
            service = self._services.get(name)
            if service is None:
                return 0.0
            if since <= service.given_up_at:
                raise ServiceError(service.given_up_for)
            if not service.failures:
                return 0.0
            return max(service.next_try_at - time.monotonic(), 0.0)

    def wait_s(self, name: str, cause: str, began: float, longest_s: float) -> float:
        """Note that a service was not reached, and return how long to wait before the next try.

        Attempts that were under way at once count as one, and their threads wait for the same
        moment.

        Parameters
        ----------
        name
            The service, as people know it: its host.
        cause
            Why, in words; another one starts the count anew.
        began
            When the attempt began, on the monotonic clock.
        longest_s
            No wait is longer.

        Raises
        ------
        ServiceError
            At the fifth such failure in a row.
        """
        with self._lock:
            service, now = self._services.setdefault(name, _Service()), time.monotonic()
            if service.failures and began <= service.noted_at:
                return max(service.next_try_at - now, 0.0)
            if service.cause != cause:
                service.failures = 0
            service.failures, service.cause, service.noted_at = service.failures + 1, cause, now
            if service.failures >= MOST_FAILURES:
                service.failures, service.given_up_at = 0, now
                service.given_up_for = (
                    f"{name} cannot be reached: {cause}, {MOST_FAILURES} times in a row; check the network "
                    "and the address, and run again: what is done is kept"
                )
                raise ServiceError(service.given_up_for)
            known = int(service.has_answered)
            wait = min(_FIRST_WAIT_S[known] * _GROWTH[known] ** (service.failures - 1), longest_s)
            service.next_try_at = now + wait
            if service.failures == 1:
                _say(name, cause)
            return wait


def _say(name: str, cause: str) -> None:
    _LOG.warning(
        "%s cannot be reached: %s; it is tried %d times in all, then the run stops",
        name,
        cause,
        MOST_FAILURES,
        extra={"event": UNREACHABLE, "facts": {"service": name, "cause": cause}},
    )


class _SaidOnce(logging.Filter):
    """Lets a line through once a minute, from however many processes it is forwarded."""

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        text, now = record.getMessage(), time.monotonic()
        is_new = now - self._said.get(text, -_SAID_ONCE_S) >= _SAID_ONCE_S
        if is_new:
            self._said[text] = now
        return is_new


_LOG.addFilter(_SaidOnce())
SERVICES = ServiceWatch()
"""The services of this process."""
