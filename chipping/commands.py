"""The commands of phase two: ``chip``, ``sweep`` and ``sheet``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cube.run.command import (
    CommonOptions,
    Severals,
    UserPath,
    config_options,
    print_table,
    run_verb,
    shard_option,
    verb,
)

if TYPE_CHECKING:
    from cube.config.models import Config
    from cube.run.shards import Share

    from .sweep import Setting, SweepResult


@verb(
    "chip",
    "gelos-lc chip -c configs/demo.yaml",
    "gelos-lc chip -c configs/demo.yaml --set chips.min_purity=0.9 --set 'chips.min_clear={s2l2a: 0.98}'",
    "gelos-lc chip -c configs/demo.yaml --shard 1/2",
)
@config_options
@shard_option("AOI")
def chip_command(common: CommonOptions, *, shard: Share | None) -> int:
    """Score the finished cubes, choose windows and write chips. Needs no network.

    Runs of a share wait for each other where one needs what another is at, and do what no run is
    at: once they have ended, all chips are there.
    """
    what = f"chip-{shard.name}" if shard else "chip"

    def cut(config: Config) -> int:
        then = [common.typed("release"), f"{common.typed('sheet')} -o sheet.png"]
        return run_chip(config, bars=common.bars, shard=shard, then=then if shard is None else ())

    return run_verb(what, common, cut)


def run_chip(config: Config, *, bars: bool, shard: Share | None = None, then: Sequence[str] = ()) -> int:
    """Score, choose and write, and print the counts; returns the exit code.

    `then` are commands for what one may do next where there are chips.
    """
    from cube.config.sensors import CLASS_NAMES
    from cube.run.progress import draw_steps

    from .chip import chip

    with draw_steps(bars=bars) as progress:
        summary = chip(config, progress=progress, shard=shard)
    by = f" by {shard}" if shard else ""
    print(
        f"{summary.chips} chips of {summary.windows} windows; "
        f"{summary.written} written, {summary.kept} kept, {summary.removed} removed{by}"
    )
    for verdict, count in summary.totals().items():
        print(f"  {count:8} {verdict}")
    for code, count in summary.classes.items():
        print(f"  {count:8} chips of {code} {CLASS_NAMES[code]}")
    if then and summary.chips:
        print("\n  ".join(["next:", *then]))
    return 0


@verb(
    "sweep",
    "gelos-lc sweep -c configs/demo.yaml --grid chips.min_purity=0.8,0.9,1.0 chips.min_valid=0.9,1.0",
    "gelos-lc sweep -c configs/demo.yaml --grid chips.min_purity=0.8,0.9,1.0 --want 10",
    "gelos-lc sweep -c configs/demo.yaml --grid lulc.sampling_factor=2,3,4 s2l2a.cloud_cover=10,20,30",
)
@config_options
@click.option(
    "--grid",
    cls=Severals,
    multiple=True,
    required=True,
    metavar="KEY=VALUE,VALUE...",
    help="Settings to try, such as chips.min_purity=0.8,0.9,1.0 (several, or repeated).",
)
@click.option(
    "--want",
    type=int,
    metavar="N",
    help="Also name the loosest and strictest setting with N chips per class.",
)
def sweep_command(common: CommonOptions, grid: tuple[str, ...], want: int | None) -> int:
    """Count chips under a grid of settings.

    From scores alone, in seconds: a table and a plot. Keys are those of chips that need no new
    scores, lulc.sampling_factor, and limits of scenes (cloud_cover, nodata_pixel_percentage,
    delta_days of a sensor), which can only be made tighter.
    """

    def count_chips(config: Config) -> int:
        from cube.run.layout import Layout

        from .sweep import SWEEP_CSV, SWEEP_PNG, parse_grid, sweep

        result = sweep(config, parse_grid(grid, config.table))
        _print_counts(result)
        if want is not None:
            _print_wanted(result, want)
        root = Layout.of(config).root
        print(f"table     {root}/{SWEEP_CSV}")
        print(f"plot      {root}/{SWEEP_PNG}")
        return 0

    return run_verb("sweep", common, count_chips)


def _print_counts(result: SweepResult) -> None:
    """Print a row for each setting; the file has more columns."""
    from cube.config.sensors import CLASS_NAMES

    codes = [code for code in CLASS_NAMES if any(code in setting.chips for setting in result.settings)]
    rows = []
    for setting in result.settings:
        before = [*(setting.chips.get(code, 0) for code in codes), setting.total]
        after = [*(setting.balanced.get(code, 0) for code in codes), sum(setting.balanced.values())]
        counts = [f"{n}→{kept}" if result.is_balanced else n for n, kept in zip(before, after, strict=True)]
        rows.append([*setting.values.values(), *counts, setting.areas])
    balance = ", before→after balancing by lulc.sampling_factor" if result.is_balanced else ""
    names = [CLASS_NAMES[code] for code in codes]
    keys = [key.removeprefix("chips.") for key in result.grid]
    print_table(f"Chips by class{balance}", [*keys, *names, "all", "cubes"], rows)


def _print_wanted(result: SweepResult, want: int) -> None:
    loosest, strictest = result.loosest(want), result.strictest(want)
    if loosest is None or strictest is None:
        best = max(result.settings, key=lambda setting: setting.fewest)
        print(f"no setting gives {want} chips of every class; the most is {best.fewest}, with {_named(best)}")
        return
    print(f"loosest with {want} chips of every class: {_named(loosest)}")
    print(f"strictest: {_named(strictest)}")


def _named(setting: Setting) -> str:
    values = " ".join(f"{key}={value}" for key, value in setting.values.items())
    return f"{values} ({setting.total} chips, at least {setting.fewest} per class)"


@verb("sheet", "gelos-lc sheet -c configs/demo.yaml -o sheet.png --per-class 3")
@config_options
@click.option(
    "-o",
    "--output",
    type=UserPath(path_type=Path),
    default="contact_sheet.png",
    show_default=True,
    help="The PNG to write.",
)
@click.option("--per-class", type=int, default=2, show_default=True, metavar="N", help="Chips of each class.")
def sheet_command(common: CommonOptions, output: Path, per_class: int) -> int:
    """Draw a few chips of every class.

    All dates of all sensors, side by side, on one picture.
    """

    def draw(config: Config) -> int:
        from cube.run.storage import disk_errors

        from .contact_sheet import contact_sheet

        data = contact_sheet(config, per_class)
        with disk_errors(str(output)):
            output.parent.mkdir(parents=True, exist_ok=True)
            output.write_bytes(data)
        print(output)
        return 0

    return run_verb("sheet", common, draw)
