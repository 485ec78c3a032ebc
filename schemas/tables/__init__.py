"""Every table of the store: its columns, its key, and which of its versions its view shows.

A table lies at `<store>/<table>/version=<fingerprint>/shard=<n>.parquet`. Most tables hold data that stages made; those
in `schemas.tables.records` log what happened.
"""

from schemas.tables.catalog import CLIPS, GENERATIONS, REPORTS, REQUESTS, VERDICTS, WATERMARKS
from schemas.tables.models import CHECKPOINTS, LEARNED, RECONSTRUCTIONS, SAMPLES, TRAINING
from schemas.tables.recordings import (
    CHROMA,
    CLAP,
    DESCRIPTIONS,
    HARMONY,
    PIECES,
    PRINTS,
    RHYTHM,
    TOKENS,
    TRACKS,
    WITHHELD,
)
from schemas.tables.records import CHECKS, PUBLICATIONS, REJECTS, REMARKS, RUNS, TAKEN_DOWN, VERSIONS, WEIGHTS
from schemas.tables.scores import CONTROLS, MEASURES, NEAREST, ORIGINALITY, SCORES
from schemas.tables.table import FileColumns, Row, Table, selected

TABLES: dict[str, Table] = {
    table.name: table
    for table in (
        *(TRACKS, WITHHELD, PRINTS, PIECES, CHROMA, RHYTHM, HARMONY, CLAP, DESCRIPTIONS, TOKENS),
        *(CHECKPOINTS, LEARNED, TRAINING, SAMPLES, RECONSTRUCTIONS),
        *(REQUESTS, GENERATIONS, VERDICTS, CLIPS, WATERMARKS),
        *(SCORES, NEAREST, ORIGINALITY, CONTROLS, MEASURES, REPORTS),
        *(WEIGHTS, TAKEN_DOWN, REJECTS, REMARKS, RUNS, CHECKS, VERSIONS, PUBLICATIONS),
    )
}
BESIDE = (WITHHELD, PRINTS, REJECTS, REMARKS)
"""Tables that a stage writes beside its main ones, under the same version. No publication lists them."""
PUBLISHED: dict[str, Table] = {
    name: table for name, table in TABLES.items() if not table.accumulates and table not in BESIDE
}
"""Tables of derived rows, whose views show what was published last."""

__all__ = [
    "BESIDE",
    "CHECKPOINTS",
    "CHECKS",
    "CHROMA",
    "CLAP",
    "CLIPS",
    "CONTROLS",
    "DESCRIPTIONS",
    "GENERATIONS",
    "HARMONY",
    "LEARNED",
    "MEASURES",
    "NEAREST",
    "ORIGINALITY",
    "PIECES",
    "PRINTS",
    "PUBLICATIONS",
    "PUBLISHED",
    "RECONSTRUCTIONS",
    "REJECTS",
    "REMARKS",
    "REPORTS",
    "REQUESTS",
    "RHYTHM",
    "RUNS",
    "SAMPLES",
    "SCORES",
    "TABLES",
    "TAKEN_DOWN",
    "TOKENS",
    "TRACKS",
    "TRAINING",
    "VERDICTS",
    "VERSIONS",
    "WATERMARKS",
    "WEIGHTS",
    "WITHHELD",
    "FileColumns",
    "Row",
    "Table",
    "selected",
]
