"""Batches for training: normalised by the statistics, split as the release is, weighed by class."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from test_release_dataset import with_rasterio

from release import ReleaseError, batches, datamodule, open_release, torch_dataset
from release.export.request import ExportRequest
from release.export.run import export_release
from release.loading.datamodule import ChipSplits
from release.loading.normalising import BandScale, balanced_weights, make_normaliser
from release.loading.samples import open_reader

KEYS = ("s2l2a", "s1rtc", "lulc")
FAKE_LIGHTNING = "class LightningDataModule:\n    pass\n"


@pytest.fixture(scope="module")
def export(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("training") / "out"
    export_release(folder, "zarr", out, ExportRequest(shard_samples=8))
    return out


def of_train(folder: Path, key: str) -> np.ndarray:
    """``(band, value)``, read file by file."""
    table = pd.read_csv(folder / "gelos_chip_tracker.csv", keep_default_na=False)
    images = [with_rasterio(folder, chip_id, key) for chip_id in table.id[table.split == "train"]]
    return np.stack(images).transpose(2, 0, 1, 3, 4).reshape(images[0].shape[1], -1).astype(float)


def test_batches_have_the_mean_and_spread_of_train(folder: Path, archive: Path, export: Path) -> None:
    for path in (folder, archive, export):
        found = list(batches(path, 5, KEYS, split="train", normalise=True))
        assert {one["image_lulc"].dtype for one in found} == {np.dtype("uint8")}  # codes stay
        for key in ("s2l2a", "s1rtc"):
            images = np.concatenate([one[f"image_{key}"] for one in found])
            assert images.dtype == np.float32
            for band, values in enumerate(of_train(folder, key)):
                own = images[:, :, band]
                nodata = 0 if key == "s2l2a" else np.nan
                valid = np.isfinite(values) & (values != nodata)
                expected = (values - values[valid].mean()) / values[valid].std()
                np.testing.assert_allclose(
                    np.sort(own.ravel()), np.sort(np.where(valid, expected, 0)), atol=2e-4
                )


def test_pixels_without_data_become_the_mean() -> None:
    scale = BandScale(np.float32([[[2]], [[10]]]), np.float32([[[2]], [[5]]]), 0)
    image = np.array([[[0, 4]], [[20, 0]]], "uint16")
    np.testing.assert_array_equal(scale.apply(image), [[[0, 1]], [[2, 0]]])
    floats = np.array([[[np.nan, 4]], [[np.inf, 15]]], "float32")
    for nodata in (np.nan, None):
        scale = BandScale(scale.mean, scale.std, nodata)
        np.testing.assert_array_equal(scale.apply(floats), [[[0, 1]], [[0, 1]]])


def test_what_cannot_be_normalised_is_one_clear_line() -> None:
    statistics = {"sensors": {"s2l2a": {"bands": {"B02": {"mean": 1, "std": 0}, "SCL": {"counts": {}}}}}}
    make_normaliser(statistics, {"s2l2a": ["B02"]}, {"s2l2a": 0})
    assert not make_normaliser(statistics, {"s2l2a": ["SCL"]}, {"s2l2a": 0}).scales
    for bands in (["B02", "SCL"], ["B02", "B99"]):
        with pytest.raises(ReleaseError, match=rf"s2l2a: statistics\.json has no mean of {bands[1]}"):
            make_normaliser(statistics, {"s2l2a": bands}, {"s2l2a": 0})


def test_statistics_of_strangers_are_one_clear_line(copy: Path) -> None:
    for text in (
        b"",
        b"{}",
        b"[]",
        b'{"sensors": []}',
        b'{"sensors": {"dem": 1}}',
        b'{"sensors": {"dem": {"bands": []}}}',
    ):
        (copy / "statistics.json").write_bytes(text)
        with pytest.raises(ReleaseError, match=r"statistics\.json cannot be read"):
            open_reader(copy, ["dem"], None, normalise=True)


def test_classes_count_the_same(folder: Path, export: Path) -> None:
    weights = balanced_weights([0, 0, 0, 2], 3)
    np.testing.assert_allclose(weights, [2 / 3, 0, 2])
    for path in (folder, export):
        data = ChipSplits(open_reader(path, ["dem"], None, normalise=True), 4, 0, {})
        assert data.class_names == ["Water", "Trees", "Crops"]
        table = pd.read_csv(folder / "gelos_chip_tracker.csv", keep_default_na=False)
        counts = table[table.split == "train"].groupby("lulc").size().reindex([1, 2, 5], fill_value=0)
        share = data.class_weights * counts.to_numpy()
        np.testing.assert_allclose(share[counts > 0], counts.sum() / (counts > 0).sum(), rtol=1e-6)
        for split in ("train", "test"):
            assert sorted(data.ids_of(split)) == sorted(table.id[table.split == split])
        assert data.ids_of("val") == []


def test_without_splits_all_chips_are_for_training() -> None:
    class Chips:
        splits, class_names = (), ["Water"]

        def ids_of(self, split: str | None) -> list[int]:
            assert split is None
            return [0, 1]

    class Reader:
        chips = Chips()

    data = ChipSplits(Reader(), 1, 0, {})
    assert (data.ids_of("train"), data.ids_of("val"), data.ids_of("test")) == ([0, 1], [], [])


def test_a_data_module_is_of_the_lightning_that_is_in_use(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [one for one in sys.modules if one.split(".")[0] in {"lightning", "pytorch_lightning"}]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ReleaseError, match=r"datamodule needs Lightning: pip install lightning"):
        datamodule(folder)
    monkeypatch.undo()
    for name in ("pytorch_lightning", "lightning/pytorch"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "__init__.py").write_text(FAKE_LIGHTNING)
    (tmp_path / "lightning" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    made: list[Any] = []
    for name in ("lightning.pytorch", "pytorch_lightning"):
        for one in [one for one in sys.modules if one.split(".")[0] in {"lightning", "pytorch_lightning"}]:
            monkeypatch.delitem(sys.modules, one)
        base = importlib.import_module(name).LightningDataModule
        made.append(datamodule(folder))
        assert isinstance(made[-1], base)
    both = (sys.modules["pytorch_lightning"], importlib.import_module("lightning.pytorch"))
    assert isinstance(datamodule(folder), tuple(one.LightningDataModule for one in both))
    for name in [one for one in sys.modules if one.split(".")[0] in {"lightning", "pytorch_lightning"}]:
        monkeypatch.delitem(sys.modules, name)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # Lightning gives advice as warnings
@pytest.mark.parametrize("name", ["lightning.pytorch", "pytorch_lightning"])
def test_lightning_trains_on_it(folder: Path, export: Path, name: str) -> None:
    torch = pytest.importorskip("torch")
    lightning = pytest.importorskip(name)

    class Model(lightning.LightningModule):
        def __init__(self, weights: np.ndarray) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(2 * 6, len(weights))
            self.register_buffer("weights", torch.from_numpy(weights))
            self.seen: dict[str, list[int]] = {"train": [], "test": []}

        def step(self, batch: dict[str, Any], split: str) -> Any:
            self.seen[split] += batch["id"].tolist()
            means = [batch[f"image_{key}"].mean((-1, -2)).flatten(1) for key in ("s2l2a", "s1rtc")]
            scores = self.layer(torch.cat(means, 1))
            loss = torch.nn.functional.cross_entropy(scores, batch["label"], self.weights)
            self.log(f"{split}_loss", loss)
            return loss

        def training_step(self, batch: dict[str, Any], index: int) -> Any:
            del index
            return self.step(batch, "train")

        def test_step(self, batch: dict[str, Any], index: int) -> Any:
            del index
            return self.step(batch, "test")

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters(), 0.05)

    for path, workers in ((folder, 0), (export, 2)):
        data = datamodule(path, ["s2l2a", "s1rtc"], batch_size=4, num_workers=workers)
        model = Model(data.class_weights)
        trainer = lightning.Trainer(
            max_epochs=2,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            accelerator="cpu",
        )
        trainer.fit(model, datamodule=data)
        trainer.test(model, datamodule=data)
        opened = open_release(folder)
        assert sorted(model.seen["train"]) == sorted(opened.ids_of("train") * 2)
        assert sorted(model.seen["test"]) == sorted(opened.ids_of("test"))
        batch = next(iter(data.predict_dataloader()))
        assert batch["id"].tolist() == [0, 1, 2, 3]
        assert batch["image_s2l2a"].dtype == torch.float32
        one = torch_dataset(path, ["s2l2a"], normalise=True)
        place = list(one.ids).index(2)
        torch.testing.assert_close(batch["image_s2l2a"][2], one[place]["image"])
