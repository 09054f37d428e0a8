"""Phase one: from AOIs to sealed cubes.

The client plans AOIs a few ahead, and feeds their blocks to the engine as capacity frees up;
workers read and write; when the last block of a cube is on disk, the client seals it. What a killed
run leaves is completed by the next: a plan once made is kept, and a block whose marker lies on disk
is not read again.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import closing
from dataclasses import dataclass

from cube.config.aoi import load_aois
from cube.config.models import Config
from cube.run.layout import Layout
from cube.run.lock import hold, share
from cube.run.status import AoiState, AoiStatus, StatusBoard
from cube.run.tasks import Engine
from cube.scenes.catalog import open_catalog
from cube.scenes.query import Catalog
from cube.store.takeover import take_over

from .aoi_rows import AoiCallback, AoiRows
from .block import build_block
from .block_queue import BlockQueue
from .losses import LossWatch
from .plans import AoiPlanner, wanted_aois


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
    with hold(layout.root), share(layout.working, if_alone=layout.sweep_shared):
        engine.wait_for_earlier_tasks(layout.root.url)
        layout.sweep()
        take_over(layout)
        wanted = wanted_aois(config, only=only, retry_failed=retry_failed)
        board = StatusBoard(layout.root, load_aois(config))
        board.write()
        losses = LossWatch()
        asked = catalog or open_catalog(config, ask_again=retry_failed)
        how = {"ask_again": retry_failed, "recheck_lost": recheck_lost}
        with AoiPlanner(config, layout, asked, wanted, losses, **how) as planner:
            blocks = BlockQueue(config, layout, planner, AoiRows(board, progress), losses)
            try:
                with closing(engine.run(build_block, blocks, layout.root.url)) as outcomes:
                    for outcome in outcomes:
                        blocks.finish(outcome)
            finally:
                blocks.close()
                board.write()
        return BuildSummary({aoi.index: board[aoi.index] for aoi in wanted}, blocks.fetched)
