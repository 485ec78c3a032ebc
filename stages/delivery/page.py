"""The page of a delivery: one HTML file that lists the clips and plays them, and loads nothing from the network.

It says what a listener should know. Unlike the report, which is for those who train, it says nothing about the training
set. Text is data: the template escapes it, and the page allows one style and one script, by their hashes.
"""

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

import jinja2
from markupsafe import Markup

from schemas.tables import Row

FOLDER = Path(__file__).parent


def render_page(rows: Sequence[Row]) -> bytes:
    """Return the page for a catalog's rows as UTF-8 HTML."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    style, script = (FOLDER / "page.css").read_text(), (FOLDER / "page.js").read_text()
    policy = (
        f"default-src 'none'; style-src 'sha256-{_hash(style)}'; script-src 'sha256-{_hash(script)}'; "
        "media-src 'self' file:; base-uri 'none'; form-action 'none'"
    )
    text = environment.get_template("page.html").render(
        title=f"{len(rows):,} clips",
        rows=[row | {"address": quote(row["file"])} for row in rows],
        policy=policy,
        style=Markup(style),
        script=Markup(script),
    )
    return text.encode("utf-8", "replace")


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
