"""Maps of a plan as SVG: all areas, and one area under the footprints of what was chosen for it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

import numpy as np
from shapely import get_parts, union_all
from shapely.affinity import translate
from shapely.geometry.base import BaseGeometry

from cube.html import svg
from cube.scenes.plan import CubePlan

from .features import chosen_groups, extent_outline
from .outcome import AreaOutcome

_DETAIL = 0.5
"""Drawing units that an outline may be off by: countries have more corners than a map has dots."""

Outline = tuple[str, str, str, BaseGeometry]
"""Anchor, CSS class, what a reader is told, and where it lies, EPSG:4326."""


def draw_areas(outlines: Sequence[Outline]) -> str:
    """Draw all areas; each is a link to its own part of the page."""
    frame = _frame(geometry for *_, geometry in outlines)
    drawing = [svg.graticule(frame)]
    for anchor, css, title, geometry in outlines:
        outline = svg.outline(frame, geometry.simplify(_DETAIL / frame.scale), css, title)
        drawing.append(f'<a href="#{escape(anchor)}" aria-label="{escape(title)}">{outline}</a>')
    return svg.picture(960, frame.height, "".join(drawing), "Map of the areas")


def draw_area(area: AreaOutcome, nouns: dict[str, str]) -> str:
    """Draw an area, its cube's extent, and the footprints of what was chosen for it.

    Parameters
    ----------
    nouns
        What the groups of each sensor with dates are called: tile, orbit, path.
    """
    plan, middle = area.plan, area.aoi.geometry.centroid.x
    shapes = [("aoi", f"AOI {area.aoi.label}", area.aoi.geometry)]
    if plan is not None:
        shapes.append(("extent", "extent of the cube", extent_outline(plan)))
        shapes += [
            (f"seen of-{number}", f"{key}: {nouns[key]} {chosen_groups(plan).get(key, '')}", _seen(plan, key))
            for number, key in enumerate(nouns)
        ]
    shapes = [(css, title, _beside(geometry, middle)) for css, title, geometry in shapes]
    frame = _frame(geometry for _, _, geometry in shapes)
    drawing = [svg.graticule(frame)]
    for css, title, geometry in reversed(shapes):  # footprints below, the area on top
        drawing.append(svg.outline(frame, geometry.simplify(_DETAIL / frame.scale), css, title))
    return svg.picture(960, frame.height, "".join(drawing), f"Map of AOI {area.aoi.label}")


def _seen(plan: CubePlan, key: str) -> BaseGeometry:
    """Return what the chosen scenes of a sensor see together."""
    return union_all([scene.geometry for scene in plan.sensor(key).scenes])


def _beside(geometry: BaseGeometry, longitude: float) -> BaseGeometry:
    """Put the parts of a geometry on the side of the antimeridian that a longitude is on."""
    parts = get_parts(geometry)
    turns = [round((longitude - part.centroid.x) / 360) for part in parts]
    if not any(turns):
        return geometry
    return union_all([translate(part, 360 * turn) for part, turn in zip(parts, turns, strict=True)])


def _frame(geometries: Iterable[BaseGeometry]) -> svg.Frame:
    bounds = np.array([geometry.bounds for geometry in geometries])
    west, south = (float(value) for value in bounds[:, :2].min(axis=0))
    east, north = (float(value) for value in bounds[:, 2:].max(axis=0))
    return svg.map_frame((west, south, east, north))
