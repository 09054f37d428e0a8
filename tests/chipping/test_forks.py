"""Chips and cubes that were computed in a process are computed in its children, however those begin."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from chip_cubes import clean_arrays, cube_path, make_config, put_cube

from chipping.chip import chip
from cube.windows.grid import Bounds
from release import make_release

ROOT = Path(__file__).parents[2]
CHILDREN = """
import multiprocessing, sys
from cube import open_cube
from release import open_release, torch_dataset

release, cube, method = sys.argv[1:]
if method != "spawn" or __name__ == "__main__":  # a spawned child imports this file again
    opened, tree = open_release(release), open_cube(cube)

def means(index):
    global opened, tree
    if "opened" not in globals():
        opened, tree = open_release(release), open_cube(cube)
    chip, red = opened.chip(index)["s2l2a"], tree["s2l2a/B04"][0]
    return float(chip.astype("float64").mean()), float(red.mean())

class Chips:
    def __len__(self):
        return 4
    def __getitem__(self, index):
        return torch_dataset(opened)[index]["id"], *means(index)

if __name__ == "__main__":
    before = [means(index) for index in range(4)]  # the parent's threads run now
    if method == "torch":
        from torch.utils.data import DataLoader
        found = [(float(a), float(b)) for _, a, b in DataLoader(Chips(), batch_size=None, num_workers=2)]
    else:
        with multiprocessing.get_context(method).Pool(2) as pool:
            found = pool.map_async(means, range(4)).get(60)
    assert found == before, (found, before)
"""


@pytest.mark.parametrize(
    "method",
    ["fork", *(pytest.param(name, marks=pytest.mark.slow) for name in ("forkserver", "spawn")), "torch"],
)
def test_children_compute_what_their_parent_did(tmp_path: Path, method: str) -> None:
    if method == "torch" and importlib.util.find_spec("torch") is None:
        pytest.skip("torch is not installed")
    box = Bounds(480_000, 5_990_400, 480_960, 5_991_360)
    config = make_config(tmp_path, sensors=("s2l2a", "lulc"), classes=[5])
    put_cube(config, box, clean_arrays(config, box, np.random.default_rng(0)))
    chip(config)
    folder = make_release(config).folder
    script = tmp_path / "children.py"
    script.write_text(CHILDREN)
    cube = str(cube_path(config))
    done = subprocess.run(
        [sys.executable, script, folder, cube, method], capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
