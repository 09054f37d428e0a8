"""What cannot be used, counted over a run: a few are the items' fault, many are their service's."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from cube.errors import ServiceError, UnusableError
from cube.scenes.lost import LostScene

_MOST_IN_A_ROW = 5
"""Lost scenes of a collection, with none read between them, that stop a run."""
_LARGEST_SHARE = 0.1
"""Share of a collection's scenes in a run that stops it when so many are lost; of few it says
nothing."""
_MOST_UNUSABLE = 5
"""Items of a sensor, not one of which can be used, that stop a run in which no AOI had a plan."""


@dataclass
class _Collection:
    read: set[str] = field(default_factory=set)
    lost: set[str] = field(default_factory=set)
    in_a_row: set[str] = field(default_factory=set)


class LossWatch:
    """Hears of scenes read and lost, from any thread, and says when a service is to blame."""

    def __init__(self) -> None:
        self._collections: dict[str, _Collection] = defaultdict(_Collection)
        self._unusable: dict[str, set[str]] = defaultdict(set)
        self._any_planned = False
        self._lock = threading.Lock()
        self.blamed: frozenset[str] = frozenset()
        """Items that were called lost, and whose service was to blame."""

    def planned(self) -> None:
        """Note that an AOI has a plan: the catalog's items are what the config says."""
        self._any_planned = True

    def find_unusable(self, error: UnusableError) -> None:
        """Note that an AOI's search found no item that can be used: its own trouble, if it is one.

        Raises
        ------
        UnusableError
            At the fifth item of a sensor, if no AOI of the run had a plan: nor will the others.
        """
        with self._lock:
            found = self._unusable[error.sensor]
            found |= error.items
            if len(found) >= _MOST_UNUSABLE and not self._any_planned:
                raise error

    def read(self, collection: str, items: Iterable[str]) -> None:
        """Note that scenes were read."""
        with self._lock:
            found = self._collections[collection]
            found.read.update(items)
            found.in_a_row.clear()

    def lose(self, scene: LostScene) -> None:
        """Note that a scene is lost; an item counts once, from however many AOIs.

        Raises
        ------
        ServiceError
            At the fifth of a collection in a row, and when a tenth of it is lost.
        """
        with self._lock:
            found = self._collections[scene.collection]
            if scene.item in found.lost:
                return
            found.lost.add(scene.item)
            found.in_a_row.add(scene.item)
            if len(found.in_a_row) >= _MOST_IN_A_ROW:
                self.blamed |= found.in_a_row
                raise ServiceError(_blame(scene, f"{len(found.in_a_row)} scenes in a row"))
            seen = len(found.read | found.lost)
            if len(found.lost) >= max(_MOST_IN_A_ROW, _LARGEST_SHARE * seen):
                self.blamed |= found.lost
                raise ServiceError(_blame(scene, f"{len(found.lost)} of {seen} scenes"))


def _blame(last: LostScene, how_many: str) -> str:
    return (
        f"{last.collection}: {how_many} cannot be read, the last being {last}; that is the service, not its "
        "items, and none of them is recorded as lost: run again later, or name those that are truly gone in "
        "catalog.exclude_items"
    )
