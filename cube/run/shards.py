"""One of several runs that share some work, on machines that need not know each other."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")
_FORM = re.compile(r"(\d+)/(\d+)")


@dataclass(frozen=True)
class Share:
    """The share of one run: every `count`-th area, or shard of a release, from the `number`-th on.

    Neighbours in a file of areas go to different runs, so that all have much the same to do.
    """

    number: int
    """From 1."""
    count: int

    @classmethod
    def parse(cls, text: str) -> Share:
        """Read ``3/64``.

        Raises
        ------
        ValueError
            If it is no such share.

        Examples
        --------
        >>> Share.parse("3/64").name
        '0003-of-0064'
        """
        found = _FORM.fullmatch(text)
        if found and 1 <= int(found[1]) <= int(found[2]):
            return cls(int(found[1]), int(found[2]))
        raise ValueError(f"found {text}; expected NUMBER/COUNT, counted from 1: 1/64 to 64/64")

    @classmethod
    def named(cls, name: str) -> Share:
        """Return the share whose files are called so.

        Examples
        --------
        >>> str(Share.named("0003-of-0064"))
        '3/64'
        """
        return cls.parse(name.replace("-of-", "/"))

    def __str__(self) -> str:
        """Return what is typed: ``3/64``."""
        return f"{self.number}/{self.count}"

    @property
    def name(self) -> str:
        """What the share's files are called."""
        return f"{self.number:04}-of-{self.count:04}"

    def of(self, items: Sequence[T]) -> list[T]:
        """Return the share's own of all items.

        Examples
        --------
        >>> Share(2, 3).of("abcdefg")
        ['b', 'e']
        """
        return list(items[self.number - 1 :: self.count])

    def first_of(self, items: Sequence[T]) -> list[T]:
        """Return all items, the share's own first, and then those of the others in turn.

        Examples
        --------
        >>> "".join(Share(2, 3).first_of("abcdefg"))
        'becfadg'
        """
        turn = [Share((self.number - 1 + step) % self.count + 1, self.count) for step in range(self.count)]
        return [item for share in turn for item in share.of(items)]
