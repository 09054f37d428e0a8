"""The commands ``release`` and ``verify``, and ``run``, which does all phases."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from chipping.commands import run_chip
from cube.build.commands import BuildOptions, build_options, run_build, run_plan
from cube.errors import GelosError
from cube.run.command import (
    EXIT_USAGE,
    CommonOptions,
    UserPath,
    config_options,
    counted,
    run_verb,
    shard_option,
    terminated_as_interrupted,
    typed_on_release,
    verb,
)

if TYPE_CHECKING:
    from cube.config.models import Config
    from cube.run.shards import Share

    from .make import ReleaseSummary
    from .opening.faults import Fault

_EXIT_FAULTY = 1
_FORCE_OPTION = click.option("--force", is_flag=True, help="Replace a different release of this version.")


@verb(
    "release",
    "gelos-lc release -c configs/demo.yaml",
    "gelos-lc release -c configs/demo.yaml --force",
    "gelos-lc release -c configs/demo.yaml --set release.shard_chips=20 --shard 1/2",
)
@config_options
@_FORCE_OPTION
@shard_option("shard")
def release_command(common: CommonOptions, *, force: bool, shard: Share | None) -> int:
    """Make a release from the chips of a dataset version.

    Runs of a share make the shards of one release together: each its own, and then those that no
    run is at. Once they have ended, the release is there.
    """

    def release(config: Config) -> int:
        from .make import check_output

        check_output(config, force=force)
        return _run_release(config, common, force=force, shard=shard)

    return run_verb(f"release-{shard.name}" if shard else "release", common, release)


def _run_release(config: Config, common: CommonOptions, *, force: bool, shard: Share | None = None) -> int:
    from cube.config.sensors import CLASS_NAMES
    from cube.run.progress import draw_steps

    from .make import make_release

    with draw_steps(bars=common.bars) as progress:
        summary = make_release(config, force=force, progress=progress, shard=shard)
    done = "written" if summary.written else "already there, unchanged"
    print(f"{config.dataset.name} {config.dataset.version}: {summary.chips} chips, {done}")
    for code, count in summary.after.items():
        given_up = summary.before[code] - count
        balance = f", {given_up} given up for balance" if given_up else ""
        print(f"  {count:8} chips of {code} {CLASS_NAMES[code]}{balance}")
    for name, count in summary.splits.items():
        print(f"  split {name}: {count}")
    for reason, count in summary.funnel:
        print(f"  left out, {reason}: {count}")
    for warning in summary.warnings:
        print(f"  warning: {warning}")
    print(f"SHA256SUMS {summary.fingerprint}")
    _print_places(
        summary, common, typed_on_release("verify", summary.folder, config.directory.storage_options)
    )
    return 0


def _print_places(summary: ReleaseSummary, common: CommonOptions, verify: str) -> None:
    """Print where things are, and what one would do next."""
    from .card import CARD_NAME
    from .report.browser import BROWSE_NAME
    from .report.page import REPORT_NAME

    print(f"release   {summary.folder}")
    print(f"report    {summary.folder}/{REPORT_NAME}")
    print(f"browser   {summary.folder}/{BROWSE_NAME}")
    print(f"card      {summary.folder}/{CARD_NAME}")
    if summary.zip:
        print(f"zip       {summary.zip}")
    print("next:")
    print(f"  {verify}")
    print(f"  {common.typed('sheet')} -o sheet.png")
    print(f"  {common.typed('sweep')} --grid chips.min_purity=0.9,0.95,1.0")


@verb(
    "run",
    "gelos-lc run -c configs/demo.yaml",
    "gelos-lc run -c configs/demo.yaml --set chips.min_purity=0.9 --force",
)
@config_options
@build_options
@_FORCE_OPTION
def run_command(common: CommonOptions, options: BuildOptions, *, force: bool) -> int:
    """Build cubes, cut chips and make a release, in a row."""

    def do_all(config: Config) -> int:
        from chipping.finished import sealed_cubes

        from .make import check_output

        check_output(config, force=force)
        built = run_build(config, options, bars=common.bars)  # if one failed, the others go on
        if not sealed_cubes(config):
            print("no cube was made, so there is nothing to cut chips from")
            return built
        chipped = run_chip(config, bars=common.bars)
        return max(built, chipped, _run_release(config, common, force=force))

    if options.dry_run:
        return run_plan(common, options.aoi)
    return run_verb("run", common, do_all)


@verb(
    "verify",
    "gelos-lc verify data/demo/processed/demo",
    "gelos-lc verify data/demo/processed/gelos-lc-demo_demo.zip --workers 4",
    "gelos-lc verify data/demo/processed/demo --json",
    "gelos-lc verify data/demo/processed/v1 --shard 1/8",
)
@click.argument("release", type=UserPath())
@click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Processes (default: one per core).")
@click.option("--json", "as_json", is_flag=True, help="What is wrong as JSON, in place of lines.")
@shard_option("shard")
def verify_command(release: str, workers: int | None, *, as_json: bool, shard: Share | None) -> int:
    """Check a release: a line for each fault.

    RELEASE is a folder or a zip. Exit code 1 if there is a fault. Runs of a share check their
    shards, and the first all that lies in none.
    """
    from .opening.faults import one_line
    from .verify.release import verify

    logging.getLogger("rasterio").setLevel(logging.CRITICAL)  # what GDAL finds, the faults say
    try:
        with terminated_as_interrupted():
            found = verify(release, workers, shard)
    except GelosError as error:
        click.echo(f"error: {error}", err=True)
        return EXIT_USAGE
    faults = sum(not fault.warning for fault in found)
    if as_json:
        print(_faults_json(release, found, shard))
    else:
        for fault in found:
            print(fault)
        what = f"{one_line(release)}, share {shard}" if shard else one_line(release)
        print(f"{what}: {counted(faults, 'fault')}, {counted(len(found) - faults, 'warning')}")
    return _EXIT_FAULTY if faults else 0


def _faults_json(release: str, found: Sequence[Fault], shard: Share | None) -> str:
    counts = {"faults": sum(not one.warning for one in found), "warnings": sum(one.warning for one in found)}
    about = {"release": release, **({"shard": str(shard)} if shard else {}), **counts}
    return json.dumps({**about, "found": [asdict(one) for one in found]}, indent=1)
