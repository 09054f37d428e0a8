#!/usr/bin/env bash
# Sets itself up on a machine with nothing but python3 (or PYTHON), and makes a release offline from the sample archive.
source "$(dirname "${BASH_SOURCE[0]}")/_setup.sh"
setup requirements.lock

"$venv/bin/python" -m cube.testing data/demo/archive
"$venv/bin/python" scripts/run.py -c configs/demo.yaml "$@"
"$venv/bin/python" scripts/verify.py data/demo/processed/demo

cube=$(ls -d data/demo/interim/cubes/*.zarr | head -n 1)
cat <<TEXT

release   data/demo/processed/demo
zip       data/demo/processed/gelos-lc-demo_demo.zip
report    data/demo/processed/demo/report.html
browser   data/demo/processed/demo/browse.html
cube      $cube

open the cube:
  $venv/bin/python -c 'from cube import open_cube; print(open_cube("$cube"))'
TEXT
