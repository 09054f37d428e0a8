"""The errors that a user can meet. Each message is one line: what, where, and what to do."""

from __future__ import annotations

_NAMED_ITEMS = 3
"""So many items are few enough to name."""


class GelosError(Exception):
    """Root of everything this project raises on purpose."""


class ConfigError(GelosError):
    """A config key has a value that is not allowed, or names something that is not there."""


class AoiError(GelosError):
    """An AOI file or one of its features cannot be used."""


class GridError(GelosError):
    """Sizes that do not nest, or an extent that holds no whole lattice cell."""


class CatalogError(GelosError):
    """A STAC search failed after its retries, or its answer cannot be used."""


class UnusableError(CatalogError):
    """No item that a search found can be used: they are broken, or not what the config says.

    Parameters
    ----------
    sensor
        Key of the sensor that was searched for.
    told
        What the items lack.
    items
        Ids of the items, as far as they have any.
    """

    def __init__(self, sensor: str, told: str, items: frozenset[str] = frozenset()) -> None:
        super().__init__(sensor, told, items)
        self.sensor, self.told, self.items = sensor, told, items

    def __str__(self) -> str:
        """Say which sensor has no item, why, and which items there are if they are few."""
        few = sorted(self.items) if len(self.items) <= _NAMED_ITEMS else []
        named = f" (item {', '.join(few)})" if few else ""
        return f"{self.sensor}: {self.told}{named}"


class ClusterError(GelosError):
    """The Dask cluster that does the work went away."""


class ItemError(GelosError):
    """A STAC item lacks what the sensor table asks of it.

    Parameters
    ----------
    cause
        What it lacks, or contradicts; the same words for all items of a kind.
    item_id
        The STAC item, where it is known.
    other_mode
        True where nothing is wrong with the record: the scene was taken in a mode that is not
        wanted.
    """

    def __init__(self, cause: str, item_id: str = "", *, other_mode: bool = False) -> None:
        super().__init__(cause, item_id)
        self.cause, self.item_id, self.other_mode = cause, item_id, other_mode

    def __str__(self) -> str:
        """Say which item, and what it lacks."""
        return f"item {self.item_id}: {self.cause}" if self.item_id else self.cause


class ReadError(GelosError):
    """An asset could not be read after its retries.

    Parameters
    ----------
    item_id, asset
        The STAC item and the key of its asset.
    cause
        What the last attempt met, without any signature.
    """

    def __init__(self, item_id: str, asset: str, cause: str) -> None:
        super().__init__(item_id, asset, cause)
        self.item_id, self.asset, self.cause = item_id, asset, cause

    def __str__(self) -> str:
        """Say which asset of which item, and why."""
        return f"item {self.item_id}, asset {self.asset}: {self.cause}"


class LostSceneError(ReadError):
    """An asset is missing, or cannot be used, for good: its scene is lost."""


class ServiceError(GelosError):
    """A service or store cannot be used at all; no item of it is to blame, and the run stops."""


class StoreError(GelosError):
    """A file or object could not be written or has an unexpected content."""


class DiskFullError(StoreError):
    """There is no room left where the cubes, chips or the release go."""


class CubeNotSealedError(StoreError):
    """A cube is unfinished: its root metadata has not been written."""


class BusyError(GelosError):
    """Another run holds the working folder."""
