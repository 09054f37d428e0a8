"""``SHA256SUMS``: the checksums of a release's files, written and read."""

from __future__ import annotations

import hashlib
import io
import itertools
import re
from collections.abc import Mapping

SUMS_NAME = "SHA256SUMS"
"""The root document of a release: written last, and read first."""

MIN_SUMS_LINE_BYTES = 68
"""The shortest line of ``SHA256SUMS``: 64 digits, two blanks, a name and a line's end."""

_MOST_WRONG_LINES = 100
_DIGEST = re.compile(r"[0-9a-f]{64}")
_SUMS_LINE = re.compile(rf"({_DIGEST.pattern})  ([^/\0][^\0]*)")


def is_digest(text: str) -> bool:
    """Tell whether a text is a SHA-256, hexadecimal."""
    return _DIGEST.fullmatch(text) is not None


def sha256(data: bytes) -> str:
    """Return the SHA-256 of `data`, hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def format_sums(sums: Mapping[str, str]) -> bytes:
    """Return ``SHA256SUMS`` as ``sha256sum`` writes it, sorted by name."""
    return "".join(f"{digest}  {name}\n" for name, digest in sorted(sums.items())).encode()


def parse_sums(data: bytes) -> tuple[dict[str, str], list[str]]:
    """Read ``SHA256SUMS``.

    Returns
    -------
    dict, list
        SHA-256, hexadecimal, by file name, in the order of names; and what is wrong with the file
        itself.
    """
    wrong = [] if data.endswith(b"\n") else ["ends within a line"]
    sums: dict[str, str] = {}
    names = []
    for number, line in enumerate(io.BytesIO(data), start=1):
        match = _SUMS_LINE.fullmatch(line.decode("utf-8", errors="replace").removesuffix("\n"))
        if match is None:
            wrong.append(f"line {number} is not a checksum and a name")
        elif match[2] == SUMS_NAME:
            wrong.append("names itself")
        else:
            if match[2] in sums:
                wrong.append(f"line {number} names {match[2]} again")
            names.append(match[2])
            sums.setdefault(match[2], match[1])
        if len(wrong) > _MOST_WRONG_LINES:
            wrong.append(f"is not read any further than line {number}")
            break
    if any(one > other for one, other in itertools.pairwise(names)):
        wrong.append("names are not in order")
    return dict(sorted(sums.items())), wrong
