"""All three phases in a row: AOIs to cubes to chips to a release."""

import sys

from release.__main__ import run_all

if __name__ == "__main__":
    sys.exit(run_all())
