"""aoi_metadata.geojson: plain GeoJSON, true in a moment, for thousands of AOIs too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from shapely import box

from cube.config.aoi import Aoi
from cube.run.status import AOI_METADATA, AoiState, StatusBoard
from cube.run.storage import DiskFolder, open_folder


def test_rows_are_plain_geojson_and_those_of_other_areas_stay(tmp_path: Path) -> None:
    aois = [Aoi(n, box(n / 100, 0, n / 100 + 0.1, 0.1), name=f"Ł{n}") for n in range(5000)]
    board = StatusBoard(open_folder(tmp_path), aois)
    board.write()
    for index in range(20):
        board.update(index, status=AoiState.BUILT, reason="")
    board.close()
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


@pytest.mark.parametrize(("write_s", "most"), [(0.0, 1000), (2.0, 25)])
def test_the_file_takes_a_twentieth_of_the_time_at_most(
    write_s: float, most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a thousand changes, one a second, each is written at once while that costs nothing."""
    clock, writes = [0.0], [0]

    class SlowFolder(DiskFolder):
        def write(self, name: str, data: bytes) -> None:
            del name, data
            writes[0] += 1
            clock[0] += write_s

    monkeypatch.setattr("cube.run.status.time.monotonic", lambda: clock[0])
    board = StatusBoard(SlowFolder(str(tmp_path)), [Aoi(n, box(n, 0, n + 1, 1)) for n in range(10)])
    for change in range(1000):
        board.update(change % 10, reason=f"{change}")
        clock[0] += 1.0
    assert most * 0.8 <= writes[0] <= most
    assert writes[0] * write_s <= clock[0] / 20
