"""The comparison as one HTML page that needs no network, with pictures of some chips."""

from __future__ import annotations

import base64
import io
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
from PIL import Image

from cube.config.sensors import CLASS_COLORS, CLASS_NAMES
from cube.html import svg
from cube.lots import lot
from release.loading.dataset import Release
from release.opening.faults import ReleaseError
from release.report.pictures import Thumbnails
from release.templates import fill_template

from .comparison import ChipMove, Comparison, RasterChange
from .pixels import Pair, differing, read_both

_PICTURED_RASTERS = 12
_PICTURED_MOVES = 16
"""Of the chips that are gone, and of the new ones."""
_MOST_ROWS = 200
"""Longer tables say how much they leave out; the JSON has it all."""
_DIFFERENT = np.array([230, 40, 160], dtype=float)
"""Colour of pixels that differ."""

Values = dict[str, Any]

REASONS = {
    "other_lattice": "windows lie elsewhere, or have another size",
    "class_excluded": "the other does not keep the class",
    "area_absent": "the other has no such area",
    "area_skipped": "the other found no scenes for the area",
    "area_failed": "the other has no cube of the area",
    "impure": "its purity is below what the other asks for",
    "forbidden_class": "it holds a class that the other forbids",
    "duplicate": "a chip of another UTM zone covers its place in the other",
    "other_scenes": "the other saw the area in other scenes",
    "unbalanced": "the other gave up chips of the class for balance",
    "capped": "the other capped the chips of a class in the area",
    "unbalanced_or_capped": "the other gave up chips of the class for balance, or by a cap",
    "unexplained": "nothing that the two say of themselves tells why",
}


def explain_reason(reason: str) -> str:
    """Return a reason as a sentence's end."""
    if reason in REASONS:
        return REASONS[reason]
    sensor, _, what = reason.rpartition("_")
    return f"too few {'valid' if what == 'missing' else 'clear'} pixels of {sensor} for the other"


def make_page(comparison: Comparison, a: Release, b: Release) -> bytes:
    """Write the page; `a` and `b` are the releases that were compared.

    Raises
    ------
    ReleaseError
        If a picture's file cannot be read at all; a raster that cannot be decoded is left out.
    """
    sections = {
        "overview": _facts(comparison),
        "where": _map(comparison, a, b),
        "settings": _cut(comparison.settings),
        "classes": _classes(comparison),
        "gone": _moves(comparison.gone, a),
        "new": _moves(comparison.new, b),
        "changes": _changes(comparison),
        "scenes": _cut([(one, day(one.date_a), day(one.date_b)) for one in comparison.scenes]),
        "pixels": _pixels(comparison, a, b),
        "areas": _cut(comparison.areas),
        "files": _cut(comparison.file_lines),
    }
    return fill_template("compare.html.j2", one=comparison, sections=sections)


def day(text: str) -> str:
    """Return ``YYYYMMDD`` as people read it."""
    return f"{datetime.strptime(text, '%Y%m%d').replace(tzinfo=UTC):%Y-%m-%d}" if text else ""


def _cut(rows: Sequence[Any]) -> Values:
    """Return the first rows, and how many more there are; nothing where there are none."""
    return {"rows": rows[:_MOST_ROWS], "more": max(len(rows) - _MOST_ROWS, 0)} if rows else {}


def _facts(one: Comparison) -> dict[str, str]:
    unlike = sum(raster.pixels > 0 for raster in one.rasters)
    return {
        "chips in A": f"{one.a.chips:,}",
        "chips in B": f"{one.b.chips:,}",
        "chips kept": f"{len(one.kept):,}",
        "gone": f"{len(one.gone):,}",
        "new": f"{len(one.new):,}",
        "settings that differ": f"{len(one.settings):,}",
        "rasters with other pixels": f"{unlike:,}",
        "rasters the same": f"{one.same_rasters:,}",
    }


def _map(one: Comparison, a: Release, b: Release) -> str:
    """Draw kept chips pale, gone and new ones over them."""
    bounds = np.array([release.table.total_bounds for release in (a, b) if len(release)])
    if not len(bounds):
        return ""
    west, south = (float(value) for value in bounds[:, :2].min(axis=0))
    east, north = (float(value) for value in bounds[:, 2:].max(axis=0))
    frame = svg.map_frame((west, south, east, north))
    gone, new = {move.cell for move in one.gone}, {move.cell for move in one.new}
    marks: dict[str, set[tuple[float, float]]] = {"kept": set(), "gone": set(), "new": set()}
    for release, is_a in ((a, True), (b, False)):
        for cell, lon, lat in release.table[["cell", "lon", "lat"]].itertuples(index=False):
            kind = "gone" if is_a and cell in gone else "new" if not is_a and cell in new else "kept"
            x, y = frame.point(lon, lat)
            marks[kind].add((round(x * 2) / 2, round(y * 2) / 2))
    colors = {"kept": "var(--pale)", "gone": "var(--bad)", "new": "var(--accent)"}
    squares = [
        svg.square(x, y, colors[kind], kind) for kind, places in marks.items() for x, y in sorted(places)
    ]
    return svg.picture(
        960, frame.height, svg.graticule(frame) + "".join(squares), "Map of kept, gone and new chips"
    )


def _classes(one: Comparison) -> list[Values]:
    top = max((share for shift in one.classes for share in (shift.share_a, shift.share_b)), default=1) or 1
    return [
        {
            "shift": shift,
            "color": CLASS_COLORS.get(shift.code, "#888"),
            "width_a": shift.share_a / top,
            "width_b": shift.share_b / top,
        }
        for shift in one.classes
    ]


def _moves(moves: Sequence[ChipMove], owner: Release) -> Values:
    """Count chips by reason and class, and show some of each reason by lot."""
    if not moves:
        return {}
    codes = sorted({move.lulc for move in moves})
    counts = Counter((move.reason, move.lulc) for move in moves)
    totals = Counter(move.reason for move in moves)
    rows = [
        (reason, total, explain_reason(reason), *(counts[reason, code] or "" for code in codes))
        for reason, total in totals.most_common()
    ]
    return {
        "total": len(moves),
        "names": [CLASS_NAMES[code] for code in codes],
        "rows": rows,
        "pictures": [_move_picture(move, owner) for move in _drawn(moves)],
        "table": _cut(moves),
    }


def _drawn(moves: Sequence[ChipMove]) -> list[ChipMove]:
    """Draw some by lot, reasons taking turns."""
    by_reason: dict[str, list[ChipMove]] = defaultdict(list)
    for move in sorted(moves, key=lambda move: lot(0, "compare", move.cell)):
        by_reason[move.reason].append(move)
    turns = sorted((turn, reason) for reason, group in by_reason.items() for turn in range(len(group)))[
        :_PICTURED_MOVES
    ]
    return [by_reason[reason][turn] for turn, reason in turns]


def _move_picture(move: ChipMove, owner: Release) -> Values:
    sensor = next((key for key in owner.recipe.series if owner.recipe.rasters[key].thumbnail_px), "lulc")
    file = owner.paths(move.id, sensor)[0]
    file = file.removesuffix("tif") + "png" if sensor != "lulc" else file
    return {"move": move, "class": CLASS_NAMES[move.lulc], "base64": _picture(owner, file)}


def _picture(release: Release, file: str) -> str:
    """Return a picture's PNG as base64; nothing where it cannot be read."""
    try:
        return base64.b64encode(Thumbnails(release.read_file, release.recipe).png(file)).decode()
    except (ReleaseError, OSError, ValueError):
        return ""


def _changes(one: Comparison) -> list[Values]:
    """Count the chips whose field differs, with the most frequent of the changes."""
    by_field: dict[str, Counter[str]] = defaultdict(Counter)
    for change in one.changes:
        by_field[change.field][f"{change.a} → {change.b}"] += 1
    return [
        {"field": name, "chips": sum(found.values()), "often": found.most_common(3)}
        for name, found in sorted(by_field.items())
    ]


def pixel_totals(one: Comparison) -> list[tuple[str, int, int, int, float | None]]:
    """Return sensor, rasters whose files differ, those with other pixels, pixels, largest."""
    rows = []
    for sensor in dict.fromkeys(raster.sensor for raster in one.rasters):
        own = [raster for raster in one.rasters if raster.sensor == sensor]
        largest = max((raster.largest for raster in own if raster.largest is not None), default=None)
        pixels = sum(raster.pixels for raster in own)
        rows.append((sensor, len(own), sum(raster.pixels > 0 for raster in own), pixels, largest))
    return rows


def _pixels(one: Comparison, a: Release, b: Release) -> Values:
    if not one.rasters:
        return {}
    ordered = sorted(one.rasters, key=lambda raster: (-raster.pixels / max(raster.of, 1), raster.file_a))
    shown = list(_turns(ordered))[:_PICTURED_RASTERS]
    return {
        "totals": pixel_totals(one),
        "pictures": [_raster_pictures(raster, a, b) for raster in shown],
        "table": _cut(ordered),
    }


def _turns(rasters: Sequence[RasterChange]) -> Iterator[RasterChange]:
    """Yield rasters with other pixels, sensors taking turns."""
    by_sensor: dict[str, list[RasterChange]] = defaultdict(list)
    for raster in rasters:
        if raster.pixels:
            by_sensor[raster.sensor].append(raster)
    for turn in range(max(map(len, by_sensor.values()), default=0)):
        yield from (group[turn] for group in by_sensor.values() if turn < len(group))


def _raster_pictures(raster: RasterChange, a: Release, b: Release) -> Values:
    """Show both, and where they differ."""
    names = [
        name.removesuffix("tif") + "png" if release.recipe.rasters[raster.sensor].thumbnail_px else name
        for name, release in ((raster.file_a, a), (raster.file_b, b))
    ]
    bands = list(raster.bands)
    pair = Pair(raster.cell, raster.sensor, raster.number, raster.file_a, raster.file_b)
    one, other = read_both(a, b, pair, bands)
    pictures = [_picture(a, names[0]), _picture(b, names[1]), _difference_picture(one, other)]
    return {"raster": raster, "pictures": list(zip(("A", "B", "difference"), pictures, strict=True))}


def _difference_picture(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> str:
    """Draw where pixels differ, the brighter the more; those that differ at all are seen."""
    unlike = differing(one, other)
    apart = np.where(np.isfinite(one) & np.isfinite(other), np.abs(one - other), np.inf)
    apart = np.where(unlike, apart, 0).max(axis=0)
    finite = apart[np.isfinite(apart)]
    top = float(finite.max()) if finite.size and finite.max() > 0 else 1.0
    strength = np.where(apart > 0, 0.35 + 0.65 * np.minimum(apart / top, 1), 0)
    pixels = (strength[..., np.newaxis] * _DIFFERENT).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()
