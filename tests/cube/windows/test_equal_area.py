"""The equal-area view of an area is PROJ's own, to the last bit, without the look for the best operation."""

from __future__ import annotations

import numpy as np
import pytest
from pyproj import CRS, Transformer
from shapely import box

from cube.windows.projection import from_lonlat, local_equal_area


@pytest.mark.parametrize("place", [(12.4, 52.1), (-70.1, -33.2), (179.8, 66.0), (0.0, -0.5)])
def test_it_is_what_proj_makes_of_the_crs(place: tuple[float, float]) -> None:
    area = box(place[0] - 0.1, place[1] - 0.1, place[0] + 0.1, place[1] + 0.1)
    text = local_equal_area(area)
    wanted = Transformer.from_crs(4326, CRS.from_proj4(text.replace("+ellps", "+datum")), always_xy=True)
    rng = np.random.default_rng(0)
    lonlat = [centre + rng.uniform(-2, 2, 100) for centre in place]
    np.testing.assert_array_equal(from_lonlat(text).transform(*lonlat), wanted.transform(*lonlat))
