"""The formats that a release is exported as: a module each, imported when it is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    from cube.run.storage import Folder

    from .request import ExportPlan, Shard

FORMATS = {
    "webdataset": ".webdataset",
    "terramesh": ".terramesh",
    "terratorch": ".terratorch",
    "huggingface": ".huggingface",
    "zarr": ".zarr_store",
}
"""Where each format is written, by its name."""


class Format(Protocol):
    """A module that writes a format."""

    TITLE: str
    USE: str

    def prepare(self, plan: ExportPlan, out: Folder) -> None:
        """Write what shards are written into; may be called again."""
        ...

    def shard_files(self, plan: ExportPlan, shard: Shard) -> list[str]:
        """Name the files of a shard, each of which appears whole."""
        ...

    def write_shard(self, plan: ExportPlan, shard: Shard, out: Folder) -> None:
        """Write the files of a shard."""
        ...

    def documents(self, plan: ExportPlan, out: Folder) -> dict[str, bytes]:
        """Return the files that are no shard's, by name; all shards are there."""
        ...


def format_of(to: str) -> Format:
    """Import a format's module."""
    return cast("Format", import_module(FORMATS[to], __package__))
