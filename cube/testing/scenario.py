"""The scenes of the sample archive, as data: what was acquired when, under which clouds.

Places are in metres of EPSG:32633 unless another zone is named.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from cube.testing.landscape import AREA_M
from cube.testing.radiometry import Blob

Bounds = tuple[float, float, float, float]

MIDDLE_Y_M = (AREA_M[1] + AREA_M[3]) / 2
LEAN = 0.21
"""Easting gained per metre of northing along a descending orbit at 50 N (a heading of about 192
degrees)."""


@dataclass(frozen=True)
class Tile:
    """A Sentinel-2 tile, cut to the sample area."""

    epsg: int
    bounds_m: Bounds
    """Multiples of 60 m, as the corners of whole tiles are."""
    small_m: Bounds
    """What the files of scenes hold that are not worth their bytes: 3.84 km a side."""


TILES = {
    "33UUR": Tile(32633, (300000, 5538240, 328320, 5546880), (308640, 5540640, 312480, 5544480)),
    "33UTR": Tile(32633, (296640, 5538240, 309780, 5546880), (301440, 5540640, 305280, 5544480)),
    "32UQA": Tile(32632, (708000, 5538720, 714720, 5546400), (709440, 5540640, 713280, 5544480)),
}


@dataclass(frozen=True)
class Sentinel2Scene:
    """One product of one tile."""

    tile: str
    when: datetime
    baseline: str
    generated: datetime
    clouds: tuple[Blob, ...] = ()
    relative_orbit: int = 22
    small: bool = False
    west_edge_m: float | None = None
    """Easting, at the middle of the area, of the edge of the swath; west of it there is nothing."""


@dataclass(frozen=True)
class Sentinel1Pass:
    """All slices of one pass."""

    when: datetime
    relative_orbit: int = 168
    orbit_state: str = "descending"
    west_edge_m: float = 277750.0
    polarizations: tuple[str, ...] = ("VV", "VH")
    small_m: Bounds | None = None
    flat: bool = False
    """One value everywhere: a scene that must never be chosen."""


@dataclass(frozen=True)
class LandsatDate:
    """All rows of one path on one date."""

    when: datetime
    platform: str
    path: str
    clouds: tuple[Blob, ...]
    tier: str = "T1"
    corrections: tuple[str, str] = ("L2SP", "L2SP")
    small_m: Bounds | None = None


def _at(date: str, time: str) -> datetime:
    return datetime.fromisoformat(f"{date}T{time}").replace(tzinfo=UTC)


QUARTERS = (
    ("2023-02-13", "03.01", (Blob(29.0, 7.9, 0.7), Blob(43.0, 2.0, 0.8)), (Blob(1.2, 7.2, 0.5),)),
    (
        "2023-05-09",
        "04.00",
        (Blob(36.9, 1.3, 0.7), Blob(20.9, 7.9, 0.6), Blob(49.8, 4.6, 0.6)),
        (Blob(6, 0.6, 0.5),),
    ),
    ("2023-07-28", "05.09", (Blob(31.0, 4.9, 0.5), Blob(43.9, 7.6, 0.7)), ()),
    ("2023-10-11", "05.09", (Blob(42.3, 6.2, 0.9), Blob(25.4, 0.9, 0.5)), (Blob(6.4, 7.2, 0.5),)),
)
"""The scenes that should be chosen: date, processing baseline, clouds in zone 33, clouds in zone
32.

The first is of baseline 03.01 though its date is in 2023: it has no +1000.
"""

SMALL_CENTRE = {"33UUR": (33.12, 4.32), "33UTR": (25.92, 4.32), "32UQA": (1.92, 1.92)}
"""Where the clouds of the small scenes stand, km."""

RIVALS = (
    ("2023-01-29", 0.95),
    ("2023-03-20", 1.5),
    ("2023-04-19", 4.5),
    ("2023-06-18", 0.95),
    ("2023-07-13", 1.5),
    ("2023-09-11", 0.95),
    ("2023-10-26", 0.95),
    ("2023-11-20", 4.5),
)
"""Dates that should lose, and the radius in km of their cloud: about 20, 50 and 100 percent."""


def _sentinel2() -> tuple[Sentinel2Scene, ...]:
    scenes = []
    for tile in TILES:
        for date, baseline, clouds, clouds_32 in QUARTERS:
            seen = clouds if tile.startswith("33") else clouds_32
            scenes.append(
                Sentinel2Scene(tile, _at(date, "10:10:31.024"), baseline, _at(date, "15:51:58"), seen)
            )
        x, y = SMALL_CENTRE[tile]
        for date, radius in RIVALS:
            when, made = _at(date, "10:10:29.024"), _at(date, "16:10:07")
            cloud = (Blob(x, y, radius),)
            scenes.append(Sentinel2Scene(tile, when, "05.09", made, cloud, small=True))
    date, _, clouds, _ = QUARTERS[0]
    twin = Sentinel2Scene("33UTR", _at(date, "10:10:31.024"), "05.10", _at("2024-09-18", "02:11:41"), clouds)
    sliver = Sentinel2Scene(
        "33UUR",
        _at("2023-05-06", "10:00:31.024"),
        "05.09",
        _at("2023-05-06", "15:12:40"),
        relative_orbit=122,
        west_edge_m=322700,
    )
    return (*scenes, twin, sliver)


SENTINEL2 = _sentinel2()
"""Four good scenes a tile, rivals that should lose, a twin of one product at another baseline, and
a scene without a cloud of which four fifths are nodata."""

SENTINEL1 = (
    *(
        Sentinel1Pass(_at(date, "05:26:11"))
        for date in ("2023-02-18", "2023-05-13", "2023-07-24", "2023-10-16")
    ),
    *(
        Sentinel1Pass(_at(date, "17:00:42"), 117, "ascending", 310500.0)
        for date in ("2023-02-14", "2023-05-09", "2023-08-01", "2023-10-12")
    ),
    Sentinel1Pass(_at("2023-08-05", "05:26:12"), small_m=(308640, 5540640, 312480, 5544480)),
    Sentinel1Pass(_at("2023-02-12", "05:26:11"), polarizations=("HH", "HV"), flat=True),
    Sentinel1Pass(_at("2023-07-30", "05:26:11"), polarizations=("VV",), flat=True),
)
"""Orbit 168 sees all of the area; orbit 117, often nearer in time, its east only. Of the two passes
that would be nearer still one has no VV and VH, the other no VH (on days on which orbit 168 was not
really flown)."""

LANDSAT_PATHS: dict[str, tuple[Bounds, float, float]] = {
    "193": ((277425, 5538225, 321015, 5546895), 270000.0, 319300.0),
    "192": ((301815, 5538225, 328335, 5546895), 303000.0, 340000.0),
}
"""By WRS path: the file's bounds, 15 m off the multiples of 30 m, and the eastings of the swath's
edges at mid-area."""

LANDSAT_SMALL: Bounds = (308625, 5540625, 312495, 5544495)

OVERCAST = (Blob(38.0, 4.3, 8.5),)
HALF_AND_MORE = (Blob(31.0, 4.3, 6.0), Blob(46.5, 4.3, 7.0))

LANDSAT = (
    LandsatDate(
        _at("2023-02-20", "10:02:11.5"), "landsat-9", "193", (Blob(24.2, 8.0, 0.6), Blob(9.0, 3.0, 1.0))
    ),
    LandsatDate(
        _at("2023-05-11", "10:01:43.2"), "landsat-9", "193", (Blob(36.3, 8.1, 0.6), Blob(15.0, 5.0, 1.3))
    ),
    LandsatDate(
        _at("2023-07-30", "10:01:58.9"), "landsat-9", "193", (Blob(31.4, 4.7, 0.5), Blob(12.0, 2.0, 1.0))
    ),
    LandsatDate(
        _at("2023-10-10", "10:02:30.1"),
        "landsat-8",
        "193",
        (Blob(18.0, 6.0, 1.2),),
        corrections=("L2SP", "L2SR"),
    ),
    LandsatDate(_at("2023-02-13", "09:55:59.7"), "landsat-9", "192", (Blob(42.6, 2.2, 0.8),)),
    LandsatDate(
        _at("2023-05-04", "09:55:31.3"), "landsat-9", "192", (Blob(49.9, 5.0, 0.6), Blob(29.5, 7.0, 0.8))
    ),
    LandsatDate(_at("2023-07-23", "09:55:46.8"), "landsat-9", "192", OVERCAST),
    LandsatDate(_at("2023-08-16", "09:55:52.2"), "landsat-8", "192", HALF_AND_MORE),
    LandsatDate(_at("2023-10-03", "09:56:18.4"), "landsat-8", "192", (Blob(43.0, 7.5, 0.8),)),
    LandsatDate(_at("2023-03-08", "10:02:05.0"), "landsat-9", "193", (), tier="T2", small_m=LANDSAT_SMALL),
    LandsatDate(_at("2023-05-15", "09:11:40.0"), "landsat-7", "193", (), small_m=LANDSAT_SMALL),
    LandsatDate(
        _at("2023-06-12", "10:01:48.6"), "landsat-9", "193", (Blob(33.1, 4.3, 1.2),), small_m=LANDSAT_SMALL
    ),
    LandsatDate(
        _at("2023-09-08", "10:02:18.0"), "landsat-8", "193", (Blob(33.1, 4.3, 4.5),), small_m=LANDSAT_SMALL
    ),
    LandsatDate(
        _at("2023-11-11", "10:02:33.4"), "landsat-8", "193", (Blob(33.1, 4.3, 1.5),), small_m=LANDSAT_SMALL
    ),
)
"""Path 193 ends short of the easternmost AOI; path 192, which has it, is overcast all summer."""

LULC_YEARS = (2022, 2023, 2024)
LULC_TILES: dict[str, tuple[int, Bounds]] = {
    "33U": (32633, (284160, 5538240, 328320, 5546880)),
    "32U": (32632, (708000, 5538720, 714720, 5546400)),
}

DEM_TILES = ((49, 11), (49, 12), (50, 11), (50, 12))

AOI_INSET_M = 60.0
"""How far the AOIs stay inside the lattice boxes below, so that rounding never adds a row of the
lattice."""

AOIS: tuple[tuple[int, Bounds], ...] = (
    (32633, (307200, 5539200, 313920, 5545920)),
    (32633, (311040, 5539200, 317760, 5545920)),
    (32633, (297600, 5539200, 303360, 5545920)),
    (32633, (321600, 5539200, 327360, 5545920)),
    (32632, (708480, 5539200, 714240, 5545920)),
    (32633, (303360, 5539200, 308160, 5545920)),
)
"""The AOIs as boxes of the 960 m lattice, ``(epsg, bounds)``: 0 plain; 1 shares windows with 0; 2
only partly on tile 33UUR; 3 without Landsat in summer; 4 in zone 32; 5 on two tiles alike."""
