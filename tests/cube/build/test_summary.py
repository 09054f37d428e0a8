"""What a build says at its end."""

from __future__ import annotations

import pytest

from cube.build.commands import print_summary
from cube.build.run import BuildSummary
from cube.run.status import AoiState, AoiStatus


def test_a_scene_that_many_areas_lost_is_one_lost_scene(capsys: pytest.CaptureFixture[str]) -> None:
    lost = [{"item": "S2A_X", "asset": "B04", "cause": "the file is missing (HTTP 404)"}]
    rows = {index: AoiStatus(AoiState.BUILT, name=f"P{index}", lost=lost) for index in range(12)}
    print_summary(BuildSummary(rows, 3))
    said = capsys.readouterr().out
    assert "1 scene is lost, the files missing or broken" in said
    assert "000000, 000001, 000002, 000003, 000004, 000005 and 6 more" in said
    assert "P6" not in said


def test_nothing_to_retry_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    print_summary(BuildSummary({}))
    assert capsys.readouterr().out == "no AOI failed in an earlier run: there is nothing to do again\n"


def test_what_failed_is_told_how_to_try_again(capsys: pytest.CaptureFixture[str]) -> None:
    rows = {0: AoiStatus(AoiState.FAILED, reason="no token"), 1: AoiStatus(AoiState.BUILT)}
    print_summary(BuildSummary(rows, 3))
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2:] == [
        "1 built, 1 failed; 3 blocks fetched",
        "what failed is built again by the same command with --retry-failed",
    ]
    print_summary(BuildSummary({1: rows[1]}, 3))
    assert "--retry-failed" not in capsys.readouterr().out
