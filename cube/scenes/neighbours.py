"""Areas near each other are searched for together: one answer of an API serves all of them."""

from __future__ import annotations

import math
import threading
from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from dataclasses import replace

from shapely import STRtree, box, total_bounds
from shapely.errors import ShapelyError
from shapely.geometry import shape
from shapely.geometry.base import BaseGeometry

from cube.config.aoi import Aoi
from cube.config.models import Config, Extent
from cube.windows.projection import project, utm_epsg

from .query import Catalog, Item, Query, footprint_of

_SQUARE_M = 100_000
"""Side of a square of the military grid."""
_TILE_M = 110_000
"""Side of a tile: how far an extent without a cap may reach."""
_WORTH_AREAS = 4
"""Areas for which their common answer, which holds what lies between them, is less than theirs."""
_METRES_PER_DEGREE = 111_000
_MARGIN_M = 3_000
_KEPT_ANSWERS = 64
_FARTHEST_DEG = 175.0, 80.0
"""Beyond these longitudes and latitudes areas are searched for one by one."""


def neighbourhoods(aois: Iterable[Aoi]) -> list[list[Aoi]]:
    """Return areas by the square of the military grid that their centres lie in.

    Such a square is a Sentinel-2 tile. They come in the order of their first areas.
    """
    found: defaultdict[tuple[int, int, int], list[Aoi]] = defaultdict(list)
    for aoi in aois:
        epsg = utm_epsg(aoi.geometry)
        centre = project(aoi.geometry.centroid, epsg)
        found[epsg, int(centre.x // _SQUARE_M), int(centre.y // _SQUARE_M)].append(aoi)
    return list(found.values())


class NeighbourCatalog:
    """Asks once for areas that are near each other, and for each of the others by itself.

    Parameters
    ----------
    catalog
        Is asked.
    near
        Areas of the run, those near each other together (:func:`neighbourhoods`).
    config
        How far beyond its area a cube may reach.
    """

    def __init__(self, catalog: Catalog, near: Iterable[Sequence[Aoi]], config: Config) -> None:
        self._catalog = catalog
        self._places = [
            _around(bounds, _reach_m(config))
            for areas in near
            if len(areas) >= _WORTH_AREAS
            and not _is_far_out(bounds := total_bounds([aoi.geometry for aoi in areas]).tolist())
        ]
        self._tree = STRtree(self._places)
        self._answers: OrderedDict[Query, Future[_Answer]] = OrderedDict()
        self._lock = threading.Lock()

    def search(self, query: Query) -> list[Item]:
        """Return all items that match, in the query's order."""
        place = query.intersects
        around = [] if place is None else sorted(self._tree.query(place, predicate="covered_by"))
        if place is None or not around or query.limit is not None or not query.fields:
            return self._catalog.search(query)
        answer = self._ask_once(replace(query, intersects=self._places[around[0]]))
        return query.finish(answer.at(place))

    def _ask_once(self, query: Query) -> _Answer:
        """Return an answer that is kept or on its way; what fails is asked again."""
        with self._lock:
            kept = self._answers.get(query)
            answer = kept or self._answers.setdefault(query, Future())
            self._answers.move_to_end(query)
            while len(self._answers) > _KEPT_ANSWERS:
                self._answers.popitem(last=False)
        if kept is not None:
            return kept.result()
        try:
            answer.set_result(_Answer(self._catalog.search(query)))
        except BaseException as error:
            with self._lock:
                self._answers.pop(query, None)
            answer.set_exception(error)
            raise
        return answer.result()


class _Answer:
    """What was found around areas, to be looked through for each of them."""

    def __init__(self, items: Sequence[Item]) -> None:
        self._items = items
        written = [_geometry_of(item) for item in items]
        self._unreadable = [n for n, geometry in enumerate(written) if geometry is None]
        self._tree = STRtree([*written, *map(footprint_of, items)])

    def at(self, place: BaseGeometry) -> list[Item]:
        """Return what an API would find at a place: as the records are written, or meant.

        What cannot be read is left to be refused by whoever reads it.
        """
        touching = self._tree.query(place, predicate="intersects") % max(len(self._items), 1)
        return [self._items[n] for n in sorted({*touching.tolist(), *self._unreadable})]


def _geometry_of(item: Item) -> BaseGeometry | None:
    try:
        return shape(item["geometry"])
    except (AttributeError, IndexError, KeyError, TypeError, ValueError, ShapelyError):
        return None


def _reach_m(config: Config) -> float:
    """Return how far from its area's edge a cube may reach, metres."""
    if config.aoi.extent is Extent.AOI:
        return _MARGIN_M
    return (config.aoi.max_side_m or _TILE_M) + _MARGIN_M


def _around(bounds: Sequence[float], reach_m: float) -> BaseGeometry:
    """Return the box around areas of such bounds, and all that their cubes may reach."""
    west, south, east, north = bounds
    up = reach_m / _METRES_PER_DEGREE
    side = up / math.cos(math.radians(min(max(abs(south), abs(north)) + up, 89)))
    return box(west - side, south - up, east + side, north + up)


def _is_far_out(bounds: Sequence[float]) -> bool:
    west, south, east, north = bounds
    lon, lat = _FARTHEST_DEG
    return west < -lon or east > lon or south < -lat or north > lat
