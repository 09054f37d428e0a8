"""The tracker of an open release: few columns of all chips, and a chip's row when asked for."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import geopandas as gpd
import pandas as pd
import pyarrow as pa
import shapely

from release.opening.faults import UNREADABLE, ReleaseError, first_line
from release.opening.table import TableFile, to_frame
from release.recipe import Recipe
from release.tracker import PARQUET_NAME
from release.verify.tracker import checked_fields, field_problems, kind_problems, number_problems

_NARROW = ("id", "original_id", "cell", "lulc", "label", "epsg", "split")
"""What is read of all chips when a release is opened, and looked at."""


class TrackerRows:
    """A release's table of chips.

    Parameters
    ----------
    data
        GeoParquet, which may be anybody's.
    most_rows
        That it may have.
    recipe
        What the release was made with.

    Raises
    ------
    ReleaseError
        If it cannot be read, or does not fit together; so do all methods.
    """

    def __init__(self, data: bytes, most_rows: int, recipe: Recipe) -> None:
        self._recipe, self._groups = recipe, dict[int, pa.Table]()
        with _readable():
            self._file = TableFile(data, most_rows)
        _refuse(field_problems(self._file.columns, self._file.crs.to_epsg(), recipe))
        with _readable():
            self.narrow: pd.DataFrame = self._file.read_columns(_NARROW)
        _refuse(kind_problems(self.narrow, _NARROW))
        _refuse(number_problems(self.narrow, recipe))
        self.narrow = self.narrow.set_index("id", drop=False)

    def __len__(self) -> int:
        """Return how many chips there are."""
        return len(self.narrow)

    @cached_property
    def table(self) -> gpd.GeoDataFrame:
        """All of it."""
        with _readable():
            table = self._file.read()
        _refuse(kind_problems(table, self._checked))
        return table.set_index("id", drop=False)

    def row(self, chip_id: int) -> Mapping[str, Any]:
        """Return a chip's row; what is absent is NaN."""
        number = self._file.group_of(chip_id)
        if number not in self._groups:
            with _readable():
                group = self._file.read_group(number)
                frame = to_frame(group, self._file.crs)  # its geometries are some, too
            _refuse(kind_problems(frame, self._checked))
            self._groups[number] = group
        first, _ = self._file.groups[number]
        (values,) = self._groups[number].slice(chip_id - first, 1).to_pylist()
        shape = shapely.from_wkb(values.pop("geometry"))
        return {name: math.nan if value is None else value for name, value in values.items()} | {
            "geometry": shape
        }

    @property
    def _checked(self) -> list[str]:
        return checked_fields(self._file.columns, self._recipe)


def _refuse(problems: Iterator[str]) -> None:
    """Raise ReleaseError at the first problem, if there is one."""
    if problem := next(problems, None):
        raise ReleaseError(f"{PARQUET_NAME}: {problem}; verify the release")


@contextlib.contextmanager
def _readable() -> Iterator[None]:
    try:
        yield
    except UNREADABLE as error:
        text = f"{PARQUET_NAME}: cannot be read ({first_line(error)}); verify the release"
        raise ReleaseError(text) from None
