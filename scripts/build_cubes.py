"""Phase one: AOIs to cubes."""

import sys

from cube.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
