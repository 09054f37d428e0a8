"""The verb: from chips and their metadata to a release folder and its zip."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import geopandas as gpd
import pandas as pd
from numpy.typing import NDArray

from chipping.records import CHIP_METADATA
from cube.config.models import Config
from cube.errors import ConfigError, DiskFullError, StoreError
from cube.run.layout import EXPORTING, Layout
from cube.run.lock import hold
from cube.run.status import AOI_METADATA
from cube.run.storage import DiskFolder, Folder, check_writable, open_folder

from .card import CARD_NAME, make_card
from .catalogs import make_catalogs
from .chosen import READ_THREADS, ChosenChips, find_chips
from .loading.rasters import decode_raster
from .opening.checksums import SUMS_NAME, format_sums, sha256
from .opening.faults import UNREADABLE, ReleaseError
from .opening.table import to_parquet
from .opening.zips import zip_chunks, zip_equals
from .recipe import RECIPE_NAME, RasterSpec, Recipe, make_recipe, raster_spec_of, settings_of
from .report import REPORT_NAME, Thumbnails, make_report
from .select import Selection, select
from .statistics import STATISTICS_NAME, ChipMoments, Tally, counted_rows, statistics_split
from .tracker import CSV_NAME, GEOJSON_NAME, PARQUET_NAME, read_metadata, to_csv, to_geojson, tracker_table

if TYPE_CHECKING:
    from chipping.chip import OnProgress

AOIS_NAME = "aois.geojson"
_AOI_FACTS = (
    "aoi_index",
    "name",
    "id",
    "status",
    "reason",
    "epsg",
    "width_m",
    "height_m",
    "chips",
    "lost",
)
"""What a release says of an AOI: what became of it, not how many tries it took."""


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


def make_release(
    config: Config, *, force: bool = False, progress: OnProgress | None = None
) -> ReleaseSummary:
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
    working = Layout.of(config).root
    output = open_folder(config.directory.output, config.directory.storage_options)
    selection, measures = _choose_chips(working, config)
    chips = find_chips(working / "chips", selection, config)
    output.make()
    with hold(output):
        output.sweep()
        contents = _make_contents(working, measures, selection, chips)
        written = _write_release(output, contents, force=force, progress=progress)
        fingerprint = sha256((output / config.dataset.version).read(SUMS_NAME))
    return _summary(output, selection, config, fingerprint, written=written)


def check_output(config: Config, *, force: bool) -> None:
    """See that the output can be written to, and that this version is free or of these settings.

    Raises
    ------
    ConfigError
        If the folder or bucket cannot be written to; names the key.
    ReleaseError
        If a release of other settings has this version, or files that are no release, and `force`
        does not replace it.
    """
    output = open_folder(config.directory.output, config.directory.storage_options)
    try:
        output.make()
        check_writable(output)
    except DiskFullError:
        raise
    except StoreError as error:
        raise ConfigError(f"{config.path}: directory.output: {error}") from None
    release = output / config.dataset.version
    if release.exists(SUMS_NAME):
        difference = _difference(release, config)
        if difference and not force:
            raise ReleaseError(
                f"{release}: a release of other settings has this version ({difference}); set another "
                "dataset.version, or give --force to replace it"
            )
    elif release.names():
        _check_is_release(release, ())


def _difference(release: Folder, config: Config) -> str:
    """Return the first setting in which a release differs from a config; empty if none does."""
    try:
        there = json.loads(release.read(RECIPE_NAME))["config"]
        found = dict(_flat(there))
    except (FileNotFoundError, *UNREADABLE):
        return f"its {RECIPE_NAME} cannot be read"
    wanted = dict(_flat(json.loads(json.dumps(settings_of(config)))))
    for key in sorted(found.keys() | wanted.keys()):
        if found.get(key) != wanted.get(key):
            return f"{key} is {found.get(key)} there, {wanted.get(key)} here"
    return ""


def _flat(settings: Any, prefix: str = "") -> Any:
    """Yield dotted keys and values of nested settings."""
    for key, value in settings.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


_MEASURES = ("purity", "clear", "valid")


def _measures_of(windows: pd.DataFrame) -> pd.DataFrame:
    """Return the columns of all windows that the report draws: purity and shares."""
    return windows[[name for name in windows.columns if any(word in name for word in _MEASURES)]].copy()


def _choose_chips(working: Folder, config: Config) -> tuple[Selection, pd.DataFrame]:
    """Choose the chips, and keep the measures of every window, for the report."""
    windows = _read_windows(working, config)
    return select(windows, config), _measures_of(windows)


def _read_windows(working: Folder, config: Config) -> gpd.GeoDataFrame:
    if working.exists(EXPORTING):
        raise ReleaseError(f"{working}: its chips are unfinished; run gelos-lc chip to the end")
    try:
        with working.open(CHIP_METADATA) as file:
            return read_metadata(file, config.table)
    except FileNotFoundError:
        raise ReleaseError(f"{working}/{CHIP_METADATA}: not there; run gelos-lc chip first") from None
    except ReleaseError as error:
        raise ReleaseError(f"{working}/{error}") from None


def _make_contents(
    working: Folder, measures: pd.DataFrame, selection: Selection, chips: ChosenChips
) -> _Contents:
    """Make every file of the release that is no chip's, but those that its pixels are read for."""
    tracker = tracker_table(selection.chips, chips.config)
    recipe = make_recipe(chips.config, _raster_specs(chips), selection.before)
    documents = {
        GEOJSON_NAME: to_geojson(tracker),
        CSV_NAME: to_csv(tracker),
        PARQUET_NAME: to_parquet(tracker),
    }
    documents |= make_catalogs(tracker, recipe, _sums_of(documents))
    documents |= {RECIPE_NAME: recipe.to_json(), CARD_NAME: make_card(selection, tracker, recipe)}
    aois = _read_aois(working) if working.exists(AOI_METADATA) else None
    if aois is not None:
        documents[AOIS_NAME] = _aois_geojson(aois)
    names = sorted([*documents, SUMS_NAME, STATISTICS_NAME])
    thumbnails = Thumbnails(chips.read_target)
    report = make_report(selection, tracker, measures, aois, recipe, thumbnails, names)
    return _Contents(chips, documents | {REPORT_NAME: report}, recipe)


def _sums_of(documents: Mapping[str, bytes]) -> dict[str, str]:
    return {name: sha256(data) for name, data in documents.items()}


def _raster_specs(chips: ChosenChips) -> dict[str, RasterSpec]:
    """Say what each sensor's rasters are: all are what the first chip's are."""
    specs, sources = {}, chips.sources(0)
    for key in chips.config.sensors:
        own = [source for source in sources if source.name.partition(".")[0].partition("_")[0] == key]
        raster = next(source for source in own if source.name.endswith(".tif"))
        pictures = [chips.read(source) for source in own if source.name.endswith(".png")]
        where = f"{chips.folder}/{raster.cell}/{raster.name}"
        picture = pictures[0] if pictures else None
        specs[key] = raster_spec_of(key, chips.read(raster), picture, chips.config, where)
    return specs


def _read_aois(working: Folder) -> dict[str, Any]:
    """Return the AOIs and what became of them, without what differs between two such runs."""
    try:
        features = [
            {
                "type": "Feature",
                "properties": {
                    name: value
                    for name in _AOI_FACTS
                    if (value := one["properties"].get(name, "")) != "" or name == "reason"
                },
                "geometry": one["geometry"],
            }
            for one in json.loads(working.read(AOI_METADATA))["features"]
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise ReleaseError(f"{working}/{AOI_METADATA}: cannot be read ({error})") from None
    return {"type": "FeatureCollection", "features": features}


def _aois_geojson(collection: Mapping[str, Any]) -> bytes:
    lines = ",\n".join(json.dumps(one, ensure_ascii=False) for one in collection["features"])
    return f'{{"type": "FeatureCollection", "features": [\n{lines}\n]}}\n'.encode()


@dataclass(frozen=True)
class _Contents:
    """What a release is to hold."""

    chips: ChosenChips
    documents: Mapping[str, bytes]
    """The files that are no chip's, by name; but statistics, which follow from the chips."""
    recipe: Recipe

    @cached_property
    def sums(self) -> dict[str, str]:
        """SHA-256 by name of every file but SHA256SUMS and statistics."""
        return {**self.chips.sums, **_sums_of(self.documents)}

    def format_sums(self, statistics: bytes) -> bytes:
        """Write SHA256SUMS."""
        return format_sums({**self.sums, STATISTICS_NAME: sha256(statistics)})

    @property
    def names(self) -> list[str]:
        """All files but SHA256SUMS, sorted."""
        return sorted([*self.sums, STATISTICS_NAME])


def _write_release(output: Folder, contents: _Contents, *, force: bool, progress: OnProgress | None) -> bool:
    """Write folder and zip where they are not there yet; tell whether one was written."""
    config = contents.chips.config
    release, archive = output / config.dataset.version, _zip_name(config)
    found = _is_there(release, contents)
    if found is False:
        _check_is_release(release, contents.names)
        if not force:
            raise ReleaseError(
                f"{release}: a different release of this version is there; give --force to replace it"
            )
        output.remove(archive)  # it is the zip of the other
    if not found:
        _write_folder(output, contents, progress)
    zip_written = config.directory.zip_output and _write_zip(output, archive, release, contents, force=force)
    return not found or zip_written


def _is_there(release: Folder, contents: _Contents) -> bool | None:
    """Tell whether this very release is there (True), a different one (False), or none (None)."""
    names = set(release.files())
    if not names:
        return None
    if names != {SUMS_NAME, *contents.names}:
        return False
    if release.read(SUMS_NAME) != contents.format_sums(release.read(STATISTICS_NAME)):
        return False

    def is_whole(name: str) -> bool:
        return sha256(release.read(name)) == contents.sums[name]

    with ThreadPoolExecutor(READ_THREADS) as pool:
        return all(pool.map(is_whole, contents.sums))


def _check_is_release(release: Folder, names: Collection[str]) -> None:
    """Refuse to take a folder for a release, and so to replace it, that is none.

    An object store may hold files of this release without SHA256SUMS: those of a run that was
    stopped.
    """
    if release.exists(SUMS_NAME) or (
        not isinstance(release, DiskFolder) and set(names).issuperset(release.files())
    ):
        return
    raise ReleaseError(
        f"{release}: holds files, but no {SUMS_NAME}: it is no release, and is not replaced; "
        "move it away, or set another directory.output"
    )


def _write_folder(output: Folder, contents: _Contents, progress: OnProgress | None) -> None:
    """Fill the release folder; it appears whole."""
    chips, version = contents.chips, contents.chips.config.dataset.version
    count = len(chips.table)
    tally = Tally(contents.recipe, statistics_split(chips.table["split"]))
    is_counted = counted_rows(chips.table)
    with output.staged(version, SUMS_NAME) as put, ThreadPoolExecutor(READ_THREADS) as pool:

        def copy_chip(row: int) -> ChipMoments | None:
            rasters: dict[str, list[NDArray[Any]]] = {}
            for source in chips.sources(row):
                data = chips.read(source)
                put(source.target, data)
                if is_counted[row] and source.target.endswith(".tif"):
                    key = source.target.partition("_")[0]
                    pixels = decode_raster(source.target, data, contents.recipe.rasters[key])
                    rasters.setdefault(key, []).append(pixels)
            return tally.count(rasters) if rasters else None

        for done, moments in enumerate(pool.map(copy_chip, range(count)), start=1):
            if moments is not None:
                tally.add(moments)
            if progress is not None:
                progress("chips", done, count)
        statistics = tally.to_json()
        for name, data in {**contents.documents, STATISTICS_NAME: statistics}.items():
            put(name, data)
        put(SUMS_NAME, contents.format_sums(statistics))


def _zip_name(config: Config) -> str:
    return f"{config.dataset.name}_{config.dataset.version}.zip"


def _write_zip(output: Folder, archive: str, release: Folder, contents: _Contents, *, force: bool) -> bool:
    """Zip the release folder, unless the very same zip is there; tell whether it was written."""
    chunks = _zip_of(release, contents)
    if output.exists(archive):
        with output.open(archive) as there:
            if zip_equals(there, chunks):
                return False
        if not force:
            raise ReleaseError(f"{output}/{archive}: differs from {release}; give --force to replace it")
        chunks = _zip_of(release, contents)
    with output.stream(archive) as file:
        for chunk in chunks:
            file.write(chunk)
    return True


def _zip_of(release: Folder, contents: _Contents) -> Iterator[bytes]:
    """Yield the bytes of a release folder's zip."""
    dataset = contents.chips.config.dataset
    return zip_chunks(f"{dataset.name}_{dataset.version}", contents.names, release.read)


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
