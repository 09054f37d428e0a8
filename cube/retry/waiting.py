"""Waits that end when nobody waits for the work any more: a run was interrupted, a worker closes.

Whoever starts a thread tells it, by :func:`heed`, how it learns that its work is given up; pools
pass it on (``ThreadPoolExecutor(4, initializer=heed, initargs=(heeded(),))``).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

_LOOK_EVERY_S = 0.2
"""How often a wait looks whether it is in vain."""

IsGivenUp = Callable[[], bool]
"""Tells whether nobody waits for the work of a thread any more."""


class GivenUpError(Exception):
    """Ends a task that nobody waits for."""


class _Thread(threading.local):
    is_given_up: IsGivenUp | None = None


_THREAD = _Thread()


def heed(is_given_up: IsGivenUp | None) -> None:
    """Let the work of this thread end when `is_given_up` says so (None: never)."""
    _THREAD.is_given_up = is_given_up


def heeded() -> IsGivenUp | None:
    """Return what this thread heeds, for the threads that it starts."""
    return _THREAD.is_given_up


def stop_if_given_up() -> None:
    """End a task between two steps if nobody waits for it any more; a thread stops by itself alone.

    Raises
    ------
    GivenUpError
        In a thread of a run that was interrupted, and in a worker that is closing.
    """
    if _THREAD.is_given_up is not None and _THREAD.is_given_up():
        raise GivenUpError


def pause(seconds: float) -> None:
    """Wait, but no longer than somebody waits for the work.

    Raises
    ------
    GivenUpError
        As soon as nobody does.
    """
    end = time.monotonic() + seconds
    stop_if_given_up()
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(left, _LOOK_EVERY_S))
        stop_if_given_up()
