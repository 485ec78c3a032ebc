"""The page: one HTML file with its style and script inside, that asks no network for anything.

Text from metadata is data. The template escapes all of it, and the page's Content-Security-Policy allows one style and
one script by their hashes, and pictures and sound from beside the page: a tag that slipped through would do nothing.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
from markupsafe import Markup

from stages.report.clips import ClipView, minutes
from stages.report.codecs import CodecView
from stages.report.contents import CheckpointView, TableSize
from stages.report.findings import Bar, Finding
from stages.report.score_card import Card

HERE = Path(__file__).parent

PLAYERS = 240
"""Cards whose player is in the page from the start. A browser takes a millisecond and more to set up each, so further
cards hold a link to the clip, which the script turns into a player once the card is shown."""

CLIPS_AT_FIRST = 48
"""Cards that are shown before the reader asks for more; without a script all are."""


@dataclass(frozen=True)
class Page:
    """Holds everything that the page says."""

    title: str
    summary: Sequence[tuple[str, str]]
    findings: Sequence[Finding]
    bars: Sequence[Bar]
    cards: Sequence[Card]
    clips: Sequence[ClipView]
    codec: CodecView | None
    """None where the store trained none."""
    checkpoints: Sequence[CheckpointView]
    tables: Sequence[TableSize]
    notes: Sequence[str]


def render_page(page: Page) -> bytes:
    """Render the page as UTF-8 HTML."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(bytes=_byte_size, attributes=_attributes)
    style, script = (HERE / "page.css").read_text(), (HERE / "page.js").read_text()
    policy = (
        f"default-src 'none'; style-src 'sha256-{_hash(style)}'; script-src 'sha256-{_hash(script)}'; "
        "img-src 'self' file:; media-src 'self' file:; base-uri 'none'; form-action 'none'"
    )
    text = environment.get_template("page.html").render(
        page=page,
        policy=policy,
        style=Markup(style),
        script=Markup(script),
        at_first=CLIPS_AT_FIRST,
        players=PLAYERS,
        minutes=minutes,
    )
    # A lone surrogate, which broken file names bring, has no UTF-8 form.
    return text.encode("utf-8", "replace")


def _hash(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _byte_size(size: int) -> str:
    value = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"


def _attributes(values: Mapping[str, float]) -> Markup:
    """Write `data-…` attributes of sort keys; the names are this project's own, the values numbers."""
    return Markup(" ").join(Markup('data-{}="{}"').format(name, f"{value:g}") for name, value in values.items())
