"""What building would take: scenes, sizes and candidate windows by AOI, and their sums."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta

from cube.build.plans import candidates_of, plan_cubes, wanted_aois
from cube.config.models import Config, Extent
from cube.errors import ReadError
from cube.run.command import EXIT_FAILED, print_table
from cube.run.layout import Layout
from cube.run.progress import draw_steps
from cube.scenes.estimate import MODEL, Cost
from cube.scenes.plan import CubePlan

from .features import feature_collection, plan_feature
from .outcome import AreaOutcome
from .page import AreaRecord, area_record, make_page
from .pictures import PictureReader

PLAN_PAGE = "plan.html"
PLAN_FEATURES = "plan.geojson"
"""Of the plans, in the version's folder: a page for people, and features for a GIS."""

_COLUMNS = [
    "AOI",
    "extent",
    "scenes",
    "blocks",
    "to fetch",
    "to store",
    "candidate windows, or why it is skipped",
]


def print_plans(
    config: Config,
    only: Sequence[int | str] = (),
    *,
    bars: bool = True,
    preview: bool = False,
    builds: str = "",
) -> int:
    """Plan AOIs (none named: all), print what their cubes would take, and show it on a page.

    Nothing is built; :data:`PLAN_PAGE` and :data:`PLAN_FEATURES` are written to the version's
    folder.

    Parameters
    ----------
    only
        Indices, names or ids of AOIs.
    preview
        Read the chosen scenes' overviews, and put a picture of each on the page.
    builds
        The command that builds what is planned, named at the end if there is anything.

    Returns
    -------
    int
        An exit code: 3 if the catalog, or some land cover, could not be read.
    """
    records: list[AreaRecord] = []
    features, rows = [], []
    reader = PictureReader(config) if preview else None
    count = len(wanted_aois(config, only=only))
    with draw_steps(bars=bars) as report:
        for area in _plan_areas(config, only):
            pictures = reader.read(area.plan) if reader and area.plan else None
            records.append(area_record(area, config, pictures))
            features.append(plan_feature(area))
            rows.append(_row(area))
            report("plans", len(rows), count)
    print_table("Plan", _COLUMNS, rows)
    total = sum((one.cost for one in records), Cost())
    candidates = sum((Counter(one.windows) for one in records), Counter[str]())
    print(
        f"in all: {_megabytes(total.fetch_bytes)} to fetch, {_megabytes(total.store_bytes)} to store, "
        f"about {timedelta(seconds=round(total.seconds))}; candidate windows: "
        + (_by_class(candidates) or "none")
    )
    print(MODEL)
    folder = Layout.of(config).root
    warnings = list(_size_warnings(config, total))
    folder.write(PLAN_FEATURES, feature_collection(features))
    folder.write(PLAN_PAGE, make_page(config, records, warnings))
    for text in warnings:
        print(f"warning: {text}")
    print(f"page      {folder}/{PLAN_PAGE}")
    print(f"for a GIS {folder}/{PLAN_FEATURES}")
    if builds and any(one.status == "planned" for one in records):
        print(f"next:\n  {builds}")
    return EXIT_FAILED if any(one.status == "failed" for one in records) else 0


def _plan_areas(config: Config, only: Sequence[int | str]) -> Iterator[AreaOutcome]:
    """Plan areas, and count their candidate windows; what cannot be read is that area's outcome."""
    for aoi, outcome in plan_cubes(config, only=only):
        if not isinstance(outcome, CubePlan):
            yield AreaOutcome(aoi, None, error=outcome)
            continue
        try:
            yield AreaOutcome(aoi, outcome, candidates_of(outcome, config))
        except ReadError as error:
            yield AreaOutcome(aoi, outcome, error=error)


def _row(area: AreaOutcome) -> list[object]:
    plan, cost = area.plan, area.cost
    if plan is None or area.error:
        return [area.aoi.label, "", "", "", "", "", area.reason]
    scenes = sum(len(date.scenes) for sensor in plan.sensors for date in sensor.dates)
    windows = _by_class(area.windows) or "no candidate window"
    size = extent_text(plan.bounds.width, plan.bounds.height)
    sizes = _megabytes(cost.fetch_bytes), _megabytes(cost.store_bytes)
    return [area.aoi.label, size, scenes, len(plan.all_blocks), *sizes, windows]


def _by_class(candidates: Mapping[str, int]) -> str:
    return ", ".join(f"{number} {title}" for title, number in candidates.items())


def _size_warnings(config: Config, total: Cost) -> Iterator[str]:
    """Print what is free where the cubes go, and yield what will not fit."""
    folder = Layout.of(config).cubes
    free = folder.free_bytes()
    if free is not None:
        print(f"free in {folder}: {_megabytes(free)}")
        if free < total.store_bytes:
            yield (
                f"the cubes take about {_megabytes(total.store_bytes - free)} more than is "
                "free; make room, or set directory.working to a larger disk"
            )
    if config.aoi.extent is Extent.OVERLAP and config.aoi.max_side_m is None:
        yield "aoi.extent overlap without aoi.max_side_m: a whole Sentinel-2 tile is 17 GB raw an AOI"


def extent_text(width_m: int | None, height_m: int | None) -> str:
    """Return the size of an extent in kilometres, or nothing where it is not known."""
    return f"{width_m / 1000:g} x {height_m / 1000:g} km" if width_m and height_m else ""


def _megabytes(count: float) -> str:
    return f"{count / 1e6:,.0f} MB"
