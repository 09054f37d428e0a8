"""All checks in a row, the cheap ones first."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from cube.config.models import Config
from cube.pixels.access import Access

from .check import Check
from .cluster import check_cluster
from .machine import check_machine, check_room
from .places import check_places, places_of


def examine_cheaply(config: Config) -> Iterator[Check]:
    """Look at machine, disks and places: what takes no network but that of a bucket."""
    places = places_of(config)
    yield from check_machine()
    yield from check_room(places)
    yield from check_places(places)


def examine(config: Config, access_of: Callable[[str], Access]) -> Iterator[Check]:
    """Look at all that a run of this config needs; each check is yielded once it is done.

    Parameters
    ----------
    config
        The dataset version.
    access_of
        How a sensor's assets are read, by its key.
    """
    from .services import Services

    yield from examine_cheaply(config)
    yield from Services(config, access_of).check()
    yield from check_cluster(config.compute)
