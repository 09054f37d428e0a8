"""Make a release from the chips of a dataset version."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cube.config import load_config
from cube.errors import GelosError
from release import ReleaseSummary, make_release


def main() -> int:
    """Parse, make, print, and say how it went."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-c", "--config", required=True, help="YAML file of the dataset version")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="override a config key"
    )
    parser.add_argument("--force", action="store_true", help="replace a different release of this version")
    arguments = parser.parse_args()
    try:
        config = load_config(arguments.config, arguments.set)
        summary = make_release(config, force=arguments.force, progress=_progress)
    except GelosError as error:
        print(f"make_release: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    _print(summary)
    return 0


def _progress(what: str, done: int, total: int) -> None:
    if sys.stderr.isatty():
        print(f"\r{done}/{total} {what}", end="\n" if done == total else "", file=sys.stderr, flush=True)


def _print(summary: ReleaseSummary) -> None:
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


if __name__ == "__main__":
    sys.exit(main())
