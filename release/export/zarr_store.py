"""One sharded Zarr of all chips: a group per sensor, ``(sample, time, band, y, x)``."""

from __future__ import annotations

import warnings
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec

from cube.run.storage import Folder
from release.loading.stores import STORE_NAME
from release.opening.table import to_parquet

from .request import ExportPlan, Layer, Shard, split_of

TITLE = "Zarr"
USE = """```python
import xarray as xr

chips = xr.open_datatree("chips.zarr", engine="zarr", chunks={})
image = chips["{sensor}"]["image"]  # sample, time, band, y, x; lazy
chips["label"], image.attrs["band_names"], chips.attrs["label_names"]
```

A chunk is a sample: `zarr.open_group("chips.zarr")["{sensor}/image"][n]` reads one."""
_COLUMNS = ("id", "label", "lulc_code", "epsg", "lat", "lon")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC).date()


def shard_files(plan: ExportPlan, shard: Shard) -> list[str]:
    """Name a row of shards, one per sensor."""
    return [f"{STORE_NAME}/{layer.key}/image/c/{shard.number}/0/0/0/0" for layer in plan.layers]


def write_shard(plan: ExportPlan, shard: Shard, out: Folder) -> None:
    """Write a row of shards."""
    root = zarr.open_group(out.zarr_store(STORE_NAME), mode="r+", zarr_format=3)
    own = {layer.key: np.empty((len(shard.ids), *layer.shape), layer.dtype) for layer in plan.layers}
    for number, chip_id in enumerate(shard.ids):
        for key, pixels in plan.pixels(chip_id).items():
            own[key][number] = pixels
    start = shard.number * _shard_samples(plan)
    for key, values in own.items():
        array: Any = root[f"{key}/image"]
        array[start : start + len(values)] = values


def prepare(plan: ExportPlan, out: Folder) -> None:
    """Write the store's metadata and its small arrays; pixels come later, in any order."""
    store = out.zarr_store(STORE_NAME)
    if (out / STORE_NAME).exists("zarr.json"):
        there = zarr.open_group(store, mode="r", zarr_format=3)
        if there.metadata.consolidated_metadata is not None:  # which comes last
            return
    root = zarr.open_group(store, mode="w", zarr_format=3)
    facts = [plan.facts(chip_id) for shard in plan.shards for chip_id in shard.ids]
    splits = list(dict.fromkeys(split_of(one) for one in facts))
    root.attrs.update(
        {
            "title": f"{plan.release.recipe.name} {plan.release.recipe.version}",
            "label_names": plan.class_names,
            "label_codes": list(plan.classes),
            "split_names": splits,
        }
    )
    columns = {name: [one[name] for one in facts] for name in _COLUMNS}
    columns["split"] = [splits.index(split_of(one)) for one in facts]
    for name, values in columns.items():
        _small(root, name, np.asarray(values), ("sample",))
    _small(root, "bounds", np.asarray([one["bounds"] for one in facts], float), ("sample", "side"))
    for layer in plan.layers:
        _make_group(plan, root.create_group(layer.key), layer, facts)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Consolidated metadata", zarr.errors.ZarrUserWarning)
        zarr.consolidate_metadata(store)


def documents(plan: ExportPlan, out: Folder) -> dict[str, bytes]:
    """Return the release's table, whose ``id`` are those of the store."""
    del out
    table = plan.release.table
    ids = [chip_id for shard in plan.shards for chip_id in shard.ids]
    chosen = table.loc[ids].reset_index(drop=True)
    return {"chips.parquet": to_parquet([chosen], chosen.total_bounds.tolist())}


def _make_group(plan: ExportPlan, group: zarr.Group, layer: Layer, facts: list[dict[str, Any]]) -> None:
    samples, spec = len(facts), plan.release.recipe.rasters[layer.key]
    image = group.create_array(
        "image",
        shape=(samples, *layer.shape),
        dtype=layer.dtype,
        chunks=(1, *layer.shape),
        shards=(_shard_samples(plan), *layer.shape),
        compressors=BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle"),
        fill_value=0,
        dimension_names=("sample", "time", "band", "y", "x"),
        config={"write_empty_chunks": True},
        attributes={"band_names": list(layer.bands), "resolution": spec.resolution},
    )
    if spec.nodata is not None:
        image.attrs["nodata"] = "nan" if np.isnan(spec.nodata) else spec.nodata
    if layer.key in plan.release.recipe.series:
        days = [[_days(text) for text in one["dates"][layer.key]] for one in facts]
        attributes = {"units": "days since 1970-01-01", "calendar": "proleptic_gregorian"}
        _small(group, "date", np.asarray(days, np.int32), ("sample", "time"), **attributes)


def _days(text: str) -> int:
    return (date(int(text[:4]), int(text[4:6]), int(text[6:])) - _EPOCH).days


def _small(
    group: zarr.Group, name: str, values: NDArray[Any], dims: tuple[str, ...], **attributes: Any
) -> None:
    array = group.create_array(
        name,
        shape=values.shape,
        dtype=values.dtype,
        chunks=values.shape,
        dimension_names=dims,
        attributes=attributes,
        config={"write_empty_chunks": True},
    )
    array[...] = values


def _shard_samples(plan: ExportPlan) -> int:
    """Return how many samples a shard holds; the last one's may be fewer."""
    return max(len(shard.ids) for shard in plan.shards)
