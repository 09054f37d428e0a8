"""Phase two: cubes to chips."""

import sys

from chipping.__main__ import main

if __name__ == "__main__":
    sys.exit(main())
