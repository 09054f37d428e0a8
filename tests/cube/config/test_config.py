"""The config: what loads, and the one line that says why something does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from cube.config.aoi import load_aois
from cube.config.fields import TimeRange
from cube.config.models import Config
from cube.config.reading import load_config
from cube.errors import ConfigError

CONFIG_FOLDER = Path(__file__).parents[3] / "configs"
CONFIGS = sorted(CONFIG_FOLDER.glob("*.yaml"))


def gelos_form() -> dict[str, Any]:
    """Return a config as GELOS v0.50.1 writes its own, with nothing of ours in it."""
    return {
        "dataset": {"version": "v0.50.1"},
        "aoi": {"version": "v0.40", "include_indices": None, "exclude_indices": None},
        "directory": {"working": "/app/data/interim", "output": "/app/data/processed", "zip_output": False},
        "log_errors": True,
        "s2l2a": {
            "collection": "sentinel-2-l2a",
            "time_ranges": [
                "2023-01-01/2023-03-31",
                "2023-04-01/2023-06-30",
                "2023-07-01/2023-09-30",
                "2023-10-01/2023-12-31",
            ],
            "cloud_cover": 30,
            "nodata_pixel_percentage": 5,
            "bands": [
                "B01",
                "B02",
                "B03",
                "B04",
                "B05",
                "B06",
                "B07",
                "B08",
                "B8A",
                "B09",
                "B11",
                "B12",
                "SCL",
            ],
            "cloud_band": "SCL",
            "resolution": 10,
            "native_crs": True,
            "fill_na": False,
            "na_value": -999,
            "dtype": "int16",
        },
        "s1rtc": {
            "collection": "sentinel-1-rtc",
            "delta_days": 12,
            "nodata_pixel_percentage": 5,
            "bands": ["vv", "vh"],
            "resolution": 10,
            "native_crs": False,
            "fill_na": False,
            "na_value": -999,
            "dtype": "float32",
        },
        "lc2l2": {
            "collection": "landsat-c2-l2",
            "platforms": ["landsat-8", "landsat-9"],
            "delta_days": 91,
            "cloud_cover": 50,
            "bands": ["coastal", "blue", "green", "red", "nir08", "swir16", "swir22", "qa_pixel"],
            "cloud_band": "qa_pixel",
            "resolution": 30,
            "native_crs": False,
            "fill_na": False,
            "na_value": -999,
            "dtype": "float32",
        },
        "dem": {
            "collection": "cop-dem-glo-30",
            "year": "2021-01-02/2021-12-31",
            "resolution": 30,
            "native_crs": False,
            "fill_na": False,
            "na_value": -999,
            "dtype": "float32",
        },
        "lulc": {
            "collection": "io-lulc-annual-v02",
            "year": "2023-01-02/2023-12-31",
            "resolution": 10,
            "native_crs": False,
            "sampling_factor": None,
            "fill_na": False,
            "na_value": 0,
            "dtype": "int8",
        },
        "chips": {"sample_size": 960, "chip_size": 960},
    }


def write(tmp_path: Path, data: object) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(data if isinstance(data, str) else yaml.safe_dump(data))
    return path


def test_gelos_form_loads_unchanged(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, gelos_form()))
    assert list(config.sensors) == ["s2l2a", "s1rtc", "lc2l2", "dem", "lulc"]
    assert config.bands("lc2l2")[-1] == "qa_pixel"
    assert [str(span) for span in config.ranges] == gelos_form()["s2l2a"]["time_ranges"]
    assert config.chips.stride_m == 960
    assert config.chips.threshold("min_clear", "lc2l2", 3) == 0.95
    assert config.sensors["lulc"].dtype == "int8"


def test_the_config_of_gelos_v0501_is_gelos_own_but_for_a_name_and_a_cap() -> None:
    ours = yaml.safe_load((CONFIGS[0].parent / "lc-v0.50.1.yaml").read_text())
    assert ours["dataset"].pop("name") == "gelos-lc"
    assert ours["aoi"].pop("extent") == "overlap"
    assert ours["aoi"].pop("max_side_m") == 30_720
    assert ours == gelos_form()


@pytest.mark.parametrize(
    "override", ["lulc.year=2017-01-02/2017-12-31", "lulc={collection: own, year: 2024-01-01/2024-12-31}"]
)
def test_years_of_the_map_and_any_year_of_another_are_fine(override: str, tmp_path: Path) -> None:
    assert load_config(write(tmp_path, gelos_form()), [override]).land_cover.year in override


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_our_own_configs_load(path: Path) -> None:
    assert isinstance(load_config(path), Config)


def test_gelos_version_is_gelos_own() -> None:
    config = load_config(CONFIG_FOLDER / "lc-v0.50.1.yaml")
    for section in ("s2l2a", "s1rtc", "lc2l2", "dem", "lulc"):
        for key, value in gelos_form()[section].items():
            found = getattr(config.sensors[section], key)
            assert (list(found) if isinstance(found, tuple) else found) == value, (section, key)
    assert (config.dataset.version, config.aoi.version, len(load_aois(config))) == ("v0.50.1", "v0.40", 641)
    assert config.chips.sample_size == config.chips.chip_size == 960
    assert len(load_aois(load_config(CONFIG_FOLDER / "world-240.yaml"))) == 240


def test_a_year_of_another_archive_is_not_refused(tmp_path: Path) -> None:
    path = write(tmp_path, gelos_form())
    for other in ("catalog.url=items.json", "lulc.collection=another"):
        assert load_config(path, ['lulc.year="2024-01-02/2024-12-31"', other]).land_cover.year.startswith(
            "2024"
        )


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("s2l2a.cloud_covr=3", ["s2l2a.cloud_covr", "did you mean s2l2a.cloud_cover?"]),
        ("chpis={}", ["unknown key chpis", "did you mean chips?"]),
        ("sentinel_2={}", ["sentinel_2", "it is called s2l2a now"]),
        ("s2l2a.cloud_cover=many", ["s2l2a.cloud_cover", "'many'", "number"]),
        ("s2l2a.cloud_cover=101", ["s2l2a.cloud_cover", "101", "100"]),
        ("s2l2a.bands=[B02, B10]", ["s2l2a.bands", "'B10'", "B02"]),
        ('s2l2a.time_ranges=["2023-01-01"]', ["s2l2a.time_ranges", "2023-01-01", "start/end"]),
        ('s2l2a.time_ranges=["2023-04-01/2023-06-30", "2023-01-01/2023-03-31"]', ["follow one another"]),
        ('s2l2a.time_ranges=["2023-04-01/2023-01-30"]', ["ends before it starts"]),
        ("s2l2a.time_ranges=[]", ["s2l2a.time_ranges is missing"]),
        ("s2l2a.cloud_band=B02", ["s2l2a.cloud_band", "'B02'", "SCL"]),
        ("s1rtc.native_crs=true", ["s1rtc.native_crs", "s2l2a alone"]),
        ("s1rtc.dtype=complex64", ["s1rtc.dtype", "complex64"]),
        ("lulc.year=2023", ["lulc.year", "2023"]),
        ("lulc.year=2024-01-01/2024-12-31", ["lulc.year", "io-lulc-annual-v02 has the years 2017 to 2023"]),
        ("lulc.year=2016-01-02/2016-12-31", ["lulc.year", "io-lulc-annual-v02 has the years 2017 to 2023"]),
        ("lulc=", ["section lulc is missing"]),
        ("dataset=", ["dataset is missing"]),
        ("dataset.version=a/b", ["dataset.version", "a/b"]),
        ("chips.chip_size=480", ["chips.chip_size 480 is smaller than chips.sample_size 960"]),
        ("chips.chip_size=970", ["(chips.chip_size - chips.sample_size) / 2 = 5 m", "resolution 10"]),
        ("chips.sample_size=320", ["chips.sample_size = 320 m", "lc2l2.resolution 30"]),
        ("chips.stride=100", ["chips.stride = 100 m", "lc2l2.resolution 30"]),
        ("lc2l2.resolution=70", ["lc2l2.resolution 70", "960"]),
        ("chips.classes=[1, 4]", ["chips.classes and chips.forbidden both name 4"]),
        ("chips.classes=[3]", ["chips.classes: found 3", "5 Crops"]),
        ("chips.min_clear={s2l2a: [1, 1]}", ["chips.min_clear", "2 shares for 4 time ranges"]),
        ("chips.min_clear={s3: 1}", ["chips.min_clear.s3", "s2l2a"]),
        ("chips.min_purity=1.5", ["chips.min_purity", "1.5"]),
        ("s2l2a={fill_na: true, na_value: -40000, dtype: int16}", ["na_value -40000", "int16"]),
        ("release.splits={train: 0.8, val: 0.1}", ["release.splits add up to 0.9"]),
        ("release.splits={train: 0.8, none: 0.2}", ["release.splits", "'none'", "rename"]),
        ("chips.min_clear=most", ["chips.min_clear: found 'most'; expected a share from 0 to 1"]),
        (
            "chips.min_clear={s2l2a: [1, 2, 1, 1]}",
            ["chips.min_clear: found {'s2l2a': [1, 2, 1, 1]}; expected"],
        ),
        ("directory.working=''", ["directory.working", "''"]),
        ("s2l2a.bands=[SCL]", ["s2l2a.bands: SCL is a mask"]),
        ("lc2l2.bands=qa_pixel", ["lc2l2.bands: qa_pixel is a mask"]),
        ("s1rtc.dtype=int16", ["s1rtc.dtype int16", "float32"]),
        (
            "s2l2a={fill_na: true, na_value: 77, dtype: int16, time_ranges: 2023-01-01/2023-01-31}",
            ["s2l2a.na_value 77 is a valid number"],
        ),
        ("lc2l2={fill_na: true, na_value: 65535, dtype: uint16}", ["lc2l2.na_value 65535"]),
        (
            "s2l2a={rank: aoi, bands: [B02], time_ranges: 2023-01-01/2023-01-31}",
            ["s2l2a.rank: aoi needs s2l2a.cloud_band: SCL"],
        ),
        ("compute.memory_limit=lots", ["compute.memory_limit: found 'lots'", "4GiB"]),
        ("compute.memory_limit=-1", ["compute.memory_limit: found '-1'"]),
        (
            "s2l2a.time_ranges=[2023-01-01/2023-03-31T12:00:00Z, 2023-03-31T13:00:00Z/2023-06-30]",
            ["share a day"],
        ),
        ('s2l2a.time_ranges=["0001-01-01T00:00+14:00/2023-12-31"]', ["+14:00", "is not a time range"]),
        ("s2l2a=3", ["s2l2a: found 3"]),
        ("chips=3", ["chips: found 3"]),
        ("chips.min_purty=", ["chips.min_purty", "did you mean chips.min_purity?"]),
        ("s2l2a.cloud_covr=", ["s2l2a.cloud_covr", "did you mean s2l2a.cloud_cover?"]),
        ("aoi={}", ["aoi.version", "aoi.path"]),
        ("aoi.max_side_m=500", ["aoi.max_side_m 500"]),
    ],
)
def test_bad_values_give_one_line_that_names_them(tmp_path: Path, override: str, words: list[str]) -> None:
    path = write(tmp_path, gelos_form())
    with pytest.raises(ConfigError) as caught:
        load_config(path, [override])
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("a: [", "not valid YAML"),
        ("a: \0", r"not valid YAML: unacceptable character #x0000[^\n]*$"),
        ("", "no keys"),
        ("dataset: {}\ndataset: {}\n", "given twice"),
        ("[1]", "no keys"),
        ("1: 2\n", "line 1: key 1 is no text"),
        ("dataset: {1: 2}\n", "key 1 is no text"),
        ("? [1, 2]\n: 3\n", r"key \[1, 2\] is no text"),
    ],
)
def test_bad_yaml_gives_one_line(tmp_path: Path, text: str, word: str) -> None:
    with pytest.raises(ConfigError, match=word) as caught:
        load_config(write(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: no such config file"):
        load_config(tmp_path / "nowhere.yaml")


def test_missing_aoi_file_names_the_places_tried(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, gelos_form()), ["aoi.version=v9.99"])
    with pytest.raises(ConfigError) as caught:
        _ = config.aoi_path
    assert str(caught.value).count("map_v9.99.geojson") >= 3
    assert "configs/aois" in str(caught.value)


def test_override_sets_nested_keys(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, gelos_form()), ["chips.min_clear=0.5", "compute.workers=1"])
    assert config.chips.threshold("min_clear", "s2l2a", 0) == 0.5
    assert config.compute.workers == 1


def test_partial_mapping_keeps_the_other_sensors_default(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, gelos_form()), ["chips.min_clear={s2l2a: [1, 0.5, 1, 1]}"])
    assert [config.chips.threshold("min_clear", "s2l2a", i) for i in range(4)] == [1, 0.5, 1, 1]
    assert config.chips.threshold("min_clear", "lc2l2", 0) == 0.95


def test_a_bare_day_ends_with_its_last_second() -> None:
    span = TimeRange.parse("2023-01-01/2023-03-31")
    assert span.end.isoformat() == "2023-03-31T23:59:59+00:00"
    assert TimeRange.parse("2023-01-01T00:00:00Z/2023-03-31T12:00:00Z").end.hour == 12


def test_offsets_are_read_as_utc() -> None:
    span = TimeRange.parse("2023-01-01T00:00:00+02:00/2023-03-31T12:00:00+02:00")
    assert [time.isoformat() for time in span] == ["2022-12-31T22:00:00+00:00", "2023-03-31T10:00:00+00:00"]


def test_empty_keys_and_sections_mean_their_defaults(tmp_path: Path) -> None:
    data = gelos_form()
    data["directory"]["zip_output"] = True  # the default
    plain = load_config(write(tmp_path, {**data, "dem": {}, "s1rtc": {}, "catalog": {}}))
    data |= {"dem": None, "s1rtc": None, "catalog": {"cache": None, "url": None}, "compute": None}
    data["chips"] |= {"min_purity": None, "min_clear": None, "stride": None}
    data["directory"]["zip_output"] = None
    data["log_errors"] = None
    assert load_config(write(tmp_path, data)) == plain


def test_empty_is_a_value_where_a_key_says_so(tmp_path: Path) -> None:
    path = write(tmp_path, gelos_form())
    assert load_config(path, ["chips.max_per_class="]).chips.max_per_class is None
    assert load_config(path).chips.max_per_class == 400


def test_an_empty_land_cover_section_says_what_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"lulc\.year is missing"):
        load_config(write(tmp_path, {**gelos_form(), "lulc": None}))


def test_an_empty_override_of_a_sensor_does_without_it(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, gelos_form()), ["lc2l2=", "dem=null"])
    assert list(config.sensors) == ["s2l2a", "s1rtc", "lulc"]


def test_merge_keys_are_laid_under_a_section(tmp_path: Path) -> None:
    text = yaml.safe_dump(gelos_form())
    path = write(tmp_path, text.replace("chips:\n", "chips:\n  <<: &sizes {stride: 480, sample_size: 480}\n"))
    config = load_config(path)
    assert (config.chips.stride, config.chips.sample_size) == (480, 960)


@pytest.mark.parametrize("limit", ["auto", "4GiB", "0.5", "1", "2e9", "0"])
def test_memory_limits_as_dask_writes_them(tmp_path: Path, limit: str) -> None:
    config = load_config(write(tmp_path, gelos_form()), [f"compute.memory_limit={limit}"])
    assert config.compute.memory_limit != ""


@pytest.mark.parametrize("na_value", [0, -1, 70_000])
def test_a_na_value_outside_the_valid_numbers_is_fine(tmp_path: Path, na_value: int) -> None:
    given = [f"s2l2a.{key}" for key in ("fill_na=true", "dtype=int32", f"na_value={na_value}")]
    assert load_config(write(tmp_path, gelos_form()), given).sensors["s2l2a"].na_value == na_value


@pytest.mark.parametrize(
    ("working", "output"),
    [
        ("data", "data"),
        ("data", "./other/../data/"),
        ("data/v0.50.1", "data"),
        ("data", "data/v0.50.1/chips"),
        ("s3://bucket/data", "s3://bucket/data/"),
    ],
)
def test_a_release_may_not_replace_the_cubes(tmp_path: Path, working: str, output: str) -> None:
    path = write(tmp_path, gelos_form())
    with pytest.raises(ConfigError, match=r"directory\.working and directory\.output"):
        load_config(path, [f"directory.working={working}", f"directory.output={output}"])


@pytest.mark.parametrize(
    ("working", "output"),
    [("data", "data/out"), ("data/in", "data"), ("s3://one/data", "s3://two/data"), ("data", "s3://data")],
)
def test_folders_beside_each_other_are_fine(tmp_path: Path, working: str, output: str) -> None:
    path = write(tmp_path, gelos_form())
    assert load_config(path, [f"directory.working={working}", f"directory.output={output}"])
