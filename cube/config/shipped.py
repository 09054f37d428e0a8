"""``python -m cube.config.shipped FOLDER`` writes the program's own configs and AOI lists there.

In a checkout they lie in ``configs/`` already. From an installed wheel::

    python -m cube.config.shipped configs
    python -m cube.testing data/demo/archive
    gelos-lc run -c configs/demo.yaml
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

_PACKAGED = Path(__file__).parents[1] / "configs"
CONFIGS = _PACKAGED if _PACKAGED.is_dir() else Path(__file__).parents[2] / "configs"
"""Folder of the configs: in the package if installed from a wheel, beside it in a checkout."""


def copy_configs(folder: Path) -> list[Path]:
    """Copy the configs into a folder, which is made if need be.

    Parameters
    ----------
    folder
        Best called ``configs`` and beside ``data``: the demo's config names its archive from there.

    Returns
    -------
    list of Path
        The files written.

    Raises
    ------
    FileExistsError
        If one of them is there already; nothing is written then.
    """
    copies = {
        folder / source.relative_to(CONFIGS): source
        for source in sorted(CONFIGS.rglob("*"))
        if source.suffix in {".yaml", ".geojson"}
    }
    for target in copies:
        if target.exists():
            raise FileExistsError(f"{target} exists; name another folder, or remove it")
    for target, source in copies.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    return list(copies)


def main(argv: list[str] | None = None) -> int:
    """Copy, and print what was written; 2 if something is in the way."""
    parser = argparse.ArgumentParser(
        prog="python -m cube.config.shipped", description="Write the configs out."
    )
    parser.add_argument("folder", type=Path, help="such as configs")
    try:
        copied = copy_configs(parser.parse_args(argv).folder)
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("\n".join(map(str, copied)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
