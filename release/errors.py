"""Errors of the release phase."""

from __future__ import annotations

from cube.errors import GelosError

__all__ = ["BadZipError", "ReleaseError"]


class ReleaseError(GelosError):
    """The chips at hand, or what lies in the output folder, do not allow the release that was asked for."""


class BadZipError(ReleaseError):
    """A zip is damaged so that not even its list of files can be read."""
