"""gelos-lc init: from a file of areas to a config that loads and that a build takes."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from pathlib import Path

import geopandas as gpd
import pytest
import yaml
from click.testing import CliRunner, Result
from shapely import Point, Polygon, box

from cube.build.new_config import write_config
from cube.config.aoi import load_aois
from cube.config.reading import load_config
from cube.errors import AoiError
from cube.scenes.estimate import Cost, estimate_cost
from cube.testing import Archive
from cube.testing.cubes import plan_from_times
from cube.windows.grid import aoi_bounds
from release.cli import main

QUARTERS = [datetime(2022, month, 10, 10, tzinfo=UTC) for month in (2, 5, 8, 11)]


def typed(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, list(map(str, arguments)), prog_name="gelos-lc")


def squares(*sides_m: int) -> gpd.GeoDataFrame:
    """Return squares in UTM zone 33, whose corners lie on no lattice."""
    shapes = [
        box(x, 5_800_010, x + side, 5_800_010 + side)
        for x, side in zip(range(400_010, 900_000, 60_000), sides_m, strict=False)
    ]
    return gpd.GeoDataFrame({"name": [f"É {side}" for side in sides_m]}, geometry=shapes, crs=32633)


def test_a_build_takes_it(sample_archive: Archive, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = typed("init", sample_archive.aois)
    assert done.exit_code == 0, done.output
    written = Path(f"{Path(sample_archive.aois).stem}.yaml")
    assert f"gelos-lc run -c {written}" in done.stdout
    keys = ("catalog.cache=", "s1rtc=", "lc2l2=", "dem=", "s2l2a.bands=[B04]", "compute.workers=0")
    settings = [part for key in (f"catalog.url={sample_archive.items}", *keys) for part in ("--set", key)]
    built = typed("build", "-c", written, "--aoi", "4", *settings)
    assert built.exit_code == 0, built.output
    assert "1 built" in built.stdout


def test_it_says_how_much_of_the_cubes_is_no_area_of_mine(tmp_path: Path) -> None:
    """A square in a box of 10 lattice steps, 100 m from its edges, and half of that square."""
    left, bottom, side = 480_100, 5_760_100, 9_400
    square = box(left, bottom, left + side, bottom + side)
    half = Polygon([(left, bottom), (left + side, bottom), (left, bottom + side)])
    for name, shape, said in (
        ("square", square, ""),
        ("half", half, f"{1 - 9.4**2 / 2 / 9.6**2:.0%} of the cubes lies outside"),
    ):
        path = tmp_path / f"{name}.gpkg"
        gpd.GeoDataFrame(geometry=[shape], crs=32633).to_file(path)
        proposal = write_config(path, tmp_path / f"{name}.yaml", 2022)
        lines = [line for line in str(proposal).splitlines() if "outside" in line]
        assert len(lines) == bool(said)
        assert all(line.startswith(said) and "aoi.clip: centre" in line for line in lines)


@pytest.mark.parametrize(
    ("sides", "sample", "chip"),
    [((2_000, 2_500, 30_000), 240, 480), ((5_000, 6_000), 480, 960), ((20_000,), 960, 960)],
)
def test_sizes_windows_and_cost_follow_from_the_areas(
    tmp_path: Path, sides: tuple[int, ...], sample: int, chip: int
) -> None:
    (tmp_path / "in").mkdir()
    areas = tmp_path / "in" / "my areas.gpkg"
    squares(*sides).to_file(areas)
    said = write_config(areas, tmp_path / "configs" / "mine.yaml", 2022)
    text = said.path.read_text()
    assert yaml.safe_load(text)["aoi"]["path"] == "../in/my areas.gpkg"
    config = load_config(said.path)
    assert (config.dataset.name, config.chips.sample_size, config.chips.chip_size) == (
        "my-areas",
        sample,
        chip,
    )
    assert [span.start.year for span in config.ranges] == [2022] * 4

    aois = load_aois(config)
    assert [aoi.name for aoi in aois] == [f"É {side}" for side in sides]
    windows, cost = 0, Cost()
    for aoi in aois:
        bounds = aoi_bounds(aoi.geometry, 32633)
        margin = (chip - sample) // 2
        across, down = (
            sum(
                low + margin <= at and at + sample + margin <= high
                for at in range(math.ceil(low / sample) * sample, high, sample)
            )
            for low, high in ((bounds.left, bounds.right), (bounds.bottom, bounds.top))
        )
        windows += across * down
        cost += estimate_cost(plan_from_times(config, bounds, 32633, QUARTERS))
    assert said.windows == windows
    assert f"# {windows:,} windows" in text
    assert said.cost.fetch_bytes == pytest.approx(cost.fetch_bytes)
    assert said.cost.store_bytes == pytest.approx(cost.store_bytes)
    assert [path.name for path in said.path.parent.iterdir()] == ["mine.yaml"]


def test_areas_that_cannot_be_used_and_names_that_are_taken_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    points = gpd.GeoDataFrame({"name": ["Łódź"]}, geometry=[Point(19.5, 51.8)], crs=4326)
    points.to_file("points.geojson")
    squares(5_000).to_file("areas.gpkg")
    Path("areas.yaml").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    for arguments, words in (
        (["points.geojson"], "AOI 0 (Łódź): is a Point; expected a Polygon"),
        (["nowhere.gpkg"], "nowhere.gpkg: cannot be read"),
        (["areas.gpkg"], "areas.yaml exists; name another with -o, or remove it"),
        (["areas.gpkg", "-o", "areas.gpkg/mine.yaml"], "areas.gpkg/mine.yaml"),
    ):
        done = typed("init", *arguments)
        assert done.exit_code == 2, done.output
        assert words in done.stderr
        assert done.stderr.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before
    assert Path("areas.yaml").read_text() == "mine"
    with pytest.raises(AoiError):
        write_config(Path("points.geojson"), None, 2023)
