"""The machine: Python, libraries, PROJ and its data, certificates, disks."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, requires, version

from packaging.requirements import Requirement

from cube.certificates import CA_VARIABLES, ca_bundle
from cube.environment import check_environment
from cube.errors import ConfigError
from cube.run.storage import Folder

from .check import Check

_OLDEST_GDAL = (3, 9)
"""Of rasterio's oldest wheels that are tried; earlier ones read ranges of broken bodies as good."""
_OLDEST_PYTHON = (3, 11)
_ROOM = 2 << 30
"""Bytes: two cubes of 30 km, or some thousand chips. What a whole run takes, ``plan`` says."""


def check_machine() -> Iterator[Check]:
    """Look at what is installed."""
    python = platform.python_version()
    yield Check(
        "Python",
        sys.version_info >= _OLDEST_PYTHON,
        f"{python} ({sys.executable})",
        "" if sys.version_info >= _OLDEST_PYTHON else "install Python 3.11 or later",
    )
    yield _check_libraries()
    yield _check_gdal()
    yield _check_variables()


def _check_libraries() -> Check:
    wrong = []
    for requirement in map(Requirement, requires("gelos-lc") or ()):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            found = ""
        if not found or not requirement.specifier.contains(found, prereleases=True):
            wrong.append(
                f"{requirement.name} {found or 'is missing'}, expected {requirement.specifier or 'any'}"
            )
    if wrong:
        return Check("libraries", ok=False, found=", ".join(wrong), mend="pip install -r requirements.lock")
    return Check("libraries", ok=True, found=f"gelos-lc {version('gelos-lc')} has what it needs")


def _check_gdal() -> Check:
    import rasterio

    found = rasterio.__gdal_version__
    if tuple(int(part) for part in found.split(".")[:2]) >= _OLDEST_GDAL:
        return Check("GDAL", ok=True, found=f"{found} (rasterio {rasterio.__version__})")
    oldest = ".".join(map(str, _OLDEST_GDAL))
    mend = "pip install --force-reinstall --only-binary :all: 'rasterio>=1.4.3'"
    return Check("GDAL", ok=False, found=f"{found}, expected {oldest} or later", mend=mend)


def _check_variables() -> Check:
    try:
        check_environment()
    except ConfigError as error:
        found, _, mend = str(error).rpartition("; ")
        return Check("environment", ok=False, found=found, mend=mend)
    bundle = ca_bundle()
    trusted = bundle or f"the libraries' own ({', '.join(CA_VARIABLES)} are not set)"
    return Check("environment", ok=True, found=f"PROJ finds its database; https trusts {trusted}")


def check_room(folders: Mapping[str, Folder]) -> Iterator[Check]:
    """Look at the room on the disks of folders, given by their config keys."""
    for key, folder in folders.items():
        free = folder.free_bytes()
        if free is None:
            continue
        found = f"{free / 1e9:.1f} GB free for {key} {folder}"
        if free >= _ROOM:
            yield Check("disk", ok=True, found=found)
        else:
            mend = f"make room, or set another {key}; gelos-lc plan says what a run takes"
            yield Check("disk", ok=False, found=f"{found}, expected {_ROOM / 1e9:.1f} GB at least", mend=mend)
