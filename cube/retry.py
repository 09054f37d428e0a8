"""Trying again: how often, how long, and how a service's own wish is heeded."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TypeVar

Result = TypeVar("Result")
TRANSIENT_STATUS = frozenset({408, 429, 500, 502, 503, 504})
"""HTTP answers that may be others the next time."""
_FIRST_WAIT_S = 0.5
_LONGEST_WAIT_S = 60.0


class Transient(Exception):  # noqa: N818  a signal to the policy, never seen by users
    """An attempt failed that another may mend; `wait_s` is how long the service asks to wait."""

    def __init__(self, cause: str, wait_s: float | None = None) -> None:
        super().__init__(cause)
        self.cause, self.wait_s = cause, wait_s


class Refused(Exception):  # noqa: N818  a signal to whoever called the policy, never seen by users
    """No further attempt will mend it."""


@dataclass(frozen=True)
class RetryPolicy:
    """Bounded in number and in time: exponential waits with full jitter."""

    retries: int
    budget_s: float = 900.0

    def call(self, attempt: Callable[[int], Result]) -> Result:
        """Call ``attempt(0)``, ``attempt(1)``, ... until one does not raise :class:`Transient`.

        Raises
        ------
        Transient
            The last one, once tries or time are used up.
        """
        deadline = time.monotonic() + self.budget_s
        for number in range(self.retries + 1):
            try:
                return attempt(number)
            except Transient as failure:
                wait = failure.wait_s if failure.wait_s is not None else _backoff(number)
                if number == self.retries or time.monotonic() + wait > deadline:
                    raise
                time.sleep(wait)
        raise AssertionError("unreachable")


def _backoff(number: int) -> float:
    """Return a random wait below a bound that doubles, so that clients do not retry in step."""
    return random.uniform(0, min(_FIRST_WAIT_S * 2**number, _LONGEST_WAIT_S))  # noqa: S311


def retry_after_s(header: str | None) -> float | None:
    """Read a ``Retry-After`` header: seconds, or an HTTP date."""
    if not header:
        return None
    try:
        return max(float(header), 0.0)
    except ValueError:
        pass
    try:
        return max(parsedate_to_datetime(header).timestamp() - time.time(), 0.0)
    except ValueError:
        return None
