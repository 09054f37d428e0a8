"""Phase one: AOIs to cubes."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the packages beside this folder

from cube.environment import run_entry_point

if __name__ == "__main__":
    run_entry_point("cube.build.commands:build_command")
