"""The commands of phase one: ``plan`` and ``build``."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from cube.run.command import (
    CommonOptions,
    Severals,
    config_options,
    print_table,
    run_verb,
    summarize_states,
    verb,
)

if TYPE_CHECKING:
    from cube.config.models import Config

    from .run import BuildSummary

_LOG = logging.getLogger(__name__)

_AOI_OPTION = click.option(
    "--aoi",
    cls=Severals,
    multiple=True,
    metavar="INDEX|NAME...",
    help="Only these AOIs, by index, name or id (several, or repeated).",
)


@dataclass(frozen=True)
class BuildOptions:
    """What a build is told beside its config."""

    aoi: tuple[str, ...] = ()
    """Indices, names or ids of the AOIs (empty: all)."""
    retry_failed: bool = False
    """Only AOIs that failed in an earlier run."""
    scheduler: str = ""
    """Address of a running Dask scheduler; empty: as the config says."""
    dry_run: bool = False
    """Plan and print, but build nothing."""


def build_options(function: Callable[..., int]) -> Callable[..., int]:
    """Give a command the options of a build: its second argument holds them."""

    @_AOI_OPTION
    @click.option("--retry-failed", is_flag=True, help="Only AOIs that failed before.")
    @click.option("--scheduler", default="", metavar="ADDRESS", help="A running Dask scheduler.")
    @click.option("--dry-run", is_flag=True, help="Plan and print, but build nothing.")
    @functools.wraps(function)
    def with_options(
        common: CommonOptions,
        aoi: tuple[str, ...],
        scheduler: str,
        *,
        retry_failed: bool,
        dry_run: bool,
        **others: Any,
    ) -> int:
        return function(common, BuildOptions(aoi, retry_failed, scheduler, dry_run), **others)

    return with_options


@verb("plan", "gelos-lc plan -c configs/demo.yaml", "gelos-lc plan -c configs/demo.yaml --aoi 0 1")
@config_options
@_AOI_OPTION
def plan_command(common: CommonOptions, aoi: tuple[str, ...]) -> int:
    """Show scenes, sizes and time of every AOI."""
    return run_plan(common, aoi)


@verb(
    "build",
    "gelos-lc build -c configs/demo.yaml",
    "gelos-lc build -c configs/demo.yaml --aoi 0 1 --set s2l2a.cloud_cover=20",
    "gelos-lc build -c configs/demo.yaml --retry-failed",
)
@config_options
@build_options
def build_command(common: CommonOptions, options: BuildOptions) -> int:
    """Build cubes, or complete what is left of them."""
    if options.dry_run:
        return run_plan(common, options.aoi)
    return run_verb("build_cubes", common, lambda config: run_build(config, options, bars=common.bars))


@verb("prune", "gelos-lc prune -c configs/demo.yaml", "gelos-lc prune -c configs/demo.yaml --yes")
@config_options
@click.option("--yes", is_flag=True, help="Remove them.")
def prune_command(common: CommonOptions, *, yes: bool) -> int:
    """List cubes and plans that no version uses, or remove them."""
    return run_verb("prune", common, lambda config: run_prune(config, remove=yes), keep_log=yes)


def run_prune(config: Config, *, remove: bool) -> int:
    """Print what no version of the working folder uses, and remove it if asked to; returns 0."""
    from cube.run.logs import event

    from .prune import cube_bytes, find_unused, remove_unused

    found = find_unused(config)
    sizes = {cube: cube_bytes(config, cube) for cube in found.cubes}
    print_table(
        "Used by no version", ["cube", "MB"], [[name, f"{n / 1e6:,.1f}"] for name, n in sizes.items()]
    )
    if remove:
        found = remove_unused(config, lambda cube: _LOG.info("removed %s", cube, extra=event("removed")))
    total = sum(sizes[cube] for cube in found.cubes if cube in sizes) / 1e6
    what = f"{len(found.cubes)} cubes ({total:,.1f} MB) and {len(found.plans)} plans"
    versions = f"no version here uses ({', '.join(found.versions) or 'there is none'})"
    print(f"removed {what}, which {versions}" if remove else f"{what} are there that {versions}")
    if not remove and (found.cubes or found.plans):
        print("--yes removes them; a config that needs one again fetches it again")
    return 0


def run_plan(common: CommonOptions, aoi: tuple[str, ...]) -> int:
    """Print what the cubes of AOIs would take (none named: of all); returns the exit code."""

    def show(config: Config) -> int:
        from .plan_table import print_plans

        return print_plans(config, aoi, bars=common.bars)

    return run_verb("plan", common, show, keep_log=False)


def run_build(config: Config, options: BuildOptions, *, bars: bool) -> int:
    """Build cubes, and print what became of every AOI; returns the exit code."""
    from cube.config.aoi import load_aois
    from cube.run.engine import open_engine
    from cube.run.layout import Layout
    from cube.run.logs import event
    from cube.run.progress import draw_aois
    from cube.run.status import StatusBoard

    from .plans import wanted_aois
    from .run import build_cubes

    compute = config.compute
    if options.scheduler:
        compute = compute.model_copy(update={"scheduler": options.scheduler})
    total = len(wanted_aois(config, only=options.aoi, retry_failed=options.retry_failed))
    try:
        with draw_aois(total, "cubes", bars=bars) as progress, open_engine(compute) as engine:
            summary = build_cubes(
                config, engine, only=options.aoi, retry_failed=options.retry_failed, progress=progress
            )
    except KeyboardInterrupt:
        rows = StatusBoard(Layout.of(config).root, load_aois(config)).rows
        _LOG.info("stopped: %s", summarize_states(rows), extra=event("stopped"))
        raise
    _print_summary(summary)
    return summary.exit_code


def _print_summary(summary: BuildSummary) -> None:
    from cube.config.aoi import aoi_label
    from cube.run.status import AoiState

    from .plan_table import extent_text

    rows = [
        [
            aoi_label(index, row.name or row.id),
            row.status,
            row.epsg or "",
            extent_text(row.width_m, row.height_m),
            row.reason,
        ]
        for state in (AoiState.FAILED, AoiState.SKIPPED, AoiState.BUILDING, AoiState.BUILT)
        for index, row in summary.rows.items()
        if row.status is state
    ]
    print_table("Cubes", ["AOI", "status", "EPSG", "extent", "reason"], rows)
    print(f"{summarize_states(summary.rows)}; {summary.fetched_blocks} blocks fetched")
    if summary.rows and not summary.fetched_blocks and summary.count(AoiState.BUILT) == len(summary.rows):
        print("nothing was fetched: the cubes are there, of this version or another in the same folder")
