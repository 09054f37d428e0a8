"""Services that cannot be reached: said once, waited for together, given up together; and waits that end."""

from __future__ import annotations

import logging
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import requests
from planetary_computer import settings

from cube.config.models import CatalogConfig
from cube.errors import ServiceError
from cube.pixels.failures import FailureKind, judge
from cube.pixels.signing import token_for
from cube.retry import (
    GivenUpError,
    Lasting,
    NoConnection,
    RetryPolicy,
    Transient,
    heed,
    pause,
    services,
    why_unreachable,
)
from cube.retry.services import ServiceWatch
from cube.scenes.catalog import ApiCatalog
from cube.scenes.query import Query


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each test know nothing of any service."""
    monkeypatch.setattr("cube.retry.policy.SERVICES", ServiceWatch())
    monkeypatch.setattr(services._LOG, "filters", [services._SaidOnce()])


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


QUICK = RetryPolicy(retries=8, wait_s=0.01, longest_wait_s=0.05)


def test_a_service_that_is_down_is_said_at_once_and_given_up_after_five_tries(
    closed_port: int, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"http://127.0.0.1:{closed_port}/stac"
    catalog = ApiCatalog(CatalogConfig(url=url, retry_wait_s=0.01, retry_longest_wait_s=0.1))
    with pytest.raises(ServiceError) as stop:
        catalog.search(Query(("sentinel-2-l2a",)))
    place = f"127.0.0.1:{closed_port} cannot be reached: the connection is refused"
    assert str(stop.value).startswith(f"{place}, 5 times in a row; check the network")
    assert [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING] == [
        f"{place}; it is tried 5 times in all, then the run stops"
    ]


def test_many_threads_wait_together_and_give_up_together() -> None:
    attempts, lock = [0], threading.Lock()

    def attempt(_: int) -> None:
        with lock:
            attempts[0] += 1
        raise NoConnection("the connection is refused")

    policy, begun = RetryPolicy(8, longest_wait_s=0.3), time.monotonic()
    with ThreadPoolExecutor(16) as pool:
        calls = [pool.submit(policy.call, attempt, "host") for _ in range(16)]
    assert {type(call.exception()) for call in calls} == {ServiceError}
    assert len({str(call.exception()) for call in calls}) == 1
    assert time.monotonic() - begun < 2 * 4 * 0.3  # four waits, and not sixteen times as many
    assert attempts[0] <= 16 * 5


def test_a_success_starts_the_count_anew() -> None:
    outcomes = iter([NoConnection("a")] * 4 + [None] + [NoConnection("a")] * 4 + [None])

    def attempt(_: int) -> str:
        outcome = next(outcomes)
        if outcome is not None:
            raise outcome
        return "answer"

    assert [QUICK.call(attempt, "host") for _ in range(2)] == ["answer", "answer"]


def test_other_causes_are_not_added_up() -> None:
    outcomes = iter([NoConnection("a"), NoConnection("b")] * 4)

    def attempt(_: int) -> str:
        raise next(outcomes)

    with pytest.raises(NoConnection, match="b"):
        RetryPolicy(7, wait_s=0.01, longest_wait_s=0.01).call(attempt, "host")


def test_what_seems_to_last_is_tried_a_second_time_and_no_more() -> None:
    numbers: list[int] = []

    def attempt(number: int) -> None:
        numbers.append(number)
        raise Lasting("gone")

    with pytest.raises(Lasting):
        QUICK.call(attempt)
    assert numbers == [0, 1]


def test_what_seemed_to_last_may_pass() -> None:
    def attempt(number: int) -> str:
        if number == 0:
            raise Lasting("gone")
        if number == 1:
            raise Transient("busy")
        return "answer"

    assert QUICK.call(attempt) == "answer"


def test_a_wait_ends_when_nobody_waits_for_the_work() -> None:
    given_up = threading.Event()
    with ThreadPoolExecutor(1, initializer=heed, initargs=(given_up.is_set,)) as pool:
        waiting = pool.submit(pause, 60)
        time.sleep(0.3)
        begun = time.monotonic()
        given_up.set()
        with pytest.raises(GivenUpError):
            waiting.result(timeout=5)
    assert time.monotonic() - begun < 1


def test_what_requests_says_is_understood(closed_port: int) -> None:
    for url, words in (
        (f"http://127.0.0.1:{closed_port}/", "the connection is refused"),
        ("http://nowhere.invalid/", "its name is not known"),
    ):
        with pytest.raises(requests.ConnectionError) as caught:
            requests.get(url, timeout=5, proxies={"http": "", "https": ""})
        assert why_unreachable(str(caught.value)) == words
    assert why_unreachable("Read timed out. (read timeout=30)") is None


@pytest.mark.parametrize(
    ("text", "status", "kind"),
    [
        ("HTTP response code: 404", 404, FailureKind.LASTING),
        ("HTTP response code: 410", 410, FailureKind.LASTING),
        ("HTTP response code: 403", 403, FailureKind.REFUSED),
        ("HTTP response code: 503", 503, FailureKind.PASSING),
        ("CURL error: Could not resolve host: x", None, FailureKind.UNREACHABLE),
        (
            "CURL error: SSL certificate problem: unable to get local issuer certificate",
            None,
            FailureKind.UNREACHABLE,
        ),
        ("HTTP response code: 407", 407, FailureKind.UNREACHABLE),
        ("CURL error: Recv failure: Connection reset by peer", None, FailureKind.PASSING),
        ("CURL error: Operation too slow. Less than 1000 bytes/sec", None, FailureKind.PASSING),
        ("'/vsicurl/x' not recognized as being in a supported file format.", None, FailureKind.LASTING),
        ("TIFFFillTile:Read error at row 768; got 7977 bytes, expected 116530", None, FailureKind.CUT_SHORT),
        ("ZIPDecode:Decoding error at scanline 0", None, FailureKind.LASTING),
        ("The specified bucket does not exist", None, FailureKind.STORE),
        ("something that was never heard", None, FailureKind.PASSING),
    ],
)
def test_failed_reads_are_judged(text: str, status: int | None, kind: FailureKind) -> None:
    assert judge(text, status).kind is kind
    if kind in {FailureKind.LASTING, FailureKind.CUT_SHORT} and status is None:
        assert judge(text, broke_off=True).kind is FailureKind.PASSING


def test_a_token_behind_a_proxy_that_wants_a_login_is_the_proxys_matter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No account of the service's would mend it."""

    class Proxy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(407)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("PC_SDK_SAS_URL", f"http://127.0.0.1:{server.server_port}/token")
        monkeypatch.setattr(settings.Settings, "get", classmethod(lambda cls: cls()))
        policy = RetryPolicy(8, wait_s=0.01, longest_wait_s=0.01)
        href = "https://account407.blob.core.windows.net/container/a.tif"
        with pytest.raises(ServiceError) as refused:
            token_for(href, stale=None, policy=policy)
        server.shutdown()
    assert "the proxy wants another login (HTTP 407; look at HTTPS_PROXY), 5 times in a row" in str(
        refused.value
    )
    assert "account may be needed" not in str(refused.value)
