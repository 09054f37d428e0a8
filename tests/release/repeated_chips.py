"""Working folders of thousands of small chips, made by repetition; in a process of its own, which changes the landscape."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def write_repeated_chips(folder: Path, chips: int) -> Path:
    """Write so many chips, a Sentinel-2 date and the land cover of 240 m each; return the config's path."""
    code = "import sys, bench_scale; from pathlib import Path; bench_scale.write_chips(Path(sys.argv[1]), int(sys.argv[2]))"
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "benchmarks")]),
    }
    subprocess.run(
        [sys.executable, "-c", code, str(folder), str(chips)], cwd=ROOT, env=environment, check=True
    )
    return folder / "released" / "config.yaml"
