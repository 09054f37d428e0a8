"""A catalog that is a file, or a folder of files; a query means what it means to an API."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from shapely import STRtree

from cube.errors import ConfigError
from cube.scenes.query import Item, Query, footprint_of

from .plain import EXPECTED, read_items
from .table import ItemTable


class Items(Protocol):
    """The items of one file."""

    def near(self, query: Query) -> Iterable[Item]:
        """Return, in the file's order, at least those items that match a query."""
        ...


class FileCatalog:
    """Items of files, searched in process."""

    def __init__(self, *sources: Items | Sequence[Item]) -> None:
        self._sources = [ListedItems(one) if isinstance(one, Sequence) else one for one in sources]

    @classmethod
    def open(cls, path: str | Path) -> FileCatalog:
        """Read STAC items as JSON, or stac-geoparquet, or a folder of such Parquet files.

        Parquet is told by its first bytes, and is not read whole: :class:`ItemTable`.

        Raises
        ------
        ConfigError
            If there are no items to be read; says what was found.
        """
        path = Path(path)
        try:
            if path.is_dir():
                return cls(*_tables(path))
            return cls(ItemTable(path) if _is_parquet(path) else list(read_items(path)))
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read ({error.strerror or error}); {EXPECTED}") from None

    def search(self, query: Query) -> list[Item]:
        """Return all items that match, in the query's order; of equals, in the files'."""
        near = (item for source in self._sources for item in source.near(query))
        return query.finish([item for item in near if query.matches(item)])


def _is_parquet(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PAR1"


def _tables(folder: Path) -> Iterator[ItemTable]:
    """Yield the tables of a dataset's files; a folder ``collection=...`` names their collection."""
    files = sorted(path for path in folder.rglob("*.parquet") if path.is_file())
    if not files:
        raise ConfigError(f"{folder}: a folder without .parquet files; {EXPECTED}")
    for path in files:
        named = dict(part.split("=", 1) for part in path.relative_to(folder).parts[:-1] if "=" in part)
        yield ItemTable(path, named.get("collection"))


class ListedItems:
    """Items that are all in memory."""

    def __init__(self, items: Sequence[Item]) -> None:
        self._items = items
        footprints = [footprint_of(item) for item in items]
        self._tree = STRtree(footprints)
        self._nowhere = [index for index, footprint in enumerate(footprints) if footprint is None]

    def near(self, query: Query) -> Iterable[Item]:
        """Return the items that touch the query's place, or do not say where they lie."""
        if query.intersects is None:
            return self._items
        found = map(int, self._tree.query(query.intersects, predicate="intersects"))
        return [self._items[index] for index in sorted((*found, *self._nowhere))]
