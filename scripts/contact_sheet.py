"""A few chips of every class on one picture."""

import sys

import _checkout  # noqa: F401  the packages beside this folder

from chipping.__main__ import main_contact

if __name__ == "__main__":
    sys.exit(main_contact())
