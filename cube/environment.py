"""What the environment may spoil: variables that were set for other installations."""

from __future__ import annotations

import os
import sys
from importlib import import_module
from pathlib import Path

from cube.certificates import ca_bundle
from cube.errors import ConfigError

_PROJ_VARIABLES = ("PROJ_DATA", "PROJ_LIB")
_ANY_ZONE = 32633
_ROOT = Path(__file__).parents[1]
_EXIT_USAGE = 2


def check_environment() -> None:
    """See that the variables that other installations set as well lead nowhere wrong here.

    Raises
    ------
    ConfigError
        Names the variable, what it holds, and what to type.
    """
    ca_bundle()
    for name in _PROJ_VARIABLES:
        if name in os.environ:  # rasterio takes the database of any PROJ, older ones too
            _check_proj(name)


def _check_proj(name: str) -> None:
    import rasterio
    from rasterio.crs import CRS
    from rasterio.errors import CRSError

    try:
        with rasterio.Env():  # what GDAL says goes to a log, not to stderr
            CRS.from_epsg(_ANY_ZONE).to_wkt()
    except CRSError:
        raise ConfigError(
            f"{name}={os.environ[name]}: the PROJ database there is missing, or another installation's; "
            f"type: unset {name}"
        ) from None


def run_entry_point(place: str) -> None:
    """Run the command at ``module:name``; a Python without the libraries ends with one line."""
    module, _, name = place.partition(":")
    try:
        getattr(import_module(module), name)()
    except ModuleNotFoundError as error:
        print(f"error: {missing_library(error)}", file=sys.stderr)
        sys.exit(_EXIT_USAGE)


def missing_library(error: ModuleNotFoundError) -> str:
    """Return what to type where a library is missing: most often, an environment was forgotten."""
    activate = _ROOT / ".venv" / "bin" / "activate"
    if activate.is_file() and Path(sys.prefix) != activate.parents[1]:
        mend = f"type: source {activate}"
    elif (_ROOT / "scripts" / "demo.sh").is_file():
        mend = f"type: bash {_ROOT / 'scripts' / 'demo.sh'}, which sets one up, then: source {activate}"
    else:
        mend = "type: pip install --force-reinstall gelos-lc"
    return f"{sys.executable} has no library {error.name}: it is not the program's environment; {mend}"
