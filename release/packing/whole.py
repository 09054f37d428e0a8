"""A release whose files lie side by side, and its zip."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from cube.run.named_locks import stop_if_lost
from cube.run.storage import Folder
from release.opening.checksums import SUMS_NAME, format_sums, sha256
from release.report.layers import layers_files
from release.statistics import STATISTICS_NAME, Tally, counted_rows, statistics_split

from .chips import write_chips
from .contents import Contents
from .zipping import write_zip

if TYPE_CHECKING:
    from chipping.chip import OnProgress


@dataclass(frozen=True)
class WholeRelease:
    """A release whose files lie side by side: what is written, and whether it is there."""

    contents: Contents
    documents: Mapping[str, bytes]
    """The files that are no chip's, by name; but those that are made from the chips' pixels."""
    sums: Mapping[str, str]
    """SHA-256 of those, and of the chips' files but their items."""
    progress: OnProgress | None

    @classmethod
    def of(cls, contents: Contents, progress: OnProgress | None) -> WholeRelease:
        """Make all documents."""
        sums, documents = dict(contents.chips.sums), dict[str, bytes]()
        for name, pieces in contents.documents(sums):
            documents[name] = b"".join(pieces)
            sums[name] = sha256(documents[name])
        return cls(contents, documents, sums, progress)

    @property
    def _of_pixels(self) -> list[str]:
        """Files that are made from the chips' pixels, while these are written."""
        return [STATISTICS_NAME, *layers_files(len(self.contents.tracker))]

    @cached_property
    def _names(self) -> frozenset[str]:
        """All files but SHA256SUMS."""
        return frozenset([*self.sums, *self.contents.items.names, *self._of_pixels])

    def zip_names(self, stem: str) -> list[str]:
        """Name the zip."""
        return [f"{stem}.zip"]

    def may_hold(self, name: str) -> bool:
        """Tell whether a file of this name is one of the release's."""
        return name in self._names

    def is_there(self, release: Folder) -> bool | None:
        """Tell whether this very release is there: True; a different one: False; or none: None."""
        names = set(release.files())
        if not names:
            return None
        if names != {SUMS_NAME, *self._names}:
            return False
        items = {name: sha256(data) for name, data in self.contents.items.files()}
        of_pixels = {name: sha256(release.read(name)) for name in self._of_pixels}
        expected = {**self.sums, **items}
        if release.read(SUMS_NAME) != format_sums({**expected, **of_pixels}):
            return False

        def is_whole(name: str) -> bool:
            return sha256(release.read(name)) == expected[name]

        with ThreadPoolExecutor(release.threads) as pool:
            return all(pool.map(is_whole, expected))

    def write(self, output: Folder, version: str) -> None:
        """Fill the release folder; it appears whole."""
        contents, progress = self.contents, self.progress
        table = contents.chips.table
        tally = Tally(contents.recipe, statistics_split(table["split"]))

        def tell(done: int) -> None:
            if progress is not None:
                progress("chips", done, len(table))

        with output.staged(version, SUMS_NAME) as put:
            items = {}
            for name, data in contents.items.files():
                put(name, data)
                items[name] = sha256(data)
            layers = write_chips(
                contents.chips,
                counted_rows(table),
                tally,
                contents.painter,
                contents.recipe,
                put,
                on_chip=tell,
            )
            statistics = tally.to_json()
            for name, data in {**self.documents, STATISTICS_NAME: statistics}.items():
                put(name, data)
            stop_if_lost()
            made = {**items, **layers, STATISTICS_NAME: sha256(statistics)}
            put(SUMS_NAME, format_sums({**self.sums, **made}))

    def write_zips(self, output: Folder, version: str, stem: str, *, force: bool) -> bool:
        """Zip the release folder; tell whether a zip was written."""
        return write_zip(output, f"{stem}.zip", stem, sorted(self._names), output / version, force=force)
