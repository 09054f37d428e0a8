"""Writing chips into a release, or a shard of one, and counting their pixels on the way."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from numpy.typing import NDArray

from cube.run.named_locks import stop_if_lost
from release.chosen import ChosenChips
from release.loading.rasters import decode_raster
from release.recipe import Recipe
from release.report.layers import LayerFiles, LayerPainter
from release.sharding import ChipShard
from release.statistics import ChipMoments, Tally


def write_chips(
    chips: ChosenChips,
    is_counted: Iterable[bool],
    tally: Tally,
    painter: LayerPainter,
    recipe: Recipe,
    put: Callable[[str, bytes], None],
    shard: ChipShard | None = None,
    on_chip: Callable[[int], None] = lambda _: None,
) -> dict[str, str]:
    """Write the files of chips and what is drawn from them, in the order of ids.

    Parameters
    ----------
    chips
        All of a release, or those of a shard.
    is_counted
        Whether the statistics are of each of them.
    tally
        Their pixels are added to it.
    painter
        Draws their layers.
    recipe
        What the release is made with.
    put
        Writes a file.
    shard
        That they are of, if they are of one.
    on_chip
        Called with how many are written.

    Returns
    -------
    dict
        SHA-256 by name of the layers' files.
    """

    def write_chip(row: int, counted: bool) -> tuple[ChipMoments | None, dict[str, str]]:  # noqa: FBT001  by map
        pixels: dict[str, list[NDArray[Any]]] = {}
        pictures: dict[str, str] = {}
        for source in chips.sources(row):
            data, name = chips.read(source), source.target
            put(name, data)
            key = name.partition("_")[0]
            if name.endswith(".tif") and (counted or painter.shows(key)):
                values = decode_raster(name, data, recipe.rasters[key])
                pixels.setdefault(key, []).append(values)
                if painter.shows(key):
                    pictures[name.removesuffix(".tif")] = painter.paint(key, values)
        return (tally.count(pixels) if counted else None), pictures

    layers, first = LayerFiles(put, shard), 0 if shard is None else shard.first
    with ThreadPoolExecutor(chips.folder.threads) as pool:
        try:
            written = pool.map(write_chip, range(len(chips.table)), is_counted)
            for row, (moments, pictures) in enumerate(written):
                stop_if_lost()
                layers.add(first + row, pictures)
                if moments is not None:
                    tally.add(moments)
                on_chip(row + 1)
        finally:
            pool.shutdown(cancel_futures=True)  # where a run is stopped, nobody waits for the rest
    layers.close()
    return layers.sums
