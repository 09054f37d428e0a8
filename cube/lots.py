"""Choices by lot: seeded, and the same on every machine."""

from __future__ import annotations

import hashlib


def lot(seed: int, *names: object) -> str:
    """Return the number that `names` draw with a seed, as 64 hexadecimal digits."""
    return draw(":".join(map(str, (seed, *names))))


def draw(text: str) -> str:
    """Return the number that a text draws, as 64 hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()
