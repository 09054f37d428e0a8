"""A working folder as phase two leaves it, made from a seeded little landscape."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from numpy.typing import NDArray
from PIL import Image
from pyproj import Transformer
from rasterio.io import MemoryFile
from rasterio.transform import from_origin
from shapely import Polygon, to_wkt

from chipping.records import Choice
from cube.config.models import Config
from cube.config.reading import load_config
from cube.config.sensors import SENSORS
from release.opening.checksums import sha256

VERSION = "v0.1"
RANGES = ("2023-01-01/2023-03-31", "2023-04-01/2023-06-30")
DATES = {
    "s2l2a": ("20230115", "20230510"),
    "s1rtc": ("20230117", "20230512"),
    "lc2l2": ("20230120", "20230501"),
}
SCENE = {
    "s2l2a": "S2B_MSIL2A_{date}T101031_R022_T32TQM",
    "s1rtc": "S1A_IW_GRDH_1SDV_{date}T053418_rtc",
    "lc2l2": "LC08_L2SP_193028_{date}_02_T1",
    "dem": "Copernicus_DSM_COG_10_N45_00_E011_00_DEM",
    "lulc": "32T-2023",
}
BANDS = {
    "s2l2a": ("B02", "B03", "B04", "B08"),
    "s1rtc": ("vv", "vh"),
    "lc2l2": ("green", "red", "nir08"),
    "dem": ("elevation",),
    "lulc": ("lulc",),
}
DTYPES = {"s2l2a": "int16", "s1rtc": "float32", "lc2l2": "float32", "dem": "float32", "lulc": "uint8"}
NODATA: dict[str, float | None] = {"s2l2a": 0, "s1rtc": np.nan, "lc2l2": np.nan, "dem": np.nan, "lulc": 0}
COMPRESS = "deflate"
PX = {"s2l2a": 10, "s1rtc": 10, "lc2l2": 30, "dem": 30, "lulc": 10}


@dataclass
class Land:
    """How the landscape is made."""

    counts: Mapping[int, int]
    """Chips per class."""
    n_aois: int = 3
    side: int = 240
    """Side of a sample window, metres."""
    margin: int = 0
    """Context around it, metres."""
    seed: int = 0
    sensors: Sequence[str] = ("s2l2a", "s1rtc", "lc2l2", "dem", "lulc")
    shift: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """By sensor: pixels that its content lies too far south and east."""
    rejected: Mapping[str, int] = field(default_factory=lambda: {"impure": 4, "s2l2a_cloudy": 3, "capped": 2})
    impurity: float = 0.0
    epsgs: Sequence[int] = (32632, 32733)
    west_m: int = 499_200
    """Left edge of the first sample window."""


LAND = Land({1: 3, 2: 8, 5: 6}, margin=30, impurity=0.05)
SETTINGS = {
    "lulc.sampling_factor": 2,
    "release.splits": {"train": 0.5, "test": 0.5},
    "release.block_m": 1920,
    "dataset.published": "2026-11-28",
}
"""What the tests' shared release is made with."""


def working_folder(root: Path, land: Land, settings: Mapping[str, Any] | None = None) -> Config:
    """Write chips, tables of windows and ``aoi_metadata.geojson``; return the config of them."""
    root.mkdir(parents=True, exist_ok=True)
    config = write_config(root, land, settings)
    working = Path(config.directory.working) / VERSION
    rng = np.random.default_rng(land.seed)
    classes = [code for code, count in land.counts.items() for _ in range(count)]
    rng.shuffle(classes)
    statuses = ["success"] * len(classes) + [s for s, count in land.rejected.items() for _ in range(count)]
    classes += [1] * (len(statuses) - len(classes))
    order = rng.permutation(len(statuses))
    rows = []
    for index, which in enumerate(order):
        aoi = index * land.n_aois // len(statuses)
        row = _row(index, aoi, classes[which], statuses[which], land)
        rows.append(row)
        if row["status"] == "success":
            _write_chip(working / "chips" / row["cell"], row, land)
    write_windows(working, rows)
    (working / "aoi_metadata.geojson").write_text(json.dumps(_aois(rows, land)))
    return config


def write_windows(working: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write the tables of windows, one per area; rows of an area follow each other."""
    folder = working / "windows"
    folder.mkdir(parents=True, exist_ok=True)
    verdicts: dict[int, Mapping[str, int]] = {}
    for aoi, own in itertools.groupby(rows, key=lambda row: int(row["aoi_index"])):
        table = pd.DataFrame(list(own))
        table.to_parquet(folder / f"aoi_{aoi:06}.parquet", index=False)
        verdicts[aoi] = table["status"].value_counts().to_dict()
    (folder / "choice.json").write_bytes(Choice("", verdicts).to_json())


def read_windows(working: Path) -> pd.DataFrame:
    """Read them back."""
    return pd.concat(map(pd.read_parquet, sorted((working / "windows").glob("*.parquet"))), ignore_index=True)


def write_config(root: Path, land: Land, settings: Mapping[str, Any] | None = None) -> Config:
    """Write and read the config."""
    series = {"s2l2a", "s1rtc", "lc2l2"}
    data: dict[str, Any] = {
        "dataset": {"version": VERSION, "name": "tiny"},
        "aoi": {"version": "v0"},
        "directory": {"working": str(root / "working"), "output": str(root / "output")},
        "chips": {"sample_size": land.side, "chip_size": land.side + 2 * land.margin, "min_purity": 0.5},
    }
    data["chips"]["classes"] = sorted(land.counts)
    data["chips"]["forbidden"] = [0]
    for key in land.sensors:
        data[key] = {"bands": list(BANDS[key]), "dtype": DTYPES[key], "resolution": PX[key]}
        if key not in series:
            data[key]["year"] = "2023-01-02/2023-12-31"
    for key in (key for key in land.sensors if key in series):
        data[key]["time_ranges"] = list(RANGES)
    for name, value in (settings or {}).items():
        section, key = name.split(".")
        data.setdefault(section, {})[key] = value
    path = root / "config.yaml"
    path.write_text(yaml.safe_dump(data))
    return load_config(path)


def _row(index: int, aoi: int, code: int, status: str, land: Land) -> dict[str, Any]:
    epsg = land.epsgs[aoi % len(land.epsgs)]
    north = 5_040_000 if epsg < 32700 else 7_200_000
    left, top = land.west_m + aoi * 96_000 // 3 + (index % 20) * land.side, north - (index // 20) * land.side
    dates = {key: ",".join(DATES[key]) if key in land.sensors else "" for key in DATES}
    keys = dict.fromkeys([*SENSORS, *land.sensors])
    scenes = {key: _scenes(key) if key in land.sensors else "" for key in keys}
    return {
        "chip_index": index,
        "aoi_index": aoi,
        "cell": f"{epsg}_{left}_{top}",
        **{f"{key}_dates": text for key, text in dates.items()},
        "lulc": code,
        "purity": 1.0 - land.impurity if status == "success" else 0.6,
        "chip_footprint": _footprint(epsg, left, top, land),
        "epsg": epsg,
        "status": status,
        **{f"{key}_scene_ids": text for key, text in scenes.items()},
        "left_m": left,
        "top_m": top,
        "s2l2a_clear": "1.0,0.98" if status == "success" else "0.4,0.98",
    }


def _scenes(key: str) -> str:
    if key not in DATES:
        return SCENE[key]
    ids = [SCENE[key].format(date=date) for date in DATES[key]]
    return ",".join(ids if key != "s1rtc" else [f"{one}+{one}_b" for one in ids])


def _footprint(epsg: int, left: int, top: int, land: Land) -> str:
    west, north = left - land.margin, top + land.margin
    east, south = left + land.side + land.margin, top - land.side - land.margin
    to_lonlat = Transformer.from_crs(epsg, 4326, always_xy=True)
    corners = [(west, north), (west, south), (east, south), (east, north)]
    ring = np.array([to_lonlat.transform(*one) for one in corners])
    if np.ptp(ring[:, 0]) > 180:  # over the antimeridian and on
        ring[:, 0] %= 360
    return to_wkt(Polygon(ring), rounding_precision=9)


def _texture(rng: np.random.Generator, size: int) -> NDArray[np.float64]:
    """Patches of ground, 30 m and 90 m across, on a 10 m grid."""
    coarse = np.kron(rng.random((size // 9 + 1, size // 9 + 1)), np.ones((9, 9)))[:size, :size]
    return np.asarray(0.5 * coarse + 0.5 * np.kron(rng.random((size // 3, size // 3)), np.ones((3, 3))))


def arrays(cell: str, code: int, land: Land) -> dict[str, NDArray[Any]]:
    """Pixels of a chip: ``(time, band, y, x)`` by sensor."""
    rng = np.random.default_rng([land.seed, *map(int, cell.split("_"))])
    size, pad = (land.side + 2 * land.margin) // 10, 12
    ground = _texture(rng, size + 2 * pad)
    made: dict[str, NDArray[Any]] = {}
    for key in land.sensors:
        dy, dx = (step * PX[key] // 10 for step in land.shift.get(key, (0, 0)))
        seen = ground[pad - dy : pad - dy + size, pad - dx : pad - dx + size]
        made[key] = _seen(key, seen, code, rng, land)
    return made


def _seen(key: str, ground: NDArray[Any], code: int, rng: np.random.Generator, land: Land) -> NDArray[Any]:
    if key == "lulc":
        codes = np.full(ground.shape, code)
        wrong = round(land.impurity * (land.side // 10) ** 2)
        inner = codes[land.margin // 10 :, land.margin // 10 :]
        for position in range(wrong):
            inner[position // (land.side // 10), position % (land.side // 10)] = 2 if code != 2 else 1
        return codes[None, None].astype("uint8")
    step = PX[key] // 10
    size = ground.shape[0] // step
    coarse = ground.reshape(size, step, size, step).mean(axis=(1, 3))
    layers = [
        [coarse * (1 + 0.1 * band) + rng.normal(0, 0.05, coarse.shape) for band in range(len(BANDS[key]))]
        for _ in DATES.get(key, ("",))
    ]
    values = np.asarray(layers)
    if key == "dem":
        values = 300 + 50 * rng.random(values.shape)
    if key == "s2l2a":
        values = np.clip(values * 3000 + 200, 1, 10_000)
    return values.astype(DTYPES[key])


def geotiff(
    values: NDArray[Any], key: str, epsg: int, left: float, top: float, tags: Mapping[str, str] | None = None
) -> bytes:
    """Write a GeoTIFF of ``(band, y, x)``."""
    profile = {
        "driver": "GTiff",
        "count": values.shape[0],
        "height": values.shape[1],
        "width": values.shape[2],
        "dtype": values.dtype,
        "crs": f"EPSG:{epsg}",
        "transform": from_origin(left, top, PX[key], PX[key]),
        "nodata": NODATA[key],
        "compress": COMPRESS,
    }
    with MemoryFile() as memory:
        with memory.open(**profile) as raster:
            raster.write(values)
            raster.descriptions = BANDS[key]
            if values.dtype.kind == "i":
                raster.scales = [1e-4] * len(values)
            raster.update_tags(**(tags or {}))
        return bytes(memory.read())


def png(values: NDArray[Any]) -> bytes:
    """Write a picture of ``(band, y, x)``."""
    layer = values[0].astype(float)
    scaled = np.clip(255 * (layer - layer.min()) / (np.ptp(layer) or 1), 0, 255).astype("uint8")
    buffer = io.BytesIO()
    Image.fromarray(np.stack([scaled] * 3, axis=-1)).save(buffer, "PNG")
    return buffer.getvalue()


def _write_chip(folder: Path, row: Mapping[str, Any], land: Land) -> None:
    folder.mkdir(parents=True)
    files: dict[str, bytes] = {}
    left, top = row["left_m"] - land.margin, row["top_m"] + land.margin
    for key, pixels in arrays(row["cell"], row["lulc"], land).items():
        scenes = row[f"{key}_scene_ids"].split(",")
        for date, values, scene in zip(DATES.get(key, ("",)), pixels, scenes, strict=True):
            tags = {"scene_ids": scene}
            if date:
                tags["datetime"] = f"{date[:4]}-{date[4:6]}-{date[6:]}T10:10:31Z"
            stem = f"{key}_{date}" if date else key
            files[f"{stem}.tif"] = geotiff(values, key, row["epsg"], left, top, tags)
            if date:
                files[f"{stem}.png"] = png(values)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    side = land.side + 2 * land.margin
    facts = {
        "cell": row["cell"],
        "aoi_index": row["aoi_index"],
        "epsg": row["epsg"],
        "bounds": [left, top - side, left + side, top],
        "sensors": {key: {"dates": DATES.get(key, ())} for key in land.sensors},
    }
    write_chip_json(folder, facts)


def write_chip_json(folder: Path, facts: Mapping[str, Any]) -> None:
    """Record a chip folder's files and their checksums."""
    digests = {
        path.name: sha256(path.read_bytes()) for path in sorted(folder.iterdir()) if path.suffix != ".json"
    }
    (folder / "chip.json").write_text(json.dumps({**facts, "files": digests}))


def _aois(rows: Sequence[Mapping[str, Any]], land: Land, tries: int = 1) -> dict[str, Any]:
    features = []
    for aoi in range(land.n_aois + 2):
        lonlat = [11.0 + aoi, 45.0]
        ring = [
            [lonlat[0] + dx, lonlat[1] + dy] for dx, dy in ((0, 0), (0.4, 0), (0.4, 0.3), (0, 0.3), (0, 0))
        ]
        built = aoi < land.n_aois
        status = "built" if built else "skipped" if aoi == land.n_aois else "failed"
        reason = "" if built else "lc2l2: no scene for 2023-01-01/2023-03-31 (7 found, 7 over cloud_cover 50)"
        own = [row["status"] for row in rows if row["aoi_index"] == aoi]
        facts = {"aoi_index": aoi, "status": status, "reason": reason, "tries": tries, "done": 1.0}
        facts["chips"] = {name: own.count(name) for name in sorted(set(own))}
        features.append(
            {"type": "Feature", "properties": facts, "geometry": {"type": "Polygon", "coordinates": [ring]}}
        )
    return {"type": "FeatureCollection", "features": features}
