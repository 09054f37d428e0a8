"""The table of windows: a row for every window that was scored, chosen or not, and why.

It lies in a Parquet file for each area, ``windows/aoi_000003.parquet``; as long as a person could
open it, ``chip_metadata.csv`` holds the same rows.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import shapely
from numpy.typing import NDArray

from cube.config.sensors import SensorTable
from cube.errors import StoreError
from cube.run.layout import aoi_stem
from cube.run.storage import Folder
from cube.windows.footprints import footprints

from .scores import ScoreTable, Which
from .views import CLOUD_SHARE, VIEW_FIELDS, ViewField, cloud_entries, scene_entries, view_columns

if TYPE_CHECKING:
    import pyarrow as pa

CHIP_METADATA = "chip_metadata.csv"
CSV_ROWS = 1_000_000
"""What a spreadsheet opens; a larger table lies in its Parquet files alone."""
CHOICE = "choice.json"
"""Written last, beside the tables of windows."""
_WKT_DECIMALS = 9
"""A tenth of a millimetre."""
_AGAIN = "run gelos-lc chip again"


@dataclass(frozen=True)
class Choice:
    """What became of all windows of a version."""

    key: str
    """Digest of what was chosen from, and how."""
    verdicts: Mapping[int, Mapping[str, int]] = field(default_factory=dict)
    """Windows by AOI index and verdict; every area with a cube has an entry."""
    classes: Mapping[int, int] = field(default_factory=dict)
    """Chips by land-cover class."""

    @property
    def windows(self) -> int:
        """How many windows were scored."""
        return sum(sum(counts.values()) for counts in self.verdicts.values())

    def to_json(self) -> bytes:
        """Return the record as it is written."""
        record = {
            "key": self.key,
            "windows": self.windows,
            "classes": {str(code): count for code, count in sorted(self.classes.items())},
            "verdicts": {
                str(index): dict(sorted(found.items())) for index, found in sorted(self.verdicts.items())
            },
        }
        return json.dumps(record, separators=(",", ":")).encode()


def read_choice(windows: Folder) -> Choice:
    """Return what became of all windows.

    Raises
    ------
    FileNotFoundError
        If none were chosen from yet.
    StoreError
        If the record cannot be read.
    """
    try:
        record = json.loads(windows.read(CHOICE))
        classes = {int(code): int(count) for code, count in record["classes"].items()}
        return Choice(str(record["key"]), {int(k): dict(v) for k, v in record["verdicts"].items()}, classes)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StoreError(f"{windows}/{CHOICE}: cannot be read ({error}); {_AGAIN}") from None


def window_table_name(aoi_index: int) -> str:
    """Return the file name of an area's windows."""
    return f"{aoi_stem(aoi_index)}.parquet"


def read_window_tables(windows: Folder, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Yield the windows of each area, by AOI index: all columns, or some of them.

    Raises
    ------
    FileNotFoundError
        If no windows were chosen from yet.
    StoreError
        If a table is gone, lacks a column or cannot be read.
    """
    import pyarrow as pa
    from pyarrow import parquet

    for index in sorted(read_choice(windows).verdicts):
        name = window_table_name(index)
        try:
            file = parquet.ParquetFile(pa.BufferReader(windows.read(name)))
            if missing := [one for one in columns or () if one not in file.schema_arrow.names]:
                raise StoreError(f"{windows}/{name}: column {missing[0]} is missing; {_AGAIN}")
            yield file.read(columns=columns, use_threads=False)
        except FileNotFoundError:
            raise StoreError(f"{windows}/{name}: is missing; {_AGAIN}") from None
        except (OSError, ValueError, pa.ArrowException) as error:
            text = str(error).splitlines()[0]
            raise StoreError(f"{windows}/{name}: cannot be read ({text}); {_AGAIN}") from None


def chip_metadata_csv(windows: Folder) -> Iterator[bytes]:
    """Yield the table of all windows as CSV, area by area; empty where a value is absent."""
    for number, table in enumerate(read_window_tables(windows)):
        buffer = io.StringIO(newline="")
        writer = csv.writer(buffer, lineterminator="\n")
        if number == 0:
            writer.writerow(table.column_names)
        writer.writerows(zip(*(column.to_pylist() for column in table.columns), strict=True))
        yield buffer.getvalue().encode()


def to_parquet(table: pa.Table) -> bytes:
    """Return a table as a Parquet file; the same bytes for the same rows."""
    from pyarrow import parquet

    buffer = io.BytesIO()
    parquet.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()


def window_table(
    table: ScoreTable,
    start: int,
    status: NDArray[np.str_],
    sensors: SensorTable,
    called: Mapping[str, str] | None = None,
) -> pa.Table:
    """Return the rows of an area's windows, from north to south and west to east.

    ``chip_index`` numbers the rows of all areas. Dates, and scene ids date by date, are joined by
    commas; the scenes of one date's mosaic by ``+``. ``chip_footprint`` is the chip's outline (WKT,
    EPSG:4326); ``left_m`` and ``top_m`` are edges of the sample window in ``epsg``.
    ``{sensor}_min_valid`` and ``{sensor}_min_clear`` are the worst date's shares, null where the
    sensor was not scored. How scenes were taken, and the cloud shares of every date, follow
    (:mod:`chipping.views`), then what the area is called.

    Parameters
    ----------
    start
        ``chip_index`` of the first window.
    status
        Verdicts.
    called
        ``aoi_name`` and ``aoi_id``, those of the two that any area has.
    """
    import pyarrow as pa

    columns = _columns(table, start, status, sensors)
    columns |= {name: _every(text, len(table)) for name, text in (called or {}).items()}
    return pa.table(columns)


def _columns(
    table: ScoreTable, start: int, status: NDArray[np.str_], sensors: SensorTable
) -> dict[str, pa.Array]:
    import pyarrow as pa

    cube, size = table.cube, len(table)
    left, top = table.columns["left_m"], table.columns["top_m"]
    outlines = footprints(table.geometry, cube.epsg, left, top)
    texts = shapely.to_wkt(outlines, rounding_precision=_WKT_DECIMALS).tolist() if size else []
    views = [(key, view) for key in sensors.series for view in VIEW_FIELDS]
    return {
        "chip_index": pa.array(np.arange(start, start + size)),
        "aoi_index": pa.array(np.full(size, cube.aoi_index, np.int32)),
        "cell": pa.array(table.cells, pa.string()),
        **{f"{key}_dates": _every(",".join(table.dates(key)), size) for key in sensors.series},
        "lulc": pa.array(table.columns["lulc"].astype(np.int32)),
        "purity": pa.array(table.purity()),
        "chip_footprint": pa.array(texts, pa.string()),
        "epsg": pa.array(np.full(size, cube.epsg, np.int32)),
        "status": pa.array(status.tolist(), pa.string()),
        **{f"{key}_scene_ids": _every(_scene_ids(table, key), size) for key in sensors},
        "left_m": pa.array(left.astype(np.int32)),
        "top_m": pa.array(top.astype(np.int32)),
        **{f"{key}_min_valid": _worst_share(table, key, "valid") for key in sensors},
        **{f"{key}_min_clear": _worst_share(table, key, "clear") for key in sensors.series},
        **dict(zip(view_columns(sensors), (_views(table, *one) for one in views), strict=True)),
    }


def _every(text: str, size: int) -> pa.Array:
    """Return a column in which every window has the same text."""
    import pyarrow as pa

    return pa.repeat(pa.scalar(text, pa.string()), size)


def _scene_ids(table: ScoreTable, key: str) -> str:
    return ",".join(table.cube.sensors[key].scene_ids) if key in table.cube.sensors else ""


def _worst_share(table: ScoreTable, key: str, which: Which) -> pa.Array:
    """Return the lowest share over a sensor's dates, or nulls where it was not scored."""
    import pyarrow as pa

    scored = {masks.sensor for masks in table.masks} & set(table.cube.sensors)
    if key not in scored:
        return pa.nulls(len(table), pa.float64())
    shares = [table.share(which, key, date) for date in range(len(table.cube.sensors[key].times))]
    return pa.array(np.minimum.reduce(shares))


def _views(table: ScoreTable, key: str, view: ViewField) -> pa.Array:
    """Return a field of how a sensor's scenes were taken, for every window."""
    import pyarrow as pa

    found = table.cube.sensors.get(key)
    if found is None:
        return _every("", len(table))
    if view is not CLOUD_SHARE:
        return _every(scene_entries(view, found.properties), len(table))
    if not any(masks.sensor == key and masks.cloud_rule for masks in table.masks):
        return _every("", len(table))
    clear_px = [table.columns[f"{key}_{date}_clear_px"] for date in range(len(found.times))]
    return pa.array(cloud_entries(clear_px, table.window_px("clear", key)), pa.string())
