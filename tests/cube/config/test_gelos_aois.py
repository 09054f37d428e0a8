"""GELOS's own areas: its coordinates, number for number, and its licence with them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from cube.config.aoi import load_aois
from cube.config.reading import load_config

ROOT = Path(__file__).resolve().parents[3]
COORDINATES_SHA256 = "b229afbf390d9dd4afdb7eb40d236845d10754e2b283d54a19ee57dc3004ed08"
"""Of the coordinates in GELOS's own file, features in its order, as ``json.dumps`` writes them."""


def test_the_areas_of_v0501_are_gelos_641_number_for_number() -> None:
    config = load_config(ROOT / "configs" / "lc-v0.50.1.yaml")
    aois = load_aois(config)
    assert [aoi.index for aoi in aois] == list(range(641))
    assert all(aoi.geometry.equals(aoi.geometry.envelope) for aoi in aois)
    features = json.loads(config.aoi_path.read_text())["features"]
    coordinates = json.dumps([feature["geometry"]["coordinates"] for feature in features])
    assert hashlib.sha256(coordinates.encode()).hexdigest() == COORDINATES_SHA256


def test_nothing_but_coordinates_was_taken() -> None:
    collection = json.loads((ROOT / "configs" / "aois" / "map_v0.40.geojson").read_text())
    assert set(collection) == {"type", "features"}
    assert all(feature["properties"] == {} for feature in collection["features"])


def test_the_notice_names_source_and_licence() -> None:
    notice = (ROOT / "NOTICE").read_text()
    for words in (
        "configs/aois/map_v0.40.geojson",
        "https://github.com/ClarkCGA/gelos-lc-datagen",
        "Copyright (c) 2026, Denys Godwin",
        "The above copyright notice and this permission notice shall be included",
    ):
        assert words in notice
