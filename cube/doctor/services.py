"""The services that a config names: catalog, collections, tokens, pixels, and the clock."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import rasterio
from rasterio.windows import Window

from cube.certificates import ca_bundle, distrust
from cube.config.fields import TimeRange
from cube.config.models import Config
from cube.config.profiles import Source
from cube.config.sensor_models import PeriodConfig
from cube.errors import GelosError, ItemError, ReadError, ServiceError
from cube.pixels.access import Access, check_access, read_with_retries
from cube.scenes.catalog import open_catalog
from cube.scenes.items import AssetRef, Scene, parse_item
from cube.scenes.query import Query

from .check import Check, LateError, within

_ANSWER_S = 15.0
_MOST_SKEW_S = 300.0
"""Tokens and signatures are refused beyond some minutes."""
_WINDOW_PX = 512
_ITEMS = 20
"""Looked at for one that can be used."""
_BLOBS = ".blob.core.windows.net"
_NEEDED = ("item-search",)


@dataclass
class Services:
    """What the services of a config answer, asked once and in order."""

    config: Config
    access_of: Callable[[str], Access]
    """How a sensor's assets are read, by its key."""
    scenes: dict[str, Scene] = field(default_factory=dict)
    """The item that was found for each sensor."""
    _skew_s: float | None = None

    def check(self) -> Iterator[Check]:
        """Look at all of them in turn; what depends on what failed is left out."""
        sources = {key: self.config.source(key) for key in self.config.sensors}
        answering = {}
        for source in sources.values():
            if source.url not in answering:
                catalog = self._check_catalog(source)
                answering[source.url] = catalog.ok
                yield catalog
        if self._skew_s is not None:
            yield self._check_clock(self._skew_s)
        for key, source in sources.items():
            if answering[source.url]:
                yield self._check_collection(key, source)
        closed = set()
        for container, (key, href) in self._containers().items():
            token = self._check_token(container, key, href)
            if not token.ok:
                closed.add(container)
            yield token
        for key, scene in self.scenes.items():
            if _container(self._first_asset(key, scene).href) not in closed:
                yield self._check_read(key, scene)

    def _check_catalog(self, source: Source) -> Check:
        url = source.url.rstrip("/")
        if not source.is_api:
            try:
                open_catalog(self.config)
            except GelosError as error:
                return Check("catalog", ok=False, found=str(error), mend="look at catalog.url")
            return Check("catalog", ok=True, found=f"{url} can be read")
        began = time.monotonic()
        try:
            landing = self._ask("GET", url)
        except _NoAnswerError as error:
            return Check("catalog", ok=False, found=str(error), mend=error.mend)
        conforms = " ".join(map(str, landing.get("conformsTo") or ()))
        if lacking := [name for name in _NEEDED if name not in conforms]:
            found = f"{url} does not conform to {', '.join(lacking)}"
            return Check("catalog", ok=False, found=found, mend="give catalog.url the root of a STAC API")
        return Check("catalog", ok=True, found=f"{url} answers ({time.monotonic() - began:.2f} s)")

    def _ask(self, method: str, url: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return an answer's JSON object; the clock is compared with the first."""
        import requests

        try:
            answer = requests.request(method, url, json=body, timeout=_ANSWER_S, verify=ca_bundle() or True)
            if self._skew_s is None and "Date" in answer.headers:
                self._skew_s = time.time() - parsedate_to_datetime(answer.headers["Date"]).timestamp()
            if answer.status_code != requests.codes.ok:
                raise _NoAnswerError(f"{url}: HTTP {answer.status_code}", _mend_of_status(answer.status_code))
            content = answer.json()
        except requests.RequestException as error:
            raise _unreachable(url, error) from None
        except ValueError:
            raise _NoAnswerError(
                f"{url}: the answer is no JSON", "look at catalog.url, or at a proxy"
            ) from None
        return content if isinstance(content, dict) else {}

    def _check_clock(self, skew_s: float) -> Check:
        if abs(skew_s) <= _MOST_SKEW_S:
            return Check("clock", ok=True, found=f"{abs(skew_s):.0f} s from the catalog's")
        way = "ahead of" if skew_s > 0 else "behind"
        found = (
            f"this machine's clock is {_duration(abs(skew_s))} {way} the catalog's: tokens would be refused"
        )
        return Check("clock", ok=False, found=found, mend="set it: timedatectl set-ntp true")

    def _check_collection(self, key: str, source: Source) -> Check:
        name = self.config.sensors[key].collection
        title = f"{key} ({name})"
        try:
            items = within(_ANSWER_S, lambda: self._some_items(key, source))
        except _NoAnswerError as error:
            return Check(title, ok=False, found=str(error), mend=error.mend)
        except (GelosError, LateError) as error:
            return Check(title, ok=False, found=str(error), mend="try again, or look at catalog.url")
        span = _period(self.config, key)
        if not items:
            found = f"the collection holds no item for {span}, or is not there"
            return Check(title, ok=False, found=found, mend=f"look at {key}.collection and its period")
        causes, bands = [], self.config.bands(key)
        for item in items:  # some have other bands: Sentinel-1 of the Arctic has HH and HV
            try:
                self.scenes[key] = parse_item(item, self.config.table[key], bands, source.sensor)
            except ItemError as error:
                causes.append(str(error))
            else:
                return Check(title, ok=True, found=f"item {self.scenes[key].id} has all that is wanted")
        found = f"none of {len(items)} items can be used, the first since {causes[0]}"
        mend = f"the catalog calls it otherwise: look at {key}.collection and {key}.bands"
        return Check(title, ok=False, found=found, mend=mend)

    def _some_items(self, key: str, source: Source) -> list[dict[str, Any]]:
        """Return a few items of a sensor's collection and first period."""
        name, url = self.config.sensors[key].collection, source.url.rstrip("/")
        query = Query((name,), datetime=_period(self.config, key), limit=_ITEMS, sensor=key)
        if not source.is_api:
            return open_catalog(self.config).search(query)
        try:
            self._ask("GET", f"{url}/collections/{name}")
        except _NoAnswerError as error:
            if "HTTP 404" not in str(error):
                raise
            mend = f"look at {key}.collection and catalog.url"
            raise _NoAnswerError(f"{url} has no collection {name}", mend) from None
        answer = self._ask("POST", f"{url}/search", {**query.body, "limit": _ITEMS})
        return list(answer.get("features") or ())

    def _containers(self) -> dict[str, tuple[str, str]]:
        """Return an asset of each storage container that needs a token, and its sensor."""
        signed = {key: scene for key, scene in self.scenes.items() if self.access_of(key).sign}
        hrefs = [(key, asset.href) for key, scene in signed.items() for asset in scene.assets.values()]
        found = {_container(href): (key, href) for key, href in reversed(hrefs)}
        return dict(sorted((name, one) for name, one in found.items() if name))

    def _check_token(self, container: str, key: str, href: str) -> Check:
        title = f"token for {container}"
        try:
            within(_ANSWER_S, lambda: check_access(href, self.access_of(key)))
        except LateError as error:
            return Check(title, ok=False, found=str(error), mend="look at the network, or try again later")
        except ServiceError as error:
            found, _, mend = str(error).removeprefix(f"no {title}: ").partition("; ")
            mend = mend or "look at PC_SDK_SAS_URL, or try again later"
            return Check(title, ok=False, found=found, mend=mend)
        return Check(title, ok=True, found="given")

    def _first_asset(self, key: str, scene: Scene) -> AssetRef:
        return scene.assets[self.config.bands(key)[0]]

    def _check_read(self, key: str, scene: Scene) -> Check:
        """Read a small window of a sensor's first band."""
        title, asset = f"read {key}", self._first_asset(key, scene)
        access = replace(self.access_of(key), retries=0)
        began = time.monotonic()
        try:
            size = within(2 * _ANSWER_S, lambda: read_with_retries(scene, asset, access, _read_corner))
        except (ReadError, ServiceError, LateError) as error:
            text = str(error)
            return Check(title, ok=False, found=text, mend=distrust(text) or _mend_of_read(text))
        seconds = max(time.monotonic() - began, 1e-6)
        rate = f"{size / 1e6:.2f} MB in {seconds:.2f} s, {size / 1e6 / seconds:.1f} MB/s"
        return Check(title, ok=True, found=f"a window of {asset.key} of {scene.id}: {rate}")


class _NoAnswerError(Exception):
    """A service gave no answer that can be used."""

    def __init__(self, found: str, mend: str) -> None:
        super().__init__(found)
        self.mend = mend


def _unreachable(url: str, error: Exception) -> _NoAnswerError:
    host, text = urlsplit(url).hostname, str(error)
    if mend := distrust(text):
        return _NoAnswerError(f"{url}: its certificate is not vouched for", mend.partition(": ")[2])
    proxy = next(
        (f"{n} ({_host_of(os.environ[n])})" for n in ("HTTPS_PROXY", "https_proxy") if os.environ.get(n)), ""
    )
    behind = (
        f"look at the network, and at {proxy}"
        if proxy
        else "look at the network; behind a proxy, set HTTPS_PROXY"
    )
    cause = "no answer in time" if "timed out" in text else "no connection"
    return _NoAnswerError(f"{url}: {cause} to {host}", behind)


def _container(href: str) -> str:
    """Return ``account/container`` of a blob's address; empty for any other."""
    address = urlsplit(href)
    host = address.hostname or ""
    return f"{host.partition('.')[0]}/{address.path.split('/')[1]}" if host.endswith(_BLOBS) else ""


def _host_of(proxy: str) -> str:
    return urlsplit(proxy).hostname or "no address"


def _mend_of_status(status: int) -> str:
    if status in (401, 403):
        return "the catalog wants an account, or a proxy refuses it: ask whoever runs it"
    return "look at catalog.url" if status < 500 else "the service has trouble of its own: try again later"


def _mend_of_read(cause: str) -> str:
    if "404" in cause:
        return "this file is gone; if other items read, a build goes round it"
    if "401" in cause or "403" in cause:
        return "set PC_SDK_SUBSCRIPTION_KEY, or catalog.sign as the service wants it"
    return "look at the network and its proxy (HTTPS_PROXY, NO_PROXY)"


def _read_corner(url: str) -> int:
    """Return the bytes of a window in a file's middle, where there is likely something."""
    with rasterio.open(url) as source:
        side = min(_WINDOW_PX, source.width, source.height)
        corner = ((source.width - side) // 2, (source.height - side) // 2)
        pixels = source.read(1, window=Window(*corner, side, side))
    return int(np.asarray(pixels).nbytes)


def _period(config: Config, key: str) -> TimeRange:
    settings = config.sensors[key]
    return TimeRange.parse(settings.year) if isinstance(settings, PeriodConfig) else config.ranges[0]


def _duration(seconds: float) -> str:
    for name, length in (("days", 86_400), ("hours", 3600)):
        if seconds >= 0.95 * length:
            return f"{seconds / length:.1f} {name}"
    return f"{seconds / 60:.0f} minutes"
