"""A contact sheet: a few chips of every class, a row each, all their dates side by side."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Iterator, Mapping

from PIL import Image, ImageDraw

from cube.config.models import Config
from cube.config.sensors import CLASS_NAMES
from cube.errors import StoreError
from cube.lots import draw
from cube.run.layout import Layout
from cube.run.storage import Folder

from .records import CHIP_METADATA

_CELL_PX = 72
_GAP_PX = 2
_LABEL_PX = 110
_HEADING_PX = 20


def contact_sheet(config: Config, per_class: int = 2) -> bytes:
    """Draw chips of a working folder for a person to look at, some of each class by lot.

    Returns
    -------
    bytes
        A PNG: a row per chip, beside its class; the columns are the dates of each sensor in turn.

    Raises
    ------
    StoreError
        If there are no chips, or not all of their pictures.
    """
    layout = Layout.of(config)
    rows = [
        (CLASS_NAMES[code], list(_read_thumbnails(layout.chips / row["cell"], row, config)))
        for code, chips in sorted(_chips_by_class(layout.root).items())
        for row in _draw_some(chips, per_class, config.release.seed)
    ]
    width = max((len(pictures) for _, pictures in rows), default=0)
    step = _CELL_PX + _GAP_PX
    sheet = Image.new("RGB", (_LABEL_PX + width * step, _HEADING_PX + len(rows) * step), "white")
    pen = ImageDraw.Draw(sheet)
    for index, key in enumerate(config.series):
        left = _LABEL_PX + index * len(config.ranges) * step
        pen.text((left, 4), config.table[key].title, fill="black")
    for index, (name, pictures) in enumerate(rows):
        top = _HEADING_PX + index * step
        if index == 0 or rows[index - 1][0] != name:
            pen.text((4, top + 4), name, fill="black")
        for x, picture in enumerate(pictures):
            sheet.paste(picture, (_LABEL_PX + x * step, top))
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _chips_by_class(root: Folder) -> dict[int, list[dict[str, str]]]:
    chips: dict[int, list[dict[str, str]]] = defaultdict(list)
    try:
        with root.open(CHIP_METADATA) as file, io.TextIOWrapper(file, "utf-8", newline="") as text:
            for row in csv.DictReader(text):
                if row["status"] == "success":
                    chips[int(row["lulc"])].append(row)
    except FileNotFoundError:
        raise StoreError(f"{root}/{CHIP_METADATA}: not there; run gelos-lc chip first") from None
    return chips


def _draw_some(chips: list[dict[str, str]], count: int, seed: int) -> list[dict[str, str]]:
    """Return some of the chips, drawn by lot."""
    return sorted(chips, key=lambda row: draw(f"contact {seed} {row['cell']}"))[:count]


def _read_thumbnails(folder: Folder, row: Mapping[str, str], config: Config) -> Iterator[Image.Image]:
    for key in config.series:
        for date in row[f"{key}_dates"].split(","):
            name = f"{key}_{date}.png"
            try:
                data = folder.read(name)
            except FileNotFoundError:
                raise StoreError(f"{folder}/{name}: is missing; run gelos-lc chip again") from None
            with Image.open(io.BytesIO(data)) as picture:
                yield picture.convert("RGB").resize((_CELL_PX, _CELL_PX), Image.Resampling.NEAREST)
