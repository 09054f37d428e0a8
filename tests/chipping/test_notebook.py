"""The notebook runs from top to bottom on a small cube."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from chip_cubes import clean_arrays, make_config, put_cube
from matplotlib import pyplot as plt

from cube.config.reading import load_config
from cube.windows.grid import Bounds

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "explore_cube.ipynb"
BOX = Bounds(480_000, 5_990_400, 481_920, 5_992_320)


def test_every_cell_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_config(tmp_path)
    text = (tmp_path / "config.yaml").read_text().replace("- B02\n", "- B08\n  - B02\n")
    (tmp_path / "config.yaml").write_text(text)
    config = load_config(tmp_path / "config.yaml")
    arrays = clean_arrays(config, BOX, np.random.default_rng(0))
    arrays["lulc"]["lulc"][:70] = 1
    put_cube(config, BOX, arrays)
    monkeypatch.setenv("GELOS_CONFIG", str(tmp_path / "config.yaml"))
    mpl.use("Agg")
    names: dict[str, Any] = {}
    for cell in json.loads(NOTEBOOK.read_text())["cells"]:
        if cell["cell_type"] == "code":
            assert not cell["outputs"]
            monkeypatch.setattr(plt, "show", lambda: None)
            exec("".join(cell["source"]), names)
    assert len(plt.get_fignums()) == 3
    for number in plt.get_fignums():
        plt.figure(number).savefig(tmp_path / f"{number}.png")
    plt.close("all")
