"""The stand-in itself: one port that speaks as STAC API, token endpoint and blob storage."""

from __future__ import annotations

import ssl
import threading
import time
import zlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, replace
from email.utils import formatdate
from pathlib import Path
from types import TracebackType
from typing import Self

from cube.testing.service import stac
from cube.testing.service.blobs import Blobs
from cube.testing.service.faults import STATUS, FaultBook, Faults, Kind, Manner, Rule
from cube.testing.service.log import Log, Request
from cube.testing.service.messages import (
    CONTROL_ROOT,
    S3_ROOT,
    SAS_ROOT,
    STAC_ROOT,
    Answer,
    Call,
    Role,
    failure,
    gateway_error,
    json_answer,
)
from cube.testing.service.search import MAX_LIMIT
from cube.testing.service.tokens import Buckets, Tokens
from cube.testing.service.transport import HOST, Server, Wire

_NO_PROXY = "127.0.0.1,localhost,::1"
_PIECES = 10


class StandIn:
    """A Planetary Computer of one archive, on a port of this machine, while a ``with`` lasts.

    Clients in the same process must set ``GDAL_DISABLE_READDIR_ON_OPEN=EMPTY_DIR``, as clients of
    COGs do anyway: rasterio holds the interpreter's lock while GDAL lists the folder of a file it
    has opened, and a server waiting for that lock never answers. Run the service as a process of
    its own where that is not wanted, and to measure speed.

    Parameters
    ----------
    archive
        Folder with ``items.json``, an ItemCollection with hrefs ``./blobs/account/container/path``,
        and ``blobs``.
    port
        0 takes a free one.
    latency_s
        Pause before each answer; may be changed while it runs.
    faults
        What goes wrong by chance. See `fail` for what goes wrong for certain.
    token_lifetime_s
        The SDK asks for a new token when the one it has is valid for less than a minute.
    key_required
        ``account/container`` names whose tokens need ``subscription_key``.
    page_cap
        Most items on a page of search results, whatever limit is asked for: small, to see paging.
    signed_buckets, paid_buckets
        Buckets whose objects are given only to who signs, and of the latter only to who pays, too.
    most_in_time
        A search for larger pages takes too long: the gateway answers it with 504, as text.
    host
        Address to listen at: ``::1`` for IPv6.
    clock
        Seconds since 1970, by which tokens age; answers tell it.
    tls
        Certificate and key: all is https then, and blobs are reached through a
        :class:`~cube.testing.service.tunnel.Tunnel`.
    """

    def __init__(
        self,
        archive: Path,
        *,
        port: int = 0,
        latency_s: float = 0.0,
        faults: Faults | None = None,
        token_lifetime_s: float = 3600.0,
        key_required: Collection[str] = (),
        subscription_key: str = "stand-in-key",
        page_cap: int = MAX_LIMIT,
        signed_buckets: Collection[str] = (),
        paid_buckets: Collection[str] = (),
        most_in_time: int = MAX_LIMIT,
        host: str = HOST,
        clock: Callable[[], float] = time.time,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        archive = Path(archive).resolve()
        self._scheme = "https" if tls else "http"
        items = stac.read_items(archive / "items.json", self._scheme)
        self.latency_s, self._host = latency_s, host
        self._clock = clock
        self._book = FaultBook(faults or Faults())
        self._log = Log()
        self._stopping = threading.Event()
        self._blobs = Blobs(archive / "blobs")
        self._tokens = Tokens(
            self._blobs.containers(),
            stac.containers_of_collections(items),
            lifetime_s=token_lifetime_s,
            key_required=key_required,
            subscription_key=subscription_key,
            clock=clock,
        )
        self._server = Server(port, self._handle, host, tls)
        self._buckets = Buckets(frozenset(signed_buckets), frozenset(paid_buckets))
        self._stac = stac.Stac(stac.addressed(items, self.endpoint), self.origin, page_cap, most_in_time)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> Self:
        """Start to answer."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop, and end every connection."""
        self._stopping.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._server.hang_up()

    @property
    def origin(self) -> str:
        """Scheme, host and port."""
        return f"{self._scheme}://{self.proxy}"

    @property
    def proxy(self) -> str:
        """Host and port: as a proxy it brings plain-http reads of blobs here."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{host}:{self.port}"

    @property
    def url(self) -> str:
        """The root of the STAC API."""
        return f"{self.origin}{STAC_ROOT}"

    @property
    def endpoint(self) -> str:
        """The root of the buckets."""
        return f"{self.origin}{S3_ROOT}"

    @property
    def sas_url(self) -> str:
        """The token endpoint."""
        return f"{self.origin}{SAS_ROOT}"

    @property
    def port(self) -> int:
        """The port on this machine."""
        return int(self._server.server_port)

    def environment(self) -> dict[str, str]:
        """Name the variables that send an SDK and GDAL here; STAC clients need `url` alone.

        Over https a tunnel brings GDAL here, and this names the SDK's variable alone.
        """
        if self._scheme == "https":
            return {"PC_SDK_SAS_URL": self.sas_url}
        return {
            "PC_SDK_SAS_URL": self.sas_url,
            "GDAL_HTTP_PROXY": self.proxy,
            "NO_PROXY": _NO_PROXY,
            "no_proxy": _NO_PROXY,
        }

    @property
    def faults(self) -> Faults:
        """What goes wrong by chance; may be replaced while it runs."""
        return self._book.faults

    @faults.setter
    def faults(self, faults: Faults) -> None:
        self._book.faults = faults

    def fail(self, pattern: str, how: Kind | int = 500) -> None:
        """Let each request whose path matches fail, with a status or a kind of fault, until `lift`.

        The path of a blob is ``/account/container/...``, that of a search ``/api/stac/v1/search``.
        """
        self._book.add(Rule(pattern, how))

    def serve(self, pattern: str, how: Manner) -> None:
        """Serve blobs whose path matches in another manner, until `lift`."""
        self._book.add(Rule(pattern, how))

    def lift(self, pattern: str | None = None) -> None:
        """End what `fail` or `serve` began, for one pattern or for all."""
        self._book.lift(pattern)

    def expire_tokens(self) -> None:
        """End the life of every token given so far, long before its time."""
        self._tokens.expire()

    @property
    def requests(self) -> tuple[Request, ...]:
        """All requests so far, in order of arrival."""
        return self._log.requests()

    def counts(self) -> dict[str, int]:
        """Count requests by role: search, catalog, token, blob, other."""
        return self._log.counts()

    def bytes_sent(self, role: Role = Role.BLOB) -> int:
        """Add up the bodies sent in a role."""
        return self._log.bytes_sent(role)

    def peak(self, role: Role = Role.BLOB) -> int:
        """Most requests of a role that were under way at once."""
        return self._log.peak(role)

    def reset(self) -> None:
        """Forget all requests, and begin the chance faults anew; rules of `fail` stay."""
        self._log.reset()
        self._book.forget()

    def _handle(self, call: Call, wire: Wire) -> None:
        if call.role is Role.OTHER and call.path.startswith(f"{CONTROL_ROOT}/"):
            answer = self._control(call)
            wire.send(answer.head(), answer.body)
            return
        request = self._log.arrive(call)
        try:
            self._pause(self.latency_s)
            fault = self._book.fate(call)
            if fault is Kind.RESET or fault is Kind.SILENT:
                self._leave_unanswered(request, fault, wire)
            else:
                self._reply(call, request, fault, wire)
        finally:
            self._log.finish(request)

    def _leave_unanswered(self, request: Request, fault: Kind, wire: Wire) -> None:
        self._log.answer(request, status=0, sent=0, fault=fault)
        if fault is Kind.RESET:
            wire.reset()
        else:
            self._pause(self.faults.silence_s)
            wire.close()

    def _reply(self, call: Call, request: Request, fault: Kind | int | None, wire: Wire) -> None:
        if fault is Kind.LATE:
            self._pause(self.faults.late_s)
        answer = self._faulty_answer(call, fault)
        answer = replace(answer, headers=(*answer.headers, ("Date", formatdate(self._clock(), usegmt=True))))
        body = b"" if call.method == "HEAD" else answer.body
        if fault is Kind.SHORT:
            body = body[: len(body) // 2]
            wire.close()
        *first, last = _pieces(body, _PIECES if fault is Kind.SLOW else 1)
        head = answer.head()
        for piece in first:
            wire.send(head, piece)
            head = b""
            self._pause(self.faults.slow_s / _PIECES)
        self._log.answer(request, status=answer.status, sent=len(body), fault=_name(fault))
        wire.send(head, last)

    def _faulty_answer(self, call: Call, fault: Kind | int | None) -> Answer:
        status = STATUS.get(fault) if isinstance(fault, Kind) else fault
        if status is not None:
            return failure(call.role, status, self.faults.retry_after_s)
        if fault is Kind.EXPIRED:
            return self._tokens.expired(call)
        answer = self._answer(call)
        return _corrupted(answer) if fault is Kind.CORRUPT else answer

    def _answer(self, call: Call) -> Answer:
        match call.role:
            case Role.SEARCH | Role.CATALOG:
                return self._stac.answer(call)
            case Role.TOKEN:
                return self._tokens.answer(call)
            case Role.BLOB if call.is_s3:
                return self._buckets.refuse(call) or self._blobs.answer(call)
            case Role.BLOB:
                return self._tokens.refuse(call) or self._blobs.answer(call, self._book.manner(call))
            case Role.OTHER:
                return gateway_error(502, f"{call.method} {call.path}: no such service here")

    def _control(self, call: Call) -> Answer:
        match call.method, call.path.removeprefix(f"{CONTROL_ROOT}/"):
            case "GET", "requests":
                return json_answer([asdict(request) for request in self.requests])
            case "GET", "summary":
                sent = {role.value: self.bytes_sent(role) for role in Role}
                peak = {role.value: self.peak(role) for role in Role}
                return json_answer({"counts": self.counts(), "bytes_sent": sent, "peak": peak})
            case "POST", "reset":
                self.reset()
                return json_answer({})
            case _:
                return gateway_error(404, f"{call.method} {call.path}")

    def _pause(self, seconds: float) -> None:
        if seconds > 0:
            self._stopping.wait(seconds)


def _pieces(body: bytes, count: int) -> Sequence[bytes]:
    size = max(1, -(-len(body) // count))
    return [body[start : start + size] for start in range(0, len(body), size)] or [b""]


def _corrupted(answer: Answer) -> Answer:
    if not answer.body or answer.status not in {200, 206}:
        return answer
    body = bytearray(answer.body)
    body[zlib.crc32(body) % len(body)] ^= 0xFF
    return replace(answer, body=bytes(body))


def _name(fault: Kind | int | None) -> str | None:
    return None if fault is None else str(fault)
