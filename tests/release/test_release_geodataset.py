"""A release as torchgeo takes it; without torchgeo, what is drawn."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from matplotlib import pyplot as plt

from release import ReleaseError, chip_arrays, open_release, torchgeo_dataset
from release.loading.geodataset import PlottedChips
from release.loading.pictures import to_pictures
from release.loading.samples import open_reader

KEYS = ("s2l2a", "s1rtc", "dem", "lulc")
BANDS = {"s2l2a": ("B02", "B03", "B04")}


def test_true_colour_is_red_green_blue_and_stretched() -> None:
    image = np.arange(3 * 200, dtype="uint16").reshape(1, 3, 10, 20)  # blue, green, red
    [picture] = to_pictures("s2l2a", image, BANDS["s2l2a"])
    assert picture.shape == (10, 20, 3)
    assert picture[0, 0].tolist() == [172, 83, 0]  # of 12 to 587, where 2 and 98 % of all lie
    assert (picture[-1, -1, 0], picture[-1, -1, 1]) == (255, 172)
    grey = to_pictures("s1rtc", np.array([[[[np.nan, 1.0, 3.0]], [[9, 9, 9]]]]), ("vv", "vh"))
    np.testing.assert_array_equal(grey[0, 0, :, 0] > 0, [False, False, True])
    codes = to_pictures("lulc", np.array([[[[1, 2, 0]]]], "int8"), ("lulc",))
    assert codes[0, 0].tolist() == [[0x41, 0x9B, 0xDF], [0x39, 0x7D, 0x49], [0, 0, 0]]


@pytest.mark.parametrize("normalise", [True, False])
def test_a_sample_is_drawn_by_sensor_and_date(folder: Path, tmp_path: Path, normalise: bool) -> None:
    read = open_reader(folder, KEYS, BANDS, normalise=normalise)
    data = PlottedChips(read, read.chips.ids_of("train"))
    sample = read(3)
    figure = data.plot(sample | {"prediction": 1}, suptitle="Chip 3:")
    label = data.classes[sample["label"]]
    assert figure.get_suptitle() == f"Chip 3: {label} (predicted: Trees)"
    shown = [axis for axis in figure.axes if axis.images]
    assert [axis.get_title() for axis in shown] == ["s2l2a 1", "s2l2a 2", "s1rtc 1", "s1rtc 2", "dem", "lulc"]
    assert not data.plot(sample, show_titles=False).get_suptitle()
    figure.savefig(tmp_path / "sample.png")
    plt.close("all")


def test_torchgeo_is_asked_for_only_when_it_is_needed(folder: Path) -> None:
    try:
        import torchgeo  # noqa: F401
    except ImportError:
        with pytest.raises(ReleaseError, match="torchgeo_dataset needs torchgeo: pip install torchgeo"):
            torchgeo_dataset(folder)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # torchgeo's own imports warn
def test_torchgeo_takes_it(folder: Path, archive: Path) -> None:
    torch = pytest.importorskip("torch")
    datasets = pytest.importorskip("torchgeo.datasets")
    for path in (folder, archive):
        data = torchgeo_dataset(path, KEYS, BANDS, "train", transforms=lambda sample: {**sample, "seen": 1})
        assert isinstance(data, datasets.NonGeoDataset)
        assert f"size: {len(open_release(folder).ids_of('train'))}" in str(data)
        sample = data[1]
        expected = chip_arrays(open_release(folder), int(sample["id"]), KEYS, BANDS)
        np.testing.assert_array_equal(sample["image_s2l2a"].numpy(), expected["image_s2l2a"])
        assert sample["seen"] == 1
        assert data.plot(sample).axes
    plt.close("all")
    plain = torchgeo_dataset(folder, ["dem"], split="train")
    assert isinstance(pickle.loads(pickle.dumps(plain)), datasets.NonGeoDataset)
    for context in ("fork", "spawn"):
        loader = torch.utils.data.DataLoader(
            plain, batch_size=2, num_workers=1, multiprocessing_context=context
        )
        found = torch.cat([batch["id"] for batch in loader]).tolist()
        assert found == open_release(folder).ids_of("train")
