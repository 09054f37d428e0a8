# Sourced by demo.sh and test.sh: a virtual environment in the checkout, from a hashed lock file.
# PYTHON chooses the interpreter; a second call with an unchanged lock installs nothing.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

newest_python() {
    local name
    for name in python3 python3.14 python3.13 python3.12 python3.11; do
        if command -v "$name" >/dev/null && "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
            echo "$name"
            return
        fi
    done
    echo "error: found no Python of 3.11 or later; install one, or name it: PYTHON=/path/to/python3 bash $0" >&2
    return 1
}

# setup LOCK: leaves the environment's folder in $venv
setup() {
    local lock=$1 python stamp wanted
    python=${PYTHON:-$(newest_python)}
    venv=.venv
    if [ -n "${PYTHON:-}" ]; then
        venv=.venv-$("$python" -c 'import sys; print("{}.{}".format(*sys.version_info))')
    fi
    stamp=$venv/installed-$lock
    wanted=$(cat "$lock" pyproject.toml | cksum)
    if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
        echo "setting up $venv from $lock ..."
        [ -x "$venv/bin/python" ] || "$python" -m venv "$venv"
        "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes -r "$lock"
        "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
        echo "$wanted" >"$stamp"
    fi
}
