"""Catalog profiles: what a service says, what a config lays over it, and where each sensor comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from cube.config.models import Config
from cube.config.profiles import PROFILES, Profile, S3Access, SensorProfile, find_profile
from cube.config.reading import load_config
from cube.config.sensors import SENSORS
from cube.errors import ConfigError
from cube.redaction import unsigned_href, without_signature
from cube.scenes.catalog import ApiCatalog, CachedCatalog, FileCatalog, SensorCatalogs, open_catalog


def config(tmp_path: Path, **sections: Any) -> Config:
    settings: dict[str, Any] = {
        "dataset": {"version": "v"},
        "aoi": {"path": "a.geojson"},
        "directory": {"working": "w", "output": "o"},
        "s2l2a": {"time_ranges": ["2023-01-01/2023-03-31"]},
        "lulc": {"year": "2023-01-02/2023-12-31"},
        **sections,
    }
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(settings))
    return load_config(path)


def test_without_a_word_all_comes_from_the_planetary_computer(tmp_path: Path) -> None:
    plain = config(tmp_path)
    assert (plain.catalog.url, plain.catalog.sign) == (
        PROFILES["planetary-computer"].url,
        "planetary-computer",
    )
    assert isinstance(open_catalog(plain), ApiCatalog)
    for key in plain.sensors:
        assert plain.source(key).sensor == SensorProfile()


def test_each_sensor_may_have_a_catalog_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "items.json").write_text('{"type": "FeatureCollection", "features": []}')
    mixed = config(
        tmp_path,
        catalog={"cache": str(tmp_path / "cache")},
        s2l2a={"time_ranges": ["2023-01-01/2023-03-31"], "catalog": "earth-search"},
        lulc={"year": "2023-01-02/2023-12-31", "catalog": "items.json"},
        dem={},
    )
    assert mixed.sensors["s2l2a"].collection == "sentinel-2-c1-l2a"
    assert [mixed.source(key).sign for key in mixed.sensors] == [
        "none",
        "planetary-computer",
        "planetary-computer",
    ]
    catalogs = open_catalog(mixed)
    assert isinstance(catalogs, SensorCatalogs)
    assert isinstance(catalogs.by_sensor["lulc"], FileCatalog)
    urls = [catalogs.by_sensor[key].url for key in ("s2l2a", "dem")]  # type: ignore[attr-defined]
    assert urls == [PROFILES["earth-search"].url, PROFILES["planetary-computer"].url]
    cached = catalogs.by_sensor["s2l2a"]
    assert isinstance(cached, CachedCatalog)
    assert isinstance(cached.catalog, ApiCatalog)
    assert cached.catalog._settings.page_size == 100


def test_a_collection_that_is_named_stays(tmp_path: Path) -> None:
    section = {
        "time_ranges": ["2023-01-01/2023-03-31"],
        "collection": "sentinel-2-l2a",
        "catalog": "earth-search",
    }
    assert config(tmp_path, s2l2a=section).sensors["s2l2a"].collection == "sentinel-2-l2a"


def test_a_profile_is_laid_over_its_base(tmp_path: Path) -> None:
    own = {
        "mirror": {
            "base": "earth-search",
            "url": "https://m.example",
            "sensors": {"s2l2a": {"assets": {"B04": "r"}}},
        },
        "second": {"base": "mirror", "sign": "planetary-computer"},
    }
    source = config(
        tmp_path,
        profiles=own,
        catalog={"profile": "second"},
        lulc={"year": "2023-01-02/2023-12-31", "catalog": "planetary-computer"},
    ).source("s2l2a")
    assert (source.url, source.sign, source.page_size) == ("https://m.example", "planetary-computer", 100)
    keys = {band.name: source.sensor.asset_key(band) for band in SENSORS["s2l2a"].bands}
    assert keys["B04"] == "r"
    assert keys["B8A"] == "nir08"
    assert source.sensor.doubtful_flags == ("sentinel-2-l2a",)
    assert source.sensor.s3 == S3Access(region="us-west-2")


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        (
            {"catalog": {"profile": "earthsearch"}},
            "there is no profile 'earthsearch'; there are cdse, earth-s",
        ),
        ({"catalog": {"profile": "cdse"}}, "lulc: the profile cdse has no Impact Observatory"),
        ({"profiles": {"a": {"base": "b"}, "b": {"base": "a"}}, "catalog": {"profile": "a"}}, "in its turn"),
        (
            {"profiles": {"a": {"base": "b"}}, "catalog": {"profile": "a"}},
            "profiles.a.base: there is no profile 'b'",
        ),
        ({"profiles": {"a": {"sensors": {"s9": {}}}}}, "profiles.a.sensors.s9 is no sensor; there are s2l2a"),
        (
            {"profiles": {"a": {"sensors": {"dem": {"assets": {"B1": "x"}}}}}},
            "'B1' is not a band of Copernicus DEM",
        ),
        (
            {"profiles": {"a": {}}, "catalog": {"profile": "a"}},
            "profiles.a.url is missing: s2l2a is searched",
        ),
        ({"profiles": {"a": {"sing": "none"}}}, "unknown key profiles.a.sing"),
    ],
)
def test_a_profile_that_cannot_be_is_one_line(tmp_path: Path, sections: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        config(tmp_path, **sections)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_shipped_profile_may_be_changed_under_its_own_name() -> None:
    changed = find_profile("cdse", {"cdse": Profile(base="cdse", page_size=10)})
    assert (changed.page_size, changed.url) == (10, PROFILES["cdse"].url)
    assert changed.sensor("s2l2a").assets["SCL"] == "SCL_20m"


@pytest.mark.parametrize("url", ["ftp://user:pass@host/items.json", "itms.json", "earth_search"])
def test_a_catalog_that_is_nowhere_is_named_without_its_login(tmp_path: Path, url: str) -> None:
    with pytest.raises(ConfigError, match=r"catalog\.url: ") as caught:
        open_catalog(config(tmp_path, catalog={"url": url}))
    assert "pass" not in str(caught.value)
    assert ("did you mean the profile earth-search?" in str(caught.value)) == (url == "earth_search")


@pytest.mark.parametrize("login", ["user:secret", "user@work.example:sec@ret", "secret", ":secret"])
def test_a_login_is_taken_out_of_every_address(login: str) -> None:
    text = f"GET https://{login}@host.example:8443/v1/search: HTTP 500, and s3://{login}@b/k"
    assert without_signature(text) == "GET https://host.example:8443/v1/search: HTTP 500, and s3://b/k"
    assert unsigned_href(f"https://{login}@host/a.tif?v=1") == "https://host/a.tif?v=1"


def test_an_at_sign_elsewhere_is_no_login() -> None:
    for text in ("https://host/a@b.tif", "https://host?to=a@b", "mail a@b.example", "https://host and a@b"):
        assert unsigned_href(text) == text
