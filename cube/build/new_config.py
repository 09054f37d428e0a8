"""A config for a file of areas: the areas checked, sizes proposed, the cost said."""

from __future__ import annotations

import json
import os
import re
import shlex
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from cube.config.aoi import Aoi, load_aois, read_aois
from cube.config.models import Config
from cube.config.reading import load_config
from cube.errors import ConfigError
from cube.run.storage import disk_errors
from cube.scenes.estimate import MODEL, Cost, estimate_extent
from cube.windows.grid import Bounds, aoi_bounds
from cube.windows.lattice import WindowGeometry, WindowLattice
from cube.windows.projection import project, utm_epsg

_SIZES = ((10_000, 960, 960), (4_000, 480, 960), (0, 240, 480))
"""From which narrower side of an area on, metres, which sample and chip size: a small area is to
have a few dozen windows, too."""
_MUCH_OUTSIDE = 0.1
_TEMPLATE = """\
# Made for {file} ({count}). Each key is explained in docs/config.md; --set KEY=VALUE overrides one.
dataset:
  name: {name}
  version: "1"

aoi:
  path: {path}          # beside this file, or absolute
  extent: aoi           # the bounding box of each area; overlap: all that the chosen scenes share
  clip: none            # chips of the whole box; centre, whole: only those that lie in the polygon

directory:
  working: {working}    # cubes (about {store}), scores, chips; a folder or s3://...
  output: {output}      # releases
  zip_output: false

catalog:
  profile: planetary-computer     # or earth-search, cdse (docs/catalogs.md); url: a STAC API or a file of items
  cache: {cache}

# A sensor whose section is left out is left out of the dataset; the land cover has to stay.
s2l2a:
  time_ranges:          # one scene of each
    - "{year}-01-01/{year}-03-31"
    - "{year}-04-01/{year}-06-30"
    - "{year}-07-01/{year}-09-30"
    - "{year}-10-01/{year}-12-31"
  cloud_cover: 30       # percent of a scene; strict: below it
  cloud_band: SCL
  dtype: int16

s1rtc:
  delta_days: 12        # from the Sentinel-2 scene

lc2l2:
  delta_days: 91
  cloud_cover: 50
  cloud_band: qa_pixel

dem: {{}}

lulc:
  year: "{year}-01-02/{year}-12-31"

chips:
  # {sides}
  # {windows} windows of these sizes fit, before clouds and purity.
  sample_size: {sample}      # metres, on which land cover is judged
  chip_size: {chip}        # metres, what a chip shows
  min_purity: 0.95      # share of the sample window in its class
"""


@dataclass(frozen=True)
class Proposal:
    """A config that was written."""

    path: Path
    aois: int
    windows: int
    """Windows of all areas, before any rule."""
    empty: tuple[int, ...]
    """Indices of areas in which no chip fits."""
    outside: float
    """Share of the cubes that lies outside the polygons."""
    cost: Cost

    def __str__(self) -> str:
        """Tell what it is for, what it costs, and what to type next."""
        config = shlex.quote(str(self.path))
        lines = [f"{self.path}: {_counted(self.aois, 'area')}, {self.windows:,} windows before any rule"]
        if self.empty:
            lines.append(
                f"warning: no chip fits into AOI {', '.join(map(str, self.empty))}; make chips.chip_size smaller"
            )
        if self.outside > _MUCH_OUTSIDE:
            lines.append(
                f"{self.outside:.0%} of the cubes lies outside the polygons, and gives chips as well; "
                "aoi.clip: centre, or whole, leaves those out"
            )
        fetched, stored = _size(self.cost.fetch_bytes), _size(self.cost.store_bytes)
        duration = timedelta(seconds=round(self.cost.seconds))
        lines += [
            f"about {fetched} to fetch and {stored} to store, {duration} at 25 MB/s",
            MODEL,
            "next:",
            f"  gelos-lc doctor -c {config}  # network, tokens, folders",
            f"  gelos-lc plan -c {config}    # scenes of each area; nothing is built",
            f"  gelos-lc run -c {config}     # cubes, chips, release",
        ]
        return "\n".join(lines)


def write_config(aois_path: Path, path: Path | None, year: int) -> Proposal:
    """Check a file of areas, and write a config for it.

    Parameters
    ----------
    aois_path
        Polygons.
    path
        The config to write (default: called as the areas, in the working folder); its folder is
        made if need be.
    year
        Whose quarters and land cover.

    Raises
    ------
    AoiError
        If the areas cannot be used.
    ConfigError
        If there is a file of that name.
    """
    path = path or Path(f"{aois_path.stem}.yaml")
    if path.exists():
        raise ConfigError(f"{path} exists; name another with -o, or remove it")
    aois = read_aois(aois_path)
    boxes = [(aoi_bounds(aoi.geometry, epsg), epsg) for aoi in aois for epsg in [utm_epsg(aoi.geometry)]]
    staging = path.with_name(f".{path.name}.partial")
    with disk_errors(str(path)):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            # Written twice: what the areas cost, which a comment tells, is known of a config alone.
            staging.write_text(_text(aois_path, path, aois, boxes, year), encoding="utf-8")
            cost = _total_cost(load_config(staging), boxes)
            text = _text(aois_path, path, aois, boxes, year, cost)
            staging.write_text(text, encoding="utf-8")
            load_aois(load_config(staging))
            staging.replace(path)
        finally:
            staging.unlink(missing_ok=True)
    counts = _window_counts(boxes, *_sizes(boxes))
    empty = tuple(aoi.index for aoi, count in zip(aois, counts, strict=True) if not count)
    inside = sum(project(aoi.geometry, epsg).area for aoi, (_, epsg) in zip(aois, boxes, strict=True))
    outside = 1 - inside / sum(box.width * box.height for box, _ in boxes)
    return Proposal(path, len(aois), sum(counts), empty, outside, cost)


def _text(
    aois_path: Path,
    path: Path,
    aois: Sequence[Aoi],
    boxes: Sequence[tuple[Bounds, int]],
    year: int,
    cost: Cost | None = None,
) -> str:
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", aois_path.stem).strip("-._") or "areas"
    sample, chip = _sizes(boxes)
    sides = sorted({min(box.width, box.height) / 1000 for box, _ in boxes})
    return _TEMPLATE.format(
        file=" ".join(aois_path.name.split()),
        count=_counted(len(aois), "area"),
        name=name,
        path=json.dumps(_beside(aois_path, path), ensure_ascii=False),
        working=f"data/{name}/interim",
        output=f"data/{name}/processed",
        cache=f"data/{name}/searches",
        store=_size(cost.store_bytes) if cost else "",
        year=year,
        sides=f"The areas' narrower sides are {_from_to(sides)} km on the cubes' grid.",
        windows=f"{sum(_window_counts(boxes, sample, chip)):,}",
        sample=sample,
        chip=chip,
    )


def _from_to(ordered: Sequence[float]) -> str:
    ends = [f"{ordered[0]:g}", f"{ordered[-1]:g}"]
    return " to ".join(dict.fromkeys(ends))


def _beside(aois_path: Path, path: Path) -> str:
    """Return where the areas lie, seen from the config; whole where that leads to the root."""
    aois_path, folder = aois_path.absolute(), path.absolute().parent
    common = os.path.commonpath([aois_path, folder])
    return str(aois_path) if common == os.sep else os.path.relpath(aois_path, folder)


def _sizes(boxes: Sequence[tuple[Bounds, int]]) -> tuple[int, int]:
    """Return sample and chip size for areas of such sizes."""
    side = statistics.median(min(box.width, box.height) for box, _ in boxes)
    return next((sample, chip) for least, sample, chip in _SIZES if side >= least)


def _window_counts(boxes: Sequence[tuple[Bounds, int]], sample: int, chip: int) -> list[int]:
    geometry = WindowGeometry(sample, chip, sample)
    return [len(WindowLattice(geometry, box, epsg)) for box, epsg in boxes]


def _total_cost(config: Config, boxes: Sequence[tuple[Bounds, int]]) -> Cost:
    return sum((estimate_extent(config, box, epsg) for box, epsg in boxes), Cost())


def _size(count: float) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.0f} MB"


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
