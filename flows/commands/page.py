"""`segue page`: serve the page and sounds of any store on the loopback interface, or write it with signed links.

A page in a private bucket cannot be opened by its address, because each file beside it would need a signed address of
its own. So either this program fetches the files for a browser on this machine, or it writes a copy of the page in
which every link is signed for some hours.
"""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import unquote, urlsplit

import typer

from flows.commands.options import StoreOption, UsageError, existing_store
from flows.console import say, tell

if TYPE_CHECKING:
    from schemas.storage.store import Store

app = typer.Typer()

LINK = re.compile(
    r'(?P<before>(?:src|href)="|"(?:audio|picture)":")(?P<address>(?:\.\./|pictures/|excerpts/)[^"]+)(?=")'
)
"""Links from a page to files of its store, in its tags and in its data."""

LONGEST_HOURS = 7 * 24
"""The longest validity of a signature in hours: S3's signatures (version 4) are valid for at most seven days."""


@app.command()
def page(
    store: StoreOption = None,
    port: Annotated[int, typer.Option(help="The port on the loopback interface; 0 picks a free one.")] = 0,
    signed: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write a bucket's page with signed links instead of serving it."),
    ] = None,
    hours: Annotated[
        float, typer.Option(min=0.01, max=LONGEST_HOURS, help="How long the links of --signed are valid, in hours.")
    ] = 24.0,
) -> int:
    """Serve a store's page and clips to a browser on this machine, or write the page with signed links."""
    from flows.commands.page_server import HOST, serve
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
        say(f"{signed} is written; whoever has it can see and hear the catalog until {expires}")
        return 0
    server = serve(opened, port)
    say(f"http://{HOST}:{server.server_address[1]}/{PAGE}  (Ctrl-C ends it)")
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        tell("segue: the page is no longer served")
    finally:
        server.server_close()
    return 0


def signed_page(store: "Store", seconds: int, expires: str) -> str:
    """Return the page of a store in a bucket, as HTML in which every link is signed.

    Args:
        seconds: how long the links are valid.
        expires: when they expire, as text for the page.

    Raises:
        UsageError: the store's filesystem cannot sign links.
    """
    import html

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
    """Return a matched link with a signed address."""
    import html  # its table of names is slow to import, and no other command needs it

    in_tag = not link["before"].startswith('"')
    relative = link["address"].removeprefix("../") if link["address"].startswith("../") else f"report/{link['address']}"
    url = address(store.path(unquote(html.unescape(relative) if in_tag else relative)))
    return link["before"] + (html.escape(url) if in_tag else url)
