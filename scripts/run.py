"""All three phases in a row: AOIs to cubes to chips to a release."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the packages beside this folder

from cube.environment import run_entry_point

if __name__ == "__main__":
    run_entry_point("release.commands:run_command")
