"""Sweep a grid of thresholds over the scores: chips per class of every setting, as a table and a plot."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from chipping.sweep import Setting, SweepResult, parse_grid, sweep
from cube.config import load_config
from cube.errors import GelosError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-c", "--config", required=True, help="YAML file of the dataset version")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="overrides a key of the config; repeatable",
    )
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
    arguments = parser.parse_args(argv)
    try:
        result = sweep(load_config(arguments.config, arguments.set), parse_grid(arguments.grid))
    except GelosError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
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


if __name__ == "__main__":
    sys.exit(main())
