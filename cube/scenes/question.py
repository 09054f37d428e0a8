"""What a plan answers: all that it follows from, but for what the catalog holds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from importlib.metadata import version
from typing import Any

from cube.config.aoi import Aoi
from cube.config.models import Config
from cube.config.profiles import DEFAULT_PROFILE
from cube.config.sensor_models import SensorConfig, Sentinel2Config
from cube.run.layout import recipe_stem

from .lost import LostScene
from .plan import SCHEMA_VERSION, canonical_json

_NOT_PLANNED = {"fill_na", "na_value", "dtype", "cloud_bits", "cloud_buffer_px", "sampling_factor"}
"""Sensor keys of phase two and of the release: they do not change a plan."""
_WORDS = {"title", "attribution", "licence"}
"""What a row of the sensor table says to people."""


class Question:
    """What a config asks of every area.

    Parameters
    ----------
    config
        The dataset version; what does not differ between areas is put together once.
    """

    def __init__(self, config: Config) -> None:
        self._asked = _asked(config)
        self._beside = {
            "program": version("gelos-lc"),
            "rows": _rows(config),
            "fetched": _fetched(config),
        }

    def digest(self, aoi: Aoi, lost: Iterable[LostScene] = ()) -> str:
        """Return the SHA-256 of what an area's plan answers; `lost` scenes are no candidates."""
        items = sorted(scene.item for scene in lost)
        return _digest({**self._asked, "aoi": aoi.geometry.wkt, **({"lost": items} if items else {})})

    def plan_name(self, aoi: Aoi) -> str:
        """Return what an area's plan is called, which belongs to its question, not to a version.

        The scenes that are lost are no part of the name, but of the question that a plan answers:
        their record, which has the same name, says which plan holds.
        """
        return recipe_stem(aoi.index, self.digest(aoi))

    def seen(self, aoi: Aoi) -> str:
        """Return a digest of all that an area's cube is compared with, where no scene is lost.

        Where it is what it was, and the cube is there, nothing can have changed.
        """
        return _digest({**self._beside, "question": self.digest(aoi)})[:12]


def _digest(value: object) -> str:
    return hashlib.sha256(canonical_json(value)).hexdigest()


def _asked(config: Config) -> dict[str, Any]:
    asked: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "extent": [str(config.aoi.extent), config.aoi.max_side_m],
        "sensors": {
            key: {
                "bands": config.bands(key),
                **settings.model_dump(mode="json", exclude=_not_planned(settings)),
            }
            for key, settings in config.sensors.items()
        },
        "ranges": [str(span) for span in config.ranges],
    }
    profiles = {key: config.source(key).profile for key in config.sensors}
    if others := {key: name for key, name in profiles.items() if name != DEFAULT_PROFILE}:
        asked["profiles"] = others
    if config.extra_sensors:
        asked["rows"] = {
            key: json.loads(row.model_dump_json(exclude=_WORDS))
            for key, row in config.extra_sensors.items()
            if key in config.sensors
        }
    if config.catalog.exclude_items:
        asked["exclude_items"] = sorted(config.catalog.exclude_items)
    return asked


def _rows(config: Config) -> dict[str, str]:
    """Return all that the config's own rows say."""
    return {key: row.model_dump_json() for key, row in config.extra_sensors.items()}


def _fetched(config: Config) -> dict[str, Any]:
    """Return what decides which blocks are fetched, where not all are."""
    if config.aoi.fetch == "all":
        return {}
    settings = {"chips": config.chips, "aoi": config.aoi, **config.sensors}
    return {key: model.model_dump(mode="json") for key, model in settings.items()}


def _not_planned(settings: SensorConfig) -> set[str]:
    ranked = isinstance(settings, Sentinel2Config) and settings.rank == "aoi"
    return _NOT_PLANNED | {"bands", "cloud_band", "catalog"} | (set() if ranked else {"clear"})
