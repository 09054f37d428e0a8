"""What a release is to hold: its chips' files, and the documents about them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from cube.run.status import AOI_METADATA
from cube.run.storage import Folder
from release.card import CARD_NAME, make_card
from release.catalogs.items import CATALOG_NAME, COLLECTION_NAME, StacItems
from release.catalogs.items_table import ITEMS_NAME
from release.catalogs.stac import CROISSANT_NAME, make_catalogs
from release.chosen import ChosenChips
from release.opening.checksums import SUMS_NAME, sha256
from release.opening.faults import ReleaseError
from release.opening.table import to_parquet
from release.recipe import RECIPE_NAME, RasterSpec, Recipe, make_recipe, raster_spec_of
from release.report.browser import BROWSE_NAME, make_browser
from release.report.layers import LayerPainter
from release.report.page import REPORT_NAME, make_report
from release.report.pictures import Thumbnails
from release.select import Selection
from release.sharding import MOST_TEXT_ROWS
from release.statistics import STATISTICS_NAME
from release.tracker import (
    CSV_NAME,
    GEOJSON_NAME,
    PARQUET_NAME,
    Tracker,
    csv_pieces,
    geojson_pieces,
)
from release.windows import Measures

AOIS_NAME = "aois.geojson"
_AOI_FACTS = (
    "aoi_index",
    "name",
    "id",
    "status",
    "reason",
    "epsg",
    "width_m",
    "height_m",
    "chips",
    "lost",
)
"""What a release says of an AOI: what became of it, not how many tries it took."""

Document = tuple[str, Iterable[bytes]]
"""A file's name, and its content piece by piece."""


@dataclass(frozen=True)
class Contents:
    """What a release is to hold."""

    chips: ChosenChips
    selection: Selection
    windows: Measures
    """What report and browser show of every window that was scored."""
    aois: Mapping[str, Any] | None
    tracker: Tracker
    items: StacItems
    """One per chip, in the chips' order."""
    recipe: Recipe
    painter: LayerPainter

    @property
    def tables(self) -> tuple[str, ...]:
        """The tracker's files."""
        is_long = self.recipe.shard_chips is not None and len(self.tracker) > MOST_TEXT_ROWS
        return (PARQUET_NAME,) if is_long else (GEOJSON_NAME, CSV_NAME, PARQUET_NAME)

    @cached_property
    def own_sums(self) -> dict[str, str]:
        """SHA-256 by name of two documents that tell which chips these are, and how made."""
        return {PARQUET_NAME: sha256(self._parquet()), RECIPE_NAME: sha256(self.recipe.to_json())}

    @property
    def _shown(self) -> list[str]:
        """The names that the report shows."""
        catalogs = (CATALOG_NAME, COLLECTION_NAME, ITEMS_NAME, CROISSANT_NAME)
        aois = () if self.aois is None else (AOIS_NAME,)
        others = (RECIPE_NAME, CARD_NAME, BROWSE_NAME, SUMS_NAME, STATISTICS_NAME)
        return sorted([*self.tables, *catalogs, *aois, *others])

    def documents(self, sums: Mapping[str, str]) -> Iterator[Document]:
        """Yield each file that is no chip's, but for what is made from pixels and SHA256SUMS.

        Parameters
        ----------
        sums
            SHA-256 by name of the chips' files, or of their shards' sums; and of each table once it
            was taken, which Croissant tells: who takes them adds them.
        """
        tracker, recipe = self.tracker, self.recipe
        if GEOJSON_NAME in self.tables:
            yield GEOJSON_NAME, geojson_pieces(tracker.parts())
            yield CSV_NAME, csv_pieces(tracker.parts())
        yield PARQUET_NAME, [self._parquet()]
        yield from make_catalogs(tracker, recipe, sums, self.items)
        yield RECIPE_NAME, [recipe.to_json()]
        yield CARD_NAME, [make_card(self.selection, tracker, recipe)]
        if self.aois is not None:
            yield AOIS_NAME, [_aois_geojson(self.aois)]
        overlaid = self.painter.overlaid
        browser = make_browser(self.selection, tracker, self.windows, self.aois, recipe, overlaid)
        for name, data in browser:
            yield name, [data]
        thumbnails = Thumbnails(self.chips.read_target, recipe)
        yield (
            REPORT_NAME,
            [make_report(self.selection, tracker, self.windows, self.aois, recipe, thumbnails, self._shown)],
        )

    def _parquet(self) -> bytes:
        """Return the tracker as GeoParquet; a row group holds the chips of a shard."""
        tracker = self.tracker
        return to_parquet(tracker.parts(self.recipe.shard_chips or len(tracker)), tracker.bounds)


def make_contents(
    working: Folder,
    windows: Measures,
    selection: Selection,
    chips: ChosenChips,
    shard_chips: int | None,
) -> Contents:
    """Gather what a release is to hold; no document is made yet.

    Parameters
    ----------
    working
        What phase two left.
    windows
        What report and browser show of every window that was scored.
    selection
        The chips, and what ended the way of the other windows.
    chips
        Their files.
    shard_chips
        Chips of a shard; None: all files lie side by side.

    Raises
    ------
    ReleaseError
        If the first chip's files are not what the config asks for, or AOIs cannot be read.
    """
    tracker = Tracker.of_chips(selection.chips, chips.config, shard_chips)
    recipe = make_recipe(chips.config, _raster_specs(chips), selection.before, shard_chips)
    aois = _read_aois(working) if working.exists(AOI_METADATA) else None
    items, painter = StacItems(tracker, recipe), LayerPainter(chips.config, recipe)
    return Contents(chips, selection, windows, aois, tracker, items, recipe, painter)


def _raster_specs(chips: ChosenChips) -> dict[str, RasterSpec]:
    """Say what each sensor's rasters are: all are what the first chip's are."""
    specs, chips = {}, chips.only(0)
    sources = chips.sources(0)
    for key in chips.config.sensors:
        own = [source for source in sources if source.name.partition(".")[0].partition("_")[0] == key]
        raster = next(source for source in own if source.name.endswith(".tif"))
        pictures = [chips.read(source) for source in own if source.name.endswith(".png")]
        where = f"{chips.folder}/{raster.cell}/{raster.name}"
        picture = pictures[0] if pictures else None
        specs[key] = raster_spec_of(key, chips.read(raster), picture, chips.config, where)
    return specs


def _read_aois(working: Folder) -> dict[str, Any]:
    """Return the AOIs and what became of them, without what differs between two such runs."""
    try:
        features = [
            {
                "type": "Feature",
                "properties": {
                    name: value
                    for name in _AOI_FACTS
                    if (value := one["properties"].get(name, "")) != "" or name == "reason"
                },
                "geometry": one["geometry"],
            }
            for one in json.loads(working.read(AOI_METADATA))["features"]
        ]
    except (ValueError, KeyError, TypeError) as error:
        raise ReleaseError(f"{working}/{AOI_METADATA}: cannot be read ({error})") from None
    return {"type": "FeatureCollection", "features": features}


def _aois_geojson(collection: Mapping[str, Any]) -> bytes:
    lines = ",\n".join(json.dumps(one, ensure_ascii=False) for one in collection["features"])
    return f'{{"type": "FeatureCollection", "features": [\n{lines}\n]}}\n'.encode()
