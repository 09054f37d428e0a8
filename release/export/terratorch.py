"""TerraTorch's generic multi-modal data: a folder per sample, splits, labels, and a ready YAML.

A sample is a chip on a date, a folder ``chip{id}_{date}`` of a file per sensor and its label; what
has no date is in each of a chip's samples again. TerraTorch searches a folder for each sample and
sensor: in one folder of all samples that would take the square of their number. Labels are arrays
of no dimension, as its losses want them; from tables it makes them of one.
"""

from __future__ import annotations

import io
import json
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
from release.opening.faults import ReleaseError
from release.statistics import STATISTICS_NAME

from .request import ExportPlan, ExportRequest, Layer, Shard

TITLE = "TerraTorch"
CONFIG = "terratorch.yaml"
LABEL = "label.npy"
USE = f"""```bash
terratorch fit -c {CONFIG}  # in this folder
```

`{CONFIG}` trains a small network from nothing on all sensors with the finest pixel, band after band; put
a model of your own below `model`. A sample is a folder `chip{{id}}_{{date}}`, where `date` counts the dates of a
chip from 0; `{{split}}.txt` lists a split's samples. `lulc.tif`, where it is exported, is the mask for
segmentation: no input."""
_VAL_STAND_INS = ("val", "test", "train")
"""Which split is looked at while training: the first that there is."""
_TEST_STAND_INS = ("test", "val", "train")
_BATCH = 8
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
    return [f"{name}{kind}" for chip_id in shard.ids for name in _samples(plan, chip_id) for kind in kinds]


def prepare(plan: ExportPlan, out: Folder) -> None:
    """Do nothing: a file stands by itself."""


def write_shard(plan: ExportPlan, shard: Shard, out: Folder) -> None:
    """Write the GeoTIFFs and labels."""
    for chip_id in shard.ids:
        pixels, label = plan.pixels(chip_id), io.BytesIO()
        np.save(label, np.int64(plan.facts(chip_id)["label"]))
        for date, name in enumerate(_samples(plan, chip_id)):
            for layer in plan.layers:
                own = pixels[layer.key][min(date, len(layer.dates) - 1)]
                out.write(f"{name}{layer.key}.tif", _geotiff(plan, chip_id, layer, own))
            out.write(f"{name}{LABEL}", label.getvalue())


def documents(plan: ExportPlan, out: Folder) -> dict[str, bytes]:
    """Return split files, and the YAML of a training run."""
    del out
    found = {}
    for split, shards in plan.splits.items():
        names = [name for shard in shards for one in shard.ids for name in _samples(plan, one)]
        found[f"{split}.txt"] = "".join(f"{name}\n" for name in names).encode()
    found[CONFIG] = yaml.safe_dump(_config(plan), sort_keys=False, width=100).encode()
    return found


def _samples(plan: ExportPlan, chip_id: int) -> list[str]:
    """Name a chip's folders, as split files do."""
    dates = max(len(layer.dates) for layer in plan.layers)
    return [f"chip{chip_id:06}_{date}/" for date in range(dates)]


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
        "interleave": "band",
    }
    with MemoryFile() as memory:
        with memory.open(**profile) as raster:
            raster.write(values)
            raster.descriptions = layer.bands
        return bytes(memory.read())


def _inputs(plan: ExportPlan) -> list[Layer]:
    """Layers that stack to one image: of the finest pixel, and no classes."""
    images = [layer for layer in plan.layers if _is_image(plan.release, layer.key, layer.bands)]
    finest = max((layer.size_px for layer in images), default=0)
    return [layer for layer in images if layer.size_px == finest]


def _is_image(release: Release, key: str, bands: Sequence[str]) -> bool:
    kinds = {release.recipe.table[key].band(name).kind for name in bands}
    return kinds.isdisjoint({BandKind.CLASSES, BandKind.FLAGS})


def _config(plan: ExportPlan) -> dict[str, Any]:
    """Say how ``terratorch fit`` trains on the export, in its own words."""
    inputs, splits = _inputs(plan), plan.splits
    keys = [layer.key for layer in inputs]
    statistics = json.loads(plan.release.read_file(STATISTICS_NAME))["sensors"]
    splits_used = {
        "train_split": f"{'train' if 'train' in splits else next(iter(splits))}.txt",
        "val_split": f"{_first_of(_VAL_STAND_INS, splits)}.txt",
        "test_split": f"{_first_of(_TEST_STAND_INS, splits)}.txt",
    }
    data = {
        "task": "classification",
        "batch_size": _BATCH,
        "num_workers": 2,
        "num_classes": len(plan.classes),
        "class_names": plan.class_names,
        "modalities": keys,
        "rgb_modality": keys[0] if keys else None,
        "concat_bands": True,
        "no_data_replace": 0,
        "data_root": ".",
        "label_data_root": ".",
        "image_grep": {key: f"*{key}.tif" for key in keys},
        "label_grep": f"*{LABEL}",
        **splits_used,
        "means": {layer.key: _numbers(statistics, layer, "mean", 0.0) for layer in inputs},
        "stds": {layer.key: _numbers(statistics, layer, "std", 1.0) for layer in inputs},
    }
    model = {
        "model_factory": "TimmModelFactory",
        "model_args": {
            "backbone": "resnet18",
            "in_channels": sum(len(layer.bands) for layer in inputs),
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
        "data": {"class_path": "terratorch.datamodules.GenericMultiModalDataModule", "init_args": data},
        "model": {"class_path": "terratorch.tasks.ClassificationTask", "init_args": model},
        "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 1e-3}},
    }


def _first_of(names: tuple[str, ...], splits: dict[str, list[Shard]]) -> str:
    return next((name for name in names if name in splits), next(iter(splits)))


def _numbers(statistics: dict[str, Any], layer: Layer, which: str, otherwise: float) -> list[float]:
    """Return a figure per band; `otherwise` where there is none, or 0, which nothing divides by."""
    own = statistics[layer.key]["bands"]
    return [float(own[band][which] or otherwise) for band in layer.bands]
