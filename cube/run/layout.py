"""Where things are in the working folder of a dataset version."""

from __future__ import annotations

from dataclasses import dataclass

from cube.config.models import Config
from cube.errors import ConfigError, DiskFullError, StoreError

from .storage import Folder, check_writable, open_folder

EXPORTING = ".exporting"
"""File that is there while chips are written that may not be on the disk yet."""


def aoi_stem(aoi_index: int) -> str:
    """Return what an AOI's files are called, without their ending."""
    return f"aoi_{aoi_index:06}"


@dataclass(frozen=True)
class Layout:
    """The folders below ``{working}/{version}``."""

    root: Folder

    @classmethod
    def of(cls, config: Config) -> Layout:
        """Return the layout of a config's working folder."""
        working = open_folder(config.directory.working, config.directory.storage_options)
        return cls(working.absolute() / config.dataset.version)

    def make(self, config: Config) -> None:
        """Create the working folder, and see that it can be written to.

        Raises
        ------
        ConfigError
            If it cannot be made or written to; names the key.
        """
        try:
            self.root.make()
            check_writable(self.root)
        except DiskFullError:
            raise
        except StoreError as error:
            raise ConfigError(f"{config.path}: directory.working: {error}") from None

    def sweep(self) -> None:
        """Remove what a killed run left half-written; only while the folder is held."""
        for folder in (self.root, self.plans, self.lost, self.blocks, self.cubes, self.scores, self.chips):
            folder.sweep()

    @property
    def logs(self) -> Folder:
        """Log files, a run each."""
        return self.root / "logs"

    @property
    def cubes(self) -> Folder:
        """Cubes, ``aoi_000003.zarr``."""
        return self.root / "cubes"

    @property
    def plans(self) -> Folder:
        """Plans, ``aoi_000003.json``."""
        return self.root / "plans"

    @property
    def lost(self) -> Folder:
        """Records of scenes whose files are missing or broken for good, by AOI."""
        return self.root / "lost"

    @property
    def blocks(self) -> Folder:
        """Fingerprint and digests of sealed cubes' blocks, ``aoi_000003.json``."""
        return self.root / "blocks"

    @property
    def building(self) -> Folder:
        """Folders of markers, one per unsealed cube and one marker per finished block."""
        return self.root / "building"

    def markers(self, aoi_index: int) -> Folder:
        """Return the folder of an unsealed cube's markers."""
        return self.building / aoi_stem(aoi_index)

    @property
    def scores(self) -> Folder:
        """Score tables, ``aoi_000003.parquet``."""
        return self.root / "scores"

    @property
    def chips(self) -> Folder:
        """A folder per chip, by cell."""
        return self.root / "chips"
