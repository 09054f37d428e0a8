"""Scores: what is known of every window of a cube, whatever the thresholds.

A table per cube, a row per window: how many pixels of each land-cover class its sample window
holds, and for each sensor and date how many pixels of the chip are valid and how many of the sample
window are clear. Pixels are counted, never averaged, so that a threshold can be compared exactly. A
table is made again only if the cube, the windows' geometry or the rules of its masks change.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from cube.config.sensor_models import CloudRule
from cube.config.sensors import Sensor
from cube.errors import StoreError
from cube.run.storage import Folder
from cube.scenes.plan import canonical_json
from cube.store.sealed import BlockDigests, CubeInfo, open_raw, read_block_digests, reading
from cube.windows.counts import CellCounts, CellGrid, count_true
from cube.windows.grid import BLOCK_M, Block
from cube.windows.landcover import count_classes
from cube.windows.lattice import Part, Spans, WindowGeometry, WindowLattice, windows_on

from .masks import Mask, MaskSettings, clear_pixels

if TYPE_CHECKING:
    import xarray as xr

_SCORES_VERSION = 2
"""Of the table's columns and of the way they are counted; another number makes old tables stale."""
_HEADER = b"gelos"
Column = NDArray[np.int32]
Which = Literal["valid", "clear"]


@dataclass(frozen=True)
class ScoreTable:
    """The scores of one cube's windows, rows from north to south and west to east.

    ``columns`` holds, per window: ``left_m`` and ``top_m`` of the sample window; ``lulc``, its
    majority class (the lowest code of equals), and ``majority_px``; ``class_{code}_px`` of every
    class of the map and ``class_other_px``; per sensor ``{sensor}_not_fetched``; per sensor and
    date ``{sensor}_{i}_valid_px`` in the chip and ``{sensor}_{i}_clear_px`` in the sample window.
    """

    cube: CubeInfo
    geometry: WindowGeometry
    masks: tuple[MaskSettings, ...]
    ranges: int
    """Time ranges of the config: a sensor with another number of dates is missing."""
    columns: Mapping[str, NDArray[Any]]

    def __len__(self) -> int:
        """Return the number of windows."""
        return len(self.columns["left_m"])

    @property
    def sample_px(self) -> int:
        """Land-cover pixels in a sample window."""
        return self.geometry.window_px("sample", self.cube.sensors["lulc"].resolution)

    @cached_property
    def cells(self) -> list[str]:
        """Names of the windows."""
        corners = zip(self.columns["left_m"].tolist(), self.columns["top_m"].tolist(), strict=True)
        return [f"{self.cube.epsg}_{left}_{top}" for left, top in corners]

    def purity(self) -> NDArray[np.float64]:
        """Return the share of each sample window's pixels in its majority class."""
        return self.columns["majority_px"] / np.float64(self.sample_px)

    def dates(self, sensor: str) -> tuple[str, ...]:
        """Return the dates of a sensor, ``YYYYMMDD``; none where the cube has none of it."""
        found = self.cube.sensors.get(sensor)
        return () if found is None or found.sensor.is_static else found.dates

    def has(self, sensor: str) -> bool:
        """Tell whether the cube holds a sensor with a date for every time range."""
        found = self.cube.sensors.get(sensor)
        return found is not None and (found.sensor.is_static or len(found.times) == self.ranges)

    def share(self, which: Which, sensor: str, date: int) -> NDArray[np.float64]:
        """Return the ``valid`` share of chips or the ``clear`` one of sample windows on a date."""
        return self.columns[f"{sensor}_{date}_{which}_px"] / np.float64(self.window_px(which, sensor))

    def window_px(self, which: Which, sensor: str) -> int:
        """Return what a share is of: pixels of a chip for ``valid``, of a sample for ``clear``."""
        part: Part = "chip" if which == "valid" else "sample"
        return self.geometry.window_px(part, self.cube.sensors[sensor].resolution)


@dataclass(frozen=True)
class ScoreTask:
    """One cube to score; travels to workers."""

    cubes: Folder
    blocks: Folder
    """Records of what was written, block by block."""
    scores: Folder
    cube: CubeInfo
    geometry: WindowGeometry
    masks: tuple[MaskSettings, ...]
    ranges: int

    @cached_property
    def key(self) -> str:
        """SHA-256 over everything that the scores follow from."""
        record = {
            "version": _SCORES_VERSION,
            "cube": self.cube.to_json(),
            "geometry": asdict(self.geometry),
            "masks": [asdict(mask) for mask in self.masks],
            "ranges": self.ranges,
        }
        return hashlib.sha256(canonical_json(record)).hexdigest()


def scores_name(aoi_index: int) -> str:
    """Return the file name of an AOI's scores."""
    return f"aoi_{aoi_index:06}.parquet"


def load_or_make_scores(task: ScoreTask) -> ScoreTable:
    """Return a cube's scores: those on disk if they are of the same key, or else new ones."""
    found = _read_scores(task)
    if found is not None:
        return found
    table = ScoreTable(task.cube, task.geometry, task.masks, task.ranges, _score(task))
    task.scores.write(scores_name(task.cube.aoi_index), _to_parquet(table, task.key))
    return table


def _read_scores(task: ScoreTask) -> ScoreTable | None:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        data = task.scores.read(scores_name(task.cube.aoi_index))
    except FileNotFoundError:
        return None
    try:
        table = parquet.ParquetFile(pa.BufferReader(data)).read(use_threads=False)
        header = json.loads((table.schema.metadata or {}).get(_HEADER, b"{}"))
    except (OSError, ValueError, pa.ArrowException):  # damaged: what is said of it depends on where
        return None
    if header.get("key") != task.key:
        return None
    columns = {name: table.column(name).to_numpy() for name in table.column_names}
    return ScoreTable(task.cube, task.geometry, task.masks, task.ranges, columns)


def _to_parquet(table: ScoreTable, key: str) -> bytes:
    import pyarrow as pa
    from pyarrow import parquet

    header = canonical_json({"key": key})
    arrow = pa.table(dict(table.columns)).replace_schema_metadata({_HEADER: header})
    buffer = io.BytesIO()
    parquet.write_table(arrow, buffer, compression="zstd")
    return buffer.getvalue()


def _score(task: ScoreTask) -> dict[str, NDArray[Any]]:
    lattice = WindowLattice(task.geometry, task.cube.bounds, task.cube.epsg)
    left, top = lattice.corners()
    columns: dict[str, NDArray[Any]] = {"left_m": left.astype(np.int32), "top_m": top.astype(np.int32)}
    tree = open_raw(task.cubes, task.cube.name)
    digests = read_block_digests(task.blocks, task.cube)
    for masks in task.masks:
        if masks.sensor not in task.cube.sensors:
            continue
        _check_bands(task.cube, masks)
        layers = tree[masks.sensor].to_dataset()
        if masks.sensor == "lulc":
            columns |= _score_land_cover(task, lattice, layers)
        columns |= _score_sensor(task, masks, lattice, layers, digests)
    return columns


def _check_bands(cube: CubeInfo, masks: MaskSettings) -> None:
    wanted = {*masks.bands, *([masks.cloud_rule.band] if masks.cloud_rule else [])}
    if lacking := sorted(wanted - set(cube.sensors[masks.sensor].bands)):
        raise StoreError(
            f"AOI {cube.aoi_label}: its cube has no {masks.sensor} {', '.join(lacking)}; "
            f"build it again, or take them out of {masks.sensor}.bands"
        )


def _score_land_cover(task: ScoreTask, lattice: WindowLattice, layers: xr.Dataset) -> dict[str, Column]:
    resolution = task.cube.sensors["lulc"].resolution
    side = BLOCK_M // resolution
    blocks = (
        (block, _read_layer(pixels["lulc"], task.cube.aoi_label, "lulc/lulc"))
        for block, pixels in _blocks_of(layers, "lulc", 0, side)
    )
    return count_classes(blocks, lattice, resolution, side)


def _score_sensor(
    task: ScoreTask, masks: MaskSettings, lattice: WindowLattice, layers: xr.Dataset, digests: BlockDigests
) -> dict[str, NDArray[Any]]:
    found = task.cube.sensors[masks.sensor]
    if not len(lattice):
        return _no_windows(masks, len(found.times))
    rows, columns = (
        {part: spans(part, found.resolution) for part in ("sample", "chip")}
        for spans in (lattice.rows, lattice.columns)
    )
    height, width = (layers.sizes[dim] for dim in ("y", "x"))
    side = BLOCK_M // found.resolution
    grid = CellGrid(rows.values(), columns.values(), range(0, height, side), range(0, width, side))
    scores: dict[str, NDArray[Any]] = {}
    not_fetched = np.zeros(lattice.shape, np.bool_)
    for date in range(len(found.times)):
        valid, clear = CellCounts(grid), CellCounts(grid)
        for block, pixels in _blocks_of(layers, masks.sensor, date, side):
            if block.name in task.cube.not_fetched:
                reach = windows_on(
                    block, lattice, found.resolution, masks.cloud_rule.buffer_px if masks.cloud_rule else 0
                )
                not_fetched[reach] = True
                continue
            cut = grid.cut(block)
            if cut is None:
                continue
            seen = _valid_in(pixels, masks, found.sensor, block, digests)
            valid.put(cut.cells, count_true(seen, cut.row_edges, cut.column_edges))
            if masks.cloud_rule:
                seen &= _clear_in(layers, masks.cloud_rule, found.sensor, block, digests)
                clear.put(cut.cells, count_true(seen, cut.row_edges, cut.column_edges))
        scores[f"{masks.sensor}_{date}_valid_px"] = _window_counts(valid, rows["chip"], columns["chip"])
        counted = clear if masks.cloud_rule else valid
        scores[f"{masks.sensor}_{date}_clear_px"] = _window_counts(counted, rows["sample"], columns["sample"])
    return {f"{masks.sensor}_not_fetched": not_fetched.ravel(), **scores}


def _no_windows(masks: MaskSettings, dates: int) -> dict[str, NDArray[Any]]:
    counts = itertools.product(range(dates), ("valid", "clear"))
    return {
        f"{masks.sensor}_not_fetched": np.zeros(0, np.bool_),
        **{f"{masks.sensor}_{date}_{which}_px": np.zeros(0, np.int32) for date, which in counts},
    }


def _window_counts(counts: CellCounts, rows: Spans, columns: Spans) -> Column:
    return counts.windows(rows, columns).ravel().astype(np.int32)


def _read_layer(layer: xr.DataArray, aoi: str, path: str) -> NDArray[Any]:
    with reading(aoi, path):
        values: NDArray[Any] = layer.values
    return values


def _valid_in(
    pixels: xr.Dataset, masks: MaskSettings, sensor: Sensor, block: Block, digests: BlockDigests
) -> Mask:
    mask = np.ones((block.height, block.width), np.bool_)
    for name in masks.bands:
        values = _read_layer(pixels[name], digests.aoi, f"{masks.sensor}/{name}")
        digests.check(block, name, values)
        mask &= ~sensor.band(name).is_nodata(values)
    return mask


def _clear_in(
    layers: xr.Dataset, rule: CloudRule, sensor: Sensor, block: Block, digests: BlockDigests
) -> Mask:
    """Return where a block is clear, the buffer of clouds beyond its edge included."""
    buffer = rule.buffer_px
    top, left = max(block.row - buffer, 0), max(block.col - buffer, 0)
    around = layers[rule.band].isel(
        time=block.time,
        y=slice(top, block.row + block.height + buffer),
        x=slice(left, block.col + block.width + buffer),
    )
    inner = np.s_[
        block.row - top : block.row - top + block.height, block.col - left : block.col - left + block.width
    ]
    values = _read_layer(around, digests.aoi, f"{sensor.key}/{rule.band}")
    digests.check(block, rule.band, values[inner])
    return clear_pixels(values, rule, sensor)[inner]


def _blocks_of(layers: xr.Dataset, sensor: str, date: int, side: int) -> Iterator[tuple[Block, xr.Dataset]]:
    """Yield the blocks of one date, whole chunks each, and their pixels, not yet read.

    xbatcher leaves out what does not fill a batch; so the edges, which are smaller, are walked by
    themselves.
    """
    from xbatcher import BatchGenerator

    flat = layers.isel(time=date) if "time" in layers.dims else layers
    flat = flat.assign_coords(y=np.arange(flat.sizes["y"]), x=np.arange(flat.sizes["x"]))
    for rows, columns in itertools.product(
        _even_parts(flat.sizes["y"], side), _even_parts(flat.sizes["x"], side)
    ):
        part = flat.isel(y=slice(*rows[:2]), x=slice(*columns[:2]))
        for pixels in BatchGenerator(part, {"y": rows[2], "x": columns[2]}, preload_batch=False):
            row, col = int(pixels["y"][0]), int(pixels["x"][0])
            yield Block(sensor, date, row, col, rows[2], columns[2]), pixels


def _even_parts(length: int, side: int) -> list[tuple[int, int, int]]:
    """Cut a length into what `side` divides and the rest: start, stop, size of a batch each."""
    whole = length - length % side
    parts = [(0, whole, side), (whole, length, length - whole)]
    return [part for part in parts if part[0] < part[1]]
