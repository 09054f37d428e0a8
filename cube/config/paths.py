"""Paths as people write them, with ``~`` and environment variables in them."""

from __future__ import annotations

import os
import re
from typing import Annotated

from pydantic import AfterValidator

_UNKNOWN = re.compile(r"^~|^\$\{?\w*\}?")


def expand_path(text: str) -> str:
    """Return a path or URL with ``~`` and environment variables in it expanded.

    A shell does so on its command line, but not in a YAML file, and not after ``=``.

    Raises
    ------
    ValueError
        If it begins with a home or a variable that does not exist here: a folder of that name is
        nobody's wish.

    Examples
    --------
    >>> os.environ["SCRATCH"] = "/scratch/me"
    >>> expand_path("$SCRATCH/interim"), expand_path("${SCRATCH}/interim"), expand_path("data/a$b")
    ('/scratch/me/interim', '/scratch/me/interim', 'data/a$b')
    >>> expand_path("$NO_SUCH_PLACE/interim")
    Traceback (most recent call last):
    ValueError: found '$NO_SUCH_PLACE/interim', and $NO_SUCH_PLACE is not known here; set it, ...
    """
    expanded = os.path.expanduser(os.path.expandvars(text))  # noqa: PTH111  may be a URL
    if found := _UNKNOWN.match(expanded):
        name = expanded.split("/", 1)[0] if found[0] == "~" else found[0]
        msg = f"found {text!r}, and {name} is not known here; set it, or write the path out"
        raise ValueError(msg)
    return expanded


PathText = Annotated[str, AfterValidator(expand_path)]
"""A path or URL of the config."""
