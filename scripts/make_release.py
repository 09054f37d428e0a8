"""Chips to a release."""

import sys

import _checkout  # noqa: F401  the packages beside this folder

from release.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
