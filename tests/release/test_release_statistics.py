"""``statistics.json``: what numpy counts over the rasters, of train alone, in GELOS's form, too."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from release_changes import reseal
from release_landscape import BANDS, LAND, SETTINGS, Land, working_folder

from cube.config.sensors import SENSORS
from cube.run.storage import DiskFolder
from release import make_release, verify
from release.statistics import Tally
from release.tracker import read_tracker

CHECKS = importlib.import_module("release.verify.release")


def values_of(folder: Path, key: str, ids: set[int] | None) -> np.ndarray:
    """Return ``(band, value)`` of a sensor's rasters, as GDAL reads them."""
    layers = []
    for path in sorted(folder.glob(f"{key}_*.tif")):
        if ids is None or int(path.stem.split("_")[1]) in ids:
            with rasterio.open(path) as raster:
                layers.append(raster.read().reshape(raster.count, -1))
    return np.concatenate(layers, axis=1)


def train_ids(folder: Path) -> set[int]:
    table = read_tracker((folder / "gelos_chip_tracker.geojson").read_bytes())
    return set(table.loc[table["split"] == "train", "id"])


def test_statistics_are_what_numpy_counts_over_train(folder: Path) -> None:
    told = json.loads((folder / "statistics.json").read_text())
    ids = train_ids(folder)
    assert 0 < len(ids) < len(list(folder.glob("dem_*.tif")))
    assert (told["split"], told["chips"]) == ("train", len(ids))
    assert list(told["sensors"]) == list(BANDS)
    for key in ("s2l2a", "s1rtc", "lc2l2", "dem"):
        values = values_of(folder, key, ids).astype(np.float64)
        assert list(told["sensors"][key]["bands"]) == list(BANDS[key])
        for own, one in zip(values, told["sensors"][key]["bands"].values(), strict=True):
            assert (one["pixels"], one["valid"], one["valid_share"]) == (own.size, own.size, 1.0)
            np.testing.assert_allclose([one["mean"], one["std"]], [own.mean(), own.std()], rtol=1e-7)
            assert (one["min"], one["max"]) == (own.min(), own.max())
            exact = np.percentile(own, [1, 2, 98, 99], method="inverted_cdf")
            close = 0 if key == "s2l2a" else 2e-3
            np.testing.assert_allclose(list(one["percentiles"].values()), exact, rtol=close)
            counts, _ = np.histogram(own, one["histogram"]["edges"])
            assert one["histogram"]["counts"] == counts.tolist()
            assert counts.sum() == own.size
            if key == "s1rtc":
                decibels = 10 * np.log10(own[own > 0])
                found = [one["decibels"]["mean"], one["decibels"]["std"]]
                np.testing.assert_allclose(found, [decibels.mean(), decibels.std()], rtol=1e-7)
    codes, counts = np.unique(values_of(folder, "lulc", ids), return_counts=True)
    assert told["sensors"]["lulc"]["bands"]["lulc"]["counts"] == {
        str(code): count for code, count in zip(codes.tolist(), counts.tolist(), strict=True)
    }


def test_means_and_stds_have_gelos_form(folder: Path) -> None:
    told = json.loads((folder / "statistics.json").read_text())
    assert list(told["MEANS"]) == list(told["STDS"]) == ["S2L2A", "S1RTC", "LC2L2", "DEM"]
    assert list(told["MEANS"]["S2L2A"]) == ["BLUE", "GREEN", "RED", "NIR_BROAD"]
    assert list(told["STDS"]["DEM"]) == ["DEM"]
    assert told["MEANS"]["S1RTC"]["VV"] == told["sensors"]["s1rtc"]["bands"]["vv"]["mean"]
    assert told["STDS"]["S2L2A"]["RED"] == told["sensors"]["s2l2a"]["bands"]["B04"]["std"]


def test_the_number_of_threads_changes_no_byte(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for threads in (1, 3):
        monkeypatch.setattr(DiskFolder, "threads", threads)
        config = working_folder(tmp_path / str(threads), LAND, SETTINGS)
        made = Path(make_release(config).folder)
        for name in ("statistics.json", "SHA256SUMS"):
            assert (made / name).read_bytes() == (folder / name).read_bytes()


def test_without_splits_all_chips_are_counted(tmp_path: Path) -> None:
    made = Path(make_release(working_folder(tmp_path, Land({1: 3, 2: 3}))).folder)
    told = json.loads((made / "statistics.json").read_text())
    assert (told["split"], told["chips"]) == (None, 6)
    assert told["MEANS"]["DEM"]["DEM"] == pytest.approx(values_of(made, "dem", None).mean(), rel=1e-6)


class _Spec:
    """A recipe of one sensor, as far as a tally asks."""

    def __init__(self, key: str, dtype: str, nodata: float | None) -> None:
        from release.recipe import RasterSpec

        band = SENSORS[key].bands[0].name
        self.table = SENSORS
        self.rasters = {key: RasterSpec((band,), dtype, nodata, 10, 4, (1.0,), None)}


@pytest.mark.parametrize(
    ("dtype", "nodata", "values"),
    [
        ("float32", np.nan, [np.nan, -3.5, -1e-8, -0.0, 0.0, 2e-8, 7.25, np.inf]),
        ("float32", -999.0, [-999, -998.5, 0.5, 1, 1, 1, 2, 3]),
        ("int16", -32768, [-32768, -32767, -1, 0, 0, 5, 32767, 32767]),
        ("uint16", 0, [0, 1, 1, 1, 65535, 7, 7, 8]),
        ("int32", None, [-(2**31), -5, 0, 3, 3, 3, 70000, 2**31 - 1]),
        ("float64", None, [1e-40, 1, 2, 3, 4, 5, 6, 1e30]),
    ],
)
def test_odd_values_are_counted_where_they_belong(
    dtype: str, nodata: float | None, values: list[Any]
) -> None:
    tally = Tally(_Spec("dem", dtype, nodata), None)
    raster = np.tile(np.array(values, dtype), 2).reshape(1, 4, 4)
    tally.add(tally.count({"dem": [raster]}))
    one = json.loads(tally.to_json())["sensors"]["dem"]["bands"]["elevation"]
    known = raster[np.isfinite(raster) & (raster != (np.inf if nodata is None else nodata))].astype(float)
    assert (one["pixels"], one["valid"]) == (16, known.size)
    np.testing.assert_allclose([one["min"], one["max"]], [known.min(), known.max()])
    np.testing.assert_allclose([one["mean"], one["std"]], [known.mean(), known.std()], rtol=1e-8)
    counts, _ = np.histogram(known, one["histogram"]["edges"])
    assert one["histogram"]["counts"] == counts.tolist()
    assert counts.sum() == known.size


def test_a_band_without_a_value_has_no_mean() -> None:
    tally = Tally(_Spec("dem", "float32", np.nan), None)
    tally.add(tally.count({"dem": [np.full((1, 4, 4), np.nan, "float32")]}))
    told = json.loads(tally.to_json())
    assert told["sensors"]["dem"]["bands"]["elevation"] == {"pixels": 16, "valid": 0, "valid_share": 0.0}
    assert told["MEANS"] == {}


def altered(copy: Path, change: Any) -> list[str]:
    path = copy / "statistics.json"
    told = json.loads(path.read_text())
    change(told)
    path.write_text(json.dumps(told))
    reseal(copy, recount=False)
    return [str(fault) for fault in verify(copy, workers=1)]


def test_verify_counts_again(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def shift(told: dict[str, Any]) -> None:
        told["sensors"]["lc2l2"]["bands"]["red"]["mean"] += 0.5

    expected = "statistics.json: is not what the chips give, at sensors.lc2l2.bands.red.mean"
    assert altered(copy, shift) == [expected]
    monkeypatch.setattr(CHECKS, "SAMPLE_CHIPS", 3)  # as of a release that is larger
    [fault] = altered(copy, lambda _: None)
    assert fault.startswith("statistics.json: gives lc2l2 red a mean of ")
    assert (
        altered(copy, lambda told: told["sensors"]["lc2l2"]["bands"]["red"].update(mean=0.3, max=0.1)) != []
    )


def test_verify_finds_statistics_of_another_split_or_none(copy: Path) -> None:
    [fault] = altered(copy, lambda told: told.update(split=None))
    assert "of all splits, the tracker has" in fault
    [fault] = altered(copy, lambda told: told.pop("sensors"))
    assert fault.startswith("statistics.json: ")
    (copy / "statistics.json").write_text("[]")
    reseal(copy, recount=False)
    [fault] = [str(one) for one in verify(copy, workers=1)]
    assert fault.startswith("statistics.json: cannot be read")


def test_a_sample_of_a_true_release_is_no_fault(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CHECKS, "SAMPLE_CHIPS", 4)
    assert verify(folder, workers=1) == []
