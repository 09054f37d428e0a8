"""TerraTorch's generic data, of one modality and of several: files, splits, and ready YAML.

A sample is a chip on a date; what has no date is in each of a chip's samples again. Its files lie
in a folder of its own within that of its class, and have its name in theirs. The multi-modal
dataset searches a folder for each sample and sensor: in one folder of all samples that would take
the square of their number. The dataset of one modality takes a class from the outer folder, numbers
classes by the order of those, and compares the names of files alone with split files; so folders
begin with the label, and there is a split file for each sensor. Labels for the first are arrays of
no dimension, as its losses want them; from tables it makes them of one.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from rasterio.io import MemoryFile
from rasterio.transform import from_origin

from cube.config.sensors import BandKind
from cube.run.storage import Folder
from release.loading.dataset import Release
from release.loading.stores import TERRATORCH_DATA as DATA
from release.loading.stores import terratorch_sample
from release.opening.faults import ReleaseError

from .request import ExportPlan, ExportRequest, Layer, Shard

TITLE = "TerraTorch"
CONFIG = "terratorch.yaml"
LABEL = "label.npy"
USE = f"""```bash
terratorch fit -c {CONFIG}  # in this folder
```

`{CONFIG}` trains a small network from nothing on all sensors with the finest pixel, band after band; put
a model of your own below `model`. `terratorch_{{sensor}}.yaml`, one for each image, does it by the generic data of
one modality; it is there where `train` has chips of every class, as TerraTorch counts those it finds. A sample
is a folder `{DATA}/{{label}}_{{class}}/chip{{id}}_{{date}}`, where `date` counts the dates of a chip from 0;
`{{split}}.txt` and `{{split}}_{{sensor}}.txt` list a split's samples. `lulc.tif`, where it is exported, is the mask
for segmentation: no input."""
_VAL_STAND_INS = ("val", "test", "train")
"""Which split is looked at while training: the first that there is."""
_TEST_STAND_INS = ("test", "val", "train")
_BATCH = 8
_UNCHECKED = {"check_stackability": False}
"""Else TerraTorch reads all of a split before its first batch, to see that sizes are equal."""
_NO_LABEL = -100
"""torch's own for cross entropy, which does not take the null that TerraTorch would give it."""


def adapt(release: Release, request: ExportRequest) -> ExportRequest:
    """Return the request without masks, where it names no bands: every band is a model's input.

    Raises
    ------
    ReleaseError
        If nothing that is asked for can be a model's input.
    """
    keys = request.sensors or release.sensors
    own = {key: release.recipe.image_bands(key) for key in keys if key in release.sensors}
    if own and not any(_is_image(release, key, bands) for key, bands in own.items()):
        raise ReleaseError(
            f"terratorch: {', '.join(own)} is what a model is to find; name an image by --sensors, too"
        )
    return replace(request, bands=own | dict(request.bands))


def shard_files(plan: ExportPlan, shard: Shard) -> list[str]:
    """Name a shard's files: of each date of each chip, every sensor's and the label."""
    kinds = [*(f"{layer.key}.tif" for layer in plan.layers), LABEL]
    return [
        f"{DATA}/{folder}{name}_{kind}"
        for chip_id in shard.ids
        for folder, name in _samples(plan, chip_id)
        for kind in kinds
    ]


def prepare(plan: ExportPlan, out: Folder) -> None:
    """Do nothing: a file stands by itself."""


def write_shard(plan: ExportPlan, shard: Shard, out: Folder) -> None:
    """Write the GeoTIFFs and labels."""
    for chip_id in shard.ids:
        pixels, label = plan.pixels(chip_id), io.BytesIO()
        np.save(label, np.int64(plan.facts(chip_id)["label"]))
        for date, (folder, name) in enumerate(_samples(plan, chip_id)):
            for layer in plan.layers:
                own = pixels[layer.key][min(date, len(layer.dates) - 1)]
                out.write(f"{DATA}/{folder}{name}_{layer.key}.tif", _geotiff(plan, chip_id, layer, own))
            out.write(f"{DATA}/{folder}{name}_{LABEL}", label.getvalue())


def documents(plan: ExportPlan, out: Folder) -> dict[str, bytes]:
    """Return split files, and the YAML of a training run."""
    del out
    found = {}
    for split, shards in plan.splits.items():
        samples = [one for shard in shards for chip_id in shard.ids for one in _samples(plan, chip_id)]
        found[f"{split}.txt"] = "".join(f"{folder}\n" for folder, _ in samples).encode()
        for layer in _images(plan):
            lines = (f"{name}_{layer.key}\n" for _, name in samples)
            found[_split_file(split, layer)] = "".join(lines).encode()
    configs = {CONFIG: _multi_modal(plan)}
    if _train(plan) in _whole_splits(plan):
        configs |= {f"terratorch_{layer.key}.yaml": _one_modality(plan, layer) for layer in _images(plan)}
    for name, config in configs.items():
        found[name] = yaml.safe_dump(config, sort_keys=False, width=100).encode()
    return found


def _samples(plan: ExportPlan, chip_id: int) -> list[tuple[str, str]]:
    """Return a chip's folders, below that of all, and how names of files in each begin."""
    [label], dates = plan.release.labels_of([chip_id]), max(len(layer.dates) for layer in plan.layers)
    return [terratorch_sample(label, plan.class_names[label], chip_id, date) for date in range(dates)]


def _split_file(split: str, layer: Layer) -> str:
    return f"{split}_{layer.key}.txt"


def _geotiff(plan: ExportPlan, chip_id: int, layer: Layer, values: NDArray[Any]) -> bytes:
    recipe, row = plan.release.recipe, plan.release.row(chip_id)
    spec, box = recipe.rasters[layer.key], plan.release.bounds(chip_id)
    profile = {
        "driver": "GTiff",
        "count": len(values),
        "height": layer.size_px,
        "width": layer.size_px,
        "dtype": layer.dtype,
        "crs": f"EPSG:{row['epsg']}",
        "transform": from_origin(box.left, box.top, spec.resolution, spec.resolution),
        "nodata": spec.nodata,
        "compress": "deflate",
        "interleave": "pixel",  # as tifffile, which TerraTorch reads single images with, is to give them
    }
    with MemoryFile() as memory:
        with memory.open(**profile) as raster:
            raster.write(values)
            raster.descriptions = layer.bands
        return bytes(memory.read())


def _images(plan: ExportPlan) -> list[Layer]:
    """Layers that can be a model's input: no classes."""
    return [layer for layer in plan.layers if _is_image(plan.release, layer.key, layer.bands)]


def _inputs(plan: ExportPlan) -> list[Layer]:
    """Layers that stack to one image: those of the finest pixel."""
    finest = max(layer.size_px for layer in _images(plan))
    return [layer for layer in _images(plan) if layer.size_px == finest]


def _is_image(release: Release, key: str, bands: Sequence[str]) -> bool:
    kinds = {release.recipe.table[key].band(name).kind for name in bands}
    return kinds.isdisjoint({BandKind.CLASSES, BandKind.FLAGS})


def _train(plan: ExportPlan) -> str:
    return "train" if "train" in plan.splits else next(iter(plan.splits))


def _whole_splits(plan: ExportPlan) -> list[str]:
    """Return the splits with chips of every class."""
    classes = set(range(len(plan.classes)))
    return [
        split
        for split, shards in plan.splits.items()
        if set(plan.release.labels_of([one for shard in shards for one in shard.ids])) == classes
    ]


def _multi_modal(plan: ExportPlan) -> dict[str, Any]:
    """Say how ``terratorch fit`` trains on several sensors, in its own words."""
    inputs, splits = _inputs(plan), list(plan.splits)
    keys = [layer.key for layer in inputs]
    data = {
        "task": "classification",
        "batch_size": _BATCH,
        "num_workers": 2,
        "num_classes": len(plan.classes),
        "class_names": plan.class_names,
        "modalities": keys,
        "rgb_modality": keys[0],
        "concat_bands": True,
        "no_data_replace": 0,
        "data_root": DATA,
        "label_data_root": DATA,
        "image_grep": {key: f"*_{key}.tif" for key in keys},
        "label_grep": f"*_{LABEL}",
        "train_split": f"{_train(plan)}.txt",
        "val_split": f"{_first_of(_VAL_STAND_INS, splits)}.txt",
        "test_split": f"{_first_of(_TEST_STAND_INS, splits)}.txt",
        "means": {layer.key: _numbers(plan, layer, "mean", 0.0) for layer in inputs},
        "stds": {layer.key: _numbers(plan, layer, "std", 1.0) for layer in inputs},
        **_UNCHECKED,
    }
    return _config(plan, "GenericMultiModalDataModule", data, sum(len(layer.bands) for layer in inputs))


def _one_modality(plan: ExportPlan, layer: Layer) -> dict[str, Any]:
    """Say how ``terratorch fit`` trains on one sensor, from splits that have every class."""
    splits = _whole_splits(plan)
    used = {
        "train": _train(plan),
        "val": _first_of(_VAL_STAND_INS, splits),
        "test": _first_of(_TEST_STAND_INS, splits),
    }
    colours = plan.release.recipe.table[layer.key].true_color
    shown = colours if set(colours) <= set(layer.bands) and colours else (layer.bands[0],) * 3
    data = {
        "batch_size": _BATCH,
        "num_workers": 2,
        "num_classes": len(plan.classes),
        **{f"{name}_data_root": DATA for name in used},
        **{f"{name}_split": _split_file(split, layer) for name, split in used.items()},
        "rgb_indices": [layer.bands.index(name) for name in shown],
        "means": _numbers(plan, layer, "mean", 0.0),
        "stds": _numbers(plan, layer, "std", 1.0),
        **_UNCHECKED,
    }
    return _config(plan, "GenericNonGeoClassificationDataModule", data, len(layer.bands))


def _config(plan: ExportPlan, module: str, data: dict[str, Any], channels: int) -> dict[str, Any]:
    model = {
        "model_factory": "TimmModelFactory",
        "model_args": {
            "backbone": "resnet18",
            "in_channels": channels,
            "num_classes": len(plan.classes),
            "pretrained": False,
        },
        "loss": "ce",
        "ignore_index": _NO_LABEL,
        "class_names": plan.class_names,
    }
    return {
        "seed_everything": 0,
        "trainer": {"max_epochs": 10, "accelerator": "auto", "devices": 1},
        "data": {"class_path": f"terratorch.datamodules.{module}", "init_args": data},
        "model": {"class_path": "terratorch.tasks.ClassificationTask", "init_args": model},
        "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 1e-3}},
    }


def _first_of(names: Sequence[str], splits: Sequence[str]) -> str:
    return next((name for name in names if name in splits), splits[0])


def _numbers(plan: ExportPlan, layer: Layer, which: str, otherwise: float) -> list[float]:
    """Return a figure per band; `otherwise` where there is none, or 0, which nothing divides by."""
    own = plan.release.statistics()["sensors"][layer.key]["bands"]
    return [float(own[band].get(which) or otherwise) for band in layer.bands]
