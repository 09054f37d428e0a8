"""What is found when a release is checked."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Fault", "first_line"]


@dataclass(frozen=True, slots=True, order=True)
class Fault:
    """Something that is wrong with a release."""

    file: str
    """The file it is in."""
    message: str
    warning: bool = False
    """True for what deserves a look and may yet be right."""

    def __str__(self) -> str:
        """Return the fault as one line; what a terminal would not show, or would obey, is escaped."""
        line = f"{'warning: ' if self.warning else ''}{self.file or '(no name)'}: {self.message}"
        return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)


def first_line(error: Exception) -> str:
    """Return what an error says, short."""
    return (str(error).splitlines() or [type(error).__name__])[0][:200]
