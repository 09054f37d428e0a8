"""Check a release (its folder or its zip): one line per fault, exit 1 if there is one."""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from cube.errors import GelosError
from release import verify


def main() -> int:
    """Parse, verify, print, and say how it went."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("release", metavar="RELEASE", help="a release's folder, or its .zip")
    parser.add_argument("--workers", type=int, default=None, help="processes (default: one per core)")
    arguments = parser.parse_args()
    logging.getLogger("rasterio").setLevel(logging.CRITICAL)  # what GDAL finds, the faults say
    try:
        found = verify(arguments.release, arguments.workers)
    except GelosError as error:
        print(f"verify: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    for fault in found:
        print(fault)
    faults = sum(not fault.warning for fault in found)
    print(f"{arguments.release}: {faults} faults, {len(found) - faults} warnings", file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
