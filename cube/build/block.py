"""What a worker does with one block: it is read, written, and marked as done."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from odc.geo.geobox import GeoBox

from cube.config.sensors import Sensor
from cube.errors import StoreError
from cube.pixels.access import Access, read_past_caches
from cube.pixels.notes import ReadNotes
from cube.pixels.read import read_bands
from cube.retry import stop_if_given_up
from cube.run.storage import Folder
from cube.scenes.items import Scene
from cube.scenes.plan import canonical_json
from cube.store.resume import in_form, is_sharded
from cube.store.sealed import read_seal
from cube.store.write import write_block
from cube.windows.grid import Block

_LOOK_AGAIN_S = 2.0
"""Between two looks for a marker that another worker may have left."""


@dataclass(frozen=True)
class BlockTask:
    """One block, with all that a worker needs to read and write it."""

    cubes: Folder
    cube: str
    """Name of the cube."""
    markers: Folder
    aoi_index: int
    block: Block
    geobox: GeoBox
    """Grid of the block."""
    sensor: Sensor
    bands: tuple[str, ...]
    scenes: tuple[Scene, ...]
    resampling: str
    harmonize: bool
    access: Access
    fingerprint: str
    changed: tuple[str, ...] = ()
    """Hrefs of files that changed since a block was read from them."""
    is_sharded: bool = False
    """Whether the cube's chunks lie in shards."""

    @property
    def marker(self) -> str:
        """Name of the file that says that the block is on disk."""
        return f"{self.block.name}.json"


def build_block(task: BlockTask) -> dict[str, Any]:
    """Read a block band by band, write it, and leave its marker; runs in a worker.

    A block that has its marker already is not read again: its worker died after the marker and
    before it could tell.

    Returns
    -------
    dict
        The marker's record: ``fingerprint``, ``digests`` (SHA-256 by band), ``valid`` (valid pixels
        by band), and what :class:`cube.pixels.notes.ReadNotes` holds.

    Raises
    ------
    StoreError
        If the cube is sealed with this block: it was made, and is made again only because its
        worker died since.
    """
    if (made := _record_of(task)) is not None:
        return made
    sealed = read_seal(task.cubes, task.cube)
    if sealed is not None and task.block.name not in sealed["attributes"].get("not_fetched", ()):
        raise StoreError(f"block {task.block.name}: its cube is sealed already")
    for href in task.changed:
        read_past_caches(href, task.access)
    digests, valid, notes = {}, {}, ReadNotes()
    bands = read_bands(
        task.scenes,
        task.sensor,
        task.bands,
        task.geobox,
        task.access,
        resampling=task.resampling,
        harmonize=task.harmonize,
        notes=notes,
    )
    looked = time.monotonic()
    for band, values in bands:
        stop_if_given_up()
        # A worker that was cut off from its scheduler may have made the same block meanwhile.
        if time.monotonic() - looked > _LOOK_AGAIN_S:
            if (made := _record_of(task)) is not None:
                return made
            looked = time.monotonic()
        valid[band] = int(np.count_nonzero(~task.sensor.band(band).is_nodata(values)))
        digests[band] = write_block(
            task.cubes, task.cube, task.block, band, values, is_sharded=task.is_sharded
        )
    record: dict[str, Any] = {"fingerprint": task.fingerprint, "digests": digests, "valid": valid}
    record = in_form(record | notes.to_json(), sharded=task.is_sharded)
    task.markers.write(task.marker, canonical_json(record))
    return record


def _record_of(task: BlockTask) -> dict[str, Any] | None:
    """Return the marker's record if the block is on disk as the task would make it."""
    try:
        record: dict[str, Any] = json.loads(task.markers.read(task.marker))
    except FileNotFoundError:
        return None
    is_same = record["fingerprint"] == task.fingerprint and is_sharded(record) is task.is_sharded
    return record if is_same else None
