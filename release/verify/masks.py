"""Check the mask bands of a chip: their codes, and the cloud share that they give."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from chipping.masks import clear_pixels
from chipping.views import CLOUD_SHARE
from cube.config.sensor_models import CloudRule, sensor_model
from cube.config.sensors import BandKind
from release.recipe import RECIPE_NAME, Recipe


def mask_problems(
    values: NDArray[Any], key: str, index: int, row: Mapping[str, Any], recipe: Recipe
) -> Iterator[str]:
    """Yield what is wrong with the masks in a raster, ``(band, y, x)``, the images before them."""
    names = recipe.mask_bands(key)
    if not names:
        return
    wrong = False
    for name, found in zip(names, values[len(values) - len(names) :], strict=True):
        for text in _code_problems(found, name, key, recipe):
            wrong = True
            yield text
    try:
        rule = _cloud_rule(key, recipe)
    except ValidationError:
        yield f"cannot be compared with its cloud rule: {RECIPE_NAME} has none for {key} that can be read"
        return
    if rule is not None and rule.band in names and not wrong:
        yield from _cloud_problems(values, rule, key, index, row, recipe)


def _code_problems(found: NDArray[Any], name: str, key: str, recipe: Recipe) -> Iterator[str]:
    band = recipe.table[key].band(name)
    numbers = found.ravel()
    with np.errstate(invalid="ignore"):
        is_whole = bool((numbers == numbers.astype(band.np_dtype)).all())
    codes = {code for code, _ in band.flags}
    if not is_whole:
        yield f"{name} holds what is no {band.dtype}"
    elif band.kind is BandKind.CLASSES and codes and (unknown := {*np.unique(numbers).tolist()} - codes):
        yield f"{name} holds {min(unknown):g}, which is no code of it"


def _cloud_rule(key: str, recipe: Recipe) -> CloudRule | None:
    model, settings = sensor_model(recipe.table[key]), recipe.config[key]
    return model.model_validate(
        {name: settings[name] for name in settings if name in model.model_fields}
    ).cloud_rule


def _cloud_problems(
    values: NDArray[Any], rule: CloudRule, key: str, index: int, row: Mapping[str, Any], recipe: Recipe
) -> Iterator[str]:
    """Measure the cloud share again; of a buffer that reaches beyond the chip, only its least."""
    spec, chips, sensor = recipe.rasters[key], recipe.chips, recipe.table[key]
    entry = row.get(CLOUD_SHARE.column(key), "").split(",")[index:][:1]
    if entry in ([], [""]) or not CLOUD_SHARE.is_right(entry[0]):
        return
    mask = values[spec.bands.index(rule.band)].astype(sensor.band(rule.band).np_dtype)
    images = values[: len(recipe.image_bands(key))]
    seen = clear_pixels(mask, rule, sensor) & ~spec.is_nodata(images).any(axis=0)
    margin, side = chips.margin_m // spec.resolution, chips.sample_size // spec.resolution
    clear = int(seen[margin : margin + side, margin : margin + side].sum())
    said = round((1 - float(entry[0])) * side * side)
    if said > clear or (said < clear and rule.buffer_px <= margin):
        yield f"its cloud share is {1 - clear / side**2:.4f}, the tracker says {float(entry[0]):.4f}"
