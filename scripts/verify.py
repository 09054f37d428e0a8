"""Check a release, its folder or its zip."""

import sys

import _checkout  # noqa: F401  the packages beside this folder

from release.__main__ import main_verify

if __name__ == "__main__":
    sys.exit(main_verify())
