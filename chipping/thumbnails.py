"""Small pictures of a chip's layers without dates; those of its dates lie beside it."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cube.pixels.rendering import class_colors, greys


def layer_png(layer: NDArray[Any], is_empty: NDArray[np.bool_], *, is_classes: bool) -> bytes:
    """Draw a layer, ``(y, x)``, as a PNG: classes in their colours, heights grey."""
    values = np.ma.masked_array(layer, is_empty)
    pixels = class_colors(values.filled(0)) if is_classes else greys(values)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
