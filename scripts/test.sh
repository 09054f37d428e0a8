#!/usr/bin/env bash
# Sets itself up on a machine with nothing but python3 (or PYTHON), and passes the tests: ruff, mypy, docs, pytest with
# coverage. No network. Arguments go to pytest, which then counts no coverage.
source "$(dirname "${BASH_SOURCE[0]}")/_setup.sh"
setup requirements-dev.lock

"$venv/bin/ruff" check .
"$venv/bin/ruff" format --check .
"$venv/bin/mypy"
"$venv/bin/sphinx-build" -q -W --keep-going docs docs/_build
if [ $# -eq 0 ]; then set -- --cov; fi
"$venv/bin/python" -m pytest "$@"
