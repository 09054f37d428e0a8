"""Files that changed while a cube was made from them: its blocks must not hold two versions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection

from cube.store.resume import BlockRecords

File = tuple[str, str]
"""Item and asset."""


def changed_files(records: BlockRecords) -> list[File]:
    """Return the files of which blocks hold different versions, in order."""
    versions: dict[File, set[str]] = defaultdict(set)
    for record in records.values():
        for item, asset, version in record.get("files", ()):
            versions[item, asset].add(version)
    return sorted(file for file, found in versions.items() if len(found) > 1)


def blocks_of_files(records: BlockRecords, files: Collection[File]) -> list[str]:
    """Return the names of the blocks that hold pixels of any of the files, in order."""
    return sorted(
        name
        for name, record in records.items()
        if any((item, asset) in files for item, asset, _ in record.get("files", ()))
    )
