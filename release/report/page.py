"""The report: one HTML page that needs no network and shows what is in a release, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version as program_version
from typing import Any

from release.recipe import Recipe
from release.select import Selection
from release.templates import fill_template
from release.tracker import Tracker
from release.windows import Measures

from . import charts, facts
from .browser import BROWSE_NAME
from .map import draw_map
from .pictures import Thumbnails, draw_gallery

REPORT_NAME = "report.html"


def make_report(
    selection: Selection,
    tracker: Tracker,
    windows: Measures,
    aois: Mapping[str, Any] | None,
    recipe: Recipe,
    thumbnails: Thumbnails,
    files: Sequence[str],
) -> bytes:
    """Write the page.

    `windows` tells of all that were scored, `aois` is what ``aoi_metadata.geojson``
    holds, if it is there, and `files` the names of all files of the release.
    """
    chips = tracker.facts
    sections = {
        "overview": {
            "facts": facts.overview_facts(selection, chips, aois, recipe),
            "program": f"Made by gelos-lc {program_version('gelos-lc')}",
            "warnings": selection.warnings,
            "thresholds": list(facts.thresholds(recipe)),
            "sensors": facts.raster_rows(recipe),
        },
        "where": draw_map(tracker, aois, recipe),
        "classes": facts.class_bars(selection),
        "by_area": facts.class_counts_by_area(chips),
        "splits": facts.split_counts(chips),
        "dates": charts.date_charts(chips, recipe),
        "shares": charts.share_charts(chips, windows, recipe),
        "funnel": facts.funnel_bars(selection),
        "areas": facts.area_outcomes(aois, chips["aoi_index"].nunique()),
        "gallery": draw_gallery(chips, recipe, thumbnails),
        "files": files,
    }
    name = f"{recipe.name} {recipe.version}"
    return fill_template("report.html.j2", name=name, sections=sections, browser=BROWSE_NAME)
