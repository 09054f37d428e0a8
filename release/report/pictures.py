"""Pictures of a release's files, and the report's gallery of them."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from chipping.thumbnails import layer_png
from cube.config.sensors import CLASS_NAMES
from cube.lots import lot
from release.loading.rasters import decode_raster
from release.recipe import Recipe
from release.tracker import image_names

from .charts import day_of
from .facts import Values, area_of

_GALLERY = 3
"""Chips per class that are shown."""


@dataclass(frozen=True)
class Thumbnails:
    """Pictures of a release's files, for a page that holds them."""

    read: Callable[[str], bytes]
    """Gives a file of the release by name."""
    recipe: Recipe
    """Says what the rasters are."""

    def png(self, name: str) -> bytes:
        """Return a PNG: the file itself, or a raster drawn (classes coloured, heights grey)."""
        data, key = self.read(name), name.rpartition("/")[2].partition("_")[0]
        if name.endswith(".png"):
            return data
        spec = self.recipe.rasters[key]
        layer = decode_raster(name, data, spec)[0]
        return layer_png(layer, spec.is_nodata(layer), is_classes=key == "lulc")


def draw_gallery(chips: pd.DataFrame, recipe: Recipe, thumbnails: Thumbnails) -> list[Values]:
    """Draw some chips of every class by lot."""
    classes = []
    for code in sorted(set(chips["lulc"]), key=int):
        group = chips[chips["lulc"] == code]
        lots = group["cell"].map(lambda cell: lot(recipe.release.seed, "gallery", cell))
        drawn = group.loc[lots.sort_values(kind="stable").index[:_GALLERY]].sort_values("id")
        shown = [
            {
                "id": row["id"],
                "aoi": area_of(row),
                "lat": row["lat"],
                "lon": row["lon"],
                "rows": list(_picture_rows(row, recipe, thumbnails)),
            }
            for row in drawn.to_dict("records")
        ]
        classes.append({"name": CLASS_NAMES[int(code)], "chips": shown})
    return classes


def _picture_rows(row: Mapping[str, Any], recipe: Recipe, thumbnails: Thumbnails) -> Iterator[list[Values]]:
    """Yield the pictures of each sensor's dates, and then those of all layers without dates."""
    for key in recipe.series:
        names = [path.removesuffix("tif") + "png" for path in image_names(row, key, recipe)]
        days = [str(day_of(text)) for text in row[f"{key}_dates"].split(",")]
        yield [_picture(name, key, day, thumbnails) for name, day in zip(names, days, strict=True)]
    layers = [key for key in recipe.rasters if key not in recipe.series]
    yield [_picture(name, key, "", thumbnails) for key in layers for name in image_names(row, key, recipe)]


def _picture(file: str, sensor: str, day: str, thumbnails: Thumbnails) -> Values:
    data = base64.b64encode(thumbnails.png(file)).decode()
    return {"file": file, "sensor": sensor, "day": day, "base64": data}
