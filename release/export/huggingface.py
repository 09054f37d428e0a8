"""Parquet with pixels, pictures and labels, whose schema says how Hugging Face types them."""

from __future__ import annotations

import functools
import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from cube.run.storage import Folder
from release.tracker import series_name

from .request import ExportPlan, Layer, Shard

TITLE = "Hugging Face"
USE = """```python
import datasets

chips = datasets.load_dataset("{folder}").with_format("numpy")
chips["{split}"][0]["{sensor}"].shape        # time, band, height, width
chips["{split}"].features["label"].names
```"""
_ROWS_PER_GROUP = 32
_FACTS = {
    "id": "int64",
    "lulc_code": "int64",
    "epsg": "int64",
    "lat": "float64",
    "lon": "float64",
    "cell": "string",
}
"""Of :meth:`release.export.request.ExportPlan.facts`, with Hugging Face's types."""
_ARROW = {"int64": pa.int64(), "float64": pa.float64(), "string": pa.string()}
_PICTURE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def shard_files(plan: ExportPlan, shard: Shard) -> list[str]:
    """Name a shard's file, as the hub counts them."""
    del plan
    return [f"data/{shard.split}-{shard.number:05}-of-{shard.of:05}.parquet"]


def prepare(plan: ExportPlan, out: Folder) -> None:
    """Do nothing: a shard stands by itself."""


def write_shard(plan: ExportPlan, shard: Shard, out: Folder) -> None:
    """Write a Parquet file, some rows at a time."""
    schema = _schema(plan)
    with (
        out.stream(shard_files(plan, shard)[0]) as file,
        pq.ParquetWriter(
            file, schema, compression="zstd", use_dictionary=False, write_statistics=False
        ) as writer,
    ):
        for start in range(0, len(shard.ids), _ROWS_PER_GROUP):
            writer.write_table(_rows(plan, shard.ids[start : start + _ROWS_PER_GROUP], schema))


def documents(plan: ExportPlan, out: Folder) -> dict[str, bytes]:
    """Return nothing: the card says it all."""
    del plan, out
    return {}


def front_matter(plan: ExportPlan) -> dict[str, Any]:
    """Return what the hub reads at the head of the card."""
    files = [{"split": split, "path": f"data/{split}-*.parquet"} for split in plan.splits]
    return {"configs": [{"config_name": "default", "default": True, "data_files": files}]}


def _pictures(plan: ExportPlan) -> dict[str, tuple[str, int]]:
    """Return a column per picture: its sensor and the number of its date."""
    rasters, series = plan.release.recipe.rasters, plan.release.recipe.series
    return {
        f"{layer.key}_png_{date + 1}": (layer.key, date)
        for layer in plan.layers
        if layer.key in series and rasters[layer.key].thumbnail_px
        for date in layer.dates
    }


def _schema(plan: ExportPlan) -> pa.Schema:
    fields = [*_picture_fields(plan), pa.field("label", pa.int64())]
    fields += [pa.field(name, _ARROW[kind]) for name, kind in _FACTS.items()]
    fields += [_pixel_field(layer) for layer in plan.layers]
    fields += [pa.field(f"{key}_dates", pa.list_(pa.string())) for key in _series(plan)]
    features: dict[str, Any] = {name: {"_type": "Image"} for name in _pictures(plan)}
    features["label"] = {"names": plan.class_names, "_type": "ClassLabel"}
    features |= {name: {"dtype": kind, "_type": "Value"} for name, kind in _FACTS.items()}
    for layer in plan.layers:
        features[layer.key] = {"shape": list(layer.shape), "dtype": layer.dtype, "_type": "Array4D"}
    for key in _series(plan):
        features[f"{key}_dates"] = {"feature": {"dtype": "string", "_type": "Value"}, "_type": "Sequence"}
    return pa.schema(fields, {"huggingface": json.dumps({"info": {"features": features}})})


def _picture_fields(plan: ExportPlan) -> list[pa.Field]:
    return [pa.field(name, _PICTURE) for name in _pictures(plan)]


def _series(plan: ExportPlan) -> list[str]:
    return [layer.key for layer in plan.layers if layer.key in plan.release.recipe.series]


def _pixel_field(layer: Layer) -> pa.Field:
    """Return lists of lists, marked as what ``datasets`` takes for an array of a fixed shape."""
    plain = pa.from_numpy_dtype(np.dtype(layer.dtype))
    nested = functools.reduce(lambda inner, _: pa.list_(inner), layer.shape, plain)
    marks = {
        "ARROW:extension:name": "datasets.features.features.Array4DExtensionType",
        "ARROW:extension:metadata": json.dumps((layer.shape, layer.dtype)),
    }
    return pa.field(layer.key, nested, metadata=marks)


def _rows(plan: ExportPlan, ids: tuple[int, ...], schema: pa.Schema) -> pa.Table:
    facts = [plan.facts(chip_id) for chip_id in ids]
    pixels = [plan.pixels(chip_id) for chip_id in ids]
    columns: dict[str, Any] = {
        name: [_picture(plan, one, key, date) for one in ids] for name, (key, date) in _pictures(plan).items()
    }
    columns |= {name: [one[name] for one in facts] for name in ("label", *_FACTS)}
    for layer in plan.layers:
        columns[layer.key] = _lists(np.stack([one[layer.key] for one in pixels]))
    columns |= {f"{key}_dates": [one["dates"][key] for one in facts] for key in _series(plan)}
    arrays = [
        columns[field.name]
        if isinstance(columns[field.name], pa.Array)
        else pa.array(columns[field.name], field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def _picture(plan: ExportPlan, chip_id: int, key: str, date: int) -> dict[str, Any]:
    day = plan.release.row(chip_id)[f"{key}_dates"].split(",")[date]
    name = series_name(key, chip_id, day, "png")
    return {"bytes": plan.release.read_file(name), "path": name}


def _lists(values: NDArray[Any]) -> pa.Array:
    """Return ``(row, time, band, height, width)`` as lists of lists, without a copy of a number."""
    nested = pa.array(values.reshape(-1))
    for size in values.shape[:0:-1]:
        ends = np.arange(0, len(nested) + 1, size, dtype=np.int32)
        nested = pa.ListArray.from_arrays(pa.array(ends), nested)
    return nested
