"""Small drawings as SVG text: bars, a calendar strip, a map. Same input, same text."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import TypeVar

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

_MAP_WIDTH = 960.0
_MIN_SPAN_DEG = 0.2
_ROOM_FOR_COUNT = 40.0
"""Width of a bar whose count is written above it, drawing units."""
_ROOM_FOR_STEP = 64.0
"""Width that the name of a step takes, on a phone's page, too."""
Number = TypeVar("Number", float, NDArray[np.float64])
_STEPS_DEG = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30)


def picture(width: float, height: float, body: str, label: str) -> str:
    """Wrap what the functions of this module draw into a picture that scales with the page.

    Sizes are in drawing units; texts in `body` are escaped already; `label` is read out instead.
    """
    return (
        f'<svg viewBox="0 0 {_number(width)} {_number(height)}" role="img" aria-label="{escape(label)}" '
        f'preserveAspectRatio="xMidYMid meet">{body}</svg>'
    )


def _number(value: float) -> str:
    return f"{value:.1f}".rstrip("0").rstrip(".")


def histogram(
    counts: Sequence[int], name: str, css: str = "bar", *, mark: float | None = None, is_log: bool = False
) -> str:
    """Draw bars of equal width, each with a tooltip, on a line; `name` is read out instead.

    `mark` is a place along the line, 0 to 1, that gets a line of its own; with `is_log` heights are
    logarithms of one more than the counts.
    """
    width, height = 320.0, 100.0
    heights = [math.log1p(count) if is_log else count for count in counts]
    top = max(heights, default=0) or 1
    step = width / max(len(counts), 1)
    bars = "".join(
        f'<rect x="{_number(i * step + 0.5)}" y="{_number(height - tall)}" width="{_number(step - 1)}" '
        f'height="{_number(tall)}" class="{css}"><title>{count}</title></rect>'
        for i, (count, tallness) in enumerate(zip(counts, heights, strict=True))
        if (tall := max(tallness / top * 92, 1.5 * bool(count)))
    )
    if mark is not None:
        x = _number(min(max(mark, 0.0), 1.0) * width)
        bars += f'<line x1="{x}" x2="{x}" y1="0" y2="{_number(height)}" class="asked"/>'
    line = f'<line x1="0" x2="{_number(width)}" y1="{_number(height)}" y2="{_number(height)}" class="axis"/>'
    return picture(width, height, bars + line, name)


def strip(
    counts: Sequence[int], steps: Sequence[str], edges: Sequence[tuple[float, float, str]], name: str
) -> str:
    """Draw counts along a calendar, a bar and its count per step; `name` is read out instead.

    `steps` are called so, as far as there is room; `edges` are shaded periods: start and end as
    shares of the width, and their label.
    """
    width, base, height = 960.0, 94.0, 152.0
    top = max(counts, default=0) or 1
    step = width / max(len(counts), 1)
    shades = "".join(
        f'<rect x="{_number(start * width)}" y="0" width="{_number(max((end - start) * width - 2, 1))}" '
        f'height="{_number(base)}" class="shade"/>'
        f'<text x="{_number((start + end) / 2 * width)}" y="148" text-anchor="middle">{escape(text)}</text>'
        for start, end, text in edges
    )
    every = math.ceil(_ROOM_FOR_STEP / step)
    shades += "".join(
        f'<text x="{_number((i + 0.5) * step)}" y="118" text-anchor="middle">{escape(text)}</text>'
        for i, text in enumerate(steps)
        if i % every == 0
    )
    if step >= _ROOM_FOR_COUNT:
        shades += "".join(
            f'<text x="{_number((i + 0.5) * step)}" y="{_number(base - count / top * 58 - 5)}" '
            f'text-anchor="middle">{count:,}</text>'
            for i, count in enumerate(counts)
            if count
        )
    bars = "".join(
        f'<rect x="{_number(i * step)}" y="{_number(base - count / top * 58)}" width="{_number(max(step - 1, 1))}" '
        f'height="{_number(count / top * 58)}" class="bar"><title>{count}</title></rect>'
        for i, count in enumerate(counts)
        if count
    )
    return picture(width, height, shades + bars, name)


@dataclass(frozen=True, slots=True)
class Frame:
    """A plain map: longitude and latitude on one scale, fitted to what it shows."""

    west: float
    south: float
    east: float
    north: float

    @property
    def scale(self) -> float:
        """Drawing units per degree."""
        return _MAP_WIDTH / (self.east - self.west)

    @property
    def height(self) -> float:
        """Height of the drawing."""
        return (self.north - self.south) * self.scale

    def point(self, lon: Number, lat: Number) -> tuple[Number, Number]:
        """Return where a position lies on the drawing, or many do."""
        return (lon - self.west) * self.scale, (self.north - lat) * self.scale


def map_frame(bounds: tuple[float, float, float, float]) -> Frame:
    """Return a frame around west, south, east and north, with some air and a readable shape."""
    west, south, east, north = bounds
    span = max(east - west, 2 * (north - south), _MIN_SPAN_DEG) * 1.12
    middle_lon, middle_lat = (west + east) / 2, (south + north) / 2
    span = min(span, 360.0)
    height = max(span / 2.4, (north - south) * 1.12)
    left = -180.0 if span >= 360 else middle_lon - span / 2
    return Frame(left, max(middle_lat - height / 2, -90), left + span, min(middle_lat + height / 2, 90))


def graticule(frame: Frame) -> str:
    """Draw labelled meridians and parallels."""
    step = next((s for s in _STEPS_DEG if (frame.east - frame.west) / s <= 9), _STEPS_DEG[-1])
    parts = []
    for lon in _multiples(frame.west, frame.east, step):
        x, _ = frame.point(lon, 0)
        label = f"{abs(lon):g}°{'E' if lon > 0 else 'W' if lon < 0 else ''}"
        parts.append(
            f'<line x1="{_number(x)}" x2="{_number(x)}" y1="0" y2="{_number(frame.height)}" class="grid"/>'
        )
        if x < _MAP_WIDTH * 0.92:
            parts.append(f'<text x="{_number(x + 3)}" y="{_number(frame.height - 4)}">{label}</text>')
    for lat in _multiples(frame.south, frame.north, step):
        _, y = frame.point(0, lat)
        label = f"{abs(lat):g}°{'N' if lat > 0 else 'S' if lat < 0 else ''}"
        parts.append(
            f'<line x1="0" x2="{_number(_MAP_WIDTH)}" y1="{_number(y)}" y2="{_number(y)}" class="grid"/>'
        )
        parts.append(f'<text x="3" y="{_number(y - 3)}">{label}</text>')
    return "".join(parts)


def _multiples(low: float, high: float, step: float) -> list[float]:
    first, last = math.ceil(low / step), math.floor(high / step)
    return [round(i * step, 6) for i in range(first, last + 1)]


def outline(frame: Frame, geometry: BaseGeometry, css: str, title: str) -> str:
    """Draw polygons in degrees as a line with a tooltip, or a ring where they are too small."""
    west, south, east, north = geometry.bounds
    if max(east - west, north - south) * frame.scale < 8:
        x, y = frame.point((west + east) / 2, (south + north) / 2)
        return f'<circle cx="{_number(x)}" cy="{_number(y)}" r="5" class="{css}"><title>{escape(title)}</title></circle>'
    path = "".join(_ring_path(frame, part.exterior.coords) for part in _polygons(geometry))
    return f'<path d="{path}" class="{css}"><title>{escape(title)}</title></path>'


def square(x: float, y: float, color: str, title: str) -> str:
    """Draw a small square around a point, drawing units from the top left, with a tooltip."""
    return (
        f'<rect x="{_number(x - 2)}" y="{_number(y - 2)}" width="4" height="4" fill="{escape(color)}" class="chip">'
        f"<title>{escape(title)}</title></rect>"
    )


def _polygons(geometry: BaseGeometry) -> list[shapely.Polygon]:
    return [part for part in shapely.get_parts(geometry) if isinstance(part, shapely.Polygon)]


def _ring_path(frame: Frame, coords: Iterable[Sequence[float]]) -> str:
    points = (frame.point(one[0], one[1]) for one in coords)
    return "M" + "L".join(f"{_number(x)},{_number(y)}" for x, y in points) + "Z"
