"""HTTP/1.1 on real sockets: requests become calls, and whoever handles them holds the wire."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import struct
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from cube.testing.service.messages import Call

HOST = "127.0.0.1"

_STOP_S = 5.0
_SMALL = 1 << 16
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # linger on, for no time


class Wire:
    """The way back to a client."""

    def __init__(self, connection: socket.socket) -> None:
        self.is_open = True
        self._connection = connection

    def send(self, head: bytes, body: bytes = b"") -> None:
        """Send both; in one piece if small."""
        if len(body) < _SMALL:
            self._connection.sendall(head + body)
        else:
            self._connection.sendall(head)
            self._connection.sendall(body)

    def close(self) -> None:
        """End the connection after what was sent."""
        self.is_open = False

    def reset(self) -> None:
        """End the connection at once, by a reset."""
        self.is_open = False
        self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        os.close(self._connection.detach())  # the usual close would begin with an orderly end


Handle = Callable[[Call, Wire], None]


class Server(ThreadingHTTPServer):
    """A thread for each connection, none of which outlives the server.

    Parameters
    ----------
    port
        0 takes a free one.
    handle
        Called with each request.
    host
        Address to listen at.
    tls
        Certificate and key of an https server; None speaks plain http.
    """

    daemon_threads = True
    request_queue_size = 256

    def __init__(
        self, port: int, handle: Handle, host: str = HOST, tls: ssl.SSLContext | None = None
    ) -> None:
        self.handle_call = handle
        self._tls = tls
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._connections: set[socket.socket] = set()
        self._changed = threading.Condition()
        super().__init__((host, port), _Handler)

    def get_request(self) -> tuple[Any, Any]:
        """Accept a connection; hands are shaken in its own thread, with the first read."""
        connection, address = super().get_request()
        if self._tls is not None:
            connection = self._tls.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        return connection, address

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start a connection's thread."""
        with self._changed:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """End a connection."""
        super().shutdown_request(request)
        with self._changed:
            self._connections.discard(request)
            self._changed.notify_all()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Report what is our fault; clients may leave when they like."""
        if not isinstance(sys.exception(), (ConnectionError, ssl.SSLError)):
            super().handle_error(request, client_address)

    def hang_up(self) -> None:
        """End every connection, and wait until their threads have let go."""
        with self._changed:
            for connection in self._connections:
                with contextlib.suppress(OSError):  # the client was first
                    connection.shutdown(socket.SHUT_RDWR)
            self._changed.wait_for(lambda: not self._connections, _STOP_S)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def do_GET(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = self.rfile.read(int(headers.get("content-length", 0)))
        wire = Wire(self.connection)
        self.server.handle_call(Call.of(self.command, self.path, headers, body), wire)
        self.close_connection = self.close_connection or not wire.is_open

    do_HEAD = do_POST = do_PUT = do_DELETE = do_CONNECT = do_GET  # noqa: N815 - as inherited

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as inherited
        """Print nothing."""
