"""Pictures of what has none among a release's files: land cover, heights, and what is not clear.

The chip browser shows them. They lie beside it in files of a few dozen chips each, as text that a
page can read where it may not read files: from a folder, without a server.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from chipping.masks import clear_pixels
from chipping.thumbnails import layer_png
from cube.config.models import Config
from release.opening.checksums import sha256
from release.recipe import Recipe
from release.sharding import ChipShard

from .script import page_data

CHIPS_PER_FILE = 50
_UNCLEAR_RGB = (230, 40, 160)
_UNCLEAR_ALPHA = 150
"""Of 255: the ground below stays in sight."""


def layers_file(chip_id: int) -> str:
    """Name the file that holds a chip's layers."""
    return f"browse_layers_{chip_id // CHIPS_PER_FILE:04}.js"


def layers_files(chips: int) -> list[str]:
    """Name the files of the layers of so many chips."""
    return [layers_file(first) for first in range(0, chips, CHIPS_PER_FILE)]


class LayerPainter:
    """Draws the layers of chips that have no pictures of their own.

    Parameters
    ----------
    config
        The dataset version: its cloud rules.
    recipe
        What the rasters are.
    """

    def __init__(self, config: Config, recipe: Recipe) -> None:
        self._recipe = recipe
        self._table = config.table
        self._rules = {
            key: rule
            for key, settings in config.sensors.items()
            if (rule := settings.cloud_rule) and rule.band in recipe.mask_bands(key)
        }

    @property
    def overlaid(self) -> tuple[str, ...]:
        """Sensors whose rasters say where they are not clear."""
        return tuple(self._rules)

    def shows(self, key: str) -> bool:
        """Tell whether a picture is made of a sensor's rasters."""
        return self._table[key].is_static or key in self._rules

    def paint(self, key: str, pixels: NDArray[Any]) -> str:
        """Return a PNG in base64 of a raster of a sensor that is shown, ``(band, y, x)``."""
        if not self._table[key].is_static:
            return self._paint_unclear(key, pixels)
        layer, spec = pixels[0], self._recipe.rasters[key]
        picture = layer_png(layer, spec.is_nodata(layer), is_classes=key == "lulc")
        return base64.b64encode(picture).decode()

    def _paint_unclear(self, key: str, pixels: NDArray[Any]) -> str:
        """Draw where a raster's mask says that the ground is not seen; the rest is transparent."""
        spec, rule, sensor = self._recipe.rasters[key], self._rules[key], self._table[key]
        mask = pixels[spec.bands.index(rule.band)]
        codes = mask.astype(sensor.band(rule.band).np_dtype)
        return base64.b64encode(_overlay_png(~clear_pixels(codes, rule, sensor))).decode()


def _overlay_png(is_marked: NDArray[np.bool_]) -> bytes:
    picture = Image.fromarray(is_marked.astype(np.uint8), mode="P")
    picture.putpalette([0, 0, 0, *_UNCLEAR_RGB])
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", transparency=bytes([0, _UNCLEAR_ALPHA]), bits=1)
    return buffer.getvalue()


class LayerFiles:
    """The files of layers, written one after the other as chips come in the order of their ids.

    Parameters
    ----------
    put
        Writes a file of the release, or of its shard.
    shard
        That the chips are of, if they are of one: its files are numbered from 0 again.
    """

    def __init__(self, put: Callable[[str, bytes], None], shard: ChipShard | None = None) -> None:
        self._put = put
        self._first, self._folder = (0, "") if shard is None else (shard.first, shard.folder)
        self._name = ""
        self._held: list[dict[str, str]] = []
        self.sums: dict[str, str] = {}
        """SHA-256 by name of those that are written."""

    def add(self, chip_id: int, pictures: dict[str, str]) -> None:
        """Take the pictures of the next chip, by the name of the raster without its ending."""
        name = layers_file(chip_id - self._first)
        if name != self._name:
            self.close()
            self._name = name
        self._held.append(pictures)

    def close(self) -> None:
        """Write what is held."""
        if self._held:
            data = page_data(self._folder + self._name, self._held)
            self._put(self._name, data)
            self.sums[self._name] = sha256(data)
            self._held = []
