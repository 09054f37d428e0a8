"""Zipping what is in a release's folder, unless the very same zip is there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import IO

from cube.run.named_locks import stop_if_lost
from cube.run.storage import Folder
from release.opening.faults import ReleaseError
from release.opening.zips import zip_chunks, zip_equals


def write_zip(
    output: Folder,
    archive: str,
    root: str,
    names: Sequence[str],
    source: Folder,
    *,
    force: bool,
    are_large: bool = False,
) -> bool:
    """Zip files, unless the very same zip is there; tell whether it was written.

    Parameters
    ----------
    output, archive
        Where the zip goes, and what it is called.
    root
        The folder in the zip that holds the files.
    names
        Of the files.
    source
        Folder that they are read from, one after the other.
    force
        Replace another zip.
    are_large
        The files may be too large to be held: each is read twice, in pieces.

    Raises
    ------
    ReleaseError
        If another zip is there.
    """

    def open_large(name: str) -> IO[bytes] | None:
        return source.open(name) if are_large else None

    if output.exists(archive):
        with output.open(archive) as there:
            if zip_equals(there, zip_chunks(root, names, source.read, open_large)):
                return False
        if not force:
            raise ReleaseError(f"{output}/{archive}: differs from {source}; give --force to replace it")
    with output.stream(archive) as file:
        for chunk in zip_chunks(root, names, source.read, open_large):
            stop_if_lost()
            file.write(chunk)
    return True
