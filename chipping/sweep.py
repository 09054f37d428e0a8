"""Sweep: chips per class under a grid of settings, from score tables alone.

No pixels are read: 100 settings over 100,000 windows take seconds. Limits of scenes are judged by
the scenes that finished cubes hold, and so can only be made tighter; an AOI whose scenes break one
counts as one without a cube, though a build might find it another tile, orbit or path.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml
from pydantic import ValidationError

from cube.config.models import ChipsConfig, Config
from cube.config.sensors import CLASS_COLORS, CLASS_NAMES
from cube.config.yaml_text import load_yaml
from cube.errors import ConfigError
from cube.run.layout import Layout
from cube.run.lock import hold
from cube.run.tasks import Engine
from cube.store.sealed import CubeInfo
from cube.store.takeover import take_over

from .chip import engine_for, score_cubes
from .choose import ScoreSet, choose, drop_counts

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SWEEP_CSV, SWEEP_PNG = "sweep.csv", "sweep.png"

Grid = Mapping[str, Sequence[Any]]
"""Values to try, by dotted key."""

_SWEPT = ("min_purity", "classes", "forbidden", "max_per_class", "min_clear", "min_valid")
"""Keys of ``chips`` that need no new scores."""
_SCENE_LIMITS = ("cloud_cover", "nodata_pixel_percentage", "delta_days")
"""Keys of sensors that the scenes of a cube can be judged by."""
_FACTOR = "lulc.sampling_factor"
_BY_SENSOR = ("min_clear", "min_valid")
"""Those that may be given by sensor, and by time range."""


@dataclass(frozen=True)
class Setting:
    """One point of the grid, and the chips that it gives."""

    values: Mapping[str, Any]
    """By dotted key."""
    kept_classes: tuple[int, ...]
    chips: Mapping[int, int]
    """By class, before balancing; classes without chips are left out."""
    factor: int | None = None
    """The largest class may have this many times the chips of the smallest; None: not balanced."""
    areas: int = 0
    """Cubes whose scenes keep the limits."""

    @property
    def balanced(self) -> dict[int, int]:
        """Chips by class after balancing: what a release would hold."""
        if self.factor is None:
            return dict(self.chips)
        drops = drop_counts(self.chips, self.factor)
        return {code: count - drops[code] for code, count in self.chips.items()}

    @property
    def total(self) -> int:
        """Chips of all classes, before balancing."""
        return sum(self.chips.values())

    @property
    def fewest(self) -> int:
        """Chips of the kept class that has fewest; balancing takes none of it."""
        return min((self.chips.get(code, 0) for code in self.kept_classes), default=0)


@dataclass(frozen=True)
class SweepResult:
    """All settings of a grid, the first key varying slowest."""

    grid: Grid
    settings: tuple[Setting, ...]

    @property
    def is_balanced(self) -> bool:
        """Whether a setting balances its classes."""
        return any(setting.factor is not None for setting in self.settings)

    def loosest(self, want: int) -> Setting | None:
        """Return the setting with most chips that gives `want` of every kept class, or None."""
        enough = [setting for setting in self.settings if setting.fewest >= want]
        return max(enough, key=lambda s: (s.total, -self._strictness(s)), default=None)

    def strictest(self, want: int) -> Setting | None:
        """Return the setting with fewest chips that gives `want` of every kept class, or None."""
        enough = [setting for setting in self.settings if setting.fewest >= want]
        return min(enough, key=lambda s: (s.total, -self._strictness(s)), default=None)

    def _strictness(self, setting: Setting) -> int:
        """Tell settings with equally many chips apart: their steps from loose to strict, in all."""
        return sum(_strict_order(key, values).index(setting.values[key]) for key, values in self.grid.items())

    def to_csv(self) -> bytes:
        """Return the table: columns for keys, classes, the total, a kept class's fewest, cubes.

        Those are before balancing; where a setting balances, ``balanced_{code}`` and
        ``balanced_total`` follow.
        """
        buffer = io.StringIO(newline="")
        writer = csv.writer(buffer, lineterminator="\n")
        codes = [code for code in CLASS_NAMES if any(code in setting.chips for setting in self.settings)]
        head = [*self.grid, *(f"class_{code}" for code in codes), "total", "fewest", "cubes"]
        after = [*(f"balanced_{code}" for code in codes), "balanced_total"] if self.is_balanced else []
        writer.writerow([*head, *after])
        for setting in self.settings:
            values = [_text(setting.values[key]) for key in self.grid]
            counts = [setting.chips.get(code, 0) for code in codes]
            balanced = [setting.balanced.get(code, 0) for code in codes]
            line = [*values, *counts, setting.total, setting.fewest, setting.areas]
            writer.writerow([*line, *balanced, sum(balanced)] if self.is_balanced else line)
        return buffer.getvalue().encode()


def _strict_order(key: str, values: Sequence[Any]) -> list[Any]:
    """Return values from loose to strict: shares upwards, caps and limits downwards."""
    if key in ("chips.max_per_class", _FACTOR) or _is_scene_limit(key):
        return sorted(values, key=lambda cap: np.inf if cap is None else cap, reverse=True)
    return sorted(values) if all(isinstance(value, (int, float)) for value in values) else list(values)


def _text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def parse_grid(options: Sequence[str], sensors: Collection[str]) -> dict[str, list[Any]]:
    """Read ``key=value,value...`` options, one per key to sweep.

    Examples
    --------
    >>> parse_grid(["chips.min_purity=0.8,1.0", "chips.classes=[1,2],[5]"], ["s2l2a"])
    {'chips.min_purity': [0.8, 1.0], 'chips.classes': [[1, 2], [5]]}

    Raises
    ------
    ConfigError
        If one cannot be read, or names a key that scores depend on.
    """
    grid: dict[str, list[Any]] = {}
    for option in options:
        key, separator, text = option.partition("=")
        try:
            values = load_yaml(f"[{text}]") if separator else None
        except yaml.YAMLError:
            values = None
        if not values:
            raise ConfigError(
                f"--grid {option!r}: expected key=value,value..., such as chips.min_purity=0.8,0.9"
            )
        _check_key(key.strip(), sensors)
        grid[key.strip()] = values
    return grid


def _check_key(key: str, sensors: Collection[str]) -> None:
    section, _, name = key.partition(".")
    if key == _FACTOR or (_is_scene_limit(key) and section in sensors):
        return
    name, dot, sensor = name.partition(".")
    by_sensor = name in _BY_SENSOR and sensor in sensors
    if section != "chips" or name not in _SWEPT or (dot and not by_sensor):
        swept = ", ".join(f"chips.{swept}" for swept in _SWEPT)
        raise ConfigError(
            f"--grid {key}: can be swept are {swept}, a sensor of the last two, such as "
            f"chips.min_clear.lc2l2, {_FACTOR}, and limits of scenes, such as s2l2a.cloud_cover; "
            f"sensors are {', '.join(sensors)}"
        )


def _is_scene_limit(key: str) -> bool:
    section, _, name = key.partition(".")
    return section != "chips" and name in _SCENE_LIMITS


def _with_values(chips: ChipsConfig, values: Mapping[str, Any], sensors: Iterable[str]) -> ChipsConfig:
    """Return settings with some keys replaced, checked as a config file's are."""
    record = chips.model_dump()
    for key, value in values.items():
        section, name, *sensor = key.split(".")
        if section != "chips":
            continue
        if sensor:
            known = record[name]
            record[name] = dict(known) if isinstance(known, dict) else dict.fromkeys(sensors, known)
            record[name][".".join(sensor)] = value
        else:
            record[name] = value
    try:
        return ChipsConfig(**record)
    except ValidationError as error:
        problem = error.errors()[0]
        raise ConfigError(
            f"--grid {', '.join(values)}: {problem['msg'].removeprefix('Value error, ')}"
        ) from None


def sweep_scores(
    scores: ScoreSet, chips: ChipsConfig, grid: Grid, seed: int = 0, limits: SceneLimits | None = None
) -> SweepResult:
    """Count the chips that every setting of a grid gives; `chips` has what the grid does not name.

    `limits` judges the scenes of cubes; without it the grid names none of theirs, and no setting
    balances unless the grid says so.

    Raises
    ------
    ConfigError
        If a value of the grid is not allowed.
    """
    points = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    settings = [_with_values(chips, point, scores.sensors) for point in points]
    for one in settings:
        _check_shares(one, {table.ranges for table in scores.tables}, scores.sensors)
    judged = SceneLimits() if limits is None else limits
    _check_limits(grid, judged)
    subsets: dict[frozenset[int], ScoreSet] = {frozenset(t.cube.aoi_index for t in scores.tables): scores}
    counted = []
    for one, point in zip(settings, points, strict=True):
        kept = frozenset(
            table.cube.aoi_index for table in scores.tables if judged.keeps(table.cube.aoi_index, point)
        )
        if kept not in subsets:
            subsets[kept] = scores.only(kept)
        chosen = _count(subsets[kept], one, seed)
        counted.append(Setting(point, one.classes, chosen, point.get(_FACTOR, judged.factor), len(kept)))
    return SweepResult(grid, tuple(counted))


@dataclass(frozen=True)
class SceneLimits:
    """What the scenes of finished cubes are, by which limits can be judged."""

    cubes: Mapping[int, CubeInfo] = field(default_factory=dict)
    own: Mapping[str, float] = field(default_factory=dict)
    """The config's limits, by dotted key, but for those that are accepted and not used."""
    factor: int | None = None
    """The config's ``lulc.sampling_factor``."""

    @classmethod
    def of(cls, config: Config, cubes: Iterable[CubeInfo]) -> SceneLimits:
        """Gather the limits of a config, and cubes by their AOI."""
        own = {
            f"{key}.{name}": float(getattr(settings, name))
            for key, settings in config.sensors.items()
            for name in _SCENE_LIMITS
            if name in type(settings).model_fields and type(settings).model_fields[name].default is not None
        }
        return cls({one.aoi_index: one for one in cubes}, own, config.land_cover.sampling_factor)

    def keeps(self, aoi_index: int, point: Mapping[str, Any]) -> bool:
        """Tell whether the scenes of an AOI's cube keep all limits of a grid's point."""
        wanted = {key: value for key, value in point.items() if _is_scene_limit(key)}
        return all(self._keeps(self.cubes[aoi_index], key, value) for key, value in wanted.items())

    def _keeps(self, cube: CubeInfo, key: str, limit: float) -> bool:
        """Judge as :mod:`cube.scenes.choose` does: percents are strict limits, days are not."""
        sensor, _, name = key.partition(".")
        if sensor not in cube.sensors:
            return True
        info = cube.sensors[sensor]
        if name == "nodata_pixel_percentage":
            return all(share < limit for share in info.nodata)
        if name == "cloud_cover":
            return all(cover < limit for date in info.cloud_cover for cover in date)
        anchors = cube.sensors["s2l2a"].times if "s2l2a" in cube.sensors else info.times
        days = (abs((a - b).total_seconds()) / 86_400 for a, b in zip(info.times, anchors, strict=False))
        return all(distance <= limit for distance in days)


def _check_limits(grid: Grid, limits: SceneLimits) -> None:
    """Refuse factors that are none, and limits that finished cubes cannot tell of."""
    for factor in grid.get(_FACTOR, ()):
        if factor is not None and (not isinstance(factor, int) or isinstance(factor, bool) or factor < 1):
            raise ConfigError(f"--grid {_FACTOR}: {factor!r} is no whole number from 1 on, or null")
    for key in filter(_is_scene_limit, grid):
        if key not in limits.own:
            known = ", ".join(limits.own) or "none here"
            raise ConfigError(f"--grid {key}: the config has no such limit; it has {known}")
        for value in grid[key]:
            if not isinstance(value, (int, float)) or isinstance(value, bool) or value < 0:
                raise ConfigError(f"--grid {key}: {value!r} is no number from 0 on")
            if value > limits.own[key]:
                raise ConfigError(
                    f"--grid {key}: {value:g} is looser than the config's {limits.own[key]:g}; finished cubes tell "
                    "of tighter limits alone: set it in the config and run gelos-lc plan"
                )


def _check_shares(chips: ChipsConfig, ranges: Collection[int], sensors: Collection[str]) -> None:
    """Refuse shares of unknown sensors, and lists of shares that are not one per time range."""
    for name in _BY_SENSOR:
        value = getattr(chips, name)
        for sensor, share in (value if isinstance(value, Mapping) else {"": value}).items():
            if sensor and sensor not in sensors:
                raise ConfigError(
                    f"--grid chips.{name}: {sensor} is no sensor; there are {', '.join(sensors)}"
                )
            if isinstance(share, tuple) and {len(share)} != set(ranges):
                raise ConfigError(
                    f"--grid chips.{name}: gives {len(share)} shares for {max(ranges, default=0)} time ranges; "
                    "give one share, or one per range"
                )


def _count(scores: ScoreSet, chips: ChipsConfig, seed: int) -> dict[int, int]:
    """Return the chips that a setting gives, by class."""
    chosen = scores.lulc[choose(scores, chips, seed) == 0]
    codes, counts = np.unique(chosen, return_counts=True)
    return dict(zip(codes.tolist(), counts.tolist(), strict=True))


def sweep(config: Config, grid: Grid, engine: Engine | None = None) -> SweepResult:
    """Sweep a grid over all finished cubes; write ``sweep.csv`` and ``sweep.png`` beside the chips.

    Parameters
    ----------
    config
        The dataset version; its settings are those that the grid does not name.
    grid
        Values by dotted key, such as :func:`parse_grid` returns.
    engine
        What runs the work; by default what :func:`chipping.chip.engine_for` gives.

    Raises
    ------
    CubeNotSealedError
        If no cube is finished.
    BusyError
        If another run works in the folder.
    ConfigError
        If a value of the grid is not allowed, or a cube was built with other settings.
    """
    layout = Layout.of(config)
    folder = layout.root
    folder.make()
    with hold(folder), engine_for(config, engine) as running:
        running.wait_for_earlier_tasks(folder.url)
        take_over(layout)
        scores = score_cubes(config, running)
        limits = SceneLimits.of(config, (table.cube for table in scores.tables))
        result = sweep_scores(scores, config.chips, grid, config.release.seed, limits)
        folder.write(SWEEP_CSV, result.to_csv())
        folder.write(SWEEP_PNG, _plot(result, config))
    return result


def _plot(result: SweepResult, config: Config) -> bytes:
    """Draw chips per class against each key, the others at the config's own values."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    keys = list(result.grid)
    figure = Figure(figsize=(1.5 + 4.2 * len(keys), 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(keys), sharey=True, squeeze=False)[0]
    for axis, key in zip(axes, keys, strict=True):
        _plot_key(axis, result, key, _own_values(result, config))
    axes[0].set_ylabel(f"chips {'after' if result.is_balanced else 'before'} balancing")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120, metadata={"Software": None})
    return buffer.getvalue()


def _own_values(result: SweepResult, config: Config) -> dict[str, Any]:
    """Return each key's value in the config where the grid has it, or else the grid's first."""
    dumped = {"chips": config.chips.model_dump()}
    dumped |= {key: settings.model_dump() for key, settings in config.sensors.items()}
    own = {}
    for key, values in result.grid.items():
        section, name, *sensor = key.split(".")
        value = dumped[section][name]
        if sensor and isinstance(value, dict):
            value = value.get(sensor[0])
        value = list(value) if isinstance(value, tuple) else value
        own[key] = value if value in values else values[0]
    return own


def _plot_key(axis: Axes, result: SweepResult, key: str, own: Mapping[str, Any]) -> None:
    values = _strict_order(key, result.grid[key])
    places = np.arange(len(values))
    line = [_setting_at(result, {**own, key: value}) for value in values]
    for code in sorted({code for setting in line for code in setting.kept_classes}):
        counts = [setting.balanced.get(code, 0) for setting in line]
        color, label = CLASS_COLORS.get(code, "black"), f"{code} {CLASS_NAMES[code]}"
        axis.plot(places, counts, marker="o", color=color, markeredgecolor="0.3", label=label)
    axis.set_xticks(places, [_text(value) for value in values])
    others = ", ".join(f"{k.removeprefix('chips.')} {_text(v)}" for k, v in own.items() if k != key)
    axis.set_title(f"others at {others}" if others else "", fontsize=8)
    axis.set_xlabel(key)
    axis.set_ylim(bottom=0)
    axis.grid(axis="y", alpha=0.3)


def _setting_at(result: SweepResult, values: Mapping[str, Any]) -> Setting:
    return next(setting for setting in result.settings if setting.values == values)
