"""`segue page`: the page of any store and its sounds, served on the loopback, or written with signed links.

A page in a bucket that is not public cannot be opened by its address: what lies beside it would need an address of its
own. So either this program fetches the files for a browser on this machine, or it writes a copy of the page in which
every link is signed for some hours.
"""

import html
import re
import sys
from collections.abc import Callable
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import unquote, urlsplit

import typer

from flows.options import StoreOption, UsageError, existing_store

if TYPE_CHECKING:
    from schemas.store import Store

app = typer.Typer()

HOST = "127.0.0.1"

SERVED = ("report/", "audio/")
"""Folders of a store with what pages link to; nothing else is served."""

RANGE = re.compile(r"bytes=(\d*)-(\d*)")
"""One range of bytes (RFC 9110, 14.1.2): browsers ask for one at a time to move within a sound."""

BLOCK = 1 << 20
"""Bytes that are read and sent at once."""

LINK = re.compile(
    r'(?P<before>(?:src|href)="|"(?:audio|picture)":")(?P<address>(?:\.\./|pictures/|excerpts/)[^"]+)(?=")'
)
"""Links of a page to files of its store, in its tags and in its data."""

LONGEST_HOURS = 7 * 24
"""Signatures of S3 (version 4) hold for seven days at most."""


@app.command()
def page(
    store: StoreOption = None,
    port: Annotated[int, typer.Option(help="The port on the loopback; 0 takes a free one.")] = 0,
    signed: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the page of a bucket with signed links, and serve nothing."),
    ] = None,
    hours: Annotated[
        float, typer.Option(min=0.01, max=LONGEST_HOURS, help="How long links of --signed hold, in hours.")
    ] = 24.0,
) -> int:
    """Serve a store's page and sounds to a browser on this machine, or write it with signed links."""
    from stages.report import PAGE

    opened = existing_store(store)
    if not opened.exists(PAGE):
        raise UsageError(f"expected a page at {PAGE} in {opened.url}, got none: `segue run report` makes it")
    if signed is not None:
        from datetime import UTC, datetime, timedelta

        until = datetime.now(UTC) + timedelta(hours=hours)
        expires = f"{until:%Y-%m-%d %H:%M} UTC"
        try:
            signed.write_text(signed_page(opened, round(hours * 3600), expires), encoding="utf-8")
        except OSError as error:
            raise UsageError(str(error)) from error
        print(f"{signed} is written; whoever has it can see and hear the catalog until {expires}")
        return 0
    server = serve(opened, port)
    print(f"http://{HOST}:{server.server_address[1]}/{PAGE}  (Ctrl-C ends it)", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        print("segue: the page is no longer served", file=sys.stderr)
    finally:
        server.server_close()
    return 0


def serve(store: "Store", port: int) -> ThreadingHTTPServer:
    """Return a server of a store's page on the loopback, that is yet to be started.

    Raises:
        UsageError: the port is taken.
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
    """Answers with files of a store, whole or a range of their bytes."""

    protocol_version = "HTTP/1.1"

    def __init__(self, store: "Store", *connection: Any) -> None:
        self._store = store
        super().__init__(*connection)

    def do_GET(self) -> None:
        """Send a file."""
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        """Send what is known of a file."""
        self._answer(with_body=False)

    def _answer(self, with_body: bool) -> None:
        from stages.report import PAGE

        host = (self.headers["Host"] or "").rpartition(":")[0]
        if host not in (HOST, "localhost"):  # a page of elsewhere that has its name point here
            self._refuse(403)
            return
        path = unquote(urlsplit(self.path).path).lstrip("/")
        if path == "favicon.ico":  # which browsers ask for, and pages have none
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
        from schemas.content_types import content_type

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
        except (BrokenPipeError, ConnectionResetError):  # the browser has heard enough
            self.close_connection = True
        except OSError:  # the store failed in the midst of it; a short answer tells the browser
            self.close_connection = True

    def _refuse(self, status: int, *headers: tuple[str, str]) -> None:
        self.send_response(status)
        for name, value in (*headers, ("Content-Length", "0")):
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *_: object) -> None:
        """Say nothing: the terminal is for whoever asked."""


def signed_page(store: "Store", seconds: int, expires: str) -> str:
    """Return the page of a store in a bucket as HTML in which every link is signed.

    Args:
        seconds: how long links hold.
        expires: when they end, as the page says it.

    Raises:
        UsageError: the store's filesystem cannot sign links.
    """
    from stages.report import PAGE

    try:
        address = partial(store.filesystem.sign, expiration=seconds)
        origin = "{0.scheme}://{0.netloc}".format(urlsplit(address(store.path(PAGE))))
    except NotImplementedError as error:
        raise UsageError(
            f"expected a store in a bucket for --signed, got {store.url}: without it, `segue page` serves any"
        ) from error
    text = store.read_bytes(PAGE).decode()
    text = text.replace("img-src &#39;self&#39;", "img-src 'self'").replace(
        "media-src &#39;self&#39;", "media-src 'self'"
    )
    text = text.replace("img-src 'self'", f"img-src {origin}").replace("media-src 'self'", f"media-src {origin}")
    note = f"<p>Links of this copy hold until {html.escape(expires)}.</p>"
    text = re.sub(r"(<body[^>]*>)", rf"\g<1>{note}", text, count=1)
    return LINK.sub(partial(_signed, store, address), text)


def _signed(store: "Store", address: Callable[[str], str], link: "re.Match[str]") -> str:
    """Return a link of a page with a signed address in its place."""
    in_tag = not link["before"].startswith('"')
    relative = link["address"].removeprefix("../") if link["address"].startswith("../") else f"report/{link['address']}"
    url = address(store.path(unquote(html.unescape(relative) if in_tag else relative)))
    return link["before"] + (html.escape(url) if in_tag else url)
