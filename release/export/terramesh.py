"""TerraMesh's layout: per split and modality, tars of Zarr samples that its ``terramesh.py`` reads.

Modalities have TerraMesh's band orders, units and pixel: DN of Sentinel-2, decibels of Sentinel-1,
metres, and its own numbers of land cover classes, all on the 10 m grid. A sample is a chip on a
date; heights and classes are in each of a chip's samples again.
"""

from __future__ import annotations

import functools
import io
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import zarr
from numcodecs import Blosc
from numpy.typing import NDArray
from zarr.storage import MemoryStore

from cube.run.storage import Folder
from release.loading.dataset import Release
from release.opening.faults import ReleaseError

from .request import ExportPlan, ExportRequest, Shard
from .tars import write_tar

TITLE = "TerraMesh's loaders"
USE = """```python
from terramesh import build_terramesh_dataset  # of the dataset TerraMesh on Hugging Face

data = build_terramesh_dataset(
    modalities={modalities},
    urls="{split}/[{joined}]/{shard}",
    batch_size=8,
    shuffle=False,
    partial=True,
)
for batch in data:
    print({name: batch[name].shape for name in {modalities}})
```

A sample is called `{id}_{date}`, where `date` counts the dates of a chip from 0."""


@dataclass(frozen=True)
class Modality:
    """What TerraMesh calls a sensor, and how it holds it."""

    name: str
    bands: tuple[str, ...]


MODALITIES = {
    "s2l2a": Modality(
        "S2L2A",
        ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12"),
    ),
    "s1rtc": Modality("S1RTC", ("vv", "vh")),
    "dem": Modality("DEM", ("elevation",)),
    "lulc": Modality("LULC", ("lulc",)),
}
CLASS_CODES = {0: 0, 1: 1, 2: 2, 4: 3, 5: 4, 7: 5, 8: 6, 9: 7, 10: 8, 11: 9}
"""TerraMesh's land cover classes (no data, water, trees, flooded vegetation, crops, built area,
bare ground, snow or ice, clouds, rangeland), by those of the release."""
_PIXEL_M = 10
_NANOSECONDS = 10**9
_COMPRESSOR = Blosc(cname="zstd", clevel=3, shuffle=Blosc.BITSHUFFLE)
_DATE_OF_ZIP = (1980, 1, 1, 0, 0, 0)


def adapt(release: Release, request: ExportRequest) -> ExportRequest:
    """Return the request with TerraMesh's sensors and bands.

    Raises
    ------
    ReleaseError
        If the release or the request has not what TerraMesh holds.
    """
    sensors = request.sensors or tuple(key for key in release.sensors if key in MODALITIES)
    if strange := [key for key in sensors if key not in MODALITIES]:
        raise ReleaseError(f"terramesh has no modality for {strange[0]}; it has {', '.join(MODALITIES)}")
    if request.bands:
        raise ReleaseError("terramesh has bands of its own; leave --bands out")
    for key in sensors:
        there = release.recipe.rasters[key].bands if key in release.sensors else ()
        if lacking := [band for band in MODALITIES[key].bands if there and band not in there]:
            raise ReleaseError(
                f"terramesh: {MODALITIES[key].name} has the band {lacking[0]}, which this release has not; "
                f"leave {key} out by --sensors"
            )
    if "s2l2a" in sensors and release.recipe.rasters["s2l2a"].dtype.startswith("float"):
        raise ReleaseError(
            "terramesh: S2L2A are DN, this release has reflectance; leave s2l2a out by --sensors"
        )
    return replace(request, sensors=sensors, bands={key: MODALITIES[key].bands for key in sensors})


def shard_files(plan: ExportPlan, shard: Shard) -> list[str]:
    """Name a shard's tars, one per modality, as TerraMesh counts and calls them."""
    return [
        f"{shard.split}/{MODALITIES[layer.key].name}/majortom_shard_{shard.number + 1:06}.tar"
        for layer in plan.layers
    ]


def prepare(plan: ExportPlan, out: Folder) -> None:
    """Do nothing: a shard stands by itself."""


def write_shard(plan: ExportPlan, shard: Shard, out: Folder) -> None:
    """Write a tar per modality, whose samples have the same names in the same order."""
    for layer, name in zip(plan.layers, shard_files(plan, shard), strict=True):
        if not out.exists(name):
            with out.stream(name) as file:
                write_tar(file, _entries(plan, shard, layer.key))


def documents(plan: ExportPlan, out: Folder) -> dict[str, bytes]:
    """Return the chips' labels, which the layout has no place for."""
    del out
    lines = ["sample,id,date,label,lulc_code,category,split\n"]
    for shard in plan.shards:
        for one in map(plan.facts, shard.ids):
            label = f"{one['label']},{one['lulc_code']},{one['category']},{shard.split}\n"
            lines += [
                f"{_sample(one['id'], date)},{one['id']},{date},{label}" for date in range(_dates(plan))
            ]
    return {"labels.csv": "".join(lines).encode()}


def example_names(plan: ExportPlan) -> dict[str, str]:
    """Return what stands in the example of the card."""
    names = [MODALITIES[layer.key].name for layer in plan.layers]
    last = plan.shards[0].of
    shard = f"{{000001..{last:06}}}" if last > 1 else "000001"
    return {"modalities": repr(names), "joined": ",".join(names), "shard": f"majortom_shard_{shard}.tar"}


def _dates(plan: ExportPlan) -> int:
    return max(len(layer.dates) for layer in plan.layers)


def _sample(chip_id: int, date: int) -> str:
    return f"{chip_id:06}_{date}"


def _entries(plan: ExportPlan, shard: Shard, key: str) -> Iterator[tuple[str, bytes]]:
    layer = plan.layer(key)
    factor, rest = divmod(plan.release.recipe.rasters[key].resolution, _PIXEL_M)
    if rest:
        raise ReleaseError(f"terramesh: {key} has pixels that are no multiple of {_PIXEL_M} m")
    for chip_id in shard.ids:
        pixels = plan.layer_pixels(chip_id, layer)
        facts = plan.facts(chip_id)
        for date in range(_dates(plan)):
            own = pixels[min(date, len(pixels) - 1)]
            image = _converted(key, own).repeat(factor, axis=1).repeat(factor, axis=2)
            yield f"{_sample(chip_id, date)}.zarr.zip", _to_zip(key, image, facts, date)


def _converted(key: str, values: NDArray[Any]) -> NDArray[Any]:
    if key == "s1rtc":
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(values > 0, 10 * np.log10(values), np.nan).astype(values.dtype)
    if key == "lulc":
        table = np.zeros(256, np.uint8)
        for code, own in CLASS_CODES.items():
            table[code] = own
        return table[values.astype(np.uint8)]
    return values


def _to_zip(key: str, image: NDArray[Any], facts: dict[str, Any], date: int) -> bytes:
    """Write a sample as a consolidated Zarr of format 2, zipped, as TerraMesh has them."""
    left, _, _, top = facts["bounds"]
    centres = (np.arange(image.shape[-1]) + 0.5) * _PIXEL_M
    own = facts["dates"].get(key)
    chunks = {
        "bands/0.0.0.0": _COMPRESSOR.encode(np.ascontiguousarray(image)),
        "band/0": np.array([name.upper() for name in MODALITIES[key].bands]).tobytes(),
        "time/0": np.int64(_time(own[date]) if own else 0).tobytes(),
        "x/0": (left + centres).tobytes(),
        "y/0": (top - centres).tobytes(),
        "center_lat/0": np.float64(facts["lat"]).tobytes(),
        "center_lon/0": np.float64(facts["lon"]).tobytes(),
        "crs/0": np.int64(facts["epsg"]).tobytes(),
    }
    files = _metadata(key, image.shape, str(image.dtype)) | chunks
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in sorted(files):
            archive.writestr(zipfile.ZipInfo(name, _DATE_OF_ZIP), files[name])
    return buffer.getvalue()


@functools.cache
def _metadata(key: str, shape: tuple[int, ...], dtype: str) -> dict[str, bytes]:
    """Return what a sample's Zarr says of its arrays, each of one chunk; always the same."""
    files: dict[str, Any] = {}
    group = zarr.open_group(MemoryStore(files), mode="w", zarr_format=2)
    bands, height, width = shape
    names = np.array([name.upper() for name in MODALITIES[key].bands])
    arrays: dict[str, tuple[tuple[int, ...], Any, tuple[str, ...]]] = {
        "bands": ((1, bands, height, width), dtype, ("time", "band", "y", "x")),
        "band": ((bands,), names.dtype, ("band",)),
        "time": ((1,), "int64", ("time",)),
        "x": ((width,), "float64", ("x",)),
        "y": ((height,), "float64", ("y",)),
        # Of one value, no scalars: terramesh.py looks at the first dimension of every array.
        **dict.fromkeys(("center_lat", "center_lon"), ((1,), "float64", ("time",))),
        "crs": ((1,), "int64", ("time",)),
    }
    for name, (sizes, kind, dims) in arrays.items():
        group.create_array(
            name,
            shape=sizes,
            dtype=kind,
            chunks=sizes,
            compressors=_COMPRESSOR if name == "bands" else None,
            fill_value="" if name == "band" else 0,
            attributes={"_ARRAY_DIMENSIONS": list(dims)},
        )
    zarr.consolidate_metadata(group.store, zarr_format=2)
    return {name: data.to_bytes() for name, data in files.items()}


def _time(day: str) -> int:
    when = datetime.strptime(day, "%Y%m%d").replace(tzinfo=UTC)
    return int(when.timestamp()) * _NANOSECONDS
