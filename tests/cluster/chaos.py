"""Build cubes through the stand-in service on a cluster whose parts are killed, again and again.

A scheduler and two workers are separately started processes; the client is
``scripts/build_cubes.py``. At seeded moments one of them gets a SIGKILL, and is started again. When
a build is done in spite of that, its working folder is compared with that of an undisturbed build,
and another build begins, until there have been as many kills as were asked for::

    python tests/kills/chaos.py FOLDER --kills 500 --seed 0

Prints what was found as JSON; exits with 1 if any promise was broken.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).parents[2]
WORKERS = ("worker-0", "worker-1")
QUIET = "--no-dashboard"
VICTIMS = {"client": 9, "worker": 12, "scheduler": 4}
"""How often each is chosen, out of 25."""
FEW = ("s2l2a.bands=[B02, B05]", "s2l2a.cloud_band=SCL", "lc2l2.bands=[red]", "s1rtc.bands=[vv]")
PATIENCE_S = 60
"""Within which a build must come on by a block once all its parts are there."""


def files(folder: Path) -> dict[str, bytes]:
    """Return a working folder's files, but for its locks, its logs and the count of tries.

    Nor a file beside the cubes that a worker, cut off from its scheduler, was writing when it was
    killed, or writes still: the next run sweeps it.
    """
    found = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and not {".lock", "logs", "run.log"} & set(path.relative_to(folder).parts)
        and not (path.parent.name == "cubes" and path.name.startswith(".staging-"))
    }
    board = json.loads(found["demo/aoi_metadata.geojson"])
    for feature in board["features"]:
        del feature["properties"]["tries"]
    found["demo/aoi_metadata.geojson"] = json.dumps(board).encode()
    return found


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


class Cluster:
    """A scheduler and two workers, each a process that was started by itself, and whatever else is started beside them.

    Parameters
    ----------
    folder
        Holds the processes' logs and the workers' scratch.
    environment
        Of the processes.
    """

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        self.environment = environment | {"PYTHONPATH": str(ROOT)}
        self.address = f"tcp://127.0.0.1:{free_port()}"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes.values():
            with process:  # waits for it
                process.kill()

    def start_all(self) -> None:
        """Start the scheduler and the workers that are not there."""
        port = self.address.rpartition(":")[2]
        self.start(
            "scheduler", "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", port, QUIET
        )
        for name in WORKERS:
            scratch = ("--local-directory", str(self.folder / "scratch"))
            module = ("-m", "distributed.cli.dask_worker", self.address)
            self.start(name, *module, "--no-nanny", "--nthreads", "2", "--name", name, *scratch, QUIET)

    def start(self, name: str, *arguments: str) -> None:
        """Start a process, if it is not there."""
        running = self.processes.get(name)
        if running is None or running.poll() is not None:
            with (self.folder / f"{name}.log").open("ab") as log:
                self.processes[name] = subprocess.Popen(
                    [sys.executable, *arguments], cwd=ROOT, env=self.environment, stdout=log, stderr=log
                )


@dataclass
class Findings:
    """What a storm of kills has shown."""

    kills: Counter[str] = field(default_factory=Counter)
    builds: int = 0
    client_exits: Counter[int] = field(default_factory=Counter)
    blocks_kept: int = 0
    """Finished blocks that were looked at after a kill."""
    broken: list[str] = field(default_factory=list)
    """Promises that were not kept."""


class Storm:
    """A stand-in service, a cluster, and a client; and the one who kills them.

    Parameters
    ----------
    folder
        Holds the archive in ``archive``, and all that is made.
    seed
        Of the victims and the moments.
    aois
        Indices of the AOIs to build.
    latency_s
        Of the service.
    """

    def __init__(self, folder: Path, seed: int, aois: list[int], latency_s: float = 0.02) -> None:
        self.folder, self.aois, self.latency_s = folder, aois, latency_s
        self.random = random.Random(seed)
        self.found = Findings()
        self.finished: dict[Path, int] = {}
        """Chunks of finished blocks: their inodes, which a second fetch would change."""

    def __enter__(self) -> Self:
        for old in [self.folder / "undisturbed", *self.folder.glob("build-*")]:
            shutil.rmtree(old, ignore_errors=True)
        self.service = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "cube.testing.service",
                self.folder / "archive",
                "--latency",
                str(self.latency_s),
            ],
            cwd=ROOT,
            stdout=subprocess.PIPE,
        )
        assert self.service.stdout is not None
        addresses = json.loads(self.service.stdout.readline())
        self.url = addresses["url"]
        self.cluster = Cluster(self.folder, os.environ | addresses["environment"])
        return self

    def __exit__(self, *error: object) -> None:
        self.cluster.__exit__(*error)
        with self.service:  # closes its pipe, and waits for it
            self.service.kill()

    def start_client(self, *more: str) -> None:
        """Start the build, if it is not running."""
        self.cluster.start("client", "scripts/build_cubes.py", *self.arguments(self.working), *more)

    def arguments(self, working: Path) -> list[str]:
        settings = {
            "catalog.url": self.url,
            "catalog.sign": "planetary-computer",
            "aoi.path": self.folder / "archive" / "map_sample.geojson",
            "directory.working": working,
            "directory.output": working / "out",
        }
        pairs = [f"{key}={value}" for key, value in settings.items()] + list(FEW)
        sets = [part for pair in pairs for part in ("--set", pair)]
        return ["-c", str(ROOT / "configs/demo.yaml"), *sets, "--aoi", *map(str, self.aois)]

    @property
    def working(self) -> Path:
        return self.folder / f"build-{self.found.builds}"

    def undisturbed(self) -> dict[str, bytes]:
        """Return what an undisturbed build of one process leaves."""
        working = self.folder / "undisturbed"
        subprocess.run(
            [
                sys.executable,
                "scripts/build_cubes.py",
                *self.arguments(working),
                "--set",
                "compute.workers=0",
            ],
            cwd=ROOT,
            env=self.cluster.environment,
            check=True,
            capture_output=True,
        )
        return files(working)

    def markers(self) -> list[Path]:
        return list(self.working.glob("building/*/*.json"))

    def done(self) -> int:
        """Return how many blocks and cubes are done."""
        return len(self.markers()) + 100 * len(list(self.working.glob("cubes/*.zarr/zarr.json")))

    def wait_for_progress(self, steps: int) -> None:
        """Wait until some more steps are done, or the client has ended."""
        client, seen, last, deadline = (
            self.cluster.processes["client"],
            self.done(),
            -1,
            time.monotonic() + PATIENCE_S,
        )
        while client.poll() is None and steps > 0:
            self.cluster.start_all()  # workers end some time after their scheduler
            if (now := self.done()) not in (seen, last):
                steps, last, deadline = steps - 1, now, time.monotonic() + PATIENCE_S
            if time.monotonic() > deadline:
                self.found.broken.append(f"no block was done within {PATIENCE_S} s")
                return
            time.sleep(0.01)

    def note_finished_blocks(self) -> None:
        """See that chunks of blocks that were finished at an earlier kill are the same files still, and note new ones."""
        root = self.working / "cubes"
        for path, inode in list(self.finished.items()):
            if not path.exists() or path.stat().st_ino != inode:
                self.found.broken.append(f"{path.relative_to(root)} was written again")
                self.finished[path] = path.stat().st_ino if path.exists() else 0
        for marker in self.markers():
            self.found.blocks_kept += 1
            sensor, date, *_ = marker.stem.split("-")  # a block of the sample AOIs is all of one date
            below = "c" if sensor in {"lulc", "dem"} else f"c/{date}"
            for band in (root / f"{marker.parent.name}.zarr" / sensor).iterdir():
                if band.name not in {"x", "y", "time"}:
                    self.finished |= {p: p.stat().st_ino for p in (band / below).rglob("*") if p.is_file()}

    def rage(self, kills: int) -> None:
        """Kill until it is enough, and let the last build finish."""
        expected = self.undisturbed()
        while True:
            self.cluster.start_all()
            self.start_client("--scheduler", self.cluster.address)
            client = self.cluster.processes["client"]
            enough = sum(self.found.kills.values()) >= kills
            self.wait_for_progress(10**9 if enough else self.random.choice((0, 1, 2)))
            if not enough:
                time.sleep(self.random.uniform(0, 0.5))
            if client.poll() is None:
                self.kill()
                continue
            self.found.client_exits[client.returncode] += 1
            if client.returncode == 0:
                self.compare(expected)
                if enough:
                    return
                shutil.rmtree(self.working)
                self.finished.clear()
                self.found.builds += 1
            elif client.returncode != 3 or len(self.found.broken) > 20:
                tail = (self.folder / "client.log").read_text(errors="replace")[-600:]
                self.found.broken.append(f"the client ended with {client.returncode}: {tail}")
                return

    def kill(self) -> None:
        kind = self.random.choices(list(VICTIMS), list(VICTIMS.values()))[0]
        name = self.random.choice(WORKERS) if kind == "worker" else kind
        process = self.cluster.processes[name]
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            process.wait()
            self.found.kills[kind] += 1
            self.note_finished_blocks()

    def compare(self, expected: dict[str, bytes]) -> None:
        made = files(self.working)
        names = sorted(name for name in made.keys() | expected.keys() if made.get(name) != expected.get(name))
        self.found.broken += [f"build {self.found.builds}: {name} is not as undisturbed" for name in names]


def storm(folder: Path, kills: int, seed: int, aois: list[int]) -> Findings:
    """Return what so many kills have shown; ``folder/archive`` is the sample archive."""
    with Storm(folder, seed, aois) as one:
        one.rage(kills)
    return one.found


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path, help="holds the sample archive in archive/")
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--aoi", type=int, nargs="+", default=[0, 2, 4, 5])
    arguments = parser.parse_args()
    began = time.monotonic()
    found = storm(arguments.folder.absolute(), arguments.kills, arguments.seed, arguments.aoi)
    record: dict[str, Any] = {
        "kills": dict(found.kills),
        "builds finished": found.builds + 1,
        "client exits": dict(found.client_exits),
        "finished blocks looked at": found.blocks_kept,
        "broken promises": found.broken,
        "minutes": round((time.monotonic() - began) / 60, 1),
    }
    print(json.dumps(record, indent=1))
    return 1 if found.broken else 0


if __name__ == "__main__":
    sys.exit(main())
