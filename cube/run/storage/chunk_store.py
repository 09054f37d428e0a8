"""The Zarr store on a local disk whose unfinished files never lie inside it."""

from __future__ import annotations

import asyncio
from pathlib import Path

from zarr.core.buffer import Buffer
from zarr.storage import LocalStore

from .folder import staging_name


class ChunkStore(LocalStore):
    """A local store that writes each file beside its root, and then renames it into place.

    Zarr's own puts a temporary file beside the chunk. A worker that lost its scheduler may still
    be writing a chunk when the cube has long been sealed from another worker's blocks; killed then,
    it would leave that file in a finished cube, where nothing looks for it. Beside the cubes it is
    what every run sweeps.
    """

    async def set(self, key: str, value: Buffer) -> None:
        """Write one file at once."""
        if not self._is_open:
            await self._open()
        self._check_writable()
        await asyncio.to_thread(_replace, self.root / key, value, self.root.parent)


def _replace(target: Path, value: Buffer, beside: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = beside / staging_name()
    try:
        with temporary.open("wb") as file:
            file.write(value.as_buffer_like())
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
