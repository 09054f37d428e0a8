"""Sweep: chips per class under a grid of settings, from score tables alone.

No pixels are read: 100 settings over 100,000 windows take seconds.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
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
from cube.store.takeover import take_over

from .chip import engine_for, score_cubes
from .choose import ScoreSet, choose

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SWEEP_CSV, SWEEP_PNG = "sweep.csv", "sweep.png"

Grid = Mapping[str, Sequence[Any]]
"""Values to try, by dotted key."""

_SWEPT = ("min_purity", "classes", "forbidden", "max_per_class", "min_clear", "min_valid")
"""Keys of ``chips`` that need no new scores."""
_BY_SENSOR = ("min_clear", "min_valid")
"""Those that may be given by sensor, and by time range."""


@dataclass(frozen=True)
class Setting:
    """One point of the grid, and the chips that it gives."""

    values: Mapping[str, Any]
    """By dotted key."""
    kept_classes: tuple[int, ...]
    chips: Mapping[int, int]
    """By class; classes without chips are left out."""

    @property
    def total(self) -> int:
        """Chips of all classes."""
        return sum(self.chips.values())

    @property
    def fewest(self) -> int:
        """Chips of the kept class that has fewest."""
        return min((self.chips.get(code, 0) for code in self.kept_classes), default=0)


@dataclass(frozen=True)
class SweepResult:
    """All settings of a grid, the first key varying slowest."""

    grid: Grid
    settings: tuple[Setting, ...]

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
        """Return the table: columns for keys, classes, the total, and a kept class's fewest."""
        buffer = io.StringIO(newline="")
        writer = csv.writer(buffer, lineterminator="\n")
        codes = [code for code in CLASS_NAMES if any(code in setting.chips for setting in self.settings)]
        writer.writerow([*self.grid, *(f"class_{code}" for code in codes), "total", "fewest"])
        for setting in self.settings:
            values = [_text(setting.values[key]) for key in self.grid]
            counts = [setting.chips.get(code, 0) for code in codes]
            writer.writerow([*values, *counts, setting.total, setting.fewest])
        return buffer.getvalue().encode()


def _strict_order(key: str, values: Sequence[Any]) -> list[Any]:
    """Return values from loose to strict: shares upwards, caps downwards, others as given."""
    if key == "chips.max_per_class":
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
    name, dot, sensor = name.partition(".")
    by_sensor = name in _BY_SENSOR and sensor in sensors
    if section != "chips" or name not in _SWEPT or (dot and not by_sensor):
        swept = ", ".join(f"chips.{swept}" for swept in _SWEPT)
        raise ConfigError(
            f"--grid {key}: can be swept are {swept}, and a sensor of the last two, such as "
            f"chips.min_clear.lc2l2; sensors are {', '.join(sensors)}"
        )


def _with_values(chips: ChipsConfig, values: Mapping[str, Any], sensors: Iterable[str]) -> ChipsConfig:
    """Return settings with some keys replaced, checked as a config file's are."""
    record = chips.model_dump()
    for key, value in values.items():
        name, *sensor = key.split(".")[1:]
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


def sweep_scores(scores: ScoreSet, chips: ChipsConfig, grid: Grid, seed: int = 0) -> SweepResult:
    """Count the chips that every setting of a grid gives; `chips` has what the grid does not name.

    Raises
    ------
    ConfigError
        If a value of the grid is not allowed.
    """
    points = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    settings = [_with_values(chips, point, scores.sensors) for point in points]
    for one in settings:
        _check_shares(one, {table.ranges for table in scores.tables}, scores.sensors)
    return SweepResult(
        grid,
        tuple(_count(scores, one, point, seed) for one, point in zip(settings, points, strict=True)),
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


def _count(scores: ScoreSet, chips: ChipsConfig, point: Mapping[str, Any], seed: int) -> Setting:
    chosen = scores.lulc[choose(scores, chips, seed) == 0]
    codes, counts = np.unique(chosen, return_counts=True)
    return Setting(point, chips.classes, dict(zip(codes.tolist(), counts.tolist(), strict=True)))


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
        result = sweep_scores(scores, config.chips, grid, config.release.seed)
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
    axes[0].set_ylabel("chips")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center", frameon=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120, metadata={"Software": None})
    return buffer.getvalue()


def _own_values(result: SweepResult, config: Config) -> dict[str, Any]:
    """Return each key's value in the config where the grid has it, or else the grid's first."""
    dumped = config.chips.model_dump()
    own = {}
    for key, values in result.grid.items():
        name, *sensor = key.split(".")[1:]
        value = dumped[name]
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
        counts = [setting.chips.get(code, 0) for setting in line]
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
