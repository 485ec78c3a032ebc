"""A proxy on the loopback in front of an S3 server, in which the n-th request fails."""

import http.client
import logging
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Literal

import pytest
from moto.server import ThreadedMotoServer
from s3fs import S3FileSystem

Kind = Literal["unavailable", "cut", "lost reply", "stall"]
KINDS: tuple[Kind, ...] = ("unavailable", "cut", "lost reply", "stall")
SLOW_DOWN = (
    b"<?xml version='1.0'?><Error><Code>SlowDown</Code><Message>Please reduce your request rate</Message></Error>"
)
HOP = ("connection", "transfer-encoding", "content-length", "keep-alive")
"""Headers that belong to one connection only."""


@dataclass(frozen=True)
class S3Fault:
    """What fails, and when."""

    kind: Kind
    at: int
    """The number of the request, counting from 1 those that the fault concerns."""
    lasting: bool = False
    """Whether all later ones fail too."""
    of: Literal["all", "put", "multipart"] = "all"
    """The requests that the fault concerns."""

    def concerns(self, method: str, path: str) -> bool:
        """Return whether a request is one of them."""
        multipart = any(word in path for word in ("uploads", "uploadId", "partNumber"))
        return {"all": True, "put": method == "PUT", "multipart": multipart}[self.of]


class S3Proxy(ThreadingHTTPServer):
    """Passes requests on to a server, and its answers back."""

    daemon_threads = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behind = port
        self.fault: S3Fault | None = None
        self.met = 0
        """Number of faults that happened."""
        self.counted: Counter[str] = Counter()
        self.log: list[str] = []
        self.released = threading.Event()
        """Ends a stall."""
        self._lock, self._concerned = threading.Lock(), 0

    @contextmanager
    def failing(self, fault: S3Fault | None) -> Iterator["S3Proxy"]:
        """Let the fault happen inside the block."""
        with self._lock:
            self.fault, self.met, self._concerned = fault, 0, 0
            self.log.clear()
        self.released.clear()
        try:
            yield self
        finally:
            self.fault = None
            self.released.set()

    def next_fault(self, method: str, path: str) -> Kind | None:
        """Return how the current request fails, or None."""
        with self._lock:
            self.log.append(f"{method} {path}")
            fault = self.fault
            if fault is None or not fault.concerns(method, path):
                return None
            self._concerned += 1
            if self._concerned < fault.at or (self._concerned > fault.at and not fault.lasting):
                return None
            self.met += 1
            self.counted[fault.kind] += self._concerned == fault.at
            return fault.kind


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: S3Proxy

    def _pass(self) -> None:
        body = self._body()
        kind = self.server.next_fault(self.command, self.path)
        if kind == "unavailable":
            return self._answer(503, [("Content-Type", "application/xml")], SLOW_DOWN)
        connection = http.client.HTTPConnection("127.0.0.1", self.server.behind, timeout=60)
        connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in (*HOP, "expect"):
                connection.putheader(name, value)
        connection.putheader("Content-Length", str(len(body)))
        connection.endheaders(body)
        reply = connection.getresponse()
        data, length = reply.read(), reply.getheader("Content-Length")
        headers = [(name, value) for name, value in reply.getheaders() if name.lower() not in HOP]
        connection.close()
        if kind == "stall":
            self.server.released.wait(30)
        if kind in ("stall", "lost reply"):
            return self._reset()
        self._answer(reply.status, headers, data, length, cut=kind == "cut")

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _pass  # noqa: N815

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(parts)

    def _answer(
        self, status: int, headers: list[tuple[str, str]], data: bytes, length: str | None = None, cut: bool = False
    ) -> None:
        self.send_response_only(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", length if self.command == "HEAD" and length else str(len(data)))
        self.end_headers()
        if cut:
            self.wfile.write(data[: len(data) // 2])
            return self._reset()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _reset(self) -> None:
        """Reset the connection, as if the machine were gone."""
        self.wfile.flush()
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def handle(self) -> None:
        """Ignore that a client is gone."""
        with suppress(ConnectionError):
            super().handle()

    def log_message(self, format: str, *words: object) -> None:
        """Print nothing: requests are in the proxy's `log`."""

    def finish(self) -> None:
        """Ignore that the connection was reset."""
        with suppress(OSError, ValueError):
            super().finish()


@contextmanager
def s3_behind_proxy() -> Iterator[S3Proxy]:
    """Start an S3 server in memory and a proxy in front of it for s3fs, with short timeouts and few retries."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    proxy = S3Proxy(server.get_host_and_port()[1])
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{proxy.server_address[1]}")
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        patch.setenv("AWS_MAX_ATTEMPTS", "2")
        patch.setattr(S3FileSystem, "read_timeout", 1)
        patch.setattr(S3FileSystem, "retries", 2)
        S3FileSystem.clear_instance_cache()
        try:
            yield proxy
        finally:
            S3FileSystem.clear_instance_cache()
            proxy.shutdown()
            proxy.server_close()
            server.stop()
