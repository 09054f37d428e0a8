"""Choices by lot: seeded, and the same on every machine."""

from __future__ import annotations

import hashlib

__all__ = ["lot"]


def lot(seed: int, *names: object) -> str:
    """Return a number drawn for `names`, as 64 hexadecimal digits: the same for the same seed, everywhere."""
    return hashlib.sha256(":".join(map(str, (seed, *names))).encode()).hexdigest()
