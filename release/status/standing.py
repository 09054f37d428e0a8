"""Where a dataset version stands, at any moment and from any machine; nothing is written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from chipping.choose import Verdict
from chipping.records import CHOICE
from chipping.scores import scores_name
from cube.build.overview import areas_json, print_areas
from cube.config.aoi import load_aois
from cube.config.models import Config
from cube.run.command import CommonOptions, typed_on_release
from cube.run.layout import EXPORTING, Layout
from cube.run.lock import who_holds
from cube.run.status import AoiState, AoiStatus, cut_off_shards, read_rows
from cube.run.storage import open_folder
from release.opening.checksums import SUMS_NAME


@dataclass(frozen=True)
class Standing:
    """What has become of a dataset version so far."""

    version: str
    working: str
    """Folder of the version among the working ones."""
    at_work: str
    """The run that is at work: ``process 12 on node7``; empty if none is."""
    cut_off: tuple[str, ...]
    """Shares of the areas whose runs were killed, ``3/64``; empty if no run is at work, since the
    next one takes them up."""
    rows: Mapping[int, AoiStatus]
    """Every area of the config, by AOI index."""
    has_chips: bool
    """Whether windows have been chosen."""
    unscored: int
    """Built areas that phase two has not looked at."""
    release: str
    """Folder of the release; empty if there is none."""
    verify: str
    """The command that checks it."""

    def count(self, *states: AoiState) -> int:
        """Return how many areas are in one of some states."""
        return sum(row.status in states for row in self.rows.values())

    @property
    def windows(self) -> Counter[str]:
        """Windows by verdict, over all areas."""
        total = Counter[str]()
        for row in self.rows.values():
            total.update(row.chips)
        return total

    def next_commands(self, common: CommonOptions) -> Iterator[tuple[str, str]]:
        """Yield what one would type next, and what for, the most pressing first."""
        if self.at_work:
            for share in self.cut_off:
                yield f"{common.typed('build')} --shard {share}", "goes on where this share was cut off"
            yield common.typed("status"), "again: a run is at work"
            return
        if self.count(AoiState.PENDING, AoiState.BUILDING):
            yield common.typed("build"), "builds what is left (run: and all up to the release)"
        if self.count(AoiState.FAILED):
            yield f"{common.typed('build')} --retry-failed", "tries again what failed"
        if not self.count(AoiState.BUILT):
            if self.count(AoiState.SKIPPED):
                yield common.typed("plan"), "after a change of the limits that the reasons name"
            return
        if self.unscored or not self.has_chips:
            yield common.typed("chip"), "cuts chips from the cubes that are there"
        elif not self.release:
            yield common.typed("release"), "makes the release"
        else:
            yield self.verify, "checks the release"

    def to_json(self, common: CommonOptions) -> dict[str, Any]:
        """Return all of it as plain JSON, with a row for every area."""
        return {
            "version": self.version,
            "at_work": self.at_work,
            "cut_off": list(self.cut_off),
            **areas_json(self.rows),
            "windows": dict(self.windows),
            "release": self.release,
            "next": [line for line, _ in self.next_commands(common)],
            "rows": [{"aoi_index": index, **asdict(row)} for index, row in self.rows.items()],
        }


def read_standing(config: Config) -> Standing:
    """Read where a version stands.

    Raises
    ------
    AoiError, ConfigError
        If the file of areas cannot be used.
    StoreError
        If a folder or bucket cannot be read.
    """
    layout = Layout.of(config)
    at_work = who_holds(layout.root)
    rows = read_rows(layout.root, load_aois(config), at_work=bool(at_work))
    scored = set(layout.scores.names(".parquet"))
    built = [index for index, row in rows.items() if row.status is AoiState.BUILT]
    output = open_folder(config.directory.output, config.directory.storage_options) / config.dataset.version
    return Standing(
        version=f"{config.dataset.name} {config.dataset.version}",
        working=str(layout.root),
        at_work=at_work,
        cut_off=tuple(map(str, cut_off_shards(layout.root))) if at_work else (),
        rows=rows,
        has_chips=layout.windows.exists(CHOICE) and not layout.root.exists(EXPORTING),
        unscored=sum(scores_name(index) not in scored for index in built),
        release=str(output) if output.exists(SUMS_NAME) else "",
        verify=typed_on_release("verify", str(output), config.directory.storage_options),
    )


def print_standing(standing: Standing, common: CommonOptions) -> None:
    """Print areas by state, what was lost, chips, the release, and the next commands."""
    print_areas(standing.rows)
    if not any(row.tries or row.status is not AoiState.PENDING for row in standing.rows.values()):
        print(f"working   {standing.working}: no run has begun anything there")
    windows = standing.windows
    if standing.has_chips:
        print(f"chips     {windows[Verdict.SUCCESS]} of {windows.total()} windows")
    if standing.has_chips and standing.unscored:
        print(f"          {standing.unscored} built since, or not looked at yet")
    if standing.release:
        print(f"release   {standing.release}")
    if standing.at_work:
        print(f"at work   {standing.at_work}")
    print("next:")
    for line, why in standing.next_commands(common):
        print(f"  {line}  # {why}")
