"""The plan as one HTML page that needs no network: which scenes each area would take, and why.

What is told of an area is laid out when it is planned, and lies packed in the page until a reader
opens the area: a page of 1,000 areas opens as fast as one of ten.
"""

from __future__ import annotations

import base64
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from cube.config.aoi import Aoi
from cube.config.models import Config
from cube.config.sensors import ChoiceRule
from cube.html.pages import fill_template
from cube.run.command import counted
from cube.run.pace import duration_text
from cube.scenes.estimate import MODEL, Cost
from cube.scenes.explain import SceneOutcome
from cube.scenes.plan import CubePlan

from .drawing import Outline, draw_area, draw_areas
from .features import extent_outline
from .outcome import AreaOutcome
from .pictures import Pictures
from .timeline import TimeLine, kind_of_loss

_PACKAGE = "cube.build.dry_run"
_LIMITS = (
    ("cloud_cover", "cloud cover below {:g} %"),
    ("nodata_pixel_percentage", "pixels without data below {:g} %"),
    ("delta_days", "at most {:g} days from Sentinel-2"),
)
_TOLD_KINDS = 12
"""Kinds of reasons that are counted one by one."""

Values = dict[str, Any]


@dataclass(frozen=True)
class AreaRecord:
    """What the page holds of an area."""

    aoi: Aoi
    status: str
    reason: str
    windows: Mapping[str, int]
    cost: Cost
    facts: str
    """Extent, bytes and candidate windows in one line; of an area without a plan, why."""
    outline: Outline
    passed_over: Counter[tuple[str, str]]
    """Scenes that lost, by sensor and kind of reason."""
    packed: str
    """All else, as HTML: deflated, then base64."""

    @property
    def anchor(self) -> str:
        """Where the page tells of it."""
        return f"area-{self.aoi.index}"


def area_record(area: AreaOutcome, config: Config, pictures: Pictures | None = None) -> AreaRecord:
    """Lay out what the page tells of an area, with pictures of its scenes if there are any."""
    aoi, plan = area.aoi, area.plan
    geometry = aoi.geometry if plan is None else extent_outline(plan)
    facts = area.reason or _size_in_words(area)
    lost = Counter((one.sensor, kind_of_loss(one.reason)) for one in area.scenes_seen if not one.chosen)
    return AreaRecord(
        aoi=aoi,
        status=area.status,
        reason=area.reason,
        windows=area.windows,
        cost=area.cost,
        facts=facts,
        outline=(f"area-{aoi.index}", f"area {area.status}", f"AOI {aoi.label}: {area.status}", geometry),
        passed_over=lost,
        packed=_pack(_lay_out(area, config, pictures or {})),
    )


def make_page(config: Config, records: Sequence[AreaRecord], warnings: Sequence[str] = ()) -> bytes:
    """Write the page; equal plans give equal bytes."""
    states = Counter(one.status for one in records)
    total = sum((one.cost for one in records), Cost())
    windows = sum((Counter(one.windows) for one in records), Counter[str]())
    passed_over = sum((one.passed_over for one in records), Counter[tuple[str, str]]())
    sections: Values = {
        "overview": {
            "facts": {
                "areas": f"{len(records):,}",
                **{state: f"{count:,}" for state, count in sorted(states.items())},
                "to fetch": bytes_text(total.fetch_bytes),
                "on disk": bytes_text(total.store_bytes),
                "time on one machine": duration_text(total.seconds),
                "candidate windows": f"{windows.total():,}",
            },
            "model": MODEL,
            "warnings": warnings,
            "windows": _shares(windows),
            "limits": list(_limits(config)),
        },
        "where": draw_areas([one.outline for one in records]) if records else "",
        "passed": _passed_over(passed_over, config),
        "areas": {"records": records, "states": sorted(states)},
    }
    name = f"{config.dataset.name} {config.dataset.version}"
    return fill_template(_PACKAGE, "plan.html.j2", name=name, sections=sections)


def bytes_text(count: float) -> str:
    """Return a number of bytes as people read it.

    Examples
    --------
    >>> bytes_text(1.3e9), bytes_text(250_000)
    ('1.3 GB', '0.25 MB')
    """
    for size, unit in ((1e12, "TB"), (1e9, "GB")):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count / 1e6:.3g} MB"


def _size_in_words(area: AreaOutcome) -> str:
    plan = area.plan
    assert plan is not None
    windows = ", ".join(f"{number:,} {title}" for title, number in area.windows.items())
    return f"{_extent(plan)}, {bytes_text(area.cost.fetch_bytes)}; {windows or 'no candidate window'}"


def _extent(plan: CubePlan) -> str:
    return f"{plan.bounds.width / 1000:g} x {plan.bounds.height / 1000:g} km"


def _shares(counts: Counter[str]) -> list[tuple[str, int, float]]:
    top = max(counts.values(), default=1)
    return [(title, number, number / top) for title, number in counts.most_common()]


def _limits(config: Config) -> Iterator[tuple[str, str]]:
    """Yield what is asked of each sensor's scenes."""
    for key in config.series:
        settings = config.sensors[key]
        told = [
            words.format(value)
            for name, words in _LIMITS
            if (value := getattr(settings, name, None)) is not None
        ]
        yield config.table[key].title, ", ".join(told) or "any"
    if config.ranges:
        yield "time ranges", ", ".join(map(str, config.ranges))


def _passed_over(counts: Counter[tuple[str, str]], config: Config) -> list[tuple[str, str, int]]:
    """Return sensor, kind of reason and number of scenes, the most frequent first."""
    rows = [(config.table[key].title, kind, number) for (key, kind), number in counts.most_common()]
    others = sum(number for *_, number in rows[_TOLD_KINDS:])
    return rows[:_TOLD_KINDS] + ([("", "other reasons", others)] if others else [])


def _pack(page: bytes) -> str:
    return base64.b64encode(zlib.compress(page, 9)).decode()


def _lay_out(area: AreaOutcome, config: Config, pictures: Pictures) -> bytes:
    """Lay out the part of the page that is opened on demand."""
    plan, nouns = area.plan, {key: str(config.table[key].choice) for key in config.series}
    line = TimeLine(config.ranges) if config.ranges else None
    sensors = [_sensor(key, area, config, nouns[key], line, pictures) for key in config.series]
    statics = [
        (one.sensor.title, [scene.id for scene in one.scenes], pictures.get((one.key, 0)))
        for one in (plan.sensors if plan else ())
        if one.sensor.is_static
    ]
    facts = {}
    if plan is not None:
        facts = {
            "extent": _extent(plan),
            "zone": f"EPSG:{plan.epsg}",
            "blocks": f"{len(plan.all_blocks):,}",
            "to fetch": bytes_text(area.cost.fetch_bytes),
            "on disk": bytes_text(area.cost.store_bytes),
            "on one machine": duration_text(area.cost.seconds),
        }
    return fill_template(
        _PACKAGE,
        "area.html.j2",
        reason=area.reason,
        facts=facts,
        windows=_shares(Counter(area.windows)),
        drawing=draw_area(area, nouns),
        legend=list(nouns.items()) if plan else [],
        shades=line.shades if line else [],
        sensors=sensors,
        statics=statics,
    )


def _sensor(
    key: str, area: AreaOutcome, config: Config, noun: str, line: TimeLine | None, pictures: Pictures
) -> Values:
    """Return what is told of a sensor: its lanes, its dates, and what was passed over."""
    seen = [one for one in area.scenes_seen if one.sensor == key]
    lost = sorted((one for one in seen if not one.chosen), key=_when)
    return {
        "title": config.table[key].title,
        "noun": noun,
        "seen": len(seen),
        "lanes": line.lanes(seen) if line else [],
        "untimed": sum(one.time is None for one in seen),
        "dates": list(_dates(area.plan, key, pictures)) if area.plan else [],
        "lost": [(f"{one.time:%Y-%m-%d}" if one.time else "", one.group, one.id, one.reason) for one in lost],
        "why": Counter(kind_of_loss(one.reason) for one in lost).most_common(3),
    }


def _when(outcome: SceneOutcome) -> tuple[Any, ...]:
    return (outcome.time is None, outcome.time or 0, outcome.id)


def _dates(plan: CubePlan, key: str, pictures: Pictures) -> Iterator[Values]:
    """Yield what is told of each chosen date."""
    first = next((one for one in plan.sensors if one.sensor.choice is ChoiceRule.TILE), None)
    for index, date in enumerate(plan.sensor(key).dates):
        clouds = [scene.cloud_cover for scene in date.scenes if scene.has_cloud_cover]
        facts = []
        if clouds:
            facts.append(f"{max(clouds):.3g} % cloud")
        if first is not None and first.key != key:
            days = abs(date.time - first.dates[index].time) / timedelta(days=1)
            facts.append(f"{counted(round(days), 'day')} from {first.sensor.title}")
        yield {
            "day": f"{date.time:%Y-%m-%d}",
            "facts": ", ".join(facts),
            "ids": [scene.id for scene in date.scenes],
            "picture": pictures.get((key, index)),
        }
