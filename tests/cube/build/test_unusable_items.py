"""Items that changed: each mutation either builds, or ends the run with one line that names what is missing."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cube.build.commands import build_command, plan_command
from cube.config.aoi import load_aois
from cube.config.reading import load_config
from cube.scenes.catalog import open_catalog
from cube.scenes.planner import plan_aoi
from cube.testing import Archive

Item = dict[str, Any]


def rename(holder: str, old: str, new: str) -> Callable[[Item], None]:
    def change(item: Item) -> None:
        if old in item[holder]:
            item[holder][new] = item[holder].pop(old)

    return change


def put(holder: str, name: str, value: Any) -> Callable[[Item], None]:
    return lambda item: item[holder].__setitem__(name, value)


def as_text(item: Item) -> None:
    for name, value in item["properties"].items():
        if isinstance(value, (int, float)):
            item["properties"][name] = str(value)


def in_stac_1_1(item: Item) -> None:
    item["stac_version"] = "1.1.0"
    rename("properties", "proj:epsg", "was")(item)
    item["properties"]["proj:code"] = f"EPSG:{item['properties'].pop('was')}"
    for asset in item["assets"].values():
        if older := asset.pop("raster:bands", None):
            asset["bands"] = [
                {
                    "name": "x",
                    **{f"raster:{k}" if k in ("scale", "offset") else k: v for k, v in older[0].items()},
                }
            ]


@dataclass(frozen=True)
class Mutation:
    sensor: str
    collection: str
    change: Callable[[Item], None]
    words: str = ""
    """What the run ends with; empty where it builds."""


S2, S1, LC, LULC = "sentinel-2-l2a", "sentinel-1-rtc", "landsat-c2-l2", "io-lulc-annual-v02"
MUTATIONS = {
    "tile under its newer name": Mutation("s2l2a", S2, rename("properties", "s2:mgrs_tile", "grid:code")),
    "tile under no known name": Mutation(
        "s2l2a",
        S2,
        rename("properties", "s2:mgrs_tile", "s2:tile"),
        "no s2:mgrs_tile (s2:tile is there)",
    ),
    "cloud cover gone": Mutation("s2l2a", S2, rename("properties", "eo:cloud_cover", "cloudiness")),
    "numbers as text": Mutation("s2l2a", S2, as_text),
    "everything as STAC 1.1 has it": Mutation("lc2l2", LC, in_stac_1_1),
    "baseline of another kind": Mutation(
        "s2l2a",
        S2,
        put("properties", "s2:processing_baseline", "latest"),
        "no s2:processing_baseline ('latest'; expected such as 05.09)",
    ),
    "asset renamed": Mutation("s2l2a", S2, rename("assets", "B04", "B4"), "no asset 'B04' (B4 is there)"),
    "orbit gone": Mutation(
        "s1rtc",
        S1,
        rename("properties", "sat:relative_orbit", "s1:relative_orbit"),
        "no sat:relative_orbit (s1:relative_orbit is there)",
    ),
    "path as a number": Mutation(
        "lc2l2",
        LC,
        lambda item: item["properties"].update(
            {"landsat:wrs_path": int(item["properties"]["landsat:wrs_path"])}
        ),
    ),
    "platform gone": Mutation(
        "lc2l2", LC, rename("properties", "platform", "eo:platform"), "no platform (eo:platform is there)"
    ),
    "scale of another product": Mutation(
        "lc2l2",
        LC,
        lambda item: item["assets"]["red"]["raster:bands"][0].update(scale=0.0001),
        "asset 'red' has scale 0.0001; expected 2.75e-05",
    ),
    "no footprint": Mutation("lulc", LULC, lambda item: item.update(geometry=None), "no geometry"),
    "asset without an address": Mutation(
        "lulc", LULC, lambda item: item["assets"]["data"].pop("href"), "no asset 'data'"
    ),
    "times that are none": Mutation(
        "lulc",
        LULC,
        lambda item: item["properties"].update(start_datetime=None, end_datetime=None),
        "neither datetime nor start_datetime and end_datetime",
    ),
}


def write_config(folder: Path, archive: Archive, mutation: Mutation) -> Path:
    """Write the items, changed, and a config of Sentinel-2, one more sensor and land cover."""
    collection = json.loads(archive.items.read_text())
    for item in collection["features"]:
        for asset in item["assets"].values():
            asset["href"] = asset["href"].replace("./", f"{archive.path}/", 1)
        if item["collection"] == mutation.collection:
            mutation.change(item)
    (folder / "items.json").write_text(json.dumps(collection))
    sections = {
        "dataset": {"version": "v"},
        "aoi": {"path": str(archive.aois), "extent": "aoi", "include_indices": [0, 1]},
        "directory": {"working": str(folder / "w"), "output": str(folder / "o")},
        "catalog": {"url": "items.json", "sign": "none"},
        "compute": {"workers": 0},
        "s2l2a": {
            "time_ranges": ["2023-01-01/2023-03-31", "2023-07-01/2023-09-30"],
            "bands": ["B04"],
            "cloud_cover": 100,
        },
        "lulc": {"year": "2023-01-02/2023-12-31"},
    }
    if mutation.sensor in ("s1rtc", "lc2l2"):
        sections[mutation.sensor] = {"bands": {"s1rtc": ["vv"], "lc2l2": ["red"]}[mutation.sensor]}
    path = folder / "config.yaml"
    path.write_text(json.dumps(sections))
    return path


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_change_of_all_items_builds_or_is_told_in_one_line(
    name: str, sample_archive: Archive, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    mutation = MUTATIONS[name]
    path = write_config(tmp_path, sample_archive, mutation)
    if not mutation.words:
        config = load_config(path)
        plan = plan_aoi(load_aois(config)[0], config, open_catalog(config))
        assert all(len(date.scenes) for date in plan.sensor(mutation.sensor).dates)
        return
    for command in (plan_command, build_command):
        with pytest.raises(SystemExit) as ended:
            command.main(["-c", str(path)], standalone_mode=True)
        out, err = capfd.readouterr()
        assert ended.value.code == 3
        lines = [line for line in err.splitlines() if "unusable" in line]
        told = f"{mutation.sensor}: {mutation.collection}: "
        if mutation.sensor != "lulc":
            assert len(lines) == 1, err
            assert told in lines[0]
            assert lines[0].endswith(f" unusable: {mutation.words}")
        elif command is plan_command:
            assert "unusable" in out
        else:  # there are too few items to blame the catalog: each area fails by itself
            assert len(lines) == 2, err
            assert all(f"failed: {told}" in line for line in lines)
            assert all(f" unusable: {mutation.words} (item " in line for line in lines)


def test_a_broken_item_of_one_area_costs_no_other(
    sample_archive: Archive, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The first area's only land-cover item is broken; the other's, of another zone, is not."""
    mutation = Mutation(
        "lulc", LULC, lambda item: item["assets"]["data"].pop("href") if item["id"] == "33U-2023" else None
    )
    path = write_config(tmp_path, sample_archive, mutation)
    with pytest.raises(SystemExit) as ended:
        build_command.main(["-c", str(path), "--set", "aoi.include_indices=[0, 4]"], standalone_mode=True)
    assert ended.value.code == 3
    rows = {
        feature["properties"]["aoi_index"]: feature["properties"]
        for feature in json.loads((tmp_path / "w" / "v" / "aoi_metadata.geojson").read_text())["features"]
    }
    assert (rows[0]["status"], rows[4]["status"]) == ("failed", "built")
    assert rows[0]["reason"] == (f"lulc: {LULC}: 1 found, 1 unusable: no asset 'data' (item 33U-2023)"), (
        capfd.readouterr().err
    )
