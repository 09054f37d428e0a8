"""AOI files: what is read, and the one line for what cannot be."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cube.config.aoi import load_aois
from cube.config.models import Config
from cube.config.reading import load_config
from cube.errors import AoiError, ConfigError

SQUARE = {"type": "Polygon", "coordinates": [[[10, 50], [10.1, 50], [10.1, 50.1], [10, 50.1], [10, 50]]]}


def config_for(tmp_path: Path, document: object, **aoi: Any) -> Config:
    (tmp_path / "aois.geojson").write_text(document if isinstance(document, str) else json.dumps(document))
    text = json.dumps(
        {
            "dataset": {"version": "t"},
            "aoi": {"path": "aois.geojson", **aoi},
            "directory": {"working": str(tmp_path / "w"), "output": str(tmp_path / "o")},
            "lulc": {"year": "2023-01-02/2023-12-31"},
        }
    )
    (tmp_path / "c.yaml").write_text(text)
    return load_config(tmp_path / "c.yaml")


def collection(*geometries: object) -> dict[str, Any]:
    features = [{"type": "Feature", "properties": {}, "geometry": g} for g in geometries]
    return {"type": "FeatureCollection", "features": features}


def test_indices_stay_those_of_the_file(tmp_path: Path) -> None:
    config = config_for(tmp_path, collection(*[SQUARE] * 5), include_indices=[1, 3, 4], exclude_indices=3)
    assert [aoi.index for aoi in load_aois(config)] == [1, 4]


def test_a_broken_feature_that_is_excluded_does_no_harm(tmp_path: Path) -> None:
    config = config_for(tmp_path, collection(SQUARE, None), exclude_indices=[1])
    assert [aoi.index for aoi in load_aois(config)] == [0]


@pytest.mark.parametrize(
    ("geometry", "words"),
    [
        (None, "AOI 1: has no geometry"),
        ({"type": "Polygon", "coordinates": []}, "AOI 1: is empty"),
        ({"type": "Point", "coordinates": [10, 50]}, "AOI 1: is a Point"),
        ({"type": "Polygon", "coordinates": [[[0, 0], [1, 1]]]}, "AOI 1: its geometry cannot be read"),
        ({"type": "Polygon", "coordinates": [[[0, 0], [1, 1], [1, 0], [0, 1], [0, 0]]]}, "Self-intersection"),
        ({"type": "Polygon", "coordinates": [[[0, 0], [200, 0], [200, 1], [0, 0]]]}, "outside longitude"),
        (
            {"type": "Polygon", "coordinates": [[[-179, 0], [179, 0], [179, 1], [-179, 1], [-179, 0]]]},
            "antimeridian",
        ),
        ("Polygon", "AOI 1: its geometry cannot be read"),
        ({"type": "Blob", "coordinates": []}, "AOI 1: its geometry cannot be read"),
        ({"type": "Polygon", "coordinates": [[["a", 0], [1, 1], [1, 0], ["a", 0]]]}, "cannot be read"),
        (
            {"type": "Polygon", "coordinates": [[[None, 0], [1, 1], [1, 0], [0, 0]]]},
            "read; expected a Polygon",
        ),
        ({"coordinates": [[[0, 0], [1, 1], [1, 0], [0, 0]]]}, "read; expected a Polygon of rings"),
    ],
)
def test_broken_geometry_names_the_aoi(tmp_path: Path, geometry: object, words: str) -> None:
    config = config_for(tmp_path, collection(SQUARE, geometry))
    with pytest.raises(AoiError, match=words) as caught:
        load_aois(config)
    assert "\n" not in str(caught.value)
    assert "aois.geojson" in str(caught.value)


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ("{", "cannot be read as GeoJSON"),
        ({"type": "FeatureCollection", "features": []}, "found no features"),
        ([], "found no features"),
        ({**collection(SQUARE), "crs": "EPSG:no"}, "is in EPSG:no, which is no CRS that PROJ knows"),
        ({**collection(SQUARE), "crs": ["EPSG:4326"]}, "the unnamed crs"),
        ({**collection(SQUARE), "crs": {"type": "name", "properties": None}}, "the unnamed crs"),
    ],
)
def test_broken_files_give_one_line(tmp_path: Path, document: object, words: str) -> None:
    with pytest.raises(AoiError, match=words):
        load_aois(config_for(tmp_path, document))


@pytest.mark.parametrize(
    "crs", [None, "EPSG:4326", {"type": "name", "properties": {"name": "urn:ogc:def:crs:OGC:1.3:CRS84"}}]
)
def test_longitude_and_latitude_may_be_named(tmp_path: Path, crs: object) -> None:
    assert len(load_aois(config_for(tmp_path, {**collection(SQUARE), "crs": crs}))) == 1


def test_an_index_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(AoiError, match=r"aoi.include_indices names AOI 7; .* has 0\.\.0"):
        load_aois(config_for(tmp_path, collection(SQUARE), include_indices=[7]))


def test_gelos_own_file_loads(shared: Path, tmp_path: Path) -> None:
    text = (shared / "reference" / "aois" / "map_v0.40.geojson").read_text()
    assert len(load_aois(config_for(tmp_path, text))) == 641


def test_a_path_that_no_file_can_have_is_nowhere(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the AOI file is nowhere"):
        load_aois(config_for(tmp_path, collection(SQUARE), path="x" * 5000))
