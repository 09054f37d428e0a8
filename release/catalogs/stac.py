"""A static STAC catalog of a release, its items as files and as stac-geoparquet, and Croissant."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import pystac

from release.recipe import Recipe
from release.tracker import GEOJSON_NAME, PARQUET_NAME, Tracker, item_name

from .croissant import make_croissant
from .items import CATALOG_NAME, COLLECTION_NAME, StacItems, link, time_span
from .items_table import ITEMS_NAME, write_items_parquet

CROISSANT_NAME = "croissant.json"
_GEOJSON = pystac.MediaType.GEOJSON.value
_PARQUET = "application/vnd.apache.parquet"
_LINKS_HERE = "links come here"


def make_catalogs(
    tracker: Tracker, recipe: Recipe, sums: Mapping[str, str], items: StacItems | None = None
) -> Iterator[tuple[str, Iterable[bytes]]]:
    """Yield STAC, but for the items' own files, and Croissant: names, and content piece by piece.

    Parameters
    ----------
    tracker
        All of it.
    recipe
        What the release was made with.
    sums
        SHA-256 of the tracker's files and of the chips', or of their shards' sums, which Croissant
        records.
    items
        Those of `tracker`, where they are made already.
    """
    collection = _collection(tracker, recipe)
    yield CATALOG_NAME, [_json(_catalog(recipe))]
    yield COLLECTION_NAME, _with_links(collection, collection_links(tracker.facts["id"], recipe))
    yield (
        ITEMS_NAME,
        [write_items_parquet(items or StacItems(tracker, recipe), collection, recipe.shard_chips)],
    )
    yield CROISSANT_NAME, [_json(make_croissant(tracker, recipe, sums))]


def _json(data: Mapping[str, Any]) -> bytes:
    return (json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def _with_links(document: Mapping[str, Any], links: Iterable[Mapping[str, str]]) -> Iterator[bytes]:
    """Yield the JSON of a document with links, of which there may be very many."""
    before, after = _json({**document, "links": [_LINKS_HERE]}).split(f'"{_LINKS_HERE}"'.encode())
    for one in links:
        yield before + _json(one).rstrip().replace(b"\n", b"\n    ")
        before = b",\n    "
    yield after


def collection_links(chip_ids: Iterable[int], recipe: Recipe) -> Iterator[dict[str, str]]:
    """Yield the links of a release's collection: to its catalog, and to every item."""
    yield link("root", CATALOG_NAME)
    yield link("parent", CATALOG_NAME)
    yield link("items", ITEMS_NAME, _PARQUET)
    for chip_id in chip_ids:
        yield link("item", recipe.folder_of(chip_id) + item_name(chip_id), _GEOJSON)


def _tracker_asset(recipe: Recipe) -> pystac.Asset:
    """Return the tracker in the form that is its record."""
    if recipe.shard_chips is None:
        return pystac.Asset(f"./{GEOJSON_NAME}", "Tracker", None, pystac.MediaType.GEOJSON, ["metadata"])
    return pystac.Asset(f"./{PARQUET_NAME}", "Tracker", None, _PARQUET, ["metadata"])


def _catalog(recipe: Recipe) -> dict[str, Any]:
    catalog = pystac.Catalog(f"{recipe.name}-{recipe.version}", f"{recipe.name}, version {recipe.version}")
    data = catalog.to_dict(include_self_link=False)
    data["links"] = [link("root", CATALOG_NAME), link("child", COLLECTION_NAME)]
    return data


def _extent(tracker: Tracker, recipe: Recipe) -> pystac.Extent:
    """Return the box around all chips, and the time from the first image to the last."""
    dates = tracker.facts[["epsg", *(f"{key}_dates" for key in recipe.series)]].drop_duplicates()
    periods = [time_span(recipe, dict(zip(dates.columns, row, strict=True))) for row in dates.to_numpy()]
    return pystac.Extent(
        pystac.SpatialExtent([list(tracker.bounds)]),
        pystac.TemporalExtent([[min(p[0] for p in periods), max(p[1] for p in periods)]]),
    )


def _collection(tracker: Tracker, recipe: Recipe) -> dict[str, Any]:
    collection = pystac.Collection(
        recipe.name,
        f"{recipe.name} {recipe.version}: {len(tracker)} aligned chips of one land cover each; see README.md",
        _extent(tracker, recipe),
        title=f"{recipe.name} {recipe.version}",
        license="other",
        keywords=["land cover", "Sentinel-1", "Sentinel-2", "Landsat", "benchmark"],
        providers=[
            pystac.Provider(
                recipe.table[key].title, recipe.table[key].attribution, [pystac.ProviderRole.PRODUCER]
            )
            for key in recipe.rasters
        ],
        summaries=pystac.Summaries(
            {
                "proj:code": sorted({f"EPSG:{code}" for code in tracker.facts["epsg"].unique()}),
                "gelos:category": sorted(set(tracker.facts["category"])),
            }
        ),
        assets={
            "items": pystac.Asset(
                f"./{ITEMS_NAME}", "Items", "stac-geoparquet", _PARQUET, ["collection-mirror"]
            ),
            "tracker": _tracker_asset(recipe),
        },
    )
    # What stands in the table of items, too, and so without a link for each of them.
    return {**collection.to_dict(include_self_link=False), "links": list(collection_links((), recipe))}
