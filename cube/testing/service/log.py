"""What was asked of the service: one record a request, and counts of them."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

from cube.testing.service.messages import Call, Role

_LONGEST_BODY = 100_000


@dataclass(frozen=True, slots=True)
class Request:
    """A request and what became of it. Holds no signature."""

    number: int
    """In order of arrival, from 1."""
    role: Role
    method: str
    path: str
    """``/account/container/...`` for a blob."""
    query: str
    body: str
    """Of a POST: the search."""
    range: str | None
    """As the header says it: ``bytes=0-16383``."""
    status: int = 0
    """0 if no answer was sent."""
    sent: int = 0
    """Bytes of the body."""
    fault: str | None = None
    started_s: float = 0.0
    """On the clock of ``time.monotonic``."""
    elapsed_s: float = 0.0


class Log:
    """Requests in order of arrival; for many threads.

    A record is complete, save for ``elapsed_s``, before the client has the last byte: who has its
    answer finds it here.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: dict[int, Request] = {}
        self._arrived = 0
        self._under_way: dict[int, Role] = {}
        self._peak: Counter[Role] = Counter()

    def arrive(self, call: Call) -> Request:
        """Record a request as under way."""
        with self._lock:
            self._arrived += 1
            request = Request(
                number=self._arrived,
                role=call.role,
                method=call.method,
                path=call.path,
                query=call.public_query,
                body=call.body[:_LONGEST_BODY].decode("utf-8", "replace"),
                range=call.range,
                started_s=time.monotonic(),
            )
            self._requests[request.number] = request
            self._under_way[request.number] = call.role
            self._peak[call.role] = max(self._peak[call.role], self._now()[call.role])
            return request

    def answer(self, request: Request, *, status: int, sent: int, fault: str | None) -> None:
        """Record what is being sent: the request is no longer under way."""
        with self._lock:
            self._under_way.pop(request.number, None)
            self._amend(request.number, status=status, sent=sent, fault=fault)

    def finish(self, request: Request) -> None:
        """Record how long it took, whatever came of it."""
        with self._lock:
            self._under_way.pop(request.number, None)
            self._amend(request.number, elapsed_s=time.monotonic() - request.started_s)

    def reset(self) -> None:
        """Forget all requests; those under way are still counted as such."""
        with self._lock:
            self._requests.clear()
            self._peak = self._now()

    def requests(self) -> tuple[Request, ...]:
        """All records so far."""
        with self._lock:
            return tuple(self._requests.values())

    def counts(self) -> dict[str, int]:
        """Count requests by role; every role has its number."""
        seen = Counter(request.role for request in self.requests())
        return {role.value: seen[role] for role in Role}

    def bytes_sent(self, role: Role) -> int:
        """Add up the bodies sent in a role."""
        return sum(request.sent for request in self.requests() if request.role is role)

    def peak(self, role: Role) -> int:
        """Most requests of a role under way at once, from arrival to the answer's last piece."""
        with self._lock:
            return self._peak[role]

    def _now(self) -> Counter[Role]:
        return Counter(self._under_way.values())

    def _amend(self, number: int, **changes: Any) -> None:
        if number in self._requests:  # not forgotten meanwhile
            self._requests[number] = replace(self._requests[number], **changes)
