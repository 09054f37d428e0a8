"""aoi_metadata.geojson: plain GeoJSON at every change, for thousands of AOIs too."""

from __future__ import annotations

import json
import time
from pathlib import Path

from shapely import box

from cube.config.aoi import Aoi
from cube.run.status import AOI_METADATA, AoiState, StatusBoard
from cube.run.storage import open_folder


def test_a_change_among_five_thousand_rows_is_on_disk_in_a_moment(tmp_path: Path) -> None:
    aois = [Aoi(n, box(n / 100, 0, n / 100 + 0.1, 0.1), name=f"Ł{n}") for n in range(5000)]
    board = StatusBoard(open_folder(tmp_path), aois)
    board.write()
    began = time.monotonic()
    for index in range(20):
        board.update(index, status=AoiState.BUILT, reason="")
    assert time.monotonic() - began < 6  # 12 when every row was made anew
    text = (tmp_path / AOI_METADATA).read_text()
    document = json.loads(text)
    assert text == json.dumps(document, separators=(",", ":"))
    rows = [feature["properties"] for feature in document["features"]]
    assert [row["aoi_index"] for row in rows] == list(range(5000))
    assert [row["status"] for row in rows] == ["built"] * 20 + ["pending"] * 4980
    again = StatusBoard(open_folder(tmp_path), aois[:1])
    assert again.rows == board.rows
    again.write()
    assert (tmp_path / AOI_METADATA).read_text() == text
