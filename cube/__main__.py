"""Phase one from the command line: ``python -m cube -c CONFIG``, as ``scripts/build_cubes.py`` does."""

from __future__ import annotations

import argparse
import logging
import sys
from collections import Counter
from collections.abc import Mapping
from datetime import timedelta

from .build.plans import candidates_of, plan_cubes, wanted_aois
from .build.run import BuildSummary, build_cubes
from .config.aoi import load_aois
from .config.models import Config, Extent
from .errors import GelosError, ReadError
from .run.command import EXIT_FAILED, config_parser, print_table, run_verb, summarize_states
from .run.engine import open_engine
from .run.layout import Layout
from .run.logs import event
from .run.progress import draw_aois, draw_steps
from .run.status import AoiState, StatusBoard
from .scenes.estimate import MODEL, Cost, estimate_cost
from .scenes.plan import CubePlan

_LOG = logging.getLogger(__name__)
_WORST_FIRST = (AoiState.FAILED, AoiState.SKIPPED, AoiState.BUILDING, AoiState.BUILT)


def build(config: Config, arguments: argparse.Namespace) -> int:
    """Build cubes, or show what would be built."""
    if arguments.scheduler:
        compute = config.compute.model_copy(update={"scheduler": arguments.scheduler})
        config = config.model_copy(update={"compute": compute})
    if arguments.dry_run:
        return _dry_run(config, arguments)
    which = {"only": arguments.aoi, "retry_failed": arguments.retry_failed}
    total, bars = len(wanted_aois(config, **which)), not arguments.json_logs
    try:
        with draw_aois(total, "cubes", bars=bars) as progress, open_engine(config.compute) as engine:
            summary = build_cubes(config, engine, **which, progress=progress)
    except KeyboardInterrupt:
        rows = StatusBoard(Layout.of(config).root, load_aois(config)).rows
        _LOG.info("stopped: %s", summarize_states(rows), extra=event("stopped"))
        raise
    _print_summary(summary)
    return summary.exit_code


def _print_summary(summary: BuildSummary) -> None:
    rows = [
        [f"{index:06}", row.status, row.epsg or "", _extent(row.width_m, row.height_m), row.reason]
        for state in _WORST_FIRST
        for index, row in summary.rows.items()
        if row.status is state
    ]
    print_table("Cubes", ["AOI", "status", "EPSG", "extent", "reason"], rows)
    print(f"{summarize_states(summary.rows)}; {summary.fetched_blocks} blocks fetched")


def _extent(width_m: int | None, height_m: int | None) -> str:
    return f"{width_m / 1000:g} x {height_m / 1000:g} km" if width_m and height_m else ""


def _dry_run(config: Config, arguments: argparse.Namespace) -> int:
    rows: list[list[object]] = []
    total, candidates, failed = Cost(), Counter[str](), False
    count = len(set(arguments.aoi)) or len(load_aois(config))
    with draw_steps(bars=not arguments.json_logs) as report:
        for aoi, outcome in plan_cubes(config, only=arguments.aoi):
            name = f"{aoi.index:06}"
            found = _candidates(outcome, config) if isinstance(outcome, CubePlan) else outcome
            if isinstance(outcome, CubePlan) and isinstance(found, dict):
                cost = estimate_cost(outcome)
                total, candidates = total + cost, candidates + Counter(found)
                rows.append([name, *_planned(outcome, cost, found)])
            else:
                rows.append([name, "", "", "", "", "", str(found)])
                failed = failed or isinstance(found, GelosError)
            report("plans", len(rows), count)
    columns = [
        "AOI",
        "extent",
        "scenes",
        "blocks",
        "to fetch",
        "to store",
        "candidate windows, or why it is skipped",
    ]
    print_table("Plan", columns, rows)
    print(
        f"in all: {_megabytes(total.fetch_bytes)} to fetch, {_megabytes(total.store_bytes)} to store, ",
        end="",
    )
    print(f"about {timedelta(seconds=round(total.seconds))}; candidate windows: ", end="")
    print(", ".join(f"{number} {title}" for title, number in candidates.items()) or "none")
    print(MODEL)
    _warn_of_size(config, total)
    return EXIT_FAILED if failed else 0


def _candidates(plan: CubePlan, config: Config) -> dict[str, int] | ReadError:
    """Return the candidate windows by class; land cover that cannot be read is that AOI's row."""
    try:
        return candidates_of(plan, config)
    except ReadError as error:
        return error


def _planned(plan: CubePlan, cost: Cost, candidates: Mapping[str, int]) -> list[object]:
    scenes = sum(len(date.scenes) for sensor in plan.sensors for date in sensor.dates)
    blocks = sum(len(plan.blocks(sensor.key)) for sensor in plan.sensors)
    windows = ", ".join(f"{number} {title}" for title, number in candidates.items()) or "no candidate window"
    size = _extent(plan.bounds.width, plan.bounds.height)
    return [size, scenes, blocks, _megabytes(cost.fetch_bytes), _megabytes(cost.store_bytes), windows]


def _warn_of_size(config: Config, total: Cost) -> None:
    """Tell what is free where the cubes go, and what will not fit."""
    folder = Layout.of(config).cubes
    free = folder.free_bytes()
    if free is not None:
        print(f"free in {folder}: {_megabytes(free)}")
        if free < total.store_bytes:
            print(
                f"warning: the cubes take about {_megabytes(total.store_bytes - free)} more than is free; make room, "
                "or set directory.working to a larger disk"
            )
    if config.aoi.extent is Extent.OVERLAP and config.aoi.max_side_m is None:
        print(
            "warning: aoi.extent overlap without aoi.max_side_m: a whole Sentinel-2 tile is 17 GB raw an AOI"
        )


def _megabytes(count: float) -> str:
    return f"{count / 1e6:,.0f} MB"


def build_parser(description: str) -> argparse.ArgumentParser:
    """Return a parser with phase one's arguments."""
    parser = config_parser(description)
    parser.add_argument("--dry-run", action="store_true", help="plan and print, but build nothing")
    parser.add_argument("--aoi", type=int, nargs="+", default=[], metavar="INDEX", help="only these AOIs")
    parser.add_argument("--retry-failed", action="store_true", help="only AOIs that failed before")
    parser.add_argument("--scheduler", default="", metavar="ADDRESS", help="a running Dask scheduler")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run ``build_cubes``; return its exit code."""
    parser = build_parser("Build the cubes of a dataset version, or complete what an earlier run left.")
    return run_verb("build_cubes", parser, build, argv)


if __name__ == "__main__":
    sys.exit(main())
