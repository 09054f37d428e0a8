"""Check a release in shards: its top in one process, and each shard as a release of its own."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import geopandas as gpd
import pandas as pd

from chipping.views import view_columns
from release.catalogs.items import StacItems, View, shared_views
from release.catalogs.items_table import ITEMS_NAME
from release.opening.checksums import SUMS_NAME, sha256
from release.opening.faults import BadZipError, Fault
from release.opening.files import ZipFiles
from release.opening.limits import MOST_BYTES
from release.opening.table import TableFile, to_frame
from release.recipe import Recipe
from release.report.browser import is_browser_file, is_layers_file
from release.sharding import MOST_TEXT_ROWS, SHARDS_FOLDER, is_shard_sums, shards_of
from release.statistics import STATISTICS_NAME
from release.tracker import CSV_NAME, GEOJSON_NAME, PARQUET_NAME, Tracker, csv_pieces, geojson_pieces

from .chips import SUM_DIFFERS, Findings, check_chips
from .documents import (
    DOCUMENTS,
    OPTIONAL,
    DocumentReader,
    check_collection,
    check_croissant,
    check_item_files,
    check_sums,
    item_faults,
    name_faults,
    read_recipe,
)
from .processes import WatchedFiles
from .tasks import chip_tasks, statistics_check
from .tracker import (
    balance_problems,
    checked_fields,
    field_problems,
    kind_problems,
    number_problems,
    row_problems,
    split_problems,
)

_TEXTS = (GEOJSON_NAME, CSV_NAME)
_NARROW = ("id", "original_id", "cell", "lulc", "label", "epsg", "split", "left_m", "top_m")
_FILES_PER_CHIP = 32
"""What there may be; time and memory for the documents grow with it."""


@dataclass(frozen=True)
class ShardFacts:
    """What all of a release tells of each of its shards. Travels to workers."""

    recipe: Recipe | None
    chips: int
    """Of the release; 0 where the tracker cannot be believed: shards are not compared with it."""
    views: frozenset[View] = frozenset()
    """What is known of every chip's images."""


@dataclass(frozen=True)
class TopFindings:
    """What was found at the top of a release, and what is asked of its shards."""

    faults: list[Fault]
    sums: dict[str, str]
    """SHA-256 of the shards' sums, by shard."""
    facts: ShardFacts
    statistics: Callable[[WatchedFiles], Findings] | None = None

    @property
    def shards(self) -> list[str]:
        """Names of the shards, in the order of their chips."""
        return sorted(self.sums, key=int)


def check_top(files: WatchedFiles, data: bytes, sample_chips: int, *, all_of_it: bool) -> TopFindings:
    """Check what lies in no shard.

    Parameters
    ----------
    files
        The release's.
    data
        Its SHA256SUMS, which names shards.
    sample_chips
        How many chips are counted again for the statistics.
    all_of_it
        False: learn what the checks of shards need, and tell of no fault: another run does.
    """
    names, shards = files.top_names(), files.shard_names()
    there = [*names, *(f"{SHARDS_FOLDER}/{name}/{SUMS_NAME}" for name in shards)]
    faults, sums = check_sums(data, there, [name for name in DOCUMENTS if name not in _TEXTS])
    of_shards = {name.split("/")[1]: digest for name, digest in sums.items() if is_shard_sums(name)}
    documents = DocumentReader(files, sums, names)
    recipe = read_recipe(documents)
    shard_chips = (recipe.shard_chips if recipe is not None else None) or 0
    most_rows = len(of_shards) * shard_chips
    table = _read_table(documents, recipe, most_rows)
    facts, statistics = ShardFacts(recipe, 0), None
    if table is not None and recipe is not None:
        documents.expect(_FILES_PER_CHIP * len(table))
        facts = _shard_facts(documents, table, recipe)
        if all_of_it:
            statistics = _check_table(documents, table, recipe, sums, sample_chips)
        wanted = {shard.name for shard in shards_of(len(table), shard_chips)}
        if wanted != of_shards.keys():
            documents.faults.append(Fault(SUMS_NAME, "names other shards than the tracker's chips lie in"))
            facts = ShardFacts(recipe, 0)
    if not all_of_it:
        return TopFindings([], of_shards, facts)
    strays = sums.keys() - {*DOCUMENTS, *OPTIONAL}
    documents.faults += [
        Fault(name, "belongs to no chip of the tracker")
        for name in strays
        if not (is_shard_sums(name) or (is_browser_file(name) and not is_layers_file(name)))
    ]
    documents.read_others()
    return TopFindings(faults + documents.faults, of_shards, facts, statistics)


def _read_table(documents: DocumentReader, recipe: Recipe | None, most_rows: int) -> TableFile | None:
    """Open the table of record; None, and a fault, where it cannot be believed."""
    data = documents.read(PARQUET_NAME)
    if data is None or recipe is None:
        return None
    try:
        table = TableFile(data, most_rows)
        narrow = table.read_columns(_NARROW) if set(_NARROW) <= set(table.columns) else pd.DataFrame()
        wrong = list(field_problems(table.columns, table.crs.to_epsg(), recipe))
        wrong = wrong or list(kind_problems(narrow, _NARROW)) or list(number_problems(narrow, recipe))
        shards = [(one.first, one.stop) for one in shards_of(len(table), recipe.shard_chips or 1)]
        if not wrong and table.groups != shards:
            wrong = ["its row groups are not the shards"]
    except ValueError as error:
        wrong = [f"cannot be read ({error})"]
    documents.faults += [Fault(PARQUET_NAME, text) for text in wrong]
    return None if wrong else table


def _shard_facts(documents: DocumentReader, table: TableFile, recipe: Recipe) -> ShardFacts:
    """Return what the tracker tells of every shard."""
    names = [name for name in view_columns(recipe.table) if name in table.columns]
    try:
        return ShardFacts(recipe, len(table), shared_views(table.read_columns(names), recipe))
    except ValueError as error:
        documents.faults.append(Fault(PARQUET_NAME, f"cannot be read ({error})"))
        return ShardFacts(recipe, 0)


def _check_table(
    documents: DocumentReader,
    table: TableFile,
    recipe: Recipe,
    sums: Mapping[str, str],
    sample_chips: int,
) -> Callable[[WatchedFiles], Findings] | None:
    """Check what all chips together are, and the documents about them."""
    narrow = table.read_columns(_NARROW)
    problems = [*split_problems(narrow, recipe), *balance_problems(narrow, recipe)]
    documents.faults += [Fault(PARQUET_NAME, text) for text in problems]
    try:
        dates = [f"{key}_dates" for key in recipe.series]
        statistics = statistics_check(table.read_columns(["id", "split", *dates]), recipe, sample_chips)
        _check_texts(documents, table, sums)
    except ValueError as error:
        documents.faults.append(Fault(PARQUET_NAME, f"cannot be read ({error})"))
        return None
    check_collection(documents, narrow, recipe)
    check_croissant(documents, recipe, sums)
    return statistics if STATISTICS_NAME in sums else None


def _check_texts(documents: DocumentReader, table: TableFile, sums: Mapping[str, str]) -> None:
    """Compare GeoJSON and CSV, where there are to be some, with what the table of record makes."""
    is_long = len(table) > MOST_TEXT_ROWS
    for name, pieces in zip(_TEXTS, (geojson_pieces, csv_pieces), strict=True):
        if name not in sums and not is_long:
            documents.faults.append(Fault(SUMS_NAME, f"does not name {name}"))
        elif name in sums and is_long:
            documents.faults.append(Fault(name, f"is there, though {len(table):,} chips are too many for it"))
        elif name in sums and _sha256_of(pieces(_frames(table))) != sums[name]:
            documents.faults.append(Fault(name, f"differs from {PARQUET_NAME}"))


def _frames(table: TableFile) -> Iterator[gpd.GeoDataFrame]:
    for number, _ in enumerate(table.groups):
        yield to_frame(table.read_group(number), table.crs)


def _sha256_of(pieces: Iterable[bytes]) -> str:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()


def check_shard(files: WatchedFiles, shard: str, digest: str, facts: ShardFacts) -> Findings:
    """Check one shard: its files, and its rows of the tracker and of the table of items.

    Parameters
    ----------
    files
        The release's.
    shard
        Name of the shard.
    digest
        SHA-256 of its SHA256SUMS, as the release's has it.
    facts
        What all of the release tells.
    """
    folder = f"{SHARDS_FOLDER}/{shard}/"
    try:
        own = files.shard(shard)
        data = own.read(SUMS_NAME)
        names = own.names()
    except FileNotFoundError:
        return Findings()  # which the check of the top tells
    except BadZipError:
        return Findings([Fault(_zip_name(files, shard), "is not a zip that can be read")])
    except OSError as error:
        return Findings([Fault(folder + SUMS_NAME, str(error))])
    faults, sums = check_sums(data, names, ())
    if sha256(data) != digest:
        faults.append(Fault(SUMS_NAME, SUM_DIFFERS))
    documents = DocumentReader(own, sums, names)
    first = int(shard)
    rows, top = _rows_of(files, first, facts)
    if rows is not None and facts.recipe is not None:
        problems = list(row_problems(rows, facts.recipe))
        top += [Fault(PARQUET_NAME, text) for text in problems]
        if not problems:
            items = StacItems(Tracker.of_table(rows), facts.recipe, facts.views)
            check_item_files(documents, items)
            top += _item_faults(files, items, first, facts.recipe)
        faults += name_faults(rows, facts.recipe, sums, names, is_layers_file)
    documents.read_others()
    there = {name: sums[name] for name in sums.keys() & set(names)}
    recipe = facts.recipe
    tasks = chip_tasks(there, rows, recipe, first, max(facts.chips, 1))
    found = check_chips(own, tasks, recipe)
    below = [replace(one, file=folder + one.file) for one in (*faults, *documents.faults, *found.faults)]
    images = [(one, folder + name) for one, name in found.images]
    return Findings([*below, *top], found.alignments, images)


def _rows_of(
    files: WatchedFiles, first: int, facts: ShardFacts
) -> tuple[gpd.GeoDataFrame | None, list[Fault]]:
    """Return a shard's rows of the tracker, where they can be believed; and what is wrong there."""
    recipe = facts.recipe
    if recipe is None or recipe.shard_chips is None or not facts.chips:
        return None, []
    try:
        table = TableFile(files.read(PARQUET_NAME), facts.chips)
        rows = to_frame(table.read_group(table.group_of(first)), table.crs)
        wrong = list(kind_problems(rows, checked_fields(table.columns, recipe)))
    except (OSError, ValueError) as error:
        wrong = [f"cannot be read ({error})"]
    return (None if wrong else rows), [Fault(PARQUET_NAME, text) for text in wrong]


def _item_faults(files: WatchedFiles, items: StacItems, first: int, recipe: Recipe) -> list[Fault]:
    """Compare a shard's row group of the table of STAC items with those that its rows make."""
    try:
        data = files.read(ITEMS_NAME, MOST_BYTES)
    except OSError:
        return []  # which the check of the top tells
    return list(item_faults(data, items, first // (recipe.shard_chips or 1)))


def _zip_name(files: WatchedFiles, shard: str) -> str:
    zipped = files.files
    return f"{zipped.name.removesuffix('.zip')}_{shard}.zip" if isinstance(zipped, ZipFiles) else shard


def shard_check(top: TopFindings, shard: str) -> Callable[[WatchedFiles], Findings]:
    """Return the check of a shard."""
    return functools.partial(check_shard, shard=shard, digest=top.sums[shard], facts=top.facts)
