"""Runs that share a release's shards, and are killed, make the release of one run; its check is shared as well."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from release_landscape import LAND, SETTINGS, VERSION, working_folder, write_config
from test_release_kills import DIES, ROOT, RUN, run
from test_release_shards import SHARDED, damage
from test_release_verb import digests as all_digests

import release.packing.shards as shard_work
from cube.config.models import Config
from cube.errors import BusyError
from cube.run.lock import hold, hold_part
from cube.run.shards import Share
from cube.run.storage import Folder, open_folder
from cube.run.thread_engine import ThreadEngine
from release import ReleaseError, make_release, verify
from release.opening.checksums import SUMS_NAME, sha256

IN_SHARE = "from cube.run.shards import Share; make_release(load_config(sys.argv[1]), shard=Share.parse(sys.argv[5]))"
FIRSTS = ("000000", "000004", "000008", "000012")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one run makes, four chips to a shard: release and zips. Not to be changed."""
    config = working_folder(tmp_path_factory.mktemp("whole"), LAND, SHARDED)
    make_release(config, engine=ThreadEngine(1))
    return Path(config.directory.output)


def digests(root: Path) -> dict[str, str]:
    """Every file below, by checksum, but locks: those of killed runs stay while others are at work."""
    return {name: digest for name, digest in all_digests(root).items() if not name.startswith(".lock")}


def chips_of(root: Path, **settings: object) -> Config:
    """Chips of which no release is made yet, for a process of one thread."""
    more = {name.replace("__", "."): value for name, value in settings.items()}
    return working_folder(root, LAND, {**SHARDED, "compute.workers": 0, "compute.threads": 1, **more})


def start(
    config: Config, share: str, module: str = "os", name: str = "getcwd", call: int = 10**9
) -> subprocess.Popen[str]:
    """Start a run of a share, which is killed at the n-th call of a function."""
    command = [sys.executable, "-c", f"{DIES}\n{RUN}{IN_SHARE}", config.path, module, name, str(call), share]
    environment = {**os.environ, "PYTHONPATH": "."}
    return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)


def ended(runs: Iterable[subprocess.Popen[str]]) -> list[tuple[int, str]]:
    """Wait for runs to end; return exit codes and what they said."""
    return [(one.wait(), said) for one in runs for _, said in [one.communicate(timeout=200)]]


def written_at(output: Path) -> dict[str, int]:
    """When each shard was written that is whole, in the making or made."""
    found = [
        *output.glob(f".making-{VERSION}/release/chips/*/{SUMS_NAME}"),
        *output.glob(f"{VERSION}/chips/*/{SUMS_NAME}"),
    ]
    return {path.parent.name: path.stat().st_mtime_ns for path in found}


def test_runs_at_once_of_which_one_is_killed_make_what_one_makes(whole: Path, tmp_path: Path) -> None:
    config = chips_of(tmp_path)
    output = Path(config.directory.output)
    killed = start(config, "1/3", "release.packing.shards", "write_chips", 2)
    assert ended([killed]) == [(-signal.SIGKILL, "")]
    before = written_at(output)
    assert list(before) == ["000000"]  # it died in its second
    others = [start(config, share) for share in ("2/3", "3/3")]
    assert ended(others) == [(0, "")] * 2
    assert digests(output) == digests(whole)
    assert written_at(output).items() >= before.items()
    assert ended([start(config, "1/3")]) == [(0, "")]  # it has nothing to do
    assert digests(output) == digests(whole)
    assert not make_release(config).written
    assert [path.name for path in output.iterdir() if path.name.startswith(".")] == [".lock"]


KILLS = [
    ("cube.run.storage.disk", "_write_file", 150),  # in the second shard
    ("release.packing.shards", "np.savez_compressed", 2),  # before its share of the statistics is there
    ("release.packing.shares", "canonical_json", 3),  # before a shard is noted
    ("release.packing.contents", "make_card", 1),  # as documents are made
    ("cube.run.storage.disk", "DiskFolder.move", 1),  # before the release takes its place
    ("release.packing.shards", "write_zip", 2),  # as the zips are written
    ("cube.run.storage.disk", "DiskFolder.remove_folder", 2),  # before what runs left is cleared away
]


@pytest.mark.parametrize("second", ["2/3", pytest.param("", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("module", "name", "call"), [KILLS[0], *(pytest.param(*one, marks=pytest.mark.slow) for one in KILLS[1:])]
)
def test_another_share_or_the_whole_takes_up_what_a_killed_share_leaves(
    whole: Path, tmp_path: Path, module: str, name: str, call: int, second: str
) -> None:
    config = chips_of(tmp_path)
    output = Path(config.directory.output)
    assert ended([start(config, "1/3", module, name, call)]) == [(-signal.SIGKILL, "")]
    if (output / VERSION).exists():
        assert digests(output / VERSION) == digests(whole / VERSION)
    noted = {path.stem for path in output.glob(f".making-{VERSION}/notes/*.written")}
    before = written_at(output)
    assert noted <= before.keys()
    make_release(config, shard=Share.parse(second) if second else None)
    assert digests(output) == digests(whole)
    after = written_at(output)
    assert {shard: after[shard] for shard in noted} == {shard: before[shard] for shard in noted}


@pytest.mark.slow
def test_killed_once_it_is_in_its_place_it_is_not_made_again(whole: Path, tmp_path: Path) -> None:
    config = chips_of(tmp_path)
    output = Path(config.directory.output)
    code = """
import release.packing.shards as work
real = work.ShardedRelease.show
def show(*args):
    real(*args)
    os.kill(os.getpid(), signal.SIGKILL)
work.ShardedRelease.show = show
"""
    died = run(f"import os, signal, sys\n{code}\n{RUN}{IN_SHARE}", config.path, "", "", "", "1/3")
    assert died.returncode == -signal.SIGKILL, died.stderr
    before = written_at(output)
    assert digests(output / VERSION) == digests(whole / VERSION)
    make_release(config, shard=Share(2, 3))
    assert digests(output) == digests(whole)
    assert written_at(output) == before


@pytest.mark.parametrize("place", ["", pytest.param("memory", marks=pytest.mark.slow)])
def test_shares_of_one_process_on_a_disk_and_in_a_bucket(whole: Path, tmp_path: Path, place: str) -> None:
    there = f"memory://{tmp_path.name}" if place else str(tmp_path / "output")
    config = chips_of(tmp_path, directory__output=there)
    with ThreadPoolExecutor(5) as pool:
        found = list(
            pool.map(lambda n: make_release(config, engine=ThreadEngine(1), shard=Share(n, 5)), range(1, 6))
        )
    assert {one.fingerprint for one in found} == {sha256((whole / VERSION / SUMS_NAME).read_bytes())}
    assert any(one.written for one in found)
    output = open_folder(there)
    left = {name: sha256(output.read(name)) for name in output.files() if name != ".lock"}
    assert left == digests(whole)
    again = make_release(config, engine=ThreadEngine(1), shard=Share(4, 5))
    assert (again.written, again.chips) == (False, 14)


@pytest.mark.slow
def test_processes_share_a_bucket_and_one_is_killed(whole: Path, tmp_path: Path, s3: Folder) -> None:
    output = s3 / tmp_path.name
    config = chips_of(tmp_path, directory__output=output.url, directory__storage_options=dict(output.options))
    killed = start(config, "1/3", "release.packing.shards", "write_chips", 2)
    assert ended([killed]) == [(-signal.SIGKILL, "")]
    others = [start(config, share) for share in ("2/3", "3/3")]
    assert ended(others) == [(0, "")] * 2
    assert {
        name: sha256(output.read(name)) for name in output.files() if not name.startswith(".lock")
    } == digests(whole)


def test_a_release_without_shards_has_no_shares(tmp_path: Path) -> None:
    config = working_folder(tmp_path, LAND, SETTINGS)
    said = r"tiny v0\.1: 14 chips are a release without shards, which one run makes; leave --shard out"
    with pytest.raises(ReleaseError, match=said):
        make_release(config, shard=Share(2, 3))
    make_release(config)
    command = [
        sys.executable,
        "scripts/verify.py",
        str(Path(config.directory.output) / VERSION),
        "--shard",
        "1/2",
    ]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "its files lie in no shards, so that one run checks them; leave --shard out" in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_who_works_in_the_folder_is_not_disturbed(
    tmp_path: Path, whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = chips_of(tmp_path)
    output = open_folder(config.directory.output)
    output.make()
    with hold(output), pytest.raises(BusyError, match="another run"):
        make_release(config, shard=Share(1, 2))
    real = shard_work.write_chips
    refused: list[str] = []

    def meanwhile(*arguments: object, **options: object) -> object:
        if not refused:
            busy = r"other runs \(shares 0001-of-0002\) make v0\.1 of other chips or settings"
            seed = {"release.seed": 5, "release.splits": None}
            for settings, share, said in (
                (seed, Share(2, 2), busy),
                ({"directory.zip_output": False}, Share(2, 2), busy),
                (seed, Share(1, 2), "another run"),
                (seed, None, "another run"),
            ):
                other = write_config(tmp_path, LAND, {**SHARDED, **settings})
                with pytest.raises(BusyError, match=said):
                    make_release(other, engine=ThreadEngine(1), shard=share, force=True)
                refused.append(said)
        return real(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(shard_work, "write_chips", meanwhile)
    make_release(config, engine=ThreadEngine(1), shard=Share(1, 2))
    assert len(refused) == 4
    assert digests(output.path) == digests(whole)
    with hold_part(output, "release-v9-0001-of-0002", if_alone=lambda: None):  # another version's
        assert not make_release(config, engine=ThreadEngine(1), shard=Share(2, 2)).written


@pytest.mark.parametrize("place", ["", pytest.param("memory", marks=pytest.mark.slow)])
def test_another_release_is_replaced_by_force_alone(whole: Path, tmp_path: Path, place: str) -> None:
    there = f"memory://{tmp_path.name}-force" if place else str(tmp_path / "output")
    settings = {**SHARDED, "directory.output": there}
    other = working_folder(tmp_path, LAND, {**settings, "release.seed": 5})
    output = open_folder(there)
    make_release(other, engine=ThreadEngine(1), shard=Share(1, 2))
    before = {name: output.read(name) for name in output.files()}
    config = write_config(tmp_path, LAND, settings)
    with pytest.raises(ReleaseError, match="a different release of this version is there; give --force"):
        make_release(config, engine=ThreadEngine(1), shard=Share(1, 2))
    assert {name: output.read(name) for name in output.files()} == before
    for number, written in ((1, True), (2, False)):
        found = make_release(config, engine=ThreadEngine(1), shard=Share(number, 2), force=True)
        assert found.written is written
    left = {name: sha256(output.read(name)) for name in output.files() if name != ".lock"}
    assert left == digests(whole)


def test_what_killed_shares_left_of_another_release_is_made_anew(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {**SHARDED, "directory.output": str(tmp_path / "output")}
    real, calls = shard_work.write_chips, iter(range(1, 100))

    def stopped(*arguments: object, **options: object) -> object:
        if next(calls) in (3, 6):
            raise KeyboardInterrupt
        return real(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(shard_work, "write_chips", stopped)
    configs = [
        working_folder(tmp_path, LAND, settings),
        write_config(tmp_path, LAND, {**settings, "release.seed": 5}),
    ]
    for config, share in zip(configs, (Share(1, 3), None), strict=True):
        with pytest.raises(KeyboardInterrupt):  # the second writes other shards over those of the first
            make_release(config, engine=ThreadEngine(1), shard=share)
    config = write_config(tmp_path, LAND, settings)
    make_release(config, engine=ThreadEngine(1), shard=Share(2, 3))
    assert digests(tmp_path / "output") == digests(whole)


@pytest.mark.slow
@pytest.mark.parametrize("second", [Share(1, 3), Share(2, 3), None])
def test_chips_cut_anew_since_a_share_was_killed_are_in_the_release(
    tmp_path: Path, second: Share | None
) -> None:
    """The same chips of the same scenes, but of other bytes: no table tells of it."""
    config = chips_of(tmp_path)
    output = Path(config.directory.output)
    assert ended([start(config, "1/3", "release.packing.shards", "write_chips", 3)]) == [
        (-signal.SIGKILL, "")
    ]
    assert len(written_at(output)) == 2
    chips = sorted((Path(config.directory.working) / VERSION / "chips").iterdir())
    for folder in chips:
        record = json.loads((folder / "chip.json").read_text())
        picture = next(name for name in record["files"] if name.endswith(".png"))
        data = (folder / picture).read_bytes() + b"later"
        (folder / picture).write_bytes(data)
        record["files"][picture] = sha256(data)
        (folder / "chip.json").write_text(json.dumps(record))
    make_release(config, shard=second)
    pictures = [path.read_bytes() for path in (output / VERSION).rglob("chips/*/*.png")]
    assert sum(data.endswith(b"later") for data in pictures) == 14  # one of each chip's
    assert verify(output / VERSION, 1) == []


def test_zips_that_are_asked_for_later_are_shared_as_well(whole: Path, tmp_path: Path) -> None:
    settings = {**SHARDED, "directory.output": str(tmp_path / "output")}
    make_release(
        working_folder(tmp_path, LAND, {**settings, "directory.zip_output": False}), engine=ThreadEngine(1)
    )
    assert not list((tmp_path / "output").glob("*.zip"))
    config = write_config(tmp_path, LAND, settings)
    before = written_at(tmp_path / "output")
    assert make_release(config, engine=ThreadEngine(1), shard=Share(3, 3)).written
    assert digests(tmp_path / "output") == digests(whole)
    assert written_at(tmp_path / "output") == before


def command_faults(place: Path, *options: str) -> tuple[int, set[str]]:
    """Run the command; return its exit code and the faults that it prints."""
    command = [sys.executable, "scripts/verify.py", str(place), "--workers", "1", *options]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    *lines, last = ended.stdout.splitlines()
    assert ended.stderr == ""
    assert last.startswith(str(place))
    return ended.returncode, set(lines)


def damages(folder: Path) -> Iterator[str]:
    """Do harm to a shard, a zip and the top; yield the names of the files."""
    import numpy as np

    rng = np.random.default_rng(4)
    for file in (folder / "chips/000004/dem_000005.tif", folder / "report.html", folder / "items.parquet"):
        damage(rng, file)
        yield file.name
    zipped = folder.parent / f"tiny_{VERSION}_000008.zip"
    zipped.write_bytes(zipped.read_bytes()[:-7])
    yield zipped.name


def test_shares_of_a_check_find_together_what_one_run_finds(whole: Path, tmp_path: Path) -> None:
    output = Path(shutil.copytree(whole, tmp_path / "output"))
    release = output / VERSION
    assert [verify(release, 1, Share(number, 3)) for number in (1, 2, 3)] == [[]] * 3
    named = list(damages(release))
    everything = verify(release, 1)
    assert set(named) <= {fault.file.rpartition("/")[2] for fault in everything}
    parts = [verify(release, 1, Share(number, 3)) for number in (1, 2, 3)]
    assert sorted({fault for part in parts for fault in part}) == everything
    at = {fault.file: number for number, part in enumerate(parts, start=1) for fault in part}
    assert (at["report.html"], at[f"tiny_{VERSION}_000008.zip"]) == (1, 3)
    assert [verify(release, 1, Share(number, 9)) for number in (5, 9)] == [[]] * 2  # more than shards


@pytest.mark.slow
def test_the_command_ends_as_that_of_one_run(whole: Path, tmp_path: Path) -> None:
    output = Path(shutil.copytree(whole, tmp_path / "output"))
    release = output / VERSION
    (release / "chips/000004/dem_000005.tif").unlink()
    code, everything = command_faults(release)
    found = [command_faults(release, "--shard", f"{number}/4") for number in range(1, 5)]
    assert (code, [one for one, _ in found]) == (1, [0, 1, 0, 0])
    of_zip = {line for line in everything if ".zip" in line}
    assert set().union(*(lines for _, lines in found)) == everything
    assert found[1][1] >= of_zip != set()
    command = [sys.executable, "scripts/verify.py", str(release), "--json", "--shard", "2/4"]
    told = json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, check=False).stdout)
    assert (told["shard"], told["faults"]) == ("2/4", len(everything))
    zipped = output / f"tiny_{VERSION}.zip"
    assert command_faults(zipped, "--shard", "3/4") == (0, set())
