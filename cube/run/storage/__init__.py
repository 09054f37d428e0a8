"""Where files are kept, by address: a path on a disk, or a URL of an object store."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, cast

from .bucket import BucketFolder
from .disk import DiskFolder
from .folder import STAGING_PREFIX, Folder, check_writable, disk_errors, write_folder

__all__ = [
    "STAGING_PREFIX",
    "DiskFolder",
    "Folder",
    "check_writable",
    "disk_errors",
    "open_folder",
    "write_folder",
]


def open_folder(address: str | os.PathLike[str] | Folder, options: Mapping[str, Any] | None = None) -> Folder:
    """Return a folder, without looking whether it is there.

    Parameters
    ----------
    address
        A local path, a URL (``s3://``, ``az://``, ``gs://``, ``memory://``), or a folder, which is
        returned as it is.
    options
        fsspec options of an object store, such as ``endpoint_url``.
    """
    if isinstance(address, (BucketFolder, DiskFolder)):
        return address
    url = os.fspath(cast("str | os.PathLike[str]", address))
    return (BucketFolder if "://" in url else DiskFolder)(url, options or {})
