"""The report: a static page of the whole catalog, for listening to clips, comparing and choosing them.

It is always at `report/index.html` of the store and links to the clips where they are. So it opens from a disk, a web
server or a bucket alike, and loads nothing else from the network. Beside it are spectrograms (`pictures/`) and excerpts
of the recordings that clips refer to (`excerpts/`). Both are written before the page; those that the new page no longer
names are removed after it.
"""

import hashlib

import pyarrow as pa
from pydantic import Field

import schemas
from schemas.tables import (
    CHECKPOINTS,
    CLIPS,
    CONTROLS,
    GENERATIONS,
    MEASURES,
    NEAREST,
    ORIGINALITY,
    RECONSTRUCTIONS,
    REPORTS,
    REQUESTS,
    SAMPLES,
    SCORES,
    TRACKS,
    TRAINING,
    VERDICTS,
)
from stages.pipeline.contract import Context, ReduceResult

READS = (
    *(CLIPS, VERDICTS, SCORES, CONTROLS, MEASURES, NEAREST, REQUESTS, GENERATIONS),
    *(CHECKPOINTS, TRAINING, TRACKS, RECONSTRUCTIONS, ORIGINALITY, SAMPLES),
)
OPTIONAL = (CLIPS, REQUESTS, GENERATIONS, VERDICTS, SCORES, CONTROLS, MEASURES, NEAREST, TRACKS, ORIGINALITY)
"""Optional, since a page without clips can still show models and the data that they were trained on."""
WRITES, VERSION = REPORTS, 9

FOLDER, PAGE = "report", "report/index.html"
"""The folder of the page and of all files that it uses, and the page itself, in the store."""


class Config(schemas.Config):
    """What the page says."""

    title: str = Field(default="The catalog", min_length=1, max_length=200)
    """The page's heading."""
    excerpt_seconds: float = Field(default=12.0, ge=0, le=60)
    """Length of the excerpts of melody references, prompts and nearest tracks that lie beside the page, so that they
    can be compared with the clips by ear. Set 0 for none, if the page goes to people who may not have these
    recordings."""


def reduce(config: Config, context: Context, *tables: pa.Table) -> ReduceResult:
    """Make the files beside the page, write the page, then remove the files that it no longer names."""
    from stages.report.attachments import make_attachments, remove_others  # imports torch, which a plan does not need
    from stages.report.catalog_rows import gather_rows
    from stages.report.layout import lay_out
    from stages.report.rendering import render_page
    from stages.report.twins import earlier_clips

    by_name = {table.name: rows for table, rows in zip(READS, tables, strict=True)}
    rows = gather_rows(by_name)
    newest = [row["checkpoint_id"] for row in rows.checkpoints]
    earlier = earlier_clips(context, rows.clips, rows.seeds, newest)
    attachments = make_attachments(context, rows, earlier, config.excerpt_seconds)
    page = lay_out(config.title, context, rows, by_name, earlier, attachments)
    html = render_page(page)
    context.store.write_bytes(PAGE, html)
    remove_others(context.store, attachments)
    row = {
        "report_id": context.identity,
        "path": PAGE,
        "clips": len(page.clips),
        "bytes": len(html),
        "sha256": hashlib.sha256(html).hexdigest(),
    }
    return ReduceResult([row], rejects=[*attachments.clip_rejects, *attachments.codec_rejects])
