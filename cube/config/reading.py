"""Reading a config: YAML, overrides, and errors that name keys as the user writes them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, NoneType
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from cube.errors import ConfigError

from .checks import problems_of
from .extra_sensors import SensorRow, sensor_rows
from .models import Config
from .paths import expand_path
from .sensor_models import SensorConfig, sensor_model
from .sensors import SENSORS, BandKind, Sensor
from .yaml_text import load_yaml, plain_texts

_FORMER_NAMES = {
    "sentinel_2": "s2l2a",
    "sentinel_1": "s1rtc",
    "landsat": "lc2l2",
    "land_cover": "lulc",
    "working_dir": "directory.working",
    "output_dir": "directory.output",
}
_YAML_KINDS = {int: "number", float: "number", bool: "truth value"}


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read, check and freeze a config.

    Parameters
    ----------
    path
        YAML file (docs/config.md has a table of its keys).
    overrides
        ``key=value`` pairs with dotted keys and YAML values, laid over the file. An empty value
        stands for the default, and of a sensor (``lc2l2=``) for doing without it.

    Returns
    -------
    Config
        Typed and complete; every default is filled in.

    Raises
    ------
    ConfigError
        Names the file, the key, the value and what is allowed.
    """
    try:
        path = Path(expand_path(str(path)))
    except ValueError as error:
        raise ConfigError(f"-c: {error}") from None
    data, texts = _read_yaml(path)
    further = data.get("extra_sensors")
    sensors = {*SENSORS, *(further if isinstance(further, dict) else ())}
    data = {key: {} if value is None and key in sensors else value for key, value in data.items()}
    for override in overrides:
        _apply_override(data, override, texts)
    data = {key: value for key, value in data.items() if value is not None}
    try:
        return _parse(data, path, texts)
    except ValidationError as error:
        raise ConfigError(f"{path}: {_explain(error, Config, texts=texts)}") from None
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def _parse(data: Mapping[str, Any], path: Path, texts: Mapping[str, str]) -> Config:
    known = Config.model_fields.keys() - {"path", "sensors"}
    table = SENSORS.extended(_further_rows(data.get("extra_sensors", {}), Config.model_fields.keys()))
    sections = {
        key: _given(value, _model_at(Config, [key])) for key, value in data.items() if key not in table
    }
    for name in sections:
        if name not in known:
            raise ConfigError(_unknown(name, [*sorted(known), *table]))
    sensors = {
        key: _parse_section(key, sensor, data[key], texts) for key, sensor in table.items() if key in data
    }
    config = Config(**{**sections, "sensors": sensors, "path": path})
    config = config.model_copy(update={"sensors": dict(_with_collections(config, data))})
    if problem := next(problems_of(config), None):
        raise ConfigError(problem)
    return config


def _with_collections(config: Config, data: Mapping[str, Any]) -> Iterator[tuple[str, SensorConfig]]:
    """Yield the sensors; one that names no collection has its profile's."""
    for key, settings in config.sensors.items():
        collection = config.source(key).sensor.collection
        is_named = (data[key] or {}).get("collection") is not None
        update = {"collection": collection} if collection and not is_named else {}
        yield key, settings.model_copy(update=update)


def _further_rows(section: object, known: Iterable[str]) -> Iterator[Sensor]:
    """Yield a config's own rows of the sensor table."""
    if not isinstance(section, Mapping):
        raise ConfigError(f"extra_sensors: found {section!r}; expected a section of sensors by key")
    for key, row in section.items():
        if key in known:
            raise ConfigError(f"extra_sensors.{key} is the name of a section already; choose another")
        try:
            yield from sensor_rows({key: row})
        except ValidationError as error:
            raise ConfigError(_explain(error, SensorRow, f"extra_sensors.{key}")) from None
        except ValueError as error:
            raise ConfigError(f"extra_sensors.{error}") from None


def _parse_section(key: str, sensor: Sensor, section: object, texts: Mapping[str, str]) -> SensorConfig:
    model = sensor_model(sensor)
    if not isinstance(section, Mapping):
        raise ConfigError(f"{key}: found {section!r}; expected a section of keys")
    given: dict[str, Any] = {
        "collection": sensor.collection,
        "resolution": sensor.resolution,
        **_dtype(sensor),
    }
    given |= _given(section, model)
    try:
        return model(**given)
    except ValidationError as error:
        raise ConfigError(_explain(error, model, key, texts)) from None


def _dtype(sensor: Sensor) -> dict[str, str]:
    """Return the export dtype where it is not the model's default: class codes keep their own."""
    dtypes = {band.dtype for band in sensor.bands if band.kind is BandKind.CLASSES}
    is_map = sensor.is_static and len(sensor.bands) == len(dtypes) == 1
    return {"dtype": dtypes.pop()} if is_map and sensor.key not in SENSORS else {}


def _given(section: Any, model: type[BaseModel]) -> Any:
    """Leave out empty keys, which mean the default, unless empty is a value of its own."""
    if not isinstance(section, Mapping):
        return section
    fields = model.model_fields
    return {
        k: v for k, v in section.items() if v is not None or k not in fields or _empty_is_value(fields[k])
    }


def _empty_is_value(field: FieldInfo) -> bool:
    return NoneType in get_args(field.annotation)


def _read_yaml(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Return a file's keys, and how its numbers, booleans and nulls are written."""
    try:
        text = path.read_text(encoding="utf-8")
        data, texts = load_yaml(text), plain_texts(text)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such config file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read ({error})") from None
    except ValueError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        problem = " ".join(str(getattr(error, "problem", error)).split())
        raise ConfigError(f"{path}: not valid YAML{where}: {problem}") from None
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: found no keys; expected sections such as dataset, aoi, directory, lulc")
    return data, texts


def _apply_override(data: dict[str, Any], override: str, texts: dict[str, str]) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key.strip():
        raise ConfigError(f"--set {override!r}: expected key=value, such as chips.min_purity=0.9")
    try:
        value = load_yaml(text)
        texts |= {".".join(filter(None, (key.strip(), at))): word for at, word in plain_texts(text).items()}
    except (yaml.YAMLError, ValueError) as error:
        why = getattr(error, "problem", None) or "the value is not valid YAML"
        raise ConfigError(f"--set {override!r}: {why}") from None
    *parents, last = key.strip().split(".")
    node = data
    for parent in parents:
        if not isinstance(node.get(parent), dict):
            node[parent] = {}
        node = node[parent]
    node[last] = value


def _unknown(key: str, known: Sequence[str], prefix: str = "") -> str:
    full = f"{prefix}.{key}" if prefix else key
    if not prefix and key in _FORMER_NAMES:
        return f"unknown key {full}; it is called {_FORMER_NAMES[key]} now"
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
    return f"unknown key {full}; did you mean {f'{prefix}.{near[0]}' if prefix else near[0]}?"


def _explain(
    error: ValidationError,
    model: type[BaseModel],
    prefix: str = "",
    texts: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """Put pydantic's findings into one line that names keys as the user writes them."""
    parts = []
    found = error.errors()
    for problem in found:
        place = problem["loc"]
        if any(other["loc"][: len(place)] == place != other["loc"] for other in found):
            continue  # a list whose entry is wrong counts as too short, too
        location = [str(part) for part in place]
        key = ".".join([prefix, *location] if prefix else location)
        if problem["type"] == "extra_forbidden":
            owner = _model_at(model, location[:-1])
            parent = ".".join(([prefix] if prefix else []) + location[:-1])
            parts.append(_unknown(location[-1], [*owner.model_fields], parent))
        elif problem["type"] == "missing":
            parts.append(f"{key} is missing")
        elif problem["type"] == "string_type" and key in texts:
            kind = "nothing" if problem["input"] is None else f"a {_YAML_KINDS[type(problem['input'])]}"
            parts.append(
                f"{key}: found {texts[key]}, which YAML reads as {kind}; "
                f'put quotes around it: {location[-1]}: "{texts[key]}"'
            )
        elif problem["type"] == "value_error":
            text = problem["msg"].removeprefix("Value error, ")
            parts.append(text if not key or text.startswith(key.split(".")[0] + ".") else f"{key}: {text}")
        else:
            text = problem["msg"][:1].lower() + problem["msg"][1:]
            parts.append(f"{key}: found {problem['input']!r}; {text}")
    return "; ".join(dict.fromkeys(parts))


def _model_at(model: type[BaseModel], location: Sequence[str]) -> type[BaseModel]:
    for name in location:
        annotation = model.model_fields[name].annotation if name in model.model_fields else None
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            model = annotation
    return model
