"""A proxy as companies have them: it knows CONNECT alone, and leads every host to one port."""

from __future__ import annotations

import base64
import select
import socket
import threading
from socketserver import StreamRequestHandler, ThreadingTCPServer
from types import TracebackType
from typing import Self

from cube.testing.service.transport import HOST

_PIECE = 1 << 16
_IDLE_S = 30.0


class Tunnel:
    """An https proxy on a port of this machine, while a ``with`` lasts.

    Parameters
    ----------
    port
        Where all tunnels end, whatever host is asked for: that of an https stand-in.
    login
        ``user:password`` that clients must send; empty: none.
    """

    def __init__(self, port: int, *, login: str = "") -> None:
        self.target = (HOST, port)
        self.login = login
        self.hosts: list[str] = []
        """Hosts that were asked for and let through, in order."""
        self._server = _Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def __enter__(self) -> Self:
        """Start to answer."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def url(self) -> str:
        """What ``HTTPS_PROXY`` is set to."""
        at = f"{self.login}@" if self.login else ""
        return f"http://{at}{HOST}:{self._server.server_address[1]}"


class _Server(ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 256

    def __init__(self, tunnel: Tunnel) -> None:
        self.tunnel = tunnel
        super().__init__((HOST, 0), _Handler)


class _Handler(StreamRequestHandler):
    server: _Server

    def handle(self) -> None:
        """Answer a CONNECT, and pass on bytes both ways until one side has enough."""
        tunnel = self.server.tunnel
        method, _, rest = self.rfile.readline().decode("latin-1").partition(" ")
        headers: dict[str, str] = {}
        while line := self.rfile.readline().decode("latin-1").strip():
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        if method != "CONNECT":
            self.wfile.write(b"HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\n\r\n")
            return
        wanted = f"Basic {base64.b64encode(tunnel.login.encode()).decode()}"
        if tunnel.login and headers.get("proxy-authorization") != wanted:
            self.wfile.write(
                b"HTTP/1.1 407 Proxy Authentication Required\r\n"
                b"Proxy-Authenticate: Basic realm=proxy\r\nContent-Length: 0\r\n\r\n"
            )
            return
        tunnel.hosts.append(rest.partition(":")[0])
        with socket.create_connection(tunnel.target) as end:
            self.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            _join(self.connection, end)


def _join(one: socket.socket, other: socket.socket) -> None:
    to = {one: other, other: one}
    while True:
        readable, _, _ = select.select(list(to), [], [], _IDLE_S)
        for source in readable:
            try:
                piece = source.recv(_PIECE)
                to[source].sendall(piece)
            except OSError:
                return
            if not piece:
                return
        if not readable:
            return
