"""How often something is tried, how long is waited, and how a service's own wish is heeded."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TypeVar

from .services import SERVICES
from .waiting import pause, stop_if_given_up

Result = TypeVar("Result")
TRANSIENT_STATUS = frozenset({408, 429, 500, 502, 503, 504})
"""HTTP answers that may be others the next time."""
_SECOND_TRY_WAITS = 4
"""Before what seems to last is tried a second time, a policy's first wait passes so many times."""


class Transient(Exception):  # noqa: N818  a signal to the policy, never seen by users
    """An attempt failed that another may mend; `wait_s` is how long the service asks to wait."""

    def __init__(self, cause: str, wait_s: float | None = None) -> None:
        super().__init__(cause)
        self.cause, self.wait_s = cause, wait_s


class NoConnection(Transient):
    """An attempt never reached its service; `cause` says why, in words."""


class Lasting(Exception):  # noqa: N818  as above
    """An attempt failed for a reason that seems to last: another is made after a pause.

    Parameters
    ----------
    cause
        Why, in words.
    tries
        Attempts that must fail so before it is believed.
    """

    def __init__(self, cause: str, tries: int = 2) -> None:
        super().__init__(cause)
        self.cause, self.tries = cause, tries


class Refused(Exception):  # noqa: N818  a signal to whoever called the policy, never seen by users
    """No further attempt will mend it."""


@dataclass(frozen=True)
class RetryPolicy:
    """Bounded in number and in time: exponential waits with full jitter."""

    retries: int
    budget_s: float = 900.0
    wait_s: float = 0.5
    """Longest wait before the second try; it doubles with each."""
    longest_wait_s: float = 60.0
    """No wait is longer."""

    def call(self, attempt: Callable[[int], Result], service: str = "") -> Result:
        """Call ``attempt(0)``, ``attempt(1)``, ... until one raises no signal to try again.

        Parameters
        ----------
        attempt
            Raises :class:`Transient`, :class:`NoConnection` or :class:`Lasting`; whatever else it
            raises ends the call.
        service
            Whom the attempts speak to; one that is not reached is waited for with all others that
            speak to it.

        Raises
        ------
        Transient
            The last one, once tries or time are used up.
        Lasting
            The last one, once it is believed, whatever tries are left.
        ServiceError
            If the service cannot be reached at all.
        GivenUpError
            As soon as nobody waits for the result.
        """
        since = time.monotonic()
        deadline = since + self.budget_s
        number = lasting = 0
        while True:
            stop_if_given_up()
            while (held := SERVICES.hold_s(service, since)) > 0:
                pause(held)
            began = time.monotonic()
            try:
                result = attempt(number)
            except Lasting as failure:
                SERVICES.answered(service)
                lasting += 1
                if lasting >= failure.tries:
                    raise
                wait = min(self.wait_s * _SECOND_TRY_WAITS, self.longest_wait_s)
            except Transient as failure:
                wait = self._wait_after(failure, number, began, service)
                if number >= self.retries or time.monotonic() + wait > deadline:
                    raise
            else:
                SERVICES.answered(service)
                return result
            pause(wait)
            number += 1

    def _wait_after(self, failure: Transient, number: int, began: float, service: str) -> float:
        if isinstance(failure, NoConnection):
            return SERVICES.wait_s(service, failure.cause, began, self.longest_wait_s)
        SERVICES.answered(service)
        if failure.wait_s is not None:
            return failure.wait_s
        # Random, below a bound that doubles, so that clients do not retry in step.
        return random.uniform(0, min(self.wait_s * 2**number, self.longest_wait_s))  # noqa: S311


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
