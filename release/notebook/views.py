"""Releases and chips as notebooks show them, and a release on a map."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any, Protocol

import geopandas as gpd
import xarray as xr

from cube.config.sensors import CLASS_COLORS, CLASS_NAMES
from cube.html.pieces import html_facts, html_table
from cube.lots import lot
from release.opening.faults import ReleaseError
from release.recipe import Recipe
from release.report.pictures import Thumbnails

_SIDE_PX = 96
_MOST_POPUPS = 500
"""Chips whose pictures are put into the map."""


class ShownRelease(Protocol):
    """What is shown: a :class:`release.loading.dataset.Release`."""

    recipe: Recipe

    @property
    def sensors(self) -> tuple[str, ...]:
        """Sensors that the chips have."""
        ...

    def __len__(self) -> int:
        """Return how many chips there are."""
        ...

    @property
    def table(self) -> gpd.GeoDataFrame:
        """The tracker, a row per chip."""
        ...

    def row(self, chip_id: int) -> Mapping[str, Any]:
        """Return the chip's row of the table."""
        ...

    def paths(self, chip_id: int, sensor: str) -> list[str]:
        """Return the names of a sensor's rasters, one per date."""
        ...

    def read_file(self, name: str) -> bytes:
        """Read a file of the release."""
        ...


class Chip(dict[str, xr.DataArray]):
    """A chip's images by sensor; in a notebook, its pictures, all dates of all sensors."""

    def __init__(self, release: ShownRelease, chip_id: int, images: Mapping[str, xr.DataArray]) -> None:
        super().__init__(images)
        self._release, self._id = release, chip_id

    def __repr__(self) -> str:
        """Return what it is, with a line for each sensor."""
        row = self._release.row(self._id)
        title = f"<Chip {self._id}, {CLASS_NAMES[int(row['lulc'])]}, {row['cell']}>"
        sizes = {
            key: ", ".join(f"{name} {size}" for name, size in image.sizes.items())
            for key, image in self.items()
        }
        return "\n".join([title, *(f"  {key}: {self[key].dtype}, {size}" for key, size in sizes.items())])

    def _repr_html_(self) -> str:
        row = self._release.row(self._id)
        title = f"chip {self._id}, {CLASS_NAMES[int(row['lulc'])]}, purity {row['purity']:.3g}"
        lines = [
            f"<div style='display:flex;gap:6px;flex-wrap:wrap'>{''.join(figures)}</div>"
            for figures in (list(_figures(self._release, self._id, key)) for key in self._release.sensors)
        ]
        return html_facts(title, {"": row["cell"]}) + "".join(lines)


def _figures(release: ShownRelease, chip_id: int, sensor: str) -> Iterator[str]:
    """Yield a picture per date of a sensor."""
    recipe = release.recipe
    dates = (
        [""] if recipe.table[sensor].is_static else str(release.row(chip_id)[f"{sensor}_dates"]).split(",")
    )
    for raster, date in zip(release.paths(chip_id, sensor), dates, strict=True):
        name = raster.removesuffix("tif") + "png" if recipe.rasters[sensor].thumbnail_px else raster
        day = f"{date[:4]}-{date[4:6]}-{date[6:]}" if date else ""
        yield _figure(release, name, f"{sensor} {day}".strip())


def _figure(release: ShownRelease, name: str, caption: str) -> str:
    return (
        f"<figure style='margin:0'>{_image(release, name)}"
        f"<figcaption style='font-size:smaller'>{escape(caption)}</figcaption></figure>"
    )


def _image(release: ShownRelease, name: str) -> str:
    """Return a picture as an element; a word in its place where it cannot be read."""
    try:
        data = base64.b64encode(Thumbnails(release.read_file, release.recipe).png(name)).decode()
    except (ReleaseError, OSError, ValueError):
        return "<i>unreadable</i>"
    style = f"width:{_SIDE_PX}px;image-rendering:pixelated;display:block"
    return f"<img alt='{escape(name)}' style='{style}' src='data:image/png;base64,{data}'>"


def release_html(release: ShownRelease) -> str:
    """Return a release's counts, and a picture of each class."""
    table, recipe = release.table, release.recipe
    counts = table["lulc"].astype(int).value_counts().sort_index()
    facts = {
        "chips": len(release),
        "classes": len(counts),
        "areas": table["aoi_index"].nunique(),
        "time ranges": len(recipe.ranges),
        "m a chip's side": recipe.chips.chip_size,
    }
    splits = [name for name in sorted(set(table["split"])) if name]
    head = ["class", "chips", *splits]
    rows = []
    for code, count in counts.items():
        own = table[table["lulc"].astype(int) == code]
        rows.append(
            [f"{code} {CLASS_NAMES[code]}", count, *((own["split"] == name).sum() for name in splits)]
        )
    figures = "".join(_class_figure(release, int(str(code))) for code in counts.index)
    layers = [
        (key, ", ".join(spec.bands), f"{spec.size_px} px of {spec.resolution} m", spec.dtype)
        for key, spec in recipe.rasters.items()
    ]
    return (
        html_facts(f"{recipe.name} {recipe.version}", facts)
        + html_table(head, rows)
        + f"<div style='display:flex;gap:6px;flex-wrap:wrap'>{figures}</div>"
        + html_table(["sensor", "bands", "size", "dtype"], layers)
    )


def _class_figure(release: ShownRelease, code: int) -> str:
    """Return a picture of a class's chip, drawn by lot."""
    own = release.table[release.table["lulc"].astype(int) == code]
    lots = own["cell"].map(lambda cell: lot(0, "notebook", cell))
    chip_id = int(lots.idxmin())
    return _figure(release, _first_picture(release, chip_id), f"{CLASS_NAMES[code]}, chip {chip_id}")


def _first_picture(release: ShownRelease, chip_id: int) -> str:
    """Return the name of a chip's first picture, or of its land cover where it has none."""
    for key in release.recipe.series:
        if release.recipe.rasters[key].thumbnail_px:
            return release.paths(chip_id, key)[0].removesuffix("tif") + "png"
    return release.paths(chip_id, "lulc")[0]


def explore_release(release: ShownRelease, **options: Any) -> Any:
    """Return a folium map of a release's chips, coloured by class; pictures in their popups.

    Parameters
    ----------
    release
        The release.
    **options
        For :meth:`geopandas.GeoDataFrame.explore`, such as ``tiles``, in place of those given here.

    Raises
    ------
    ReleaseError
        If folium is not installed.
    """
    fields = ["id", "category", "aoi_index", "purity", "split", "cell"]
    shown = release.table[[*fields, "geometry"]].reset_index(drop=True)
    if len(shown) <= _MOST_POPUPS:
        shown["picture"] = [_image(release, _first_picture(release, chip)) for chip in shown["id"]]
    codes = sorted(release.table["lulc"].astype(int).unique())
    settings: dict[str, Any] = {
        "column": "category",
        "categories": [CLASS_NAMES[code] for code in codes],
        "cmap": [CLASS_COLORS.get(code, "#888888") for code in codes],
        "tooltip": fields,
        "popup": [*fields, *(["picture"] if "picture" in shown else [])],
        "popup_kwds": {"parse_html": False},
        "style_kwds": {"fillOpacity": 0.5},
    }
    try:
        return shown.explore(**(settings | options))
    except ImportError as error:
        text = "explore needs folium and mapclassify; type: pip install 'gelos-lc[explore]'"
        raise ReleaseError(text) from error
