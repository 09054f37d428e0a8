"""Working folders of the first layout, in which each version had cubes and plans of its own.

``{version}/cubes/aoi_000003.zarr`` becomes ``cubes/aoi_000003_0123456789ab.zarr``, with what lies
beside it; nothing is fetched. First the version's rows say which cube is theirs. Then each cube is
moved after its records, and the plans, which name unfinished cubes, come last: a kill in between
costs nothing, and the next run goes on.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
from collections.abc import Iterator
from typing import Any

from cube.errors import BusyError, StoreError
from cube.run.layout import Layout, recipe_stem
from cube.run.logs import event
from cube.run.named_locks import NamedLocks
from cube.run.status import AOI_METADATA, AoiState
from cube.run.storage import Folder

from .sealed import read_seal
from .template import SEAL, cube_folder

_LOG = logging.getLogger(__name__)
_NAME = re.compile(r"aoi_(\d{6,})")


def take_over(layout: Layout) -> int:
    """Move a version's cubes and plans to where all versions have theirs; return how many cubes.

    Only while the version's folder is held. A cube of the same recipe that is there already stays,
    unless the version's own is whole and it is not.

    Raises
    ------
    BusyError
        If another run is building one of the cubes.
    StoreError
        If something cannot be moved.
    """
    folder = layout.root / "cubes"
    names = _stems(folder, ".zarr")
    plans = dict(_plans_of(layout))
    if not names and not plans:
        return 0
    cubes = {name: cube for name in names if (cube := _cube_of(folder, name, plans.get(name, {})))}
    _record_cubes(layout.root, cubes)
    for name in names:
        _move_cube(layout, name, cubes.get(name, ""))
    for name, record in plans.items():
        _move_plan(layout, name, record)
    for below in ("cubes", "plans", "blocks", "building"):
        if not (layout.root / below).names():
            layout.root.remove_folder(below)
    text = "%d cubes and %d plans of this version taken over from an earlier layout; they belong to all now"
    _LOG.info(text, len(cubes), len(plans), extra=event("taken_over", cubes=len(cubes), plans=len(plans)))
    return len(cubes)


def _stems(folder: Folder, suffix: str) -> list[str]:
    names = (name.removesuffix(suffix) for name in folder.names(suffix))
    return [name for name in names if _NAME.fullmatch(name)]


def _plans_of(layout: Layout) -> Iterator[tuple[str, dict[str, Any]]]:
    folder = layout.root / "plans"
    for name in _stems(folder, ".json"):
        try:
            record = json.loads(folder.read(f"{name}.json"))
        except ValueError:
            record = {}
        yield name, record if isinstance(record, dict) else {}


def _cube_of(folder: Folder, name: str, plan: dict[str, Any]) -> str:
    """Return what a cube is called by its recipe: its seal's, or its plan's."""
    recipe = plan.get("plan", {}).get("fingerprint", "")
    if sealed := _seal_of(folder, name):
        recipe = sealed["attributes"].get("recipe_sha256", "")
    return recipe_stem(_index(name), recipe) if recipe else ""


def _seal_of(folder: Folder, name: str) -> dict[str, Any] | None:
    """Return a cube's root document, if it has one that can be read."""
    with contextlib.suppress(ValueError, KeyError, TypeError):
        sealed = read_seal(folder, name)
        return sealed if sealed is not None and sealed["attributes"] else None
    return None


def _index(name: str) -> int:
    return int(name.removeprefix("aoi_"))


def _record_cubes(root: Folder, cubes: dict[str, str]) -> None:
    """Say in the version's rows which cubes are theirs, where they do not say so yet."""
    by_index = {_index(name): cube for name, cube in cubes.items()}
    try:
        document = json.loads(root.read(AOI_METADATA))
        for feature in document["features"]:
            row = feature["properties"]
            if row["status"] != AoiState.SKIPPED and not row.get("cube"):
                row["cube"] = by_index.get(row["aoi_index"], "")
    except FileNotFoundError:
        return
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(
            f"{root}/{AOI_METADATA}: cannot be read ({error}); run gelos-lc build again"
        ) from None
    root.write(AOI_METADATA, json.dumps(document, separators=(",", ":")).encode())


def _move_plan(layout: Layout, name: str, record: dict[str, Any]) -> None:
    """Move a plan to its question's name; one without, why an AOI was skipped, is made anew."""
    question = record.get("question")
    source = f"{layout.version}/plans/{name}.json"
    target = f"{recipe_stem(_index(name), question)}.json" if question else ""
    if not target or layout.plans.exists(target):
        layout.working.remove(source)
    else:
        layout.working.move(source, f"plans/{target}")


def _move_cube(layout: Layout, name: str, cube: str) -> None:
    """Move a cube, its records before it; what nobody could go on with is removed."""
    folder, locks = layout.root / "cubes", NamedLocks(layout.locks)
    if cube and (other := locks.take(cube)):
        raise BusyError(f"{layout.cubes}: another run ({other}) is at {cube}; wait for it, or stop it")
    try:
        if cube and not _is_as_good(layout.cubes, cube, _seal_of(folder, name)):
            _move_parts(layout, name, cube)
    finally:
        locks.release_all()
    (layout.root / "building").remove_folder(name)
    (layout.root / "blocks").remove(f"{name}.json")
    folder.remove_folder(cube_folder(name), SEAL)


def _move_parts(layout: Layout, name: str, cube: str) -> None:
    """Move a cube after its records: without a cube they are no proof of anything."""
    version = layout.version
    layout.cubes.remove_folder(cube_folder(cube), SEAL)
    layout.working.move(f"{version}/building/{name}", f"building/{cube}")
    layout.working.move(f"{version}/blocks/{name}.json", f"blocks/{cube}.json")
    layout.working.move(f"{version}/cubes/{cube_folder(name)}", f"cubes/{cube_folder(cube)}", SEAL)


def _is_as_good(cubes: Folder, cube: str, own: dict[str, Any] | None) -> bool:
    """Tell whether a cube that is there already holds all that a version's own does."""
    there = _seal_of(cubes, cube)
    if there is None:
        return own is None and (cubes / cube_folder(cube)).names() != []
    left_out = set(there["attributes"].get("not_fetched", ()))
    return own is None or left_out <= set(own["attributes"].get("not_fetched", ()))
