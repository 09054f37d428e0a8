"""chip_metadata.csv: a row for every window that was scored, chosen or not, and why."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterable, Iterator, Sequence

import numpy as np
import shapely
from numpy.typing import NDArray

from cube.config.aoi import Aoi
from cube.config.sensors import SensorTable
from cube.windows.footprints import footprints

from .choose import ScoreSet
from .scores import ScoreTable, Which
from .views import CLOUD_SHARE, VIEW_FIELDS, ViewField, cloud_entries, scene_entries, view_columns

CHIP_METADATA = "chip_metadata.csv"
_WKT_DECIMALS = 9
"""A tenth of a millimetre."""


def chip_metadata_csv(
    scores: ScoreSet, verdicts: NDArray[np.int8], aois: Collection[Aoi] = ()
) -> Iterator[bytes]:
    """Yield the table of all windows: by AOI index, then from north to south and west to east.

    ``chip_index`` numbers the rows. Dates, and scene ids date by date, are joined by commas; the
    scenes of one date's mosaic by ``+``. ``chip_footprint`` is the chip's outline (WKT, EPSG:4326);
    ``left_m`` and ``top_m`` are edges of the sample window in ``epsg``. ``{sensor}_min_valid`` and
    ``{sensor}_min_clear`` are the worst date's shares. How scenes were taken, and the cloud shares
    of every date, follow (:mod:`chipping.views`), then ``aoi_name`` and ``aoi_id`` if any of `aois`
    has one.
    """
    called = _called(aois)
    yield _csv([[*_header(scores.sensors), *called]])
    for number, table in enumerate(scores.tables):
        start = scores.starts[number]
        status = [scores.verdicts[code] for code in verdicts[start : start + len(table)].tolist()]
        own = [names.get(table.cube.aoi_index, "") for names in called.values()]
        yield _csv((*row, *own) for row in _window_rows(table, start, status, scores.sensors))


def _called(aois: Collection[Aoi]) -> dict[str, dict[int, str]]:
    """Return names and ids by AOI index, under the columns that they go into."""
    columns = {
        "aoi_name": {aoi.index: aoi.name for aoi in aois if aoi.name},
        "aoi_id": {aoi.index: aoi.id for aoi in aois if aoi.id},
    }
    return {column: names for column, names in columns.items() if names}


def _csv(rows: Iterable[Sequence[object]]) -> bytes:
    buffer = io.StringIO(newline="")
    csv.writer(buffer, lineterminator="\n").writerows(rows)
    return buffer.getvalue().encode()


def _header(sensors: SensorTable) -> list[str]:
    return [
        "chip_index",
        "aoi_index",
        "cell",
        *(f"{key}_dates" for key in sensors.series),
        "lulc",
        "purity",
        "chip_footprint",
        "epsg",
        "status",
        *(f"{key}_scene_ids" for key in sensors),
        "left_m",
        "top_m",
        *(f"{key}_min_valid" for key in sensors),
        *(f"{key}_min_clear" for key in sensors.series),
        *view_columns(sensors),
    ]


def _window_rows(
    table: ScoreTable, start: int, status: list[str], sensors: SensorTable
) -> Iterator[tuple[object, ...]]:
    cube = table.cube
    left, top = table.columns["left_m"], table.columns["top_m"]
    outlines = footprints(table.geometry, cube.epsg, left, top)
    size = len(table)

    def every(value: object) -> list[object]:
        return [value] * size

    return zip(
        range(start, start + size),
        every(cube.aoi_index),
        table.cells,
        *(every(",".join(table.dates(key))) for key in sensors.series),
        table.columns["lulc"].tolist(),
        table.purity().tolist(),
        shapely.to_wkt(outlines, rounding_precision=_WKT_DECIMALS).tolist() if size else [],
        every(cube.epsg),
        status,
        *(every(_scene_ids(table, key)) for key in sensors),
        left.tolist(),
        top.tolist(),
        *(_worst_share(table, key, "valid") for key in sensors),
        *(_worst_share(table, key, "clear") for key in sensors.series),
        *(_views(table, key, field) for key in sensors.series for field in VIEW_FIELDS),
        strict=True,
    )


def _scene_ids(table: ScoreTable, key: str) -> str:
    return ",".join(table.cube.sensors[key].scene_ids) if key in table.cube.sensors else ""


def _worst_share(table: ScoreTable, key: str, which: Which) -> list[object]:
    """Return the lowest share over a sensor's dates, or empty cells where it was not scored."""
    scored = {masks.sensor for masks in table.masks} & set(table.cube.sensors)
    if key not in scored:
        return [""] * len(table)
    shares = [table.share(which, key, date) for date in range(len(table.cube.sensors[key].times))]
    return list(np.minimum.reduce(shares).tolist())


def _views(table: ScoreTable, key: str, field: ViewField) -> list[str]:
    """Return a field of how a sensor's scenes were taken, for every window."""
    found = table.cube.sensors.get(key)
    if found is None:
        return [""] * len(table)
    if field is not CLOUD_SHARE:
        return [scene_entries(field, found.properties)] * len(table)
    if not any(masks.sensor == key and masks.cloud_rule for masks in table.masks):
        return [""] * len(table)
    clear_px = [table.columns[f"{key}_{date}_clear_px"] for date in range(len(found.times))]
    return cloud_entries(clear_px, table.window_px("clear", key))


def count_verdicts(scores: ScoreSet, verdicts: NDArray[np.int8]) -> dict[int, dict[str, int]]:
    """Return, per AOI index, how many windows got each verdict, in the order of the rules."""
    counts = {}
    names = scores.verdicts
    for number, table in enumerate(scores.tables):
        found = verdicts[scores.starts[number] : scores.starts[number + 1]]
        bins = np.bincount(found, minlength=len(names)).tolist()
        counts[table.cube.aoi_index] = {
            str(name): count for name, count in zip(names, bins, strict=True) if count
        }
    return counts
