"""Samples that are kept are those that would be read, whichever process kept them."""

from __future__ import annotations

import logging
import multiprocessing
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from release import SampleCache, batches, open_release
from release.loading.caching import CachedSamples
from release.loading.dataset import Release
from release.loading.samples import SampleReader, open_reader

KEYS = ("s2l2a", "dem")
MUCH = 1 << 24


def reader(folder: Path, cache: SampleCache) -> SampleReader:
    read = open_reader(folder, KEYS, {"s2l2a": ["B04", "B02"]}, normalise=False)
    return read.caching(cache, read.chips.ids_of(None))


def assert_same(one: dict[str, Any], two: dict[str, Any]) -> None:
    assert list(one) == list(two)
    for name, value in one.items():
        assert type(two[name]) is type(value)
        np.testing.assert_array_equal(two[name], value)
        assert np.asarray(two[name]).dtype == np.asarray(value).dtype


@pytest.fixture
def no_reading(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function after which a release gives no pixels."""

    def forbid() -> None:
        def refuse(*_: object) -> None:
            raise AssertionError("is read again")

        monkeypatch.setattr(Release, "read", refuse)

    return forbid


def read_in_another_process(read: SampleReader, ids: list[int]) -> int:
    return sum(read(chip_id)["id"] for chip_id in ids)


@pytest.mark.parametrize(
    ("where", "context"),
    [
        ("memory", "fork"),
        ("disk", "fork"),
        pytest.param("memory", "spawn", marks=pytest.mark.slow),
        pytest.param("disk", "spawn", marks=pytest.mark.slow),
    ],
)
def test_what_a_worker_kept_is_there_for_all(
    folder: Path, tmp_path: Path, where: str, context: str, no_reading: Any
) -> None:
    read = reader(folder, SampleCache(MUCH, None if where == "memory" else tmp_path))
    plain = open_reader(folder, KEYS, {"s2l2a": ["B04", "B02"]}, normalise=False)
    expected = [plain(chip_id) for chip_id in range(6)]
    makes = multiprocessing.get_context(context)
    workers = [makes.Process(target=read_in_another_process, args=(read, [0, 1, 2, n])) for n in (3, 4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
        assert worker.exitcode == 0
    assert read.cached.get(5) is None
    no_reading()
    for chip_id in range(5):
        assert_same(read(chip_id), expected[chip_id])
    with pytest.raises(AssertionError, match="is read again"):
        read(5)


def test_a_file_serves_later_runs_and_another_dataset_has_another(
    folder: Path, tmp_path: Path, no_reading: Any
) -> None:
    ids = open_release(folder).ids_of("train")
    first = np.concatenate(
        [
            one["image_dem"]
            for one in batches(folder, 4, ["dem"], split="train", cache=SampleCache(MUCH, tmp_path))
        ]
    )
    for other in (["dem", "lulc"], ["lulc"]):
        next(batches(folder, 4, other, split="train", cache=SampleCache(MUCH, tmp_path)))
    assert len(list(tmp_path.iterdir())) == 3
    [*files] = [path.stat().st_blocks * 512 for path in tmp_path.iterdir()]
    assert sum(files) <= 3 * MUCH
    read = open_reader(folder, ["dem"], None, normalise=False)
    model = read(ids[0])
    no_reading()
    cached = CachedSamples(SampleCache(MUCH, tmp_path), ids, model, key_of(read))
    np.testing.assert_array_equal([cached.get(chip_id)["image_dem"] for chip_id in ids], first)
    again = pickle.loads(pickle.dumps(cached))
    np.testing.assert_array_equal(again.get(ids[-1])["image_dem"], first[-1])


def key_of(read: SampleReader) -> Any:
    from release.opening.checksums import sha256

    return [sha256(read.chips.read_file("SHA256SUMS")), read.sensors, sorted(read.bands.items())]


def test_its_bytes_are_bounded_and_said(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "release.loading.caching")
    sample = 2 * 2 * 30 * 30 * 2 + 10 * 10 * 4
    for cache in (SampleCache(3 * sample), SampleCache(3 * sample, tmp_path)):
        read = reader(folder, cache)
        for chip_id in range(6):
            read(chip_id)
        kept = [read.cached.get(chip_id) is not None for chip_id in range(6)]
        assert kept == [True, True, False, False, False, False]  # what is beside the pixels takes room, too
        assert read.cached.bytes <= 3 * sample
    [file] = tmp_path.iterdir()
    assert file.stat().st_size == read.cached.bytes
    assert f"2 of {len(read.chips)} samples, 0.0 MB at most, in {file}" in caplog.text


def test_what_is_half_written_is_read_again(folder: Path, tmp_path: Path) -> None:
    read = reader(folder, SampleCache(MUCH, tmp_path))
    expected = read(0)
    [file] = tmp_path.iterdir()
    whole = file.read_bytes()
    for place in (0, 12, 16, 2000):  # mark, checksum, pixels
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert read.cached.get(0) is None
        assert_same(read(0), expected)
        assert file.read_bytes() == whole
    file.write_bytes(b"")
    assert read.cached.get(0) is None


def test_a_full_disk_costs_the_cache_alone(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    read = reader(folder, SampleCache(MUCH, tmp_path))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.pwrite", full)
    assert read(0)["id"] == 0
    assert "cannot be written to (No space left on device)" in caplog.text


def test_what_is_kept_is_not_what_is_given_away(folder: Path) -> None:
    read = reader(folder, SampleCache(MUCH))
    read(0)
    with pytest.raises(ValueError, match="read-only"):
        read(0)["image_s2l2a"][...] = 0
    twice = [next(batches(folder, 2, ["dem"], cache=SampleCache(MUCH))) for _ in range(2)]
    twice[0]["image_dem"][...] = 0
    assert twice[1]["image_dem"].any()
