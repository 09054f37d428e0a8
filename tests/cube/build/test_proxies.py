"""Behind a company's proxy, with an authority of its own: catalog, tokens and pixels alike, over real https."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import trustme
from planetary_computer.settings import Settings

from cube.certificates import CA_VARIABLES
from cube.config.models import CatalogConfig, Config
from cube.config.sensors import SENSORS
from cube.errors import CatalogError, ConfigError, ReadError, ServiceError
from cube.pixels import signing
from cube.pixels.access import Access, check_access
from cube.pixels.read import read_scene
from cube.scenes.catalog import ApiCatalog
from cube.scenes.items import Scene, parse_item
from cube.scenes.query import Query
from cube.testing import Archive, sentinel2_item, utm_geobox, write_cog
from cube.testing.service import StandIn, Tunnel

ROOT = Path(__file__).parents[3]
GRID = utm_geobox(32633, (300_000, 5_490_240, 305_120, 5_495_360), 10)
BLOBS = ".blob.core.windows.net"
PROXIES = ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy", "NO_PROXY", "no_proxy", "ALL_PROXY")


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    names = [f"{name}{BLOBS}" for name in ("*", "sentinel2l2a01")]
    authority.issue_cert("127.0.0.1", "localhost", *names).configure_cert(context)
    return context


@pytest.fixture(scope="module")
def bundle(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("authority") / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return path


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an archive of two items of one band."""
    folder = tmp_path_factory.mktemp("small")
    items = []
    for number in range(2):
        moment = datetime(2023, 1, 1 + number, 10, tzinfo=UTC)
        item = sentinel2_item(GRID, moment, assets=("B04",), root="./blobs")
        pixels = np.full(GRID.shape, 1000 + number, "uint16")
        write_cog(folder / item["assets"]["B04"]["href"], pixels, GRID, nodata=0, blocksize=256)
        items.append(item)
    (folder / "items.json").write_text(json.dumps({"type": "FeatureCollection", "features": items}))
    return folder


@pytest.fixture
def service(small: Path, tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    """Return a service over https, and an environment that names no authority and no proxy."""
    for name in (*CA_VARIABLES, *PROXIES, "GDAL_CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(signing, "_TOKENS", signing._TokenCache())
    with StandIn(small, tls=tls) as running:
        for name, value in running.environment().items():
            monkeypatch.setenv(name, value)
        Settings.get.cache_clear()
        yield running
    Settings.get.cache_clear()


@pytest.fixture
def tunnel(service: StandIn) -> Iterator[Tunnel]:
    with Tunnel(service.port) as running:
        yield running


def scenes_of(service: StandIn) -> list[Scene]:
    items = ApiCatalog(CatalogConfig(url=service.url, retries=0)).search(Query(("sentinel-2-l2a",)))
    return [parse_item(item, SENSORS["s2l2a"], ["B04"]) for item in items]


def value_of(scene: Scene) -> int:
    access, sensor = Access(sign=True, retries=0), SENSORS["s2l2a"]
    pixels = read_scene(scene, sensor, sensor.band("B04"), GRID[:256, :256], access, resampling="nearest")
    [value] = np.unique(pixels)
    return int(value)


@pytest.mark.parametrize("variable", CA_VARIABLES)
def test_one_variable_serves_catalog_tokens_and_pixels_through_a_proxy(
    service: StandIn, tunnel: Tunnel, bundle: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, str(bundle))
    monkeypatch.setenv("HTTPS_PROXY", tunnel.url)
    assert [value_of(scene) for scene in scenes_of(service)] == [1000, 1001]
    counts = service.counts()
    assert (counts["search"], counts["token"]) == (1, 1)
    assert counts["blob"] >= 2
    asked = Counter(tunnel.hosts)
    assert asked["127.0.0.1"] == 2  # catalog and tokens
    assert sum(count for host, count in asked.items() if host.endswith(BLOBS)) >= 1


def test_no_proxy_is_heeded_by_all(
    service: StandIn, tunnel: Tunnel, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    monkeypatch.setenv("HTTPS_PROXY", tunnel.url)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    scene, _ = scenes_of(service)
    assert value_of(scene) == 1000
    assert tunnel.hosts
    assert all(host.endswith(BLOBS) for host in tunnel.hosts)
    monkeypatch.setenv("NO_PROXY", f"127.0.0.1,{BLOBS}")
    monkeypatch.setattr(signing, "_TOKENS", signing._TokenCache())  # another URL: GDAL remembers the first
    before = len(tunnel.hosts)
    with pytest.raises(ReadError):  # nobody but the proxy knows these hosts
        value_of(scenes_of(service)[1])
    assert len(tunnel.hosts) == before


def test_a_proxy_that_wants_a_password_gets_it_and_nobody_else(
    service: StandIn, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    with Tunnel(service.port, login="me:opensesame") as tunnel:
        monkeypatch.setenv("HTTPS_PROXY", tunnel.url)
        assert value_of(scenes_of(service)[0]) == 1000
        monkeypatch.setenv("HTTPS_PROXY", tunnel.url.replace("opensesame", "opensesam"))
        with pytest.raises(CatalogError) as refused:
            scenes_of(service)
    assert "opensesam" not in str(refused.value)
    assert "407" in str(refused.value)


def test_an_authority_that_is_not_trusted_is_refused_by_all(
    service: StandIn, tunnel: Tunnel, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the tests above would show nothing."""
    monkeypatch.setenv("HTTPS_PROXY", tunnel.url)
    with pytest.raises(CatalogError, match="certificate is not vouched for: set REQUESTS_CA_BUNDLE"):
        scenes_of(service)
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    scene, _ = scenes_of(service)
    monkeypatch.delenv("SSL_CERT_FILE")
    with pytest.raises(ServiceError, match="certificate is not vouched for: set REQUESTS_CA_BUNDLE"):
        check_access(scene.assets["B04"].href, Access(sign=True))


def test_a_bundle_that_is_not_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere/ca.pem")
    with pytest.raises(ConfigError, match=r"^REQUESTS_CA_BUNDLE=/nowhere/ca.pem: no such file; "):
        ApiCatalog(CatalogConfig(url="https://127.0.0.1:9")).search(Query(("sentinel-2-l2a",)))


def test_a_build_on_dask_workers_trusts_and_tunnels(
    sample_archive: Archive,
    tls: ssl.SSLContext,
    bundle: Path,
    demo_config: Callable[..., Config],
    tmp_path: Path,
) -> None:
    with StandIn(sample_archive.path, tls=tls) as service, Tunnel(service.port) as tunnel:
        config = demo_config(tmp_path)
        settings = {
            "catalog.url": service.url,
            "catalog.sign": "planetary-computer",
            "aoi.path": config.aoi.path,
            "aoi.max_side_m": "3840",
            "directory.working": config.directory.working,
            "directory.output": config.directory.output,
            "compute.workers": "1",
            "s2l2a.bands": "[B02]",
            "s2l2a.cloud_band": "SCL",
            "s1rtc": "",
            "lc2l2": "",
        }
        command = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
        clean = {
            name: value
            for name, value in os.environ.items()
            if name not in (*CA_VARIABLES, *PROXIES, "GDAL_CURL_CA_BUNDLE", "AWS_CA_BUNDLE")
        }
        here = {"CURL_CA_BUNDLE": str(bundle), "HTTPS_PROXY": tunnel.url, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "scripts/build_cubes.py", "-c", "configs/demo.yaml", "--aoi", "0", *command],
            cwd=ROOT,
            env={**clean, **service.environment(), **here},
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        assert "1 built" in done.stdout
        counts = service.counts()
        assert min(counts["search"], counts["token"], counts["blob"]) > 0
        assert len({host for host in tunnel.hosts if host.endswith(BLOBS)}) >= 2
