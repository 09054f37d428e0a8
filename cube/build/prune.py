"""Cubes and plans that no version of a working folder uses: what they take, and their removal."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from cube.config.models import Config
from cube.errors import StoreError
from cube.run.layout import Layout
from cube.run.lock import hold
from cube.run.named_locks import NamedLocks
from cube.run.status import AOI_METADATA, read_features
from cube.run.storage import Folder
from cube.store.template import SEAL, cube_folder

_NAME = re.compile(r"aoi_\d{6,}_[0-9a-f]{12}")


@dataclass(frozen=True)
class Unused:
    """What no version uses."""

    versions: tuple[str, ...]
    """Versions whose rows were read."""
    cubes: tuple[str, ...]
    plans: tuple[str, ...]


@dataclass(frozen=True)
class _Used:
    versions: tuple[str, ...]
    cubes: frozenset[str]
    plans: frozenset[str]


def find_unused(config: Config) -> Unused:
    """Return the cubes and plans that the rows of no version name.

    Raises
    ------
    StoreError
        If a version's rows cannot be read: then nobody knows what it uses.
    """
    layout = Layout.of(config)
    used = _used_in(layout.working)
    return Unused(
        used.versions,
        tuple(sorted(_cubes_there(layout) - used.cubes)),
        tuple(sorted(_stems(layout.plans.names(".json"), ".json") - used.plans)),
    )


def cube_bytes(config: Config, cube: str) -> int:
    """Return how much a cube takes; blocks that it shares with another are counted with both."""
    folder = Layout.of(config).cubes / cube_folder(cube)
    return sum(folder.size(name) for name in folder.files())


def remove_unused(config: Config, report: Callable[[str], None] = lambda _: None) -> Unused:
    """Remove the cubes and plans that no version uses, and return them; `report` hears of each.

    Records of lost scenes go with the plans.

    Raises
    ------
    BusyError
        If another run is building cubes in the working folder.
    StoreError
        If a version's rows cannot be read, or something cannot be removed.
    """
    layout, locks = Layout.of(config), NamedLocks(Layout.of(config).locks)
    with hold(layout.working):
        found, removed = find_unused(config), list[str]()
        try:
            for cube in found.cubes:
                # A store lets runs begin meanwhile: one that has taken the cube has locked it, or
                # has it in its rows.
                if locks.take(cube) or cube in _used_in(layout.working).cubes:
                    continue
                _remove_cube(layout, cube)
                locks.release(cube)
                removed.append(cube)
                report(cube)
        finally:
            locks.release_all()
        for plan in found.plans:
            layout.plans.remove(f"{plan}.json")
        used = _used_in(layout.working).plans
        for name in _stems(layout.lost.names(".json"), ".json") - used:
            layout.lost.remove(f"{name}.json")
    return Unused(found.versions, tuple(removed), found.plans)


def _remove_cube(layout: Layout, cube: str) -> None:
    layout.cubes.remove_folder(cube_folder(cube), SEAL)
    layout.building.remove_folder(cube)
    layout.blocks.remove(f"{cube}.json")


def _cubes_there(layout: Layout) -> set[str]:
    return (
        _stems(layout.cubes.names(".zarr"), ".zarr")
        | _stems(layout.blocks.names(".json"), ".json")
        | _stems(layout.building.names(), "")
    )


def _stems(names: Iterable[str], suffix: str) -> set[str]:
    stems = (name.removesuffix(suffix) for name in names)
    return {stem for stem in stems if _NAME.fullmatch(stem)}


def _used_in(working: Folder) -> _Used:
    versions, cubes, plans = list[str](), set[str](), set[str]()
    for name in working.names():
        folder = working / name
        try:
            rows = [feature["properties"] for feature in read_features(folder)]
            cubes |= {row.get("cube", "") for row in rows}
            plans |= {row.get("plan", "") for row in rows}
        except FileNotFoundError:
            continue
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StoreError(
                f"{folder}/{AOI_METADATA}: cannot be read ({type(error).__name__}: {error}), so nobody knows "
                "what this version uses; build it again, or remove its folder"
            ) from None
        versions.append(name)
    return _Used(tuple(versions), frozenset(cubes), frozenset(plans))
