"""Pixels: every read is checked against GDAL's own, through rasterio, on rasters made here."""

from __future__ import annotations

import contextlib
import logging
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rasterio.transform
import rasterio.warp
from numpy.typing import NDArray
from odc.geo.geobox import GeoBox
from pyproj import Transformer
from shapely import box
from shapely.geometry.base import BaseGeometry

from cube.config.sensors import SENSORS
from cube.errors import ReadError
from cube.pixels.access import Access
from cube.pixels.preview import clear_share
from cube.pixels.read import harmonize_dn, read_band, read_bands
from cube.scenes.acquisition import Acquisition
from cube.scenes.items import AssetRef, Scene
from cube.testing import utm_geobox, write_cog
from cube.windows.grid import Bounds, geobox_for
from cube.windows.projection import split_at_antimeridian

BOUNDS = Bounds(300_480, 5_490_240, 304_320, 5_493_120)
GRID_10 = geobox_for(BOUNDS, 32633, 10)
GRID_30 = geobox_for(BOUNDS, 32633, 30)
RNG = np.random.default_rng(0)


def scene(path: Path | str, key: str, band: str, name: str = "item", **properties: Any) -> Scene:
    when = datetime(2023, 5, 9, 10, tzinfo=UTC)
    asset = AssetRef(SENSORS[key].band(band).asset_key, str(path))
    return Scene(name, "c", when, when, when, footprint(path), properties, {band: asset}, "")


def footprint(path: Path | str) -> BaseGeometry:
    """Return where a file lies by GDAL, in EPSG:4326; somewhere, where it cannot tell."""
    unknown = contextlib.suppress(rasterio.errors.RasterioError, rasterio.errors.CRSError)
    with unknown, rasterio.open(path) as file:
        bounds = rasterio.warp.transform_bounds(file.crs, 4326, *file.bounds)
        if np.isfinite(bounds).all():
            return split_at_antimeridian(box(*bounds))
    return box(12, 49, 13, 50)


def read(
    scenes: tuple[Scene, ...],
    key: str,
    band: str,
    grid: GeoBox,
    *,
    resampling: str = "",
    harmonize: bool = False,
) -> NDArray[Any]:
    sensor = SENSORS[key]
    return read_band(
        scenes,
        sensor,
        sensor.band(band),
        grid,
        Access(),
        resampling=resampling or sensor.resampling,
        harmonize=harmonize,
    )


def warped(path: Path, grid: GeoBox, dtype: str, nodata: float, fill: float, resampling: str) -> NDArray[Any]:
    """Return GDAL's warp of a file onto a grid."""
    values = np.full(grid.shape, fill, dtype)
    with rasterio.open(path) as source:
        rasterio.warp.reproject(
            rasterio.band(source, 1),
            values,
            src_nodata=nodata,
            dst_nodata=fill,
            dst_crs=str(grid.crs),
            dst_transform=grid.transform,
            resampling=rasterio.warp.Resampling[resampling],
        )
    return values


@pytest.mark.parametrize("resolution", [10, 20, 60])
def test_sentinel2_pixels_are_copied_and_fill_their_blocks(tmp_path: Path, resolution: int) -> None:
    grid = utm_geobox(32633, (300_000, 5_489_760, 305_760, 5_495_520), resolution)
    dn = RNG.integers(1, 12_000, grid.shape).astype("uint16")
    write_cog(tmp_path / "b.tif", dn, grid, nodata=0)
    got = read((scene(tmp_path / "b.tif", "s2l2a", "B05"),), "s2l2a", "B05", GRID_10)
    with rasterio.open(tmp_path / "b.tif") as source:
        x, y = np.meshgrid(GRID_10.coordinates["x"].values, GRID_10.coordinates["y"].values)
        some = slice(None, None, 101)  # no multiple of a row: all columns come in turn
        expected = [value for (value,) in source.sample(zip(x.flat[some], y.flat[some], strict=True))]
    np.testing.assert_array_equal(got.flat[some], expected)
    np.testing.assert_array_equal(got, warped(tmp_path / "b.tif", GRID_10, "uint16", 0, 0, "nearest"))


def test_outside_the_file_is_nodata(tmp_path: Path) -> None:
    grid = utm_geobox(32633, (301_440, 5_491_200, 303_360, 5_492_160), 10)
    write_cog(tmp_path / "b.tif", np.full(grid.shape, 7, "uint16"), grid, nodata=0)
    got = read((scene(tmp_path / "b.tif", "s2l2a", "B02"),), "s2l2a", "B02", GRID_10)
    inside = (slice(96, 192), slice(96, 288))
    assert (got[inside] == 7).all()
    got[inside] = 0
    assert (got == 0).all()
    far = utm_geobox(32633, (400_320, 5_491_200, 403_200, 5_492_160), 10)
    write_cog(tmp_path / "far.tif", np.full(far.shape, 7, "uint16"), far, nodata=0)
    assert (read((scene(tmp_path / "far.tif", "s2l2a", "B02"),), "s2l2a", "B02", GRID_10) == 0).all()


@pytest.mark.parametrize("west", [1e25, 1e300])
def test_a_place_beyond_all_bounds_is_told_of_the_file(tmp_path: Path, west: float) -> None:
    with rasterio.open(
        tmp_path / "b.tif", "w", driver="GTiff", width=96, height=96, count=1, dtype="uint16", nodata=0,
        crs="EPSG:32633", transform=rasterio.transform.from_origin(west, 5_491_200, 10, 10),
    ) as file:  # fmt: skip
        file.write(np.ones((1, 96, 96), "uint16"))
    with pytest.raises(ReadError, match="asset B02: its CRS and geotransform put the file elsewhere"):
        read((scene(tmp_path / "b.tif", "s2l2a", "B02"),), "s2l2a", "B02", GRID_10)


def test_landsat_is_gdals_cubic_warp_and_its_quality_bits_are_copied_whole(tmp_path: Path) -> None:
    grid = utm_geobox(32633, (299_985, 5_489_985, 305_985, 5_493_975), 30)
    yy, xx = np.mgrid[: grid.shape[0], : grid.shape[1]]
    dn = (8000 + 3000 * np.sin(xx / 5) * np.cos(yy / 7) + RNG.integers(0, 400, grid.shape)).astype("uint16")
    dn[20:30, 40:60] = 0
    write_cog(tmp_path / "red.tif", dn, grid, nodata=0)
    got = read((scene(tmp_path / "red.tif", "lc2l2", "red"),), "lc2l2", "red", GRID_30)
    np.testing.assert_array_equal(got, warped(tmp_path / "red.tif", GRID_30, "uint16", 0, 0, "cubic"))
    qa = RNG.choice(np.array([21824, 22280, 23888, 1], "uint16"), grid.shape)
    write_cog(tmp_path / "qa.tif", qa, grid, nodata=1)
    got = read((scene(tmp_path / "qa.tif", "lc2l2", "qa_pixel"),), "lc2l2", "qa_pixel", GRID_30)
    assert set(np.unique(got)) <= {21824, 22280, 23888, 1}
    np.testing.assert_array_equal(got, warped(tmp_path / "qa.tif", GRID_30, "uint16", 1, 1, "nearest"))


@pytest.mark.parametrize(
    ("key", "band", "source", "grid", "dtype"),
    [
        ("s2l2a", "B08", 32632, GRID_10, "uint16"),
        ("s1rtc", "vv", 32632, GRID_10, "float32"),
        ("dem", "elevation", 4326, GRID_30, "float32"),
    ],
)
def test_out_of_zone_is_gdals_warp_of_the_block_and_near_an_exact_one(
    tmp_path: Path, key: str, band: str, source: int, grid: GeoBox, dtype: str
) -> None:
    to_source = Transformer.from_crs(32633, source, always_xy=True)
    xs, ys = np.meshgrid(grid.coordinates["x"].values, grid.coordinates["y"].values)
    sx, sy = to_source.transform(xs, ys)
    step = 1 / 3600 if source == 4326 else 10
    left, top = np.floor(sx.min() / step - 8) * step, np.ceil(sy.max() / step + 8) * step
    shape = (int((top - sy.min()) / step) + 16, int((sx.max() - left) / step) + 16)
    native = GeoBox(shape, rasterio.Affine(step, 0, left, 0, -step, top), source)
    # Each pixel holds its own column: the warp then tells which column it was taken from.
    columns = np.broadcast_to(np.arange(shape[1]) + 100, shape).astype(dtype)
    nodata = {"s2l2a": 0, "s1rtc": -32768, "dem": np.nan}[key]
    write_cog(tmp_path / "a.tif", columns, native, nodata=None if np.isnan(nodata) else nodata)
    got = read((scene(tmp_path / "a.tif", key, band),), key, band, grid)
    fill = SENSORS[key].band(band).nodata
    resampling = SENSORS[key].resampling
    np.testing.assert_array_equal(got, warped(tmp_path / "a.tif", grid, dtype, nodata, fill, resampling))
    exact = (sx - left) / step + 100 - 0.5
    if resampling == "nearest":
        exact = np.round(exact)
        assert (np.abs(got - exact) > 1).mean() == 0
        assert (got != exact).mean() < 0.15  # only where the sample lies within an eighth of a pixel's edge
    else:
        assert np.abs(got - exact).max() <= 1 / 8


def test_the_files_own_georeferencing_wins(tmp_path: Path) -> None:
    values = RNG.random(GRID_10.shape, dtype="float32") + 0.01
    write_cog(tmp_path / "vv.tif", values, GRID_10, nodata=-32768)
    lying = scene(tmp_path / "vv.tif", "s1rtc", "vv")
    moved = AssetRef("vv", str(tmp_path / "vv.tif"), 32632, (10, 0, 0, 0, -10, 0), (5, 5))
    got = read((replace(lying, assets={"vv": moved}),), "s1rtc", "vv", GRID_10)
    np.testing.assert_array_equal(got, values)


@pytest.mark.parametrize("tagged", [True, False])
def test_sentinel1_nodata_and_unmarked_zeros_become_nan(tmp_path: Path, tagged: bool) -> None:
    values = RNG.random(GRID_10.shape, dtype="float32") + 0.01
    values[:, :50] = -32768
    values[:, 50:80] = 0
    write_cog(tmp_path / "vv.tif", values, GRID_10, nodata=-32768 if tagged else None)
    got = read((scene(tmp_path / "vv.tif", "s1rtc", "vv"),), "s1rtc", "vv", GRID_10)
    assert np.isnan(got[:, :80]).all()
    np.testing.assert_array_equal(got[:, 80:], values[:, 80:])


def test_a_warp_does_not_mix_unmarked_zeros_into_the_data(tmp_path: Path) -> None:
    grid = utm_geobox(32633, (299_985, 5_489_985, 305_025, 5_493_975), 10)
    values = np.full(grid.shape, 0.2, "float32")
    values[:, :200] = 0
    write_cog(tmp_path / "vv.tif", values, grid, nodata=-32768)
    got = read((scene(tmp_path / "vv.tif", "s1rtc", "vv"),), "s1rtc", "vv", GRID_10)
    seen = got[np.isfinite(got)]
    assert seen.size > got.size / 2
    np.testing.assert_allclose(seen, 0.2, rtol=1e-6)


def test_in_a_mosaic_the_first_wins_and_the_next_fills(tmp_path: Path) -> None:
    one, two = np.full(GRID_10.shape, 0.1, "float32"), np.full(GRID_10.shape, 0.2, "float32")
    one[:100] = -32768
    two[:50] = -32768
    for name, values in (("one", one), ("two", two)):
        write_cog(tmp_path / f"{name}.tif", values, GRID_10, nodata=-32768)
    scenes = tuple(scene(tmp_path / f"{name}.tif", "s1rtc", "vv", name) for name in ("one", "two"))
    got = read(scenes, "s1rtc", "vv", GRID_10)
    assert np.isnan(got[:50]).all()
    assert (got[50:100] == np.float32(0.2)).all()
    assert (got[100:] == np.float32(0.1)).all()


def test_all_bands_of_a_pixel_come_from_one_scene(tmp_path: Path) -> None:
    """A cloudy colour must never end up under the clear mask of another scene."""
    clear = {"red": np.full(GRID_30.shape, 9000), "green": np.full(GRID_30.shape, 9000), "qa_pixel": 21824}
    cloudy = {"red": np.full(GRID_30.shape, 40000), "green": np.full(GRID_30.shape, 40000), "qa_pixel": 22280}
    clear["red"][:20] = 0  # the first scene lacks one band here
    clear["red"][:10], clear["green"][:10] = 0, 0
    scenes = []
    for name, layers in (("clear", clear), ("cloudy", cloudy)):
        assets = {}
        for band, values in layers.items():
            array = np.broadcast_to(np.asarray(values, "uint16"), GRID_30.shape).copy()
            if name == "clear" and band == "qa_pixel":
                array[:10] = 1
            write_cog(tmp_path / f"{name}_{band}.tif", array, GRID_30, nodata=1 if band == "qa_pixel" else 0)
            assets[band] = AssetRef(band, str(tmp_path / f"{name}_{band}.tif"))
        scenes.append(replace(scene("", "lc2l2", "red", name), assets=assets))
    got = dict(
        read_bands(
            tuple(scenes),
            SENSORS["lc2l2"],
            ("green", "red", "qa_pixel"),
            GRID_30,
            Access(),
            resampling="cubic",
            harmonize=False,
        )
    )
    for rows, red, green, qa in ((slice(0, 20), 40000, 40000, 22280), (slice(20, None), 9000, 9000, 21824)):
        assert (got["red"][rows] == red).all()
        assert (got["green"][rows] == green).all()
        assert (got["qa_pixel"][rows] == qa).all()
    assert list(got) == ["green", "red", "qa_pixel"]


@pytest.mark.parametrize(("baseline", "lowered"), [("03.01", False), ("04.00", True), ("05.11", True)])
def test_the_offset_goes_exactly_where_the_baseline_says(
    tmp_path: Path, baseline: str, lowered: bool
) -> None:
    dn = np.zeros(GRID_10.shape, "uint16")
    dn[:, 1:] = RNG.integers(1, 60_000, (GRID_10.shape[0], GRID_10.shape[1] - 1))
    dn[0, :4] = [0, 1, 1000, 1001]
    write_cog(tmp_path / "b.tif", dn, GRID_10, nodata=0)
    one = scene(tmp_path / "b.tif", "s2l2a", "B02", **{"s2:processing_baseline": baseline})
    got = read((one,), "s2l2a", "B02", GRID_10, harmonize=True)
    shifted = np.clip(dn.astype(int) - 1000, 1, None)
    expected = np.where(dn == 0, 0, shifted if lowered else dn)
    np.testing.assert_array_equal(got, expected)
    assert got.dtype == np.uint16
    np.testing.assert_array_equal(read((one,), "s2l2a", "B02", GRID_10), dn)
    np.testing.assert_array_equal(harmonize_dn(dn, one), expected)


def test_a_read_that_fails_names_item_and_asset(tmp_path: Path) -> None:
    path = tmp_path / "B02.tif"
    with pytest.raises(ReadError, match="item gone, asset B02: the file is missing"):
        read((scene(path, "s2l2a", "B02", "gone"),), "s2l2a", "B02", GRID_10)
    write_cog(path, RNG.integers(1, 9999, GRID_10.shape).astype("uint16"), GRID_10, nodata=0)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ReadError, match=r"item cut, asset B02: "):
        read((scene(path, "s2l2a", "B02", "cut"),), "s2l2a", "B02", GRID_10)


@pytest.mark.parametrize("grid", [GRID_10, geobox_for(Bounds(728640, 5491200, 731520, 5493120), 32632, 10)])
def test_a_tile_that_does_not_decode_is_an_error_in_a_copy_and_in_a_warp(
    tmp_path: Path, grid: GeoBox
) -> None:
    path = tmp_path / "B02.tif"
    native = utm_geobox(32633, (280_320, 5_480_640, 309_120, 5_500_800), 10)
    write_cog(path, RNG.integers(1, 9999, native.shape).astype("uint16"), native, nodata=0)
    data = bytearray(path.read_bytes())
    for at in range(20_000, len(data), 5_000):
        data[at : at + 64] = b"\xff" * 64
    path.write_bytes(bytes(data))
    with pytest.raises(ReadError, match=r"item item, asset B02: "):
        read((scene(path, "s2l2a", "B02"),), "s2l2a", "B02", grid)


def test_clear_share_is_that_of_the_aoi(tmp_path: Path) -> None:
    grid = utm_geobox(32633, (300_000, 5_489_760, 305_760, 5_495_520), 20)
    scl = np.full(grid.shape, 4, "uint8")
    scl[:, grid.shape[1] // 2 :] = 9
    write_cog(tmp_path / "scl.tif", scl, grid, nodata=0)
    to_lonlat = Transformer.from_crs(32633, 4326, always_xy=True)

    def share(left: float, right: float) -> float:
        corners = to_lonlat.transform([left, right], [5_491_000, 5_494_000])
        aoi = box(corners[0][0], corners[1][0], corners[0][1], corners[1][1])
        one = scene(tmp_path / "scl.tif", "s2l2a", "SCL")
        acquisition = Acquisition("33UUR", (one,), 1.0, 0.0)
        return clear_share(acquisition, aoi, clear=(4, 5), access=Access())

    assert share(300_500, 302_500) == 1
    assert share(303_300, 305_300) == 0
    assert share(301_380, 304_380) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(
    ("key", "band", "dtype"),
    [("s2l2a", "B02", "int16"), ("s2l2a", "SCL", "uint16"), ("lulc", "lulc", "float32")],
)
def test_a_file_whose_numbers_the_cube_cannot_hold_is_refused(
    tmp_path: Path, key: str, band: str, dtype: str
) -> None:
    write_cog(tmp_path / "b.tif", np.full(GRID_10.shape, 7, dtype), GRID_10, nodata=0)
    with pytest.raises(ReadError, match=f"the file is {dtype}, whose numbers uint"):
        read((scene(tmp_path / "b.tif", key, band),), key, band, GRID_10)


def test_integers_of_an_elevation_model_become_floats_and_its_nodata_nan(tmp_path: Path) -> None:
    metres = RNG.integers(-5, 900, GRID_30.shape).astype("int16")
    metres[3, 4] = -32768
    write_cog(tmp_path / "dem.tif", metres, GRID_30, nodata=-32768)
    got = read((scene(tmp_path / "dem.tif", "dem", "elevation"),), "dem", "elevation", GRID_30)
    np.testing.assert_array_equal(got, np.where(metres == -32768, np.nan, metres.astype("float32")))


@pytest.mark.parametrize("resampling", ["bilinear", "cubic"])
@pytest.mark.parametrize("resolution", [10, 30, 60])
@pytest.mark.parametrize("beyond", ["west", "south-east"])
def test_a_warp_of_a_block_that_ends_beyond_the_file_is_gdals_of_the_whole_file(
    tmp_path: Path, beyond: str, resolution: int, resampling: str
) -> None:
    path = tmp_path / "dem.tif"
    native = utm_geobox(32633, (300_000, 5_470_000, 330_000, 5_500_000), 10)
    write_cog(path, RNG.normal(300, 60, native.shape).astype("float32"), native, nodata=-9999)
    left, bottom = (727_680, 5_485_440) if beyond == "west" else (757_440, 5_470_080)
    grid = geobox_for(Bounds(left, bottom, left + 7680, bottom + 7680), 32632, resolution)
    values = read((scene(path, "dem", "elevation"),), "dem", "elevation", grid, resampling=resampling)
    expected = warped(path, grid, "float32", -9999, np.nan, resampling)
    assert 0.1 < np.isfinite(expected).mean() < 0.9
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("west", "epsg", "left"),
    [
        (175, 32701, 392_640),  # 180 to 180.1 is -180 to -179.9
        (-185, 32760, 590_400),  # -181 to -180.9 is 179 to 179.1
    ],
)
def test_a_file_that_goes_on_beyond_the_antimeridian_is_read_there(
    tmp_path: Path, west: float, epsg: int, left: int
) -> None:
    path = tmp_path / "dem.tif"
    profile = {"driver": "GTiff", "width": 1000, "height": 400, "count": 1, "dtype": "float32"}
    place = {"crs": "EPSG:4326", "transform": rasterio.transform.from_origin(west, -15, 0.01, 0.01)}
    with rasterio.open(path, "w", **profile, **place, nodata=-9999) as file:
        file.write(RNG.normal(300, 60, (400, 1000)).astype("float32"), 1)
    grid = geobox_for(Bounds(left, 8_180_160, left + 9600, 8_189_760), epsg, 30)
    values = read((scene(path, "dem", "elevation"),), "dem", "elevation", grid)
    expected = warped(path, grid, "float32", -9999, np.nan, "bilinear")
    assert np.isfinite(expected).all()
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("crs", [32633, 32632])
def test_what_a_files_own_mask_hides_is_nodata_in_a_copy_and_in_a_warp(tmp_path: Path, crs: int) -> None:
    path = tmp_path / "dem.tif"
    left = 300_480 if crs == 32633 else 733_440
    native = utm_geobox(32633, (300_000, 5_480_010, 330_000, 5_500_020), 30)
    profile = {"driver": "GTiff", "width": native.shape[1], "height": native.shape[0], "count": 1}
    place = {"dtype": "float32", "crs": "EPSG:32633", "transform": native.transform}
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "w", **profile, **place) as file:
        file.write(np.full(native.shape, 7, "float32"), 1)
        hidden = np.zeros(native.shape, bool)
        hidden[:, :100] = True
        file.write_mask(~hidden)
    grid = geobox_for(Bounds(left, 5_485_440, left + 5760, 5_491_200), crs, 30)
    values = read((scene(path, "dem", "elevation"),), "dem", "elevation", grid)
    assert 0.2 < np.isnan(values).mean() < 0.8
    assert np.unique(values[np.isfinite(values)]).tolist() == [7]


@pytest.mark.parametrize("library", ["rasterio._env", "odc.loader._rio"])
def test_what_libraries_log_of_a_read_holds_no_signature(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, library: str
) -> None:
    write_cog(tmp_path / "scl.tif", np.full(GRID_10.shape, 4, "uint8"), GRID_10, nodata=0)
    read((scene(tmp_path / "scl.tif", "s2l2a", "SCL"),), "s2l2a", "SCL", GRID_10)
    caplog.set_level(logging.ERROR, library)  # commands may have silenced it in this process
    logging.getLogger(library).error("Failed to load %s", "https://host/scl.tif?se=2099&sig=c2VjcmV0")
    assert "https://host/scl.tif" in caplog.text
    assert "c2VjcmV0" not in caplog.text


def test_a_scene_that_does_not_say_where_it_lies_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "scl.tif"
    with rasterio.open(path, "w", driver="GTiff", width=9, height=9, count=1, dtype="uint8") as file:
        file.write(np.full((9, 9), 4, "uint8"), 1)
    acquisition = Acquisition("33UUR", (scene(path, "s2l2a", "SCL"),), 1.0, 0.0)
    with pytest.raises(
        ReadError, match="item item, asset SCL: the file names no CRS, and neither does its item"
    ):
        clear_share(acquisition, box(12.1, 49.1, 12.2, 49.2), clear=(4,), access=Access())
