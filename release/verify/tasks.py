"""What is to be checked of a release's chips: tasks for workers, and the sample that is counted."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pandas as pd

from chipping.views import CLOUD_SHARE
from release.recipe import Recipe
from release.select import dates_fit
from release.statistics import counted_rows, statistics_split
from release.tracker import chip_id_of

from .chips import ChipTask, Findings
from .processes import WatchedFiles
from .statistics import check_statistics

_ALIGNED_CHIPS = 500


def statistics_check(
    table: pd.DataFrame, recipe: Recipe, sample_chips: int
) -> Callable[[WatchedFiles], Findings] | None:
    """Return what counts some chips again; None where dates do not allow it.

    Parameters
    ----------
    table
        The tracker, or its fields ``id``, ``split`` and dates.
    recipe
        What the release was made with.
    sample_chips
        How many are counted again; of a larger release these, spread over it.
    """
    columns = ["id", *(f"{key}_dates" for key in recipe.series)]
    counted = table.loc[counted_rows(table), columns]
    every = max(1, math.ceil(len(counted) / sample_chips))
    sample: list[dict[str, Any]] = counted.iloc[::every].to_dict("records")  # type: ignore[assignment]
    if not all(dates_fit(row[name], recipe.ranges) for row in sample for name in columns[1:]):
        return None
    split = statistics_split(table["split"])
    return functools.partial(check_statistics, sample=sample, chips=len(counted), split=split, recipe=recipe)


def chip_tasks(
    sums: Mapping[str, str],
    table: pd.DataFrame | None,
    recipe: Recipe | None,
    first: int = 0,
    chips: int | None = None,
) -> list[ChipTask]:
    """Return a task per chip, by id, with its row where files can be compared with it.

    Parameters
    ----------
    sums
        SHA-256 by name of the files there are, of a release or a shard.
    table
        Their rows of the tracker, where it can be believed.
    recipe
        What the release was made with, where that can be.
    first
        Chips of the release before these.
    chips
        Of the release; None: these are all.
    """
    files: dict[int, list[tuple[str, str]]] = {}
    for name, digest in sorted(sums.items()):
        chip_id = chip_id_of(name)
        if chip_id is not None:
            files.setdefault(chip_id, []).append((name, digest))
    rows = {} if table is None or recipe is None else dict(_compared_rows(table, recipe))
    # Correlation is over the release: chips beyond some hundreds tell nothing new.
    aligned_every = max(1, (chips or len(files)) // _ALIGNED_CHIPS)
    return [
        ChipTask(tuple(own), rows.get(chip_id), number % aligned_every == 0)
        for number, (chip_id, own) in enumerate(sorted(files.items()), start=first)
    ]


def _compared_rows(table: pd.DataFrame, recipe: Recipe) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield ids and what rasters are compared with, of rows whose dates allow it."""
    dates = [f"{key}_dates" for key in recipe.series]
    clouds = table.columns.intersection([CLOUD_SHARE.column(key) for key in recipe.series])
    for row in table[[*_compared_fields(recipe), *clouds]].to_dict("records"):
        if all(dates_fit(row[name], recipe.ranges) for name in dates):
            yield int(row["id"]), {str(name): value for name, value in row.items() if name != "id"}


def _compared_fields(recipe: Recipe) -> list[str]:
    dates = [f"{key}_dates" for key in recipe.series]
    scenes = [f"{key}_scene_ids" for key in recipe.rasters]
    return ["id", "epsg", "left_m", "top_m", "lulc", "purity", *dates, *scenes]
