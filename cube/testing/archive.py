"""The sample archive: one place, five sensors, the four quarters of 2023, made from a seed."""

from __future__ import annotations

import hashlib
import json
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely
from pyproj import Transformer
from shapely.geometry import mapping

from cube.testing import acquisitions, scenario
from cube.testing.landscape import forget_landscapes, make_landscape

if TYPE_CHECKING:
    from collections.abc import Callable

    from cube.testing.items import Item

    Job = Callable[[], list[Item]]

ARCHIVE_VERSION = 2
"""Raised when the same seed would give other bytes."""
WORKERS = 2


@dataclass(frozen=True)
class Archive:
    """A finished sample archive."""

    path: Path
    """Its folder."""
    items: Path
    """STAC ItemCollection; hrefs of files are relative to it."""
    aois: Path
    """GeoJSON FeatureCollection of the AOIs, EPSG:4326."""
    seed: int
    digest: str
    """SHA-256 over the names and contents of all its files."""


def make_archive(path: Path | str, seed: int = 0) -> Archive:
    """Make the sample archive, about 130 MB in half a minute. The same seed gives the same bytes.

    It is written beside ``path`` and moved there when it is complete. A complete archive of this
    seed and version that is already there is kept, one of another seed or version is replaced.

    Parameters
    ----------
    path
        Folder to make.
    seed
        Another seed, another landscape; the AOIs and the scenes stay.

    Raises
    ------
    FileExistsError
        If ``path`` exists and is no sample archive.
    """
    path = Path(path)
    found = _read_archive(path)
    if found is not None and found.seed == seed:
        return found
    if found is None and path.exists() and not _is_stale_archive(path):
        msg = f"{path} exists and is no sample archive; name a folder that does not exist"
        raise FileExistsError(msg)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as folder:
        draft = Path(folder) / "archive"
        _write_archive(draft, seed)
        if path.exists():
            path.rename(Path(folder) / "replaced")
        draft.rename(path)
    made = _read_archive(path)
    if made is None:
        msg = f"{path} changed while it was being made"
        raise FileExistsError(msg)
    return made


def aoi_features() -> dict[str, Any]:
    """Return the AOIs as GELOS writes them: EPSG:4326 polygons without properties."""
    features = []
    for epsg, bounds in scenario.AOIS:
        box = shapely.box(*bounds).buffer(-scenario.AOI_INSET_M, join_style="mitre")
        to_lonlat = Transformer.from_crs(f"EPSG:{epsg}", "EPSG:4326", always_xy=True)
        corners = np.column_stack(to_lonlat.transform(*np.array(box.exterior.coords).T)).round(8)
        geometry = mapping(shapely.Polygon(corners))
        features.append({"type": "Feature", "properties": {}, "geometry": geometry})
    return {"type": "FeatureCollection", "features": features}


def jobs(root: Path, seed: int) -> list[Job]:
    """Return what is to be written, one call per scene, the large ones first."""
    small = [scene for scene in scenario.SENTINEL2 if scene.small]
    large = [scene for scene in scenario.SENTINEL2 if not scene.small]
    return [
        *(partial(acquisitions.write_sentinel2, root, scene, seed) for scene in large),
        *(partial(acquisitions.write_sentinel1, root, flight, seed) for flight in scenario.SENTINEL1),
        *(partial(acquisitions.write_landsat, root, date, seed) for date in scenario.LANDSAT),
        *(partial(acquisitions.write_lulc, root, tile, seed) for tile in scenario.LULC_TILES),
        *(partial(acquisitions.write_sentinel2, root, scene, seed) for scene in small),
        *(partial(acquisitions.write_dem, root, tile, seed) for tile in scenario.DEM_TILES),
    ]


def _write_archive(root: Path, seed: int) -> None:
    root.mkdir()
    make_landscape(seed)
    try:
        with ThreadPoolExecutor(WORKERS) as pool:
            futures = [pool.submit(job) for job in jobs(root, seed)]
            items = [item for future in futures for item in future.result()]
    finally:
        forget_landscapes()
    items.sort(key=lambda item: (item["collection"], item["id"]))
    _write_json(root / "items.json", {"type": "FeatureCollection", "features": items})
    _write_json(root / "map_sample.geojson", aoi_features())
    record = {"version": ARCHIVE_VERSION, "seed": seed, "digest": _digest(root)}
    _write_json(root / "archive.json", record)


def _read_archive(path: Path) -> Archive | None:
    """Return the archive in a folder, or nothing if it is no complete one of this version."""
    record = _read_record(path)
    if record is None or record["version"] != ARCHIVE_VERSION:
        return None
    return Archive(path, path / "items.json", path / "map_sample.geojson", record["seed"], record["digest"])


def _is_stale_archive(path: Path) -> bool:
    return _read_record(path) is not None


def _read_record(path: Path) -> dict[str, Any] | None:
    try:
        record = json.loads((path / "archive.json").read_text())
    except (FileNotFoundError, NotADirectoryError):
        return None
    return record if isinstance(record, dict) and {"version", "seed", "digest"} <= set(record) else None


def _digest(root: Path) -> str:
    total = hashlib.sha256()
    for file in sorted(root.rglob("*")):
        if file.is_file():
            total.update(file.relative_to(root).as_posix().encode())
            total.update(hashlib.sha256(file.read_bytes()).digest())
    return total.hexdigest()


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, separators=(",", ":")) + "\n")


def archive_size(archive: Archive) -> tuple[int, int]:
    """Return the number of files and their bytes."""
    sizes = [file.stat().st_size for file in archive.path.rglob("*") if file.is_file()]
    return len(sizes), sum(sizes)
