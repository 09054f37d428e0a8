"""The report: one HTML page that needs no network and shows what is in a release, and why."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from html import escape
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from PIL import Image, ImageColor
from rasterio.io import MemoryFile
from shapely.geometry import shape

from cube.config.sensors import CLASS_COLORS, CLASS_NAMES
from cube.lots import lot

from . import svg
from .card import SPLIT_NOTE
from .recipe import Recipe
from .select import Selection

__all__ = ["REPORT_NAME", "Thumbnails", "make_report", "measures_of"]

REPORT_NAME = "report.html"
_GALLERY = 3
"""Chips per class that are shown."""
_NO_COLOR = 136
"""Grey of a class without a colour, and of flat ground."""
_BINS = 24
_HISTOGRAM_WORDS = ("purity", "clear", "valid", "cloud")
_MAX_AOI_ROWS = 500
_OPEN_AOI_ROWS = 20
"""Longer tables are folded."""


@dataclass(frozen=True)
class Thumbnails:
    """Pictures of a release's files, for a page that holds them."""

    read: Callable[[str], bytes]
    """Gives a file of the release by name."""

    def png(self, name: str) -> bytes:
        """Return a picture: the PNG itself, or one drawn from a raster (classes coloured, heights grey)."""
        data = self.read(name)
        return data if name.endswith(".png") else _draw(data, name)


def _draw(data: bytes, name: str) -> bytes:
    with MemoryFile(data) as memory, memory.open(driver="GTiff") as raster:
        values = raster.read(1, masked=True)
    pixels = _class_colours(values.filled(0)) if name.startswith("lulc_") else _greys(values)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _class_colours(codes: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    table = np.full((256, 3), _NO_COLOR, dtype=np.uint8)
    table[0] = 0
    for code, color in CLASS_COLORS.items():
        table[code] = ImageColor.getrgb(color)[:3]
    return np.asarray(table[codes.astype(np.uint8)])


def _greys(values: np.ma.MaskedArray[Any, Any]) -> np.ndarray[Any, Any]:
    heights = np.where(np.ma.getmaskarray(values), np.nan, values.data).astype(float)
    seen = heights[np.isfinite(heights)]
    low, high = (float(seen.min()), float(seen.max())) if seen.size else (0.0, 1.0)
    if high == low:
        return np.full(heights.shape, _NO_COLOR, dtype=np.uint8)
    share = (np.nan_to_num(heights, nan=low) - low) / (high - low)
    return np.asarray(40 + 200 * share, dtype=np.uint8)


def measures_of(windows: pd.DataFrame) -> pd.DataFrame:
    """Return the columns of ``chip_metadata.csv`` that the report draws: purity, clear and valid shares, cloud."""
    return windows[
        [name for name in windows.columns if any(word in name for word in _HISTOGRAM_WORDS)]
    ].copy()


def make_report(
    selection: Selection,
    tracker: gpd.GeoDataFrame,
    measures: pd.DataFrame,
    aois: Mapping[str, Any] | None,
    recipe: Recipe,
    thumbnails: Thumbnails,
    files: Sequence[str],
) -> bytes:
    """Write the page.

    Parameters
    ----------
    selection
        What was kept, and why the rest was not.
    tracker
        The release's table.
    measures
        :func:`measures_of` every window scored.
    aois
        ``aoi_metadata.geojson``, if it is there.
    recipe
        Settings.
    thumbnails
        Where pictures come from.
    files
        Names to link to.
    """
    sections = [
        ("Overview", _facts(selection, tracker, recipe)),
        ("Where", _map(tracker, aois)),
        ("Classes", _classes(selection)),
        ("Splits", _splits(tracker)),
        ("Dates", _dates(tracker, recipe)),
        ("Purity, clear and valid shares", _histograms(tracker, measures)),
        ("From windows to chips", _funnel(selection)),
        ("Areas of interest", _aoi_table(aois)),
        ("Gallery", _gallery(tracker, recipe, thumbnails)),
        ("Files", _files(files)),
    ]
    shown = [(title, body) for title, body in sections if body]
    links = "".join(f'<a href="#{_anchor(title)}">{escape(title)}</a>' for title, _ in shown)
    parts = "".join(
        f'<section id="{_anchor(title)}"><h2>{escape(title)}</h2>{body}</section>' for title, body in shown
    )
    name = escape(f"{recipe.name} {recipe.version}")
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{name}</title><style>{_STYLE}</style></head><body>"
        f"<header><h1>{name}</h1><nav>{links}</nav></header><main>{parts}</main></body></html>\n"
    )
    return page.encode()


def _anchor(title: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in title.lower())


def _facts(selection: Selection, tracker: gpd.GeoDataFrame, recipe: Recipe) -> str:
    factor = recipe.sampling_factor
    facts = {
        "chips": f"{len(tracker):,}",
        "areas of interest": f"{tracker['aoi_index'].nunique():,}",
        "classes": str(sum(1 for count in selection.after.values() if count)),
        "windows scored": f"{selection.windows:,}",
        "chip side": f"{recipe.chips.chip_size} m",
        "time ranges": str(len(recipe.ranges)),
        "UTM zones": str(tracker["epsg"].nunique()),
        "largest : smallest class": f"at most {factor} : 1" if factor else "not balanced",
    }
    cards = "".join(
        f"<div><b>{escape(value)}</b><span>{escape(key)}</span></div>" for key, value in facts.items()
    )
    warnings = "".join(f'<p class="warning">{escape(text)}</p>' for text in selection.warnings)
    rows = [
        (
            f"{recipe.table[key].title} ({key})",
            ", ".join(layout.bands),
            f"{layout.resolution}\N{NO-BREAK SPACE}m",
            f"{layout.size_px}\N{NO-BREAK SPACE}x\N{NO-BREAK SPACE}{layout.size_px}",
            layout.dtype,
        )
        for key, layout in recipe.layout.items()
    ]
    table = _table(("sensor", "bands", "pixel", "size", "dtype"), rows, wrap=True)
    return f'<div class="facts">{cards}</div>{warnings}{table}'


def _table(head: Sequence[str], rows: Sequence[Sequence[object]], *, wrap: bool = False) -> str:
    top = "".join(f"<th>{escape(text)}</th>" for text in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(str(c))}</td>" for c in row) + "</tr>" for row in rows)
    css = ' class="wrap"' if wrap else ""
    return f'<div class="scroll"><table{css}><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _map(tracker: gpd.GeoDataFrame, aois: Mapping[str, Any] | None) -> str:
    outlines = list(_aoi_outlines(aois))
    bounds = np.array([tracker.total_bounds, *(geometry.bounds for geometry, _, _ in outlines)])
    west, south = (float(v) for v in bounds[:, :2].min(axis=0))
    east, north = (float(v) for v in bounds[:, 2:].max(axis=0))
    frame = svg.map_frame((west, south, east, north))
    drawing = svg.graticule(frame)
    drawing += "".join(svg.outline(frame, geometry, css, title) for geometry, css, title in outlines)
    drawing += "".join(_chip_marks(tracker, frame))
    present = [code for code in CLASS_NAMES if str(code) in set(tracker["lulc"])]
    legend = "".join(
        f'<span><i style="background:{CLASS_COLORS.get(code, "#888")}"></i>{escape(CLASS_NAMES[code])}</span>'
        for code in present
    )
    if outlines:
        legend += (
            '<span><i class="ring"></i>AOI</span><span><i class="ring bad"></i>AOI without a cube</span>'
        )
    note = "Longitude and latitude on one scale; no base map, so that the page needs no network."
    return (
        svg.picture(960, frame.height, drawing, "Map of chips and areas of interest")
        + f'<p class="legend">{legend}</p><p class="muted">{note}</p>'
    )


def _aoi_outlines(aois: Mapping[str, Any] | None) -> Iterator[tuple[shapely.Geometry, str, str]]:
    for feature in (aois or {}).get("features", []):
        if not feature.get("geometry"):
            continue
        facts = feature.get("properties") or {}
        css = "aoi" if facts.get("status") in ("built", "building", "pending", None) else "aoi bad"
        yield shape(feature["geometry"]), css, f"AOI {facts.get('aoi_index', '?')}: {facts.get('status', '')}"


def _chip_marks(tracker: gpd.GeoDataFrame, frame: svg.Frame) -> Iterator[str]:
    """Squares of half a unit's raster: chips of one class that would cover each other are drawn once."""
    seen: Counter[tuple[float, float, str, str]] = Counter()
    for lon, lat, color, name in zip(
        tracker["lon"], tracker["lat"], tracker["color"], tracker["category"], strict=True
    ):
        x, y = frame.point(lon, lat)
        seen[round(x * 2) / 2, round(y * 2) / 2, color, name] += 1
    for (x, y, color, name), count in sorted(seen.items()):
        yield (
            f'<rect x="{x - 2:g}" y="{y - 2:g}" width="4" height="4" fill="{escape(color) or "#888"}" '
            f'class="chip">'
            f"<title>{escape(name)}: {count}</title></rect>"
        )


def _classes(selection: Selection) -> str:
    top = max(selection.before.values(), default=1) or 1
    total = sum(selection.after.values()) or 1
    rows = "".join(
        f'<div class="bar"><span>{code} {escape(CLASS_NAMES[code])}</span><div class="track">'
        f'<div class="ghost" style="width:{before / top:.2%}"></div>'
        f'<div class="fill" style="width:{selection.after[code] / top:.2%};'
        f'background:{CLASS_COLORS.get(code, "#888")}"></div></div>'
        f"<span>{before:,} → <b>{selection.after[code]:,}</b> "
        f"({selection.after[code] / total:.1%})</span></div>"
        for code, before in selection.before.items()
    )
    return f'<p class="muted">Chips before balancing (pale) and in the release.</p>{rows}'


def _splits(tracker: gpd.GeoDataFrame) -> str:
    names = sorted(set(tracker["split"]) - {""})
    if not names:
        return ""
    counts = pd.crosstab(tracker["lulc"], tracker["split"])
    rows = [
        (CLASS_NAMES[int(code)], *(f"{counts.loc[code, name]:,}" for name in names))
        for code in sorted(counts.index, key=int)
    ]
    total = ("all", *(f"{counts[name].sum():,}" for name in names))
    table = _table(("class", *names), [*rows, total])
    return f'<p class="muted">{escape(SPLIT_NOTE)}</p>{table}'


def _dates(tracker: gpd.GeoDataFrame, recipe: Recipe) -> str:
    if not recipe.ranges:
        return ""
    first, last = recipe.ranges[0].start.date(), recipe.ranges[-1].end.date()
    days = (last - first).days + 1
    weeks = -(-days // 7)
    edges = [
        ((r.start.date() - first).days / days, ((r.end.date() - first).days + 1) / days, str(number))
        for number, r in enumerate(recipe.ranges, start=1)
    ]
    parts = []
    for key in recipe.series:
        found = [_day(text) for joined in tracker[f"{key}_dates"] for text in joined.split(",")]
        counts = Counter(min((day - first).days * weeks // days, weeks - 1) for day in found)
        drawing = svg.strip([counts.get(week, 0) for week in range(weeks)], edges, f"Dates of {key}")
        parts.append(f"<h3>{escape(recipe.table[key].title)}</h3>{drawing}{_season_table(tracker, key)}")
    ranges = ", ".join(
        f"{number}: {period}".replace("/", " to ") for number, period in enumerate(recipe.ranges, start=1)
    )
    note = f"Images per week, and the time ranges (shaded): {ranges}."
    return f'<p class="muted">{escape(_whole(note))}</p>' + "".join(parts)


def _day(text: str) -> date:
    return datetime.strptime(text, "%Y%m%d").replace(tzinfo=UTC).date()


def _season_table(tracker: gpd.GeoDataFrame, key: str) -> str:
    columns = list(zip(*(text.split(",") for text in tracker[f"{key}_dates"]), strict=True))
    rows = []
    for number, dates in enumerate(columns, start=1):
        ordered = sorted(dates)
        rows.append(
            (number, len(set(dates)), _day(ordered[0]), _day(ordered[len(dates) // 2]), _day(ordered[-1]))
        )
    return _table(("range", "dates", "earliest", "median", "latest"), rows)


def _histograms(tracker: gpd.GeoDataFrame, measures: pd.DataFrame) -> str:
    parts, constant = [], []
    for name in tracker.columns:
        if name not in measures:
            continue
        values, everything = _numbers(tracker[name]), _numbers(measures[name])
        if not len(values):
            continue
        if everything.min() == everything.max():
            constant.append(f"{name} ({everything[0]:g})")
            continue
        low, high = float(min(everything.min(), 0)), float(max(everything.max(), 1))
        counts = [np.histogram(v, bins=_BINS, range=(low, high))[0].tolist() for v in (everything, values)]
        ends = f'<div class="ends"><span>{low:g}</span><span>{high:g}</span></div>'
        parts.append(
            f"<figure><figcaption>{escape(name)}</figcaption>"
            f"<p>all windows (max {max(counts[0]):,})</p>"
            f"{svg.histogram(counts[0], name, 'var(--muted)')}{ends}"
            f"<p>chips (max {max(counts[1]):,})</p>"
            f"{svg.histogram(counts[1], name)}{ends}</figure>"
        )
    note = (
        f'<p class="muted">The same for every window: {escape(", ".join(constant))}.</p>' if constant else ""
    )
    return f'<div class="figures">{"".join(parts)}</div>{note}' if parts or constant else ""


def _numbers(column: pd.Series) -> np.ndarray[Any, Any]:
    """Values of a column of numbers, or of comma-joined numbers; empty for other text."""
    if pd.api.types.is_numeric_dtype(column):
        return column.dropna().to_numpy(dtype=float)
    joined = ",".join(column.dropna().astype(str))
    values = pd.to_numeric(pd.Series([text for text in joined.split(",") if text]), errors="coerce")
    return values.to_numpy(dtype=float) if len(values) and values.notna().all() else np.array([])


def _funnel(selection: Selection) -> str:
    total = selection.windows
    rows = [("windows scored", total, "step"), *((n, c, "loss") for n, c in selection.funnel)]
    rows.append(("chips in the release", len(selection.chips), "step"))
    return "".join(
        f'<div class="bar"><span>{escape(name)}</span><div class="track">'
        f'<div class="fill {css}" style="width:{count / total:.2%}"></div></div>'
        f"<span>{count:,} ({count / total:.1%})</span></div>"
        for name, count, css in rows
    )


def _aoi_table(aois: Mapping[str, Any] | None) -> str:
    facts = [feature.get("properties") or {} for feature in (aois or {}).get("features", [])]
    if not facts:
        return ""
    counts = Counter(str(one.get("status", "unknown")) for one in facts)
    summary = ", ".join(f"{count} {status}" for status, count in sorted(counts.items()))
    fallen = [one for one in facts if one.get("status") in ("skipped", "failed")]
    body = f"<p>{len(facts)} areas: {escape(summary)}.</p>"
    if not fallen:
        return body
    rows = [
        (one.get("aoi_index", ""), one["status"], one.get("reason") or "") for one in fallen[:_MAX_AOI_ROWS]
    ]
    table = _table(("AOI", "status", "why"), rows, wrap=True)
    more = f"<p>and {len(fallen) - len(rows)} more, see aois.geojson</p>" if len(fallen) > len(rows) else ""
    details = "<details open>" if len(rows) <= _OPEN_AOI_ROWS else "<details>"
    return f"{body}{details}<summary>skipped or failed</summary>{table}{more}</details>"


def _gallery(tracker: gpd.GeoDataFrame, recipe: Recipe, thumbnails: Thumbnails) -> str:
    seed = recipe.release.seed
    parts = []
    for code in sorted(set(tracker["lulc"]), key=int):
        group = tracker[tracker["lulc"] == code]
        lots = group["cell"].map(lambda cell: lot(seed, "gallery", cell))
        drawn = group.loc[lots.sort_values(kind="stable").index[:_GALLERY]].sort_values("id")
        chips = "".join(_chip(row, recipe, thumbnails) for row in drawn.to_dict("records"))
        parts.append(f"<h3>{escape(CLASS_NAMES[int(code)])}</h3>{chips}")
    return '<p class="muted">Chips drawn by lot, all sensors side by side.</p>' + "".join(parts)


def _chip(row: Mapping[str, Any], recipe: Recipe, thumbnails: Thumbnails) -> str:
    groups = "".join(_sensor_row(key, row, thumbnails) for key in recipe.series)
    layers = [(f"{key}", row[f"{key}_paths"]) for key in recipe.layout if key not in recipe.series]
    images = "".join(_image(thumbnails, name, text) for text, name in layers)
    groups += f'<div class="row" style="--n:{len(layers)}">{images}</div>'
    where = f"{row['lat']:.4f}, {row['lon']:.4f}"
    head = f"<p><b>{row['id']:06}</b> · AOI {row['aoi_index']} · {where}</p>"
    return f'<div class="card">{head}<div class="rows">{groups}</div></div>'


def _sensor_row(key: str, row: Mapping[str, Any], thumbnails: Thumbnails) -> str:
    dates = row[f"{key}_dates"].split(",")
    names = [path.removesuffix("tif") + "png" for path in row[f"{key}_paths"].split(",")]
    images = (
        _image(thumbnails, name, f"{key} {_day(text)}") for name, text in zip(names, dates, strict=True)
    )
    return f'<div class="row" style="--n:{len(dates)}">{"".join(images)}</div>'


def _image(thumbnails: Thumbnails, name: str, caption: str) -> str:
    data = base64.b64encode(thumbnails.png(name)).decode()
    return (
        f'<figure><a href="{escape(name)}"><img loading="lazy" alt="{escape(caption)}" '
        f'src="data:image/png;base64,{data}"></a><figcaption>{escape(_whole(caption))}</figcaption></figure>'
    )


def _whole(text: str) -> str:
    """Write a text so that no line ends within a date."""
    return text.replace("-", "\N{NON-BREAKING HYPHEN}")


def _files(files: Sequence[str]) -> str:
    return "<ul>" + "".join(f'<li><a href="{escape(n)}">{escape(n)}</a></li>' for n in files) + "</ul>"


_STYLE = """
:root{--ink:#1c2430;--muted:#8a94a3;--line:#d9dee6;--paper:#fff;--wash:#f4f6f9;--accent:#2f6f8f;--bad:#b3402a}
@media(prefers-color-scheme:dark){:root{--ink:#e6e9ee;--muted:#8a94a3;--line:#343c48;--paper:#14181f;
--wash:#1d232c;--accent:#6fb3d2;--bad:#e8836d}}
*{box-sizing:border-box}
body{margin:0;font:16px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper)}
header,main{max-width:1080px;margin:0 auto;padding:0 16px}
h1{font-size:1.7rem;margin:1.4rem 0 .4rem;overflow-wrap:anywhere}h2{font-size:1.25rem;margin:0 0 .8rem}
h3{font-size:1rem;margin:1.4rem 0 .5rem}
nav{display:flex;flex-wrap:wrap;gap:.3rem 1rem;font-size:.9rem;padding-bottom:1rem}
a{color:var(--accent)}section{border-top:1px solid var(--line);padding:1.4rem 0}
.facts{display:grid;grid-template-columns:repeat(auto-fill,minmax(9.5rem,1fr));gap:.6rem;margin-bottom:1rem}
.facts div{background:var(--wash);border-radius:8px;padding:.6rem .8rem}
.facts b{display:block;font-size:1.15rem}.facts span,.muted{color:var(--muted);font-size:.85rem}
.warning{border-left:4px solid var(--bad);padding:.3rem .8rem;background:var(--wash)}
.scroll{overflow-x:auto}table{border-collapse:collapse;width:100%;font-size:.85rem}
th,td{text-align:left;padding:.3rem .8rem .3rem 0;border-bottom:1px solid var(--line);vertical-align:top}
td{white-space:nowrap}.wrap td{white-space:normal;min-width:4.2em}
th{color:var(--muted);font-weight:500;white-space:nowrap}
svg{display:block;width:100%;height:auto;overflow:visible}
svg text{font-size:13px;fill:var(--muted)}svg .axis{stroke:var(--line)}
svg .grid{stroke:var(--line);stroke-width:.7}
svg line,svg path,svg circle,svg rect{vector-effect:non-scaling-stroke}
svg .shade{fill:var(--wash)}svg .chip{stroke:var(--ink);stroke-width:.3}
svg .aoi{fill:none;stroke:var(--muted);stroke-width:1.2}svg .bad{stroke:var(--bad);stroke-dasharray:3 2}
.legend{display:flex;flex-wrap:wrap;gap:.2rem 1rem;font-size:.85rem;margin:.6rem 0}
.legend i{display:inline-block;width:.8em;height:.8em;margin-right:.4em;border:1px solid var(--muted)}
.legend .ring{border-radius:50%}.legend .ring.bad{border:1px dashed var(--bad)}
.bar{display:grid;grid-template-columns:11rem 1fr 12rem;gap:.8rem;align-items:center;
margin:.35rem 0;font-size:.9rem}
.track{position:relative;height:1.1rem;background:var(--wash);border-radius:3px}
.track div{position:absolute;left:0;top:0;bottom:0;border-radius:3px;min-width:1px}
.ghost{background:var(--line)}.fill{border:1px solid var(--muted)}.fill.step{background:var(--accent)}
.fill.loss{background:var(--bad);opacity:.7}
.ends{display:flex;justify-content:space-between;font-size:.75rem;color:var(--muted)}
.figures{display:grid;grid-template-columns:repeat(auto-fill,minmax(15rem,1fr));gap:1.4rem}
figure{margin:0}.figures p{font-size:.8rem;color:var(--muted);margin:.4rem 0 0}figcaption{font-size:.75rem}
.card{background:var(--wash);border-radius:8px;padding:.7rem .8rem;margin:.6rem 0}
.card p{margin:0 0 .4rem;font-size:.85rem}
.rows{display:flex;flex-wrap:wrap;gap:.5rem 1.5rem}
.row{display:grid;grid-template-columns:repeat(min(var(--n),4),7rem);gap:.5rem;margin:.2rem 0}
.row img{width:100%;display:block;image-rendering:pixelated;border-radius:3px;background:#000}
.row figcaption{color:var(--muted)}
@media(max-width:600px){.bar{gap:.1rem .8rem;grid-template-columns:1fr auto}
.bar .track{grid-row:2;grid-column:1/3}
.figures{grid-template-columns:1fr 1fr}.rows{display:block}.row{grid-template-columns:repeat(4,1fr);gap:.25rem}
.row figcaption{font-size:.6rem;line-height:1.2}
svg text{font-size:28px}th,td{padding-right:.5rem}.wrap td{min-width:0}}
@media print{nav{display:none}}
"""
