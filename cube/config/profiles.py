"""Catalog profiles: what belongs to a service, as values.

How it calls assets, which of its collections plays which sensor, whether it has taken Sentinel-2's
offset off the pixels, how its files are reached, how many items it gives at once. Everything else
that differs between services is told by the items themselves (:mod:`cube.scenes.facts`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from cube.errors import ConfigError

from .fields import PC_STAC_URL, Section
from .sensors import Band

Signer = Literal["planetary-computer", "none"]


class S3Access(Section):
    """How ``s3://`` addresses are read."""

    access: Literal["public", "signed", "requester-pays"] = "public"
    """public: over https, by anyone; signed: with the keys of an account; requester-pays: so too,
    and the account pays for the transfer."""
    endpoint: str = ""
    """Address of the store (empty: Amazon's)."""
    region: str = ""
    """Region that the buckets lie in (empty: us-east-1)."""
    keys: Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]*$")] = "AWS"
    """The keys stand in {keys}_ACCESS_KEY_ID and {keys}_SECRET_ACCESS_KEY; where these are not set,
    they are found as Amazon's own tools do."""


class SensorProfile(Section):
    """How a service offers one sensor."""

    collection: str = ""
    """STAC collection, where the config names none (empty: the sensor table's)."""
    assets: Mapping[str, str] = Field(default_factory=dict)
    """Keys of STAC assets by band (a band that is missing: the sensor table's)."""
    offset: Literal["baseline", "applied"] = "baseline"
    """baseline: DN of baseline 04.00 and later are 1000 too high, unless an item says that this was
    mended; applied: the service has mended all."""
    doubtful_flags: tuple[str, ...] = ()
    """Collections whose items may wrongly say that it was not mended: such an item is not used."""
    s3: S3Access = S3Access()
    """How s3:// addresses are read."""

    def asset_key(self, band: Band) -> str:
        """Return the STAC asset key of a band."""
        return self.assets.get(band.name, band.asset_key)


class Profile(Section):
    """A service: where it is, how its hrefs are signed, and how it offers each sensor."""

    base: str = ""
    """The profile whose values hold where this one says nothing."""
    url: str = ""
    """Its STAC API."""
    sign: Signer = "none"
    """Who signs https addresses before they are read."""
    page_size: Annotated[int, Field(gt=0, le=1000)] | None = None
    """Most items that it gives per page."""
    sensors: dict[str, SensorProfile] | None = None
    """How it offers each sensor that it has (empty: all, as the sensor table says)."""

    def sensor(self, key: str) -> SensorProfile:
        """Return how it offers a sensor."""
        return (self.sensors or {}).get(key, SensorProfile())

    def offers(self, key: str) -> bool:
        """Tell whether the service is known to have a sensor, or nothing is known."""
        return self.sensors is None or key in self.sensors


@dataclass(frozen=True)
class Source:
    """Where one sensor's scenes are found, and how their files are reached."""

    profile: str
    """Name of the profile."""
    url: str
    """STAC API, or the path of a file of items."""
    sign: Signer
    page_size: int | None
    """Most items that the service gives per page."""
    sensor: SensorProfile
    is_offered: bool = True
    """False where the service is known not to have the sensor."""

    @property
    def is_api(self) -> bool:
        """True where scenes are searched by a service, not in a file."""
        return self.url.startswith(("http://", "https://"))


_EARTH_SEARCH_BANDS = {
    "B01": "coastal",
    "B02": "blue",
    "B03": "green",
    "B04": "red",
    "B05": "rededge1",
    "B06": "rededge2",
    "B07": "rededge3",
    "B08": "nir",
    "B8A": "nir08",
    "B09": "nir09",
    "B11": "swir16",
    "B12": "swir22",
    "SCL": "scl",
}
_CDSE_PIXEL_M = {"B01": 60, "B09": 60, "B02": 10, "B03": 10, "B04": 10, "B08": 10}

DEFAULT_PROFILE = "planetary-computer"
PROFILES: Mapping[str, Profile] = {
    DEFAULT_PROFILE: Profile(url=PC_STAC_URL, sign="planetary-computer"),
    # Element 84: Sentinel-2 as COGs on Amazon. Its first collection has the offset taken off most
    # pixels, and flags that are wrong of some; Collection 1 leaves all pixels as ESA made them.
    "earth-search": Profile(
        url="https://earth-search.aws.element84.com/v1",
        page_size=100,
        sensors={
            "s2l2a": SensorProfile(
                collection="sentinel-2-c1-l2a",
                assets=_EARTH_SEARCH_BANDS,
                doubtful_flags=("sentinel-2-l2a",),
                s3=S3Access(region="us-west-2"),
            ),
            "lc2l2": SensorProfile(s3=S3Access(access="requester-pays", region="us-west-2")),
            "dem": SensorProfile(s3=S3Access(region="eu-central-1")),
        },
    ),
    # Copernicus Data Space Ecosystem: Sentinel-2 as ESA's own JPEG 2000.
    "cdse": Profile(
        url="https://stac.dataspace.copernicus.eu/v1",
        page_size=100,
        sensors={
            "s2l2a": SensorProfile(
                assets={name: f"{name}_{_CDSE_PIXEL_M.get(name, 20)}m" for name in _EARTH_SEARCH_BANDS},
                s3=S3Access(
                    access="signed",
                    endpoint="https://eodata.dataspace.copernicus.eu",
                    region="default",
                    keys="CDSE",
                ),
            ),
        },
    ),
}
"""The services that are known, by name."""


def find_profile(name: str, own: Mapping[str, Profile]) -> Profile:
    """Return a profile by name, complete with what its base says.

    Parameters
    ----------
    own
        The config's own profiles; one of a shipped one's name stands before it.

    Raises
    ------
    ConfigError
        If there is none of the name, or profiles are based on each other in a circle.
    """
    return _complete(name, {**PROFILES, **own}, ())


def _complete(name: str, known: Mapping[str, Profile], seen: tuple[str, ...]) -> Profile:
    if name not in known:
        where = f"profiles.{seen[-1]}.base" if seen else "catalog.profile"
        raise ConfigError(f"{where}: there is no profile {name!r}; there are {', '.join(sorted(known))}")
    profile = known[name]
    if profile.base == name and name in PROFILES:  # a shipped one, changed
        return _over(PROFILES[name], profile)
    if profile.base in (*seen, name):
        raise ConfigError(f"profiles.{name}.base: {profile.base} is based on {name} in its turn")
    return _over(_complete(profile.base, known, (*seen, name)), profile) if profile.base else profile


def _over(base: Profile, profile: Profile) -> Profile:
    """Lay what a profile says over its base, sensor by sensor."""
    values: dict[str, Any] = {
        key: getattr(base, key) for key in base.model_fields_set | profile.model_fields_set
    }
    values |= {key: getattr(profile, key) for key in profile.model_fields_set - {"sensors", "base"}}
    if base.sensors is not None:
        sensors = dict(base.sensors)
        for key, sensor in (profile.sensors or {}).items():
            sensors[key] = _sensor_over(base.sensor(key), sensor)
        values["sensors"] = sensors
    return Profile(**{key: value for key, value in values.items() if key != "base"})


def _sensor_over(base: SensorProfile, sensor: SensorProfile) -> SensorProfile:
    values = {key: getattr(sensor, key) for key in sensor.model_fields_set}
    values["assets"] = {**base.assets, **sensor.assets}
    return base.model_copy(update=values)
