"""Phase one: AOIs to cubes."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the packages beside this folder

from cube.build.commands import build_command

if __name__ == "__main__":
    build_command()
