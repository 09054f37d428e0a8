"""The verb: from chips and their metadata to a release folder and its zip."""

from __future__ import annotations

import contextlib
import itertools
import json
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

import geopandas as gpd
import pandas as pd

from chipping.export import CHIP_SEAL
from chipping.records import CHIP_METADATA
from cube.config.models import Config
from cube.run.layout import EXPORTING, Layout
from cube.run.lock import hold
from cube.run.status import AOI_METADATA
from cube.run.storage import STAGING_PREFIX, Folder, disk_errors
from cube.windows.lattice import WindowGeometry

from .card import CARD_NAME, make_card
from .catalogs import make_catalogs
from .opening.checksums import SUMS_NAME, format_sums, is_digest, sha256, sha256_of
from .opening.faults import ReleaseError
from .opening.files import FolderFiles
from .opening.table import to_parquet
from .opening.zips import zip_chunks, zip_equals
from .recipe import RECIPE_NAME, Recipe, layout_of, make_recipe
from .report import REPORT_NAME, Thumbnails, make_report, measures_of
from .select import Selection, select
from .tracker import (
    CSV_NAME,
    GEOJSON_NAME,
    PARQUET_NAME,
    chip_files,
    read_metadata,
    to_csv,
    to_geojson,
    tracker_table,
)

__all__ = ["AOIS_NAME", "Progress", "ReleaseSummary", "make_release"]

AOIS_NAME = "aois.geojson"
_AOI_FACTS = ("aoi_index", "status", "reason", "epsg", "width_m", "height_m", "chips")
"""What a release says of an AOI: what became of it, not how many tries it took."""
_READ_THREADS = 8
_BATCH = 16
"""Chips, or files, in flight at once."""

Item = TypeVar("Item")

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how many are done, and how many there are."""


@dataclass(frozen=True)
class ReleaseSummary:
    """What :func:`make_release` made or found."""

    folder: str
    zip: str
    """Path of the zip; empty without ``directory.zip_output``."""
    written: bool
    """False where an identical release was there and was left as it is."""
    chips: int
    before: Mapping[int, int]
    """Chips per class before balancing."""
    after: Mapping[int, int]
    """Chips per class."""
    splits: Mapping[str, int]
    """Chips per split; empty without splits."""
    funnel: tuple[tuple[str, int], ...]
    """Windows that are not in the release, by reason."""
    warnings: tuple[str, ...]
    fingerprint: str
    """SHA-256 of SHA256SUMS: equal for equal releases."""


class _Source(NamedTuple):
    """A file of a chip in the working folder, and its name in the release."""

    cell: str
    name: str
    target: str


@dataclass(frozen=True)
class _Chips:
    """The files of the chosen chips, of which only checksums are held."""

    folder: Folder
    table: pd.DataFrame
    """Such as :attr:`release.select.Selection.chips`."""
    config: Config
    sums: Mapping[str, str] = field(default_factory=dict)
    """By name in the release, as ``chip.json`` gives it; in the end, of every file of the
    release."""

    def sources(self, row: int) -> list[_Source]:
        """Name the files of the chip in a row of the table (which is its id)."""
        chip = self.row(row)
        return [_Source(chip["cell"], *names) for names in chip_files(chip, self.config).items()]

    def row(self, row: int) -> dict[str, Any]:
        """Return a row of the table."""
        return {str(name): value for name, value in self.table.iloc[row].items()}

    def read(self, source: _Source) -> bytes:
        """Read a file, and check that it is what chip.json says."""
        folder = self.folder / source.cell
        try:
            data = folder.read(source.name)
        except FileNotFoundError:
            raise ReleaseError(f"chip {source.cell}: {source.name} is missing; run chip.py again") from None
        if sha256(data) != self.sums[source.target]:
            raise ReleaseError(
                f"chip {source.cell}: {source.name} is not what its chip.json says; remove the folder "
                f"{folder} and run chip.py again"
            )
        return data

    def read_target(self, target: str) -> bytes:
        """Read a file by its name in the release."""
        row = int(target.split("_")[1].partition(".")[0])
        return self.read(next(source for source in self.sources(row) if source.target == target))


def make_release(config: Config, *, force: bool = False, progress: Progress | None = None) -> ReleaseSummary:
    """Clean, balance, split, number, describe and package the chips of a dataset version.

    Parameters
    ----------
    config
        The dataset version; its chips are in ``{directory.working}/{version}``.
    force
        Replace a different release of this version.
    progress
        Called with what is being done, how many are done, and how many there are.

    Returns
    -------
    ReleaseSummary
        What is in ``{directory.output}/{version}`` now.

    Raises
    ------
    ReleaseError
        If the chips do not allow the release, or a different one of this version is there.
    """
    working, output = _folders(config)
    selection, measures = _choose(working, config)
    chips = _find_chips(working / "chips", selection, config)
    output.make()
    with hold(output):
        output.sweep()
        with _document_folder(output) as documents:
            _describe(working, measures, selection, chips, documents)
            chips = replace(chips, sums={**chips.sums, **documents.sums})
            paths = tuple(documents.folder / name for name in documents.sums)
            plan = _Plan(chips, paths, sha256(format_sums(chips.sums)))
            written = _write(output, plan, force=force, progress=progress)
    return _summary(output, selection, config, plan.fingerprint, written=written)


@dataclass
class _DocumentFolder:
    """Every file of a release that is no chip's, kept on disk: together they are larger than the table."""

    folder: Path
    sums: dict[str, str] = field(default_factory=dict)

    def add(self, name: str, pieces: Iterable[bytes]) -> None:
        """Write a file piece by piece."""
        path = self.folder / name
        with disk_errors(str(path)), path.open("wb") as file:
            self.sums[name] = sha256_of(_written(file, pieces))


def _written(file: IO[bytes], pieces: Iterable[bytes]) -> Iterator[bytes]:
    for piece in pieces:
        file.write(piece)
        yield piece


@contextlib.contextmanager
def _document_folder(output: Folder) -> Iterator[_DocumentFolder]:
    """Keep documents beside the release to be, where the next run sweeps what a killed one leaves."""
    place = output.path if output.is_local else None
    with tempfile.TemporaryDirectory(prefix=STAGING_PREFIX, dir=place) as folder:
        yield _DocumentFolder(Path(folder))


@dataclass(frozen=True)
class _Plan:
    """What a release is to hold."""

    chips: _Chips
    documents: tuple[Path, ...]
    """The files that are no chip's."""
    fingerprint: str
    """SHA-256 of SHA256SUMS."""

    @property
    def names(self) -> list[str]:
        """All files but ``SHA256SUMS``, sorted."""
        return sorted(self.chips.sums)


def _choose(working: Folder, config: Config) -> tuple[Selection, pd.DataFrame]:
    """Choose the chips, and keep the measures of every window, for the report."""
    windows = _read_windows(working, config)
    return select(windows, config), measures_of(windows)


def _write(output: Folder, plan: _Plan, *, force: bool, progress: Progress | None) -> bool:
    """Write folder and zip where they are not there yet; return True where something was written."""
    config = plan.chips.config
    release, archive = output / config.dataset.version, _zip_name(config)
    found = _is_there(release, plan)
    if found is False:
        _check_is_release(release, plan.names)
        if not force:
            raise ReleaseError(
                f"{release}: a different release of this version is there; give --force to replace it"
            )
        output.remove(archive)  # it is the zip of the other
    if not found:
        _write_folder(output, plan, progress)
    zip_written = config.directory.zip_output and _write_zip(output, archive, release, plan, force=force)
    return not found or zip_written


def _folders(config: Config) -> tuple[Folder, Folder]:
    output = Folder(config.directory.output, config.directory.storage_options)
    return Layout.of(config).root, output


def _read_windows(working: Folder, config: Config) -> gpd.GeoDataFrame:
    if working.exists(EXPORTING):
        raise ReleaseError(f"{working}: its chips are unfinished; run chip.py to the end")
    try:
        with working.open(CHIP_METADATA) as file:
            return read_metadata(file, config.table)
    except FileNotFoundError:
        raise ReleaseError(f"{working}/{CHIP_METADATA}: not there; run chip.py first") from None
    except ReleaseError as error:
        raise ReleaseError(f"{working}/{error}") from None


def _find_chips(folder: Folder, selection: Selection, config: Config) -> _Chips:
    """Find every file of every chip, with the checksum that its ``chip.json`` gives."""
    chips = _Chips(folder, selection.chips, config)

    def find(row: int) -> list[tuple[str, str]]:
        chip, sources = chips.row(row), chips.sources(row)
        cell = str(chip["cell"])
        own = folder / cell
        there = set(own.names())
        for name in (CHIP_SEAL, *(source.name for source in sources)):
            if name not in there:
                raise ReleaseError(f"chip {cell}: {own}/{name} is missing; run chip.py again")
        record = _read_seal(own, cell)
        _check_seal(record, chip, config)
        digests = {source.name: str(record["files"].get(source.name)) for source in sources}
        if unknown := [name for name, digest in digests.items() if not is_digest(digest)]:
            raise ReleaseError(f"chip {cell}: chip.json has no sha256 of {unknown[0]}; run chip.py again")
        return [(source.target, digests[source.name]) for source in sources]

    with ThreadPoolExecutor(_READ_THREADS) as pool:
        batches = (pool.map(find, batch) for batch in _batches(range(len(selection.chips))))
        pairs = itertools.chain.from_iterable(itertools.chain.from_iterable(batches))
        return replace(chips, sums=dict(pairs))


def _read_seal(folder: Folder, cell: str) -> dict[str, Any]:
    try:
        record = json.loads(folder.read(CHIP_SEAL))
        return {name: record[name] for name in ("cell", "bounds")} | {
            "files": dict(record["files"]),
            "dates": {key: ",".join(sensor["dates"]) for key, sensor in record["sensors"].items()},
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ReleaseError(
            f"chip {cell}: {folder}/chip.json cannot be read ({error}); run chip.py again"
        ) from None


def _check_seal(record: Mapping[str, Any], chip: Mapping[str, Any], config: Config) -> None:
    """Check that a chip is the one that its row of the table tells of."""
    box = WindowGeometry.from_config(config.chips).bounds("chip", int(chip["left_m"]), int(chip["top_m"]))
    facts = [
        ("cell", record["cell"], chip["cell"]),
        ("bounds", record["bounds"], [box.left, box.bottom, box.right, box.top]),
        *((f"{key} dates", record["dates"].get(key), chip[f"{key}_dates"]) for key in config.series),
    ]
    for what, found, expected in facts:
        if found != expected:
            raise ReleaseError(
                f"chip {chip['cell']}: its chip.json has {what} {found}, and {CHIP_METADATA} {expected}; "
                "run chip.py again"
            )


def _recipe(chips: _Chips, selection: Selection) -> Recipe:
    layout, sources = {}, chips.sources(0)
    for key in chips.config.sensors:
        own = [source for source in sources if source.name.partition(".")[0].partition("_")[0] == key]
        raster = next(source for source in own if source.name.endswith(".tif"))
        pictures = [chips.read(source) for source in own if source.name.endswith(".png")]
        where = f"{chips.folder}/{raster.cell}/{raster.name}"
        picture = pictures[0] if pictures else None
        layout[key] = layout_of(key, chips.read(raster), picture, chips.config, where)
    return make_recipe(chips.config, layout, selection.before)


def _describe(
    working: Folder,
    measures: pd.DataFrame,
    selection: Selection,
    chips: _Chips,
    documents: _DocumentFolder,
) -> None:
    """Make every file of the release that is no chip's."""
    tracker, recipe = tracker_table(selection.chips, chips.config), _recipe(chips, selection)
    documents.add(GEOJSON_NAME, to_geojson(tracker))
    documents.add(CSV_NAME, to_csv(tracker))
    documents.add(PARQUET_NAME, [to_parquet(tracker)])
    documents.add(RECIPE_NAME, [recipe.to_json()])
    aois = None
    if working.exists(AOI_METADATA):
        aois = _aois(working)
        documents.add(AOIS_NAME, [_geojson(aois)])
    for name, data in make_catalogs(tracker, recipe, documents.sums, documents.folder).items():
        documents.add(name, [data])
    documents.add(CARD_NAME, [make_card(selection, tracker, recipe)])
    names = sorted([*documents.sums, SUMS_NAME])
    thumbnails = Thumbnails(chips.read_target)
    documents.add(REPORT_NAME, [make_report(selection, tracker, measures, aois, recipe, thumbnails, names)])


def _aois(working: Folder) -> dict[str, Any]:
    """Return the AOIs and what became of them, without what differs between two runs of the same outcome."""
    try:
        features = [
            {
                "type": "Feature",
                "properties": {
                    name: one["properties"][name] for name in _AOI_FACTS if name in one["properties"]
                },
                "geometry": one["geometry"],
            }
            for one in json.loads(working.read(AOI_METADATA))["features"]
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise ReleaseError(f"{working}/{AOI_METADATA}: cannot be read ({error})") from None
    return {"type": "FeatureCollection", "features": features}


def _geojson(collection: Mapping[str, Any]) -> bytes:
    lines = ",\n".join(json.dumps(one, ensure_ascii=False) for one in collection["features"])
    return f'{{"type": "FeatureCollection", "features": [\n{lines}\n]}}\n'.encode()


def _is_there(release: Folder, plan: _Plan) -> bool | None:
    """Tell whether this very release is there (True), a different one (False), or none (None)."""
    names = set(release.files())
    if not names:
        return None
    if names != {SUMS_NAME, *plan.names}:
        return False
    if sha256(release.read(SUMS_NAME)) != plan.fingerprint:
        return False

    def is_whole(name: str) -> bool:
        return sha256(release.read(name)) == plan.chips.sums[name]

    with ThreadPoolExecutor(_READ_THREADS) as pool:
        return all(all(pool.map(is_whole, batch)) for batch in _batches(plan.names))


def _check_is_release(release: Folder, names: Collection[str]) -> None:
    """Refuse to take a folder for a release, and so to replace it, that is none.

    An object store may hold the files of this release without their seal: those of a run that was
    stopped.
    """
    if release.exists(SUMS_NAME) or (not release.is_local and set(names).issuperset(release.files())):
        return
    raise ReleaseError(
        f"{release}: holds files, but no {SUMS_NAME}: it is no release, and is not replaced; "
        "move it away, or set another directory.output"
    )


def _write_folder(output: Folder, plan: _Plan, progress: Progress | None) -> None:
    """Fill the release folder; it appears whole."""
    chips = plan.chips
    rows = range(len(chips.table))
    with (
        output.staged(chips.config.dataset.version, SUMS_NAME) as put,
        ThreadPoolExecutor(_READ_THREADS) as pool,
    ):
        for batch in _batches(rows):
            sources = [source for row in batch for source in chips.sources(row)]
            for source, data in zip(sources, pool.map(chips.read, sources), strict=True):
                put(source.target, data)
            if progress is not None:
                progress("chips", batch[-1] + 1, len(rows))
        for path in plan.documents:
            put(path.name, path.read_bytes())
        put(SUMS_NAME, format_sums(chips.sums))


def _batches(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Cut work into pieces, so that no more than one of them is in memory."""
    rest = iter(items)
    while batch := list(itertools.islice(rest, _BATCH)):
        yield batch


def _zip_name(config: Config) -> str:
    return f"{config.dataset.name}_{config.dataset.version}.zip"


def _write_zip(output: Folder, archive: str, release: Folder, plan: _Plan, *, force: bool) -> bool:
    """Zip the release folder, unless the very same zip is there.

    Returns
    -------
    bool
        True where a zip was written.
    """
    chunks = _zip_of(release, plan)
    if output.exists(archive):
        with output.open(archive) as there:
            if zip_equals(there, chunks):
                return False
        if not force:
            raise ReleaseError(f"{output}/{archive}: differs from {release}; give --force to replace it")
        chunks = _zip_of(release, plan)
    with output.stream(archive) as file:
        for chunk in chunks:
            file.write(chunk)
    return True


def _zip_of(release: Folder, plan: _Plan) -> Iterator[bytes]:
    """Yield the bytes of a release folder's zip."""
    dataset = plan.chips.config.dataset
    return zip_chunks(f"{dataset.name}_{dataset.version}", plan.names, FolderFiles(release).read)


def _summary(
    output: Folder, selection: Selection, config: Config, fingerprint: str, *, written: bool
) -> ReleaseSummary:
    splits = selection.chips["split"].value_counts().to_dict() if config.release.splits else {}
    return ReleaseSummary(
        folder=str(output / config.dataset.version),
        zip=f"{output}/{_zip_name(config)}" if config.directory.zip_output else "",
        written=written,
        chips=len(selection.chips),
        before=selection.before,
        after=selection.after,
        splits={str(name): int(count) for name, count in sorted(splits.items())},
        funnel=selection.funnel,
        warnings=selection.warnings,
        fingerprint=fingerprint,
    )
