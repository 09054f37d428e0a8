"""Phase one: from areas of interest to aligned, chunked Zarr cubes; and what all phases share.

The rooms: ``config`` ``sensors`` ``aoi`` ``grid`` ``windows`` | ``items`` ``catalog`` ``scenes``
``search`` ``plan`` | ``loader`` ``signing`` ``store`` ``engine`` ``status`` ``build`` |
``testing``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .build.run import build_cubes
    from .config.reading import load_config
    from .store.open import open_cube

__all__ = ["build_cubes", "load_config", "open_cube"]

_HOMES = {"build_cubes": "build.run", "load_config": "config.reading", "open_cube": "store.open"}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for: phase two must not pay for phase one's libraries."""
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(f".{_HOMES[name]}", __name__), name)
    raise AttributeError(name)
