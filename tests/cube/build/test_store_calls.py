"""What a small cube costs an object store: calls over sockets, counted where they leave."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from cube.build.run import build_cubes
from cube.config.models import Config
from cube.run.storage import BucketFolder
from cube.run.thread_engine import ThreadEngine


def test_nothing_is_asked_of_an_object_store_twice(
    demo_config: Callable[..., Config],
    s3: BucketFolder,
    s3_calls: Counter[tuple[str, str]],
    tmp_path: Path,
) -> None:
    """Each object is put once, each band's metadata are read once whatever the number of its dates."""
    config = demo_config(
        tmp_path,
        "aoi.include_indices=[5]",
        f"directory.working={s3.url}/calls",
        f"directory.storage_options={json.dumps(dict(s3.options))}",
    )
    assert build_cubes(config, ThreadEngine(4)).exit_code == 0
    chunks = {key: n for (method, key), n in s3_calls.items() if method == "put_object" and "/c/" in key}
    assert len(chunks) > 50
    assert set(chunks.values()) == {1}
    metadata = [
        n
        for (method, key), n in s3_calls.items()
        if method == "get_object" and "/cubes/" in f"/{key}" and key.count("/") > 3 and "zarr.json" in key
    ]
    assert metadata
    assert max(metadata) <= 2  # one for blocks with an empty chunk, one for those without
    by_method: Counter[str] = Counter()
    for (method, _), n in s3_calls.items():
        by_method[method] += n
    assert by_method["head_object"] < 10
    assert by_method["list_objects_v2"] < 40
