"""What a benchmark found: a table, printed for a person, or as a line of JSON for ``scripts/benchmarks.py``."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict, dataclass, field


@dataclass
class Table:
    """Rows are told as they come; the whole is printed once at the end."""

    title: str
    columns: list[str]
    note: str = ""
    rows: list[list[str]] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)
    """What is followed from version to version, by what it is: less is better."""

    def add(self, *cells: object) -> None:
        """Add a row."""
        assert len(cells) == len(self.columns)
        self.rows.append([str(cell) for cell in cells])
        print("   ".join(self.rows[-1]), file=sys.stderr, flush=True)


def add_json_flag(parser: argparse.ArgumentParser) -> None:
    """Let a benchmark print for ``scripts/benchmarks.py``."""
    parser.add_argument("--json", action="store_true", help="print a line of JSON per table")


def show(table: Table, *, as_json: bool) -> None:
    """Print a table on stdout."""
    if as_json:
        print(json.dumps(asdict(table)), flush=True)
        return
    widths = [max(map(len, column)) for column in zip(table.columns, *table.rows, strict=True)]
    print(f"\n{table.title}")
    for row in (table.columns, *table.rows):
        print("   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    print(table.note)
