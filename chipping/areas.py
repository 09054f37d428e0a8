"""Phase two of one area, as workers do it: what could be a chip, what became of it, its files.

An area's windows stay with the worker that counts them. What must be known of other areas are its
candidates' places alone, and what is told about them is which are duplicates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from shapely.geometry.base import BaseGeometry

from cube.config.aoi import Aoi
from cube.config.models import Config
from cube.errors import StoreError
from cube.run.layout import Layout
from cube.windows.duplicates import Places
from cube.windows.footprints import footprints, outside
from cube.windows.grid import Bounds
from cube.windows.lattice import WindowGeometry

from .choose import Codes, Verdict, judge, reject_outside, reject_over_cap, verdict_names
from .export import ChipWindow, ExportResult, ExportSettings, ExportTask, export_chips, group_windows
from .finished import FinishedCube, check_cube
from .masks import mask_settings
from .records import to_parquet, window_table, window_table_name
from .scores import ScoreTable, ScoreTask, load_or_make_scores


@dataclass(frozen=True)
class Area:
    """An area with a finished cube; travels to workers."""

    config: Config
    layout: Layout
    cube: FinishedCube
    polygon: BaseGeometry | None = None
    """What ``aoi.clip`` compares chips with; None where it rejects none."""
    called: Mapping[str, str] | None = None
    """``aoi_name`` and ``aoi_id`` in the table of windows."""

    def score(self) -> ScoreTable | None:
        """Return the scores, made anew where those on disk are others'; None: the cube is gone.

        Raises
        ------
        ConfigError
            If the cube was built with other settings.
        StoreError
            If its pixels are not what was written.
        """
        config, layout = self.config, self.layout
        info = self.cube.read(layout, config.table)
        if info is None:
            return None
        check_cube(config, info)
        geometry = WindowGeometry.from_config(config.chips)
        folders = (layout.cubes, layout.blocks, layout.scores)
        return load_or_make_scores(
            ScoreTask(*folders, info, geometry, mask_settings(config), len(config.ranges))
        )

    def rejected_by_clip(self, table: ScoreTable) -> NDArray[np.bool_] | None:
        """Return the windows that ``aoi.clip`` rejects; None: it rejects none."""
        clip = self.config.aoi.clip
        if self.polygon is None or clip == "none":
            return None
        left, top = table.columns["left_m"], table.columns["top_m"]
        return outside(self.polygon, footprints(table.geometry, table.cube.epsg, left, top), clip)

    def judge(self, table: ScoreTable) -> Codes:
        """Try all rules that concern this area alone, but for the cap, which follows duplicates."""
        names = verdict_names(self.config.table)
        verdicts = judge(table, self.config.chips, names)
        clipped = self.rejected_by_clip(table)
        if clipped is not None:
            reject_outside(verdicts, clipped, names)
        return verdicts


def areas_of(
    config: Config, layout: Layout, cubes: Iterable[FinishedCube], aois: Iterable[Aoi]
) -> list[Area]:
    """Return areas, each with what its rows need of the file of AOIs."""
    known = {aoi.index: aoi for aoi in aois}
    columns: dict[str, Callable[[Aoi], str]] = {
        "aoi_name": lambda aoi: aoi.name,
        "aoi_id": lambda aoi: aoi.id,
    }
    used = {name: of for name, of in columns.items() if any(map(of, known.values()))}
    clips = config.aoi.clip != "none"
    return [
        Area(
            config,
            layout,
            cube,
            known[cube.aoi_index].geometry if clips else None,
            {name: of(known[cube.aoi_index]) for name, of in used.items()},
        )
        for cube in cubes
    ]


def score_area(area: Area) -> tuple[ScoreTable, NDArray[np.bool_] | None] | None:
    """Return an area's scores, and what ``aoi.clip`` rejects; None: its cube is gone."""
    table = area.score()
    return None if table is None else (table, area.rejected_by_clip(table))


@dataclass(frozen=True, eq=False)
class Candidates:
    """The windows of an area that its own rules let through."""

    aoi_index: int
    cube: str
    """``content_sha256`` of the cube that was scored."""
    epsg: int
    windows: int
    """How many were scored."""
    left_m: NDArray[np.int32]
    top_m: NDArray[np.int32]


def find_candidates(area: Area) -> Candidates | None:
    """Score an area and judge its windows; None: its cube is gone."""
    table = area.score()
    if table is None:
        return None
    left = np.flatnonzero(area.judge(table) == 0)
    places = (table.columns[name][left].astype(np.int32) for name in ("left_m", "top_m"))
    cube = table.cube
    return Candidates(cube.aoi_index, cube.content_sha256, cube.epsg, len(table), *places)


@dataclass(frozen=True, eq=False)
class Turn:
    """What an area must know of the others."""

    cube: str
    """``content_sha256`` of the cube that its candidates are of."""
    start: int
    """``chip_index`` of its first window."""
    duplicates: NDArray[np.bool_]
    """Those of its candidates that an earlier area's chip shows already."""


def take_turns(found: list[Candidates], geometry: WindowGeometry) -> dict[int, Turn]:
    """Decide what must be decided across areas; `found` is in the order of AOI indices."""
    starts = np.cumsum([0, *(len(one.left_m) for one in found)], dtype=np.int64)
    edges = (
        np.concatenate([*(getattr(one, name) for one in found), np.zeros(0, np.int32)])
        for name in ("left_m", "top_m")
    )
    places = Places(geometry, np.array([one.epsg for one in found], np.int32), starts, *edges)
    gone = places.duplicates(np.ones(len(places), np.bool_))
    first = np.cumsum([0, *(one.windows for one in found)], dtype=np.int64).tolist()
    return {
        one.aoi_index: Turn(one.cube, first[number], gone[starts[number] : starts[number + 1]])
        for number, one in enumerate(found)
    }


@dataclass(frozen=True, eq=False)
class Settled:
    """What became of an area's windows."""

    aoi_index: int
    cube: str
    """``content_sha256``."""
    verdicts: Mapping[str, int]
    """Windows by verdict, in the order of the rules."""
    epsg: int
    bounds: Bounds
    """Of the cube."""
    left_m: NDArray[np.int32]
    """Of the chips, as all that follow."""
    top_m: NDArray[np.int32]
    lulc: NDArray[np.uint8]
    purity: NDArray[np.float64]

    @property
    def cells(self) -> list[str]:
        """Names of the chips."""
        places = zip(self.left_m.tolist(), self.top_m.tolist(), strict=True)
        return [f"{self.epsg}_{left}_{top}" for left, top in places]

    def groups(self) -> Iterator[tuple[ChipWindow, ...]]:
        """Yield the chips that are written together."""
        columns = (one.tolist() for one in (self.left_m, self.top_m, self.lulc, self.purity))
        return group_windows(self.bounds, map(ChipWindow, self.cells, *columns))


def settle(task: tuple[Area, Turn]) -> Settled:
    """Give every window of an area its verdict, and write the table of them.

    Raises
    ------
    StoreError
        If the cube was built anew meanwhile.
    """
    area, turn = task
    table = area.score()
    if table is None or table.cube.content_sha256 != turn.cube:
        raise _changed(area)
    verdicts = area.judge(table)
    names = verdict_names(area.config.table)
    _reject(verdicts, table, turn, area.config, names)
    rows = window_table(table, turn.start, np.array(names)[verdicts], area.config.table, area.called)
    area.layout.windows.write(window_table_name(table.cube.aoi_index), to_parquet(rows))
    chips = np.flatnonzero(verdicts == 0)
    counts = np.bincount(verdicts, minlength=len(names)).tolist()
    return Settled(
        table.cube.aoi_index,
        turn.cube,
        {str(name): count for name, count in zip(names, counts, strict=True) if count},
        table.cube.epsg,
        table.cube.bounds,
        table.columns["left_m"][chips].astype(np.int32),
        table.columns["top_m"][chips].astype(np.int32),
        table.columns["lulc"][chips].astype(np.uint8),
        table.purity()[chips],
    )


def _changed(area: Area) -> StoreError:
    return StoreError(f"AOI {area.cube.aoi_label}: its cube has changed meanwhile; run gelos-lc chip again")


def _reject(verdicts: Codes, table: ScoreTable, turn: Turn, config: Config, names: tuple[str, ...]) -> None:
    """Reject duplicates, and then what is over the cap."""
    verdicts[np.flatnonzero(verdicts == 0)[turn.duplicates]] = names.index(Verdict.DUPLICATE)
    cap = config.chips.max_per_class
    if cap is not None:
        reject_over_cap(verdicts, table.columns["lulc"], table.cells, names, cap, config.release.seed)


@dataclass(frozen=True)
class ChipsTask:
    """Chips of one area that are written together; travels to workers."""

    area: Area
    cube: str
    """``content_sha256`` of the cube that the windows were chosen from."""
    settings: ExportSettings
    windows: tuple[ChipWindow, ...]
    verify: bool
    """True: a chip that is already there is kept only if its files are what its record says."""


def write_chips(task: ChipsTask) -> ExportResult:
    """Write those chips that are not there yet with the same cube and settings.

    Raises
    ------
    StoreError
        If the cube is gone, or was built anew meanwhile.
    """
    area = task.area
    info = area.cube.read(area.layout, area.config.table)
    if info is None:
        raise StoreError(f"AOI {area.cube.aoi_label}: its cube is gone; build it again")
    if info.content_sha256 != task.cube:
        raise _changed(area)
    folders = (area.layout.cubes, area.layout.chips)
    return export_chips(ExportTask(*folders, info, task.settings, task.windows, task.verify))
