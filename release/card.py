"""The dataset card: the ``README.md`` of a release."""

from __future__ import annotations

import geopandas as gpd

from cube.config.sensors import CLASS_NAMES

from .recipe import Recipe
from .select import Selection
from .tracker import CSV_NAME, GEOJSON_NAME, PARQUET_NAME, tracker_fields

__all__ = ["CARD_NAME", "SPLIT_NOTE", "make_card"]

CARD_NAME = "README.md"

SPLIT_NOTE = (
    "Whole spatial blocks are assigned, and blocks that touch go together where that leaves every split room. "
    "A chip nearer than a chip's side to a block of another split has the split none, so that no two splits see "
    "the same ground: leave those out."
)

_FIELD_NOTES = {
    "original_id": "`chip_index` of the window among all that were scored",
    "aoi_index": "the area of interest that the chip comes from",
    "lulc": "class code of the majority class, as text",
    "epsg": "UTM zone of every raster of the chip",
    "status": "`success`",
    "id": "number of the chip, 0 to n-1; part of every file name",
    "lat": "latitude of the chip's centre, degrees (GELOS's own tracker holds the longitude here)",
    "lon": "longitude of the chip's centre, degrees (GELOS's own tracker holds the latitude here)",
    "category": "name of the class",
    "color": "the class's colour",
    "cell": "`{epsg}_{left_m}_{top_m}` of the sample window; one place on Earth has one cell",
    "left_m": "western edge of the sample window, metres in the UTM zone",
    "top_m": "northern edge of the sample window, metres in the UTM zone",
    "purity": "share of the sample window's pixels in the majority class",
    "split": "split by spatial block; `none` too near to another split; empty without splits",
}
_PATTERN_NOTES = {
    "_dates": "dates, YYYYMMDD, one per time range, comma-joined",
    "_scene_ids": "STAC items behind each date, comma-joined; several items of one date are joined by `+`",
    "_thumbs": "pictures, one per date, comma-joined",
    "_paths": "rasters, one per date, comma-joined",
}


def make_card(selection: Selection, tracker: gpd.GeoDataFrame, recipe: Recipe) -> bytes:
    """Write the card: what the release is, how it was made, whose data it is, and what it cannot do."""
    sections = [
        _front_matter(recipe, len(tracker)),
        _what(tracker, recipe),
        _classes(selection),
        _splits(tracker),
        _files(recipe),
        _fields(tracker, recipe),
        _load(recipe),
        _how(selection, recipe),
        _sources(recipe),
        _LIMITS,
    ]
    return ("\n\n".join(section.strip() for section in sections if section) + "\n").encode()


def _table(head: tuple[str, ...], rows: list[tuple[object, ...]]) -> str:
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join(
        "| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines
    )


def _front_matter(recipe: Recipe, count: int) -> str:
    size = next(text for limit, text in _SIZES if count < limit)
    return f"""---
pretty_name: {recipe.name} {recipe.version}
license: other
task_categories: [image-classification]
tags: [earth-observation, land-cover, sentinel-1, sentinel-2, landsat, stac, croissant]
size_categories: [{size}]
---"""


_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (float("inf"), "100K<n<1M"))


def _what(tracker: gpd.GeoDataFrame, recipe: Recipe) -> str:
    rows: list[tuple[object, ...]] = [
        (
            recipe.table[key].title,
            f"`{key}`",
            len(recipe.ranges) if key in recipe.series else 1,
            ", ".join(layout.bands),
            f"{layout.resolution} m",
            f"{layout.size_px} x {layout.size_px}",
            layout.dtype,
            "none" if layout.nodata is None else f"{layout.nodata:g}",
        )
        for key, layout in recipe.layout.items()
    ]
    head = ("sensor", "key", "dates", "bands", "pixel", "size", "dtype", "nodata")
    return f"""# {recipe.name} {recipe.version}

{len(tracker):,} chips of {recipe.chips.chip_size} m a side, from {tracker["aoi_index"].nunique():,} areas of
interest. Each shows one land cover, seen by every sensor below at the same place, on the same grid corners,
once in each of {len(recipe.ranges)} time ranges: {", ".join(map(str, recipe.ranges)) or "none"}.
Made for embedding and benchmarking geospatial foundation models. `report.html` shows it.

{_table(head, rows)}"""


def _classes(selection: Selection) -> str:
    total = sum(selection.after.values())
    rows: list[tuple[object, ...]] = [
        (code, CLASS_NAMES[code], selection.before[code], count, f"{count / total:.1%}")
        for code, count in selection.after.items()
    ]
    return "## Classes\n\n" + _table(("code", "class", "before balancing", "chips", "share"), rows)


def _splits(tracker: gpd.GeoDataFrame) -> str:
    names = sorted(set(tracker["split"]) - {""})
    if not names:
        return ""
    codes = sorted(set(tracker["lulc"]), key=int)
    rows: list[tuple[object, ...]] = []
    for name in names:
        part = tracker.loc[tracker["split"] == name, "lulc"]
        rows.append((name, len(part), *(int((part == code).sum()) for code in codes)))
    head = ("split", "chips", *(CLASS_NAMES[int(code)] for code in codes))
    return f"## Splits\n\n{SPLIT_NOTE}\n\n" + _table(head, rows)


def _files(recipe: Recipe) -> str:
    series = ", ".join(f"`{key}`" for key in recipe.series)
    static = ", ".join(f"`{key}_{{id:06}}.tif`" for key in recipe.layout if key not in recipe.series)
    return f"""## Files

- `{{sensor}}_{{id:06}}_{{date}}.tif` and `.png` for {series or "no sensor"}; {static}
- `{GEOJSON_NAME}`, and the same table as `{CSV_NAME}` and `{PARQUET_NAME}` (GeoParquet)
- `catalog.json`, `collection.json`, `items.parquet`: a static STAC catalog, its items as stac-geoparquet
- `croissant.json`: the release for ML data loaders
- `aois.geojson`: every area of interest and what became of it (if it was recorded)
- `config.json`: the settings, and what each raster is
- `report.html`: pictures, counts and reasons on one page
- `SHA256SUMS`: `sha256sum -c SHA256SUMS` checks every file"""


def _fields(tracker: gpd.GeoDataFrame, recipe: Recipe) -> str:
    fields = tracker_fields(recipe.table)
    rows: list[tuple[object, ...]] = []
    for name in fields:
        pattern = next((text for end, text in _PATTERN_NOTES.items() if name.endswith(end)), "")
        rows.append((f"`{name}`", _FIELD_NOTES.get(name, pattern)))
    further = [name for name in tracker.columns if name not in (*fields, "geometry")]
    rows.extend((f"`{name}`", "as recorded when the chip was scored") for name in further)
    rows.append(("`geometry`", "the chip's footprint, EPSG:4326"))
    return "## Fields of the tracker\n\n" + _table(("field", "what it is"), rows)


def _load(recipe: Recipe) -> str:
    key = recipe.series[0] if recipe.series else "lulc"
    return f"""## Loading

```python
import release

opened = release.open_release("{recipe.name}_{recipe.version}.zip")   # or the folder
opened.table                                    # a GeoDataFrame, a row per chip
opened.chip(0)["{key}"]                         # a lazy xarray.DataArray (time, band, y, x)
data = release.torch_dataset(opened, sensors=["{key}"], split=None)
data[0]["image_{key}"].shape                    # (time, band, height, width)
```

Without this project: split the comma lists of `{{sensor}}_paths`, open each with rioxarray, stack."""


def _how(selection: Selection, recipe: Recipe) -> str:
    chips = recipe.chips
    factor = recipe.sampling_factor
    balance = (
        f"The largest class holds at most {factor} times the smallest; chips given up were drawn by lot "
        f"(seed {recipe.release.seed}), from the areas that had most of their class."
        if factor
        else "Classes are not balanced."
    )
    reasons = ", ".join(f"{count:,} {name}" for name, count in selection.funnel) or "none"
    named = ", ".join(map(str, chips.forbidden))
    forbidden = f"no pixel of class {named}" if named else "pixels of any class beside"
    return f"""## How it was made

One aligned cube per area of interest; every window of {recipe.chips.sample_size} m scored; chosen by these rules:
purity at least {chips.min_purity:g}, classes {", ".join(map(str, chips.classes))}, {forbidden},
and the clear and valid shares in `config.json`.
{balance}

Of {selection.windows:,} windows, {selection.windows - len(selection.chips):,} are not here: {reasons}.

Numbers, names and bytes follow from the configuration and the source scenes alone: the same release can be
made again."""


def _sources(recipe: Recipe) -> str:
    rows: list[tuple[object, ...]] = [
        (row.title, recipe.config[key]["collection"], row.licence, row.attribution)
        for key, row in recipe.table.items()
        if key in recipe.layout
    ]
    head = ("source", "collection", "licence", "attribution")
    return f"""## Licences and attribution

Each source keeps its own licence; name them when you publish.

{_table(head, rows)}"""


_LIMITS = """## Known limits

- The land cover map is itself a model's output, of one year; a chip's class is that map's, not a survey's.
- Classes, places and seasons follow the areas of interest and what skies allowed; shares estimate no area.
- Chips touch: neighbours share an edge. For training and testing apart, use `split`, or split by `aoi_index`.
- Footprints are four corners in degrees; the exact square is `epsg`, `left_m`, `top_m` and the chip's size.
- `lat` is the latitude and `lon` the longitude; GELOS's own trackers have them swapped.
- Sentinel-2 bands of 20 m and 60 m repeat their pixels at 10 m; other sensors are warped onto the grid."""
