"""The commands ``release`` and ``verify``, and ``run``, which does all phases."""

from __future__ import annotations

import json
import logging
import shlex
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
    terminated_as_interrupted,
    verb,
)

if TYPE_CHECKING:
    from cube.config.models import Config

    from .make import ReleaseSummary
    from .opening.faults import Fault

_EXIT_FAULTY = 1
_FORCE_OPTION = click.option("--force", is_flag=True, help="Replace a different release of this version.")


@verb("release", "gelos-lc release -c configs/demo.yaml", "gelos-lc release -c configs/demo.yaml --force")
@config_options
@_FORCE_OPTION
def release_command(common: CommonOptions, *, force: bool) -> int:
    """Make a release from the chips of a dataset version."""
    return run_verb("release", common, lambda config: _run_release(config, common, force=force))


def _run_release(config: Config, common: CommonOptions, *, force: bool) -> int:
    from cube.config.sensors import CLASS_NAMES
    from cube.run.progress import draw_steps

    from .make import make_release

    with draw_steps(bars=common.bars) as progress:
        summary = make_release(config, force=force, progress=progress)
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
    _print_places(summary, common)
    return 0


def _print_places(summary: ReleaseSummary, common: CommonOptions) -> None:
    """Print where things are, and what one would do next."""
    from .card import CARD_NAME
    from .report import REPORT_NAME

    print(f"release   {summary.folder}")
    print(f"report    {summary.folder}/{REPORT_NAME}")
    print(f"card      {summary.folder}/{CARD_NAME}")
    if summary.zip:
        print(f"zip       {summary.zip}")
    print("next:")
    print(f"  gelos-lc verify {shlex.quote(summary.folder)}")
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
)
@click.argument("release", type=UserPath())
@click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Processes (default: one per core).")
@click.option("--json", "as_json", is_flag=True, help="What is wrong as JSON, in place of lines.")
def verify_command(release: str, workers: int | None, *, as_json: bool) -> int:
    """Check a release: a line for each fault.

    RELEASE is a folder or a zip. Exit code 1 if there is a fault.
    """
    from .opening.faults import one_line
    from .verify.release import verify

    logging.getLogger("rasterio").setLevel(logging.CRITICAL)  # what GDAL finds, the faults say
    try:
        with terminated_as_interrupted():
            found = verify(release, workers)
    except GelosError as error:
        click.echo(f"error: {error}", err=True)
        return EXIT_USAGE
    faults = sum(not fault.warning for fault in found)
    if as_json:
        print(_faults_json(release, found))
    else:
        for fault in found:
            print(fault)
        print(f"{one_line(release)}: {counted(faults, 'fault')}, {counted(len(found) - faults, 'warning')}")
    return _EXIT_FAULTY if faults else 0


def _faults_json(release: str, found: Sequence[Fault]) -> str:
    counts = {"faults": sum(not one.warning for one in found), "warnings": sum(one.warning for one in found)}
    return json.dumps({"release": release, **counts, "found": [asdict(one) for one in found]}, indent=1)
