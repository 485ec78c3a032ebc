"""The server of a store's page: it serves files of the store, or ranges of their bytes, only on the loopback interface.

It is a separate module so that no other command imports the HTTP server of the standard library, which is slow.
"""

import re
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit

from flows.commands.options import UsageError

if TYPE_CHECKING:
    from schemas.storage.store import Store

HOST = "127.0.0.1"

SERVED = ("report/", "audio/")
"""Folders of a store with the files that pages link to; nothing else is served."""

RANGE = re.compile(r"bytes=(\d*)-(\d*)")
"""One range of bytes (RFC 9110, 14.1.2); browsers ask for one at a time to move within a sound."""

BLOCK = 1 << 20
"""How many bytes are read and sent at once."""


def serve(store: "Store", port: int) -> ThreadingHTTPServer:
    """Return a server of a store's page on the loopback interface; it is not started yet.

    Raises:
        UsageError: the port is in use.
    """
    try:
        server = ThreadingHTTPServer((HOST, port), partial(_Handler, store))
    except OSError as error:
        raise UsageError(
            f"expected port {port} of this machine to be free, got {error.strerror}: give --port"
        ) from error
    server.daemon_threads = True
    return server


class _Handler(BaseHTTPRequestHandler):
    """Answers requests with files of a store, or ranges of their bytes."""

    protocol_version = "HTTP/1.1"

    def __init__(self, store: "Store", *connection: Any) -> None:
        self._store = store
        super().__init__(*connection)

    def do_GET(self) -> None:
        """Send a file."""
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        """Send the headers of a file without its content."""
        self._answer(with_body=False)

    def _answer(self, with_body: bool) -> None:
        from stages.report import PAGE

        host = (self.headers["Host"] or "").rpartition(":")[0]
        if host not in (HOST, "localhost"):  # a foreign page whose host name points to this machine
            self._refuse(403)
            return
        path = unquote(urlsplit(self.path).path).lstrip("/")
        if path == "favicon.ico":  # browsers ask for it, and there is none
            self.send_response(204)
            self.end_headers()
            return
        if not path:
            self.send_response(302)
            self.send_header("Location", f"/{PAGE}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        try:
            size = self._store.size(path) if path.startswith(SERVED) and ".." not in path.split("/") else None
        except (OSError, ValueError):
            size = None
        if not size:
            self._refuse(404)
            return
        self._send(path, size, with_body)

    def _send(self, path: str, size: int, with_body: bool) -> None:
        from schemas.storage.content_types import content_type

        first, last, partial_ = 0, size - 1, False
        match = RANGE.fullmatch(self.headers["Range"] or "")
        if match and any(match.groups()):
            partial_ = True
            if match[1]:
                first, last = int(match[1]), min(int(match[2] or last), last)
            else:
                first = max(size - int(match[2]), 0)
            if first > last:
                self._refuse(416, ("Content-Range", f"bytes */{size}"))
                return
        self.send_response(206 if partial_ else 200)
        self.send_header("Content-Type", content_type(path) or "application/octet-stream")
        self.send_header("Content-Length", str(last - first + 1))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("X-Content-Type-Options", "nosniff")
        if partial_:
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.end_headers()
        if not with_body:
            return
        try:
            for start in range(first, last + 1, BLOCK):
                end = min(start + BLOCK, last + 1)
                self.wfile.write(self._store.filesystem.cat_file(self._store.path(path), start=start, end=end))
        except (BrokenPipeError, ConnectionResetError):  # the browser needs no more
            self.close_connection = True
        except OSError:  # the store failed midway; the browser notices the short answer
            self.close_connection = True

    def _refuse(self, status: int, *headers: tuple[str, str]) -> None:
        self.send_response(status)
        for name, value in (*headers, ("Content-Length", "0")):
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *_: object) -> None:
        """Print nothing: the terminal is for the user."""
