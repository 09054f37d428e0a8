"""A grid of thresholds over the scores: chips per class of every setting."""

import sys

from chipping.__main__ import main_sweep

if __name__ == "__main__":
    sys.exit(main_sweep())
