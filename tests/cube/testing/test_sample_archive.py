"""The sample archive is what it says: true files, true items, and the traps that make it worth testing on."""

from __future__ import annotations

import json
from collections import Counter
from datetime import datetime
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import pystac
import pytest
import rasterio
import shapely
from pyproj import Transformer
from shapely.geometry import shape

from cube.testing import make_archive, scenario
from cube.testing.acquisitions import write_sentinel1, write_sentinel2
from cube.testing.archive import aoi_features

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from cube.testing import Archive

Items = list[dict[str, Any]]

FORMS = {
    "sentinel-2-l2a": ("uint16", 0.0),
    "sentinel-1-rtc": ("float32", -32768.0),
    "landsat-c2-l2": ("uint16", 0.0),
    "cop-dem-glo-30": ("float32", None),
    "io-lulc-annual-v02": ("uint8", 0.0),
}
QUARTERS = ((1, 3), (4, 6), (7, 9), (10, 12))
WITHOUT_LANDSAT = 3


def core_only(item: dict[str, Any]) -> dict[str, Any]:
    """Return the item without what would be fetched from the network: extension schemas, the API's root."""
    links = [link for link in item["links"] if link["rel"] == "collection"]
    return {**item, "stac_extensions": [], "links": links}


@pytest.fixture(scope="session")
def items(sample_archive: Archive) -> Items:
    features: Items = json.loads(sample_archive.items.read_text())["features"]
    return features


def of(items: Items, collection: str) -> Items:
    return [item for item in items if item["collection"] == collection]


def files(item: dict[str, Any]) -> dict[str, str]:
    return {name: asset["href"] for name, asset in item["assets"].items() if asset["href"].startswith("./")}


def read(archive: Archive, item: dict[str, Any], asset: str) -> NDArray[Any]:
    with rasterio.open(archive.path / item["assets"][asset]["href"]) as file:
        values: NDArray[Any] = file.read(1)
    return values


def quarter(item: dict[str, Any]) -> int:
    return (datetime.fromisoformat(item["properties"]["datetime"]).month - 1) // 3


def best_sentinel2(items: Items, tile: str) -> Items:
    """Return the least cloudy scene of each quarter, as the rules of scene choice have it."""
    chosen = []
    for n in range(4):
        fit = [
            item
            for item in of(items, "sentinel-2-l2a")
            if item["properties"]["s2:mgrs_tile"] == tile
            and quarter(item) == n
            and item["properties"]["eo:cloud_cover"] < 30
            and item["properties"]["s2:nodata_pixel_percentage"] < 5
        ]
        chosen.append(
            min(fit, key=lambda i: (i["properties"]["eo:cloud_cover"], i["properties"]["datetime"], i["id"]))
        )
    return chosen


def test_every_file_opens_in_the_form_of_its_collection(sample_archive: Archive, items: Items) -> None:
    for item in items:
        assert files(item), item["id"]
        for name, href in files(item).items():
            with rasterio.open(sample_archive.path / href) as file:
                dtype, nodata = FORMS[item["collection"]]
                expected = {"SCL": ("uint8", 0.0), "qa_pixel": ("uint16", 1.0)}.get(name, (dtype, nodata))
                assert (file.dtypes[0], file.nodata) == expected, (item["id"], name)
                assert file.crs.to_epsg() == item["properties"]["proj:epsg"]
                assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
                assert file.compression.name == "deflate"
                described = (
                    item["assets"][name] if "proj:shape" in item["assets"][name] else item["properties"]
                )
                assert list(file.shape) == described["proj:shape"]
                assert tuple(file.transform)[:6] == pytest.approx(described["proj:transform"][:6], abs=1e-12)


def test_items_are_valid_stac(items: Items) -> None:
    for item in items:
        pystac.Item.from_dict(core_only(item)).validate()
        assert item["stac_version"] == "1.0.0"
        assert tuple(item["bbox"]) == shape(item["geometry"]).bounds
    assert len({(item["collection"], item["id"]) for item in items}) == len(items)
    assert {item["collection"] for item in items} == set(FORMS)


def test_grids_lie_on_their_sensors_lattices(items: Items) -> None:
    lattices = {"sentinel-2-l2a": (60, 0), "sentinel-1-rtc": (10, 0), "landsat-c2-l2": (30, 15)}
    for collection, (step, rest) in lattices.items():
        for item in of(items, collection):
            with_grid = item["assets"]["B02"] if collection == "sentinel-2-l2a" else item["properties"]
            transform = with_grid["proj:transform"]
            assert (transform[2] % step, transform[5] % step) == (rest, rest)


def test_elevation_tiles_meet_half_a_pixel_off_the_degree(items: Items) -> None:
    steps = set()
    for item in of(items, "cop-dem-glo-30"):
        dx, _, left, _, dy, top = item["properties"]["proj:transform"]
        height, width = item["properties"]["proj:shape"]
        edge = top if "N49" in item["id"] else top + height * dy
        meridian = left if "E012" in item["id"] else left + width * dx
        assert edge == pytest.approx(50 + 0.5 / 3600, abs=1e-9)
        assert meridian == pytest.approx(12 - dx / 2, abs=1e-9)
        steps.add(round(dx * 3600, 6))
    assert steps == {1.0, 1.5}


def test_footprints_are_where_the_data_is(sample_archive: Archive, items: Items) -> None:
    for item in items:
        name = next(iter(files(item)))
        with rasterio.open(sample_archive.path / item["assets"][name]["href"]) as file:
            share = float((file.read(1) != file.nodata).mean()) if file.nodata is not None else 1.0
            box = shapely.box(*file.bounds)
            transformer = Transformer.from_crs("EPSG:4326", file.crs, always_xy=True)
        outline = shapely.transform(shape(item["geometry"]), transformer.transform, interleaved=False)
        if item["collection"] != "io-lulc-annual-v02":
            assert share == pytest.approx(outline.area / box.area, abs=0.01), item["id"]


def test_sentinel2_percentages_and_offsets_are_true(sample_archive: Archive, items: Items) -> None:
    baselines = set()
    for item in of(items, "sentinel-2-l2a"):
        properties = item["properties"]
        scl, blue = read(sample_archive, item, "SCL"), read(sample_archive, item, "B02")
        valid = scl != 0
        cloudy = np.isin(scl, (8, 9, 10))
        assert properties["s2:nodata_pixel_percentage"] == pytest.approx(100 * (~valid).mean(), abs=1e-3)
        assert properties["eo:cloud_cover"] == pytest.approx(100 * cloudy[valid].mean(), abs=1e-3)
        assert ((blue == 0) == ~valid.repeat(2, 0).repeat(2, 1)).all()
        offset = properties["s2:processing_baseline"] >= "04.00"
        assert (blue[blue > 0].min() >= 1000) == offset
        baselines.add(properties["s2:processing_baseline"])
    assert baselines == {"03.01", "04.00", "05.09", "05.10"}


def test_scene_classification_agrees_with_the_bands(sample_archive: Archive, items: Items) -> None:
    for item in best_sentinel2(items, "33UUR"):
        scl = read(sample_archive, item, "SCL")
        offset = 1000 if item["properties"]["s2:processing_baseline"] >= "04.00" else 0
        red, nir, blue = (
            read(sample_archive, item, band).astype(float)[::2, ::2] - offset
            for band in ("B04", "B08", "B02")
        )
        ndvi = (nir - red) / (nir + red)
        assert ndvi[scl == 4].mean() > 0.5 > ndvi[scl == 5].mean() + 0.2 > ndvi[scl == 6].mean() + 0.2
        assert nir[scl == 6].mean() < 300
        assert blue[scl == 9].mean() > 3000 > blue[np.isin(scl, (4, 5, 6))].mean()


def test_sensors_line_up(sample_archive: Archive, items: Items) -> None:
    """Where the map says water, both optical sensors are dark in the near infrared, and so is radar."""
    lulc = next(item for item in of(items, "io-lulc-annual-v02") if item["id"] == "33U-2023")
    scenes = [
        (best_sentinel2(items, "33UTR")[1], "B08"),
        (next(i for i in items if i["id"].startswith("LC09_L2SP_193026_20230511")), "nir08"),
        (next(i for i in items if i["id"].startswith("S1A_IW_GRDH_1SDV_20230513T052623")), "vh"),
    ]
    with rasterio.open(sample_archive.path / lulc["assets"]["data"]["href"]) as file:
        cover, origin = file.read(1), file.transform
    for item, asset in scenes:
        with rasterio.open(sample_archive.path / item["assets"][asset]["href"]) as file:
            values, t = file.read(1), file.transform
            valid = values != file.nodata
        rows, columns = np.nonzero(valid)
        x, y = t.c + t.a * (columns + 0.5), t.f + t.e * (rows + 0.5)
        row, column = ((origin.f - y) // 10).astype(int), ((x - origin.c) // 10).astype(int)
        inside = (row >= 0) & (row < cover.shape[0]) & (column >= 0) & (column < cover.shape[1])
        there = cover[row[inside], column[inside]]
        seen = values[valid][inside]
        limit = np.percentile(seen[there == 1], 95)
        assert (seen[there == 2] > limit).mean() > 0.95, item["id"]


def pure_windows(
    archive: Archive, items: Items, size_m: int, usable: Callable[[int, float, float], bool] = lambda *_: True
) -> Counter[int]:
    """Return the number of windows of one class, by class; each once, and none of the AOI without Landsat."""
    counts: Counter[int] = Counter()
    seen: set[tuple[int, float, float]] = set()
    for n, (epsg, (left, bottom, right, top)) in enumerate(scenario.AOIS):
        tile = next(i for i in items if i["id"] == f"{epsg % 100}U-2023")
        with rasterio.open(archive.path / tile["assets"]["data"]["href"]) as file:
            cover, t = file.read(1), file.transform
        for x in np.arange(left, right, size_m):
            for y in np.arange(top, bottom, -size_m):
                row, column, px = int((t.f - y) / 10), int((x - t.c) / 10), size_m // 10
                window = cover[row : row + px, column : column + px]
                if (epsg, x, y) in seen or n == WITHOUT_LANDSAT or window.min() != window.max():
                    continue
                seen.add((epsg, x, y))
                counts[int(window[0, 0])] += usable(n, x, y)
    return counts


def test_there_are_enough_pure_windows(sample_archive: Archive, items: Items) -> None:
    small = pure_windows(sample_archive, items, 480)
    assert small.total() >= 250
    assert sum(count >= 20 for count in small.values()) >= 5
    large = pure_windows(sample_archive, items, 960)
    assert sum(count >= 1 for count in large.values()) >= 3
    assert {4, 9, 10} <= set(np.unique(read(sample_archive, items_by_id(items)["33U-2023"], "data")))


def items_by_id(items: Items) -> dict[str, dict[str, Any]]:
    return {item["id"]: item for item in items}


def cloud_in_landsat(archive: Archive, items: Items) -> tuple[NDArray[np.bool_], rasterio.Affine]:
    """Return where the best scenes of path 193 have cloud or shadow on any date, on one 30 m grid."""
    (left, bottom, right, top), _, _ = scenario.LANDSAT_PATHS["193"]
    cloudy = np.zeros((int(top - bottom) // 30, int(right - left) // 30), dtype=bool)
    for item in of(items, "landsat-c2-l2"):
        chosen = any(date in item["id"] for date in ("20230220", "20230511", "20230730", "20231010"))
        if chosen and item["properties"]["landsat:wrs_path"] == "193":
            quality = read(archive, item, "qa_pixel")
            t = item["properties"]["proj:transform"]
            row, column = int((top - t[5]) / 30), int((t[2] - left) / 30)
            part = cloudy[row : row + quality.shape[0], column : column + quality.shape[1]]
            part |= (quality & 0b11110) > 0
    return cloudy, rasterio.Affine(30, 0, left, 0, -30, top)


def test_enough_pure_windows_are_clear_in_all_chosen_scenes(sample_archive: Archive, items: Items) -> None:
    tiles = {0: "33UUR", 1: "33UUR", 2: "33UTR", 4: "32UQA", 5: "33UTR"}
    scenes = {tile: best_sentinel2(items, tile) for tile in set(tiles.values())}
    masks: dict[str, tuple[NDArray[np.bool_], Any]] = {}
    for tile, chosen in scenes.items():
        clear = np.logical_and.reduce(
            [np.isin(read(sample_archive, item, "SCL"), (2, 4, 5, 6, 11)) for item in chosen]
        )
        masks[tile] = clear, chosen[0]["assets"]["SCL"]["proj:transform"]

    landsat, origin = cloud_in_landsat(sample_archive, items)

    def usable(n: int, x: float, y: float) -> bool:
        clear, t = masks[tiles[n]]
        row, column = int((t[5] - y) / 20), int((x - t[2]) / 20)
        to_33 = Transformer.from_crs(scenario.AOIS[n][0], 32633, always_xy=True)
        east, north = to_33.transform(x, y)
        top, left = int((origin.f - north) / 30), int((east - origin.c) / 30)
        seen = clear[row : row + 24, column : column + 24].all()
        return bool(seen) and landsat[top : top + 17, left : left + 17].mean() < 0.05

    counts = pure_windows(sample_archive, items, 480, usable)
    assert counts.total() >= 150
    assert sum(count >= 10 for count in counts.values()) >= 5


def test_the_aois_can_be_built_as_intended(items: Items) -> None:
    aois = [shape(feature["geometry"]) for feature in aoi_features()["features"]]

    def share(aoi: shapely.Geometry, some: Items) -> float:
        seen = shapely.union_all([shape(item["geometry"]) for item in some])
        return float(seen.intersection(aoi).area / aoi.area)

    tiles = {0: "33UUR", 1: "33UUR", 2: "33UTR", 3: "33UUR", 4: "32UQA", 5: "33UTR"}
    for n, aoi in enumerate(aois):
        assert all(share(aoi, [item]) > 0.999 for item in best_sentinel2(items, tiles[n]))
        for period in range(4):
            passes = [i for i in of(items, "sentinel-1-rtc") if quarter(i) == period and "vh" in i["assets"]]
            assert share(aoi, [i for i in passes if i["properties"]["sat:relative_orbit"] == 168]) > 0.999
            landsat = [
                i
                for i in of(items, "landsat-c2-l2")
                if quarter(i) == period
                and i["properties"]["eo:cloud_cover"] < 50
                and i["properties"]["platform"] in ("landsat-8", "landsat-9")
                and i["properties"]["landsat:wrs_path"] == ("192" if n == WITHOUT_LANDSAT else "193")
            ]
            missing = n == WITHOUT_LANDSAT and period == 2
            assert (share(aoi, landsat) > 0.999) is not missing
    path_193 = [i for i in of(items, "landsat-c2-l2") if i["properties"]["landsat:wrs_path"] == "193"]
    assert share(aois[WITHOUT_LANDSAT], path_193) == 0
    assert share(aois[2], best_sentinel2(items, "33UUR")[:1]) < 0.7
    assert (
        share(aois[4], [i for i in of(items, "sentinel-2-l2a") if i["properties"]["proj:epsg"] == 32633]) == 0
    )
    assert aois[0].intersection(aois[1]).area > 0.3 * aois[0].area


def test_the_traps_are_set(items: Items) -> None:
    sentinel2, radar, landsat = (
        of(items, name) for name in ("sentinel-2-l2a", "sentinel-1-rtc", "landsat-c2-l2")
    )
    assert [
        i["properties"]["eo:cloud_cover"]
        for i in sentinel2
        if i["properties"]["s2:nodata_pixel_percentage"] > 75
    ] == [0]
    takes = Counter(i["id"].rsplit("_", 1)[0] for i in sentinel2)
    assert max(takes.values()) == 2
    assert {"hh", "hv"} in [set(files(i)) for i in radar]
    assert {"vv"} in [set(files(i)) for i in radar]
    assert {i["properties"]["platform"] for i in landsat} == {"landsat-7", "landsat-8", "landsat-9"}
    assert {i["properties"]["landsat:collection_category"] for i in landsat} == {"T1", "T2"}
    assert {i["properties"]["landsat:correction"] for i in landsat} == {"L2SP", "L2SR"}
    assert {i["id"] for i in of(items, "io-lulc-annual-v02")} >= {
        "33U-2022",
        "33U-2023",
        "33U-2024",
        "32U-2023",
    }


def test_land_cover_differs_a_little_between_years(sample_archive: Archive, items: Items) -> None:
    maps = [read(sample_archive, items_by_id(items)[f"33U-{year}"], "data") for year in (2022, 2023, 2024)]
    for before, after in pairwise(maps):
        assert 0.002 < (before != after).mean() < 0.1


def test_a_finished_archive_is_kept_and_a_strange_folder_refused(
    sample_archive: Archive, tmp_path: Path
) -> None:
    assert make_archive(sample_archive.path, seed=0) == sample_archive
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="no sample archive"):
        make_archive(tmp_path)
    assert not list(sample_archive.path.parent.glob(".*"))


def test_the_same_seed_gives_the_same_bytes(sample_archive: Archive, tmp_path: Path) -> None:
    small = next(scene for scene in scenario.SENTINEL2 if scene.small)
    passing = next(flight for flight in scenario.SENTINEL1 if flight.small_m)
    again = write_sentinel2(tmp_path, small, 0) + write_sentinel1(tmp_path, passing, 0)
    for item in again:
        for href in files(item).values():
            assert (tmp_path / href).read_bytes() == (sample_archive.path / href).read_bytes()
