"""The STAC items of a release."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime, time
from typing import Any

import pandas as pd
import pystac
import shapely
from pystac.extensions.classification import Classification, ClassificationExtension
from pystac.extensions.eo import Band as EoBand
from pystac.extensions.eo import EOExtension
from pystac.extensions.projection import ProjectionExtension
from pystac.extensions.raster import DataType, NoDataStrings, RasterBand, RasterExtension
from pystac.extensions.sat import SatExtension
from pystac.extensions.view import ViewExtension

from chipping.views import VIEW_FIELDS, parse_views, view_columns
from cube.config.sensors import CLASS_COLORS, CLASS_NAMES, Band, BandKind, Sensor
from release.recipe import RasterSpec, Recipe
from release.tracker import Tracker, item_name

CATALOG_NAME = "catalog.json"
COLLECTION_NAME = "collection.json"
_GEOTIFF = "image/tiff; application=geotiff"
_NO_COLOR = "#888888"
"""Of what is no land cover: no data, clouds."""
_ROWS_AT_ONCE = 1000
"""Different rows of views that are looked at at once."""
_OWN = ("gelos:", "proj:code", "proj:transform", "view:", "sat:")
"""How the properties begin that follow from a chip's row."""

View = tuple[str, str]
"""An asset's key, and a property that tells how it was taken."""


class StacItems:
    """The STAC items of a release, one per chip, in the order of the tracker.

    Asset keys are the same for every chip, so that the items make one table: ``{sensor}_{n}`` and
    ``{sensor}_{n}_thumbnail`` for the n-th time range, ``dem`` and ``lulc``. For the same reason an
    asset says of its view (sun, orbit, clouds) what is known of that range for every chip, and each
    of its bands and classes has the fields of all others: a table would fill them with nulls, which
    the extensions' schemas refuse.

    Parameters
    ----------
    tracker
        All of it, or of some rows in a row.
    recipe
        What the release was made with.
    views
        What :func:`shared_views` finds in all of it; None: `tracker` is all of it.
    """

    def __init__(self, tracker: Tracker, recipe: Recipe, views: frozenset[View] | None = None) -> None:
        self._tracker = tracker
        self._recipe = recipe
        self.views = shared_views(tracker.facts, recipe) if views is None else views
        self._template = json.dumps(_item_template(recipe, self.views))

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._tracker)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Make one item after the other, as it is seen from the release's top."""
        for part in self._tracker.parts():
            rows = part.drop(columns="geometry").to_dict("records")
            for row, shape in zip(rows, part.geometry.to_numpy(), strict=True):
                yield _item(self._template, row, shape, self._recipe, self.views)

    @property
    def names(self) -> list[str]:
        """The names of the items' files."""
        return [item_name(chip_id) for chip_id in self._tracker.facts["id"]]

    def files(self) -> Iterator[tuple[str, bytes]]:
        """Yield the name and the content of each item's file."""
        for name, item in self.seen_from_files():
            yield name, (json.dumps(item, ensure_ascii=False, allow_nan=False) + "\n").encode()

    def seen_from_files(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield each item's file name, and the item as it is seen from the folder of that."""
        for item in self:
            chip_id = item["properties"]["gelos:id"]
            folder = self._recipe.folder_of(chip_id)
            yield item_name(chip_id), _seen_from(folder, item) if folder else item


def _seen_from(folder: str, item: Mapping[str, Any]) -> dict[str, Any]:
    """Return an item whose hrefs lead from a folder of the release, not from its top."""
    up = "../" * folder.count("/")

    def href(text: str) -> str:
        name = text.removeprefix("./")
        return f"./{name.removeprefix(folder)}" if name.startswith(folder) else up + name

    assets = {name: {**asset, "href": href(asset["href"])} for name, asset in item["assets"].items()}
    links = [{**link, "href": href(link["href"])} for link in item["links"]]
    return {**item, "assets": assets, "links": links}


def item_facts(item: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a STAC item says of its chip, and nothing that libraries add by version."""
    properties = item["properties"]
    return {
        **{name: item[name] for name in ("id", "collection", "geometry", "bbox")},
        **{
            name: pystac.utils.str_to_datetime(properties[name])
            for name in ("start_datetime", "end_datetime")
        },
        **{name: value for name, value in properties.items() if name.startswith(_OWN)},
        "assets": {
            name: (asset["href"], {key: value for key, value in asset.items() if key.startswith(_OWN)})
            for name, asset in item["assets"].items()
        },
        "links": links_of(item),
    }


def links_of(document: Mapping[str, Any]) -> set[tuple[str, str]]:
    """Return what a STAC document links to, each with its relation."""
    return {(link["rel"], link["href"]) for link in document["links"]}


def link(rel: str, name: str, media_type: str = "application/json") -> dict[str, str]:
    """Return a link to a file of the release, as it is seen from its top."""
    return {"rel": rel, "href": f"./{name}", "type": media_type}


def _views(row: Mapping[str, Any], recipe: Recipe) -> dict[View, Any]:
    """Return what is known of how a chip's images were taken, sensor by sensor."""
    known: dict[View, Any] = {}
    for sensor in recipe.series:
        try:
            values = parse_views(row, sensor, len(recipe.ranges))
        except ValueError:  # which the check of the tracker says
            continue
        for number, asset in enumerate(_asset_keys(sensor, recipe)):
            for field in VIEW_FIELDS:
                name = field.properties[0] if field.properties else f"gelos:{field.name}"
                value = values[field.name][number]
                if _is_known(value):
                    known[asset, name] = value
    return known


def _is_known(value: str | float) -> bool:
    return value != "" if isinstance(value, str) else not math.isnan(value)


def shared_views(tracker: pd.DataFrame, recipe: Recipe) -> frozenset[View]:
    """Return what is known of every chip's images."""
    columns = tracker.columns.intersection(view_columns(recipe.table))
    shared: frozenset[View] | None = None
    different = tracker[columns].drop_duplicates()
    for first in range(0, len(different), _ROWS_AT_ONCE):
        for row in different.iloc[first : first + _ROWS_AT_ONCE].to_dict("records"):
            known = frozenset(_views({str(name): row[name] for name in row}, recipe))
            shared = known if shared is None else shared & known
    return shared or frozenset()


def _item_template(recipe: Recipe, views: Collection[View]) -> dict[str, Any]:
    """Return an item with what all chips share, made through pystac's extension classes."""
    nowhere = {"type": "Point", "coordinates": [0.0, 0.0]}
    start, end = time_span(recipe, {})
    item = pystac.Item("template", nowhere, [0.0] * 4, None, {}, start, end, collection=recipe.name)
    ProjectionExtension.ext(item, add_if_missing=True).apply(code="EPSG:4326")
    for key, spec in recipe.rasters.items():
        for name in _asset_keys(key, recipe):
            asset = pystac.Asset(name, title=recipe.table[key].title, media_type=_GEOTIFF, roles=["data"])
            item.add_asset(name, asset)
            _describe_asset(asset, recipe.table[key], spec)
            if not recipe.table[key].is_static:
                picture = pystac.Asset(name, media_type=pystac.MediaType.PNG, roles=["thumbnail"])
                item.add_asset(f"{name}_thumbnail", picture)
    for extension, prefix in ((ViewExtension, "view:"), (SatExtension, "sat:")):
        if any(name.startswith(prefix) for _, name in views):
            extension.add_to(item)
    data = item.to_dict(include_self_link=False)
    kinds = {"root": CATALOG_NAME, "parent": COLLECTION_NAME, "collection": COLLECTION_NAME}
    data["links"] = [link(rel, name) for rel, name in kinds.items()]
    return data


def _asset_keys(key: str, recipe: Recipe) -> list[str]:
    if recipe.table[key].is_static:
        return [key]
    return [f"{key}_{number}" for number, _ in enumerate(recipe.ranges, start=1)]


def _describe_asset(asset: pystac.Asset, sensor: Sensor, spec: RasterSpec) -> None:
    bands = [sensor.band(name) for name in spec.bands]
    size = spec.size_px
    grid = ProjectionExtension.ext(asset)
    grid.shape, grid.transform = [size, size], [0.0] * 6
    RasterExtension.ext(asset, add_if_missing=True).bands = _raster_bands(bands, spec)
    if any(band.kind in (BandKind.REFLECTANCE, BandKind.BACKSCATTER) for band in bands):
        EOExtension.ext(asset, add_if_missing=True).bands = [
            EoBand.create(name=band.name, description=band.long_name) for band in bands
        ]
    # The classes of an asset, not of a band: a map's only layer.
    if len(bands) == 1 and bands[0].kind is BandKind.CLASSES and bands[0].flags:
        ClassificationExtension.ext(asset, add_if_missing=True).classes = [
            _class(sensor, code, meaning) for code, meaning in bands[0].flags
        ]


def _class(sensor: Sensor, code: int, meaning: str) -> Classification:
    is_own = sensor.key == "lulc"
    color = CLASS_COLORS.get(code, _NO_COLOR) if is_own else None
    return Classification.create(
        value=code,
        name=meaning.replace("/", "_"),
        description=CLASS_NAMES[code] if is_own else meaning.replace("_", " "),
        color_hint=None if color is None else color.removeprefix("#").upper(),
    )


def _raster_bands(bands: Collection[Band], spec: RasterSpec) -> list[RasterBand]:
    """Describe an asset's bands, each with the same fields: scale and offset if any has one."""
    is_nan = spec.nodata is not None and math.isnan(spec.nodata)
    holds_archive_integers = not spec.dtype.startswith("float")
    has_scale = holds_archive_integers and any(band.scale != 1 for band in bands)
    has_offset = holds_archive_integers and any(band.offset for band in bands)
    return [
        RasterBand.create(
            nodata=NoDataStrings.NAN if is_nan else spec.nodata,
            data_type=DataType(spec.dtype),
            spatial_resolution=spec.resolution,
            unit=band.units,
            scale=band.scale if has_scale else None,
            offset=band.offset if has_offset else None,
        )
        for band in bands
    ]


def _item(
    template: str,
    row: Mapping[str, Any],
    shape: shapely.Polygon,
    recipe: Recipe,
    views: Collection[View],
) -> dict[str, Any]:
    item: dict[str, Any] = json.loads(template)
    start, end = time_span(recipe, row)
    item["id"] = f"{recipe.name}-{recipe.version}-{row['id']:06}"
    item["geometry"] = json.loads(shapely.to_geojson(shape))
    item["bbox"] = list(shape.bounds)
    item["properties"] |= {
        "start_datetime": pystac.utils.datetime_to_str(start),
        "end_datetime": pystac.utils.datetime_to_str(end),
        "proj:code": f"EPSG:{row['epsg']}",
        "gelos:id": int(row["id"]),
        "gelos:aoi_index": int(row["aoi_index"]),
        "gelos:cell": row["cell"],
        "gelos:lulc": int(row["lulc"]),
        "gelos:category": row["category"],
        "gelos:purity": float(row["purity"]),
        "gelos:split": row["split"],
    }
    box = recipe.bounds(row)
    for key, spec in recipe.rasters.items():
        hrefs = _hrefs(key, row, recipe)
        for name, (raster, picture) in zip(_asset_keys(key, recipe), hrefs, strict=True):
            step = float(spec.resolution)
            item["assets"][name] |= {
                "href": f"./{raster}",
                "proj:transform": [step, 0.0, float(box.left), 0.0, -step, float(box.top)],
            }
            if picture:
                item["assets"][f"{name}_thumbnail"]["href"] = f"./{picture}"
    for (asset, name), value in _views(row, recipe).items():
        if (asset, name) in views:
            item["assets"][asset][name] = value
            if not name.startswith("gelos:"):  # the extensions want one of theirs on the item, too
                item["properties"].setdefault(name, value)
    return item


def _hrefs(key: str, row: Mapping[str, Any], recipe: Recipe) -> list[tuple[str, str]]:
    if recipe.table[key].is_static:
        return [(row[f"{key}_paths"], "")]
    return [(path, path.removesuffix("tif") + "png") for path in row[f"{key}_paths"].split(",")]


def time_span(recipe: Recipe, row: Mapping[str, Any]) -> tuple[datetime, datetime]:
    """Return the first and last day of a chip's images, or the land cover's year."""
    dates = sorted(d for key in recipe.series for d in str(row.get(f"{key}_dates", "")).split(",") if d)
    if dates:
        days = [datetime.strptime(d, "%Y%m%d").replace(tzinfo=UTC) for d in (dates[0], dates[-1])]
        return days[0], datetime.combine(days[1], time(23, 59, 59), tzinfo=UTC)
    return recipe.year.start, recipe.year.end.replace(microsecond=0)
