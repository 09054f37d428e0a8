"""The choice of chips at scale: many areas of a thousand windows, whose scores are made up; no pixel is read.

An area is 30.7 km wide and shares four columns of windows with its neighbour; every second tile of a hundred areas reaches over
the border of its UTM zone onto the next tile's. About one window in ten is a candidate.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

SIDE = 32
"""Windows along an area's edge."""
_CELL_M, _STEP, _ACROSS = 960, 28, 10
_ZONES, _OVER_M = 60, 10 * 960
SEASONS = [datetime(2023, month, 10, 10, tzinfo=UTC) for month in (2, 5, 8, 11)]


def area_corner(area: int) -> tuple[int, int, int]:
    """Return an area's zone, and its left and bottom edge, metres."""
    tile, place = divmod(area, _ACROSS**2)
    zone, row = tile % _ZONES, tile // _ZONES
    side = (_STEP * (_ACROSS - 1) + SIDE) * _CELL_M
    bottom = (100 + row * side // _CELL_M) * _CELL_M
    half = 3 * 111_320 * 0.9996 * math.cos(math.radians((bottom + side / 2) / 111_000))
    left = 500_000 + half - side + _OVER_M if zone % 2 == 0 else 500_000 - half - _OVER_M
    left = round(left / _CELL_M) * _CELL_M
    column, line = place % _ACROSS, place // _ACROSS
    return 32601 + zone, left + column * _STEP * _CELL_M, bottom + line * _STEP * _CELL_M


def chips_config(folder: Path) -> Any:
    """Return the demo's config over the areas of a folder, with chips of 960 m."""
    from cube.config.reading import load_config

    sets = [
        f"aoi.path={folder / 'aois.geojson'}",
        f"directory.working={folder / 'chips'}",
        f"directory.output={folder / 'out'}",
        "compute.workers=0",
        "chips={sample_size: 960, chip_size: 960}",
    ]
    return load_config(Path(__file__).parents[2] / "configs" / "demo.yaml", sets)


def make_scores(folder: Path) -> None:
    """Write the roots of cubes, the rows that name them, and made-up scores."""
    import chipping.scores
    from chipping.areas import areas_of
    from chipping.finished import finished_cubes
    from cube.config.aoi import load_aois
    from cube.run.layout import Layout

    config = chips_config(folder)
    layout, aois = Layout.of(config), load_aois(config)
    document = _root_document(config, folder)
    features = []
    for aoi in aois:
        epsg, left, bottom = area_corner(aoi.index)
        side = SIDE * _CELL_M
        document["attributes"] |= {"aoi_index": aoi.index, "epsg": epsg}
        document["attributes"]["recipe"]["bounds"] = [left, bottom, left + side, bottom + side]
        cube = f"aoi_{aoi.index:06}_{'0' * 12}"
        path = Path(layout.cubes.url) / f"{cube}.zarr"
        path.mkdir(parents=True)
        (path / "zarr.json").write_text(json.dumps(document))
        row = {"aoi_index": aoi.index, "status": "built", "cube": cube}
        features.append({"type": "Feature", "properties": row, "geometry": None})
    rows = json.dumps({"type": "FeatureCollection", "features": features})
    layout.root.make()
    (Path(layout.root.url) / "aoi_metadata.geojson").write_text(rows)
    chipping.scores._score = made_up
    for area in areas_of(config, layout, finished_cubes(config), aois):
        assert len(area.score() or ()) == SIDE**2


def _root_document(config: Any, folder: Path) -> dict[str, Any]:
    """Return the root of a cube of no pixels."""
    from cube.run.storage import open_folder
    from cube.store.template import make_template
    from cube.store.write import seal, write_template
    from cube.testing.cubes import plan_from_times
    from cube.windows.grid import Bounds

    cubes = open_folder(str(folder / "model"))
    plan = plan_from_times(config, Bounds(499_200, 960_000, 501_120, 961_920), 32632, SEASONS)
    template = make_template(plan)
    write_template(cubes, plan.cube, template)
    digests = {
        block.name: dict.fromkeys(sensor.bands, "0" * 64)
        for sensor in plan.sensors
        for block in plan.blocks(sensor.key)
    }
    seal(cubes, plan, template, digests)
    document: dict[str, Any] = json.loads((folder / "model" / f"{plan.cube}.zarr" / "zarr.json").read_text())
    return document


def made_up(task: Any) -> dict[str, Any]:
    """Return scores of windows of which one in ten lets its chip through."""
    from cube.windows.lattice import WindowLattice

    lattice = WindowLattice(task.geometry, task.cube.bounds, task.cube.epsg)
    left, top = lattice.corners()
    columns: dict[str, Any] = {"left_m": left.astype(np.int32), "top_m": top.astype(np.int32)}
    return columns | dict(_numbers(task, len(lattice)))


def _numbers(task: Any, size: int) -> Iterator[tuple[str, Any]]:
    from cube.windows.landcover import land_cover_columns

    rng = np.random.default_rng(task.cube.aoi_index)
    whole = task.geometry.window_px("sample", task.cube.sensors["lulc"].resolution)
    main, is_pure = rng.choice([1, 2, 5, 7, 11], size), rng.random(size) < 0.13
    share = np.where(is_pure, whole, rng.integers(whole // 2, whole, size))
    counts = {c: (main == c) * share + (c == 2) * (whole - share) for c in (1, 2, 5, 7, 11)}
    yield from land_cover_columns(counts, size).items()
    for key, sensor in task.cube.sensors.items():
        yield f"{key}_not_fetched", np.zeros(size, np.bool_)
        for date in range(len(sensor.times)):
            for part in ("valid", "clear"):
                pixels = task.geometry.window_px("chip", sensor.resolution)
                lacking = (rng.random(size) < 0.02) * rng.integers(0, pixels, size)
                yield f"{key}_{date}_{part}_px", (pixels - lacking).astype(np.int32)


def choice(folder: Path) -> None:
    """Find what could be a chip in every area's scores, and decide what must be across areas."""
    from chipping.areas import areas_of, find_candidates, take_turns
    from chipping.finished import finished_cubes
    from cube.config.aoi import load_aois
    from cube.run.layout import Layout
    from cube.run.tasks import Tasks
    from cube.run.thread_engine import ThreadEngine
    from cube.windows.lattice import WindowGeometry

    config = chips_config(folder)
    areas = areas_of(config, Layout.of(config), finished_cubes(config), load_aois(config))
    found = [one.get() for one in ThreadEngine(2).run(find_candidates, Tasks(areas), "choice")]
    found.sort(key=lambda one: one.aoi_index)
    assert sum(one.windows for one in found) == len(areas) * SIDE**2
    turns = take_turns(found, WindowGeometry.from_config(config.chips))
    gone = sum(int(turn.duplicates.sum()) for turn in turns.values())
    assert gone > 0 or len(areas) < 2


def chip(folder: Path) -> None:
    """Choose, and write the tables of windows; chips count as written."""
    import chipping.chip
    from chipping.export import ExportResult
    from cube.run.thread_engine import ThreadEngine

    chipping.chip.write_chips = lambda task: ExportResult(len(task.windows), 0)
    summary = chipping.chip.chip(chips_config(folder), ThreadEngine(2))
    assert summary.windows % SIDE**2 == 0
    assert 0 < summary.chips < summary.windows
