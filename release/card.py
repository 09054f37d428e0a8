"""The dataset card: the ``README.md`` of a release."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from chipping.views import VIEW_FIELDS
from cube.config.sensors import CLASS_NAMES

from .recipe import Recipe
from .select import Selection
from .sharding import MOST_TEXT_ROWS
from .templates import fill_template
from .tracker import CSV_NAME, GEOJSON_NAME, PARQUET_NAME, Tracker, tracker_fields

CARD_NAME = "README.md"

SPLIT_NOTE = (
    "Whole spatial blocks are assigned, and blocks that touch go together where that leaves every split room. "
    "A chip nearer than a chip's side to a block of another split has the split none, so that no two splits see "
    "the same ground: leave those out."
)

_FIELD_NOTES = {
    "original_id": "`chip_index` of the window among all that were scored",
    "aoi_index": "the area of interest that the chip comes from",
    "aoi_name": "what the list of areas calls it",
    "aoi_id": "its id there",
    "lulc": "class code of the majority class, as text",
    "epsg": "UTM zone of every raster of the chip",
    "status": "`success`",
    "id": "number of the chip, 0 to n-1; part of every file name",
    "lat": "latitude of the chip's centre, degrees (GELOS's trackers made before January 2026 hold the longitude here)",
    "lon": "longitude of the chip's centre, degrees (GELOS's trackers made before January 2026 hold the latitude here)",
    "category": "name of the class",
    "color": "the class's colour",
    "cell": "`{epsg}_{left_m}_{top_m}` of the sample window; one place on Earth has one cell",
    "left_m": "western edge of the sample window, metres in the UTM zone",
    "top_m": "northern edge of the sample window, metres in the UTM zone",
    "purity": "share of the sample window's pixels in the majority class",
    "split": "split by spatial block; `none` too near to another split; empty without splits (in the CSV `all`)",
    "label": "place of the class among the classes kept, from 0; `label_names` of `config.json` names them",
}
_PATTERN_NOTES = {
    "_dates": "dates, YYYYMMDD, one per time range, comma-joined",
    "_scene_ids": "STAC items behind each date, comma-joined; several items of one date are joined by `+`",
    "_thumbs": "pictures, one per date, comma-joined",
    "_paths": "rasters, one per date, comma-joined",
}
_SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
    (float("inf"), "10M<n<100M"),
)
"""Hugging Face's words for how many chips there are, each with the number they stay below."""

Row = tuple[object, ...]
"""Cells of a table."""


def make_card(selection: Selection, tracker: Tracker, recipe: Recipe) -> bytes:
    """Write the card: what the release is, how it was made, whose data it is, and its limits."""
    series, facts = recipe.series, tracker.facts
    codes = sorted(set(facts["lulc"]), key=int)
    return fill_template(
        "card.md.j2",
        recipe=recipe,
        selection=selection,
        chips=len(tracker),
        areas=facts["aoi_index"].nunique(),
        size_category=next(text for limit, text in _SIZES if len(tracker) < limit),
        sensors=list(_sensor_rows(recipe)),
        classes=list(_class_rows(selection)),
        split_note=SPLIT_NOTE,
        split_classes=[CLASS_NAMES[int(code)] for code in codes],
        splits=list(_split_rows(facts, codes)),
        most_text_rows=MOST_TEXT_ROWS,
        series_keys=", ".join(f"`{key}`" for key in series) or "no sensor",
        static_names=", ".join(f"`{key}_{{id:06}}.tif`" for key in recipe.rasters if key not in series),
        names={"geojson": GEOJSON_NAME, "csv": CSV_NAME, "parquet": PARQUET_NAME},
        fields=list(_field_rows(facts, recipe)),
        example=series[0] if series else "lulc",
        sources=[
            (row.title, recipe.config[key]["collection"], row.licence, row.attribution)
            for key, row in recipe.table.items()
            if key in recipe.rasters
        ],
    )


def _sensor_rows(recipe: Recipe) -> Iterator[Row]:
    for key, spec in recipe.rasters.items():
        yield (
            recipe.table[key].title,
            f"`{key}`",
            len(recipe.ranges) if key in recipe.series else 1,
            ", ".join(spec.bands),
            f"{spec.resolution} m",
            f"{spec.size_px} x {spec.size_px}",
            spec.dtype,
            "none" if spec.nodata is None else f"{spec.nodata:g}",
        )


def _class_rows(selection: Selection) -> Iterator[Row]:
    total = sum(selection.after.values())
    for code, count in selection.after.items():
        yield code, CLASS_NAMES[code], selection.before[code], count, f"{count / total:.1%}"


def _split_rows(facts: pd.DataFrame, codes: list[str]) -> Iterator[Row]:
    for name in sorted(set(facts["split"]) - {""}):
        part = facts.loc[facts["split"] == name, "lulc"]
        yield name, len(part), *(int((part == code).sum()) for code in codes)


def _field_rows(facts: pd.DataFrame, recipe: Recipe) -> Iterator[Row]:
    fields = tracker_fields(recipe.table)
    for name in fields:
        by_ending = next((text for end, text in _PATTERN_NOTES.items() if name.endswith(end)), "")
        yield f"`{name}`", _FIELD_NOTES.get(name, by_ending)
    views = {field.column(key): field.note for key in recipe.series for field in VIEW_FIELDS}
    for name in facts.columns:
        if name not in fields:
            yield f"`{name}`", {**views, **_FIELD_NOTES}.get(name, "as recorded when the chip was scored")
    yield "`geometry`", "the chip's footprint, EPSG:4326"
