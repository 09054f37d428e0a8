"""Where things are: what the versions of a dataset share in a working folder, and what each has."""

from __future__ import annotations

import re
from dataclasses import dataclass

from cube.config.models import Config
from cube.errors import ConfigError, DiskFullError, StoreError

from .status import merge_left_shards
from .storage import Folder, check_writable, open_folder

EXPORTING = ".exporting"
"""File that is there while chips are written that may not be on the disk yet."""
_STEM = re.compile(r"aoi_(\d{6,})(?:_|$)")
_RECIPE_DIGITS = 12
"""Of the 64 in a SHA-256: short enough to read, and a thousand recipes of an AOI share none."""


def aoi_stem(aoi_index: int) -> str:
    """Return what an AOI's files are called, without their ending."""
    return f"aoi_{aoi_index:06}"


def index_of(stem: str) -> int | None:
    """Return the index of the area whose file or cube a name is; None for other names."""
    found = _STEM.match(stem)
    return int(found[1]) if found else None


def recipe_stem(aoi_index: int, sha256: str) -> str:
    """Return an AOI's name and a digest: a cube has its recipe's, a plan its question's."""
    return f"{aoi_stem(aoi_index)}_{sha256[:_RECIPE_DIGITS]}"


@dataclass(frozen=True)
class Layout:
    """The folders of a working folder: cubes and plans, and below a version all that is its own.

    A cube belongs to its recipe and a plan to its question, so any number of versions share them.
    """

    working: Folder
    version: str

    @classmethod
    def of(cls, config: Config) -> Layout:
        """Return the layout of a config's working folder."""
        working = open_folder(config.directory.working, config.directory.storage_options)
        return cls(working.absolute(), config.dataset.version)

    def make(self, config: Config) -> None:
        """Create the version's folder, and see that it can be written to.

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
        """Clear up what killed runs of this version left; only while it is held."""
        merge_left_shards(self.root)
        for folder in (self.root, self.scores, self.windows, self.chips):
            folder.sweep()

    def sweep_shared(self) -> None:
        """Remove what killed runs left half-written in shared folders; only if alone."""
        unfinished = [self.building / name for name in self.building.names()]
        for folder in (self.plans, self.lost, self.blocks, self.cubes, *unfinished):
            folder.sweep()

    @property
    def root(self) -> Folder:
        """The version's own folder."""
        return self.working / self.version

    @property
    def logs(self) -> Folder:
        """Log files, a run each."""
        return self.root / "logs"

    @property
    def cubes(self) -> Folder:
        """Cubes, ``aoi_000003_0123456789ab.zarr``."""
        return self.working / "cubes"

    @property
    def plans(self) -> Folder:
        """Plans, ``aoi_000003_0123456789ab.json``, called by what was asked."""
        return self.working / "plans"

    @property
    def lost(self) -> Folder:
        """Records of scenes whose files are missing or broken for good, called as plans are."""
        return self.working / "lost"

    @property
    def blocks(self) -> Folder:
        """Fingerprints and digests of sealed cubes' blocks, a file per cube."""
        return self.working / "blocks"

    @property
    def building(self) -> Folder:
        """Folders of markers, one per unsealed cube and one marker per finished block."""
        return self.working / "building"

    @property
    def locks(self) -> Folder:
        """Locks of the cubes that are being built now."""
        return self.working / "locks"

    def markers(self, cube: str) -> Folder:
        """Return the folder of an unsealed cube's markers."""
        return self.building / cube

    @property
    def scores(self) -> Folder:
        """Score tables, ``aoi_000003.parquet``."""
        return self.root / "scores"

    @property
    def windows(self) -> Folder:
        """Tables of all windows and their verdicts, ``aoi_000003.parquet``."""
        return self.root / "windows"

    @property
    def chips(self) -> Folder:
        """A folder per chip, by cell."""
        return self.root / "chips"
