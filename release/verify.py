"""Check a release, whole: every file, name, field, date, raster and count. For anyone who holds one.

A release may come from anybody: what it says of itself is read as a claim, never as a path to follow or a size to trust.
"""

from __future__ import annotations

import functools
import io
import itertools
import json
import logging
import math
import multiprocessing
import os
import re
import threading
import warnings
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import shapely
from numpy.typing import NDArray
from pyproj import Transformer

from cube.sensors import CLASS_COLORS, CLASS_NAMES
from cube.storage import Folder

from .alignment import Alignment
from .card import CARD_NAME
from .catalogs import (
    CATALOG_NAME,
    COLLECTION_NAME,
    CROISSANT_NAME,
    ITEMS_NAME,
    item_facts,
    read_items,
    stac_items,
)
from .chip_files import SUM_DIFFERS, ChipTask, Findings, check_chips
from .errors import BadZipError, ReleaseError
from .faults import Fault, first_line
from .package import (
    SUMS_NAME,
    Files,
    FolderFiles,
    ZipFiles,
    open_files,
    parse_sums,
    sha256,
    zip_chunks,
    zip_equals,
)
from .recipe import RECIPE_NAME, Recipe, parse_recipe
from .report import REPORT_NAME
from .select import dates_fit, drop_counts, split
from .tracker import (
    CSV_NAME,
    GEOJSON_NAME,
    PARQUET_NAME,
    read_tracker,
    rows_of,
    series_name,
    static_name,
    to_csv,
    tracker_fields,
)

__all__ = ["verify"]

_DOCUMENTS = (
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
)
_OPTIONAL = ("aois.geojson",)
_INTEGER_FIELDS = ("original_id", "aoi_index", "epsg", "id", "left_m", "top_m")
_NUMBER_FIELDS = ("lat", "lon", "purity")
_FOOTPRINT_TOLERANCE_DEG = 2e-5
_MISALIGNED_PX = 2
_CHIPS_PER_TASK = 16
_CHIPS_PER_WORKER = 100
"""Fewer are not worth starting a process for."""
_TASKS_AHEAD = 4
"""Per worker."""
_ALIGNED_CHIPS = 500
_LARGEST_INTEGER = 1 << 53
_MOST_ROW_BYTES = 1 << 16
"""Of a row of the tracker or of the items: ten times what they take."""
_UTM_ZONES = {*range(32601, 32661), *range(32701, 32761)}
_CHIP_NAME = re.compile(r"_([0-9]{6,12})(_[0-9]{8})?\.(tif|png)$")
_DATE = re.compile(r"(?<!\d)((?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01]))(?!\d)")


def verify(path: str | Path | Folder, workers: int | None = None) -> list[Fault]:
    """Check a release folder or zip.

    Parameters
    ----------
    path
        The folder or the ``.zip``.
    workers
        Processes that read chips (None: one per core, fewer for a small release; 1: this process).

    Returns
    -------
    list of Fault
        In the order of file names; empty for a release as it was made.

    Raises
    ------
    ReleaseError
        If there is nothing at `path`.
    """
    try:
        files = open_files(path)
    except BadZipError:
        return [Fault(Path(str(path)).name, "is not a zip that can be read")]
    names = files.names()
    if SUMS_NAME not in names:
        return [Fault(SUMS_NAME, "is missing: this is no release, or not all of it")]
    try:
        faults, sums = _check_sums(files.read(SUMS_NAME), names)
    except OSError as error:
        return sorted({Fault(SUMS_NAME, str(error)), *_check_zip(files, None)})
    recipe, table, wrong = _check_documents(files, sums, names)
    faults += wrong
    rows = _sound_rows(table, recipe) if table is not None and recipe is not None else {}
    tasks = _Tasks(sums, names, rows)
    del names, table
    findings = _check_chips(files, tasks, recipe, workers)
    return sorted({*faults, *findings.faults, *_check_alignment(findings.alignments, recipe)})


def _check_sums(data: bytes, names: Sequence[str]) -> tuple[list[Fault], dict[str, str]]:
    sums, wrong = parse_sums(data)
    if sums.pop(SUMS_NAME, None):
        wrong.append("names itself")
    faults = [Fault(SUMS_NAME, text) for text in wrong]
    there = Counter(names)
    faults += [Fault(name, f"is there {n} times") for name, n in there.items() if n > 1]
    faults += [Fault(name, f"is missing, though {SUMS_NAME} names it") for name in sums if name not in there]
    faults += [
        Fault(name, f"is not named in {SUMS_NAME}")
        for name in there
        if name not in sums and name != SUMS_NAME
    ]
    faults += [Fault(SUMS_NAME, f"does not name {name}") for name in _DOCUMENTS if name not in sums]
    return faults, sums


_UNREADABLE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    OSError,
    RecursionError,
    TypeError,
    ValueError,
    pa.ArrowException,
    shapely.errors.GEOSException,
)
"""What readers of JSON and Parquet raise at a file that is not what it should be."""


def _check_documents(
    files: Files, sums: Mapping[str, str], names: Sequence[str]
) -> tuple[Recipe | None, gpd.GeoDataFrame | None, list[Fault]]:
    """Check what is no chip's file; return recipe and tracker where they can be believed."""
    documents, faults = _read_documents(files, sums, set(names))
    damaged = {fault.file for fault in faults}
    sound = {name: data for name, data in documents.items() if name not in damaged}
    recipe, wrong = _read_recipe(sound)
    faults += wrong
    table, wrong = _read_tables(sound, recipe, len(sums))
    faults += wrong
    if recipe is None or table is None:
        return recipe, None, faults
    wrong = [Fault(GEOJSON_NAME, text) for text in _row_problems(table, recipe)]
    faults += wrong or _check_items(sound, table, recipe)
    faults += _check_balance(table, recipe)
    faults += _croissant_faults(sound, documents)
    faults += _check_names(table, recipe, sums, names)
    return recipe, table, faults


def _read_documents(
    files: Files, sums: Mapping[str, str], there: set[str]
) -> tuple[dict[str, bytes], list[Fault]]:
    """Read and checksum what is no chip's file."""
    documents, faults = {}, []
    for name in (name for name in sums if name in there and not _CHIP_NAME.search(name)):
        try:
            data = files.read(name)
        except OSError as error:
            faults.append(Fault(name, str(error)))
            continue
        if sha256(data) != sums[name]:
            faults.append(Fault(name, SUM_DIFFERS))
        if name in _DOCUMENTS:
            documents[name] = data
    return documents, faults


def _read_recipe(sound: Mapping[str, bytes]) -> tuple[Recipe | None, list[Fault]]:
    """Return what the release was made with, unless the file that says so is not to be believed."""
    if RECIPE_NAME not in sound:
        return None, []
    try:
        return parse_recipe(sound[RECIPE_NAME]), []
    except ReleaseError as error:
        return None, [Fault(RECIPE_NAME, str(error).removeprefix(f"{RECIPE_NAME}: "))]


def _read_tables(
    sound: Mapping[str, bytes], recipe: Recipe | None, most_rows: int
) -> tuple[gpd.GeoDataFrame | None, list[Fault]]:
    """Return the tracker from whichever of its files is right, and where the others are wrong, or differ."""
    first: gpd.GeoDataFrame | None = None
    texts: dict[str, str] = {}
    faults = []
    readers: dict[str, Callable[[bytes], gpd.GeoDataFrame]] = {
        GEOJSON_NAME: read_tracker,
        PARQUET_NAME: functools.partial(_read_parquet, most_rows=most_rows),
    }
    for name, reader in readers.items():
        if name not in sound:
            continue
        try:
            table = reader(sound[name])
            wrong = [] if recipe is None else list(_table_problems(table, recipe))
            texts[name] = sha256(to_csv(table))
        except _UNREADABLE as error:
            faults.append(Fault(name, f"cannot be read ({first_line(error)})"))
            continue
        faults += [Fault(name, text) for text in wrong]
        first = table if first is None and not wrong else first
    if CSV_NAME in sound:
        texts[CSV_NAME] = sha256(sound[CSV_NAME])
    names = list(texts)
    faults += [Fault(n, f"differs from {names[0]}") for n in names[1:] if texts[n] != texts[names[0]]]
    return first, faults


def _read_parquet(data: bytes, most_rows: int) -> gpd.GeoDataFrame:
    _check_unpacked(data, most_rows)
    return gpd.read_parquet(io.BytesIO(data))


def _check_unpacked(data: bytes, most_rows: int) -> None:
    """Refuse a Parquet file that unpacks to far more than its rows could hold: a value said once may count for all.

    Raises
    ------
    ValueError
        Says what is too large, or named twice.
    """
    with pq.ParquetFile(io.BytesIO(data)) as file:
        found, schema = file.metadata, file.schema_arrow
    if twice := [name for name, count in Counter(schema.names).items() if count > 1]:
        raise ValueError(f"field {twice[0]} is there twice")
    if found.num_rows > most_rows:
        raise ValueError(f"{found.num_rows:,} rows, where {most_rows:,} are the most")
    most = found.num_rows * _MOST_ROW_BYTES + _MOST_ROW_BYTES
    groups = (found.row_group(number) for number in range(found.num_row_groups))
    parts = (group.column(place) for group in groups for place in range(group.num_columns))
    size = sum(part.total_uncompressed_size for part in parts)
    if size <= most:
        texts = [one.name for one in schema if any(is_kind(one.type) for is_kind in _TEXTS)]
        table = pq.read_table(io.BytesIO(data), columns=texts, read_dictionary=texts)
        size = sum(_unpacked_bytes(chunk) for column in table.columns for chunk in column.chunks)
    if size > most:
        raise ValueError(f"{size:,} bytes, in {found.num_rows:,} rows")


_TEXTS = (
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_binary,
    pa.types.is_large_binary,
    pa.types.is_dictionary,
)


def _unpacked_bytes(chunk: Any) -> int:
    """Return how many bytes the texts of a column have, each counted as often as it is there."""
    if not pa.types.is_dictionary(chunk.type):
        return int(chunk.nbytes)
    lengths = pc.binary_length(chunk.dictionary).cast(pa.int64())
    return int(pc.sum(lengths.take(chunk.indices)).as_py() or 0)


def _row_problems(table: gpd.GeoDataFrame, recipe: Recipe) -> Iterator[str]:
    yield from _split_problems(table, recipe)
    places = _places(table, recipe)
    for row, place in zip(_rows(table, recipe), places, strict=True):
        for text in itertools.chain(_field_problems(row, recipe), place):
            yield f"chip {row['id']}: {text}"


def _rows(table: gpd.GeoDataFrame, recipe: Recipe) -> Iterator[dict[str, Any]]:
    """Rows of the fields that are checked, one by one."""
    return rows_of(table, tracker_fields(recipe.table))


def _sound_rows(table: gpd.GeoDataFrame, recipe: Recipe) -> dict[int, dict[str, Any]]:
    """Return, by id, what rasters are compared with; only rows whose dates are such that they can be."""
    fields = ("epsg", "left_m", "top_m", "lulc", "purity")
    dates = [f"{key}_dates" for key in recipe.series]
    scenes = [f"{key}_scene_ids" for key in recipe.layout]
    return {
        int(row.pop("id")): row
        for row in rows_of(table, ("id", *fields, *dates, *scenes))
        if all(dates_fit(row[name], recipe.ranges) for name in dates)
    }


def _table_problems(table: gpd.GeoDataFrame, recipe: Recipe) -> Iterator[str]:
    expected = list(tracker_fields(recipe.table))
    epsg = None if table.crs is None else table.crs.to_epsg()
    if epsg != 4326:
        yield f"its CRS is {epsg}, expected 4326"
        return
    if list(table.columns[: len(expected)]) != expected or table.columns[-1] != "geometry":
        missing = [name for name in expected if name not in table] or ["their order"]
        yield f"its fields are not those of a tracker: {missing[0]}"
        return
    for name in expected:
        kind = "integer" if name in _INTEGER_FIELDS else "number" if name in _NUMBER_FIELDS else "text"
        if not all(_is_kind(value, kind) for value in table[name]):
            yield f"field {name} is not all {kind}"
            return
    if table["id"].tolist() != list(range(len(table))):
        yield "ids are not 0 to n-1 in order"
    if not table["original_id"].is_monotonic_increasing or not table["original_id"].is_unique:
        yield "original_id does not rise with id"
    if not table["cell"].is_unique:
        yield f"cell {table.loc[table['cell'].duplicated(), 'cell'].iloc[0]} is there twice"
    if unknown := sorted(set(table["lulc"]) - {str(code) for code in recipe.chips.classes}):
        yield f"class {unknown[0]} is not among those kept"
    if unknown_zones := sorted(set(table["epsg"]) - _UTM_ZONES):
        yield f"epsg {unknown_zones[0]} is no UTM zone"


def _is_kind(value: object, kind: str) -> bool:
    if kind == "text":
        return isinstance(value, str)
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        return abs(int(value)) < _LARGEST_INTEGER
    return bool(kind == "number" and isinstance(value, float) and math.isfinite(value))


def _field_problems(row: Mapping[str, Any], recipe: Recipe) -> Iterator[str]:
    if row["status"] != "success":
        yield f"status is {row['status']!r}"
    if row["cell"] != f"{row['epsg']}_{row['left_m']}_{row['top_m']}":
        yield f"cell {row['cell']} is not its epsg, left_m and top_m"
    code = int(row["lulc"])
    if (row["category"], row["color"]) != (CLASS_NAMES[code], CLASS_COLORS.get(code, "")):
        yield f"category {row['category']!r} or color {row['color']!r} is not that of class {code}"
    for key in recipe.table:
        yield from _sensor_problems(row, key, recipe)


def _sensor_problems(row: Mapping[str, Any], key: str, recipe: Recipe) -> Iterator[str]:
    is_static = recipe.table[key].is_static
    expected = _expected_names(row, key, recipe)
    if row[f"{key}_paths"] != ",".join(expected["tif"]):
        yield f"{key}_paths is {row[f'{key}_paths']!r}, expected {','.join(expected['tif'])!r}"
    if is_static:
        return
    if row[f"{key}_thumbs"] != ",".join(expected["png"]):
        yield f"{key}_thumbs is {row[f'{key}_thumbs']!r}, expected {','.join(expected['png'])!r}"
    dates = row[f"{key}_dates"]
    if key not in recipe.layout:
        if dates:
            yield f"{key}_dates is {dates!r}, but the release has no {key}"
        return
    if not dates_fit(dates, recipe.ranges):
        yield f"{key}_dates {dates!r} are not one per time range"
        return
    groups = row[f"{key}_scene_ids"].split(",")
    if len(groups) != len(recipe.ranges):
        yield f"{key}_scene_ids has {len(groups)} entries for {len(recipe.ranges)} dates"
        return
    for date, group in zip(dates.split(","), groups, strict=True):
        days = set(_DATE.findall(group.replace("T", "_").replace("t", "_")))
        if days and date not in days:
            yield f"{key}_dates {date} is not the day of its scene {group}"


def _expected_names(row: Mapping[str, Any], key: str, recipe: Recipe) -> dict[str, list[str]]:
    if key not in recipe.layout:
        return {"tif": [], "png": []}
    if recipe.table[key].is_static:
        return {"tif": [static_name(key, row["id"])], "png": []}
    prefix = recipe.release.thumbnail_url.rstrip("/")
    start = f"{prefix}/" if prefix else ""
    dates = row[f"{key}_dates"].split(",")
    return {
        "tif": [series_name(key, row["id"], date, "tif") for date in dates],
        "png": [start + series_name(key, row["id"], date, "png") for date in dates],
    }


def _places(table: gpd.GeoDataFrame, recipe: Recipe) -> list[list[str]]:
    """Say of each row whether its position and footprint are its cell's."""
    found: list[list[str]] = [[] for _ in range(len(table))]
    shapes = table.geometry.to_numpy()
    for epsg in sorted(set(table["epsg"])):
        places = np.flatnonzero(table["epsg"].to_numpy() == epsg)
        part = table.iloc[places]
        for place, row, (lons, lats) in zip(
            places, _rows(part, recipe), _corners(part, int(epsg), recipe), strict=True
        ):
            found[place] = list(_place_problems(row, shapes[place], lons, lats))
    return found


def _corners(
    part: gpd.GeoDataFrame, epsg: int, recipe: Recipe
) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64]]]:
    """Longitudes and latitudes of each chip's centre and four corners."""
    side, margin = recipe.chips.chip_size, recipe.chips.margin_m
    left = part["left_m"].to_numpy(dtype=float)[:, None] - margin
    top = part["top_m"].to_numpy(dtype=float)[:, None] + margin
    east, south = np.array([0.5, 0, 0, 1, 1]) * side, np.array([0.5, 0, 1, 1, 0]) * side
    to_lonlat = Transformer.from_crs(epsg, 4326, always_xy=True)
    yield from zip(*to_lonlat.transform(left + east, top - south), strict=True)


def _place_problems(
    row: Mapping[str, Any], shape: Any, lons: NDArray[np.float64], lats: NDArray[np.float64]
) -> Iterator[str]:
    if max(abs(lons[0] - row["lon"]), abs(lats[0] - row["lat"])) > _FOOTPRINT_TOLERANCE_DEG:
        yield f"lat, lon {row['lat']}, {row['lon']} are not the chip's centre {lats[0]:.6f}, {lons[0]:.6f}"
    found = shapely.get_coordinates(shape)
    corners = np.column_stack([lons[1:], lats[1:]])
    apart = np.abs(corners[:, None, :] - found[None, :, :])
    apart[..., 0] = np.minimum(apart[..., 0], np.abs(apart[..., 0] - 360))  # beyond the antimeridian
    distances = apart.max(axis=2)
    if (
        not len(found)
        or max(distances.min(axis=0).max(), distances.min(axis=1).max()) > _FOOTPRINT_TOLERANCE_DEG
    ):
        yield "its footprint is not the chip's square"


def _split_problems(table: gpd.GeoDataFrame, recipe: Recipe) -> list[str]:
    settings = recipe.release
    if not settings.splits:
        return [f"chip {i}: has a split, but none were made" for i in table.loc[table["split"] != "", "id"]]
    boxes = pd.DataFrame(table[["epsg"]]).assign(
        left_m=table["left_m"] - recipe.chips.margin_m,
        top_m=table["top_m"] + recipe.chips.margin_m,
        lulc=table["lulc"].astype(int),
    )
    again = split(boxes, settings.splits, settings.block_m, recipe.chips.chip_size, settings.seed)
    return [
        f"chip {row_id}: split is {found!r}, its block's is {expected!r}"
        for row_id, found, expected in zip(table["id"], table["split"], again, strict=True)
        if found != expected
    ]


def _check_balance(table: gpd.GeoDataFrame, recipe: Recipe) -> list[Fault]:
    found = Counter(int(code) for code in table["lulc"])
    factor = recipe.sampling_factor
    drops = drop_counts(recipe.before, factor) if factor else dict.fromkeys(recipe.before, 0)
    faults = [
        Fault(GEOJSON_NAME, f"class {code} has {found[code]} chips, expected {count - drops[code]}")
        for code, count in recipe.before.items()
        if found[code] != count - drops[code]
    ]
    if factor and found and max(found.values()) > factor * min(found.values()):
        counts = f"{max(found.values())} and {min(found.values())}"
        faults.append(
            Fault(GEOJSON_NAME, f"classes are not balanced: {counts} chips, sampling_factor {factor}")
        )
    return faults


def _check_items(sound: Mapping[str, bytes], table: gpd.GeoDataFrame, recipe: Recipe) -> list[Fault]:
    """Compare the STAC items with those that the tracker's rows make."""
    if ITEMS_NAME not in sound:
        return []
    try:
        _check_unpacked(sound[ITEMS_NAME], len(table))
        for found, wanted in zip(read_items(sound[ITEMS_NAME]), stac_items(table, recipe), strict=True):
            if item_facts(found) != item_facts(wanted):
                return [Fault(ITEMS_NAME, f"{wanted['id']} is not what the tracker says of the chip")]
    except _UNREADABLE as error:
        return [Fault(ITEMS_NAME, f"cannot be read, or holds other chips ({first_line(error)})")]
    return []


def _croissant_faults(sound: Mapping[str, bytes], documents: Mapping[str, bytes]) -> list[Fault]:
    if CROISSANT_NAME not in sound:
        return []
    try:
        parts = json.loads(sound[CROISSANT_NAME])["distribution"]
        sums = {part["contentUrl"]: part["sha256"] for part in parts if part["@type"] == "cr:FileObject"}
    except _UNREADABLE as error:
        return [Fault(CROISSANT_NAME, f"cannot be read ({first_line(error)})")]
    tables = {CSV_NAME, GEOJSON_NAME, PARQUET_NAME}
    wrong = [f"does not name {name}" for name in tables - sums.keys()]
    wrong += [f"names {name}, which is no table of the release" for name in sums.keys() - tables]
    wrong += [
        f"gives another sha256 of {name}"
        for name in tables & sums.keys() & documents.keys()
        if sha256(documents[name]) != sums[name]
    ]
    return [Fault(CROISSANT_NAME, text) for text in wrong]


def _check_names(
    table: gpd.GeoDataFrame, recipe: Recipe, sums: Mapping[str, str], names: Sequence[str]
) -> list[Fault]:
    """Compare the files there are with those that the tracker's rows stand for."""
    there, unclaimed = set(names), {*sums} - {*_DOCUMENTS, *_OPTIONAL}
    faults = []
    for row in _rows(table, recipe):
        for name in _chip_names(row, recipe):
            if name in unclaimed:
                unclaimed.discard(name)
            elif name not in there:
                faults.append(Fault(name, "is missing, though the tracker stands for it"))
    return faults + [Fault(name, "belongs to no chip of the tracker") for name in unclaimed]


def _chip_names(row: Mapping[str, Any], recipe: Recipe) -> Iterator[str]:
    for key in recipe.layout:
        if recipe.table[key].is_static:
            yield static_name(key, row["id"])
            continue
        for date in filter(None, row[f"{key}_dates"].split(",")):
            yield from (series_name(key, row["id"], date, suffix) for suffix in ("tif", "png"))


class _Tasks:
    """Chips to check, a task at a time: all of them at once would take more memory than the release's table."""

    def __init__(
        self, sums: Mapping[str, str], names: Sequence[str], rows: Mapping[int, Mapping[str, Any]]
    ) -> None:
        there = set(names)
        self._sums, self._rows = sums, rows
        self._names: dict[int, list[str]] = defaultdict(list)
        for name in sums:
            match = _CHIP_NAME.search(name)
            if match and name in there:
                self._names[int(match[1])].append(name)
        # Correlation is over the release: chips beyond some hundreds tell nothing new.
        self._aligned_every = max(1, len(self._names) // _ALIGNED_CHIPS)

    def __len__(self) -> int:
        """Return how many chips there are."""
        return len(self._names)

    def __iter__(self) -> Iterator[ChipTask]:
        """Yield a task per chip, in the order of ids."""
        for place, (chip_id, names) in enumerate(sorted(self._names.items())):
            files = tuple((name, self._sums[name]) for name in sorted(names))
            yield ChipTask(files, self._rows.get(chip_id), place % self._aligned_every == 0)

    def batches(self) -> Iterator[list[ChipTask]]:
        """Yield some tasks at a time."""
        tasks = iter(self)
        while batch := list(itertools.islice(tasks, _CHIPS_PER_TASK)):
            yield batch


_worker: tuple[Files, Recipe | None]
"""What a worker process reads from."""


def _start_worker(files: Files, recipe: Recipe | None) -> None:
    global _worker  # noqa: PLW0603  a worker's own
    logging.getLogger("rasterio").setLevel(logging.CRITICAL)  # what GDAL finds, the faults say
    _worker = files, recipe


def _check_batch(batch: Sequence[ChipTask]) -> Findings:
    return check_chips(batch, *_worker)


def _check_zip_there() -> Findings:
    return Findings(_check_zip(*_worker))


def _check_chips(files: Files, tasks: _Tasks, recipe: Recipe | None, workers: int | None) -> Findings:
    """Check all chips, and the zip."""
    if workers is None:
        workers = min(os.cpu_count() or 1, 1 + len(tasks) // _CHIPS_PER_WORKER)
    if workers > 1:
        try:
            return _check_parallel(files, tasks, recipe, workers)
        except BrokenProcessPool:  # a worker was killed, or could not start: slower, but it gets done
            pass
    findings = Findings(_check_zip(files, recipe))
    for batch in tasks.batches():
        findings.merge(check_chips(batch, files, recipe))
    return findings


def _check_parallel(files: Files, tasks: _Tasks, recipe: Recipe | None, workers: int) -> Findings:
    findings = Findings()
    # A fork needs no guard in the caller's script and starts at once, but must not be made beside running threads.
    may_fork = threading.active_count() == 1 and "fork" in multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("fork" if may_fork else "spawn")
    with (
        warnings.catch_warnings(),
        ProcessPoolExecutor(workers, context, _start_worker, (files, recipe)) as pool,
    ):
        # Idle threads of numerical libraries, which they take care of themselves.
        warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
        ahead: deque[Future[Findings]] = deque([pool.submit(_check_zip_there)])
        for batch in tasks.batches():
            ahead.append(pool.submit(_check_batch, batch))
            if len(ahead) > _TASKS_AHEAD * workers:
                findings.merge(ahead.popleft().result())
        for future in ahead:
            findings.merge(future.result())
    return findings


def _check_alignment(alignments: Mapping[tuple[str, int], Alignment], recipe: Recipe | None) -> list[Fault]:
    faults = []
    for (key, index), alignment in sorted(alignments.items()):
        assert recipe is not None
        reference = recipe.layout["s2l2a"].resolution
        offset = alignment.offset(_MISALIGNED_PX * recipe.layout[key].resolution // reference)
        if offset is not None:
            when = f" in {recipe.ranges[index]}" if key in recipe.series else ""
            faults.append(
                Fault(
                    f"{key}_*.tif",
                    f"lies {offset.south * reference} m south and {offset.east * reference} m east of "
                    f"Sentinel-2{when}, by correlation over {alignment.count} chips",
                    warning=True,
                )
            )
    return faults


def _check_zip(files: Files, recipe: Recipe | None) -> list[Fault]:
    """Compare a zip, byte for byte, with the one that its files, or the folder beside it, make."""
    if isinstance(files, ZipFiles):
        folder, name, root = files.folder, files.name, files.root.rstrip("/")
    elif isinstance(files, FolderFiles) and recipe is not None:
        url = files.folder.url.rstrip("/").rpartition("/")[0] or "."
        folder, root = Folder(url, files.folder.options), f"{recipe.name}_{recipe.version}"
        name = f"{root}.zip"
        if not folder.exists(name):
            return []
    else:
        return []
    order = [SUMS_NAME, *(one for one in files.names() if one != SUMS_NAME)]
    try:
        with folder.open(name) as archive:
            same = zip_equals(archive, zip_chunks(root, order, files.read))
    except (OSError, ValueError):  # a name that a zip cannot hold is a ValueError
        same = False
    what = "its own files" if isinstance(files, ZipFiles) else "the folder's files"
    return [] if same else [Fault(name, f"is not, byte for byte, the zip that {what} make")]
