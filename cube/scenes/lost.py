"""Scenes that are lost: an asset is missing, or cannot be used, for good.

The record of an AOI's lost scenes lies beside the plans, and is part of the question that a plan
answers: the same record gives the same scenes. It belongs to the AOI and to what is asked of it, as
its plan does, so all versions that ask the same share both; nothing hangs on which AOI, or which
other version, is built first. A file that is broken in one place may serve another well.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from cube.errors import StoreError
from cube.run.storage import Folder


@dataclass(frozen=True, order=True, slots=True)
class LostScene:
    """A scene that is no candidate any more, and what was seen of it."""

    sensor: str
    collection: str
    item: str
    asset: str
    cause: str

    @property
    def reason(self) -> str:
        """Why the scene is not chosen."""
        return f"lost: asset {self.asset}: {self.cause}"

    def __str__(self) -> str:
        """Name the item and what was seen of it."""
        return f"item {self.item}, asset {self.asset}: {self.cause}"


class LostWhilePlanning(Exception):  # noqa: N818  a signal to whoever plans, never seen by users
    """Scenes that were looked at to rank them are lost; the AOI is to be planned without them."""

    def __init__(self, scenes: Iterable[LostScene]) -> None:
        self.scenes = tuple(scenes)
        super().__init__(*self.scenes)


class LostRecord:
    """The lost scenes of one AOI, in a file.

    Parameters
    ----------
    folder
        Where the records are.
    name
        What the AOI's plan is called.
    """

    def __init__(self, folder: Folder, name: str) -> None:
        self._folder, self._name = folder, f"{name}.json"

    def read(self) -> tuple[LostScene, ...]:
        """Return the scenes on record, in order; none where there is no record.

        Raises
        ------
        StoreError
            If the record cannot be read: without it the AOI would be another.
        """
        try:
            return tuple(LostScene(**one) for one in json.loads(self._folder.read(self._name))["lost"])
        except FileNotFoundError:
            return ()
        except (ValueError, KeyError, TypeError):
            raise StoreError(
                f"{self._folder}/{self._name}: not a record of lost scenes; remove it, and they are asked again"
            ) from None

    def add(self, scenes: Iterable[LostScene]) -> None:
        """Put scenes on record; of an item that is there already the first record stays."""
        known = self.read()
        items = {scene.item for scene in known}
        new = {scene.item: scene for scene in sorted(scenes, reverse=True) if scene.item not in items}
        if new:
            self._write((*known, *new.values()))

    def withdraw(self, items: Iterable[str]) -> None:
        """Take items off the record."""
        known, withdrawn = self.read(), set(items)
        kept = [scene for scene in known if scene.item not in withdrawn]
        if len(kept) < len(known):
            self._write(kept)

    def _write(self, scenes: Iterable[LostScene]) -> None:
        record = sorted(scenes)
        if not record:
            self._folder.remove(self._name)
            return
        text = json.dumps({"lost": [asdict(scene) for scene in record]}, indent=1)
        self._folder.write(self._name, text.encode())
