"""What the sections of a config share: time ranges, lists, shares."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, NamedTuple

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

from .paths import PathText

PC_STAC_URL = "https://planetarycomputer.microsoft.com/api/stac/v1"
LATTICE_M = 960
"""Side of a cell of the lattice that every cube's edges lie on, metres (10, 20, 30 and 60 m divide
it)."""

SHARED_FOLDERS = ("cubes", "plans", "lost", "blocks", "building", "locks")
"""Folders beside those of the versions in ``directory.working``."""


class TimeRange(NamedTuple):
    """A closed interval of whole days in UTC, such as ``2023-01-01/2023-03-31``."""

    start: datetime
    end: datetime

    @classmethod
    def parse(cls, text: str) -> TimeRange:
        """Read ``start/end``; a bare day stands for all of it (as STAC clients read it)."""
        try:
            first, last = (part.strip() for part in text.split("/"))
            start, end = _utc(first), _utc(last)
            if len(last) == len("2023-01-01"):
                end += timedelta(days=1) - timedelta(seconds=1)
        except (ValueError, OverflowError):
            msg = f"{text!r} is not a time range; expected start/end such as 2023-01-01/2023-03-31"
            raise ValueError(msg) from None
        if end < start:
            msg = f"time range {text!r} ends before it starts"
            raise ValueError(msg)
        return cls(start, end)

    @property
    def middle(self) -> datetime:
        """The instant half-way between start and end."""
        return self.start + (self.end - self.start) / 2

    def __str__(self) -> str:
        """Return the range as the config writes it."""
        return f"{self.start:%Y-%m-%d}/{self.end:%Y-%m-%d}"


def _utc(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)


def none_to_empty(value: object) -> object:
    """Return an empty list for an empty value, as YAML writes it."""
    return () if value is None else value


def number_to_text(value: object) -> object:
    """Return a number as the text that it was in the file."""
    return str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value


def one_or_many(value: object) -> object:
    """Return a list of one for a single value, and an empty list for none."""
    return (value,) if isinstance(value, (str, int)) and not isinstance(value, bool) else none_to_empty(value)


IndexList = Annotated[tuple[Annotated[int, Field(ge=0)], ...], BeforeValidator(one_or_many)]
Share = Annotated[float, Field(ge=0, le=1)]
Percent = Annotated[float, Field(ge=0, le=100)]
Metres = Annotated[int, Field(gt=0)]
FolderName = Annotated[PathText, Field(min_length=1)]
Shares = Share | tuple[Share, ...]
"""One share for every date, or one per time range."""


def _explain_shares(value: object, validate: ValidatorFunctionWrapHandler) -> object:
    """Put the findings on every branch of the union into one sentence."""
    try:
        return validate(value)
    except ValidationError:
        msg = f"found {value!r}; expected a share from 0 to 1, a list of one per time range, or either by sensor"
        raise ValueError(msg) from None


Thresholds = Annotated[Shares | dict[str, Shares], WrapValidator(_explain_shares)]


class Section(BaseModel):
    """A section of the config: frozen, and without keys that it does not know."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False, strict=False
    )
