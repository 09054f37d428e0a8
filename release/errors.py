"""Errors of the release phase."""

from __future__ import annotations

from cube.errors import GelosError

__all__ = ["ReleaseError"]


class ReleaseError(GelosError):
    """The chips at hand, or what lies in the output folder, do not allow the release that was asked for."""
