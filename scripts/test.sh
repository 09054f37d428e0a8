#!/usr/bin/env bash
# Sets itself up on a machine with nothing but python3 (or PYTHON), and passes the tests: ruff, mypy, pytest. No network.
source "$(dirname "${BASH_SOURCE[0]}")/_setup.sh"
setup requirements-dev.lock

"$venv/bin/ruff" check .
"$venv/bin/ruff" format --check .
"$venv/bin/mypy"
"$venv/bin/python" -m pytest "$@"
