"""The commands of phase one: ``init``, ``doctor``, ``plan``, ``build`` and ``prune``."""

from __future__ import annotations

import dataclasses
import functools
import logging
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cube.run.command import (
    EXIT_FAULT,
    EXIT_USAGE,
    CommonOptions,
    Severals,
    UserPath,
    config_options,
    print_table,
    run_verb,
    shard_option,
    summarize_states,
    verb,
)

if TYPE_CHECKING:
    from cube.config.models import Config
    from cube.doctor.check import Check
    from cube.run.shards import Share

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
    """Only AOIs that failed in an earlier run; the catalog is asked again for them."""
    recheck_lost: bool = False
    """Ask again for scenes whose files were missing or broken."""
    scheduler: str = ""
    """Address of a running Dask scheduler; empty: as the config says."""
    dry_run: bool = False
    """Plan and print, but build nothing."""
    shard: Share | None = None
    """Which share of the AOIs is this run's (None: all are)."""


def build_options(function: Callable[..., int]) -> Callable[..., int]:
    """Give a command the options of a build: its second argument holds them."""

    @_AOI_OPTION
    @click.option(
        "--retry-failed", is_flag=True, help="Only AOIs that failed before; the catalog is asked again."
    )
    @click.option(
        "--recheck-lost", is_flag=True, help="Ask again for scenes whose files were missing or broken."
    )
    @click.option("--scheduler", default="", metavar="ADDRESS", help="A running Dask scheduler.")
    @click.option("--dry-run", is_flag=True, help="Plan and print, but build nothing.")
    @functools.wraps(function)
    def with_options(
        common: CommonOptions,
        aoi: tuple[str, ...],
        scheduler: str,
        *,
        retry_failed: bool,
        recheck_lost: bool,
        dry_run: bool,
        **others: Any,
    ) -> int:
        return function(common, BuildOptions(aoi, retry_failed, recheck_lost, scheduler, dry_run), **others)

    return with_options


@verb("init", "gelos-lc init areas.gpkg", "gelos-lc init areas.geojson -o configs/mine.yaml --year 2022")
@click.argument("aois", type=UserPath())
@click.option(
    "-o", "--output", default="", type=UserPath(), help="The config to write (default: AOIS.yaml, here)."
)
@click.option(
    "--year",
    type=click.IntRange(2017, 2023),
    default=2023,
    show_default=True,
    help="Its four quarters, and its land cover.",
)
def init_command(aois: str, output: str, year: int) -> int:
    """Write a commented config for a file of areas.

    AOIS holds polygons, in GeoJSON, GeoPackage, GeoParquet, Shapefile, FlatGeobuf or KML. They are
    checked, sizes of chips are proposed, and it is said what the areas would cost. No network.
    """
    from cube.errors import GelosError

    from .new_config import write_config

    try:
        proposal = write_config(Path(aois), Path(output) if output else None, year)
    except GelosError as error:
        click.echo(f"error: {error}", err=True)
        return EXIT_USAGE
    click.echo(str(proposal))
    return 0


@verb(
    "plan",
    "gelos-lc plan -c configs/demo.yaml",
    "gelos-lc plan -c configs/demo.yaml --aoi 0 1 --preview",
)
@config_options
@_AOI_OPTION
@click.option(
    "--preview",
    is_flag=True,
    help="Put a picture of each chosen scene on the page, read from its overviews (1 to 3 MB each).",
)
def plan_command(common: CommonOptions, aoi: tuple[str, ...], *, preview: bool) -> int:
    """Show scenes, sizes and time of every AOI; nothing is built.

    Into the version's folder of the working folder go plan.html, a page that shows which scenes
    each area would take and why the others lost, and plan.geojson, the same for a GIS.
    """
    return run_plan(common, aoi, preview=preview)


@verb(
    "build",
    "gelos-lc build -c configs/demo.yaml",
    "gelos-lc build -c configs/demo.yaml --aoi 0 1 --set s2l2a.cloud_cover=20",
    "gelos-lc build -c configs/demo.yaml --retry-failed",
    "gelos-lc build -c configs/demo.yaml --shard 1/2",
)
@config_options
@build_options
@shard_option("AOI")
def build_command(common: CommonOptions, options: BuildOptions, *, shard: Share | None) -> int:
    """Build cubes, or complete what is left of them."""
    if options.dry_run:
        return run_plan(common, options.aoi)
    options = dataclasses.replace(options, shard=shard)
    what = f"build-{shard.name}" if shard else "build"

    def build(config: Config) -> int:
        code = run_build(config, options, bars=common.bars)
        print(f"next:\n  {common.typed('status')}  # all areas of the version, and what to type then")
        return code

    return run_verb(what, common, build)


@verb("doctor", "gelos-lc doctor", "gelos-lc doctor -c configs/demo.yaml")
@click.option("-c", "--config", default="", type=click.Path(), help="The dataset version's YAML file.")
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Override a config key (repeatable)."
)
def doctor_command(config: str, settings: tuple[str, ...]) -> int:
    """Look at all that a run needs: a line each, with what to do.

    Machine and libraries; with a config also disks, catalog, clock, tokens, a small read of each
    sensor, folders and buckets, and the Dask cluster. Exit code 1 if a check fails.
    """
    from cube.run.command import terminated_as_interrupted
    from cube.run.logs import RunLog

    failed = 0
    with RunLog(), terminated_as_interrupted():
        for check in _checks(config, settings):
            click.echo(str(check))
            failed += not check.ok
    return EXIT_FAULT if failed else 0


def _checks(path: str, settings: tuple[str, ...]) -> Iterator[Check]:
    from cube.config.reading import load_config
    from cube.doctor.check import Check
    from cube.doctor.examine import examine
    from cube.doctor.machine import check_machine
    from cube.errors import GelosError

    from .plans import access_of

    if not path:
        yield from check_machine()
        return
    try:
        config = load_config(path, settings)
        config.aoi_path  # noqa: B018  raises where it is nowhere
    except GelosError as error:
        found, _, mend = str(error).partition("; ")
        yield Check("config", ok=False, found=found, mend=mend or "mend the file")
        yield from check_machine()
        return
    yield Check("config", ok=True, found=f"{path} is {config.dataset.name} {config.dataset.version}")
    yield from examine(config, functools.partial(access_of, config))


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


def run_plan(common: CommonOptions, aoi: tuple[str, ...], *, preview: bool = False) -> int:
    """Show what the cubes of AOIs would take (none named: of all); returns the exit code."""

    def show(config: Config) -> int:
        from .dry_run.table import print_plans

        only = f" {shlex.join(['--aoi', *aoi])}" if aoi else ""
        builds = f"{common.typed('run')}{only}  # cubes, chips, release"
        return print_plans(config, aoi, bars=common.bars, preview=preview, builds=builds)

    return run_verb("plan", common, show, keep_log=False)


def run_build(config: Config, options: BuildOptions, *, bars: bool) -> int:
    """Build cubes, and print what became of every AOI; returns the exit code."""
    from cube.config.aoi import load_aois
    from cube.doctor.examine import examine_cheaply
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
    shard = options.shard
    wanted = wanted_aois(config, only=options.aoi, retry_failed=options.retry_failed)
    total = len(shard.of(wanted) if shard else wanted)
    Layout.of(config).make(config)
    for check in examine_cheaply(config):
        if not check.ok:
            _LOG.warning("%s: %s; %s", check.name, check.found, check.mend)
    try:
        with draw_aois(total, "cubes", bars=bars) as progress, open_engine(compute) as engine:
            summary = build_cubes(
                config,
                engine,
                only=options.aoi,
                shard=shard,
                retry_failed=options.retry_failed,
                recheck_lost=options.recheck_lost,
                progress=progress,
            )
    except KeyboardInterrupt:
        rows = StatusBoard(Layout.of(config).root, load_aois(config)).rows
        _LOG.info("stopped: %s", summarize_states(rows), extra=event("stopped"))
        raise
    print_summary(summary)
    return summary.exit_code


def print_summary(summary: BuildSummary) -> None:
    """Print what became of every AOI of a run, and what their states do not say."""
    from cube.run.status import AoiState

    from .overview import print_areas

    if not summary.rows:
        print("no AOI failed in an earlier run: there is nothing to do again")
        return
    print_areas(summary.rows, summary.fetched_blocks)
    if not summary.fetched_blocks and summary.count(AoiState.BUILT) == len(summary.rows):
        print("nothing was fetched: the cubes are there, of this version or another in the same folder")
    if summary.count(AoiState.FAILED):
        print("what failed is built again by the same command with --retry-failed")
