"""Which images of a release are equal: by digests, of which millions take little memory."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from release.opening.faults import Fault

_BETWEEN = "\0"
"""Between names, none of which holds it."""


class SeenImages:
    """Digests of images, each of 16 bytes, with the names of the files that hold them."""

    def __init__(self) -> None:
        self._digests: list[NDArray[np.uint64]] = []
        self._names: list[bytes] = []

    def add(self, images: Sequence[tuple[bytes, str]]) -> None:
        """Take the images of further files."""
        if images:
            ordered = sorted(images, key=lambda one: one[1])
            together = b"".join(digest for digest, _ in ordered)
            self._digests.append(np.frombuffer(together, np.uint64).reshape(len(ordered), 2))
            self._names.append(zlib.compress(_BETWEEN.join(name for _, name in ordered).encode(), 1))

    def faults(self) -> Iterator[Fault]:
        """Yield a fault per image that another file holds, too: no two places look alike."""
        if not self._digests:
            return
        digests = np.concatenate(self._digests)
        order = np.lexsort((digests[:, 1], digests[:, 0]))
        is_same = (digests[order[1:]] == digests[order[:-1]]).all(axis=1)
        of_group = np.cumsum(np.concatenate([[True], ~is_same]))
        repeated = np.flatnonzero(np.isin(of_group, of_group[1:][is_same]))
        names = self._named(order[repeated].tolist())
        groups: dict[int, list[str]] = {}
        for place in repeated.tolist():
            groups.setdefault(int(of_group[place]), []).append(names[int(order[place])])
        for group in groups.values():
            first, *others = sorted(group)
            yield from (Fault(name, f"holds the same pixels as {first}") for name in others)

    def _named(self, places: Iterable[int]) -> dict[int, str]:
        """Return the names of the files of some images."""
        starts = np.cumsum([0, *(len(one) for one in self._digests)])
        found: dict[int, str] = {}
        by_part: dict[int, list[int]] = {}
        for place in places:
            by_part.setdefault(int(np.searchsorted(starts, place, side="right")) - 1, []).append(place)
        for part, own in by_part.items():
            names = zlib.decompress(self._names[part]).decode().split(_BETWEEN)
            found |= {place: names[place - int(starts[part])] for place in own}
        return found
