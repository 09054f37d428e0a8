"""Phase one: from AOIs to sealed cubes.

The client plans AOIs a few ahead, and feeds their blocks to the engine as capacity frees up;
workers read and write; when the last block of a cube is on disk, the client seals it. What a killed
run leaves is completed by the next: a plan once made is kept, and a block whose marker lies on disk
is not read again.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import chain

from cube.config.aoi import Aoi, load_aois
from cube.config.models import Config
from cube.retry import heed, heeded
from cube.run.command import counted
from cube.run.layout import Layout
from cube.run.lock import hold, hold_part, share
from cube.run.logs import event
from cube.run.shards import Share
from cube.run.status import AoiState, AoiStatus, StatusBoard
from cube.run.tasks import Engine
from cube.scenes.catalog import open_catalog
from cube.scenes.neighbours import neighbourhoods
from cube.scenes.query import Catalog
from cube.scenes.question import Question
from cube.store.takeover import take_over
from cube.store.template import SEAL, cube_folder

from .aoi_rows import AoiCallback, AoiRows
from .block import build_block
from .block_queue import BlockQueue
from .losses import LossWatch
from .plans import AoiPlanner, wanted_aois

_LOG = logging.getLogger(__name__)
_LOOKS_AT_ONCE = 16
"""Roots of cubes that are looked for at once."""


@dataclass(frozen=True)
class BuildSummary:
    """How a run ended."""

    rows: Mapping[int, AoiStatus]
    """The row of each AOI of this run, by index."""
    fetched_blocks: int = 0

    def count(self, state: AoiState) -> int:
        """Return how many AOIs are in a state."""
        return sum(row.status is state for row in self.rows.values())

    @property
    def exit_code(self) -> int:
        """0 done, 3 some AOI failed and can be retried."""
        return 3 if self.count(AoiState.FAILED) else 0


def build_cubes(
    config: Config,
    engine: Engine,
    *,
    only: Collection[int | str] = (),
    shard: Share | None = None,
    retry_failed: bool = False,
    recheck_lost: bool = False,
    progress: AoiCallback | None = None,
    catalog: Catalog | None = None,
) -> BuildSummary:
    """Build the cubes of all AOIs, or complete what an earlier run left.

    Parameters
    ----------
    config
        The dataset version.
    engine
        Where blocks are read and written.
    only
        Indices, names or ids of the AOIs to build (empty: all).
    shard
        The share of them that is this run's, where several runs work in the version's folder.
    retry_failed
        Only those AOIs that failed in an earlier run; the catalog is asked again for them.
    recheck_lost
        Scenes on record as lost are candidates again.
    progress
        Told of every change of an AOI's row.
    catalog
        Where scenes are found (default: as the config says).

    Returns
    -------
    BuildSummary
        AOIs that were skipped or failed are in it with the reason; they raise nothing.

    Raises
    ------
    ConfigError, AoiError
        If nothing can be begun.
    BusyError
        If another run holds the version's folder, or is clearing the working folder away.
    ServiceError
        If a service or store cannot be used at all.
    """
    layout = Layout.of(config)
    layout.make(config)
    with _held(layout, shard), share(layout.working, if_alone=layout.sweep_shared):
        scope = f"{layout.root.url}{f'#{shard.name}' if shard else ''}"
        engine.wait_for_earlier_tasks(scope)
        named = wanted_aois(config, only=only, retry_failed=retry_failed)
        wanted = shard.of(named) if shard else named
        board = StatusBoard(layout.root, wanted if shard else load_aois(config), shard)
        board.write()
        rows, question, losses = AoiRows(board, progress), Question(config), LossWatch()
        looks_again = retry_failed or recheck_lost
        finished = set() if looks_again else _finished(wanted, rows, question, layout)
        near = neighbourhoods(aoi for aoi in wanted if aoi.index not in finished)
        asked = catalog or open_catalog(config, ask_again=retry_failed, near=near)
        how = {"ask_again": retry_failed, "recheck_lost": recheck_lost}
        to_do = chain.from_iterable(near)
        with AoiPlanner(config, question, layout, asked, to_do, losses, **how) as planner:
            blocks = BlockQueue(config, layout, planner, rows, losses)
            try:
                with closing(engine.run(build_block, blocks, scope)) as outcomes:
                    for outcome in outcomes:
                        blocks.finish(outcome)
            finally:
                blocks.close()
                board.close()
        return BuildSummary({aoi.index: board[aoi.index] for aoi in wanted}, blocks.fetched)


@contextmanager
def _held(layout: Layout, shard: Share | None) -> Iterator[None]:
    """Hold a version's folder, or a share of its areas; what killed runs left is cleared up."""

    def clear_up() -> None:
        layout.sweep()
        take_over(layout)

    if shard is not None:
        with hold_part(layout.root, shard.name, if_alone=clear_up):
            yield
        return
    with hold(layout.root):
        clear_up()
        yield


def _finished(wanted: Iterable[Aoi], rows: AoiRows, question: Question, layout: Layout) -> set[int]:
    """Return the areas that a few listings and a look at each root show to be built as now asked.

    Their cubes are sealed, no run has or left its lock on one, no scene of theirs is lost, and
    neither what is asked of them nor the program has changed since they were looked at.
    """
    there = {name.removesuffix(".zarr") for name in layout.cubes.names(".zarr")}
    sealed = there & {name.removesuffix(".json") for name in layout.blocks.names(".json")}
    sealed -= {*layout.building.names(), *layout.locks.names()}
    losing = {name.removesuffix(".json") for name in layout.lost.names(".json")}
    likely = {}
    for aoi in wanted:
        row = rows[aoi.index]
        is_done = row.status is AoiState.BUILT and row.cube in sealed and row.plan not in losing
        if is_done and row.seen == question.seen(aoi):
            likely[aoi.index] = f"{cube_folder(row.cube)}/{SEAL}"
    # A copy that was cut off, or a hand, may have left a cube without its root.
    with ThreadPoolExecutor(_LOOKS_AT_ONCE, initializer=heed, initargs=(heeded(),)) as pool:
        are_there = pool.map(layout.cubes.exists, likely.values())
        found = {index for index, is_there in zip(likely, are_there, strict=True) if is_there}
    for index in found:
        rows.pass_over(index)
    if found:
        _LOG.info("%s built already", counted(len(found), "AOI"), extra=event("finished", aois=len(found)))
    return found
