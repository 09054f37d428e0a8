"""The card of an export: what it holds, how it is read, and whose data it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from release.card import CARD_NAME
from release.opening.checksums import SUMS_NAME, sha256
from release.templates import fill_template

from .formats import Format
from .request import ExportPlan

__all__ = ["CARD_NAME", "make_export_card"]


def make_export_card(plan: ExportPlan, form: Format) -> bytes:
    """Write ``README.md``; its head is YAML that hubs read."""
    recipe = plan.release.recipe
    front: dict[str, Any] = {
        "pretty_name": f"{recipe.name} {recipe.version}",
        "license": "other",
        "task_categories": ["image-classification"],
        "tags": ["earth-observation", "land-cover"],
    }
    more = getattr(form, "front_matter", None)
    front |= more(plan) if more else {}
    return fill_template(
        "export.md.j2",
        front=yaml.safe_dump(front, sort_keys=False, allow_unicode=True, width=100),
        title=form.TITLE,
        recipe=recipe,
        splits=_split_rows(plan),
        layers=[
            (
                layer.key,
                recipe.table[layer.key].title,
                " ".join(layer.bands),
                layer.dtype,
                _sizes(layer.shape),
            )
            for layer in plan.layers
        ],
        classes=[(label, code, name) for label, (code, name) in enumerate(_classes(plan).items())],
        use=_use(plan, form),
        release_sha256=sha256(plan.release.read_file(SUMS_NAME)),
        sources=[
            (
                recipe.table[layer.key].title,
                recipe.table[layer.key].licence,
                recipe.table[layer.key].attribution,
            )
            for layer in plan.layers
        ],
    )


def _split_rows(plan: ExportPlan) -> list[tuple[str, int, int]]:
    return [
        (split or "all", sum(len(one.ids) for one in shards), len(shards))
        for split, shards in plan.splits.items()
    ]


def _classes(plan: ExportPlan) -> Mapping[int, str]:
    return dict(zip(plan.classes, plan.class_names, strict=True))


def _sizes(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))


def _use(plan: ExportPlan, form: Format) -> str:
    """Fill the names of this export into a format's example."""
    text, more = form.USE, getattr(form, "example_names", None)
    split = plan.shards[0].split
    last = f"{plan.shards[0].of - 1:06}"
    names = {
        "sensor": plan.layers[0].key,
        "split": split,
        "folder": "path/of/this/folder",
        "shard": f"{split}-000000.tar" if plan.shards[0].of == 1 else f"{split}-{{000000..{last}}}.tar",
    }
    names |= more(plan) if more else {}
    for name, value in names.items():
        text = text.replace(f"{{{name}}}", value)
    return text
