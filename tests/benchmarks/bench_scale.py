"""What the program itself costs at a hundred thousand areas: no pixel is read, and no service is asked.

    python tests/benchmarks/bench_scale.py 1000 10000 100000

The world is made of tiles of 110 km, each with the items of all five sensors and four seasons, and of
areas of 1.9 km in them. Blocks are marked as done without a pixel. Phase two has areas of its own, of a thousand windows each, whose
scores are made up (``scores``); ``choice`` decides over them, ``chip`` writes their tables as well, and no chip. The steps release,
verify and open are of so many chips in place of areas: a few of 240 m, a Sentinel-2 date and the land cover, repeated at other places,
in shards of 1,000. A line of JSON is printed for each step and number of areas; then
a table of their growth. Each step runs in a process of its own, on a temporary file system if ``--folder`` names one: what a disk
takes to force files onto it is not the program's.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "release"), str(ROOT / "tests" / "benchmarks")]

import scale_chips  # noqa: E402
from figures import Table, add_json_flag, show  # noqa: E402

SEASONS = [datetime(2023, month, 10, 10, tzinfo=UTC) for month in (2, 5, 8, 11)]
AREAS_PER_TILE = 100
_SIDE_CELLS, _CELL_M, _SQUARE_M, _ROWS = 114, 960, 100_000, 60
"""Of a tile, in lattice cells; its square of the military grid; and tiles of a zone, from south to north."""
_FIRST_ZONE, _ZONES = 2, 58
"""But for those at the antimeridian, where areas are searched for one by one."""
CORES = 2
RECIPES = "recipes.txt"
_SPAWN = multiprocessing.get_context("spawn")


def tile_corner(tile: int) -> tuple[int, int, int]:
    """Return a tile's zone, and its left and bottom edge, metres."""
    zone, row = _FIRST_ZONE + tile % _ZONES, tile // _ZONES
    assert row < _ROWS
    left, bottom = (-(-square * _SQUARE_M // _CELL_M) * _CELL_M for square in (4, 1 + row))
    return 32600 + zone, left, bottom


@lru_cache(32)
def tile_catalog(tile: int) -> Any:
    """Return the items of a tile, as a catalog."""
    from odc.geo.geobox import GeoBox
    from pyproj import Transformer

    from cube.scenes.catalog import FileCatalog
    from cube.testing import dem_item, landsat_item, lulc_item, sentinel1_item, sentinel2_item, utm_geobox

    epsg, left, bottom = tile_corner(tile)
    bounds = (left, bottom, left + _SIDE_CELLS * _CELL_M, bottom + _SIDE_CELLS * _CELL_M)
    fine, coarse = (utm_geobox(epsg, bounds, metres) for metres in (10, 30))
    to_lonlat = Transformer.from_crs(epsg, 4326, always_xy=True)
    west, south, east, north = to_lonlat.transform_bounds(*bounds)
    degrees = (west - 0.01, south - 0.01, east + 0.01, north + 0.01)
    name = f"{epsg % 100:02}{chr(65 + tile // _ZONES // 26)}{chr(65 + tile // _ZONES % 26)}A"
    items = [
        *(sentinel2_item(fine, when, tile=name) for when in SEASONS),
        *(sentinel1_item(fine, when) for when in SEASONS),
        *(landsat_item(coarse, when) for when in SEASONS),
        dem_item(GeoBox.from_bbox(degrees, "EPSG:4326", resolution=1 / 3600)),
        lulc_item(fine),
    ]
    for item in items:
        item["id"] += f"-{tile}"
    return FileCatalog(items)


class World:
    """A catalog that answers at once, and counts."""

    def __init__(self) -> None:
        self.asked = 0

    def search(self, query: Any) -> list[dict[str, Any]]:
        """Return the items of the tile that an area lies in."""
        from cube.windows.projection import utm_epsg

        self.asked += 1
        place = query.intersects.centroid
        epsg = utm_epsg(query.intersects)
        row = min(range(_ROWS), key=lambda n: abs(_latitude(n) - place.y))
        found: list[dict[str, Any]] = tile_catalog(epsg % 100 - _FIRST_ZONE + row * _ZONES).search(query)
        return found


@lru_cache(_ROWS)
def _latitude(row: int) -> float:
    return (tile_corner(row * _ZONES)[2] + _SIDE_CELLS / 2 * _CELL_M) / 111_000


def write_areas(folder: Path, count: int) -> None:
    """Write ``aois.geojson``: squares whose smallest box on the lattice has two cells a side."""
    from shapely.geometry import mapping

    from cube.testing import footprint_4326, utm_geobox

    folder.mkdir(parents=True, exist_ok=True)
    features = []
    for area in range(count):
        tile, place = divmod(area, AREAS_PER_TILE)
        epsg, left, bottom = tile_corner(tile)
        x = left + (10 + 9 * (place % 10)) * _CELL_M + 120
        y = bottom + (10 + 9 * (place // 10)) * _CELL_M + 120
        outline = footprint_4326(utm_geobox(epsg, (x, y, x + 1680, y + 1680), 20))
        features.append({"type": "Feature", "properties": {}, "geometry": mapping(outline)})
    (folder / "aois.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": features}))


def load(folder: Path) -> Any:
    """Return the demo's config over the areas of a folder."""
    from cube.config.reading import load_config

    sets = [
        f"aoi.path={folder / 'aois.geojson'}",
        f"directory.working={folder / 'work'}",
        f"directory.output={folder / 'out'}",
        "catalog.url=planetary-computer",
        "compute.workers=0",
    ]
    return load_config(ROOT / "configs" / "demo.yaml", sets)


def mark_block(task: Any) -> dict[str, Any]:
    """Do what a worker does with a block, but for its pixels: leave its marker."""
    from cube.pixels.notes import ReadNotes
    from cube.scenes.plan import canonical_json

    nothing = hashlib.sha256(b"").hexdigest()
    pixels = task.block.height * task.block.width
    record = {
        "fingerprint": task.fingerprint,
        "digests": dict.fromkeys(task.bands, nothing),
        "valid": dict.fromkeys(task.bands, pixels),
        **ReadNotes().to_json(),
    }
    task.markers.write(task.marker, canonical_json(record))
    return record


def plan(folder: Path) -> None:
    """Choose the scenes of all areas, each searched for by itself, and keep their recipes' names."""
    (folder / RECIPES).write_text("\n".join(_recipes(load(folder), World())))


def searches(folder: Path) -> dict[str, int]:
    """Plan as a service is asked: once for neighbours; the recipes are those of :func:`plan`."""
    from cube.config.aoi import load_aois
    from cube.scenes.neighbours import NeighbourCatalog, neighbourhoods

    config, world = load(folder), World()
    catalog = NeighbourCatalog(world, neighbourhoods(load_aois(config)), config)
    assert list(_recipes(config, catalog)) == (folder / RECIPES).read_text().split()
    return {"searches": world.asked}


def _recipes(config: Any, catalog: Any) -> Iterator[str]:
    from cube.build.plans import plan_cubes
    from cube.scenes.plan import CubePlan

    for _, made in plan_cubes(config, catalog=catalog):
        assert isinstance(made, CubePlan)
        yield made.cube


def build(folder: Path) -> None:
    """Plan, seal and record all areas, a shard of them on each core."""
    shards = [
        _SPAWN.Process(target=build_some, args=(folder, f"{one}/{CORES}")) for one in range(1, CORES + 1)
    ]
    for process in shards:
        process.start()
    for process in shards:
        process.join()
    assert not any(process.exitcode for process in shards)


def build_some(folder: Path, shard: str | None = None) -> None:
    """Build all areas, or those of a shard."""
    import cube.build.run
    from cube.run.shards import Share
    from cube.run.status import AoiState
    from cube.run.thread_engine import ThreadEngine

    sys.stderr = open("/dev/null", "w")  # noqa: SIM115, PTH123
    cube.build.run.build_block = mark_block
    config, own = load(folder), Share.parse(shard) if shard else None
    found = cube.build.run.build_cubes(config, ThreadEngine(), catalog=World(), shard=own)
    assert found.count(AoiState.BUILT) == len(found.rows)


def rerun(folder: Path) -> None:
    """Do the same once more, in one process: there is nothing to do."""
    build_some(folder)


def status(folder: Path) -> None:
    """Say where the version stands."""
    from release.status.standing import read_standing

    assert read_standing(load(folder)).rows


def write_chips(folder: Path, count: int) -> None:
    """Write so many chips as phase two leaves them, a Sentinel-2 date and the land cover of 240 m each."""
    import bench_release
    from release_landscape import Land

    landscape = bench_release.landscape
    landscape.RANGES = landscape.RANGES[:1]
    landscape.DATES = {key: dates[:1] for key, dates in landscape.DATES.items()}
    landscape.COMPRESS = "none"  # a pixel can be changed in place
    classes = dict.fromkeys((1, 2, 5, 7, 8, 11), 4)
    land = Land(classes, n_aois=1, rejected={}, epsgs=(32632,), sensors=("s2l2a", "lulc"))
    bench_release.repeat_chips(folder / "released", count, land, windows=1)


def release(folder: Path) -> None:
    """Make the release of the chips, in shards and zipped."""
    from cube.config.reading import load_config
    from release import make_release

    sets = ["release.shard_chips=1000", "compute.workers=0"]
    make_release(load_config(folder / "released" / "config.yaml", sets))


def _release_of(folder: Path) -> Path:
    from release_landscape import VERSION

    return folder / "released" / "output" / VERSION


def verify(folder: Path) -> None:
    """Verify it, zips and all."""
    from release import verify

    assert verify(_release_of(folder)) == []


def open_(folder: Path) -> None:
    """Open it, and read a chip."""
    from release import open_release

    opened = open_release(_release_of(folder))
    assert opened.read(len(opened) - 1, "s2l2a").any()


STEPS: dict[str, Callable[[Path], dict[str, int] | None]] = {
    "plan": plan,
    "searches": searches,
    "build": build,
    "rerun": rerun,
    "status": status,
    "scores": scale_chips.make_scores,
    "choice": scale_chips.choice,
    "chip": scale_chips.chip,
    "release": release,
    "verify": verify,
    "open": open_,
}
_FIGURES = ("step", "areas", "seconds", "cpu_s", "mb")
OF_CHIPS = ("release", "verify", "open")
"""Steps with so many chips, in place of areas."""


def _measured(queue: multiprocessing.Queue[dict[str, Any]], step: str, folder: Path, areas: int) -> None:
    """Run a step in this process, and tell what it took."""
    sys.stderr = open("/dev/null", "w")  # noqa: SIM115, PTH123  no line of a hundred thousand areas
    if step in OF_CHIPS:
        import_module("release.loading.dataset")  # which takes longer than to open a release
    began, cpu = time.perf_counter(), time.process_time()
    found = STEPS[step](folder) or {}
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    queue.put(
        {
            "step": step,
            "areas": areas,
            "seconds": round(time.perf_counter() - began, 2),
            "cpu_s": round(sum(one.ru_utime + one.ru_stime for one in used) - cpu, 2),
            "mb": round(max(one.ru_maxrss for one in used) / 1000),  # of the largest of its processes
            **found,
        }
    )


def main() -> None:
    """Measure all steps at all sizes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("areas", type=int, nargs="*", default=[1000, 10_000])
    parser.add_argument("--folder", help="where to work; it is cleared at the end")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=[*STEPS])
    add_json_flag(parser)
    options = parser.parse_args()
    found = [one for areas in options.areas for one in measure(areas, options.steps, options.folder)]
    show(growth(found), as_json=options.json)


def growth(found: Sequence[dict[str, Any]]) -> Table:
    """Set a step's figures beside those of fewer areas: 1 is as many times the time as the areas."""
    note = (
        "Of chips, where a step is of a release. Growth is that of processor time over that of the number, from the "
        "row above; N log N would be 1.3 from 1,000 to 10,000. Memory is that of the largest process."
    )
    columns = ["step", "areas", "seconds", "processor, seconds", "MB", "growth", "beside"]
    table = Table("A hundred thousand areas, simulated: no pixel is read", columns, note)
    for step in dict.fromkeys(one["step"] for one in found):
        before: dict[str, Any] | None = None
        for one in (one for one in found if one["step"] == step):
            times = one["cpu_s"] / before["cpu_s"] / (one["areas"] / before["areas"]) if before else None
            beside = ", ".join(f"{value} {name}" for name, value in one.items() if name not in _FIGURES)
            if step == "build":
                beside = f"{one['areas'] / one['seconds']:.0f} areas a second"
            cells = (one["seconds"], one["cpu_s"], one["mb"], f"{times:.2f}" if times else "", beside)
            table.add(step, one["areas"], *cells)
            before = one
    return table


def measure(areas: int, steps: Sequence[str], where: str | None) -> Iterator[dict[str, Any]]:
    """Run the steps, each in a process of its own; yield what each took."""
    folder = Path(tempfile.mkdtemp(prefix="gelos-scale-", dir=where))
    try:
        if not set(OF_CHIPS).issuperset(steps):
            _apart(write_areas, folder, areas)
        if not set(OF_CHIPS).isdisjoint(steps):
            _apart(write_chips, folder, areas)
        for step in steps:
            queue: multiprocessing.Queue[dict[str, Any]] = _SPAWN.Queue()
            _apart(_measured, queue, step, folder, areas)
            found = queue.get()
            print(json.dumps(found), flush=True)
            yield found
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _apart(function: Callable[..., None], *arguments: Any) -> None:
    """Call a function in a process of its own: a child's memory is told as no less than its parent's."""
    process = _SPAWN.Process(target=function, args=arguments)
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"{function.__name__}{arguments[-3:]} failed")


if __name__ == "__main__":
    main()
