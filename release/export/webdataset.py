"""WebDataset: tars of ``{id}.npz``, ``{id}.json`` and ``{id}.cls``, read one after the other."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from cube.run.storage import Folder

from .request import ExportPlan, Shard
from .tars import write_tar

TITLE = "WebDataset"
USE = """```python
import io
import json

import numpy as np
import webdataset

def decode(sample):
    with np.load(io.BytesIO(sample["npz"])) as pixels:
        return dict(pixels), json.loads(sample["json"])["label"]

shards = "{split}/{shard}"
for pixels, label in webdataset.WebDataset(shards, shardshuffle=False).map(decode):
    print({name: image.shape for name, image in pixels.items()}, label)
```

`release.torch_dataset` of this folder reads samples at random; `{split}/index.json` lists shards, with
their samples and bytes."""


def shard_files(plan: ExportPlan, shard: Shard) -> list[str]:
    """Name a shard's file; names are padded, and sort as they count."""
    del plan
    return [f"{shard.split}/{shard.split}-{shard.number:06}.tar"]


def write_shard(plan: ExportPlan, shard: Shard, out: Folder) -> None:
    """Write a tar."""
    with out.stream(shard_files(plan, shard)[0]) as file:
        write_tar(file, _entries(plan, shard))


def prepare(plan: ExportPlan, out: Folder) -> None:
    """Do nothing: a shard stands by itself."""


def _entries(plan: ExportPlan, shard: Shard) -> Iterator[tuple[str, bytes]]:
    for chip_id in shard.ids:
        facts = plan.facts(chip_id)
        yield f"{chip_id:06}.npz", to_npz(plan.pixels(chip_id))
        yield f"{chip_id:06}.json", json.dumps(facts).encode()
        yield f"{chip_id:06}.cls", str(facts["label"]).encode()


def to_npz(arrays: Mapping[str, Any]) -> bytes:
    """Write arrays as they are: a training loop has no time to inflate them."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def documents(plan: ExportPlan, out: Folder) -> dict[str, bytes]:
    """Return an index of each split: shards, their samples and bytes, as ``wids`` reads it."""
    found = {}
    for split, shards in plan.splits.items():
        index = {
            "__kind__": "wids-shard-index-v1",
            "wids_version": 1,
            "name": f"{plan.release.recipe.name}-{plan.release.recipe.version}-{split}",
            "shardlist": [
                {"url": name.partition("/")[2], "nsamples": len(shard.ids), "filesize": out.size(name)}
                for shard in shards
                for name in shard_files(plan, shard)
            ],
        }
        found[f"{split}/index.json"] = (json.dumps(index, indent=1) + "\n").encode()
    return found
