"""Checks between the sections of a config, and against the sensor table."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath, PurePosixPath

import numpy as np

from .fields import LATTICE_M, PC_STAC_URL, SHARED_FOLDERS, TimeRange
from .models import Config
from .profiles import DEFAULT_PROFILE
from .sensor_models import PeriodConfig, SensorConfig, Sentinel2Config, SeriesConfig
from .sensors import BandKind, ChoiceRule, MaskRule, Sensor

LULC_YEARS = range(2017, 2024)
"""Of the Planetary Computer's land cover, version 2."""
_LARGEST_DN = 65_535
"""Of a reflectance band; 0 is nodata."""
_MASK_KINDS = {MaskRule.CODES: BandKind.CLASSES, MaskRule.BITS: BandKind.FLAGS}


def problems_of(config: Config) -> Iterator[str]:
    """Yield what is wrong between the sections of a config, a line each."""
    yield from _sensor_section_problems(config)
    yield from _year_problems(config)
    yield from _profile_problems(config)
    yield from _size_problems(config)
    yield from _threshold_problems(config)
    yield from _folder_problems(config)


def _sensor_section_problems(config: Config) -> Iterator[str]:
    if "lulc" not in config.sensors:
        yield "section lulc is missing: chips are chosen by land cover"
    if config.series and not config.ranges:
        yield f"{config.series[0]}.time_ranges is missing: a date is chosen per time range"
    for key, settings in config.sensors.items():
        yield from _band_problems(config, key, settings)
        yield from _number_problems(config.table[key], settings)
        yield from _mask_problems(config, key, settings)
        if settings.native_crs and config.table[key].choice is not ChoiceRule.TILE:
            yield f"{key}.native_crs: true is possible for s2l2a alone; a cube has one CRS, Sentinel-2's"
        given = settings.time_ranges if isinstance(settings, SeriesConfig) else ()
        if given and tuple(map(TimeRange.parse, given)) != config.ranges:
            yield f"{key}.time_ranges differ from the other sensors'; give them once, under s2l2a"


def _profile_problems(config: Config) -> Iterator[str]:
    for name, profile in config.profiles.items():
        for key, sensor in (profile.sensors or {}).items():
            if key not in config.table:
                yield f"profiles.{name}.sensors.{key} is no sensor; there are {', '.join(config.table)}"
                continue
            bands = [band.name for band in config.table[key].bands]
            if unknown := [band for band in sensor.assets if band not in bands]:
                title = config.table[key].title
                yield (
                    f"profiles.{name}.sensors.{key}.assets: {unknown[0]!r} is not a band of {title}; "
                    f"it has {', '.join(bands)}"
                )
    for key in config.sensors:
        source = config.source(key)
        if not source.url:
            yield f"profiles.{source.profile}.url is missing: {key} is searched there"
        elif source.is_api and not source.is_offered:
            yield (
                f"{key}: the profile {source.profile} has no {config.table[key].title}; set "
                f"{key}.catalog to one that has, such as {DEFAULT_PROFILE}, or leave {key} out"
            )


def _band_problems(config: Config, key: str, settings: SensorConfig) -> Iterator[str]:
    sensor = config.table[key]
    names = [band.name for band in sensor.bands]
    for band in settings.bands:
        if band not in names:
            yield f"{key}.bands: {band!r} is not a band of {sensor.title}; it has {', '.join(names)}"
    if settings.bands and not sensor.exported(settings.bands):
        yield f"{key}.bands: {', '.join(settings.bands)} is a mask, and masks are not exported; add a band"
    rule = settings.cloud_rule
    masks = [band.name for band in sensor.bands if band.kind is _MASK_KINDS.get(sensor.mask)]
    if rule and rule.band not in masks:
        there = ", ".join(masks) or f"none, since its row says mask: {sensor.mask}"
        yield f"{key}.cloud_band: {rule.band!r} is not a mask of {sensor.title}; it has {there}"
    elif rule:
        last = 8 * sensor.band(rule.band).np_dtype.itemsize - 1
        if beyond := [bit for bit in rule.cloudy_bits if bit > last]:
            yield f"{key}.cloud_bits: {rule.band} has bits 0 to {last}, found {beyond[0]}"
    ranked = isinstance(settings, Sentinel2Config) and settings.rank == "aoi"
    if ranked and not set(masks) & set(config.bands(key)):
        yield f"{key}.rank: aoi needs {key}.cloud_band: {masks[0]}"


def _mask_problems(config: Config, key: str, settings: SensorConfig) -> Iterator[str]:
    """Find masks that chips are to hold, and cannot."""
    for name in filter(config.table[key].is_mask, config.chip_bands(key)):
        stored = config.table[key].band(name).np_dtype
        if not np.can_cast(stored, settings.dtype):
            yield (
                f"{key}.dtype: {settings.dtype} cannot hold every number of {name} ({stored}), which "
                f"chips.masks asks for; set {key}.dtype: float32, or chips.masks: false"
            )


def _number_problems(sensor: Sensor, settings: SensorConfig) -> Iterator[str]:
    """Find exported numbers that would not mean what they say."""
    key, kinds = sensor.key, {band.kind for band in sensor.bands}
    if np.dtype(settings.dtype).kind not in "iu":
        return
    if BandKind.BACKSCATTER in kinds:
        yield f"{key}.dtype {settings.dtype} would turn linear power, mostly below 1, into 0; use float32 or float64"
    if BandKind.REFLECTANCE in kinds and settings.fill_na and 1 <= settings.na_value <= _LARGEST_DN:
        yield (
            f"{key}.na_value {settings.na_value:g} is a valid number of {key}; "
            f"use 0 or one below, or above {_LARGEST_DN}"
        )


def _year_problems(config: Config) -> Iterator[str]:
    """Tell of years that a collection does not have, before it is searched in vain."""
    for key, settings in config.sensors.items():
        years, collection = config.table[key].years, config.table[key].collection
        if years is None or settings.collection != collection or not isinstance(settings, PeriodConfig):
            continue
        if config.source(key).url != PC_STAC_URL:  # who knows what another catalog has
            continue
        (first, last), period = years, TimeRange.parse(settings.year)
        if period.start.year > last or period.end.year < first:
            yield (
                f"{key}.year {settings.year}: {settings.collection} has the years {first} to {last}; "
                "give a period within them"
            )


def _folder_problems(config: Config) -> Iterator[str]:
    version = config.dataset.version
    working, release = config.directory.working, _place(f"{config.directory.output}/{version}")
    for cubes in (_place(f"{working}/{name}") for name in (version, *SHARED_FOLDERS)):
        if not (cubes.is_relative_to(release) or release.is_relative_to(cubes)):
            continue
        yield (
            f"directory.working and directory.output put the cubes into {cubes} and the release into "
            f"{release}; neither may hold the other, or a release would replace the cubes"
        )


def _place(folder: str) -> PurePath:
    """Return where a folder lies, so that two ways to write it compare equal."""
    scheme, separator, rest = folder.partition("://")
    if separator and scheme != "file":
        return PurePosixPath(scheme, posixpath.normpath(rest))
    return Path(rest if separator else folder).resolve()


def _size_problems(config: Config) -> Iterator[str]:
    chips = config.chips
    sizes = {
        "chips.sample_size": chips.sample_size,
        "chips.stride": chips.stride_m,
        "(chips.chip_size - chips.sample_size) / 2": (chips.chip_size - chips.sample_size) / 2,
    }
    for key, settings in config.sensors.items():
        if LATTICE_M % settings.resolution:
            yield f"{key}.resolution {settings.resolution} does not divide the lattice's {LATTICE_M} m"
        for name, size in sizes.items():
            if size % settings.resolution:
                yield f"{name} = {size:g} m is not a multiple of {key}.resolution {settings.resolution} m"
    if config.release.splits and config.release.block_m < chips.chip_size:
        yield f"release.block_m {config.release.block_m} is smaller than chips.chip_size {chips.chip_size}"
    side = config.aoi.max_side_m
    if side is not None and side < max(LATTICE_M, chips.chip_size):
        yield f"aoi.max_side_m {side} is smaller than a chip or a lattice cell ({max(LATTICE_M, chips.chip_size)} m)"


def _threshold_problems(config: Config) -> Iterator[str]:
    for which in ("min_clear", "min_valid"):
        value = getattr(config.chips, which)
        by_sensor = value if isinstance(value, Mapping) else {"": value}
        for sensor, share in by_sensor.items():
            if sensor and sensor not in config.table:
                yield f"chips.{which}.{sensor} is no sensor; there are {', '.join(config.table)}"
            if isinstance(share, tuple) and len(share) != len(config.ranges):
                yield (
                    f"chips.{which} gives {len(share)} shares for {len(config.ranges)} time ranges; "
                    "give one share, or one per range"
                )
