"""Memory that was freed, given back to the system."""

from __future__ import annotations

import ctypes
from contextlib import suppress

import pyarrow as pa

__all__ = ["give_back"]


def give_back() -> None:
    """Return what is free to the system: Arrow and glibc keep it, so that each stage of a run would add to the last.

    Other C libraries than glibc do so by themselves.
    """
    pa.default_memory_pool().release_unused()
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
