"""The config: one YAML file describes a dataset version whole.

Everything a user can set is a field here, with its default and its limits; the table of keys in the
docs is made from these fields. Text becomes typed, frozen values once, in
:func:`load_config`; nothing else parses settings.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import date
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, Self, cast

from pydantic import (
    BeforeValidator,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from cube.errors import ConfigError
from cube.html.pieces import html_facts, html_sections, html_table
from cube.redaction import unsigned_record

from .extra_sensors import SensorRow, sensor_rows
from .fields import (
    LATTICE_M,
    SHARED_FOLDERS,
    FolderName,
    IndexList,
    Metres,
    Section,
    Share,
    Shares,
    Thresholds,
    TimeRange,
    number_to_text,
    one_or_many,
)
from .paths import PathText
from .profiles import DEFAULT_PROFILE, PROFILES, Profile, Signer, Source, find_profile
from .sensor_models import LandCoverConfig, SensorConfig, Sentinel2Config, SeriesConfig
from .sensors import SENSORS, SensorTable, class_codes
from .shipped import CONFIGS


class DatasetConfig(Section):
    """What the dataset is called, and which version of it this is."""

    version: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    """Version of the dataset; names the folders under working and output."""
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] = "gelos-lc"
    """Name of the dataset; the zip is called {name}_{version}.zip."""
    published: date | None = None
    """Day of publication, YYYY-MM-DD, for catalogs of datasets; none says nothing."""

    @field_validator("version")
    @classmethod
    def _is_free(cls, value: str) -> str:
        if value in SHARED_FOLDERS:
            msg = f"{value!r} is the name of a folder that versions share; call the version otherwise"
            raise ValueError(msg)
        return value


class Extent(StrEnum):
    """How much of an AOI a cube covers."""

    OVERLAP = "overlap"
    AOI = "aoi"


class AoiConfig(Section):
    """Which AOIs are covered, and how far a cube reaches around them."""

    version: str = ""
    """map_{version}.geojson is looked for beside the config, in configs/aois, data/ and
    data/raw/."""
    path: PathText = ""
    """A file of polygons (GeoJSON, GeoPackage, GeoParquet, Shapefile, FlatGeobuf, KML; any CRS),
    relative to the config file; wins over aoi.version."""
    include_indices: IndexList = ()
    """Only these AOIs (empty: all)."""
    exclude_indices: IndexList = ()
    """Not these AOIs."""
    extent: Extent = Extent.OVERLAP
    """overlap: all that the chosen scenes share; aoi: the AOI's bounding box."""
    max_side_m: Metres | None = None
    """Caps an overlap extent, centred on the AOI, metres."""
    clip: Literal["none", "centre", "whole"] = "none"
    """centre, whole: only chips whose centre, or all of which, lies in the AOI's polygon."""
    fetch: Literal["all", "candidates"] = "all"
    """candidates: land cover is read first, and imagery only where a window could be chosen."""
    candidate_purity: Share | None = None
    """Purity that fetch: candidates asks of a window (chips.min_purity where empty)."""

    @model_validator(mode="after")
    def _named(self) -> Self:
        if not self.version and not self.path:
            msg = "give aoi.version (a map_{version}.geojson) or aoi.path (a file of polygons)"
            raise ValueError(msg)
        return self


class DirectoryConfig(Section):
    """Where things go: folders, relative to where the program runs, or object-store URLs."""

    working: FolderName
    """Cubes, scores and chips."""
    output: FolderName
    """Releases."""
    zip_output: bool = True
    """Also write {name}_{version}.zip of the release."""
    storage_options: dict[str, Any] = {}
    """fsspec options of an object store, such as endpoint_url."""


class CatalogConfig(Section):
    """Where scenes are searched."""

    profile: str = DEFAULT_PROFILE
    """The service: planetary-computer, earth-search, cdse, or one of the config's profiles."""
    url: PathText = ""
    """A STAC API, or the path of a STAC ItemCollection (.json) or stac-geoparquet (.parquet),
    relative to the config (empty: the profile's API)."""
    sign: Signer | None = None
    """Who signs hrefs before they are read: planetary-computer or none (empty: as the profile
    says)."""
    cache: PathText = ""
    """A folder where answers are kept, so that a rerun asks nothing twice."""
    timeout_s: Annotated[float, Field(gt=0)] = 60
    """Seconds before a search request is given up, and tried again."""
    retries: Annotated[int, Field(ge=0)] = 8
    """Further tries of a search request that failed in passing (timeouts, resets, 429, 5xx)."""
    retry_budget_s: Annotated[float, Field(gt=0)] = 900
    """Seconds after which a failing search is given up whatever tries are left."""
    retry_wait_s: Annotated[float, Field(gt=0)] = 0.5
    """Longest wait before a search is tried a second time, seconds; it doubles with each try."""
    retry_longest_wait_s: Annotated[float, Field(gt=0)] = 60
    """No wait between two tries of a search is longer, seconds."""
    page_size: Annotated[int, Field(gt=0, le=1000)] = 250
    """Items asked for per page; fewer are asked for where the service times out (504)."""
    searches: Annotated[int, Field(gt=0, le=32)] = 4
    """Searches at once; the Planetary Computer answers 100 a second and address."""
    exclude_items: Annotated[tuple[str, ...], BeforeValidator(one_or_many)] = ()
    """Ids of items that are no candidates, whatever the catalog says of them."""


class StoreConfig(Section):
    """How cubes lie on disk; nothing here changes a pixel, or what is made of them."""

    shards: Literal["none", "block"] = "none"
    """block: the chunks of a block are one file (sharded Zarr), a tenth of the objects; GDAL before
    3.13 cannot read it. A cube that is there keeps its form."""


class ChipsConfig(Section):
    """Which windows become chips, and how they are written."""

    sample_size: Metres = LATTICE_M
    """Side of the window whose land cover is judged, metres."""
    chip_size: Metres = LATTICE_M
    """Side of the chip around it, metres."""
    stride: Metres | None = None
    """Distance of windows, metres (empty: sample_size)."""
    min_purity: Share = 1.0
    """Share of the sample window's pixels in its majority class."""
    classes: Annotated[tuple[Annotated[int, Field(ge=1, le=11)], ...], BeforeValidator(class_codes)] = (
        1,
        2,
        5,
        7,
        8,
        11,
    )
    """Majority classes kept, by code or name (water, trees, crops ...)."""
    forbidden: Annotated[tuple[Annotated[int, Field(ge=0, le=11)], ...], BeforeValidator(class_codes)] = (
        0,
        4,
        9,
        10,
    )
    """A window with a single such pixel is rejected; codes or names."""
    max_per_class: Annotated[int, Field(ge=1)] | None = 400
    """Most chips of a class and AOI (empty: no cap)."""
    min_clear: Thresholds = {"s2l2a": 1.0, "lc2l2": 0.95}
    """Clear share per optical date within the sample window; by sensor, and by time range if a
    list."""
    min_valid: Thresholds = 1.0
    """Valid share per sensor and date within the whole chip; by sensor, and by time range if a
    list."""
    compress: Literal["deflate", "zstd", "none"] = "deflate"
    """Compression of the GeoTIFFs."""
    masks: bool = False
    """true: the mask bands (SCL, qa_pixel) follow the others in the chips' GeoTIFFs, unchanged."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.chip_size < self.sample_size:
            msg = f"chips.chip_size {self.chip_size} is smaller than chips.sample_size {self.sample_size}"
            raise ValueError(msg)
        if both := sorted(set(self.classes) & set(self.forbidden)):
            msg = f"chips.classes and chips.forbidden both name {', '.join(map(str, both))}; drop it from one"
            raise ValueError(msg)
        return self

    @property
    def stride_m(self) -> int:
        """Distance of windows, metres."""
        return self.stride or self.sample_size

    @property
    def margin_m(self) -> int:
        """Context around the sample window on each side, metres."""
        return (self.chip_size - self.sample_size) // 2

    def threshold(self, which: Literal["min_clear", "min_valid"], sensor: str, index: int) -> float:
        """Return the share asked of a sensor at its time range `index` (0 without dates)."""
        value: Shares | Mapping[str, Shares] = getattr(self, which)
        if isinstance(value, Mapping):
            default = type(self).model_fields[which].default
            value = value.get(sensor, default.get(sensor, 1.0) if isinstance(default, dict) else default)
        return value[index] if isinstance(value, tuple) else value


class ReleaseConfig(Section):
    """How a release is chosen, split and packed."""

    seed: int = 0
    """Seed of every choice by lot."""
    thumbnail_url: str = ""
    """Prefix put before thumbnail names; empty: relative paths."""
    splits: dict[str, Share] | None = None
    """Such as {train: .8, val: .1, test: .1}, by spatial block; empty: none."""
    block_m: Metres = 10 * LATTICE_M
    """Side of a split's spatial block, metres."""
    shard_chips: Annotated[int, Field(ge=1)] | None = None
    """The files of each so many chips lie in a folder of their own, with checksums and a zip of its
    own (empty: none up to 10,000 chips, 1000 above)."""
    allow_missing_classes: bool = False
    """Without it, a kept class without chips is an error where lulc.sampling_factor asks for
    balance; true: a warning, as where nothing is balanced."""

    @field_validator("splits")
    @classmethod
    def _sum_to_one(cls, value: dict[str, float] | None) -> dict[str, float] | None:
        if value is not None and abs(sum(value.values()) - 1) > 1e-6:
            msg = f"release.splits add up to {sum(value.values()):g}, not to 1"
            raise ValueError(msg)
        if value is not None and "none" in value:
            msg = "release.splits names a split 'none'; chips without a split are called that, so rename it"
            raise ValueError(msg)
        return value


class ComputeConfig(Section):
    """What the work runs on; nothing here changes a byte of what is made."""

    workers: Annotated[int, Field(ge=0)] | None = None
    """Worker processes (empty: one per two cores, once threads of this process have worked for half
    a minute; 0: these alone)."""
    threads: Annotated[int, Field(ge=1)] | None = None
    """Threads per worker (empty: 4, since reads wait on the network; of this process two per
    core)."""
    memory_limit: Annotated[str, BeforeValidator(number_to_text)] = "auto"
    """Memory limit per worker, as Dask writes it."""
    scheduler: str = ""
    """Address of a running Dask scheduler."""
    max_connections: Annotated[int, Field(ge=1)] = 16
    """Reads that one process has open at once."""
    read_retries: Annotated[int, Field(ge=0)] = 8
    """Further tries of a read that failed in passing, before its block fails."""
    retry_wait_s: Annotated[float, Field(gt=0)] = 0.5
    """Longest wait before a read is tried a second time, seconds; it doubles with each try."""
    retry_longest_wait_s: Annotated[float, Field(gt=0)] = 60
    """No wait between two tries of a read is longer, seconds."""

    @field_validator("memory_limit")
    @classmethod
    def _is_memory(cls, value: str) -> str:
        if value == "auto":
            return value
        from dask.utils import parse_bytes

        try:
            known = value.strip() != "" and parse_bytes(value) >= 0
        except ValueError:
            known = False
        if not known:
            msg = f"found {value!r}; expected auto, a size such as 4GiB, or a share of the memory such as 0.5"
            raise ValueError(msg)
        return value


class Config(Section):
    """Everything that a config says of a dataset version."""

    dataset: DatasetConfig
    aoi: AoiConfig
    directory: DirectoryConfig
    log_errors: bool = True
    """Write the reasons of failures into a log file in the working folder."""
    profiles: dict[str, Profile] = {}
    """Further catalog profiles, by name (docs/catalogs.md)."""
    catalog: Annotated[CatalogConfig, Field(validate_default=True)] = CatalogConfig()
    extra_sensors: dict[str, SensorRow] = {}
    """Further rows of the sensor table, by key; each key is then a section like the built-in
    sensors' (docs/add-a-sensor.md)."""
    sensors: dict[str, SensorConfig] = Field(default_factory=dict, exclude=False)
    store: StoreConfig = StoreConfig()
    chips: ChipsConfig = ChipsConfig()
    release: ReleaseConfig = ReleaseConfig()
    compute: ComputeConfig = ComputeConfig()
    path: Path = Path()
    """The file that this config was read from."""

    @field_validator("catalog")
    @classmethod
    def _complete(cls, catalog: CatalogConfig, info: ValidationInfo) -> CatalogConfig:
        """Fill in what the catalog's profile says."""
        profile = find_profile(catalog.profile, info.data.get("profiles", {}))
        given = {"url": catalog.url or profile.url, "sign": catalog.sign or profile.sign}
        return catalog.model_copy(update=given)

    def source(self, key: str) -> Source:
        """Return where a sensor's scenes are found: in its own catalog, or in the config's.

        Raises
        ------
        ConfigError
            If a profile cannot be made of what the config says.
        """
        named, catalog = self.sensors[key].catalog, self.catalog
        is_profile = named is not None and (named in PROFILES or named in self.profiles)
        name = named if named is not None and is_profile else catalog.profile
        profile = find_profile(name, self.profiles)
        url, sign = (profile.url, profile.sign) if is_profile else (named or catalog.url, catalog.sign)
        return Source(
            name, url, sign or "none", profile.page_size, profile.sensor(key), is_offered=profile.offers(key)
        )

    @cached_property
    def table(self) -> SensorTable:
        """The sensor table: the built-in rows, and this config's own after them."""
        return SENSORS.extended(sensor_rows(self.extra_sensors))

    def _repr_html_(self) -> str:
        """Return the settings, section by section; storage options, which may be keys, hidden."""
        names = {"aoi", "directory", "catalog", "store", "chips", "release", "compute"}
        dumped = unsigned_record(self.model_dump(mode="json", include=names))
        dumped |= {key: unsigned_record(one.model_dump(mode="json")) for key, one in self.sensors.items()}
        if options := dumped["directory"].get("storage_options"):
            dumped["directory"]["storage_options"] = f"{', '.join(options)} (hidden)"
        tables = {name: html_table(["key", "value"], values.items()) for name, values in dumped.items()}
        facts = {"sensors": len(self.sensors), "time ranges": len(self.ranges)}
        title = html_facts(f"{self.dataset.name} {self.dataset.version}", facts)
        return title + html_sections(tables, opened=0)

    @property
    def ranges(self) -> tuple[TimeRange, ...]:
        """Time ranges of the series sensors."""
        for settings in self.sensors.values():
            if isinstance(settings, SeriesConfig) and settings.time_ranges:
                return tuple(TimeRange.parse(text) for text in settings.time_ranges)
        return ()

    @property
    def series(self) -> tuple[str, ...]:
        """Keys of the configured sensors with dates, in table order."""
        return tuple(key for key in self.sensors if not self.table[key].is_static)

    def bands(self, key: str) -> tuple[str, ...]:
        """Return a cube's bands of a sensor: those wanted and its cloud band, in table order."""
        bands = self.table[key].bands
        wanted = set(self.sensors[key].bands or (band.name for band in bands))
        rule = self.sensors[key].cloud_rule
        return tuple(b.name for b in bands if b.name in wanted or (rule and b.name == rule.band))

    def chip_bands(self, key: str) -> tuple[str, ...]:
        """Return the bands that a sensor's chips hold, masks at the end if they are wanted."""
        return self.table[key].exported(self.bands(key), masks=self.chips.masks)

    def harmonizes(self, key: str) -> bool:
        """Tell whether the +1000 offset of processing baseline 04.00 is taken off a sensor's DN."""
        settings = self.sensors[key]
        is_wanted = isinstance(settings, Sentinel2Config) and settings.harmonize
        return is_wanted and self.table[key].baseline_offset

    @property
    def land_cover(self) -> LandCoverConfig:
        """The land cover's section, which no config lacks."""
        return cast("LandCoverConfig", self.sensors["lulc"])

    @property
    def aoi_path(self) -> Path:
        """The AOI file.

        Raises
        ------
        ConfigError
            If it is nowhere; names the places tried.
        """
        if self.aoi.path:
            places = [self.path.parent / name for name in _spellings(self.aoi.path)]
        else:
            name = f"map_{self.aoi.version}.geojson"
            places = [
                self.path.parent / name,
                self.path.parent / "aois" / name,
                CONFIGS / "aois" / name,
                Path("configs/aois") / name,
                Path("data") / name,
                Path("data/raw") / name,
            ]
        for place in places:
            if os.path.isfile(place):  # noqa: PTH113  to a name that no file can have it says no
                return place
        tried = ", ".join(dict.fromkeys(str(place) for place in places))
        key = "aoi.path" if self.aoi.path else "aoi.version"
        near = next((found for place in places if (found := _other_case(place))), None)
        hint = f"; there is {near}, and here upper and lower case are different names" if near else ""
        raise ConfigError(f"{self.path}: {key}: the AOI file is nowhere; tried {tried}{hint}")


def _spellings(path: str) -> list[str]:
    """Return a path, and what it would be if it was written on Windows."""
    return list(dict.fromkeys([path, path.replace("\\", "/")]))


def _other_case(place: Path) -> Path | None:
    """Return a file that is called like a place but for upper and lower case."""
    if not place.parent.is_dir():
        return None
    return next((one for one in place.parent.iterdir() if one.name.lower() == place.name.lower()), None)
