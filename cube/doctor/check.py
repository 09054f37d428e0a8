"""A check: one thing that a run needs, what was found, and what to do about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from threading import Thread
from typing import TypeVar

from cube.redaction import without_signature

Result = TypeVar("Result")


@dataclass(frozen=True)
class Check:
    """What came of one check."""

    name: str
    """What was looked at, such as ``catalog``."""
    ok: bool
    found: str
    """What there is, and what was expected where that is not it."""
    mend: str = ""
    """What to do; empty where all is well."""

    def __str__(self) -> str:
        """Return the check as one line, without any token."""
        text = " ".join(f"{self.found}; {self.mend}".split()) if self.mend else " ".join(self.found.split())
        return f"{'ok' if self.ok else 'FAIL':4} {self.name}: {without_signature(text)}"


class LateError(Exception):
    """Something took longer than a check may."""


def within(seconds: float, call: Callable[[], Result]) -> Result:
    """Call a function, and wait no longer than that for it.

    Raises
    ------
    LateError
        If it has not come back; it may go on, and ends with the process.
    """
    results: list[Result] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(call())
        except BaseException as error:  # noqa: BLE001  raised again where it is waited for
            errors.append(error)

    thread = Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise LateError(f"no answer in {seconds:g} s")
    return results[0]
