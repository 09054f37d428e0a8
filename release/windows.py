"""The windows that phase two has scored: all of every chip, and little of each other one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import pyarrow as pa
import shapely
from numpy.typing import NDArray

from chipping.choose import Verdict
from chipping.records import read_window_tables
from cube.config.sensors import SensorTable
from cube.run.storage import Folder

from .opening.faults import ReleaseError
from .tracker import FOOTPRINT

PLACE_COLUMNS = ("aoi_index", "lulc", "epsg", "left_m", "top_m")
"""What is kept of every window, beside its measures."""
_INTEGERS = ("chip_index", *PLACE_COLUMNS)
_ROWS_PER_PART = 20_000
"""Windows that are packed together, and those of the last area among them."""
_OWN_TEXTS = ("cell", FOOTPRINT)
"""Texts that no two windows share."""
_MEASURES = ("purity", "clear", "valid")
"""Words in the names of columns that tell why a window was chosen or not."""
_AGAIN = "run gelos-lc chip again"


class Measures:
    """:data:`PLACE_COLUMNS` and measures of all windows, in parts of whole areas, by AOI index.

    There may be a hundred windows for every chip: they are held packed, and unpacked part by part.
    """

    def __init__(self) -> None:
        self._packed: list[pa.Buffer] = []
        self._next: list[pa.Table] = []
        self._known: dict[str, bool] = {}

    @property
    def columns(self) -> list[str]:
        """Names of the columns of which any window has a value."""
        return [name for name, is_known in self._known.items() if is_known]

    @property
    def unknown(self) -> list[str]:
        """Names of the others."""
        return [name for name, is_known in self._known.items() if not is_known]

    def add(self, table: pa.Table) -> None:
        """Take the windows of the next area."""
        for name in table.column_names:
            is_known = table[name].null_count < len(table)
            self._known[name] = self._known.get(name, False) or is_known
        self._next.append(table)
        if sum(map(len, self._next)) >= _ROWS_PER_PART:
            self._pack()

    def _pack(self) -> None:
        sink, table = pa.BufferOutputStream(), pa.concat_tables(self._next)
        settings = pa.ipc.IpcWriteOptions(compression="zstd")
        with pa.ipc.new_stream(sink, table.schema, options=settings) as stream:
            stream.write_table(table)
        self._packed.append(sink.getvalue())
        self._next = []

    def __iter__(self) -> Iterator[pd.DataFrame]:
        """Yield some windows after the other; the index is the row's number."""
        if self._next:
            self._pack()
        first = 0
        for packed in self._packed:
            with pa.ipc.open_stream(packed) as stream:
                part = stream.read_all().select(self.columns).to_pandas()
            if len(part):
                yield part.set_index(pd.RangeIndex(first, first + len(part)))
            first += len(part)


@dataclass(frozen=True)
class Windows:
    """The windows of a version; rows are numbered through in the order of ``chip_index``."""

    chips: pd.DataFrame
    """Those that are chips: all columns; the index is the row's number. A text that many rows share
    is held once."""
    measures: Measures
    """Of all of them."""
    rejected: pd.Series
    """Verdict of each that is no chip, by its row's number."""


def read_windows(folder: Folder, sensors: SensorTable) -> Windows:
    """Read the tables of windows, area by area.

    Of a window that is no chip its verdict, place and measures are kept alone: for every chip there
    may be a hundred of them.

    Raises
    ------
    ReleaseError
        If there are none, a column is missing or a value cannot be read.
    StoreError
        If a table is gone or damaged.
    """
    read = _Reader()
    try:
        for table in read_window_tables(folder):
            read.add(table, _needed(sensors))
        return read.windows()
    except FileNotFoundError:
        raise ReleaseError(f"{folder}: no window is chosen; run gelos-lc chip first") from None
    except ReleaseError as error:
        raise ReleaseError(f"{folder}: {error}; {_AGAIN}") from None
    except (ValueError, pa.ArrowException, shapely.errors.GEOSException) as error:
        text = str(error).splitlines()[0]
        raise ReleaseError(f"{folder}: a value cannot be read ({text}); {_AGAIN}") from None


def _needed(sensors: SensorTable) -> Iterator[str]:
    yield from _INTEGERS
    yield from ("cell", "status", "purity", FOOTPRINT)
    yield from (f"{key}_dates" for key in sensors.series)
    yield from (f"{key}_scene_ids" for key in sensors)


@dataclass
class _Reader:
    """What is kept of the tables read so far."""

    chips: list[pa.Table] = field(default_factory=list)
    rows: list[NDArray[np.int64]] = field(default_factory=list)
    """Of chips."""
    measures: Measures = field(default_factory=Measures)
    verdicts: list[NDArray[np.object_]] = field(default_factory=list)
    """Of the others."""
    others: list[NDArray[np.int64]] = field(default_factory=list)
    count: int = 0

    def add(self, table: pa.Table, needed: Iterator[str]) -> None:
        """Keep what is wanted of an area's windows."""
        if missing := [name for name in needed if name not in table.column_names]:
            raise ReleaseError(f"column {missing[0]} is missing")
        status = table.column("status").combine_chunks().dictionary_encode()
        names = status.dictionary.to_pylist()
        if status.null_count or "" in names:
            raise ReleaseError("a row has no status")
        verdicts = np.array(names, object)[status.indices.to_numpy()]
        is_chip = verdicts == Verdict.SUCCESS
        chips = table.filter(pa.array(is_chip))
        shapely.from_wkt(chips[FOOTPRINT].to_numpy())  # which raises where it is none
        self.chips.append(_encoded(chips))
        rows = self.count + np.arange(len(table))
        self.rows.append(rows[is_chip])
        self.others.append(rows[~is_chip])
        self.verdicts.append(verdicts[~is_chip])
        measures = [name for name in table.column_names if any(word in name for word in _MEASURES)]
        self.measures.add(table.select([*PLACE_COLUMNS, *measures]))
        self.count += len(table)

    def windows(self) -> Windows:
        """Put all areas together."""
        table = _to_frame(pa.concat_tables(self.chips))
        self.chips.clear()
        for name in _INTEGERS:
            table[name] = table[name].astype("int64")
        unknown = set(self.measures.unknown) & set(table)
        for name in unknown:  # as a text without a value, for all that comes after
            table[name] = ""
        rows = np.concatenate(self.rows)
        return Windows(
            table.set_index(rows),
            self.measures,
            pd.Series(np.concatenate(self.verdicts), np.concatenate(self.others), dtype=object),
        )


def _encoded(table: pa.Table) -> pa.Table:
    """Return a table in which texts that many of its rows share are there once."""
    for place, name in enumerate(table.column_names):
        kind = table[name].type
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            continue
        if table[name].null_count:
            raise ReleaseError(f"column {name}: a chip's row has no text")
        if name not in _OWN_TEXTS:
            table = table.set_column(place, name, table[name].dictionary_encode())
    return table


def _to_frame(encoded: pa.Table) -> pd.DataFrame:
    """Return such a table as pandas has it; a text that many rows share is one object."""
    table, columns = encoded.unify_dictionaries(), {}
    for name in table.column_names:
        column = table[name].combine_chunks()
        if pa.types.is_dictionary(column.type):
            texts = np.array(column.dictionary.to_pylist(), object)
            columns[name] = pd.Series(texts[column.indices.to_numpy()], dtype=object)
        else:
            columns[name] = column.to_pandas()
    return pd.DataFrame(columns)
