"""The command ``compare``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cube.errors import GelosError
from cube.run.command import EXIT_USAGE, print_table, terminated_as_interrupted, verb

if TYPE_CHECKING:
    from release.loading.dataset import Release

    from .comparison import ChipMove, Comparison

_EXIT_DIFFERENT = 1


@verb(
    "compare",
    "gelos-lc compare processed/v0.50.1 processed/v0.51.0 --html compare.html",
    "gelos-lc compare gelos-lc_v0.50.1.zip gelos-lc_v0.51.0.zip --json",
)
@click.argument("a", type=click.Path())
@click.argument("b", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="All that differs as JSON, in place of tables.")
@click.option(
    "--html",
    "page",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="PAGE",
    help="Also write one self-contained page, with pictures of some chips.",
)
def compare_command(a: str, b: str, *, as_json: bool, page: Path | None) -> int:
    """Tell what differs between two releases.

    A and B are folders or zips, the earlier first. Chips are the same where their cell is. What a
    file holds is taken from SHA256SUMS, so verify a release that somebody may have touched. Exit
    code 0 if nothing differs, 1 if something does.
    """
    from .releases import compare_releases, open_one

    try:
        with terminated_as_interrupted():
            one, other = open_one(a), open_one(b)
            comparison = compare_releases(one, other)
            if page is not None:
                _write_page(page, comparison, one, other)
    except GelosError as error:
        click.echo(f"error: {error}", err=True)
        return EXIT_USAGE
    if as_json:
        click.echo(comparison.to_json().decode(), nl=False)
    else:
        _print_tables(comparison)
        if page is not None:
            click.echo(f"page      {page}")
    return _EXIT_DIFFERENT if comparison.differs else 0


def _write_page(page: Path, comparison: Comparison, a: Release, b: Release) -> None:
    from cube.run.storage import open_folder

    from .page import make_page

    open_folder(page.parent).write(page.name, make_page(comparison, a, b))


def _print_tables(one: Comparison) -> None:
    click.echo(f"A  {one.a.title}: {one.a.chips:,} chips")
    click.echo(f"B  {one.b.title}: {one.b.chips:,} chips")
    if not one.differs:
        click.echo("nothing differs")
        return
    click.echo(f"{len(one.kept):,} chips kept, {len(one.gone):,} gone, {len(one.new):,} new")
    _print_settings(one)
    _print_classes(one)
    names = {shift.code: shift.name for shift in one.classes}
    _print_moves("Gone from A", one.gone, names)
    _print_moves("New in B", one.new, names)
    _print_kept(one)
    _print_rest(one)


def _print(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table that has rows."""
    if rows:
        print_table(title, list(columns), [list(row) for row in rows])


def _print_settings(one: Comparison) -> None:
    rows = [
        (
            setting.key,
            setting.a if "a" in setting.sides else "(absent)",
            setting.b if "b" in setting.sides else "(absent)",
        )
        for setting in one.settings
    ]
    _print("Settings that differ", ("key", "A", "B"), rows)
    fields = [(name, "gone") for name in one.fields_gone] + [(name, "new") for name in one.fields_new]
    _print("Fields of the table", ("field", ""), fields)


def _print_classes(one: Comparison) -> None:
    rows = [
        (
            f"{shift.code} {shift.name}",
            shift.a,
            shift.b,
            f"{shift.share_a:.1%}",
            f"{shift.share_b:.1%}",
            f"{100 * shift.shift:+.1f}",
            shift.kept,
            shift.gone,
            shift.new,
        )
        for shift in one.classes
    ]
    columns = ("class", "A", "B", "share A", "share B", "shift, points", "kept", "gone", "new")
    _print("Classes", columns, rows)


def _print_moves(title: str, moves: Sequence[ChipMove], names: Mapping[int, str]) -> None:
    from .page import explain_reason

    counts = Counter(move.reason for move in moves)
    by_class = Counter((move.reason, move.lulc) for move in moves)
    rows = []
    for reason, count in counts.most_common():
        codes = sorted(code for found, code in by_class if found == reason)
        classes = ", ".join(f"{by_class[reason, code]} {names.get(code, code)}" for code in codes)
        rows.append((reason, count, classes, explain_reason(reason)))
    _print(title, ("reason", "chips", "classes", "meaning"), rows)


def _print_kept(one: Comparison) -> None:
    """Print what differs of the chips that both have."""
    from .page import day, pixel_totals

    fields = Counter(change.field for change in one.changes)
    rows = []
    for name, count in sorted(fields.items()):
        first = next(change for change in one.changes if change.field == name)
        rows.append((name, count, f"{first.cell}: {first.a} -> {first.b}"))
    _print("Fields of kept chips", ("field", "chips", "such as"), rows)
    scenes = [
        (
            change.aoi_index,
            change.sensor,
            change.number or "",
            f"{day(change.date_a)} {change.scenes_a}",
            f"{day(change.date_b)} {change.scenes_b}",
            change.chips,
        )
        for change in one.scenes
    ]
    _print("Dates and scenes of kept chips", ("AOI", "sensor", "range", "A", "B", "chips"), scenes)
    totals = [(*row[:4], "" if row[4] is None else f"{row[4]:g}") for row in pixel_totals(one)]
    columns = ("sensor", "other files", "with other pixels", "pixels", "largest difference")
    _print("Rasters of kept chips", columns, totals)


def _print_rest(one: Comparison) -> None:
    areas = [(change.aoi_index, change.a or "(absent)", change.b or "(absent)") for change in one.areas]
    _print("Areas of interest", ("AOI", "A", "B"), areas)
    _print("Other files", ("file", "what"), one.file_lines)
