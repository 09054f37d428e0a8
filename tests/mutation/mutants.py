"""Change a module in one small place at a time, and see whether the tests that concern it notice.

cosmic-ray makes the changes; it is no dependency of the project's own::

    pip install cosmic-ray
    python tests/mutation/mutants.py cube/scenes/choose.py

Without names, all modules of MODULES are tried, which takes hours. Prints the changes that no test
noticed, and the score of each module. Each mutant is tried in a fork of a process that has imported
the libraries: a second each, where a new process would take five.
"""

from __future__ import annotations

import ast
import contextlib
import difflib
import importlib
import itertools
import os
import re
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).parents[2]
SCENES = ["tests/cube/scenes/test_scenes.py", "tests/cube/scenes/test_choice_edges.py"]
SELECT = ["tests/release/test_release_select.py"]
WINDOWS = [
    "tests/cube/windows",
    "tests/chipping/test_chip_scores.py",
    "-k",
    "windows or lattice_holds or counts_agree",
]
CHOICE = ["tests/chipping/test_chip_choice.py", "-k", "not sweep and not fetched and not dry"]
MODULES = {
    "cube/scenes/choose.py": SCENES,
    "cube/scenes/explain.py": SCENES,
    "cube/windows/grid.py": ["tests/cube/windows"],
    "cube/windows/lattice.py": WINDOWS,
    "cube/windows/counts.py": WINDOWS,
    "cube/windows/landcover.py": ["tests/cube/windows"],
    "cube/windows/projection.py": ["tests/cube/windows", *SCENES],
    "chipping/choose.py": CHOICE,
    "chipping/masks.py": ["tests/chipping/test_chip_scores.py", "-k", "landsat or config_says or valid"],
    "release/select.py": SELECT,
    "release/splits.py": SELECT,
    "cube/scenes/items.py": ["tests/cube/scenes/test_items.py"],
    "cube/scenes/plan.py": ["tests/cube/scenes/test_plan.py"],
    "cube/pixels/read.py": ["tests/cube/pixels"],
}
"""By module: what is run to notice its changes."""

OPERATORS = re.compile(
    r"core/(NumberReplacer|ReplaceTrueWithFalse|ReplaceFalseWithTrue|ReplaceAndWithOr|ReplaceOrWithAnd"
    r"|AddNot|ReplaceBreakWithContinue|ReplaceContinueWithBreak|ZeroIterationForLoop|ExceptionReplacer"
    r"|ReplaceUnaryOperator_(USub_UAdd|Delete_Not|Delete_USub|Delete_Invert)"
    r"|ReplaceBinaryOperator_(Add_Sub|Sub_Add|Mul_Div|Div_Mul|FloorDiv_Div|Mod_FloorDiv|Pow_Mul"
    r"|BitAnd_BitOr|BitOr_BitAnd|LShift_RShift|RShift_LShift)"
    r"|ReplaceComparisonOperator_(Lt_LtE|LtE_Lt|Gt_GtE|GtE_Gt|Eq_NotEq|NotEq_Eq|Is_IsNot|IsNot_Is"
    r"|Lt_GtE|LtE_Gt|Gt_LtE|GtE_Lt))"
)
"""Of cosmic-ray's operators: one change or two of each operator, not every other one."""


def meaning(code: str) -> str:
    """Return what a module does: its tree without annotations, and without how its classes are stored."""
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            node.returns = None
        elif isinstance(node, ast.ClassDef):
            node.decorator_list = []
        elif isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, ast.AnnAssign):
            node.annotation = ast.Constant(None)
    return ast.dump(tree)


def mutants(code: str) -> Iterator[str]:
    """Yield the module with each change that means something."""
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator, operator_names

    seen = {meaning(code)}
    for name in sorted(filter(OPERATORS.fullmatch, operator_names())):
        for occurrence in itertools.count():
            changed = mutate_code(code, get_operator(name)(), occurrence)
            if changed is None:
                break
            with contextlib.suppress(SyntaxError):  # some stars are no factors
                if (other := meaning(changed)) not in seen:
                    seen.add(other)
                    yield changed


def run_tests(*arguments: str, then: Callable[[], object] = lambda: None) -> NoReturn:
    """Run pytest and end this process, which is a fork."""
    code = 99
    try:
        import pytest

        quiet = ("-q", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning")
        doctests = ("--doctest-modules", "-o", "doctest_optionflags=ELLIPSIS NORMALIZE_WHITESPACE")
        code = int(pytest.main([*quiet, *doctests, *arguments]))
        then()
    except BaseException:  # noqa: BLE001  this process must end here, whatever happens
        traceback.print_exc()
    finally:
        os._exit(code)


def noticed(tests: list[str], limit_s: float) -> tuple[bool, float]:
    """Run tests in a fork; return whether one failed, or took too long, and the seconds."""
    began = time.monotonic()
    child = os.fork()
    if child == 0:
        os.setsid()
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1)
        os.dup2(silence, 2)
        run_tests("-x", *tests)
    while time.monotonic() - began < limit_s:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return status != 0, time.monotonic() - began
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return True, limit_s


def import_libraries(tree: Path, tests: list[str]) -> None:
    """Import what the tests import, but for what is mutated: each fork has it then."""
    names = tree / "imported"
    child = os.fork()
    if child == 0:
        run_tests(*tests, then=lambda: names.write_text("\n".join(sys.modules)))
    os.waitpid(child, 0)
    for name in names.read_text().split():
        if name.split(".")[0] not in {"cube", "chipping", "release", "__main__"}:
            try:
                importlib.import_module(name)
            except Exception:  # noqa: BLE001  what cannot be imported alone is imported by the tests
                continue


def try_all(tree: Path, module: str, tests: list[str]) -> None:
    """Print the changes of a module that its tests do not notice, and its score."""
    path = tree / module
    code = path.read_text()
    import_libraries(tree, tests)
    for stale in path.parent.glob(f"__pycache__/{path.stem}.*"):
        stale.unlink()
    sys.dont_write_bytecode = True  # two changes in one second and of one length have one cache
    failed, seconds = noticed(tests, 600)
    if failed:
        sys.exit(f"{' '.join(tests)}: fail before anything is changed")
    killed = total = 0
    for changed in mutants(code):
        path.write_text(changed)
        total += 1
        if noticed(tests, 10 + 5 * seconds)[0]:
            killed += 1
        else:
            lines = difflib.unified_diff(
                code.splitlines(), changed.splitlines(), module, module, "", "", 0, ""
            )
            print("\n".join(list(lines)[2:]), flush=True)
    path.write_text(code)
    sys.dont_write_bytecode = False
    print(f"{module}: {killed} of {total} noticed, {100 * killed / total:.0f} %\n", flush=True)


def main() -> None:
    """Try the modules that are named."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        ignored = shutil.ignore_patterns(".*", "data", "docs", "__pycache__")
        shutil.copytree(ROOT, tree, ignore=ignored)
        os.chdir(tree)
        sys.path.insert(0, str(tree))
        for module in sys.argv[1:] or MODULES:
            try_all(tree, module, [module, *MODULES[module]])


if __name__ == "__main__":
    main()
