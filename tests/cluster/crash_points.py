"""Run small builds that die at one numbered step each, and say what they left.

Every change of the file system below the working folder is a step: a file opened for writing,
renamed or removed, a folder made or removed. The process is killed right before the step, by
SIGKILL. A power cut loses, besides, what was not forced onto the disk: the content of files without
an fsync, or the names in folders without one; there each fsync is a step, too.

A script of its own, because each build is a fork of a process that has no threads yet::

    python tests/kills/crash_points.py FOLDER CONFIG --set key=value ... --then key=value ...

``--then`` overrides the config once more, for builds over a finished cube of the first config.
Prints one JSON line per dead build."""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import Any

import dask.array  # noqa: F401  else each fork that opens a cube would import it anew

sys.path.insert(0, str(Path(__file__).parents[2]))

from cube.build.run import build_cubes
from cube.config.models import Config
from cube.config.reading import load_config
from cube.errors import CubeNotSealedError, GelosError
from cube.run.layout import Layout
from cube.run.tasks import Outcome, TaskSource
from cube.run.thread_engine import ThreadEngine
from cube.store.open import open_cube

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
BOARD = "demo/aoi_metadata.geojson"
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir"}


class Death(StrEnum):
    """What is lost with the process."""

    KILL = "kill"
    """Nothing: the system still writes what it was given."""
    CONTENTS = "contents"
    """Contents of files that no fsync forced onto the disk."""
    NAMES = "names"
    """Names in folders that no fsync forced onto the disk, with all that they name."""


class Steps:
    """Counts the steps of this process below a folder, and dies before one of them."""

    def __init__(self, root: Path, fatal: int, death: Death) -> None:
        self.root, self.fatal, self.death = root, fatal, death
        self.count = 0
        self.last = ""
        self._lock = threading.RLock()
        self._dead = False
        self._contents = {path.stat().st_ino for path in root.rglob("*")}
        self._names = {folder.stat().st_ino: names_in(folder) for folder in [root, *folders_below(root)]}
        self._fsync = os.fsync
        os.fsync = self.fsync
        sys.addaudithook(self.hear)

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(arguments[2], int) and arguments[2] & WRITING:
            self.step(event, arguments[0])
        elif event in CHANGES and isinstance(arguments[0], str | os.PathLike):
            path, folder = Path(arguments[0]), arguments[-1]
            if isinstance(folder, int) and folder >= 0:
                path = Path(f"/proc/self/fd/{folder}").readlink() / path
            if os.path.lexists(path) == (event != "os.mkdir"):
                self.step(event, path)

    def fsync(self, handle: int) -> None:
        path = Path(f"/proc/self/fd/{handle}").readlink()
        if self.death is not Death.KILL:
            self.step("fsync", path)
        self._fsync(handle)
        status = os.fstat(handle)
        self._contents.add(status.st_ino)
        if path.is_dir():
            self._names[status.st_ino] = names_in(path)

    def step(self, event: str, path: object) -> None:
        if self._dead or not isinstance(path, str | os.PathLike):
            return
        place = Path(path).absolute()
        if not place.is_relative_to(self.root):
            return
        with self._lock:
            self.count += 1
            if self.count == self.fatal:
                self._dead = True
                self.lose()
                sys.stdout.write(f"{event} {place.relative_to(self.root)}\n")
                sys.stdout.flush()
                os.kill(os.getpid(), signal.SIGKILL)

    def lose(self) -> None:
        if self.death is Death.CONTENTS:
            for path in self.root.rglob("*"):
                if path.is_file() and path.stat().st_ino not in self._contents:
                    path.write_bytes(b"")
        if self.death is Death.NAMES:
            for folder in [self.root, *folders_below(self.root)]:
                if not folder.exists():
                    continue
                kept = self._names.get(folder.stat().st_ino, set())
                for path in list(folder.iterdir()):
                    if path.name not in kept:
                        shutil.rmtree(path) if path.is_dir() else path.unlink()


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def folders_below(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_dir()]


class InOrder(ThreadEngine):
    """One block after the other in this thread, so that steps have the same numbers every time."""

    def run(
        self, function: Callable[[Any], Any], tasks: TaskSource[Any], scope: str
    ) -> Iterator[Outcome[Any, Any]]:
        del scope
        while some := tasks.take(1):
            [task] = some
            try:
                outcome = Outcome(task, function(task))
            except GelosError as error:
                outcome = Outcome(task, error=error)
            yield outcome


def fork(work: Callable[[], dict[str, Any]]) -> tuple[str, int]:
    """Return what a forked process printed, and its exit status."""
    out, into = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(into, 1)
        code = 1
        try:
            sys.stdout.write(json.dumps(work()))
            sys.stdout.flush()
            code = 0
        finally:
            os._exit(code)
    os.close(into)
    with os.fdopen(out) as pipe:
        text = pipe.read()
    return text, os.waitpid(pid, 0)[1]


def build(config: Config, fatal: int = 0, death: Death = Death.KILL) -> tuple[str, int]:
    """Build in a forked process; return the step it died at, or what it did as JSON."""

    def work() -> dict[str, Any]:
        root = Layout.of(config).working.path
        root.mkdir(parents=True, exist_ok=True)
        steps = Steps(root, fatal, death)
        summary = build_cubes(config, InOrder())
        return {"steps": steps.count, "exit": summary.exit_code, "fetched": summary.fetched_blocks}

    return fork(work)


def look(config: Config) -> dict[str, Any]:
    """Return, by what phase two does, how each cube of a working folder opens; and how many blocks have a marker."""

    def work() -> dict[str, Any]:
        layout = Layout.of(config)
        opens: dict[str, str] = {}
        for name in layout.cubes.names(".zarr"):
            try:
                opens[name] = open_cube(layout.cubes / name).attrs["recipe_sha256"]
            except CubeNotSealedError:
                opens[name] = ""
        done = sum(len(layout.markers(name).names(".json")) for name in layout.building.names())
        return {"opens": opens, "done": done}

    text, _ = fork(work)
    return dict(json.loads(text))


def tree(config: Config) -> dict[str, bytes]:
    """Return the files of a working folder, but for what may differ.

    That is the count of tries, and the metadata of cubes without a root: a plan that was given up
    leaves them, and whoever takes it up again writes them again.
    """
    root = Layout.of(config).working.path
    found = {
        str(p.relative_to(root)): p.read_bytes()
        for p in sorted(root.rglob("*"))
        if p.is_file() and not is_metadata_of_unfinished_cube(p.relative_to(root), root)
    }
    board = json.loads(found[BOARD])
    for feature in board["features"]:
        del feature["properties"]["tries"]
    found[BOARD] = json.dumps(board).encode()
    return found


def is_metadata_of_unfinished_cube(path: Path, root: Path) -> bool:
    if path.parts[0] != "cubes" or (root / "cubes" / path.parts[1] / "zarr.json").exists():
        return False
    return path.name == "zarr.json" or path.parts[3] in {"x", "y", "time", "spatial_ref"}


def differences(a: dict[str, bytes], b: dict[str, bytes]) -> list[str]:
    return sorted(name for name in a.keys() | b.keys() if a.get(name) != b.get(name))


def try_all(load: Callable[[str], Config], before: Path | None, deaths: list[Death], stride: int) -> None:
    """Kill a build at each step, complete it, and print what was found; `before` is what the folder holds at first."""
    start = load("start")
    root = Layout.of(start).working.path

    def fresh() -> None:
        shutil.rmtree(root, ignore_errors=True)
        if before is not None:
            shutil.copytree(before, root)

    for death in deaths:
        fresh()
        whole = json.loads(build(start, 0, death)[0])
        expected, sealed = tree(start), look(start)["opens"]
        print(json.dumps({"death": death, "whole": whole}), flush=True)
        for fatal in itertools.count(1, stride):
            fresh()
            allowed = {name: {"", value} for name, value in sealed.items()}
            for name, value in (look(start)["opens"] if before else {}).items():
                allowed[name] = {value}  # another recipe's: it stays as it is
            step, status = build(start, fatal, death)
            if status == 0 and fatal > json.loads(step)["steps"]:
                break  # it came to its end; how many steps that takes depends a little on the clock
            seen = look(start)
            text, code = build(start)
            last = json.loads(text) if code == 0 else {}
            record = {
                "fatal": fatal,
                "death": death,
                "step": step.strip(),
                "killed": os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL,
                "misread": sorted(n for n, v in seen["opens"].items() if v not in allowed[n]),
                "exit": last.get("exit"),
                # Markers go once a cube is sealed; then nothing is left to be fetched.
                "fetched_twice": max(last.get("fetched", 0) + seen["done"] - whole["fetched"], 0),
                "differs": differences(tree(start), expected),
            }
            print(json.dumps(record), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("config")
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--then", action="append", default=[])
    parser.add_argument("--deaths", nargs="+", default=list(Death), type=Death)
    parser.add_argument("--stride", type=int, default=1)
    arguments = parser.parse_args()

    def load(name: str, *more: str) -> Config:
        folder = arguments.folder / name
        working = (f"directory.working={folder}", f"directory.output={folder}/out")
        return load_config(arguments.config, [*arguments.set, *working, *more])

    before = None
    if arguments.then:
        first = load("before")
        build(first)
        before = Layout.of(first).working.path
    try_all(lambda name: load(name, *arguments.then), before, arguments.deaths, arguments.stride)


if __name__ == "__main__":
    main()
