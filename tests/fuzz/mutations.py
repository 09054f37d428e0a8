"""Seeded mutations of small valid inputs: of JSON values, of lines of text, of bytes."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from typing import Any

ODD: tuple[Any, ...] = (
    None, True, 0, -1, 1e308, float("nan"), 2**70, "", "x", "../..", "\0", "NaN", "2023-13-01", [], [None], [[]],
    {}, {"a": {}}, "é" * 300, [1, "2", None], -999, 0.5, "1e999", [0] * 50,
)  # fmt: skip
"""What stands where something else should."""


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the way to every value inside a JSON value."""
    if path:
        yield path
    if isinstance(value, dict):
        for key in value:
            yield from places(value[key], (*path, key))
    elif isinstance(value, list):
        for index in range(min(len(value), 20)):
            yield from places(value[index], (*path, index))


def mutated_json(value: Any, rng: random.Random) -> tuple[Any, str]:
    """Return a copy of a JSON value with one to three odd places, and what was done."""
    value, done = copy.deepcopy(value), []
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        ways = list(places(value))
        if not ways:
            break
        *way, last = rng.choice(ways)
        holder = value
        for step in way:
            holder = holder[step]
        kind = rng.choice(("delete", "odd", "odd", "number", "rename", "double"))
        old = holder[last]
        if kind == "delete":
            del holder[last]
        elif kind == "number" and isinstance(old, (int, float)) and not isinstance(old, bool):
            holder[last] = old * rng.choice((-1, 0, 2, 1000, 1e-9)) + rng.choice((0, 1, 360))
        elif kind == "rename" and isinstance(holder, dict):
            holder[f"{last}_"] = holder.pop(last)
        elif kind == "double" and isinstance(holder, list):
            holder.append(copy.deepcopy(old))
        else:
            kind = "odd"
            holder[last] = copy.deepcopy(rng.choice(ODD))
        done.append(f"{kind} {'.'.join(map(str, (*way, last)))}")
    return value, "; ".join(done)


def mutated_bytes(data: bytes, rng: random.Random, head: int = 1 << 20) -> tuple[bytes, str]:
    """Return bytes with a few changed, cut off, left out or put in, within the first `head` of them."""
    found, done = bytearray(data), []
    for _ in range(rng.choice((1, 1, 2, 4))):
        place = rng.randrange(max(min(len(found), head), 1))
        kind = rng.choice(("flip", "byte", "zeros", "cut", "insert", "ones"))
        if kind == "flip" and found:
            found[place] ^= 1 << rng.randrange(8)
        elif kind == "byte" and found:
            found[place] = rng.randrange(256)
        elif kind == "cut":
            del found[place : place + rng.choice((1, 2, 8, len(found)))]
        elif kind == "insert":
            found[place:place] = rng.randbytes(rng.choice((1, 4)))
        else:
            found[place : place + 4] = (b"\0" if kind == "zeros" else b"\xff") * 4
        done.append(f"{kind} at {place}")
    return bytes(found), "; ".join(done)


def mutated_text(text: str, rng: random.Random) -> tuple[str, str]:
    """Return text with lines changed, or bytes of it: what is no UTF-8 any more is replaced."""
    lines = text.splitlines()
    place = rng.randrange(len(lines))
    kind = rng.choice(("drop", "double", "indent", "value", "value", "bytes"))
    if kind == "drop":
        del lines[place]
    elif kind == "double":
        lines.insert(place, lines[place])
    elif kind == "indent":
        lines[place] = rng.choice(("  ", "\t", "- ")) + lines[place]
    elif kind == "value" and ":" in lines[place]:
        lines[place] = f"{lines[place].partition(':')[0]}: {json.dumps(rng.choice(ODD))}"
    else:
        return mutated_bytes(text.encode(), rng)[0].decode(errors="replace"), "bytes"
    return "\n".join(lines) + "\n", f"{kind} line {place}"
