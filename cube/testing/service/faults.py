"""What goes wrong, how often, and for which request: the same for the same seed."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from fnmatch import fnmatchcase
from types import MappingProxyType

from cube.testing.service.messages import Call, Role


class Kind(StrEnum):
    """A way to go wrong, as the client sees it."""

    LATE = "late"
    """Right, after a pause."""
    SLOW = "slow"
    """Right, in a trickle."""
    SILENT = "silent"
    """The request is taken and nothing comes, then the connection closes."""
    THROTTLED = "throttled"
    """Status 429 with Retry-After."""
    ERROR = "error"
    """Status 500."""
    BUSY = "busy"
    """Status 503."""
    RESET = "reset"
    """The connection is reset before the first byte."""
    SHORT = "short"
    """The body ends at half the length that was promised, and the connection closes."""
    CORRUPT = "corrupt"
    """One byte of a blob's body is another. GDAL notices only some: it does not read deflate's
    checksum."""
    EXPIRED = "expired"
    """Status 403 as if the token had just run out."""


class Manner(StrEnum):
    """A way to serve blobs that is no fault, and that clients meet behind other services."""

    WHOLE = "whole"
    """Ranges are ignored: status 200 and the whole blob."""
    GZIPPED = "gzipped"
    """Blobs are stored gzip-encoded, and their header says so."""
    REDIRECTED = "redirected"
    """Status 307 to the same blob at another address."""


STATUS = MappingProxyType({Kind.THROTTLED: 429, Kind.ERROR: 500, Kind.BUSY: 503})
"""Kinds that are nothing but a status."""

_OF_BODY = frozenset({Kind.SLOW, Kind.SHORT, Kind.CORRUPT})
_OF_BLOBS = frozenset({Kind.CORRUPT, Kind.EXPIRED})
_NOTICEABLE: Mapping[Kind, float] = MappingProxyType(
    {kind: 1.0 for kind in Kind if kind is not Kind.CORRUPT},
)


@dataclass(frozen=True)
class Faults:
    """How a service misbehaves.

    The fate of a request follows from the seed, its resource (method, path, range, body) and how
    many times that resource was asked for, and from nothing else: not from time, connection or
    signature.
    """

    rate: float = 0.0
    """Share of requests that meet a fault, 0 to 1."""
    seed: int = 0
    kinds: Mapping[Kind, float] = field(default_factory=lambda: _NOTICEABLE)
    """Weight of each kind: by default the same for all but corrupt bytes, which no client can be
    sure to notice. Kinds that cannot befall a request (an expired search) are left out for it."""
    roles: frozenset[Role] = frozenset({Role.SEARCH, Role.CATALOG, Role.TOKEN, Role.BLOB})
    max_run: int | None = 3
    """At most so many faults in a row for one resource."""
    max_per_path: int | None = None
    """At most so many faults for one path, ever: whoever tries once more often succeeds, for
    certain."""
    late_s: float = 0.5
    slow_s: float = 1.0
    silence_s: float = 30.0
    retry_after_s: int = 1

    def __post_init__(self) -> None:
        """Refuse a rate that is no share, and kinds of no weight."""
        if not 0 <= self.rate <= 1:
            raise ValueError(f"rate is a share, 0 to 1, got {self.rate}")
        if min(self.kinds.values(), default=0) < 0 or not sum(self.kinds.values()):
            raise ValueError(f"kinds need weights >= 0 and one above 0, got {dict(self.kinds)}")

    def draw(self, call: Call, attempt: int) -> Kind | None:
        """Decide the fate of the nth request for a resource, before any limit on runs."""
        if call.role not in self.roles or not self.rate:
            return None
        name = f"{self.seed}\n{attempt}\n{resource(call)}"
        digest = hashlib.blake2b(name.encode(), digest_size=16).digest()
        if int.from_bytes(digest[:8]) / 2**64 >= self.rate:
            return None
        return self._choose(call, int.from_bytes(digest[8:]) / 2**64)

    def _choose(self, call: Call, share: float) -> Kind | None:
        possible = {Kind(kind): weight for kind, weight in self.kinds.items() if can_befall(Kind(kind), call)}
        mark = share * sum(possible.values())
        for kind, weight in possible.items():
            mark -= weight
            if mark < 0:
                return kind
        return None


@dataclass(frozen=True, slots=True)
class Rule:
    """A fault of every request whose path matches."""

    pattern: str
    how: Kind | Manner | int


class FaultBook:
    """Keeps count of attempts, runs and rules; for many threads."""

    def __init__(self, faults: Faults) -> None:
        self.faults = faults
        self._rules: list[Rule] = []
        self._lock = threading.Lock()
        self._attempts: Counter[str] = Counter()
        self._runs: Counter[str] = Counter()
        self._of_path: Counter[str] = Counter()

    def add(self, rule: Rule) -> None:
        """Let a rule hold from the next request on; the last one added wins."""
        self._rules = [rule, *self._rules]

    def lift(self, pattern: str | None) -> None:
        """Take back the rules of a pattern, or all of them."""
        self._rules = [rule for rule in self._rules if pattern not in {None, rule.pattern}]

    def forget(self) -> None:
        """Count attempts from the beginning again; rules stay."""
        with self._lock:
            self._attempts.clear()
            self._runs.clear()
            self._of_path.clear()

    def fate(self, call: Call) -> Kind | int | None:
        """Decide what goes wrong with a request, and note that it was made."""
        for rule in self._rules:
            if fnmatchcase(call.path, rule.pattern) and not isinstance(rule.how, Manner):
                return rule.how
        name = resource(call)
        with self._lock:
            self._attempts[name] += 1
            kind = self.faults.draw(call, self._attempts[name])
            if kind is None or self._is_spent(name, call.path):
                self._runs[name] = 0
                return None
            self._runs[name] += 1
            self._of_path[call.path] += 1
            return kind

    def manner(self, call: Call) -> Manner | None:
        """Return how a blob is to be served."""
        for rule in self._rules:
            if fnmatchcase(call.path, rule.pattern) and isinstance(rule.how, Manner):
                return rule.how
        return None

    def _is_spent(self, name: str, path: str) -> bool:
        of_run, of_path = self.faults.max_run, self.faults.max_per_path
        return (of_run is not None and self._runs[name] >= of_run) or (
            of_path is not None and self._of_path[path] >= of_path
        )


def resource(call: Call) -> str:
    """Name what a request asks for: the same again for a retry, whatever its signature or nonce."""
    body = hashlib.blake2b(call.body, digest_size=8).hexdigest() if call.body else ""
    return f"{call.method} {call.path} {call.range or ''} {body}"


def can_befall(kind: Kind, call: Call) -> bool:
    """Whether a kind of fault means anything for a request."""
    has_body = call.method != "HEAD"
    return (has_body or kind not in _OF_BODY) and (call.role is Role.BLOB or kind not in _OF_BLOBS)
