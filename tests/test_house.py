"""The house: its rooms lie on floors, imports go down, nothing goes in a circle, and no room is overfull."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
FLOORS = (
    {"cube.errors", "cube.redaction", "cube.lots", "cube.lazy_names", "cube.html"},
    {"cube.retry", "cube.certificates"},
    {"cube.environment"},
    {"cube.config"},
    {"cube.run", "cube.windows"},
    {"cube.scenes"},
    {"cube.pixels"},
    {"cube.store"},
    {"cube.doctor"},
    {"cube.build"},
    {"chipping"},
    {"release"},
)
FILES = [
    path
    for package in ("cube", "chipping", "release")
    for path in sorted((ROOT / package).rglob("*.py"))
    if "testing" not in path.parts
]
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in FILES}


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def imported(path: Path) -> Iterator[str]:
    """Yield the modules of the project that a file imports, anywhere in it."""
    here = name_of(path).split(".")
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            above = here[: -node.level] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                full = f"{source}.{alias.name}"
                yield from {full if full in MODULES else source} & MODULES
        elif isinstance(node, ast.Import):
            yield from {alias.name for alias in node.names} & MODULES


def floor_of(module: str) -> int:
    [floor] = [
        number
        for number, rooms in enumerate(FLOORS)
        if any(module == room or module.startswith(f"{room}.") for room in rooms)
    ]
    return floor


def room_of(module: str) -> str:
    return next(room for rooms in FLOORS for room in rooms if module == room or module.startswith(f"{room}."))


def test_imports_go_down_the_floors() -> None:
    inner = [path for path in FILES if name_of(path) != "cube.__init__"]  # the face of all of cube's rooms
    upward = [
        (name_of(path), target)
        for path in inner
        for target in imported(path)
        if target != "cube"
        and room_of(target) != room_of(name_of(path))
        and floor_of(target) >= floor_of(name_of(path))
    ]
    assert upward == []


def test_nothing_imports_in_a_circle() -> None:
    faces = {"cube.__init__", "chipping.__init__", "release.__init__"}
    graph = {name_of(path): set(imported(path)) for path in FILES if name_of(path) not in faces}
    assert len(list(TopologicalSorter(graph).static_order())) >= len(graph)


def test_no_room_is_overfull() -> None:
    counts = Counter(path.parent for path in FILES if path.name != "__init__.py")
    assert {str(folder): count for folder, count in counts.items() if count > 15} == {}
    long = {name_of(path): path.read_text().count("\n") for path in FILES}
    assert {name: lines for name, lines in long.items() if lines > 450} == {}
