"""Real Sentinel-1 and Sentinel-2 pixels, from five places of the Earth, become chips."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import rasterio
from PIL import Image

from chipping.chip import chip
from cube.build.run import build_cubes
from cube.config.reading import load_config
from cube.run.layout import Layout
from cube.run.thread_engine import ThreadEngine


def test_every_site_gives_chips_that_show_something(shared: Path, tmp_path: Path) -> None:
    text = {
        "dataset": {"version": "real"},
        "aoi": {"path": str(shared / "real-archive" / "map_real.geojson"), "extent": "aoi"},
        "directory": {"working": str(tmp_path / "w"), "output": str(tmp_path / "o")},
        "catalog": {"url": str(shared / "real-archive" / "items.json"), "sign": "none"},
        "s2l2a": {"time_ranges": ["2017-01-01/2023-12-31"]},
        "s1rtc": {"delta_days": 30},
        "dem": {"resolution": 10},
        "lulc": {"year": "2017-01-02/2023-12-31"},
        "chips": {
            "sample_size": 320,
            "chip_size": 320,
            "min_purity": 0.9,
            "classes": [1, 2, 5, 7, 8, 9, 11],
            "forbidden": [0, 4, 10],
        },
    }
    # The archive has no scene classification: every band but SCL.
    text["s2l2a"]["bands"] = [f"B{n:02}" for n in (*range(1, 10), 11, 12)] + ["B8A"]  # type: ignore[index]
    (tmp_path / "c.yaml").write_text(json.dumps(text))
    config = load_config(tmp_path / "c.yaml")
    assert build_cubes(config, ThreadEngine()).exit_code == 0
    summary = chip(config)
    table = pd.read_csv(Layout.of(config).root.path / "chip_metadata.csv", dtype=str)
    chosen = table[table["status"] == "success"]
    assert set(chosen["aoi_index"]) == set("01234")
    assert len(chosen) == summary.chips > 50
    assert {"1", "2", "5", "9", "11"} <= set(chosen["lulc"])
    for row in chosen.itertuples():
        folder = Layout.of(config).chips.path / row.cell
        with rasterio.open(folder / "lulc.tif") as source:
            assert (source.read(1) == int(row.lulc)).mean() >= 0.9
        with rasterio.open(folder / f"s2l2a_{row.s2l2a_dates}.tif") as source:
            values = source.read()
            assert values.shape == (12, 32, 32)
            assert source.crs.to_epsg() == int(row.epsg)
            assert (values > 0).all()
        for sensor, dates in (("s2l2a", row.s2l2a_dates), ("s1rtc", row.s1rtc_dates)):
            with Image.open(folder / f"{sensor}_{dates}.png") as picture:
                assert np.asarray(picture.convert("RGB")).std() > 0
