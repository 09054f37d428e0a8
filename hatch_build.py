"""The wheel carries configs/ as cube/configs; an editable installation finds them in place."""

from __future__ import annotations

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ConfigsHook(BuildHookInterface[Any]):
    """Adds the configs to a wheel that is no editable one: for that, hatchling would copy them."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Name the folder before the wheel is built."""
        if version == "standard":
            build_data["force_include"]["configs"] = "cube/configs"
