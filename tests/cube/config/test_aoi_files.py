"""Files of areas as people have them: formats, CRSs, names, and the one line for what cannot be read."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import geopandas as gpd
import pytest
import shapely
from shapely import box

from cube.build.plans import wanted_aois
from cube.config.aoi import load_aois
from cube.config.models import Config
from cube.config.reading import load_config
from cube.errors import AoiError, ConfigError

SQUARES = [box(10 + 0.1 * n, 50, 10.05 + 0.1 * n, 50.05) for n in range(3)]
NAMES = ["Łódź", "Paris", "Paris"]


def config_for(path: Path, aoi: dict[str, Any] | None = None) -> Config:
    text = {
        "dataset": {"version": "t"},
        "aoi": aoi or {"path": path.name},
        "directory": {"working": str(path.parent / "w"), "output": str(path.parent / "o")},
        "lulc": {"year": "2023-01-02/2023-12-31"},
    }
    (path.parent / "c.yaml").write_text(json.dumps(text))
    return load_config(path.parent / "c.yaml")


def table(crs: int = 4326, **columns: Any) -> gpd.GeoDataFrame:
    frame = gpd.GeoDataFrame({"Name": NAMES, "id": ["a", "b", "7"], **columns}, geometry=SQUARES, crs=4326)
    return frame.to_crs(crs)


def assert_read(path: Path, names: list[str] = NAMES) -> None:
    aois = load_aois(config_for(path))
    assert [aoi.index for aoi in aois] == [0, 1, 2]
    assert sorted(aoi.name for aoi in aois) == sorted(names)
    for square in SQUARES:  # a FlatGeobuf has an order of its own
        assert min(shapely.hausdorff_distance(square, aoi.geometry) for aoi in aois) < 1e-6


@pytest.mark.parametrize("crs", [4326, 3857, 32632])
@pytest.mark.parametrize("name", ["a.gpkg", "a.shp", "a.fgb", "a.parquet"])
def test_formats_and_crss(tmp_path: Path, name: str, crs: int) -> None:
    frame = table(crs)
    frame.to_parquet(tmp_path / name) if name == "a.parquet" else frame.to_file(tmp_path / name)
    assert_read(tmp_path / name)


def test_kml_and_its_folders(tmp_path: Path) -> None:
    marks = [
        f"<Placemark><name>{name}</name><Polygon><outerBoundaryIs><LinearRing><coordinates>"
        + " ".join(f"{x},{y},0" for x, y in square.exterior.coords)
        + "</coordinates></LinearRing></outerBoundaryIs></Polygon></Placemark>"
        for name, square in zip(NAMES, SQUARES, strict=True)
    ]
    folders = (
        f"<Folder><name>one</name>{marks[0]}</Folder><Folder><name>two</name>{marks[1]}{marks[2]}</Folder>"
    )
    kml = f'<kml xmlns="http://www.opengis.net/kml/2.2"><Document>{folders}</Document></kml>'
    (tmp_path / "a.kml").write_text(kml)
    assert_read(tmp_path / "a.kml")


def features() -> list[dict[str, Any]]:
    return list(json.loads(table().to_json(drop_id=True))["features"])


@pytest.mark.parametrize("start", ["", "\ufeff", "\ufeff\n  "])
def test_geojson_with_a_bom(tmp_path: Path, start: str) -> None:
    (tmp_path / "a.geojson").write_text(
        start + json.dumps({"type": "FeatureCollection", "features": features()}), encoding="utf-8"
    )
    if start.endswith("  "):
        (tmp_path / "a.geojson").rename(tmp_path / "a.json")
        assert_read(tmp_path / "a.json")
    else:
        assert_read(tmp_path / "a.geojson")


def test_a_bare_feature_and_a_bare_polygon(tmp_path: Path) -> None:
    (tmp_path / "a.geojson").write_text(json.dumps(features()[1] | {"id": 12}))
    [aoi] = load_aois(config_for(tmp_path / "a.geojson"))
    assert (aoi.index, aoi.name, aoi.id) == (0, "Paris", "12")
    (tmp_path / "a.geojson").write_text(json.dumps(features()[1]["geometry"]))
    [aoi] = load_aois(config_for(tmp_path / "a.geojson"))
    assert (aoi.name, aoi.id) == ("", "")
    assert aoi.geometry.equals(SQUARES[1])


def test_geojson_in_a_named_crs_is_brought_to_longitude_and_latitude(tmp_path: Path) -> None:
    document = json.loads(table(32632).to_json(drop_id=True))
    for crs in ("EPSG:32632", {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32632"}}):
        (tmp_path / "a.geojson").write_text(json.dumps(document | {"crs": crs}))
        assert_read(tmp_path / "a.geojson")


def _two_layers(path: Path) -> Path:
    for layer in ("one", "two"):
        table().to_file(path / "a.gpkg", layer=layer)
    return path / "a.gpkg"


def _without_crs(path: Path) -> Path:
    table().to_file(path / "a.shp")
    (path / "a.prj").unlink()
    return path / "a.shp"


def _plain_parquet(path: Path) -> Path:
    import pandas as pd

    pd.DataFrame({"a": [1]}).to_parquet(path / "a.parquet")
    return path / "a.parquet"


def _written(path: Path, name: str, data: bytes) -> Path:
    (path / name).write_bytes(data)
    return path / name


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (_two_layers, r"several layers of polygons \(one, two\); put one into a file of its own"),
        (_without_crs, "names no CRS, so nobody knows where it lies; add its .prj"),
        (_plain_parquet, "cannot be read .*expected GeoJSON, GeoPackage, GeoParquet"),
        (lambda path: _written(path, "a.gpkg", b"SQLite format 3\x00"), "cannot be read .*expected GeoJSON"),
        (
            lambda path: _written(path, "a.csv", b"a,b\n1,2\n"),
            "no layer of polygons|cannot be read|no features",
        ),
        (lambda path: _written(path, "a.geojson", b""), "cannot be read as GeoJSON"),
        (lambda path: _written(path, "a.geojson", b"\xff\xfe{\x00"), "cannot be read as GeoJSON"),
        (lambda path: _written(path, "a.bin", b"\x00" * 100), "cannot be read .*expected GeoJSON"),
    ],
)
def test_what_cannot_be_read_is_one_line(tmp_path: Path, make: Any, said: str) -> None:
    path = make(tmp_path)
    with pytest.raises(AoiError, match=said) as caught:
        load_aois(config_for(path))
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_latitude_first_is_suspected_where_it_cannot_be_right(tmp_path: Path) -> None:
    swapped = shapely.transform(box(120, 50, 121, 51), lambda xy: xy[:, ::-1])
    (tmp_path / "a.geojson").write_text(shapely.to_geojson(swapped))
    with pytest.raises(AoiError, match="latitude seems to come first, where GeoJSON writes longitude first"):
        load_aois(config_for(tmp_path / "a.geojson"))


def test_areas_are_wanted_by_index_name_or_id(tmp_path: Path) -> None:
    table().to_file(tmp_path / "a.gpkg")
    config = config_for(tmp_path / "a.gpkg")

    def indices(*only: str | int) -> list[int]:
        return [aoi.index for aoi in wanted_aois(config, only=only)]

    assert indices(1) == indices("1") == indices("B") == [1]
    assert indices("łódź", "7") == [0, 2]
    assert indices("paris") == [1, 2]
    with pytest.raises(ConfigError, match=r"--aoi Pariss: there is no such AOI .*; did you mean Paris\?"):
        indices("Pariss")
    with pytest.raises(ConfigError, match=r"--aoi 9: there is no such AOI .* from 0 to 2"):
        indices(9)


def test_a_path_written_on_windows_and_a_name_in_other_case(tmp_path: Path) -> None:
    (tmp_path / "aois").mkdir()
    table().to_file(tmp_path / "aois" / "Map.geojson")
    config = config_for(tmp_path / "x", {"path": "aois\\Map.geojson"})
    assert len(load_aois(config)) == 3
    config = config_for(tmp_path / "x", {"path": "aois\\map.GEOJSON"})
    with pytest.raises(
        ConfigError, match=r"nowhere; tried .*; there is .*Map\.geojson, and here upper and lower"
    ):
        load_aois(config)


def test_gelos_maps_lie_in_data_raw_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "raw").mkdir(parents=True)
    table().to_file(tmp_path / "data" / "raw" / "map_v9.geojson")
    assert len(load_aois(config_for(tmp_path / "x", {"version": "v9"}))) == 3


def test_five_thousand_polygons_are_read_in_seconds(tmp_path: Path) -> None:
    squares = [box(x / 10, y / 10, x / 10 + 0.05, y / 10 + 0.05) for x in range(100) for y in range(50)]
    frame = gpd.GeoDataFrame({"name": [f"n{n}" for n in range(5000)]}, geometry=squares, crs=4326)
    frame.to_file(tmp_path / "a.geojson")
    began = time.monotonic()
    assert [aoi.name for aoi in wanted_aois(config_for(tmp_path / "a.geojson"), only=["n4999"])] == ["n4999"]
    assert time.monotonic() - began < 10
