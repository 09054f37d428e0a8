"""Pace and time left, against runs whose end is known: simulated, with a clock of their own."""

from __future__ import annotations

import heapq
import logging
import random
import time
from collections.abc import Iterator

import pytest

from cube.retry.services import ServiceWatch
from cube.run import pace, progress
from cube.run.progress import draw_aois
from cube.run.status import AoiState, AoiStatus

AREAS = 300
Event = tuple[float, int, AoiStatus]


def simulate(seed: int, *, built_before: int, outage_s: float) -> Iterator[Event]:
    """Yield when each row changes in a run of 300 areas, of which three in ten are skipped.

    Blocks take 4 to 40 s, 8 to 24 of them a cube. Two workers begin, six join after an hour; for a
    while in the second hour there is no network.
    """
    draw = random.Random(seed)
    skipped = {ten + number for ten in range(0, AREAS, 10) for number in draw.sample(range(10), 3)}
    workers = [(0.0, number) for number in range(2)] + [(3600.0, number) for number in range(2, 8)]
    sizes, ends = dict[int, int](), list[tuple[float, int]]()
    ready, begun, events = list[int](), built_before, list[Event]()
    for index in range(built_before):
        yield 0.0, index, AoiStatus(AoiState.SKIPPED if index in skipped else AoiState.BUILT, done=1.0)
    heapq.heapify(workers)
    while workers:
        now, worker = heapq.heappop(workers)
        while not ready and begun < AREAS:
            if begun in skipped:
                events.append((now, begun, AoiStatus(AoiState.SKIPPED)))
            else:
                sizes[begun] = draw.randint(8, 24)
                ready = [begun] * sizes[begun]
                events.append((now, begun, AoiStatus(AoiState.BUILDING)))
            begun += 1
        if not ready:
            continue
        index, end = ready.pop(), now + draw.uniform(4, 40)
        if now < 5000 <= end:
            end += outage_s
        heapq.heappush(workers, (end, worker))
        ends.append((end, index))
    done = dict.fromkeys(sizes, 0)
    for end, index in sorted(ends):
        done[index] += 1
        events.append((end, index, AoiStatus(AoiState.BUILDING, done=done[index] / sizes[index])))
        if done[index] == sizes[index]:
            events.append((end, index, AoiStatus(AoiState.BUILT, done=1.0)))
    yield from sorted(events, key=lambda one: one[0])


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("built_before", "outage_s"), [(0, 0.0), (60, 0.0), (0, 1800.0)])
def test_time_left_is_right_within_a_quarter_at_half_time(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    seed: int,
    built_before: int,
    outage_s: float,
) -> None:
    caplog.set_level(logging.INFO)
    now = [0.0]
    monkeypatch.setattr(pace.time, "monotonic", lambda: now[0])
    said: list[tuple[float, int]] = []
    with draw_aois(AREAS, "cubes", bars=False) as report:
        for at, index, row in simulate(seed, built_before=built_before, outage_s=outage_s):
            now[0] = at
            report(index, row)
            facts = vars(caplog.records[-1])["facts"] if caplog.records else {}
            caplog.clear()
            if facts.get("left_s") is not None:
                said.append((at, facts["left_s"]))
    end = now[0]
    assert end > 2 * 3600
    middle = [(at, left) for at, left in said if 0.45 * end < at < 0.55 * end]
    assert len(middle) > 10
    errors = [abs(at + left - end) / (end - at) for at, left in middle]
    assert max(errors) < 0.25, (end, middle)
    assert said[-1][1] <= 1


def test_a_rate_is_a_plain_number_and_waiting_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(pace.time, "monotonic", lambda: now[0])
    areas = pace.AoiPace(10_000)
    assert str(areas) == ""
    for index in range(40):
        areas.note(index, AoiStatus(AoiState.BUILDING))
        now[0] += 2.5
        areas.note(index, AoiStatus(AoiState.BUILT, done=1.0))
    assert str(areas) == "1,440 AOIs/h, 6:55:00 left"
    now[0] += 700
    assert str(areas) == "nothing has come for 0:11:40; 6:55:00 left without waiting"
    areas.note(40, AoiStatus(AoiState.BUILDING))
    areas.note(40, AoiStatus(AoiState.BUILT, done=1.0))
    assert areas.per_hour == pytest.approx(1440, rel=0.06)


def test_a_service_that_is_not_reached_stands_on_the_bar_until_something_moves() -> None:
    bar = pace.AoiPace(2)
    with progress.heard(bar):
        bar.note(0, AoiStatus(AoiState.BUILDING, done=0.0))
        watch = ServiceWatch()
        watch.wait_s("tiles.example.org", "the connection is refused", time.monotonic(), 60.0)
        assert str(bar) == "tiles.example.org is not reached"
        bar.note(1, AoiStatus(AoiState.BUILDING, done=0.0))  # a beginning is no answer
        assert str(bar).startswith("tiles.example.org is not reached")
        bar.note(0, AoiStatus(AoiState.BUILDING, done=0.5))
        assert "not reached" not in str(bar)
    watch.wait_s("other.example.org", "the connection is refused", time.monotonic(), 60.0)
    assert "not reached" not in str(bar)
