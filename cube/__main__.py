"""Phase one from the command line: ``python -m cube -c CONFIG``, as ``scripts/build_cubes.py`` does."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from datetime import timedelta

from .aoi import load_aois
from .build import BuildSummary, build_cubes, candidates_of, plan_cubes
from .command import config_parser, draw_aois, print_table, run_verb, summarize_states
from .config import Config, Extent
from .engine import open_engine
from .estimate import MODEL, Cost, estimate_cost
from .layout import Layout
from .plan import CubePlan
from .status import AoiState, StatusBoard


def build(config: Config, arguments: argparse.Namespace) -> int:
    """Build cubes, or show what would be built."""
    if arguments.scheduler:
        compute = config.compute.model_copy(update={"scheduler": arguments.scheduler})
        config = config.model_copy(update={"compute": compute})
    if arguments.dry_run:
        return _dry_run(config, arguments.aoi)
    aois = load_aois(config)
    total = len(arguments.aoi) or len(aois)
    try:
        with draw_aois(total, "cubes") as progress, open_engine(config.compute) as engine:
            summary = build_cubes(
                config, engine, only=arguments.aoi, retry_failed=arguments.retry_failed, progress=progress
            )
    except KeyboardInterrupt:
        rows = StatusBoard(Layout.of(config).root, aois).rows
        print(f"stopped: {summarize_states(rows)}", file=sys.stderr)
        raise
    _print_summary(summary)
    return summary.exit_code


def _print_summary(summary: BuildSummary) -> None:
    rows = [
        [
            f"{index:06}",
            row.status,
            row.epsg or "",
            f"{(row.width_m or 0) / 1000:g} x {(row.height_m or 0) / 1000:g} km",
            row.reason,
        ]
        for index, row in summary.rows.items()
        if row.status is not AoiState.PENDING
    ]
    print_table("Cubes", ["AOI", "status", "EPSG", "extent", "reason"], rows)
    print(f"{summarize_states(summary.rows)}; {summary.fetched_blocks} blocks fetched")


def _dry_run(config: Config, only: list[int]) -> int:
    rows, total, candidates = [], Cost(), Counter[str]()
    for aoi, outcome in plan_cubes(config, only=only):
        name = f"{aoi.index:06}"
        if not isinstance(outcome, CubePlan):
            rows.append([name, "", "", "", "", "", str(outcome)])
            continue
        cost, found = estimate_cost(outcome), candidates_of(outcome, config)
        total, candidates = total + cost, candidates + Counter(found)
        scenes = sum(len(date.scenes) for sensor in outcome.sensors for date in sensor.dates)
        blocks = sum(len(outcome.blocks(sensor.key)) for sensor in outcome.sensors)
        size = f"{outcome.bounds.width / 1000:g} x {outcome.bounds.height / 1000:g} km"
        windows = ", ".join(f"{number} {title}" for title, number in found.items()) or "no candidate window"
        rows.append(
            [name, size, scenes, blocks, _megabytes(cost.fetch_bytes), _megabytes(cost.store_bytes), windows]
        )
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
    if config.aoi.extent is Extent.OVERLAP and config.aoi.max_side_m is None:
        print(
            "warning: aoi.extent overlap without aoi.max_side_m: a whole Sentinel-2 tile is 17 GB raw an AOI"
        )
    return 0


def _megabytes(count: float) -> str:
    return f"{count / 1e6:,.0f} MB"


def main(argv: list[str] | None = None) -> int:
    """Run ``build_cubes``; return its exit code."""
    parser = config_parser("Build the cubes of a dataset version, or complete what an earlier run left.")
    parser.add_argument("--dry-run", action="store_true", help="plan and print, but build nothing")
    parser.add_argument("--aoi", type=int, nargs="+", default=[], metavar="INDEX", help="only these AOIs")
    parser.add_argument("--retry-failed", action="store_true", help="only AOIs that failed before")
    parser.add_argument("--scheduler", default="", metavar="ADDRESS", help="a running Dask scheduler")
    return run_verb(parser, build, argv)


if __name__ == "__main__":
    sys.exit(main())
