"""What becomes of AOIs during a build, told to the status board, the log and the progress bar."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from cube.errors import DiskFullError, GelosError, StoreError
from cube.redaction import without_signature
from cube.run.logs import event
from cube.run.status import AoiState, AoiStatus, StatusBoard

_LOG = logging.getLogger(__name__)

AoiCallback = Callable[[int, AoiStatus], None]
"""Called with an AOI's index and its new row at every change."""


def error_in_one_line(error: BaseException) -> str:
    """Return an error as one line without signatures, with its type if it is not ours."""
    text = without_signature(" ".join(str(error).split()))
    return text if isinstance(error, GelosError) else f"{type(error).__name__}: {text}"


class AoiRows:
    """The rows of the AOIs of a run."""

    def __init__(self, board: StatusBoard, progress: AoiCallback | None) -> None:
        self._board, self._progress = board, progress

    def __getitem__(self, aoi_index: int) -> AoiStatus:
        """Return an AOI's row."""
        return self._board[aoi_index]

    def pass_over(self, aoi_index: int) -> None:
        """Tell the progress of an AOI that has nothing to do."""
        if self._progress is not None:
            self._progress(aoi_index, self._board[aoi_index])

    def label(self, aoi_index: int) -> str:
        """Return what people are shown of an AOI."""
        row = self._board[aoi_index]
        return row.label(aoi_index)

    def update(self, aoi_index: int, **changes: Any) -> None:
        """Change an AOI's row; a new status is logged.

        Raises
        ------
        DiskFullError
            If the board cannot be written for want of room.
        """
        self.note(aoi_index, **changes)
        row = self._board[aoi_index]
        if "status" in changes:
            _log_status(aoi_index, row)
        if self._progress is not None:
            self._progress(aoi_index, row)

    def note(self, aoi_index: int, **changes: Any) -> None:
        """Change facts of an AOI's row that are no news; raises as :meth:`update` does."""
        try:
            self._board.update(aoi_index, **changes)
        except DiskFullError:
            raise
        except StoreError as error:  # a report that a store refuses in passing ends no run of days
            _LOG.warning("%s; the next change writes it again", error)

    def fail(self, aoi_index: int, error: Exception, **changes: Any) -> None:
        """Say why an AOI is given up; a fault of the program is logged with its traceback."""
        reason = error_in_one_line(error)
        if not isinstance(error, GelosError):
            facts = event("fault", aoi=aoi_index)
            _LOG.error("AOI %s: %s", self.label(aoi_index), reason, exc_info=error, extra=facts)
        self.update(aoi_index, status=AoiState.FAILED, reason=reason, **changes)


def _log_status(aoi_index: int, row: AoiStatus) -> None:
    level = logging.ERROR if row.status is AoiState.FAILED else logging.INFO
    text = f"{row.status}: {row.reason}" if row.reason else str(row.status)
    facts = {"status": str(row.status), "reason": row.reason, "done": row.done, "tries": row.tries}
    facts |= {key: value for key, value in (("name", row.name), ("id", row.id)) if value}
    _LOG.log(
        level,
        "AOI %s: %s",
        row.label(aoi_index),
        text,
        extra=event("aoi", aoi=aoi_index, **facts),
    )
