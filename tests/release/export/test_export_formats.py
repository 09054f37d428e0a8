"""Each export, read by its format's own reader, holds the pixels and labels that GDAL reads from the release."""

from __future__ import annotations

import gc
import io
import json
import tarfile
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import tifffile
import xarray as xr
import yaml
import zarr
from release_landscape import BANDS, DATES

from release import ReleaseError, batches, chip_arrays, open_release
from release.export.request import ExportRequest
from release.export.run import export_release
from release.loading.samples import open_chips
from release.tracker import read_tracker

CLASSES = [1, 2, 5]


def with_rasterio(folder: Path, chip_id: int, key: str, bands: tuple[str, ...] = ()) -> np.ndarray:
    """``(time, band, y, x)``, read file by file."""
    indexes = [BANDS[key].index(name) + 1 for name in bands or BANDS[key]]
    paths = [folder / f"{key}_{chip_id:06}{date}.tif" for date in (f"_{one}" for one in DATES.get(key, ()))]
    layers = []
    for path in paths or [folder / f"{key}_{chip_id:06}.tif"]:
        with rasterio.open(path) as raster:
            layers.append(raster.read(indexes))
    return np.stack(layers)


@pytest.fixture(scope="module")
def rows(folder: Path) -> dict[int, dict[str, Any]]:
    return {row["id"]: row for row in read_rows(folder)}


@pytest.fixture(scope="module")
def exports(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return a function that gives the folder of an export of the shared release, in small shards."""
    made: dict[str, Path] = {}

    def export(to: str) -> Path:
        if to not in made:
            out = tmp_path_factory.mktemp(to) / "export"
            export_release(folder, to, out, ExportRequest(shard_samples=4))
            made[to] = out
        return made[to]

    return export


def label_of(row: dict[str, Any]) -> int:
    return CLASSES.index(int(row["lulc"]))


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # webdataset leaves its files to the collector
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_webdataset(folder: Path, exports: Any, rows: dict[int, dict[str, Any]]) -> None:
    webdataset = pytest.importorskip("webdataset")
    out = exports("webdataset")
    seen: dict[int, str] = {}
    for split in {row["split"] for row in rows.values()}:
        urls = sorted(str(path) for path in (out / split).glob("*.tar"))
        data = webdataset.WebDataset(urls, shardshuffle=False, empty_check=False).decode()
        for sample in data:
            facts = sample["json"]
            row = rows[facts["id"]]
            assert sample["__key__"].endswith(f"{facts['id']:06}")
            assert (sample["cls"], facts["label"], facts["split"]) == (label_of(row),) * 2 + (split,)
            assert facts["dates"] == {key: row[f"{key}_dates"].split(",") for key in DATES}
            for key in BANDS:
                np.testing.assert_array_equal(sample["npz"][key], with_rasterio(folder, facts["id"], key))
            seen[facts["id"]] = split
    del data, sample
    gc.collect()
    assert seen == {chip_id: row["split"] for chip_id, row in rows.items()}


def test_webdataset_at_random(folder: Path, exports: Any, rows: dict[int, dict[str, Any]]) -> None:
    wids = pytest.importorskip("wids")
    index = exports("webdataset") / "train" / "index.json"
    data = wids.ShardListDataset(str(index), cache_dir=None, keep=True, transformations=[])
    assert len(data) == sum(row["split"] == "train" for row in rows.values())
    sample = data[len(data) - 1]
    chip_id = json.loads(sample[".json"].read())["id"]
    with np.load(io.BytesIO(sample[".npz"].read())) as pixels:
        np.testing.assert_array_equal(pixels["s2l2a"], with_rasterio(folder, chip_id, "s2l2a"))


def test_zarr(folder: Path, exports: Any, rows: dict[int, dict[str, Any]]) -> None:
    out = exports("zarr")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Consolidated metadata")
        chips = xr.open_datatree(out / "chips.zarr", engine="zarr")
    assert chips.attrs["label_names"] == ["Water", "Trees", "Crops"]
    assert sorted(chips["id"].to_numpy()) == sorted(rows)
    for number, chip_id in enumerate(chips["id"].to_numpy().tolist()):
        row = rows[chip_id]
        assert chips["label"][number] == label_of(row)
        assert chips.attrs["split_names"][int(chips["split"][number])] == row["split"]
        for key in BANDS:
            image = chips[key]["image"]
            assert image.dims == ("sample", "time", "band", "y", "x")
            assert image.attrs["band_names"] == list(BANDS[key])
            expected = with_rasterio(folder, chip_id, key)
            np.testing.assert_array_equal(image[number].to_numpy(), expected)
            assert image.dtype == expected.dtype
        days = chips["lc2l2"]["date"][number].dt.strftime("%Y%m%d").to_numpy().tolist()
        assert ",".join(days) == row["lc2l2_dates"]


def test_huggingface(folder: Path, exports: Any, rows: dict[int, dict[str, Any]], tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    data = datasets.load_dataset(str(exports("huggingface")), cache_dir=str(tmp_path))
    assert set(data) == {row["split"] for row in rows.values()}
    assert data["train"].features["label"].names == ["Water", "Trees", "Crops"]
    seen = set()
    for split, part in data.items():
        for sample in part.with_format("numpy"):
            row = rows[int(sample["id"])]
            assert (int(sample["label"]), split) == (label_of(row), row["split"])
            for key in BANDS:
                expected = with_rasterio(folder, row["id"], key)
                np.testing.assert_array_equal(sample[key], expected)
                assert part.features[key].dtype == str(expected.dtype)
            seen.add(row["id"])
        first = part[0]
        picture = folder / f"s2l2a_{first['id']:06}_{DATES['s2l2a'][1]}.png"
        from PIL import Image

        np.testing.assert_array_equal(np.asarray(first["s2l2a_png_2"]), np.asarray(Image.open(picture)))
        assert first["s1rtc_dates"] == list(DATES["s1rtc"])
    assert seen == set(rows)


def test_terratorch(
    folder: Path, exports: Any, rows: dict[int, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Search as its generic multi-modal dataset does, and read with rasterio, as rioxarray does."""
    out = exports("terratorch")
    monkeypatch.chdir(out)
    config = yaml.safe_load((out / "terratorch.yaml").read_text())
    data = config["data"]["init_args"]
    assert (data["modalities"], data["class_names"]) == (["s2l2a", "s1rtc"], ["Water", "Trees", "Crops"])
    assert config["model"]["init_args"]["model_args"]["in_channels"] == sum(map(len, data["means"].values()))
    assert (data["train_split"], data["val_split"], data["test_split"]) == (
        "train.txt",
        "test.txt",
        "test.txt",
    )
    seen = set()
    for split in {row["split"] for row in rows.values()}:
        for line in (out / f"{split}.txt").read_text().splitlines():
            chip_id, date = map(int, Path(line).name.removeprefix("chip").split("_"))
            [label] = Path(data["label_data_root"]).glob(line + data["label_grep"])
            assert (np.load(label), rows[chip_id]["split"]) == (label_of(rows[chip_id]), split)
            for key in BANDS:
                [path] = Path(data["data_root"]).glob(line + data["image_grep"].get(key, f"*_{key}.tif"))
                own = with_rasterio(folder, chip_id, key)
                original = next(folder.glob(f"{key}_{chip_id:06}*.tif"))
                with rasterio.open(path) as raster, rasterio.open(original) as source:
                    np.testing.assert_array_equal(raster.read(), own[min(date, len(own) - 1)])
                    assert (raster.crs, raster.transform) == (source.crs, source.transform)
                    assert (raster.dtypes, raster.descriptions) == (source.dtypes, source.descriptions)
            seen.add((chip_id, date))
    assert seen == {(chip_id, date) for chip_id in rows for date in (0, 1)}


def test_terratorch_of_one_modality(
    folder: Path, exports: Any, rows: dict[int, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Search as its generic dataset of one modality does: classes are folders, names hold a split's lines."""
    out = exports("terratorch")
    monkeypatch.chdir(out)
    for key in ("s2l2a", "s1rtc", "lc2l2", "dem"):
        data = yaml.safe_load((out / f"terratorch_{key}.yaml").read_text())["data"]["init_args"]
        assert len(data["means"]) == len(data["stds"]) == len(BANDS[key])
        if key == "s2l2a":
            assert [BANDS[key][place] for place in data["rgb_indices"]] == ["B04", "B03", "B02"]
        for name in ("train", "val", "test"):
            root = Path(data[f"{name}_data_root"])
            lines = set(Path(data[f"{name}_split"]).read_text().split())
            classes = sorted(path.name for path in root.iterdir())
            files = [path for path in root.rglob("*.*") if any(line in path.stem for line in lines)]
            assert len(files) == len(lines)
            for path in files[:: 1 if key == "dem" else 7]:
                chip_id, date = map(int, path.parent.name.removeprefix("chip").split("_"))
                split = "train" if name == "train" else "test"
                assert (label_of(rows[chip_id]), split) == (
                    classes.index(path.relative_to(root).parts[0]),
                    rows[chip_id]["split"],
                )
                own = with_rasterio(folder, chip_id, key)
                image = tifffile.imread(path)
                image = image if image.ndim == 3 else image[..., np.newaxis]
                np.testing.assert_array_equal(image, own[min(date, len(own) - 1)].transpose(1, 2, 0))


def test_terratorch_of_one_modality_needs_every_class(folder: Path, tmp_path: Path) -> None:
    request = ExportRequest(("dem",), splits=("none",))
    kinds = {row["lulc"] for row in read_rows(folder) if row["split"] == "none"}
    assert len(kinds) < len(CLASSES)
    export_release(folder, "terratorch", tmp_path / "out", request)
    assert sorted(path.name for path in (tmp_path / "out").glob("*.yaml")) == ["terratorch.yaml"]


def read_rows(folder: Path) -> list[dict[str, Any]]:
    table = read_tracker((folder / "gelos_chip_tracker.geojson").read_bytes())
    return list(table.to_dict("records"))


def test_terramesh(tmp_path: Path) -> None:
    """Read with zarr itself, as ``terramesh.py`` does: a mapping of the zip, consolidated, ``bands``."""
    from release_landscape import Land, working_folder

    from release import make_release
    from release.export.terramesh import MODALITIES

    names = list(MODALITIES["s2l2a"].bands)
    land = Land({1: 2, 5: 1}, sensors=("s2l2a", "s1rtc", "dem", "lulc"))
    before = BANDS["s2l2a"]
    BANDS["s2l2a"] = tuple(names)
    try:
        made = Path(make_release(working_folder(tmp_path / "made", land)).folder)
        export_release(made, "terramesh", tmp_path / "out", ExportRequest(shard_samples=2))
        opened = open_chips(tmp_path / "out")
        for shard in ("000001", "000002"):
            samples = {
                key: read_tar(tmp_path / "out" / "train" / one.name / f"majortom_shard_{shard}.tar")
                for key, one in MODALITIES.items()
            }
            assert len({tuple(one) for one in samples.values()}) == 1
            for name in samples["dem"]:
                chip_id, date = (int(part) for part in name.split(".")[0].split("_"))
                own = {key: one[name] for key, one in samples.items()}
                np.testing.assert_array_equal(own["s2l2a"][0], with_rasterio(made, chip_id, "s2l2a")[date])
                linear = with_rasterio(made, chip_id, "s1rtc")[date]
                decibels = 10 * np.log10(linear, where=linear > 0, out=np.full_like(linear, np.nan))
                np.testing.assert_allclose(own["s1rtc"][0], decibels, rtol=1e-5)
                heights = with_rasterio(made, chip_id, "dem")[0]
                np.testing.assert_array_equal(own["dem"][0, 0], np.kron(heights[0], np.ones((3, 3))))
                codes = np.array([0, 1, 2, 0, 3, 4])[with_rasterio(made, chip_id, "lulc")[0]]
                np.testing.assert_array_equal(own["lulc"][0], codes)
                sample = chip_arrays(opened, chip_id, list(own))
                for key, image in own.items():
                    ours = sample[f"image_{key}"]
                    np.testing.assert_array_equal(ours[min(date, len(ours) - 1)], image[0])
                assert sample["label"] == open_release(made).labels_of([chip_id])[0]
        [batch] = batches(opened, 9, ["s1rtc"], normalise=True)
        spread = (batch["image_s1rtc"].mean((0, 1, 3, 4)), batch["image_s1rtc"].std((0, 1, 3, 4)))
        np.testing.assert_allclose(spread, [[0, 0], [1, 1]], atol=0.01)  # decibels
    finally:
        BANDS["s2l2a"] = before


def read_tar(path: Path) -> dict[str, np.ndarray]:
    found = {}
    with tarfile.open(path) as archive:
        for entry in archive:
            with zipfile.ZipFile(io.BytesIO(archive.extractfile(entry).read())) as sample:
                store = zarr.storage.MemoryStore(
                    {
                        name: zarr.core.buffer.cpu.Buffer.from_bytes(sample.read(name))
                        for name in sample.namelist()
                    }
                )
                found[entry.name] = zarr.open_consolidated(store, mode="r", zarr_format=2)["bands"][...]
    return found


def test_what_terramesh_cannot_hold_is_one_clear_line(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match="S2L2A has the band B01, which this release has not"):
        export_release(folder, "terramesh", tmp_path / "out")
    with pytest.raises(ReleaseError, match="terramesh has no modality for lc2l2; it has s2l2a"):
        export_release(folder, "terramesh", tmp_path / "out", ExportRequest(("lc2l2",)))
    assert not (tmp_path / "out").exists()


def test_terratorch_needs_an_image(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match="terratorch: lulc is what a model is to find; name an image"):
        export_release(folder, "terratorch", tmp_path / "out", ExportRequest(("lulc",)))
    assert not (tmp_path / "out").exists()
