"""Change a release so that only its contents can give the change away."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path

import geopandas as gpd
import numpy as np
import rasterio

from release import Fault, open_release
from release.opening.checksums import SUMS_NAME, format_sums, sha256
from release.opening.table import to_parquet
from release.statistics import STATISTICS_NAME, Tally, counted_rows, statistics_split
from release.tracker import read_tracker, to_csv, to_geojson


def reseal(folder: Path, *, recount: bool = True) -> None:
    """Write checksums and statistics that fit, so that only the contents can give a damage away."""
    if recount:
        with contextlib.suppress(Exception):  # not of what cannot be opened or read
            _recount(folder)
    with contextlib.suppress(Exception):
        _redescribe(folder)
    sums = {p.name: sha256(p.read_bytes()) for p in folder.iterdir() if p.name != SUMS_NAME}
    (folder / SUMS_NAME).write_bytes(format_sums(sums))


def _recount(folder: Path) -> None:
    opened = open_release(folder)
    table = opened.table
    tally = Tally(opened.recipe, statistics_split(table["split"]))
    for chip_id in table["id"][counted_rows(table)]:
        tally.add(tally.count({key: list(opened.read(chip_id, key)) for key in opened.sensors}))
    (folder / STATISTICS_NAME).write_bytes(tally.to_json())


def _redescribe(folder: Path) -> None:
    """Write Croissant's checksums of the folder's rasters again."""
    path = folder / "croissant.json"
    croissant = json.loads(path.read_text())
    for part in croissant["distribution"]:
        if part["@id"].endswith("-folder"):
            key = part["@id"].removesuffix("-folder")
            lines = [f"{sha256(p.read_bytes())}  {p.name}\n" for p in sorted(folder.glob(f"{key}_*.tif"))]
            part["sha256"] = sha256("".join(lines).encode())
    path.write_text(json.dumps(croissant, indent=2, ensure_ascii=False) + "\n")


def rewrite_tracker(folder: Path, change: Callable[[gpd.GeoDataFrame], object]) -> None:
    """Change the tracker in all its forms, and what depends on it."""
    path = folder / "gelos_chip_tracker.geojson"
    table = read_tracker(path.read_bytes())
    changed = change(table)
    table = changed if isinstance(changed, gpd.GeoDataFrame) else table
    path.write_bytes(to_geojson(table))
    (folder / "gelos_chip_tracker.csv").write_bytes(to_csv(table))
    (folder / "gelos_chip_tracker.parquet").write_bytes(to_parquet([table], table.total_bounds.tolist()))
    croissant = json.loads((folder / "croissant.json").read_text())
    for part in croissant["distribution"]:
        if "sha256" in part and part["contentUrl"] != ".":
            part["sha256"] = sha256((folder / part["contentUrl"]).read_bytes())
    (folder / "croissant.json").write_text(json.dumps(croissant))
    reseal(folder)


def rewrite_raster(path: Path, **changes: object) -> None:
    """Write a raster again, otherwise than it was; ``values``, ``bands`` and ``scales`` beside rasterio's profile."""
    with rasterio.open(path) as raster:
        profile, values, names = raster.profile, raster.read(), raster.descriptions
        tags = {name: text for name, text in raster.tags().items() if name != "AREA_OR_POINT"}
        scales = raster.scales
    values = changes.pop("values", values)
    names, scales = changes.pop("bands", names), changes.pop("scales", scales)
    tags.update(changes.pop("tags", {}))  # type: ignore[call-overload]
    profile.update(changes)
    with rasterio.open(path, "w", **profile) as raster:
        raster.write(np.asarray(values).astype(profile["dtype"]))
        raster.descriptions, raster.scales = names, scales
        raster.update_tags(**tags)


def only(faults: list[Fault], file: str, text: str) -> None:
    """Check that one file is named, for one reason."""
    assert [fault.file for fault in faults] == [file], faults
    assert text in faults[0].message, faults
    assert "\n" not in str(faults[0])
