"""Samples and batches as pictures, whatever units their pixels are in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cube.config.sensors import CLASS_COLORS, SENSORS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from .samples import Chips

_STRETCH = (2, 98)
"""Percentiles that become black and white."""
_INCHES = 1.8
_CLASSES = "lulc"


def plot_sample(
    sample: Mapping[str, Any],
    bands: Mapping[str, Sequence[str]],
    class_names: Sequence[str],
    *,
    show_titles: bool = True,
    suptitle: str | None = None,
) -> Figure:
    """Draw a sample: a row per sensor, a column per date.

    Parameters
    ----------
    sample
        With ``image_{sensor}`` ``(time, band, height, width)``, arrays or tensors, and ``label``.
    bands
        Of each sensor's image, in its order.
    class_names
        In the order of labels.
    show_titles
        Tell sensors, the numbers of dates, and the class.
    suptitle
        Above all.
    """
    from matplotlib import pyplot as plt

    images = {key: np.asarray(sample[f"image_{key}"]) for key in bands}
    columns = max(map(len, images.values()))
    figure, axes = plt.subplots(
        len(images),
        columns,
        figsize=(columns * _INCHES, len(images) * _INCHES + 0.6),
        squeeze=False,
        layout="constrained",
    )
    for row, (key, image) in zip(axes, images.items(), strict=True):
        shown = to_pictures(key, image, bands[key])
        for date, axis in enumerate(row):
            axis.set_axis_off()
            if date < len(shown):
                axis.imshow(shown[date])
                if show_titles:
                    axis.set_title(f"{key} {date + 1}" if len(shown) > 1 else key, fontsize="small")
    if title := " ".join(
        [*([suptitle] if suptitle else []), *(_classes(sample, class_names) if show_titles else [])]
    ):
        figure.suptitle(title)
    return figure


def plot_batch(
    batch: Mapping[str, Any],
    opened: Chips,
    sensor: str = "s2l2a",
    bands: Sequence[str] = (),
    *,
    date: int = 0,
    columns: int = 8,
) -> Figure:
    """Draw a batch: a picture of each sample, called by its class.

    Parameters
    ----------
    batch
        Of a loader or of :func:`batches`: ``image_{sensor}`` and ``label``, arrays or tensors.
    opened
        The release or export that it is from.
    sensor
        Which images.
    bands
        Those of the images, if not all were asked for.
    date
        Which one, from 0.
    columns
        Pictures side by side.

    Returns
    -------
    Figure
        Stretched over all samples together: they compare.
    """
    from matplotlib import pyplot as plt

    images = np.asarray(batch[f"image_{sensor}"])[:, date]
    pictures = to_pictures(sensor, images, opened.image_bands(sensor, bands))
    rows, across = -(-len(images) // columns), min(columns, len(images))
    size = (across * _INCHES, rows * (_INCHES + 0.25))
    figure, axes = plt.subplots(rows, across, figsize=size, squeeze=False, layout="constrained")
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, picture, label in zip(axes.flat, pictures, batch["label"], strict=False):
        axis.imshow(picture)
        axis.set_title(opened.class_names[int(label)], fontsize="small")
    return figure


def _classes(sample: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    said = [names[int(sample["label"])]]
    return said + ([f"(predicted: {names[int(sample['prediction'])]})"] if "prediction" in sample else [])


def to_pictures(key: str, image: NDArray[Any], bands: Sequence[str]) -> NDArray[np.uint8]:
    """Return ``(..., height, width, 3)`` of a sensor's ``(..., band, height, width)``, red first.

    True colour where the bands for it are there, else grey of the first band; classes in their own
    colours. Stretched between percentiles of all that is given; black where there is no number.
    """
    if key == _CLASSES:
        return _palette()[np.clip(image[..., 0, :, :].astype(np.int64), 0, 255)]
    true_color = SENSORS[key].true_color if key in SENSORS else ()
    names = true_color if true_color and set(true_color) <= set(bands) else [bands[0]] * 3
    layers = np.stack([image[..., list(bands).index(name), :, :] for name in names], axis=-1)
    values = layers.astype(np.float64)
    known = np.isfinite(values)
    low, high = np.percentile(values[known], _STRETCH) if known.any() else (0.0, 1.0)
    shade = (np.where(known, values, low) - low) / max(high - low, 1e-12)
    return np.round(np.clip(shade, 0, 1) * 255).astype(np.uint8)


def _palette() -> NDArray[np.uint8]:
    colours = np.zeros((256, 3), np.uint8)
    for code, colour in CLASS_COLORS.items():
        colours[code] = [int(colour[start : start + 2], 16) for start in (1, 3, 5)]
    return colours
