"""All three phases in a row: AOIs to cubes to chips to a release."""

import sys

import _checkout  # noqa: F401  the packages beside this folder

from release.__main__ import main_run

if __name__ == "__main__":
    sys.exit(main_run())
