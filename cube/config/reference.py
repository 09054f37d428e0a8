"""``python -m cube.config.reference`` prints the table in docs/config.md from the schema."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from .models import Config
from .sensor_models import sensor_model
from .sensors import SENSORS


def config_table() -> str:
    """Return a Markdown table of every config key, its default, and what it means."""
    rows = ["| key | default | meaning |", "| --- | --- | --- |"]
    rows += [f"| `{key}` | {default} | {' '.join(meaning.split())} |" for key, default, meaning in _rows()]
    return "\n".join(rows)


def _rows() -> Iterator[tuple[str, str, str]]:
    for name, field in Config.model_fields.items():
        annotation = field.annotation
        if name in ("path", "sensors"):
            continue
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield from _section(name, annotation)
        else:
            yield name, _default(field.default), field.description or ""
    for key, sensor in SENSORS.items():
        given = {"collection": sensor.collection, "resolution": sensor.resolution}
        yield from _section(key, sensor_model(sensor), given)


def _section(
    prefix: str, model: type[BaseModel], given: dict[str, Any] | None = None
) -> Iterator[tuple[str, str, str]]:
    for name, field in model.model_fields.items():
        default = (given or {}).get(name, field.get_default(call_default_factory=True))
        yield f"{prefix}.{name}", _default(default), " ".join((field.description or "").split())


def _default(value: object) -> str:
    if value is PydanticUndefined:
        return "required"
    if value is None or value in ((), "", {}):
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        return f"`[{', '.join(map(str, value))}]`"
    if isinstance(value, dict):
        return "`{" + ", ".join(f"{k}: {v}" for k, v in value.items()) + "}`"
    return f"`{value}`"


if __name__ == "__main__":
    print(config_table())
