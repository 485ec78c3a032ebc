"""The page: an HTML file with its style and scripts inside. It loads nothing from the network.

Text from metadata is data. The template escapes all of it. The page's Content-Security-Policy allows its one style and
its own scripts by their hashes, and pictures and sound from beside the page. So a tag that slipped through would do
nothing.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from stages.report.catalog_data import as_json
from stages.report.clips import ClipView
from stages.report.codecs import CodecView
from stages.report.contents import CheckpointView, TableSize
from stages.report.findings import Bar, Finding
from stages.report.score_card import Card

FOLDER = Path(__file__).parent

SCRIPTS = (
    *("views", "sounds", "catalog", "picks", "player"),
    *("choosing", "drawing", "list", "details", "workbench"),
)
"""The page's scripts in the order in which they stand in it. The first runs in the head; a page without clips needs
only the first two."""

STYLES = ("page", "workbench")
"""The page's style sheets."""

PLAIN_CLIPS = 24
"""How many clips the page shows without scripts, for readers who have them switched off."""


@dataclass(frozen=True)
class Page:
    """Holds everything that the page says."""

    title: str
    summary: Sequence[tuple[str, str]]
    findings: Sequence[Finding]
    bars: Sequence[Bar]
    cards: Sequence[Card]
    clips: Sequence[ClipView]
    facts: Mapping[str, Any]
    """What the scripts must know about the catalog."""
    blocks: Sequence[str]
    """The clips as blocks of JSON, each with a few hundred clips."""
    codec: CodecView | None
    """None if no codec was trained in the store."""
    checkpoints: Sequence[CheckpointView]
    tables: Sequence[TableSize]
    notes: Sequence[str]


def render_page(page: Page) -> bytes:
    """Render the page as UTF-8 HTML."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(bytes=_byte_size)
    style = "".join((FOLDER / f"{name}.css").read_text() for name in STYLES)
    scripts = [(FOLDER / "scripts" / f"{name}.js").read_text() for name in SCRIPTS]
    hashes = " ".join(f"'sha256-{_hash(script)}'" for script in scripts)
    policy = (
        f"default-src 'none'; style-src 'sha256-{_hash(style)}'; script-src {hashes}; "
        "img-src 'self' file:; media-src 'self' file:; base-uri 'none'; form-action 'none'"
    )
    text = environment.get_template("page.html").render(
        page=page,
        policy=policy,
        style=Markup(style),
        scripts=[Markup(script) for script in scripts],
        facts=Markup(as_json(page.facts)),
        blocks=[Markup(block) for block in page.blocks],
        at_first=PLAIN_CLIPS,
    )
    # Broken file names contain lone surrogates, which have no UTF-8 form.
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
