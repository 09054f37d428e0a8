"""How images were taken, as a table of chips tells it: a value per date, or one clear line."""

from __future__ import annotations

import math

import pytest

from chipping.views import ORBIT_STATE, SUN_ELEVATION, VIEW_FIELDS, parse_views


def test_a_value_per_date_is_read_and_what_is_not_there_is_not_known() -> None:
    row = {SUN_ELEVATION.column("s2l2a"): "40.5,", ORBIT_STATE.column("s2l2a"): "ascending,"}
    views = parse_views(row, "s2l2a", 2)
    assert set(views) == {field.name for field in VIEW_FIELDS}
    assert views[ORBIT_STATE.name] == ["ascending", ""]
    assert views[SUN_ELEVATION.name][0] == 40.5
    assert math.isnan(views[SUN_ELEVATION.name][1])


@pytest.mark.parametrize("text", ["1", "1,2,3", ","])
def test_another_number_of_values_than_dates_is_told(text: str) -> None:
    column = SUN_ELEVATION.column("s2l2a")
    dates = 1 if text == "," else 2
    with pytest.raises(ValueError, match=rf"^{column} has {text.count(',') + 1} values for {dates} dates$"):
        parse_views({column: text}, "s2l2a", dates)
