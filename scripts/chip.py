"""Phase two: score the finished cubes, choose windows, write chips. Needs no network."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from chipping.chip import ChipSummary, chip
from cube.config import Config, load_config
from cube.errors import GelosError
from cube.sensors import CLASS_NAMES


def add_config_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what every verb takes: a config and settings laid over it."""
    parser.add_argument("-c", "--config", required=True, help="YAML file of the dataset version")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="overrides a key of the config; repeatable",
    )


def read_config(arguments: argparse.Namespace) -> Config:
    """Load the config that the arguments name."""
    return load_config(arguments.config, arguments.set)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the verb; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_config_arguments(parser)
    try:
        _print_summary(
            chip(read_config(parser.parse_args(argv)), progress=_draw if sys.stderr.isatty() else None)
        )
    except GelosError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; run again to go on", file=sys.stderr)
        return 130
    return 0


def _draw(what: str, done: int, total: int) -> None:
    print(f"\r{what} {done}/{total}", end="" if done < total else "\n", file=sys.stderr, flush=True)


def _print_summary(summary: ChipSummary) -> None:
    print(f"{summary.chips} chips of {summary.windows} windows", end="; ")
    print(f"{summary.written} written, {summary.kept} kept, {summary.removed} removed")
    for verdict, count in summary.totals().items():
        print(f"  {count:8} {verdict}")
    for code, count in summary.classes.items():
        print(f"  {count:8} chips of {code} {CLASS_NAMES[code]}")


if __name__ == "__main__":
    sys.exit(main())
