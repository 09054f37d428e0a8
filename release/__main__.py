"""The release from the command line: ``python -m release -c CONFIG``, as ``scripts/make_release.py`` does."""

from __future__ import annotations

import argparse
import logging
import sys

from chipping.__main__ import make_chips
from cube.__main__ import build, build_parser
from cube.config.models import Config
from cube.errors import GelosError
from cube.run.command import EXIT_INTERRUPTED, EXIT_USAGE, config_parser, run_verb, terminated_as_interrupted
from cube.run.progress import draw_steps

from .make import ReleaseSummary, make_release
from .verify.release import verify

_EXIT_FAULTY = 1


def release(config: Config, arguments: argparse.Namespace) -> int:
    """Make a release from the chips."""
    with draw_steps(bars=not arguments.json_logs) as progress:
        summary = make_release(config, force=arguments.force, progress=progress)
    _print_summary(summary)
    return 0


def _print_summary(summary: ReleaseSummary) -> None:
    done = "written" if summary.written else "already there, unchanged"
    print(f"{summary.folder}: {summary.chips} chips, {done}")
    for code, count in summary.after.items():
        print(f"  class {code}: {summary.before[code]} -> {count}")
    for name, count in summary.splits.items():
        print(f"  split {name}: {count}")
    for reason, count in summary.funnel:
        print(f"  left out, {reason}: {count}")
    for warning in summary.warnings:
        print(f"  warning: {warning}")
    if summary.zip:
        print(summary.zip)
    print(f"SHA256SUMS {summary.fingerprint}")


def run_phases(config: Config, arguments: argparse.Namespace) -> int:
    """Build, chip and release; a failed AOI leaves the others' release to be made, and its exit code."""
    code = build(config, arguments)
    if arguments.dry_run:
        return code
    return max(code, make_chips(config, arguments), release(config, arguments))


def main(argv: list[str] | None = None) -> int:
    """Run ``make_release``; return its exit code."""
    parser = config_parser("Make a release from the chips of a dataset version.")
    _add_force(parser)
    return run_verb("make_release", parser, release, argv)


def main_run(argv: list[str] | None = None) -> int:
    """Run the three phases in a row; return their exit code."""
    parser = build_parser("Build cubes, cut chips and make a release, in a row.")
    _add_force(parser)
    return run_verb("run", parser, run_phases, argv)


def main_verify(argv: list[str] | None = None) -> int:
    """Check a release; return 1 if there is a fault."""
    parser = argparse.ArgumentParser(
        description="Check a release: one line per fault, exit 1 if there is one."
    )
    parser.add_argument("release", metavar="RELEASE", help="a release's folder, or its .zip")
    parser.add_argument("--workers", type=int, default=None, help="processes (default: one per core)")
    arguments = parser.parse_args(argv)
    logging.getLogger("rasterio").setLevel(logging.CRITICAL)  # what GDAL finds, the faults say
    try:
        with terminated_as_interrupted():
            found = verify(arguments.release, arguments.workers)
    except GelosError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_USAGE
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    for fault in found:
        print(fault)
    faults = sum(not fault.warning for fault in found)
    print(f"{arguments.release}: {faults} faults, {len(found) - faults} warnings", file=sys.stderr)
    return _EXIT_FAULTY if faults else 0


def _add_force(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--force", action="store_true", help="replace a different release of this version")


if __name__ == "__main__":
    sys.exit(main())
