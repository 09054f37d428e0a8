"""Values as the scripts of pages read them."""

from __future__ import annotations

import json


def script_json(value: object) -> str:
    r"""Write JSON that may stand within a script of a page: it holds no ``<``.

    Examples
    --------
    >>> script_json({"name": "</script>"})
    '{"name":"\\u003c/script>"}'
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")


def page_data(name: str, value: object) -> bytes:
    r"""Write a file that a page loads as a script: from a folder it may read no other.

    Examples
    --------
    >>> page_data("browse_chips.js", [1, 2])
    b'gelos("browse_chips.js",[1,2]);\n'
    """
    return f"gelos({script_json(name)},{script_json(value)});\n".encode()
