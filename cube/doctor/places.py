"""The places that a config names: working folder, output, kept answers; each is tried by a file."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from cube.config.models import Config
from cube.errors import GelosError, StoreError
from cube.run.storage import DiskFolder, Folder, check_writable, disk_errors, open_folder

from .check import Check, LateError, within

_PATIENCE_S = 30.0


def places_of(config: Config) -> dict[str, Folder]:
    """Return the folders that a run writes to, by their config keys."""
    options = config.directory.storage_options
    named = {
        "directory.working": config.directory.working,
        "directory.output": config.directory.output,
        "catalog.cache": config.catalog.cache,
    }
    return {key: open_folder(url, options if "://" in url else {}) for key, url in named.items() if url}


def check_places(places: Mapping[str, Folder]) -> Iterator[Check]:
    """Write a small file into each place, and remove it; a folder that is not there is not made."""
    for key, folder in places.items():
        began = time.monotonic()
        try:
            within(_PATIENCE_S, lambda folder=folder: _try_to_write(folder))  # type: ignore[misc]
        except (GelosError, LateError) as error:
            yield _explain(key, folder, error)
        else:
            yield Check(key, ok=True, found=f"{folder} can be written to ({time.monotonic() - began:.2f} s)")


def _try_to_write(folder: Folder) -> None:
    if not isinstance(folder, DiskFolder):
        check_writable(folder)
        return
    place = folder.path.absolute()
    while not place.exists():  # what is there decides whether the rest can be made
        place = place.parent
    if not place.is_dir():
        raise StoreError(f"{folder}: cannot be made ({place} is a file)")
    with disk_errors(folder.url), tempfile.NamedTemporaryFile(dir=place) as file:
        Path(file.name).write_bytes(b"probe")


def _explain(key: str, folder: Folder, error: Exception) -> Check:
    text = str(error)
    found, separator, mend = text.partition("; ")
    if not separator:
        mend = f"set another {key}, or have its owner let this user write there"
    return Check(key, ok=False, found=found if str(folder) in found else f"{folder}: {found}", mend=mend)
