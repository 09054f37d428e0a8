"""What building would take: scenes, sizes and candidate windows by AOI, and their sums."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from cube.config.models import Config, Extent
from cube.errors import GelosError, ReadError
from cube.run.command import EXIT_FAILED, print_table
from cube.run.layout import Layout
from cube.run.progress import draw_steps
from cube.run.storage import disk_errors
from cube.scenes.estimate import MODEL, Cost, estimate_cost
from cube.scenes.plan import CubePlan

from .plan_map import feature_collection, plan_feature
from .plans import candidates_of, plan_cubes, wanted_aois

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
    config: Config, only: Sequence[int | str] = (), *, bars: bool = True, geojson: Path | None = None
) -> int:
    """Plan AOIs (none named: all), and print what their cubes would take; nothing is built or kept.

    Parameters
    ----------
    geojson
        A file to write the plans to, as features.

    Returns
    -------
    int
        An exit code: 3 if the catalog, or some land cover, could not be read.
    """
    rows: list[list[object]] = []
    features: list[dict[str, Any]] = []
    total, candidates, failed = Cost(), Counter[str](), False
    count = len(wanted_aois(config, only=only))
    with draw_steps(bars=bars) as report:
        for aoi, outcome in plan_cubes(config, only=only):
            name = aoi.label
            found = _candidates_or_error(outcome, config) if isinstance(outcome, CubePlan) else outcome
            if isinstance(outcome, CubePlan) and isinstance(found, dict):
                cost = estimate_cost(outcome)
                total, candidates = total + cost, candidates + Counter(found)
                rows.append([name, *_planned_cells(outcome, cost, found)])
                features.append(plan_feature(aoi, outcome, found))
            else:
                assert not isinstance(found, dict)
                features.append(plan_feature(aoi, found))
                rows.append([name, "", "", "", "", "", str(found)])
                failed = failed or isinstance(found, GelosError)
            report("plans", len(rows), count)
    print_table("Plan", _COLUMNS, rows)
    print(
        f"in all: {_megabytes(total.fetch_bytes)} to fetch, {_megabytes(total.store_bytes)} to store, "
        f"about {timedelta(seconds=round(total.seconds))}; candidate windows: "
        + (_by_class(candidates) or "none")
    )
    print(MODEL)
    if geojson is not None:
        with disk_errors(str(geojson)):
            geojson.parent.mkdir(parents=True, exist_ok=True)
            geojson.write_bytes(feature_collection(features))
        print(f"plans     {geojson}")
    _warn_of_size(config, total)
    return EXIT_FAILED if failed else 0


def _candidates_or_error(plan: CubePlan, config: Config) -> dict[str, int] | ReadError:
    """Return the candidate windows by class; land cover that cannot be read is that AOI's row."""
    try:
        return candidates_of(plan, config)
    except ReadError as error:
        return error


def _planned_cells(plan: CubePlan, cost: Cost, candidates: Mapping[str, int]) -> list[object]:
    scenes = sum(len(date.scenes) for sensor in plan.sensors for date in sensor.dates)
    blocks = sum(len(plan.blocks(sensor.key)) for sensor in plan.sensors)
    windows = _by_class(candidates) or "no candidate window"
    size = extent_text(plan.bounds.width, plan.bounds.height)
    return [size, scenes, blocks, _megabytes(cost.fetch_bytes), _megabytes(cost.store_bytes), windows]


def _by_class(candidates: Mapping[str, int]) -> str:
    return ", ".join(f"{number} {title}" for title, number in candidates.items())


def _warn_of_size(config: Config, total: Cost) -> None:
    """Tell what is free where the cubes go, and what will not fit."""
    folder = Layout.of(config).cubes
    free = folder.free_bytes()
    if free is not None:
        print(f"free in {folder}: {_megabytes(free)}")
        if free < total.store_bytes:
            print(
                f"warning: the cubes take about {_megabytes(total.store_bytes - free)} more than is "
                "free; make room, or set directory.working to a larger disk"
            )
    if config.aoi.extent is Extent.OVERLAP and config.aoi.max_side_m is None:
        print(
            "warning: aoi.extent overlap without aoi.max_side_m: a whole Sentinel-2 tile is 17 GB raw an AOI"
        )


def extent_text(width_m: int | None, height_m: int | None) -> str:
    """Return the size of an extent in kilometres, or nothing where it is not known."""
    return f"{width_m / 1000:g} x {height_m / 1000:g} km" if width_m and height_m else ""


def _megabytes(count: float) -> str:
    return f"{count / 1e6:,.0f} MB"
