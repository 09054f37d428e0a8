"""Loading: GELOS's way, ours, and torch's give the arrays that rasterio reads."""

from __future__ import annotations

import multiprocessing
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rioxarray
import xarray as xr
from release_landscape import BANDS, DATES

from release import ReleaseError, chip_arrays, open_release, torch_dataset
from release.tracker import read_tracker


def with_rasterio(folder: Path, chip_id: int, key: str) -> np.ndarray:
    """``(time, band, y, x)``, read file by file."""
    layers = []
    for date in DATES[key]:
        with rasterio.open(folder / f"{key}_{chip_id:06}_{date}.tif") as raster:
            layers.append(raster.read())
    return np.stack(layers)


@pytest.mark.parametrize("key", ["s2l2a", "s1rtc", "lc2l2"])
def test_a_loader_written_for_gelos_works_unchanged(folder: Path, key: str) -> None:
    """Split the comma lists, open each with rioxarray, stack to time, height, width, bands."""
    table = read_tracker((folder / "gelos_chip_tracker.geojson").read_bytes())
    for row in table.to_dict("records")[::5]:
        images = []
        for path in row[f"{key}_paths"].split(","):
            with rioxarray.open_rasterio(folder / path) as image:
                images.append(image.transpose("y", "x", "band").to_numpy())
        stacked = np.stack(images)
        expected = with_rasterio(folder, row["id"], key)
        np.testing.assert_array_equal(stacked, expected.transpose(0, 2, 3, 1))
        np.testing.assert_array_equal(open_release(folder).read(row["id"], key), expected)


@pytest.mark.parametrize("which", ["folder", "archive"])
def test_a_chip_is_lazy_xarray_on_its_grid(request: pytest.FixtureRequest, folder: Path, which: str) -> None:
    opened = open_release(request.getfixturevalue(which))
    chip = opened.chip(3)
    assert set(chip) == {"s2l2a", "s1rtc", "lc2l2", "dem", "lulc"}
    image = chip["s2l2a"]
    assert image.dims == ("time", "band", "y", "x")
    assert not isinstance(image.variable._data, np.ndarray)
    np.testing.assert_array_equal(image.to_numpy(), with_rasterio(folder, 3, "s2l2a"))
    assert image["band"].to_numpy().tolist() == list(BANDS["s2l2a"])
    assert str(image["time"].to_numpy()[1])[:10] == "2023-05-10"
    assert chip["dem"].dims == ("band", "y", "x")
    with rasterio.open(folder / "s2l2a_000003_20230115.tif") as raster:
        assert image.attrs["crs"] == str(raster.crs)
        assert raster.xy(0, 0) == (float(image["x"][0]), float(image["y"][0]))
        assert raster.xy(29, 29) == (float(image["x"][-1]), float(image["y"][-1]))
        assert tuple(raster.bounds) == (
            opened.bounds(3).left,
            opened.bounds(3).bottom,
            opened.bounds(3).right,
            opened.bounds(3).top,
        )
    assert isinstance(image.sel(band="B04").mean("time"), xr.DataArray)


def test_a_chip_knows_its_place_through_arithmetic(folder: Path) -> None:
    for sensor, image in open_release(folder).chip(3).items():
        with rasterio.open(next(folder.glob(f"{sensor}_000003*.tif"))) as raster:
            for one in (image, image * 2, image.astype("float32") + 1, image.sel(band=image["band"][0])):
                assert one.rio.crs == raster.crs
                assert one.rio.transform() == raster.transform
            np.testing.assert_equal(image.rio.nodata, raster.nodata)
            assert image.rio.encoded_nodata is None  # nothing is masked
            assert image.dtype == raster.dtypes[0]
        chip = image if image.ndim == 3 else image[0]
        warped = chip.rio.reproject("EPSG:4326", resolution=0.001)
        assert warped.rio.crs.to_epsg() == 4326


def test_samples_as_arrays(folder: Path, archive: Path) -> None:
    for path in (folder, archive):
        opened = open_release(path)
        sample = chip_arrays(opened, 2, ["s2l2a", "dem"], {"s2l2a": ["B08", "B02"]})
        expected = with_rasterio(folder, 2, "s2l2a")[:, [3, 0]]
        np.testing.assert_array_equal(sample["image_s2l2a"], expected)
        assert sample["image_dem"].shape == (1, 1, 10, 10)
        row = opened.table.loc[2]
        assert sample["lulc"] == int(row["lulc"])
        assert sample["label"] == [1, 2, 5].index(int(row["lulc"]))
        assert sample["crs"] == f"EPSG:{row['epsg']}"
        assert sample["bounds"][0] == row["left_m"] - 30


def test_a_release_travels_to_workers(archive: Path) -> None:
    opened = pickle.loads(pickle.dumps(open_release(archive)))
    assert len(opened) == len(opened.table)
    assert opened.read(0, "lulc").shape == (1, 1, 30, 30)


def test_what_is_not_there_is_one_clear_line(folder: Path, copy: Path, tmp_path: Path) -> None:
    opened = open_release(folder)
    with pytest.raises(ReleaseError, match=r"no sensor 'modis' in this release; it has s2l2a"):
        opened.read(0, "modis")
    with pytest.raises(ReleaseError, match=r"s2l2a has no band 'B99'; it has B02"):
        opened.read(0, "s2l2a", ["B99"])
    with pytest.raises(ReleaseError, match="no chip 999"):
        opened.chip(999)
    with pytest.raises(ReleaseError, match="no chip 999"):
        opened.read(999, "dem")
    with pytest.raises(ReleaseError, match="no chip 999"):
        chip_arrays(opened, 999, ["dem"])
    with pytest.raises(ReleaseError, match=r"no chip in split 'dev'; the release has none, test, train"):
        torch_dataset(opened, split="dev")
    (copy / "gelos_chip_tracker.parquet").unlink()
    with pytest.raises(ReleaseError, match=r"gelos_chip_tracker\.parquet is missing"):
        open_release(copy)
    with pytest.raises(ReleaseError, match="no release there"):
        open_release(tmp_path / "nowhere")


def test_torch_is_asked_for_only_when_it_is_needed(folder: Path) -> None:
    try:
        import torch  # noqa: F401
    except ImportError:
        with pytest.raises(ReleaseError, match=r"install the extra gelos-lc\[torch\]"):
            torch_dataset(folder)


FAKE_TORCH = """
import numpy
float64 = "float64"
from_numpy = numpy.asarray
def tensor(value, dtype=None):
    return numpy.asarray(value, dtype)
"""


def test_samples_need_of_torch_its_tensors_alone(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "torch.py").write_text(FAKE_TORCH)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    for context in ("fork", "spawn"):
        data = torch_dataset(folder, ["s2l2a"], split="train")
        with multiprocessing.get_context(context).Pool(1) as pool:
            assert pool.apply(len, [data]) == len(data)
        sample = pickle.loads(pickle.dumps(data))[0]
        assert sample["image"] is sample["image_s2l2a"]
        np.testing.assert_array_equal(sample["image"], with_rasterio(folder, sample["id"], "s2l2a"))
        assert sample["bounds"].dtype == np.float64
    sys.modules.pop("torch", None)  # what follows may have the real one


def test_the_torch_dataset_gives_the_same_arrays(folder: Path, archive: Path) -> None:
    torch = pytest.importorskip("torch")
    for path in (folder, archive):
        data = torch_dataset(
            path, ["s2l2a", "s1rtc"], split="train", transform=lambda sample: {**sample, "seen": 1}
        )
        ids = [int(data[index]["id"]) for index in range(len(data))]
        assert set(open_release(path).table.loc[ids, "split"]) == {"train"}
        for index, chip_id in enumerate(ids):
            sample = data[index]
            assert sample["seen"] == 1
            assert sample["label"].dtype == torch.int64
            for key in ("s2l2a", "s1rtc"):
                np.testing.assert_array_equal(
                    sample[f"image_{key}"].numpy(), with_rasterio(folder, chip_id, key)
                )
        loader = torch.utils.data.DataLoader(torch_dataset(path), batch_size=2, num_workers=2)
        batches = list(loader)
        assert batches[0]["image"].shape == (2, 2, 4, 30, 30)
        assert batches[0]["bounds"].shape == (2, 4)
        for batch in batches:  # workers share the parent's opened zip
            for chip_id, image in zip(batch["id"].tolist(), batch["image"].numpy(), strict=True):
                np.testing.assert_array_equal(image, with_rasterio(folder, chip_id, "s2l2a"))


@pytest.mark.parametrize("context", ["fork", "forkserver", "spawn"])
def test_chips_are_computed_in_workers_of_a_process_that_has_computed_some(
    folder: Path, context: str
) -> None:
    image = open_release(folder).chip(3)["s2l2a"]
    image.compute()  # dask's threads are there now, and in no fork
    with multiprocessing.get_context(context).Pool(1) as pool:
        computed = pool.apply_async(xr.DataArray.to_numpy, [image]).get(60)
    np.testing.assert_array_equal(computed, with_rasterio(folder, 3, "s2l2a"))
