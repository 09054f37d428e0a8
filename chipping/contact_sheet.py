"""A contact sheet: a few chips of every class, a row each, all their dates side by side."""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from cube.config.models import Config
from cube.config.sensors import CLASS_NAMES
from cube.errors import StoreError
from cube.lots import draw
from cube.run.layout import Layout
from cube.run.storage import Folder

from .choose import Verdict
from .records import read_window_tables

_CELL_PX = 72
_GAP_PX = 4
_DAY_PX = 14
"""Under a picture, for its date."""
_LABEL_PX = 150
_HEADING_PX = 22
_TEXT_PX = 12
_INK, _PALE = "#1c2430", "#5d6878"


@dataclass(frozen=True)
class _Row:
    """A chip's pictures, each with its date."""

    category: str
    labels: tuple[str, ...]
    pictures: tuple[tuple[str, Image.Image], ...]


def contact_sheet(config: Config, per_class: int = 2) -> bytes:
    """Draw chips of a working folder for a person to look at, some of each class by lot.

    Returns
    -------
    bytes
        A PNG: a row per chip, beside its class, index, area and cell; the columns are the dates of
        each sensor in turn, and under each picture is its date.

    Raises
    ------
    StoreError
        If there are no chips, or not all of their pictures.
    """
    layout = Layout.of(config)
    rows = [
        _Row(CLASS_NAMES[code], _labels(row), tuple(_read_pictures(layout.chips / row["cell"], row, config)))
        for code, chips in sorted(_chips_by_class(layout.windows, config.series).items())
        for row in _draw_some(chips, per_class, config.release.seed)
    ]
    columns = max((len(row.pictures) for row in rows), default=0)
    across, down = _CELL_PX + _GAP_PX, _CELL_PX + _DAY_PX + _GAP_PX
    sheet = Image.new("RGB", (_LABEL_PX + columns * across, _HEADING_PX + len(rows) * down), "white")
    pen = ImageDraw.Draw(sheet)
    pen.font = ImageFont.load_default(_TEXT_PX)
    for index, key in enumerate(config.series):
        left = _LABEL_PX + index * len(config.ranges) * across
        pen.text((left, 3), config.table[key].title, fill=_INK)
    for index, row in enumerate(rows):
        _draw_row(sheet, pen, row, _HEADING_PX + index * down)
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _draw_row(sheet: Image.Image, pen: ImageDraw.ImageDraw, row: _Row, top: int) -> None:
    pen.text((4, top), row.category, fill=_INK)
    pen.multiline_text((4, top + 16), "\n".join(row.labels), fill=_PALE)
    for column, (day, picture) in enumerate(row.pictures):
        left = _LABEL_PX + column * (_CELL_PX + _GAP_PX)
        sheet.paste(picture, (left, top))
        pen.text((left, top + _CELL_PX), day, fill=_PALE)


def _labels(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what tells a chip from all others: its window, its area, and its cell.

    A release numbers its chips anew, so a number here would lead to another chip there.
    """
    return f"window {row['chip_index']}", f"AOI {row['aoi_index']}", row["cell"]


def _chips_by_class(windows: Folder, series: Iterable[str]) -> dict[int, list[dict[str, Any]]]:
    columns = ["chip_index", "aoi_index", "cell", "lulc", "status", *(f"{key}_dates" for key in series)]
    chips: dict[int, list[dict[str, Any]]] = defaultdict(list)
    try:
        for table in read_window_tables(windows, columns):
            for row in table.to_pylist():
                if row["status"] == Verdict.SUCCESS:
                    chips[row["lulc"]].append(row)
    except FileNotFoundError:
        raise StoreError(f"{windows}: no window is chosen; run gelos-lc chip first") from None
    return chips


def _draw_some(chips: list[dict[str, Any]], count: int, seed: int) -> list[dict[str, Any]]:
    """Return some of the chips, drawn by lot."""
    return sorted(chips, key=lambda row: draw(f"contact {seed} {row['cell']}"))[:count]


def _read_pictures(
    folder: Folder, row: Mapping[str, Any], config: Config
) -> Iterator[tuple[str, Image.Image]]:
    for key in config.series:
        for date in row[f"{key}_dates"].split(","):
            name = f"{key}_{date}.png"
            try:
                data = folder.read(name)
            except FileNotFoundError:
                raise StoreError(f"{folder}/{name}: is missing; run gelos-lc chip again") from None
            with Image.open(io.BytesIO(data)) as picture:
                small = picture.convert("RGB").resize((_CELL_PX, _CELL_PX), Image.Resampling.NEAREST)
            yield f"{date[:4]}-{date[4:6]}-{date[6:]}", small
