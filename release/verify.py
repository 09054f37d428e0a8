"""Check a release, whole: every file, name, field, date, raster and count. For anyone who holds one."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import logging
import math
import multiprocessing
import os
import re
import sys
import threading
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow as pa
import rasterio
import shapely
from affine import Affine
from numpy.typing import NDArray
from PIL import Image
from pyproj import Transformer
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader, MemoryFile

from cube.sensors import CLASS_COLORS, CLASS_NAMES, SENSORS
from cube.storage import Folder

from .alignment import Alignment, edges, surface
from .card import CARD_NAME
from .catalogs import CATALOG_NAME, COLLECTION_NAME, CROISSANT_NAME, ITEMS_NAME
from .errors import ReleaseError
from .package import SUMS_NAME, FolderFiles, ZipFiles, open_files, parse_sums, sha256, zip_chunks, zip_equals
from .recipe import RECIPE_NAME, Recipe, SensorLayout, parse_recipe
from .report import REPORT_NAME
from .select import dates_fit, drop_counts, split
from .tracker import (
    CSV_NAME,
    GELOS_FIELDS,
    GEOJSON_NAME,
    OUR_FIELDS,
    PARQUET_NAME,
    read_tracker,
    series_name,
    static_name,
    to_csv,
)

__all__ = ["Fault", "verify"]

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
_CHIP_NAME = re.compile(r"_(\d{6,})(_\d{8})?\.(tif|png)$")
_DATE = re.compile(r"(?<!\d)((?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01]))(?!\d)")


@dataclass(frozen=True, slots=True, order=True)
class Fault:
    """Something that is wrong with a release."""

    file: str
    """The file it is in."""
    message: str
    warning: bool = False
    """True for what deserves a look and may yet be right."""

    def __str__(self) -> str:
        """Return the fault as one line."""
        return f"{'warning: ' if self.warning else ''}{self.file}: {self.message}"


@dataclass(frozen=True, slots=True)
class _ChipTask:
    """The files of one chip with their checksums, and what the tracker says of it, if it does."""

    files: tuple[tuple[str, str], ...]
    row: Mapping[str, Any] | None


@dataclass
class _Findings:
    faults: list[Fault] = field(default_factory=list)
    alignments: dict[tuple[str, int], Alignment] = field(default_factory=dict)

    def merge(self, other: _Findings) -> None:
        self.faults.extend(other.faults)
        for key, alignment in other.alignments.items():
            self.alignments.setdefault(key, Alignment()).merge(alignment)


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
    except ReleaseError as error:
        if "not a zip" not in str(error):
            raise
        return [Fault(Path(str(path)).name, "is not a zip that can be read")]
    names = files.names()
    if SUMS_NAME not in names:
        return [Fault(SUMS_NAME, "is missing: this is no release, or not all of it")]
    try:
        faults, sums = _check_sums(files.read(SUMS_NAME), names)
    except OSError as error:
        return sorted({Fault(SUMS_NAME, str(error)), *_check_zip(files, names, None)})
    documents, wrong = _read_documents(files, sums)
    faults += wrong
    damaged = {fault.file for fault in faults}
    recipe, wrong = _read_recipe(documents, damaged)
    faults += wrong
    table, wrong = _read_tables(documents, damaged)
    faults += wrong
    rows: dict[int, dict[str, Any]] = {}
    if recipe is not None and table is not None:
        wrong = [Fault(GEOJSON_NAME, text) for text in _table_problems(table, recipe)]
        faults += wrong
        table = None if wrong else table
    if recipe is not None and table is not None:
        faults += _check_rows(table, recipe)
        faults += _check_balance(table, recipe)
        faults += _check_catalogs(documents, table, recipe, {fault.file for fault in faults})
        faults += _check_names(table, recipe, sums, names)
        rows = _sound_rows(table, recipe)
    findings = _check_chips(path, files, _tasks(sums, names, rows), recipe, workers)
    faults += findings.faults
    faults += _check_alignment(findings.alignments, recipe)
    faults += _check_zip(files, names, recipe)
    return sorted(set(faults))


def _check_sums(data: bytes, names: Sequence[str]) -> tuple[list[Fault], dict[str, str]]:
    sums, wrong = parse_sums(data)
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


def _read_documents(
    files: FolderFiles | ZipFiles, sums: Mapping[str, str]
) -> tuple[dict[str, bytes], list[Fault]]:
    """Read and checksum what is no chip's file."""
    documents, faults = {}, []
    for name in (name for name in sums if not _CHIP_NAME.search(name)):
        try:
            documents[name] = files.read(name)
        except FileNotFoundError:
            continue
        except OSError as error:
            faults.append(Fault(name, str(error)))
            continue
        if sha256(documents[name]) != sums[name]:
            faults.append(Fault(name, _SUM_DIFFERS))
    return documents, faults


_SUM_DIFFERS = f"its sha256 is not the one in {SUMS_NAME}"


def _read_recipe(documents: Mapping[str, bytes], damaged: set[str]) -> tuple[Recipe | None, list[Fault]]:
    """Return what the release was made with, unless the file that says so is not to be believed."""
    if RECIPE_NAME not in documents or RECIPE_NAME in damaged:
        return None, []
    try:
        return parse_recipe(documents[RECIPE_NAME]), []
    except ReleaseError as error:
        return None, [Fault(RECIPE_NAME, str(error).removeprefix(f"{RECIPE_NAME}: "))]


def _read_tables(
    documents: Mapping[str, bytes], damaged: set[str]
) -> tuple[gpd.GeoDataFrame | None, list[Fault]]:
    """Return the tracker from whichever of its files is sound, and where the others differ."""
    tables: dict[str, gpd.GeoDataFrame] = {}
    faults = []
    readers = {GEOJSON_NAME: read_tracker, PARQUET_NAME: _read_parquet}
    for name, reader in readers.items():
        if name in documents and name not in damaged:
            try:
                tables[name] = reader(documents[name])
            except (
                ValueError,
                KeyError,
                TypeError,
                OSError,
                pa.ArrowException,
                shapely.errors.GEOSException,
            ) as error:
                faults.append(Fault(name, f"cannot be read ({_first_line(error)})"))
    texts = {name: to_csv(table) for name, table in tables.items()}
    if CSV_NAME in documents and CSV_NAME not in damaged:
        texts[CSV_NAME] = documents[CSV_NAME]
    names = list(texts)
    faults += [Fault(n, f"differs from {names[0]}") for n in names[1:] if texts[n] != texts[names[0]]]
    return next(iter(tables.values()), None), faults


def _read_parquet(data: bytes) -> gpd.GeoDataFrame:
    return gpd.read_parquet(io.BytesIO(data))


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _check_rows(table: gpd.GeoDataFrame, recipe: Recipe) -> list[Fault]:
    wrong = _split_problems(table, recipe)
    for row, shape in zip(table.to_dict("records"), table.geometry, strict=True):
        wrong += [f"chip {row['id']}: {text}" for text in _row_problems(row, shape, recipe)]
    return [Fault(GEOJSON_NAME, text) for text in wrong]


def _sound_rows(table: gpd.GeoDataFrame, recipe: Recipe) -> dict[int, dict[str, Any]]:
    """Rows, by id, whose dates are such that rasters can be compared with them."""
    return {
        int(row["id"]): row
        for row in table.drop(columns="geometry").to_dict("records")
        if all(dates_fit(row[f"{key}_dates"], recipe.ranges) for key in recipe.series)
    }


def _table_problems(table: gpd.GeoDataFrame, recipe: Recipe) -> Iterator[str]:
    expected = [*GELOS_FIELDS, *OUR_FIELDS]
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
    classes = {str(code) for code in recipe.config["chips"]["classes"]}
    if unknown := sorted(set(table["lulc"]) - classes):
        yield f"class {unknown[0]} is not among those kept"


def _is_kind(value: object, kind: str) -> bool:
    if kind == "text":
        return isinstance(value, str)
    number = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    return number or (kind == "number" and isinstance(value, float) and math.isfinite(value))


def _row_problems(row: Mapping[str, Any], shape: Any, recipe: Recipe) -> Iterator[str]:
    if row["status"] != "success":
        yield f"status is {row['status']!r}"
    if row["cell"] != f"{row['epsg']}_{row['left_m']}_{row['top_m']}":
        yield f"cell {row['cell']} is not its epsg, left_m and top_m"
    code = int(row["lulc"])
    if (row["category"], row["color"]) != (CLASS_NAMES[code], CLASS_COLORS.get(code, "")):
        yield f"category {row['category']!r} or color {row['color']!r} is not that of class {code}"
    for key in SENSORS:
        yield from _sensor_problems(row, key, recipe)
    yield from _place_problems(row, shape, recipe)


def _sensor_problems(row: Mapping[str, Any], key: str, recipe: Recipe) -> Iterator[str]:
    is_static = SENSORS[key].is_static
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
    if SENSORS[key].is_static:
        return {"tif": [static_name(key, row["id"])], "png": []}
    prefix = recipe.config["release"]["thumbnail_url"].rstrip("/")
    start = f"{prefix}/" if prefix else ""
    dates = row[f"{key}_dates"].split(",")
    return {
        "tif": [series_name(key, row["id"], date, "tif") for date in dates],
        "png": [start + series_name(key, row["id"], date, "png") for date in dates],
    }


def _place_problems(row: Mapping[str, Any], shape: Any, recipe: Recipe) -> Iterator[str]:
    try:
        to_lonlat = _to_lonlat(int(row["epsg"]))
    except (ValueError, RuntimeError):
        yield f"epsg {row['epsg']} is no CRS"
        return
    left, top = row["left_m"] - recipe.margin_m, row["top_m"] + recipe.margin_m
    right, bottom = left + recipe.chip_size, top - recipe.chip_size
    lon, lat = to_lonlat.transform((left + right) / 2, (bottom + top) / 2)
    if max(abs(lon - row["lon"]), abs(lat - row["lat"])) > _FOOTPRINT_TOLERANCE_DEG:
        yield f"lat, lon {row['lat']}, {row['lon']} are not the chip's centre {lat:.6f}, {lon:.6f}"
    corners = [to_lonlat.transform(x, y) for x, y in itertools.product((left, right), (bottom, top))]
    found = shapely.get_coordinates(shape)
    distances = np.abs(np.array(corners)[:, None, :] - found[None, :, :]).max(axis=2)
    if (
        not len(found)
        or max(distances.min(axis=0).max(), distances.min(axis=1).max()) > _FOOTPRINT_TOLERANCE_DEG
    ):
        yield "its footprint is not the chip's square"


_TRANSFORMERS: dict[int, Transformer] = {}


def _to_lonlat(epsg: int) -> Transformer:
    if epsg not in _TRANSFORMERS:
        _TRANSFORMERS[epsg] = Transformer.from_crs(epsg, 4326, always_xy=True)
    return _TRANSFORMERS[epsg]


def _split_problems(table: gpd.GeoDataFrame, recipe: Recipe) -> list[str]:
    settings = recipe.config["release"]
    if not settings["splits"]:
        return [f"chip {i}: has a split, but none were made" for i in table.loc[table["split"] != "", "id"]]
    boxes = pd.DataFrame(table.drop(columns="geometry")).assign(
        left_m=table["left_m"] - recipe.margin_m,
        top_m=table["top_m"] + recipe.margin_m,
        lulc=table["lulc"].astype(int),
    )
    again = split(boxes, settings["splits"], settings["block_m"], recipe.chip_size, settings["seed"])
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


def _check_catalogs(
    documents: Mapping[str, bytes], table: gpd.GeoDataFrame, recipe: Recipe, damaged: set[str]
) -> list[Fault]:
    faults = []
    if ITEMS_NAME in documents and ITEMS_NAME not in damaged:
        wanted = [f"{recipe.name}-{recipe.version}-{chip_id:06}" for chip_id in table["id"]]
        try:
            ids = gpd.read_parquet(io.BytesIO(documents[ITEMS_NAME]), columns=["id", "geometry"])[
                "id"
            ].tolist()
        except (ValueError, KeyError, OSError, pa.ArrowException) as error:
            faults.append(Fault(ITEMS_NAME, f"cannot be read ({_first_line(error)})"))
        else:
            faults += [Fault(ITEMS_NAME, "its items are not the tracker's chips")] if ids != wanted else []
    if CROISSANT_NAME in documents and CROISSANT_NAME not in damaged:
        faults += _croissant_faults(documents)
    return faults


def _croissant_faults(documents: Mapping[str, bytes]) -> list[Fault]:
    try:
        parts = json.loads(documents[CROISSANT_NAME])["distribution"]
        sums = {part["contentUrl"]: part["sha256"] for part in parts if "sha256" in part}
    except (ValueError, KeyError, TypeError) as error:
        return [Fault(CROISSANT_NAME, f"cannot be read ({_first_line(error)})")]
    return [
        Fault(CROISSANT_NAME, f"gives another sha256 of {name}")
        for name, digest in sums.items()
        if name in documents and sha256(documents[name]) != digest
    ]


def _check_names(
    table: gpd.GeoDataFrame, recipe: Recipe, sums: Mapping[str, str], names: Sequence[str]
) -> list[Fault]:
    """Compare the files there are with those that the tracker's rows stand for."""
    expected = {*_DOCUMENTS, *_OPTIONAL, SUMS_NAME}
    for row in table.drop(columns="geometry").to_dict("records"):
        for key in recipe.layout:
            dates = [""] if SENSORS[key].is_static else str(row[f"{key}_dates"]).split(",")
            for date in dates:
                if date:
                    expected.update(series_name(key, row["id"], date, suffix) for suffix in ("tif", "png"))
                else:
                    expected.add(static_name(key, row["id"]))
    known = {*sums, SUMS_NAME}
    faults = [
        Fault(name, "is missing, though the tracker stands for it")
        for name in expected - known - set(names) - {*_DOCUMENTS, *_OPTIONAL}
    ]
    return faults + [Fault(name, "belongs to no chip of the tracker") for name in known - expected]


def _tasks(
    sums: Mapping[str, str], names: Sequence[str], rows: Mapping[int, Mapping[str, Any]]
) -> list[_ChipTask]:
    there = set(names)
    groups: dict[int, list[tuple[str, str]]] = defaultdict(list)
    for name in sorted(sums):
        match = _CHIP_NAME.search(name)
        if match and name in there:
            groups[int(match[1])].append((name, sums[name]))
    return [_ChipTask(tuple(group), rows.get(chip_id)) for chip_id, group in sorted(groups.items())]


_worker: tuple[FolderFiles | ZipFiles, Recipe | None]
"""What a worker process reads from."""


def _start_worker(path: str | Path | Folder, recipe: Recipe | None) -> None:
    """Open the release once per process."""
    global _worker  # noqa: PLW0603  a worker's own
    logging.getLogger("rasterio").setLevel(logging.CRITICAL)  # what GDAL finds, the faults say
    _worker = open_files(path), recipe


def _check_batch(batch: Sequence[_ChipTask]) -> _Findings:
    return _check_tasks(batch, *_worker)


def _check_tasks(
    tasks: Sequence[_ChipTask], files: FolderFiles | ZipFiles, recipe: Recipe | None
) -> _Findings:
    findings = _Findings()
    # once: rasterio sets GDAL up again for every file otherwise
    with rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="EMPTY_DIR"), np.errstate(all="ignore"):
        for task in tasks:
            findings.merge(_check_chip(task, files, recipe))
    return findings


def _check_chips(
    path: str | Path | Folder,
    files: FolderFiles | ZipFiles,
    tasks: Sequence[_ChipTask],
    recipe: Recipe | None,
    workers: int | None,
) -> _Findings:
    if workers is None:
        workers = min(os.cpu_count() or 1, 1 + len(tasks) // _CHIPS_PER_WORKER)
    if workers <= 1:
        return _check_tasks(tasks, files, recipe)
    try:
        return _check_parallel(path, tasks, recipe, workers)
    except BrokenProcessPool:  # a worker was killed, or could not start: slower, but it gets done
        return _check_tasks(tasks, files, recipe)


def _check_parallel(
    path: str | Path | Folder, tasks: Sequence[_ChipTask], recipe: Recipe | None, workers: int
) -> _Findings:
    findings = _Findings()
    batches = [tasks[i : i + _CHIPS_PER_TASK] for i in range(0, len(tasks), _CHIPS_PER_TASK)]
    # A fork needs no guard in the caller's script and starts at once, but must not be made beside running threads.
    may_fork = threading.active_count() == 1 and "fork" in multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("fork" if may_fork else "spawn")
    with (
        warnings.catch_warnings(),
        ProcessPoolExecutor(workers, context, _start_worker, (path, recipe)) as pool,
    ):
        # Idle threads of numerical libraries, which they take care of themselves.
        warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
        for part in pool.map(_check_batch, batches):
            findings.merge(part)
    return findings


def _check_chip(task: _ChipTask, files: FolderFiles | ZipFiles, recipe: Recipe | None) -> _Findings:
    findings = _Findings()
    pixels: dict[tuple[str, int], NDArray[Any]] = {}
    for name, digest in task.files:
        try:
            data = files.read(name)
        except OSError as error:
            findings.faults.append(Fault(name, str(error)))
            continue
        wrong = [_SUM_DIFFERS] if sha256(data) != digest else []
        if task.row is not None and recipe is not None:
            raster = _Raster.of(name, task.row, recipe)
            with _quiet() if wrong else contextlib.nullcontext():
                found, values = _file_problems(name, data, raster, task.row, recipe)
            wrong += found
            if raster is not None and values is not None and not wrong:
                pixels[raster.sensor, raster.index] = values
        if wrong:
            findings.faults.append(Fault(name, "; ".join(wrong)))
    if recipe is not None:
        _align(pixels, recipe, findings)
    return findings


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Let nobody hear what rasterio cannot raise: it stumbles over GDAL's messages about damaged files."""
    hook = sys.unraisablehook
    sys.unraisablehook = lambda _: None
    try:
        yield
    finally:
        sys.unraisablehook = hook


@dataclass(frozen=True, slots=True)
class _Raster:
    """What a chip's raster or picture shows, by its name."""

    sensor: str
    index: int
    """Of the time range; 0 for a layer without dates."""

    @classmethod
    def of(cls, name: str, row: Mapping[str, Any], recipe: Recipe) -> _Raster | None:
        """Read a file's name; None where the tracker's row knows no such file."""
        sensor, _, rest = name.partition("_")
        if sensor not in recipe.layout:
            return None
        dates = [""] if SENSORS[sensor].is_static else row[f"{sensor}_dates"].split(",")
        date = rest.rpartition(".")[0].partition("_")[2]
        return cls(sensor, dates.index(date)) if date in dates else None


def _file_problems(
    name: str, data: bytes, what: _Raster | None, row: Mapping[str, Any], recipe: Recipe
) -> tuple[list[str], NDArray[Any] | None]:
    """Say what is wrong with a file, and return a raster's pixels where they can be read."""
    if what is None:
        return [], None
    if name.endswith(".png"):
        return _picture_problems(data, recipe.layout[what.sensor]), None
    try:
        with warnings.catch_warnings(), MemoryFile(data) as memory, memory.open(driver="GTiff") as raster:
            warnings.simplefilter("ignore", NotGeoreferencedWarning)  # _grid_problems says so
            wrong = _grid_problems(raster, row, recipe, recipe.layout[what.sensor])
            wrong += _origin_problems(raster, what, row)
            if wrong:
                return wrong, None
            values: NDArray[Any] = raster.read()
    except (RasterioError, ValueError):
        return ["is not a raster that can be read"], None
    return _value_problems(values, what, row, recipe), values


def _picture_problems(data: bytes, layout: SensorLayout) -> list[str]:
    try:
        with Image.open(io.BytesIO(data)) as picture:
            picture.load()
            kind, size = picture.format, picture.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return ["is not a picture that can be read"]
    if (kind, size) != ("PNG", (layout.thumbnail_px, layout.thumbnail_px)):
        return [f"is {kind} of {size[0]} x {size[1]} px, expected PNG of {layout.thumbnail_px} px a side"]
    return []


def _grid_problems(
    raster: DatasetReader, row: Mapping[str, Any], recipe: Recipe, layout: SensorLayout
) -> list[str]:
    left, top = row["left_m"] - recipe.margin_m, row["top_m"] + recipe.margin_m
    step = layout.resolution
    epsg = raster.crs.to_epsg() if raster.crs else None
    pairs = {
        "CRS": (epsg, row["epsg"]),
        "size": ((raster.width, raster.height), (layout.size_px, layout.size_px)),
        "place": (tuple(raster.transform)[:6], tuple(Affine(step, 0, left, 0, -step, top))[:6]),
        "bands": (tuple(raster.descriptions), layout.bands),
        "dtype": (set(raster.dtypes), {layout.dtype}),
        "nodata": (_nodata_text(raster.nodata), _nodata_text(layout.nodata)),
    }
    return [
        f"{what} is {found}, expected {wanted}" for what, (found, wanted) in pairs.items() if found != wanted
    ]


def _nodata_text(value: float | None) -> str:
    return "none" if value is None else f"{value:g}"


def _origin_problems(raster: DatasetReader, what: _Raster, row: Mapping[str, Any]) -> list[str]:
    """Compare a raster's own date and scenes, where it names them, with the tracker's."""
    key, index = what.sensor, what.index
    tags, wrong = raster.tags(), []
    scenes = row[f"{key}_scene_ids"].split(",")
    if "scene_ids" in tags and (len(scenes) <= index or tags["scene_ids"] != scenes[index]):
        wrong.append(f"was made from {tags['scene_ids']}, the tracker says {','.join(scenes)}")
    if not SENSORS[key].is_static and "datetime" in tags:
        found, date = tags["datetime"][:10].replace("-", ""), row[f"{key}_dates"].split(",")[index]
        wrong += [f"was acquired on {found}, not on {date}"] if found != date else []
    return wrong


def _value_problems(values: NDArray[Any], what: _Raster, row: Mapping[str, Any], recipe: Recipe) -> list[str]:
    key, layout = what.sensor, recipe.layout[what.sensor]
    missing = layout.is_nodata(values).any(axis=0)
    valid = 1 - float(missing.mean())
    if key == "lulc":
        return _class_problems(values[0], row, recipe)
    wrong = []
    if valid < layout.min_valid[what.index] - 1e-9:
        wrong.append(f"{1 - valid:.1%} of it has no data")
    flat_water = key == "dem" and CLASS_NAMES[int(row["lulc"])] == "Water"
    seen = values[:, ~missing]
    if not flat_water and (seen.size == 0 or not (seen != seen[:, :1]).any()):
        value = f"{seen[0, 0]:g}" if seen.size else "no data"
        wrong.append(f"is black or constant ({value})")
    return wrong


def _class_problems(codes: NDArray[Any], row: Mapping[str, Any], recipe: Recipe) -> list[str]:
    """Measure majority class and purity again, over the sample window."""
    layout, chips = recipe.layout["lulc"], recipe.config["chips"]
    margin, side = recipe.margin_m // layout.resolution, recipe.sample_size // layout.resolution
    window = codes[margin : margin + side, margin : margin + side]
    counts = Counter(window.ravel().tolist())
    code, most = int(row["lulc"]), max(counts.values())
    purity = counts[code] / window.size
    wrong = []
    if counts[code] < most:
        wrong.append(f"its majority class is {max(counts, key=lambda c: counts[c])}, the tracker says {code}")
    if abs(purity - row["purity"]) > 0.5 / window.size + 1e-12:
        wrong.append(f"its purity is {purity:.4f}, the tracker says {row['purity']:.4f}")
    if purity < chips["min_purity"] - 1e-12:
        wrong.append(f"its purity {purity:.4f} is below {chips['min_purity']}")
    if forbidden := sorted(set(counts) & set(chips["forbidden"])):
        wrong.append(f"holds class {forbidden[0]}, which is forbidden")
    return wrong


def _align(pixels: Mapping[tuple[str, int], NDArray[Any]], recipe: Recipe, findings: _Findings) -> None:
    """Correlate each image with the Sentinel-2 image of its time range, and those with the first."""
    if "s2l2a" not in recipe.layout:
        return
    size = recipe.layout["s2l2a"].size_px
    images = {
        (key, index): edges(_contrast(key, values), size)
        for (key, index), values in pixels.items()
        if key != "dem" and size % values.shape[-1] == 0
    }
    for (key, index), image in sorted(images.items()):
        partner = ("s2l2a", 0 if key == "s2l2a" else index)
        if partner == (key, index) or partner not in images:
            continue
        found = surface(images[partner], image)
        if found is not None:
            findings.alignments.setdefault((key, index), Alignment()).add(found)


def _contrast(key: str, values: NDArray[Any]) -> NDArray[Any]:
    """Radar in decibels, everything else as it is."""
    if key != "s1rtc":
        return values
    return np.log10(np.maximum(values.astype(np.float64), 1e-4))


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


def _check_zip(files: FolderFiles | ZipFiles, names: Sequence[str], recipe: Recipe | None) -> list[Fault]:
    """Compare a zip, byte for byte, with the one that its files, or the folder beside it, make."""
    order = [SUMS_NAME, *(name for name in names if name != SUMS_NAME)]
    if isinstance(files, ZipFiles):
        folder, name, root = files.folder, files.name, files.root.rstrip("/")
    elif recipe is not None:
        url = files.folder.url.rstrip("/").rpartition("/")[0] or "."
        folder, root = Folder(url, files.folder.options), f"{recipe.name}_{recipe.version}"
        name = f"{root}.zip"
        if not folder.exists(name):
            return []
    else:
        return []
    try:
        with folder.open(name) as archive:
            same = zip_equals(archive, zip_chunks(root, order, files.read))
    except OSError:
        same = False
    what = "its own files" if isinstance(files, ZipFiles) else "the folder's files"
    return [] if same else [Fault(name, f"is not, byte for byte, the zip that {what} make")]
