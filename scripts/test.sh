#!/usr/bin/env bash
# Sets itself up on a machine with nothing but python3 (or PYTHON), and passes the tests: ruff, mypy, docs, pytest.
# No network. Arguments go to pytest: -m slow runs the tests that take long, --cov counts coverage, and fails under 90 %
# (it doubles the time).
source "$(dirname "${BASH_SOURCE[0]}")/_setup.sh"
setup requirements-dev.lock

"$venv/bin/ruff" check .
"$venv/bin/ruff" format --check .
"$venv/bin/mypy" & types=$!
rm -rf docs/_generated  # pages of modules that were renamed since
"$venv/bin/sphinx-build" -q -W --keep-going docs docs/_build
wait "$types"
"$venv/bin/python" -m pytest --numprocesses logical --dist worksteal "$@"
