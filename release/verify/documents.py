"""Check what is no chip's file in a release: its checksums, tables, settings and catalogs."""

from __future__ import annotations

import functools
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace

import geopandas as gpd
import pandas as pd

from release.card import CARD_NAME
from release.catalogs.croissant import folder_sums
from release.catalogs.items import CATALOG_NAME, COLLECTION_NAME, StacItems, item_facts, links_of
from release.catalogs.items_table import ITEMS_NAME, read_items_parquet
from release.catalogs.stac import CROISSANT_NAME, collection_links
from release.opening.checksums import SUMS_NAME, parse_sums, sha256
from release.opening.faults import UNREADABLE, Fault, ReleaseError, first_line
from release.opening.limits import MOST_BYTES
from release.opening.table import read_parquet
from release.recipe import RECIPE_NAME, Recipe, parse_recipe
from release.report.browser import is_browser_file
from release.report.page import REPORT_NAME
from release.statistics import STATISTICS_NAME
from release.tracker import (
    CSV_NAME,
    GEOJSON_NAME,
    PARQUET_NAME,
    Tracker,
    chip_id_of,
    read_tracker,
    to_csv,
)

from .chips import SUM_DIFFERS
from .processes import WatchedFiles
from .tracker import (
    balance_problems,
    checked_rows,
    chip_names,
    row_problems,
    split_problems,
    table_problems,
)

DOCUMENTS = (
    CARD_NAME,
    CATALOG_NAME,
    COLLECTION_NAME,
    CROISSANT_NAME,
    CSV_NAME,
    GEOJSON_NAME,
    ITEMS_NAME,
    PARQUET_NAME,
    RECIPE_NAME,
    REPORT_NAME,
    STATISTICS_NAME,
)
OPTIONAL = ("aois.geojson",)
_NOT_OF_ITS_CHIP = "is not what the tracker says of the chip"
_MOST_FILE_BYTES = 1 << 14
"""What each document may hold per file of the release: ten times what the largest does."""
_ROOM_BYTES = 1 << 26
"""What it may hold beyond that."""
_MOST_ITEM_BYTES = 1 << 22
"""What a STAC item's file may hold: a hundred times what it does."""


def check_sums(
    data: bytes, names: Sequence[str], documents: Collection[str] = DOCUMENTS
) -> tuple[list[Fault], dict[str, str]]:
    """Compare ``SHA256SUMS`` with the names of the files there are.

    Parameters
    ----------
    data
        The file.
    names
        Of the files there are.
    documents
        Those that are to be there.

    Returns
    -------
    list of Fault, dict
        What is wrong; and SHA-256 by file name, as the file says.
    """
    sums, wrong = parse_sums(data)
    counts = Counter(names)
    faults = [Fault(SUMS_NAME, text) for text in wrong]
    faults += [Fault(name, f"is there {count} times") for name, count in counts.items() if count > 1]
    strays = counts.keys() - sums.keys() - {SUMS_NAME}
    faults += [Fault(name, f"is not named in {SUMS_NAME}") for name in strays]
    missing = sums.keys() - counts.keys()
    faults += [Fault(name, f"is missing, though {SUMS_NAME} names it") for name in missing]
    faults += [Fault(SUMS_NAME, f"does not name {name}") for name in documents if name not in sums]
    return faults, sums


class DocumentReader:
    """Reads each file that is no chip's once, and notes which are not what they were.

    Parameters
    ----------
    files
        Of the release, or of a shard.
    sums
        What SHA256SUMS says.
    names
        Of the files there are.
    """

    def __init__(self, files: WatchedFiles, sums: Mapping[str, str], names: Collection[str]) -> None:
        self._files, self._sums = files, sums
        self._names = len(names)
        self.expect(0)
        self._unread = {name for name in sums if chip_id_of(name) is None and name in names}
        self.faults: list[Fault] = []

    def expect(self, further: int) -> None:
        """Take documents to be of so many further files."""
        self._files = replace(self._files, further=further)
        self._most = min((self._names + further) * _MOST_FILE_BYTES + _ROOM_BYTES, MOST_BYTES)

    def read(self, name: str, most: int | None = None) -> bytes | None:
        """Return a file's bytes; None, and a fault, where they are not what they were."""
        if name not in self._unread:
            return None
        self._unread.discard(name)
        try:
            data = self._files.read(name, self._most if most is None else most)
        except OSError as error:
            self.faults.append(Fault(name, str(error)))
            return None
        if sha256(data) != self._sums[name]:
            self.faults.append(Fault(name, SUM_DIFFERS))
            return None
        return data

    def read_others(self) -> None:
        """Read what was not read yet, for its checksum alone."""
        for name in sorted(self._unread):
            self.read(name)


def check_documents(
    files: WatchedFiles, sums: Mapping[str, str], names: Collection[str]
) -> tuple[Recipe | None, gpd.GeoDataFrame | None, list[Fault]]:
    """Check what is no chip's file.

    Returns
    -------
    Recipe or None, GeoDataFrame or None, list of Fault
        What the release says that it was made with, and the tracker, where they can be believed;
        the faults.
    """
    documents = DocumentReader(files, sums, names)
    recipe = read_recipe(documents)
    table = _read_tables(documents, recipe, sums)
    if recipe is not None and table is not None:
        problems = [*split_problems(table, recipe), *row_problems(table, recipe)]
        documents.faults += [Fault(GEOJSON_NAME, text) for text in problems]
        if not problems:
            items = StacItems(Tracker.of_table(table), recipe)
            _check_items(documents, items)
            check_item_files(documents, items)
            check_collection(documents, table, recipe)
        documents.faults += [Fault(GEOJSON_NAME, text) for text in balance_problems(table, recipe)]
        check_croissant(documents, recipe, sums)
        documents.faults += name_faults(table, recipe, sums, names, _is_no_chips)
    documents.read_others()
    return recipe, None if recipe is None else table, documents.faults


def read_recipe(documents: DocumentReader) -> Recipe | None:
    """Return what the release was made with, unless the file that says so is not to be believed."""
    data = documents.read(RECIPE_NAME)
    if data is None:
        return None
    try:
        return parse_recipe(data)
    except ReleaseError as error:
        documents.faults.append(Fault(RECIPE_NAME, str(error).removeprefix(f"{RECIPE_NAME}: ")))
        return None


def _read_tables(
    documents: DocumentReader, recipe: Recipe | None, sums: Mapping[str, str]
) -> gpd.GeoDataFrame | None:
    """Return the tracker from its first file that is right; note which are wrong or differ."""
    first: gpd.GeoDataFrame | None = None
    texts: dict[str, str] = {}
    readers: dict[str, Callable[[bytes], gpd.GeoDataFrame]] = {
        GEOJSON_NAME: read_tracker,
        PARQUET_NAME: functools.partial(read_parquet, most_rows=len(sums)),
    }
    for name, reader in readers.items():
        data = documents.read(name)
        if data is None:
            continue
        try:
            table = reader(data)
            wrong = [] if recipe is None else list(table_problems(table, recipe))
            texts[name] = sha256(to_csv(table))
        except UNREADABLE as error:
            documents.faults.append(Fault(name, f"cannot be read ({first_line(error)})"))
            continue
        documents.faults += [Fault(name, text) for text in wrong]
        first = table if first is None and not wrong else first
    if documents.read(CSV_NAME) is not None:
        texts[CSV_NAME] = sums[CSV_NAME]
    names = list(texts)
    documents.faults += [
        Fault(name, f"differs from {names[0]}") for name in names[1:] if texts[name] != texts[names[0]]
    ]
    return first


def _check_items(documents: DocumentReader, items: StacItems) -> None:
    """Compare the table of STAC items with those that the tracker's rows make."""
    data = documents.read(ITEMS_NAME)
    if data is not None:
        documents.faults += item_faults(data, items)


def item_faults(data: bytes, items: StacItems, group: int | None = None) -> Iterator[Fault]:
    """Yield what is wrong with a table of STAC items, or with a row group of it."""
    try:
        for found, wanted in zip(read_items_parquet(data, group), items, strict=True):
            if item_facts(found) != item_facts(wanted):
                yield Fault(ITEMS_NAME, f"{wanted['id']} {_NOT_OF_ITS_CHIP}")
                return
    except UNREADABLE as error:
        text = f"cannot be read, or holds other chips ({first_line(error)})"
        yield Fault(ITEMS_NAME, text)


def check_item_files(documents: DocumentReader, items: StacItems) -> None:
    """Compare each STAC item's file with what the tracker's row makes."""
    for name, wanted in items.seen_from_files():
        data = documents.read(name, _MOST_ITEM_BYTES)
        if data is None:
            continue
        try:
            if item_facts(json.loads(data)) != item_facts(wanted):
                documents.faults.append(Fault(name, _NOT_OF_ITS_CHIP))
        except UNREADABLE as error:
            documents.faults.append(Fault(name, f"cannot be read ({first_line(error)})"))


def check_collection(documents: DocumentReader, table: pd.DataFrame, recipe: Recipe) -> None:
    """See that the STAC collection links to the items of all chips, and to nothing strange."""
    data = documents.read(COLLECTION_NAME)
    if data is None:
        return
    try:
        found = links_of(json.loads(data))
    except UNREADABLE as error:
        documents.faults.append(Fault(COLLECTION_NAME, f"cannot be read ({first_line(error)})"))
        return
    wanted = links_of({"links": list(collection_links(table["id"], recipe))})
    missing = [f"does not link to {href}, its {rel}" for rel, href in sorted(wanted - found)]
    stray = ["links to what is none of its documents"] if found - wanted else []
    documents.faults += [Fault(COLLECTION_NAME, text) for text in (*missing[:1], *stray)]


def check_croissant(documents: DocumentReader, recipe: Recipe, sums: Mapping[str, str]) -> None:
    """See that Croissant's files are the tables, and the folder, with the checksums of now."""
    data = documents.read(CROISSANT_NAME)
    if data is None:
        return
    try:
        parts = [part for part in json.loads(data)["distribution"] if part["@type"] == "cr:FileObject"]
        found = {
            part["@id"] if part["contentUrl"] == "." else part["contentUrl"]: part["sha256"] for part in parts
        }
    except UNREADABLE as error:
        documents.faults.append(Fault(CROISSANT_NAME, f"cannot be read ({first_line(error)})"))
        return
    tables = {name: sums[name] for name in (CSV_NAME, GEOJSON_NAME, PARQUET_NAME) if name in sums}
    wanted = {**tables, **folder_sums(recipe, sums)}
    wrong = [f"does not name {name}" for name in wanted.keys() - found.keys()]
    wrong += [f"names {name}, which is no table of the release" for name in found.keys() - wanted.keys()]
    wrong += [
        f"gives another sha256 of {name}"
        for name in wanted.keys() & found.keys()
        if wanted[name] != found[name]
    ]
    documents.faults += [Fault(CROISSANT_NAME, text) for text in wrong]


def _is_no_chips(name: str) -> bool:
    return name in {*DOCUMENTS, *OPTIONAL} or is_browser_file(name)


def name_faults(
    table: gpd.GeoDataFrame,
    recipe: Recipe,
    sums: Mapping[str, str],
    names: Collection[str],
    is_no_chips: Callable[[str], bool],
) -> Iterator[Fault]:
    """Compare the files there are with those that the tracker's rows stand for, and no others."""
    claimed = {name for row in checked_rows(table, recipe) for name in chip_names(row, recipe)}
    for name in claimed - sums.keys() - set(names):
        yield Fault(name, "is missing, though the tracker stands for it")
    for name in sums.keys() - claimed:
        if not is_no_chips(name):
            yield Fault(name, "belongs to no chip of the tracker")
