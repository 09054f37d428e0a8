"""What tests of builds in an object store look at."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import s3fs


@pytest.fixture
def s3_calls(monkeypatch: pytest.MonkeyPatch) -> Counter[tuple[str, str]]:
    """Return how often an object store is called, by method and key or prefix."""
    calls: Counter[tuple[str, str]] = Counter()
    call = s3fs.S3FileSystem._call_s3

    async def counted(self: Any, method: str, *args: Any, **kwargs: Any) -> Any:
        calls[method, str(kwargs.get("Key", kwargs.get("Prefix", "")))] += 1
        return await call(self, method, *args, **kwargs)

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", counted)
    return calls
