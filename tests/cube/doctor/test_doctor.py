"""The doctor finds planted troubles one by one: each in one line with its mend, and nothing else."""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import rasterio
import trustme
import yaml
from click.testing import CliRunner, Result
from planetary_computer.settings import Settings
from shapely import box
from shapely.geometry import mapping

from cube.certificates import CA_VARIABLES
from cube.pixels import signing
from cube.run.storage import Folder
from cube.testing import lulc_item, sentinel2_item, utm_geobox, write_cog
from cube.testing.service import StandIn
from release.cli import main

ROOT = Path(__file__).parents[3]
GRID = utm_geobox(32633, (300_000, 5_490_240, 305_120, 5_495_360), 10)
UNSHARE = ("unshare", "--map-root-user", "--mount")
LAND_COVER = "ai4edataeuwest/io-lulc"


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an archive of a Sentinel-2 scene of two bands, and its land cover."""
    folder = tmp_path_factory.mktemp("archive")
    sentinel2 = sentinel2_item(
        GRID, datetime(2023, 1, 5, 10, tzinfo=UTC), assets=("B04", "SCL"), root="./blobs"
    )
    land_cover = lulc_item(GRID, root="./blobs")
    for item in (sentinel2, land_cover):
        for asset in item["assets"].values():
            if asset["href"].endswith(".tif"):
                pixels = np.full(GRID.shape, 5, "uint16" if "B04" in asset["href"] else "uint8")
                write_cog(folder / asset["href"], pixels, GRID, nodata=0)
    items = {"type": "FeatureCollection", "features": [sentinel2, land_cover]}
    (folder / "items.json").write_text(json.dumps(items))
    area = {"type": "Feature", "properties": {}, "geometry": mapping(box(12.3, 49.5, 12.31, 49.51))}
    (folder / "areas.geojson").write_text(json.dumps({"type": "FeatureCollection", "features": [area]}))
    return folder


@dataclass
class Patient:
    """A config whose run would go well."""

    config: Path
    archive: Path

    def write(self, **changes: object) -> list[str]:
        """Write the config with changes of dotted keys; returns the arguments of the doctor."""
        settings: dict[str, dict[str, object]] = {
            "dataset": {"version": "v1"},
            "aoi": {"path": str(self.archive / "areas.geojson")},
            "directory": {
                "working": str(self.config.parent / "work"),
                "output": str(self.config.parent / "out"),
            },
            "catalog": {"url": "http://127.0.0.1:9"},
            "s2l2a": {"time_ranges": ["2023-01-01/2023-03-31"], "bands": ["B04"], "cloud_band": "SCL"},
            "lulc": {"year": "2023-01-02/2023-12-31"},
            "compute": {"workers": 0},
        }
        for key, value in changes.items():
            section, _, name = key.partition("__")
            settings[section][name] = value
        self.config.write_text(yaml.safe_dump(settings))
        return ["doctor", "-c", str(self.config)]


@pytest.fixture
def patient(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Patient]:
    monkeypatch.setattr(signing, "_TOKENS", signing._TokenCache())
    Settings.get.cache_clear()
    yield Patient(tmp_path / "config.yaml", archive)
    Settings.get.cache_clear()


@pytest.fixture
def start(archive: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., StandIn]]:
    running: list[StandIn] = []

    def begin(**options: object) -> StandIn:
        service = StandIn(archive, **options).__enter__()  # type: ignore[arg-type]
        running.append(service)
        for name, value in service.environment().items():
            monkeypatch.setenv(name, value)
        Settings.get.cache_clear()
        return service

    yield begin
    for service in running:
        service.__exit__(None, None, None)


def typed(arguments: list[str]) -> Result:
    return CliRunner().invoke(main, arguments, prog_name="gelos-lc")


def assert_one_trouble(output: str, code: int, *words: str) -> list[str]:
    """Assert that one line alone tells of a trouble, with its mend; return the others."""
    lines = output.splitlines()
    bad = [line for line in lines if not line.startswith("ok   ")]
    assert code == 1, output
    assert len(bad) == 1, output
    assert bad[0].startswith("FAIL ")
    for word in words:
        assert word in bad[0]
    return [line for line in lines if line not in bad]


def test_a_well_config_is_well_and_each_check_says_what_it_saw(
    patient: Patient, start: Callable[..., StandIn]
) -> None:
    service = start()
    began = time.monotonic()
    done = typed(patient.write(catalog__url=service.url))
    assert time.monotonic() - began < 60
    assert done.exit_code == 0, done.output
    names = [line.removeprefix("ok   ").partition(": ")[0] for line in done.stdout.splitlines()]
    assert names == [
        "config", "Python", "libraries", "GDAL", "environment", "disk", "disk", "directory.working",
        "directory.output", "catalog", "clock", "s2l2a (sentinel-2-l2a)", "lulc (io-lulc-annual-v02)",
        f"token for {LAND_COVER}", "token for sentinel2l2a01/sentinel2-l2", "read s2l2a", "read lulc",
    ]  # fmt: skip
    assert "MB/s" in done.stdout
    assert "sig=" not in done.output
    assert not (patient.config.parent / "work").exists()  # it looks, and leaves nothing
    assert not (patient.config.parent / "out").exists()
    assert service.counts()["search"] == 2


def test_without_a_config_it_looks_at_the_machine() -> None:
    done = typed(["doctor"])
    assert (done.exit_code, len(done.stdout.splitlines())) == (0, 4)


def test_no_network(patient: Patient) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    done = typed(patient.write(catalog__url=url))
    assert_one_trouble(
        done.stdout, done.exit_code, f"catalog: {url}: no connection to 127.0.0.1", "look at the network"
    )


def test_a_dead_proxy(patient: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://me:opensesame@127.0.0.1:9")
    done = typed(patient.write(catalog__url="https://stac.example.org/v1"))
    assert_one_trouble(done.stdout, done.exit_code, "look at the network, and at HTTPS_PROXY (127.0.0.1)")
    assert "opensesame" not in done.output


def test_the_wrong_authority(
    patient: Patient, start: Callable[..., StandIn], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in CA_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    service = start(tls=context)
    done = typed(patient.write(catalog__url=service.url))
    assert_one_trouble(
        done.stdout, done.exit_code, "catalog: ", "certificate is not vouched for", "set REQUESTS_CA_BUNDLE"
    )
    (patient.config.parent / "other.pem").write_bytes(trustme.CA().cert_pem.bytes())
    monkeypatch.setenv("SSL_CERT_FILE", str(patient.config.parent / "other.pem"))
    done = typed(patient.write(catalog__url=service.url))
    assert_one_trouble(done.stdout, done.exit_code, "add the proxy's or service's authority to that file")


def test_401(patient: Patient, start: Callable[..., StandIn]) -> None:
    service = start(key_required=[LAND_COVER])
    done = typed(patient.write(catalog__url=service.url))
    well = assert_one_trouble(
        done.stdout, done.exit_code, f"token for {LAND_COVER}: HTTP 401", "set PC_SDK_SUBSCRIPTION_KEY"
    )
    assert any(line.startswith("ok   read s2l2a") for line in well)
    assert not any("read lulc" in line for line in well)


@pytest.mark.parametrize("trouble", ["wrong bucket", "no credentials"])
def test_buckets(
    patient: Patient,
    start: Callable[..., StandIn],
    s3: Folder,
    monkeypatch: pytest.MonkeyPatch,
    trouble: str,
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    bucket, options, words = "nobucket", dict(s3.options), "there is no such bucket; make it"
    if trouble == "no credentials":
        bucket, words = "bucket", "no credentials; set the service's variables (of S3: AWS_PROFILE"
        options = {"endpoint_url": options["endpoint_url"]}
    output = f"s3://{bucket}/out"
    changes = {"directory__output": output, "directory__storage_options": options}
    done = typed(patient.write(catalog__url=start().url, **changes))
    assert_one_trouble(done.stdout, done.exit_code, f"directory.output: {output}", words)


@contextmanager
def of_its_own(archive: Path) -> Iterator[dict[str, str]]:
    """Run a stand-in for another process; it yields the environment that leads there."""
    with StandIn(archive) as service:
        yield {**os.environ, **service.environment(), "URL": service.url, "PYTHONPATH": str(ROOT)}


def doctor_on(disk: Path, mount: str, arguments: list[str], environment: dict[str, str]) -> tuple[str, int]:
    """Run the doctor where a folder is a file system of its own."""
    disk.mkdir()
    script = f'mount -t tmpfs -o {mount} tmpfs "$1" || exit 77; shift; exec "$@"'
    command = [sys.executable, "-c", f"from release.cli import main; main({arguments!r})"]
    done = subprocess.run(
        [*UNSHARE, "bash", "-c", script, "bash", disk, *command],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip("no mount namespaces here")
    return done.stdout, done.returncode


def test_a_full_disk(patient: Patient, tmp_path: Path) -> None:
    with of_its_own(patient.archive) as environment:
        arguments = patient.write(
            catalog__url=environment["URL"], directory__working=str(tmp_path / "disk/work")
        )
        output, code = doctor_on(tmp_path / "disk", "size=1m", arguments, environment)
    assert_one_trouble(output, code, "disk: 0.0 GB free for directory.working", "make room, or set another")


def test_a_read_only_output(patient: Patient, tmp_path: Path) -> None:
    with of_its_own(patient.archive) as environment:
        arguments = patient.write(
            catalog__url=environment["URL"], directory__output=str(tmp_path / "disk/out")
        )
        output, code = doctor_on(tmp_path / "disk", "ro,size=4g", arguments, environment)
    assert_one_trouble(
        output, code, "directory.output: ", "(Read-only file system)", "set another directory.output"
    )


@pytest.mark.parametrize(
    ("package", "there", "words"),
    [
        ("distributed", "2020.1.0", "the scheduler has distributed 2020.1.0, this client "),
        ("gelos-lc", None, "the scheduler has no gelos-lc, this client "),
    ],
)
def test_a_scheduler_of_another_version(
    patient: Patient, start: Callable[..., StandIn], package: str, there: str | None, words: str
) -> None:
    """A true scheduler, which tells another version of one package."""
    code = (
        "import distributed.versions as v; known = v._version_cached\n"
        f"v._version_cached = lambda name: {there!r} if name == {package!r} else known(name)\n"
        "from distributed.cli.dask_scheduler import main\n"
        "main(['--host', '127.0.0.1', '--port', '0', '--no-dashboard'])"
    )
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) as scheduler:
        try:
            assert scheduler.stderr is not None
            line = next(line for line in scheduler.stderr if "Scheduler at:" in line)
            address = line.split("Scheduler at:")[1].strip()
            done = typed(patient.write(catalog__url=start().url, compute__scheduler=address))
        finally:
            scheduler.terminate()
    assert_one_trouble(
        done.stdout, done.exit_code, f"scheduler: {address}: {words}", "install the same versions there"
    )


def test_an_old_gdal(
    patient: Patient, start: Callable[..., StandIn], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rasterio, "__gdal_version__", "3.4.1")
    done = typed(patient.write(catalog__url=start().url))
    assert_one_trouble(done.stdout, done.exit_code, "GDAL: 3.4.1, expected 3.9 or later", "pip install")


def test_a_missing_collection(patient: Patient, start: Callable[..., StandIn]) -> None:
    service = start()
    done = typed(patient.write(catalog__url=service.url, s2l2a__collection="sentinel-2-l2b"))
    assert_one_trouble(
        done.stdout, done.exit_code, "has no collection sentinel-2-l2b", "look at s2l2a.collection"
    )


@pytest.mark.parametrize(("days", "way"), [(1, "behind"), (-1, "ahead of")])
def test_a_clock_that_is_off_by_a_day(
    patient: Patient, start: Callable[..., StandIn], days: int, way: str
) -> None:
    service = start(clock=lambda: time.time() + days * 86_400)
    done = typed(patient.write(catalog__url=service.url))
    bad = [line for line in done.stdout.splitlines() if line.startswith("FAIL")]
    assert done.exit_code == 1
    assert f"this machine's clock is 1.0 days {way} the catalog's" in bad[0]
    assert "timedatectl set-ntp true" in bad[0]
    assert len(bad) == 1, done.output


def test_a_typo_in_the_config(patient: Patient) -> None:
    done = typed(patient.write(s2l2a__cloud_covr=30))
    assert_one_trouble(
        done.stdout, done.exit_code, "unknown key s2l2a.cloud_covr", "did you mean s2l2a.cloud_cover?"
    )


def test_a_file_that_is_gone(patient: Patient, start: Callable[..., StandIn]) -> None:
    service = start()
    service.fail("*B04*", 404)
    done = typed(patient.write(catalog__url=service.url))
    assert_one_trouble(done.stdout, done.exit_code, "read s2l2a: item ", "this file is gone")


def test_an_item_that_lacks_a_band(patient: Patient, start: Callable[..., StandIn]) -> None:
    done = typed(patient.write(catalog__url=start().url, s2l2a__bands=["B04", "B03"]))
    assert_one_trouble(done.stdout, done.exit_code, "none of 1 items can be used", "B03", "s2l2a.bands")
