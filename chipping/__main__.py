"""Phase two from the command line: ``python -m chipping -c CONFIG``, as ``scripts/chip.py`` does."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from cube.config.models import Config
from cube.config.sensors import CLASS_NAMES
from cube.run.command import config_parser, run_verb
from cube.run.progress import draw_steps
from cube.run.storage import disk_errors

from .chip import ChipSummary, chip
from .contact_sheet import contact_sheet
from .sweep import Setting, SweepResult, parse_grid, sweep


def make_chips(config: Config, arguments: argparse.Namespace) -> int:
    """Score, choose and write."""
    with draw_steps(bars=not arguments.json_logs) as progress:
        summary = chip(config, progress=progress)
    _print_summary(summary)
    return 0


def _print_summary(summary: ChipSummary) -> None:
    print(
        f"{summary.chips} chips of {summary.windows} windows; "
        f"{summary.written} written, {summary.kept} kept, {summary.removed} removed"
    )
    for verdict, count in summary.totals().items():
        print(f"  {count:8} {verdict}")
    for code, count in summary.classes.items():
        print(f"  {count:8} chips of {code} {CLASS_NAMES[code]}")


def sweep_thresholds(config: Config, arguments: argparse.Namespace) -> int:
    """Count chips for a grid of settings."""
    result = sweep(config, parse_grid(arguments.grid, config.table))
    print(result.to_csv().decode(), end="")
    if arguments.want is not None:
        _print_wanted(result, arguments.want)
    return 0


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


def draw_contact_sheet(config: Config, arguments: argparse.Namespace) -> int:
    """Draw chips of every class onto one picture."""
    path = Path(arguments.output)
    data = contact_sheet(config, arguments.per_class)
    with disk_errors(str(path)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    print(path)
    return 0


def main(argv: list[str] | None = None) -> int:
    """Run ``chip``; return its exit code."""
    description = "Score the finished cubes, choose windows and write chips. Needs no network."
    return run_verb("chip", config_parser(description), make_chips, argv)


def main_sweep(argv: list[str] | None = None) -> int:
    """Run ``sweep``; return its exit code."""
    parser = config_parser("Count the chips of a grid of settings, from scores alone: a table and a plot.")
    parser.add_argument(
        "--grid",
        nargs="+",
        required=True,
        metavar="KEY=VALUE,VALUE",
        help="such as chips.min_purity=0.8,0.9,1.0",
    )
    parser.add_argument(
        "--want",
        type=int,
        metavar="N",
        help="also name the loosest and strictest setting with N chips per class",
    )
    return run_verb("sweep", parser, sweep_thresholds, argv)


def main_contact(argv: list[str] | None = None) -> int:
    """Run ``contact_sheet``; return its exit code."""
    parser = config_parser("Draw a few chips of every class, all dates of all sensors, onto one picture.")
    parser.add_argument("-o", "--output", default="contact_sheet.png", help="the PNG to write")
    parser.add_argument("--per-class", type=int, default=2, metavar="N", help="chips of each class")
    return run_verb("contact_sheet", parser, draw_contact_sheet, argv)


if __name__ == "__main__":
    sys.exit(main())
