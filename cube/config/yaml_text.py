"""YAML 1.2: text stays text unless it is plainly a number, true, false or null.

Under YAML 1.1, which PyYAML reads by itself, ``no`` is false, ``0740`` is 480, ``2:40:00`` is 9600
and ``2023-12-31`` a date. Here are the rules of 1.2's core schema instead, a key given twice is an
error, and how a scalar was written is kept for messages.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import yaml

_TAG = "tag:yaml.org,2002:"
_CORE_SCHEMA: tuple[tuple[str, str, str], ...] = (
    ("null", r"~|null|Null|NULL|", "~nN"),
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(?:\.\d+|\d+(?:\.\d*)?)(?:[eE][-+]?\d+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
    ("merge", r"<<", "<"),
)
"""Tag, the whole of what has it, and its first characters (https://yaml.org/spec/1.2.2, 10.3.2)."""


class _Loader(yaml.SafeLoader):
    """SafeLoader by YAML 1.2's core schema; refuses keys given twice, and keys that are no text."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:  # noqa: FBT001, FBT002  PyYAML's own
        seen: set[object] = set()
        for key_node, _ in node.value:
            if key_node.tag == f"{_TAG}merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                msg = f"key {key!r} is no text; expected a name, or quotes around it"
                raise yaml.constructor.ConstructorError(None, None, msg, key_node.start_mark)
            if key in seen:
                msg = f"key {key!r} is given twice"
                raise yaml.constructor.ConstructorError(None, None, msg, key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def _construct_int(loader: _Loader, node: yaml.ScalarNode) -> int:
    text = str(loader.construct_scalar(node))
    return int(text, 0) if text[:2] in ("0o", "0x") else int(text)


_Loader.yaml_implicit_resolvers = {}  # 1.1's
_Loader.add_constructor(f"{_TAG}int", _construct_int)
for _name, _pattern, _first in _CORE_SCHEMA:
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(rf"^(?:{_pattern})$"), [*_first])
_Loader.add_implicit_resolver(f"{_TAG}null", re.compile(r"^$"), [""])


def load_yaml(text: str) -> Any:
    """Return what a YAML 1.2 document says.

    Raises
    ------
    yaml.YAMLError, ValueError
        If it is none, or gives a key twice.

    Examples
    --------
    >>> load_yaml("{a: no, b: 0740, c: 2:40:00, d: 2023-12-31, e: true, f: 1e3, g: ~}")
    {'a': 'no', 'b': 740, 'c': '2:40:00', 'd': '2023-12-31', 'e': True, 'f': 1000.0, 'g': None}
    """
    return yaml.load(text, Loader=_Loader)  # noqa: S506  a SafeLoader


def plain_texts(text: str) -> dict[str, str]:
    """Return how the unquoted numbers, booleans and nulls of a document are written, by dotted key.

    Examples
    --------
    >>> plain_texts("dataset: {version: 1.10, name: 'a'}")
    {'dataset.version': '1.10'}
    """
    node = yaml.compose(text, Loader=_Loader)
    return dict(_plain_scalars(node, "")) if node is not None else {}


def _plain_scalars(node: yaml.Node, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from _plain_scalars(value, f"{path}.{key.value}" if path else str(key.value))
    elif isinstance(node, yaml.SequenceNode):
        for number, value in enumerate(node.value):
            yield from _plain_scalars(value, f"{path}.{number}" if path else str(number))
    elif isinstance(node, yaml.ScalarNode) and node.tag != f"{_TAG}str":
        yield path, node.value
