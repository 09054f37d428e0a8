"""The examples in docstrings do what they show."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from collections.abc import Iterator
from types import ModuleType

import pytest

import chipping
import cube
import release


def modules() -> Iterator[ModuleType]:
    for package in (cube, chipping, release):
        for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            yield importlib.import_module(found.name)


EXAMPLES = [
    test
    for module in modules()
    for test in doctest.DocTestFinder(exclude_empty=True).find(module)
    if test.examples
]


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_examples_do_what_they_show(example: doctest.DocTest) -> None:
    assert (
        doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE).run(example).failed
        == 0
    )


def test_no_example_is_missed() -> None:
    names = {example.name for example in EXAMPLES}
    assert {
        "cube.windows.grid.aoi_bounds",
        "cube.windows.lattice.WindowLattice",
        "chipping.geotiff.to_exported",
    } <= names
