"""Errors of the release phase."""

from __future__ import annotations

from cube.errors import GelosError

__all__ = ["BadZipError", "ReleaseError", "one_line"]

_MOST_CHARACTERS = 1000


def one_line(text: str) -> str:
    """Return a text that may be a stranger's as one line: what a terminal would not show, or would obey, is escaped."""
    line = "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:_MOST_CHARACTERS]
    )
    return line if len(text) <= _MOST_CHARACTERS else f"{line}..."


class ReleaseError(GelosError):
    """The chips at hand, or what lies in the output folder, do not allow the release that was asked for."""

    def __str__(self) -> str:
        """Return what is wrong, as one line."""
        return one_line(super().__str__())


class BadZipError(ReleaseError):
    """A zip is damaged so that not even its list of files can be read."""
