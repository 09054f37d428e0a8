"""Plans as GeoJSON, for a GIS: where cubes would lie, and which scenes they would take."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from shapely import box
from shapely.geometry import mapping

from cube.config.aoi import Aoi
from cube.scenes.estimate import estimate_cost
from cube.scenes.explain import Skipped
from cube.scenes.plan import CubePlan
from cube.windows.projection import outline_to_lonlat


def plan_feature(
    aoi: Aoi, outcome: CubePlan | Exception, windows: Mapping[str, int] | None = None
) -> dict[str, Any]:
    """Return an area as a GeoJSON feature.

    Parameters
    ----------
    aoi
        The area; its polygon is the geometry where there is no plan, else the cube's extent is.
    outcome
        Its plan, or why it has none.
    windows
        Candidate windows by class.
    """
    facts: dict[str, Any] = {"aoi_index": aoi.index, "name": aoi.name, "id": aoi.id}
    if not isinstance(outcome, CubePlan):
        status = "skipped" if isinstance(outcome, Skipped) else "failed"
        return _feature(aoi.geometry, facts | {"status": status, "reason": str(outcome)})
    bounds, cost = outcome.bounds, estimate_cost(outcome)
    facts |= {
        "status": "planned",
        "epsg": outcome.epsg,
        "width_m": bounds.width,
        "height_m": bounds.height,
        "fetch_bytes": round(cost.fetch_bytes),
        "store_bytes": round(cost.store_bytes),
        "windows": sum((windows or {}).values()),
    }
    groups = {one.sensor: one.group for one in outcome.scenes_seen if one.chosen}
    for plan in outcome.sensors:
        if not plan.sensor.is_static:
            facts[f"{plan.key}_group"] = groups.get(plan.key, "")
            facts[f"{plan.key}_dates"] = ",".join(f"{date.time:%Y-%m-%d}" for date in plan.dates)
        facts[f"{plan.key}_scene_ids"] = ",".join(scene.id for scene in plan.scenes)
    corners = box(bounds.left, bounds.bottom, bounds.right, bounds.top)
    return _feature(outline_to_lonlat(corners, outcome.epsg), facts)


def feature_collection(features: list[dict[str, Any]]) -> bytes:
    """Return features as a GeoJSON document."""
    return json.dumps({"type": "FeatureCollection", "features": features}, ensure_ascii=False).encode()


def _feature(geometry: Any, properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Feature", "properties": properties, "geometry": mapping(geometry)}
