"""Plans as GeoJSON, for a GIS: where cubes would lie, and which scenes they would take."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from shapely import box
from shapely.geometry import mapping
from shapely.geometry.base import BaseGeometry

from cube.scenes.plan import CubePlan
from cube.windows.projection import outline_to_lonlat

from .outcome import AreaOutcome


def plan_feature(area: AreaOutcome) -> dict[str, Any]:
    """Return an area as a GeoJSON feature: its cube's extent, or, if it has none, its polygon."""
    aoi, plan = area.aoi, area.plan
    facts: dict[str, Any] = {"aoi_index": aoi.index, "name": aoi.name, "id": aoi.id, "status": area.status}
    if plan is None or area.error:
        return _feature(aoi.geometry, facts | {"reason": area.reason})
    facts |= {
        "epsg": plan.epsg,
        "width_m": plan.bounds.width,
        "height_m": plan.bounds.height,
        "fetch_bytes": round(area.cost.fetch_bytes),
        "store_bytes": round(area.cost.store_bytes),
        "windows": sum(area.windows.values()),
    }
    groups = chosen_groups(plan)
    for one in plan.sensors:
        if not one.sensor.is_static:
            facts[f"{one.key}_group"] = groups.get(one.key, "")
            facts[f"{one.key}_dates"] = ",".join(f"{date.time:%Y-%m-%d}" for date in one.dates)
        facts[f"{one.key}_scene_ids"] = ",".join(scene.id for scene in one.scenes)
    return _feature(extent_outline(plan), facts)


def chosen_groups(plan: CubePlan) -> dict[str, str]:
    """Return the tile, orbit or path that was chosen, by sensor."""
    return {one.sensor: one.group for one in plan.scenes_seen if one.chosen}


def extent_outline(plan: CubePlan) -> BaseGeometry:
    """Return where a cube would lie, EPSG:4326."""
    bounds = plan.bounds
    return outline_to_lonlat(box(bounds.left, bounds.bottom, bounds.right, bounds.top), plan.epsg)


def feature_collection(features: Iterable[dict[str, Any]]) -> bytes:
    """Return features as a GeoJSON document."""
    document = {"type": "FeatureCollection", "features": list(features)}
    return json.dumps(document, ensure_ascii=False).encode()


def _feature(geometry: Any, properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Feature", "properties": properties, "geometry": mapping(geometry)}
