"""A linear model learns the demo's classes: by the page and the notebook, from areas that it has not seen."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib import pyplot as plt

from chipping.chip import chip
from cube.build.run import build_cubes
from cube.config.models import Config
from cube.run.layout import Layout
from cube.run.thread_engine import ThreadEngine
from release import ExportRequest, export_release, make_release

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "notebooks" / "train_on_it.ipynb"
PAGE = ROOT / "docs" / "train.md"


def run_cells(release: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """Run the notebook's cells; yield the names that they leave, and close its figures."""
    monkeypatch.setenv("GELOS_RELEASE", str(release))
    monkeypatch.setattr(plt, "show", lambda: None)
    mpl.use("Agg")
    names: dict[str, Any] = {}
    for cell in json.loads(NOTEBOOK.read_text())["cells"]:
        if cell["cell_type"] == "code":
            assert not cell["outputs"]
            exec("".join(cell["source"]), names)
    yield names
    plt.close("all")


def test_every_cell_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [names] = run_cells(folder, monkeypatch)
    table = pd.read_csv(folder / "gelos_chip_tracker.csv")
    assert sorted(names["ids"].tolist()) == sorted(table.id)
    # No area tells of itself: what it is told from is least squares on the others.
    one = names["area"][0]
    inside = names["area"] == one
    targets = np.eye(3)[names["label"]]
    penalty = np.eye(names["features"].shape[1])
    extended = (
        np.vstack([names["features"][~inside], penalty]),
        np.vstack([targets[~inside], 0 * penalty[:, :3]]),
    )
    weights = np.linalg.lstsq(*extended, rcond=None)[0]
    np.testing.assert_array_equal(names["found"][inside], (names["features"][inside] @ weights).argmax(1))
    assert names["confusion"].sum() == len(table)


def test_the_demo_is_found_from_wherever_it_is_started(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = "".join(json.loads(NOTEBOOK.read_text())["cells"][1]["source"])
    (tmp_path / "data" / "demo" / "processed").mkdir(parents=True)
    (tmp_path / "data" / "demo" / "processed" / "demo").symlink_to(folder)
    (tmp_path / "notebooks" / "mine").mkdir(parents=True)
    for start in (tmp_path, tmp_path / "notebooks", tmp_path / "notebooks" / "mine"):
        monkeypatch.chdir(start)
        names: dict[str, Any] = {}
        exec(first, names)
        assert len(names["release"]) == len(pd.read_csv(folder / "gelos_chip_tracker.csv"))


@pytest.mark.slow
def test_the_demos_classes_are_learnt(
    demo: Config, demo_config: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = demo_config(tmp_path / "data" / "demo", "directory.zip_output=false")
    shutil.copytree(Layout.of(demo).working.path, Layout.of(config).working.path)
    build_cubes(config, ThreadEngine())  # nothing is left to build
    chip(config)
    made = Path(make_release(config).folder)
    [names] = run_cells(made, monkeypatch)
    assert names["accuracy"] >= 0.95
    assert names["chance"] < 0.4
    assert (names["confusion"].diagonal() / names["confusion"].sum(axis=1)).min() >= 0.8
    export_release(made, "zarr", made.parent / "demo-zarr", ExportRequest(("s2l2a",)))
    [block] = re.findall(r"^```python\n(import numpy(?:.*\n)*?)^```$", PAGE.read_text(), re.MULTILINE)[:1]
    done = subprocess.run(
        [sys.executable, "-c", block],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    said = re.search(r"accuracy (\d\.\d+)", done.stdout)
    assert said is not None
    assert float(said[1]) == pytest.approx(names["accuracy"], abs=1e-3)
