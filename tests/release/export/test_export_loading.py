"""A release and its exports give the same samples by the same call, in other processes, too."""

from __future__ import annotations

import itertools
import json
import multiprocessing
import pickle
from pathlib import Path

import numpy as np
import pytest
import rasterio
from numcodecs import CRC32C
from release_landscape import DATES

from release import ReleaseError, batches, chip_arrays, open_release, torch_dataset
from release.export.request import ExportRequest
from release.export.run import export_release
from release.loading.exported import ExportedChips
from release.loading.exported import _Chip as Chip
from release.loading.samples import open_chips

KEYS = ("s2l2a", "s1rtc", "dem", "lulc")


@pytest.fixture(scope="module", params=["webdataset", "zarr", "terratorch"])
def export(request: pytest.FixtureRequest, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp(request.param) / "out"
    export_release(folder, request.param, out, ExportRequest(shard_samples=4))
    return out


def test_an_export_gives_the_samples_of_its_release(folder: Path, export: Path) -> None:
    release, opened = open_release(folder), open_chips(export)
    for split in ("train", "test", "none", None):
        assert sorted(opened.ids_of(split)) == sorted(release.ids_of(split))
    for chip_id in release.ids_of(None):
        one = chip_arrays(release, chip_id, KEYS, {"s2l2a": ["B08", "B02"]})
        two = chip_arrays(opened, chip_id, KEYS, {"s2l2a": ["B08", "B02"]})
        assert list(one) == list(two)
        for name, value in one.items():
            np.testing.assert_array_equal(two[name], value)
            assert np.asarray(two[name]).dtype == np.asarray(value).dtype
    with rasterio.open(folder / f"s2l2a_000003_{DATES['s2l2a'][1]}.tif") as raster:
        np.testing.assert_array_equal(chip_arrays(opened, 3, KEYS)["image_s2l2a"][1], raster.read())


def test_an_export_travels_to_workers(export: Path) -> None:
    opened = open_chips(export)
    expected = chip_arrays(opened, 5, ["dem"])["image_dem"]
    for context in ("fork", "spawn"):
        with multiprocessing.get_context(context).Pool(1) as pool:
            found = pool.apply(chip_arrays, (opened, 5, ["dem"]))
        np.testing.assert_array_equal(found["image_dem"], expected)
    assert pickle.loads(pickle.dumps(opened)).sensors == opened.sensors


def test_batches_need_no_framework(folder: Path, archive: Path, export: Path) -> None:
    for path in (folder, archive, export):
        found = list(batches(path, 4, ["s2l2a", "dem"], {"s2l2a": ["B04"]}, split="train"))
        ids = np.concatenate([one["id"] for one in found]).tolist()
        assert sorted(ids) == sorted(open_release(folder).ids_of("train"))
        assert found[0]["image_s2l2a"].shape == (4, 2, 1, 30, 30)
        assert found[0]["bounds"].shape == (4, 4)
        assert found[0]["label"].dtype.kind == "i"
        [[one], [two]] = ([next(batches(path, 9, ["dem"], seed=seed))["id"].tolist()] for seed in (1, 2))
        assert one != two
        assert one == next(batches(path, 9, ["dem"], seed=1))["id"].tolist()


def test_torch_datasets_of_exports(folder: Path, export: Path) -> None:
    torch = pytest.importorskip("torch")
    one, two = (torch_dataset(path, KEYS, split="train") for path in (folder, export))
    for index in range(len(one)):
        first, second = one[index], two[index]
        assert all(torch.equal(first[f"image_{key}"], second[f"image_{key}"]) for key in KEYS)
        assert first["label"] == second["label"]
    for context in ("fork", "spawn"):
        loader = torch.utils.data.DataLoader(
            two, batch_size=3, num_workers=1, multiprocessing_context=context
        )
        found = torch.cat([batch["id"] for batch in loader]).tolist()
        assert found == [int(two[index]["id"]) for index in range(len(two))]


def test_what_an_export_cannot_give_is_one_clear_line(export: Path, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match="no sensor 'modis' in this export; it has s2l2a"):
        torch_dataset(export, ["modis"])
    with pytest.raises(ReleaseError, match="no chip in split 'dev'; the export has train, test, none"):
        next(batches(export, 2, split="dev"))
    with pytest.raises(ReleaseError, match="no chip 999 in this export"):
        chip_arrays(open_chips(export), 999, ["dem"])
    other = tmp_path / "hub"
    export_release(folder, "huggingface", other, ExportRequest(("dem",)))
    with pytest.raises(
        ReleaseError, match="is an export to huggingface, which is not read at random; its own"
    ):
        open_chips(other)
    (other / "export.json").write_text(json.dumps([]))
    with pytest.raises(ReleaseError, match=r"export\.json cannot be read"):
        open_chips(other)


def test_one_tar_is_opened_by_itself(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_release(folder, "webdataset", out, ExportRequest(("dem",), shard_samples=4))
    tars = sorted((out / "train").glob("*.tar"))
    ids = [open_chips(tar).ids_of("train") for tar in tars]
    assert sorted(itertools.chain(*ids)) == sorted(open_release(folder).ids_of("train"))
    assert [len(one) for one in ids[:-1]] == [4] * (len(ids) - 1)
    [*found] = batches(tars[1], 4, ["dem"])
    np.testing.assert_array_equal(found[0]["id"], ids[1])
    (out / "train" / "train-000000.tar").write_bytes(b"")
    with pytest.raises(ReleaseError, match=r"chip \d+ cannot be read .*export it again"):
        chip_arrays(open_chips(tars[0]), ids[0][0], ["dem"])
    with pytest.raises(ReleaseError, match=r"export\.json cannot be read"):
        open_chips(tmp_path / "elsewhere" / "train" / "train-000000.tar")


def test_masks_of_an_export_are_those_of_its_release() -> None:
    read = ExportedChips.__new__(ExportedChips)
    read._layers = {"s2l2a": {"bands": ["B02", "SCL"], "nodata": 0}}
    read._masks, read._chips, read._codes = (
        {"s2l2a": {"SCL": "uint8"}},
        {7: Chip(7, "train", 1, 32633, ())},
        [1, 5],
    )
    image = np.arange(2 * 2 * 3 * 3, dtype="uint16").reshape(2, 2, 3, 3)

    class Store:
        def read(self, *_: object) -> dict[str, np.ndarray]:
            return {"s2l2a": image}

    read._store = Store()
    sample = read.sample(7, ["s2l2a"], {})
    np.testing.assert_array_equal(sample["image_s2l2a"], image[:, :1])
    np.testing.assert_array_equal(sample["mask_s2l2a"], image[:, 1])
    assert (sample["mask_s2l2a"].dtype, sample["lulc"]) == (np.uint8, 5)


def test_a_damaged_shard_is_one_clear_line(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_release(folder, "zarr", out, ExportRequest(("dem",), shard_samples=4))
    shard = out / "chips.zarr" / "dem" / "image" / "c" / "0" / "0" / "0" / "0" / "0"
    [chip_id, *_] = open_chips(out).ids_of(None)
    whole = shard.read_bytes()
    first = int.from_bytes(whole[-68:-60], "little")  # of four chunks: offsets and sizes, and a checksum
    size_lies = whole[: first + 4] + b"\xff\xff\xff\x7f" + whole[first + 8 :]
    size = int.from_bytes(whole[-60:-52], "little")
    shorter = whole[-68:-60] + (size // 2).to_bytes(8, "little") + whole[-52:-4]
    cut_off = whole[:-68] + bytes(CRC32C(location="end").encode(shorter))
    for data in (b"", whole[:-1], whole[:-5] + b"\x01" + whole[-4:], whole[9:], size_lies, cut_off):
        shard.write_bytes(data)
        with pytest.raises(ReleaseError, match=r"image: c/0/0/0/0/0 cannot be read \(.+\); export it again"):
            chip_arrays(open_chips(out), chip_id, ["dem"])
    metadata = shard.parents[5] / "zarr.json"
    about = metadata.read_text().replace('"location": "end"', '"location": "start"')
    metadata.write_text(about.replace('"index_location": "end"', '"index_location": "start"'))
    with pytest.raises(ReleaseError, match="is not chunked as the export was; read it by zarr"):
        chip_arrays(open_chips(out), chip_id, ["dem"])
