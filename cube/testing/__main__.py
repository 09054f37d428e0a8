"""``python -m cube.testing PATH [--seed N]`` makes the sample archive."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from cube.testing.archive import archive_size, make_archive


def main() -> None:
    """Make the archive and print one line about it."""
    parser = argparse.ArgumentParser(prog="python -m cube.testing", description="Make the sample archive.")
    parser.add_argument("path", type=Path, help="folder to make; a finished archive of the seed is kept")
    parser.add_argument("--seed", type=int, default=0, help="another seed, another landscape")
    args = parser.parse_args()
    archive = make_archive(args.path, args.seed)
    files, size = archive_size(archive)
    items = len(json.loads(archive.items.read_text())["features"])
    aois = len(json.loads(archive.aois.read_text())["features"])
    counts = f"{items} items, {files} files, {size / 1e6:.0f} MB, {aois} AOIs, seed {archive.seed}"
    print(f"{archive.path}: {counts}")


if __name__ == "__main__":
    main()
